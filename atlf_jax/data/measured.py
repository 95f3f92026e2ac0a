"""Which samples of k-space were measured, as its zeros tell where no mask does.

A sample that was measured can be exactly 0: of raw data in whole numbers, .74 % of the samples of a knee are. So single
zeros tell nothing. Empty are whole rows and columns without any other value, in all coils and in the slices looked at,
and of the rest, zeros that hang together over a hundredth of k-space.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Bool

from atlf_jax.data.inputs import FileError

__all__ = ["check_full", "describe_empty", "find_measured", "is_box"]

LARGE = 0.01  # part of k-space over which zeros hang together where they were not measured
MIN_EMPTY = 32  # such zeros, whatever the size of k-space
MOST = 0.25  # part of k-space above which one such area shows sampling point by point: then no zero was measured
SPECKS = 4  # zeros that hang together and are still taken for measured, beside smaller areas


@beartype
def find_measured(read: Callable[[int], np.ndarray], slices: int) -> Bool[np.ndarray, "#h w"]:
    """Find the samples that were measured.

    Args:
        read: gives the k-space of a slice by its index, ``[*c, h, w]``; three slices are looked at.
        slices: how many there are.

    Returns:
        True where a sample was measured, ``[1, w]`` for whole columns and else ``[h, w]``; all True where the slices
        hold nothing but zeros, which tells nothing.

    Example:
        >>> kspace = np.ones((2, 4, 6), complex)
        >>> kspace[..., 1] = 0
        >>> find_measured(kspace.__getitem__, 2)
        array([[ True, False,  True,  True,  True,  True]])
    """
    some = [np.asarray(read(index)) for index in sorted({slices // 4, slices // 2, 3 * slices // 4})]
    zero = np.logical_and.reduce([(samples == 0).all(axis=tuple(range(samples.ndim - 2))) for samples in some])
    if zero.all():
        return np.ones((1, zero.shape[1]), bool)
    lines = zero.all(axis=1, keepdims=True) | zero.all(axis=0, keepdims=True)
    areas, _ = scipy.ndimage.label(zero & ~lines, structure=np.ones((3, 3)))
    sizes = np.bincount(areas.ravel())
    sizes[0] = 0
    if sizes.max(initial=0) >= max(LARGE * zero.size, MIN_EMPTY):
        fewest = 1 if sizes.max() >= MOST * zero.size else SPECKS
        lines = lines | (sizes >= fewest)[areas]
    found = ~lines
    return found[:1] if (found == found[0]).all() else found


@beartype
def is_box(found: Bool[np.ndarray, "#h w"]) -> bool:
    """Return whether all empty samples lie at the edges, as zero filling and partial Fourier leave them.

    Example:
        >>> is_box(np.array([[False, True, True, False]])), is_box(np.array([[True, False, True, True]]))
        (True, False)
    """
    inner = [np.flatnonzero(found.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(places[0], places[-1] + 1) for places in inner)
    return bool(found[rows, columns].all())


@beartype
def check_full(path: str | Path, found: Bool[np.ndarray, "#h w"]) -> None:
    """Refuse k-space with empty samples between others as a truth to train on or to score by.

    Raises:
        FileError: naming the file and how much is empty.
    """
    if not is_box(found):
        raise FileError(
            path, f"is not fully sampled, so it has no truth: {describe_empty(found)}", "leave the file out"
        )


@beartype
def describe_empty(found: Bool[np.ndarray, "#h w"]) -> str:
    """Return how much of k-space is empty, in words.

    Example:
        >>> describe_empty(np.array([[False, True, True, False]]))
        '2 of 4 columns of k-space are empty in all slices and coils that were looked at'
    """
    if len(found) == 1:
        amount = f"{int((~found).sum())} of {found.size} columns"
    else:
        amount = f"{100 * (1 - found.mean()):.1f} % of the samples"
    return f"{amount} of k-space are empty in all slices and coils that were looked at"
