"""Differences between neighbouring pixels, periodic, and what they say of edges: total variation, guided or plain."""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Inexact, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["across_edges", "differences", "differences_adjoint", "edge_field", "total_variation_gradient"]


@jaxtyped(typechecker=beartype)
def differences(image: Inexact[Array, "*b h w"]) -> Inexact[Array, "*b 2 h w"]:
    """Subtract from each pixel the one before it, along rows and along columns: ``x[i] - x[i - 1]``, periodic.

    Args:
        image: ``[*b, h, w]``, real or complex.

    Returns:
        ``[*b, 2, h, w]``: differences over h, then over w. The norm of this operator is at most ``sqrt(8)``.

    Example:
        >>> differences(jnp.array([[1.0, 4.0]])).tolist()
        [[[0.0, 0.0]], [[-3.0, 3.0]]]

    Source: sigpy ``linop.FiniteDifference``, the same values.
    """
    return jnp.stack([image - jnp.roll(image, 1, axis) for axis in (-2, -1)], axis=-3)


@jaxtyped(typechecker=beartype)
def differences_adjoint(field: Inexact[Array, "*b 2 h w"]) -> Inexact[Array, "*b h w"]:
    """Apply the adjoint of ``differences``, a negative divergence.

    Args:
        field: ``[*b, 2, h, w]``.

    Returns:
        ``[*b, h, w]``.

    Example:
        >>> x, q = jnp.arange(6.0).reshape(2, 3), jnp.arange(12.0).reshape(2, 2, 3)
        >>> float(jnp.vdot(differences(x), q)) == float(jnp.vdot(x, differences_adjoint(q)))
        True
    """
    over_h, over_w = field[..., 0, :, :], field[..., 1, :, :]
    return over_h - jnp.roll(over_h, -1, -2) + over_w - jnp.roll(over_w, -1, -1)


@jaxtyped(typechecker=beartype)
def edge_field(image: Float[Array, "*b h w"], eta: float | Float[Array, ""]) -> Float[Array, "*b 2 h w"]:
    """Return ``xi = D v / sqrt(|D v|^2 + eta^2)``: across an edge, and close to 1 in length where it is strong.

    Args:
        image: v, ``[*b, h, w]``.
        eta: > 0, in units of the image.

    Example:
        >>> print(edge_field(jnp.array([[0.0, 1.0, 1.0, 0.0]]), 0.01)[1].round())
        [[ 0.  1.  0. -1.]]

    Source: Ehrhardt and Betcke 2016, "Multicontrast MRI reconstruction with structure-guided total variation".
    """
    gradient = differences(image)
    return gradient / jnp.sqrt(jnp.sum(gradient**2, axis=-3, keepdims=True) + eta**2)


@jaxtyped(typechecker=beartype)
def across_edges(field: Inexact[Array, "*b 2 h w"], edges: Float[Array, "*b 2 h w"]) -> Inexact[Array, "*b 2 h w"]:
    """Take out of each vector its part along the edge field: ``P q = q - xi <xi, q>``, symmetric, of norm at most 1.

    Args:
        field: q, ``[*b, 2, h, w]``.
        edges: xi, of ``edge_field``; its sign does not matter.

    Example:
        >>> across_edges(jnp.array([[[2.0]], [[3.0]]]), jnp.array([[[0.0]], [[1.0]]])).ravel().tolist()
        [2.0, 0.0]
    """
    edges = edges.astype(field.dtype)
    return field - edges * jnp.sum(edges * field, axis=-3, keepdims=True)


@jaxtyped(typechecker=beartype)
def total_variation_gradient(
    image: Inexact[Array, "*b h w"], edges: Float[Array, "*b 2 h w"], *, smoothing: float
) -> Inexact[Array, "*b h w"]:
    """Return the gradient of smoothed directional total variation, ``D^H P (P D x / sqrt(|P D x|^2 + smoothing^2))``.

    That of ``sum sqrt(|P D x|^2 + smoothing^2)`` over pixels: an edge that the guide shares adds little to it.

    Args:
        image: x, ``[*b, h, w]``.
        edges: of the guide, ``edge_field``; zeros make it isotropic total variation.
        smoothing: > 0, differences of the image that are not counted as edges, in its units.

    Returns:
        ``[*b, h, w]``, in [-4, 4] for real images.

    Example:
        >>> image = jnp.array([[0.0, 1.0, 1.0, 0.0]])
        >>> print(total_variation_gradient(image, jnp.zeros((2, 1, 4)), smoothing=0.01).round(2))
        [[-1.  1.  1. -1.]]
        >>> bool(abs(total_variation_gradient(image, edge_field(image, 0.01), smoothing=0.01)).max() < 0.01)
        True

    Source: Ehrhardt and Betcke 2016, eq. for dTV, smoothed.
    """
    field = across_edges(differences(image), edges)
    length = jnp.sqrt(jnp.sum(field.real**2 + field.imag**2, axis=-3, keepdims=True) + smoothing**2)
    return differences_adjoint(across_edges(field / length.astype(field.dtype), edges))
