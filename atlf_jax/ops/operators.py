"""The acquisition operator A = M F S, its adjoint and its norm; coil maps.

Images are ``[*b, h, w]``. Masks are ``[*#b, 1|h, w]`` and never carry a coil axis. k-space is ``[*b, h, w]``, or
``[*b, c, h, w]`` when coil maps ``[*#b, c, h, w]`` are given.
"""

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Complex, Float, Key, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.ops.complex import rss
from atlf_jax.ops.fourier import fft2c, ifft2c

__all__ = ["adjoint", "birdcage_maps", "check_ranks", "forward", "normal", "normalise_maps", "operator_norm"]


def check_ranks(mask: Array, image_rank: int, coil_maps: Array | None = None) -> None:
    """Refuse arguments that would broadcast by rank: ``jnp.where`` escapes JAX's own check."""
    if mask.ndim != image_rank:
        raise ValueError(
            f"got a mask of shape {mask.shape} for images with {image_rank} axes; want the same number of axes "
            "(insert axes of length 1), without a coil axis; where one of these axes is of coils, give their maps too"
        )
    if coil_maps is not None and coil_maps.ndim != image_rank + 1:
        raise ValueError(
            f"got coil maps of shape {coil_maps.shape} for images with {image_rank} axes; "
            "want one axis more, [*b, c, h, w]"
        )


@jaxtyped(typechecker=beartype)
def forward(
    image: Complex[Array, "*b h w"],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
) -> Complex[Array, "*bc h w"]:
    """Measure an image: ``A x = M F (S_c x)``.

    Args:
        image: ``[*b, h, w]``.
        mask: ``[*#b, 1|h, w]``, True = acquired, zero frequency at index ``n // 2``.
        coil_maps: ``[*#b, c, h, w]``, or None for one coil.

    Returns:
        k-space, zero where not acquired: ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.

    Raises:
        ValueError: when the arguments' numbers of axes do not match.

    Example:
        >>> image = jnp.ones((1, 4, 4), jnp.complex64)
        >>> forward(image, jnp.ones((1, 1, 4), bool)).shape
        (1, 4, 4)
    """
    check_ranks(mask, image.ndim, coil_maps)
    if coil_maps is None:
        return jnp.where(mask, fft2c(image), 0)
    coil_images = coil_maps * image[..., None, :, :]  # [*b c h w]
    return jnp.where(mask[..., None, :, :], fft2c(coil_images), 0)


@jaxtyped(typechecker=beartype)
def adjoint(
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
) -> Complex[Array, "*b h w"]:
    """Apply the adjoint, ``A^H y = sum_c conj(S_c) F^H (M y_c)``: the zero-filled reconstruction.

    Args:
        kspace: ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``; what lies off the mask is ignored.
        mask: ``[*#b, 1|h, w]``.
        coil_maps: ``[*#b, c, h, w]``, or None for one coil.

    Returns:
        Images, ``[*b, h, w]``.

    Raises:
        ValueError: when the arguments' numbers of axes do not match.

    Example:
        >>> centre_alone = jnp.array([[False, False, True, False]])
        >>> adjoint(jnp.full((1, 4), 2 + 0j), centre_alone).real.round(4).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """
    if coil_maps is None:
        check_ranks(mask, kspace.ndim)
        return ifft2c(jnp.where(mask, kspace, 0))
    check_ranks(mask, kspace.ndim - 1, coil_maps)
    coil_images = ifft2c(jnp.where(mask[..., None, :, :], kspace, 0))  # [*b c h w]
    return jnp.sum(coil_maps.conj() * coil_images, axis=-3)


@jaxtyped(typechecker=beartype)
def normal(
    image: Complex[Array, "*b h w"],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
) -> Complex[Array, "*b h w"]:
    """Apply ``A^H A``. With one coil it is a projection; with normalised maps its norm is at most 1.

    Shifts of the image are phases of k-space and cancel, so none is made; and the transform along h cancels under a
    mask of lines.

    Example:
        >>> image, mask = np.arange(8).reshape(2, 4).astype(np.complex64), np.array([[False, True, True, False]])
        >>> projected = normal(image, mask)
        >>> bool(np.allclose(normal(projected, mask), projected, atol=1e-5))
        True
    """
    check_ranks(mask, image.ndim, coil_maps)
    axes = (-1,) if mask.shape[-2] == 1 else (-2, -1)
    sampled = jnp.fft.ifftshift(mask, axes=axes)  # zero frequency at index 0

    def project(image: Array, sampled: Array) -> Array:
        return jnp.fft.ifftn(jnp.where(sampled, jnp.fft.fftn(image, axes=axes), 0), axes=axes)

    if coil_maps is None:
        return project(image, sampled)
    return jnp.sum(coil_maps.conj() * project(coil_maps * image[..., None, :, :], sampled[..., None, :, :]), axis=-3)


@jaxtyped(typechecker=beartype)
def operator_norm(
    key: Key[Array, ""],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
    *,
    shape: tuple[int, ...],
    iterations: int = 30,
) -> Float[Array, "*b"]:
    """Estimate the largest singular value of A by power iteration on ``A^H A``.

    Args:
        key: for the random first vector.
        mask: ``[*#b, 1|h, w]``.
        coil_maps: ``[*#b, c, h, w]``, or None for one coil.
        shape: of the image, ``(*b, h, w)``.
        iterations: of the power method; the estimate approaches the norm from below.

    Returns:
        ``||A||`` for each example, ``[*b]``. Gradient descent on ``||A x - y||^2 / 2`` is stable below ``2 / ||A||^2``.

    Example:
        >>> norm = jax.jit(operator_norm, static_argnames="shape")
        >>> round(float(norm(jax.random.key(0), np.array([[False, True, True, False]]), shape=(4, 4))), 4)
        1.0
    """
    dtype = jnp.complex64 if coil_maps is None else coil_maps.dtype

    def step(_: int, x: Array) -> Array:
        x = normal(x, mask, coil_maps)
        return x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True).astype(dtype)

    x = lax.fori_loop(0, iterations, step, jax.random.normal(key, shape, dtype))
    return jnp.sqrt(jnp.linalg.norm(normal(x, mask, coil_maps), axis=(-2, -1)))


def birdcage_maps(
    shape: tuple[int, int], coils: int, *, radius: float = 1.5, dtype: DTypeLike = jnp.complex64
) -> Complex[Array, "c h w"]:
    """Simulate the receive maps of a birdcage coil, normalised to ``sum_c |S_c|^2 = 1``.

    Args:
        shape: ``(h, w)``.
        coils: number of coils on the circle.
        radius: of the circle of coils, in half field-of-view units.
        dtype: of the result.

    Returns:
        ``[c, h, w]``, complex64.

    Example:
        >>> maps = birdcage_maps((8, 8), 4)
        >>> maps.shape, bool(np.allclose(rss(maps), 1, atol=1e-5))
        ((4, 8, 8), True)

    Source: sigpy ``mri.birdcage_maps`` (two-dimensional case), the same values.
    """
    h, w = shape
    c, y, x = np.ogrid[:coils, :h, :w]
    angle = 2 * np.pi * c / coils
    dx = (x - w / 2) / (w / 2) - radius * np.cos(angle)
    dy = (y - h / 2) / (h / 2) - radius * np.sin(angle)
    maps = np.exp(1j * (np.arctan2(dx, -dy) - angle)) / np.hypot(dx, dy)
    return normalise_maps(jnp.asarray(maps, dtype))


@jaxtyped(typechecker=beartype)
def normalise_maps(coil_maps: Complex[Array, "*b c h w"]) -> Complex[Array, "*b c h w"]:
    """Scale coil maps to ``sum_c |S_c|^2 = 1`` wherever they are not all zero, so that ``||A|| <= 1``.

    Example:
        >>> rss(normalise_maps(jnp.array([3, 4j]).reshape(2, 1, 1))).round(4).tolist()
        [[1.0]]
    """
    norm = rss(coil_maps)[..., None, :, :]  # [*b 1 h w]
    return coil_maps / jnp.where(norm > 0, norm, 1).astype(coil_maps.dtype)
