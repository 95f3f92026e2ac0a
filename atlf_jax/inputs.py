"""Check and convert arrays of users: valid ones get exact shapes and dtypes, others raise an error of one sentence.

Functions inside the package require exact shapes and dtypes. Here arrays may be of numpy or JAX, with any byte order,
strides and precision; masks may be ``Mask`` objects or arrays of zeros and ones, and axes of length 1 may be missing.
Under a JAX transformation only shapes and dtypes are checked, since values are not known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlf_jax.array_types import Array

__all__ = [
    "as_complex_images",
    "as_coil_maps",
    "as_ct",
    "as_kspace",
    "as_mask",
    "as_scalar",
    "as_whole_number",
    "is_lazy",
]

LARGEST_VALUE = 1e30  # of a magnitude: squares of larger values overflow in float32


def is_lazy(values: Any) -> bool:
    """Return whether an array is read by index, such as an HDF5 dataset, and is neither a numpy nor a JAX array."""
    shaped = all(hasattr(values, name) for name in ("shape", "ndim", "dtype"))
    return shaped and not isinstance(values, np.ndarray | np.generic | jax.Array)


def as_kspace(values: Any, *, name: str = "k-space") -> Array:
    """Return k-space as complex64 or complex128 in native byte order.

    Args:
        values: complex samples, ``[..., h, w]``.
        name: of the argument, for messages.

    Raises:
        ValueError: real numbers, fewer than two axes, or samples that are not finite.

    Example:
        >>> as_kspace([[1j, 2], [3, 4]]).dtype
        dtype('complex128')
        >>> as_kspace(np.ones((2, 8, 8)))
        Traceback (most recent call last):
        ValueError: k-space is float64 of shape (2, 8, 8), wanted complex numbers; if real and imaginary \
parts are apart, give k[0] + 1j * k[1]
    """
    array = _array(values, name)
    if array.dtype.kind != "c":
        raise ValueError(f"{_described(array, name)}, wanted complex numbers{_parts(array.shape)}")
    _check_images(array, name)
    return _checked(_precision(array), name)


def as_complex_images(values: Any, *, name: str = "image") -> Array:
    """Return images as complex64 or complex128; a real image has zero phase.

    Args:
        values: ``[..., h, w]``, of real or complex numbers.
        name: of the argument, for messages.

    Raises:
        ValueError: not numbers, fewer than two axes, or pixels that are not finite.

    Example:
        >>> as_complex_images(np.ones((2, 2), np.float32)).dtype
        dtype('complex64')
    """
    array = _array(values, name)
    if array.dtype.kind not in "biufc" and not _is_bfloat16(array):
        raise ValueError(f"{_described(array, name)}, wanted numbers")
    _check_images(array, name)
    array = _precision(array)
    if array.dtype.kind != "c":
        array = array.astype(np.complex128 if array.dtype == np.float64 else np.complex64)
    return _checked(array, name)


def as_mask(values: Any, shape: tuple[int, ...] | None = None, *, name: str = "mask") -> Array:
    """Return a mask as booleans with as many axes as the images have.

    Args:
        values: a ``Mask``, or an array of booleans, or of zeros and ones: ``[w]``, ``[1|h, w]`` or ``[..., 1|h, w]``.
        shape: of the images, ``[..., h, w]``; None: neither sides nor axes are compared.
        name: of the argument, for messages.

    Raises:
        ValueError: another shape, other values (probabilities, line numbers, nan), or no sample at all.

    Example:
        >>> as_mask([1, 0, 1, 1], (3, 5, 4)).shape
        (1, 1, 4)
        >>> as_mask(np.arange(4), (4, 4))
        Traceback (most recent call last):
        ValueError: mask holds values from 0 to 3, wanted True or 1 where a sample was acquired and False or \
0 elsewhere; of line numbers make one by mask = np.isin(np.arange(w), lines)
    """
    array = _array(getattr(values, "samples", values), name)  # of a Mask
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{_described(array, name)}, wanted booleans, or zeros and ones")
    if array.ndim == 0:
        raise ValueError(f"{name} is the single value {array}, wanted an array [w], [1, w] or [h, w]")
    if array.ndim == 1:
        array = array[None]
    if shape is not None:
        h, w = shape[-2:]
        array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        batch = shape[:-2]
        fits = array.ndim == len(shape) and array.shape[-1] == w and array.shape[-2] in (1, h)
        if not (fits and all(a in (1, b) for a, b in zip(array.shape[:-2], batch, strict=True))):
            several = f", or one for each of {batch}" if batch else ""
            raise ValueError(f"{name} has shape {np.shape(array)}, wanted [{w}], [1, {w}] or [{h}, {w}]{several}")
    if isinstance(array, jax.core.Tracer):
        return array if array.dtype == bool else array != 0
    known = np.asarray(array)
    if known.dtype != bool:
        if not np.isin(known, (0, 1)).all():
            raise ValueError(
                f"{name} holds values from {known.min():g} to {known.max():g}, wanted True or 1 where a sample was "
                f"acquired and False or 0 elsewhere{_mask_remedy(known)}"
            )
        known = known.astype(bool)
    if not known.any():
        raise ValueError(f"{name} acquires no sample at all; wanted True where a sample was acquired")
    return known


def as_coil_maps(values: Any, kspace_shape: tuple[int, ...], *, name: str = "coil_maps") -> Array:
    """Return coil maps as complex numbers with as many axes as k-space has.

    Args:
        values: ``[c, h, w]``, or ``[..., c, h, w]``.
        kspace_shape: ``[..., c, h, w]``.
        name: of the argument, for messages.

    Raises:
        ValueError: real numbers, another shape, or values that are not finite.

    Example:
        >>> as_coil_maps(np.ones((4, 8, 8), np.complex64), (5, 4, 8, 8)).shape
        (1, 4, 8, 8)
    """
    array = as_kspace(values, name=name)
    array = array.reshape((1,) * (len(kspace_shape) - array.ndim) + array.shape)
    axes = zip(array.shape[:-3], kspace_shape[:-3], strict=False)
    if (
        array.shape[-3:] != kspace_shape[-3:]
        or array.ndim != len(kspace_shape)
        or not all(a in (1, b) for a, b in axes)
    ):
        raise ValueError(
            f"{name} have shape {np.shape(values)}, and k-space {tuple(kspace_shape)}; wanted maps "
            f"{tuple(kspace_shape[-3:])}, for all slices or for each"
        )
    return array


def as_ct(values: Any, *, name: str = "ct") -> Array:
    """Return a CT as float32 or float64: real and finite; its range is checked by ``check_ct_range``.

    Args:
        values: ``[..., h, w]``.
        name: of the argument, for messages.

    Raises:
        ValueError: complex numbers, fewer than two axes, or values that are not finite.

    Example:
        >>> as_ct(np.zeros((4, 4), np.int16)).dtype
        dtype('float32')
    """
    array = _array(values, name)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{_described(array, name)}, wanted a real image, in [0, 1] or in Hounsfield units")
    _check_images(array, name)
    return _checked(_precision(array), name)


def as_scalar(value: Any, name: str, *, least: float | None = None) -> Any:
    """Return a real number as a float, or as it is where it is traced.

    Args:
        value: a number of Python or numpy, or an array of one.
        name: of the argument, for messages.
        least: refuse lower numbers, where the value is known.

    Raises:
        ValueError: it is no single real number, not finite, or too low.

    Example:
        >>> as_scalar(np.float32(0.5), "weight"), as_scalar([3], "weight")
        (0.5, 3.0)
    """
    if isinstance(value, jax.core.Tracer):
        if value.ndim or value.dtype.kind not in "biuf":
            raise ValueError(f"{_described(value, name)}, wanted one real number")
        return value if value.dtype.kind == "f" else value.astype(jnp.float32)
    array = _array(value, name)
    if array.size != 1 or array.dtype.kind not in "biuf" or not np.isfinite(np.asarray(array, float)).all():
        raise ValueError(f"{name} is {value!r:.60}, wanted one real number")
    number = float(np.asarray(array).reshape(()))
    if least is not None and number < least:
        raise ValueError(f"{name} is {number:g}, wanted {least:g} or more")
    return number


def as_whole_number(value: Any, name: str, *, least: int = 1) -> int:
    """Return a whole number as an int.

    Args:
        value: a number of Python or numpy.
        name: of the argument, for messages.
        least: refuse lower numbers.

    Raises:
        ValueError: it is no whole number, or too low.

    Example:
        >>> as_whole_number(3.0, "iterations")
        3
    """
    number = as_scalar(value, name)
    if isinstance(number, jax.core.Tracer) or isinstance(value, bool) or number != round(number) or number < least:
        raise ValueError(f"{name} is {value!r:.60}, wanted a whole number of {least} or more")
    return round(number)


def _array(values: Any, name: str) -> Array:
    """Convert values to an array in native byte order."""
    if isinstance(values, jax.Array):
        return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is a {type(values).__name__} that is no array ({error}), wanted an array") from error
    if array.dtype.kind in "OSUV" and not _is_bfloat16(array):
        raise ValueError(f"{name} is {_kind(values)}, wanted an array of numbers")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _precision(array: Array) -> Array:
    """Convert to single or double precision: widen float16 and integers, narrow extended precision."""
    if array.dtype in (np.float32, np.float64, np.complex64, np.complex128):
        return array
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)


def _checked(array: Array, name: str) -> Array:
    """Refuse values that are not finite, or whose squares overflow."""
    if isinstance(array, jax.core.Tracer):
        return array
    size = np.abs(np.asarray(array))
    if not np.isfinite(size).all():
        raise ValueError(
            f"{name} holds {np.count_nonzero(~np.isfinite(size))} values that are not finite (nan or inf) of "
            f"{size.size}; zero or remove them first"
        )
    if size.max() > LARGEST_VALUE:
        raise ValueError(f"{name} reaches {size.max():.3g}, too large for float32; divide it by a constant first")
    return array


def _check_images(array: Array, name: str) -> None:
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}, wanted at least two axes [h, w] with samples in them")


def _described(array: Array, name: str) -> str:
    return f"{name} is {array.dtype} of shape {array.shape}"


def _kind(values: Any) -> str:
    return f"of type {type(values).__name__}" if values is not None else "None"


def _is_bfloat16(array: Array) -> bool:
    return array.dtype == jnp.bfloat16


def _parts(shape: tuple[int, ...]) -> str:
    """Return advice for real k-space: how to join real and imaginary parts, if an axis of length 2 may hold them."""
    for axis, index in ((-1, "..., "), (-3, None), (0, None)):
        if len(shape) > 2 and -len(shape) <= axis and shape[axis] == 2:
            if axis == -1:
                return f"; if real and imaginary parts are apart, give k[{index}0] + 1j * k[{index}1]"
            before = ":, " * (len(shape) - 3) if axis == -3 else ""
            return f"; if real and imaginary parts are apart, give k[{before}0] + 1j * k[{before}1]"
    return "; magnitudes have lost the phase, without which there is no image"


def _mask_remedy(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "; nan or inf means nothing there"
    if values.min() >= 0 and values.max() <= 1:
        return "; of sampling probabilities draw a mask first, mask = rng.random(p.shape) < p"
    if np.array_equal(values, np.round(values)):
        return "; of line numbers make one by mask = np.isin(np.arange(w), lines)"
    return ""
