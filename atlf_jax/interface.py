"""The operators for users' arrays: arguments are checked and converted, then the strict operators are called.

The strict operators, for compiled code, are in ``atlf_jax.ops``: they require exact numbers of axes and dtypes.
"""

from typing import Any

from atlf_jax import ops
from atlf_jax.array_types import Array
from atlf_jax.inputs import as_coil_maps, as_complex_images, as_kspace, as_mask

__all__ = ["adjoint", "fft2c", "forward", "ifft2c", "normal"]


def fft2c(image: Any) -> Array:
    """Transform images to k-space, centred and orthonormal: ``ops.fft2c`` for any array.

    Args:
        image: ``[*b, h, w]``, of real or complex numbers.

    Returns:
        k-space ``[*b, h, w]``, complex.

    Raises:
        ValueError: fewer than two axes, or pixels that are not finite.

    Example:
        >>> fft2c([[1.0, 2.0], [3.0, 4.0]]).shape
        (2, 2)
    """
    return ops.fft2c(as_complex_images(image))


def ifft2c(kspace: Any) -> Array:
    """Transform k-space to images, centred and orthonormal: ``ops.ifft2c`` for any array.

    Args:
        kspace: complex ``[*b, h, w]``.

    Returns:
        Images ``[*b, h, w]``, complex.

    Raises:
        ValueError: real numbers, fewer than two axes, or samples that are not finite.

    Example:
        >>> import numpy as np
        >>> image = [[1.0, 2.0], [3.0, 4.0]]
        >>> bool(np.allclose(ifft2c(fft2c(image)), image, atol=1e-5))
        True
    """
    return ops.ifft2c(as_kspace(kspace))


def forward(image: Any, mask: Any, coil_maps: Any = None) -> Array:
    """Measure images, ``A x = M F (S_c x)``: ``ops.forward`` for any arrays.

    Each image is transformed by itself in two dimensions: a volume ``[s, h, w]`` is a stack of slices here.

    Args:
        image: ``[*b, h, w]``; a real picture is an image without phase.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``, zero frequency at index ``n // 2``.
        coil_maps: complex ``[c, h, w]`` or ``[*#b, c, h, w]``, or None for one coil.

    Returns:
        k-space, zero where not acquired: ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a mask of other values than 0 and 1.

    Example:
        >>> forward([[1.0, 2.0], [3.0, 4.0]], [True, True]).shape
        (2, 2)
    """
    return ops.forward(*_of_images(image, mask, coil_maps))


def adjoint(kspace: Any, mask: Any, coil_maps: Any = None) -> Array:
    """Make the zero-filled image, ``A^H y = sum_c conj(S_c) F^H (M y_c)``: ``ops.adjoint`` for any arrays.

    Args:
        kspace: complex ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``; what lies off the mask is ignored.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``.
        coil_maps: complex ``[c, h, w]`` or ``[*#b, c, h, w]``, or None for one coil.

    Returns:
        Images ``[*b, h, w]``.

    Raises:
        ValueError: real k-space, shapes that do not fit, or values that are not finite.

    Example:
        >>> import numpy as np
        >>> image, every_line = [[1.0, 2.0], [3.0, 4.0]], [True, True]
        >>> bool(np.allclose(adjoint(forward(image, every_line), every_line), image, atol=1e-5))
        True
    """
    kspace = as_kspace(kspace)
    if coil_maps is None:
        return ops.adjoint(kspace, as_mask(mask, kspace.shape))
    coil_maps = as_coil_maps(coil_maps, kspace.shape).astype(kspace.dtype)
    return ops.adjoint(kspace, as_mask(mask, kspace.shape[:-3] + kspace.shape[-2:]), coil_maps)


def normal(image: Any, mask: Any, coil_maps: Any = None) -> Array:
    """Apply ``A^H A``: ``ops.normal`` for any arrays.

    Args:
        image: ``[*b, h, w]``, of real or complex numbers.
        mask: as in ``forward``.
        coil_maps: as in ``forward``.

    Returns:
        Images ``[*b, h, w]``.

    Raises:
        ValueError: as in ``forward``.

    Example:
        >>> import numpy as np
        >>> image, mask = [[1.0, 2.0], [3.0, 4.0]], [False, True]
        >>> bool(np.allclose(normal(image, mask), adjoint(forward(image, mask), mask), atol=1e-5))
        True
    """
    return ops.normal(*_of_images(image, mask, coil_maps))


def _of_images(image: Any, mask: Any, coil_maps: Any) -> tuple[Array, Array, Array | None]:
    image = as_complex_images(image)
    mask = as_mask(mask, image.shape)
    if coil_maps is None:
        return image, mask, None
    coil_maps = as_kspace(coil_maps, name="coil_maps")
    sides = image.shape[-2:]
    if coil_maps.ndim < 3 or coil_maps.shape[-2:] != sides:
        raise ValueError(f"coil_maps have shape {coil_maps.shape}, wanted [c, {sides[0]}, {sides[1]}]")
    shape = (*image.shape[:-2], coil_maps.shape[-3], *sides)
    return image, mask, as_coil_maps(coil_maps, shape).astype(image.dtype)
