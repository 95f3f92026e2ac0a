"""The centred, orthonormal two-dimensional Fourier transform."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Complex, Inexact, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["fft2c", "ifft2c"]

_AXES = (-2, -1)


@jaxtyped(typechecker=beartype)
def fft2c(image: Inexact[Array, "*b h w"]) -> Complex[Array, "*b h w"]:
    """Transform images to k-space, with the zero frequency at index ``n // 2`` of each axis.

    ``k = fftshift(fft2(ifftshift(x), norm="ortho"))`` over the last two axes, for even and odd sizes: unitary, so
    its adjoint is ``ifft2c`` and Parseval's identity holds.

    Args:
        image: ``[*b, h, w]``, real or complex. 16-bit floats come back as complex64: mixed precision stops here.

    Returns:
        k-space, ``[*b, h, w]``, complex64 (complex128 for 64-bit input).

    Example:
        >>> fft2c(jnp.ones((2, 2))).real.tolist()
        [[0.0, 0.0], [0.0, 2.0]]

    Source: the convention of fastMRI (``fft2c``), sigpy (``fft``), MONAI, deepinv and mrpro. Under ``jit`` one
    two-dimensional transform is 1.1 to 1.7 times as fast on CPU as two one-dimensional ones (jax 0.10).
    """
    return _by_rows(_transform)(image)


@jaxtyped(typechecker=beartype)
def ifft2c(kspace: Inexact[Array, "*b h w"]) -> Complex[Array, "*b h w"]:
    """Transform k-space to images: the inverse, and the adjoint, of ``fft2c``.

    ``x = fftshift(ifft2(ifftshift(k), norm="ortho"))``. ``ifftshift`` comes first in both directions: swapping the
    two shifts breaks the inverse for odd sizes.

    Args:
        kspace: ``[*b, h, w]``, the zero frequency at index ``n // 2``.

    Returns:
        Images, ``[*b, h, w]``, complex64 (complex128 for 64-bit input).

    Example:
        >>> image = jnp.arange(15.0).reshape(3, 5)
        >>> bool(jnp.allclose(ifft2c(fft2c(image)), image, atol=1e-5))
        True
    """
    return _by_rows(_inverse_transform)(kspace)


def _transform(image: Array) -> Array:
    return jnp.fft.fftshift(jnp.fft.fft2(jnp.fft.ifftshift(image, axes=_AXES), norm="ortho"), axes=_AXES)


def _inverse_transform(kspace: Array) -> Array:
    return jnp.fft.fftshift(jnp.fft.ifft2(jnp.fft.ifftshift(kspace, axes=_AXES), norm="ortho"), axes=_AXES)


def _by_rows(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Where a batch is split over devices (``jax.set_mesh``), let each transform its own images.

    XLA does not split transforms (jax 0.10 to 0.12): it would gather the batch on every device, and transform all of it
    there.
    """

    def transformed(x: Array) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        automatic = all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)
        if mesh.empty or mesh.size == 1 or not automatic or x.ndim < 3 or x.shape[0] % mesh.size:
            return function(x)
        rows = jax.P(mesh.axis_names)
        return jax.shard_map(function, in_specs=rows, out_specs=rows)(x)

    return transformed
