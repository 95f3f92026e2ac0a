"""Differences between neighbouring pixels, periodic, and their adjoint."""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Inexact, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["differences", "differences_adjoint"]


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
    """
    over_h, over_w = field[..., 0, :, :], field[..., 1, :, :]
    return over_h - jnp.roll(over_h, -1, -2) + over_w - jnp.roll(over_w, -1, -1)
