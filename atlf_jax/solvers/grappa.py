"""GRAPPA: missing samples of all coils as a linear combination of their acquired neighbours."""

from typing import Any

import numpy as np
from beartype import beartype
from jaxtyping import Bool, Complex, jaxtyped

from atlf_jax.inputs import as_kspace, as_mask, as_scalar

__all__ = ["grappa"]

ROWS = 5  # samples of the neighbourhood along the readout
WIDEST = 15  # samples of the neighbourhood along the undersampled axes, at most


def grappa(
    kspace: Any,
    mask: Any,
    *,
    calibration: tuple[int, int] | None = None,
    neighbourhood: tuple[int, int] | None = None,
    regularisation: Any = 1e-2,
) -> Complex[np.ndarray, "*b c h w"]:
    """Fill in k-space: each missing sample of each coil is a weighted sum of the acquired samples near it.

    The weights of a pattern of acquired neighbours are fitted to the fully sampled centre, where the missing sample is
    known too: ``argmin_w ||S w - t||^2 + lambda ||w||^2`` with ``lambda = regularisation ||S^H S||_F / n``, n being
    the number of weights. Each pattern has weights of its own, so that lines and points, in any order, are served
    alike.

    Args:
        kspace: complex ``[*b, c, h, w]``.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[*#b, 1|h, w]``.
        calibration: rows and columns of the fully sampled centre; None: the largest that the mask has.
        neighbourhood: rows and columns about a missing sample whose acquired samples are used, two odd numbers; None:
            5 rows, and as many columns as reach two acquired lines (or of points, as many rows and columns as reach
            about as many samples), at most 15.
        regularisation: of the fit, one number >= 0 without units.

    Returns:
        k-space with the measured samples as they were, complex128 where k-space is, else complex64. A sample without
        an acquired neighbour stays 0.

    Raises:
        ValueError: no coil axis, a centre smaller than the neighbourhood, or what cannot be meant (see ``inputs``).

    Example:
        >>> from atlf_jax.ops import birdcage_maps, forward
        >>> mask = np.arange(32) % 2 == 0
        >>> mask[10:22] = True
        >>> image = np.pad(np.ones((16, 16), "c8"), 8)
        >>> full = np.asarray(forward(image, np.ones((1, 32), bool), birdcage_maps((32, 32), 8)))
        >>> filled = grappa(full * mask, mask, regularisation=1e-6)
        >>> bool(np.linalg.norm(filled - full) < 0.02 * np.linalg.norm(full))
        True

    Source: Griswold et al. 2002, with a kernel for each local pattern as in the Python package pygrappa, whose
    definition of the regularisation this is.
    """
    kspace = np.asarray(as_kspace(kspace))
    if kspace.ndim < 3:
        raise ValueError(f"k-space has shape {kspace.shape}, wanted coils [c, h, w]; GRAPPA needs several")
    mask = np.asarray(as_mask(mask, kspace.shape[:-3] + kspace.shape[-2:]))
    regularisation = float(as_scalar(regularisation, "regularisation", least=0))
    batch, image = kspace.shape[:-3], kspace.shape[-2:]
    masks = np.broadcast_to(mask, (*batch, *image)).reshape(-1, *image)
    of_all = kspace.reshape(-1, *kspace.shape[-3:])
    filled = [_fill(*each, calibration, neighbourhood, regularisation) for each in zip(of_all, masks, strict=True)]
    return np.stack(filled).reshape(kspace.shape).astype(kspace.dtype)


@jaxtyped(typechecker=beartype)
def _fill(
    kspace: Complex[np.ndarray, "c h w"],
    mask: Bool[np.ndarray, "h w"],
    calibration: tuple[int, int] | None,
    neighbourhood: tuple[int, int] | None,
    regularisation: float,
) -> Complex[np.ndarray, "c h w"]:
    """Fill in one slice."""
    rows, columns = neighbourhood or default_neighbourhood(mask)
    if rows % 2 == 0 or columns % 2 == 0 or min(rows, columns) < 1:
        raise ValueError(f"neighbourhood is {rows} x {columns}; wanted two odd numbers")
    height, width = calibration or largest_centre(mask)
    if height < rows or width < columns:
        raise ValueError(
            f"the fully sampled centre has {height} x {width} samples, smaller than the neighbourhood of {rows} x "
            f"{columns}; acquire more central lines, or give a smaller neighbourhood"
        )
    coils, h, w = kspace.shape
    top, left = h // 2 - height // 2, w // 2 - width // 2
    centre = kspace[:, top : top + height, left : left + width].astype(np.complex128)
    windows = np.lib.stride_tricks.sliding_window_view(centre, (rows, columns), axis=(1, 2))
    windows = windows.transpose(1, 2, 3, 4, 0).reshape(-1, rows * columns * coils)  # [windows, place and coil]
    gram = windows.conj().T @ windows  # of all places and coils; each pattern takes its part

    edge = ((rows // 2, rows // 2), (columns // 2, columns // 2))
    known = np.pad(mask, edge)
    samples = np.pad(np.where(mask, kspace, 0), ((0, 0), *edge))
    missing = np.argwhere(~mask)
    patterns = np.stack(
        [known[missing[:, 0] + i, missing[:, 1] + j] for i in range(rows) for j in range(columns)], axis=1
    )
    kinds, which = np.unique(np.packbits(patterns, axis=1), axis=0, return_inverse=True)
    middle = (rows // 2 * columns + columns // 2) * coils + np.arange(coils)
    filled = np.where(mask, kspace, 0)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(which.ravel(), minlength=len(kinds)))
    for kind, members in zip(kinds, np.split(order, ends[:-1]) if len(kinds) else (), strict=True):
        places = np.flatnonzero(np.unpackbits(kind, count=rows * columns))
        if not places.size:
            continue
        sources = (places[:, None] * coils + np.arange(coils)).ravel()
        system = gram[np.ix_(sources, sources)]
        strength = regularisation * np.linalg.norm(system) / len(system)
        weights = _solve(system + strength * np.eye(len(system)), gram[np.ix_(sources, middle)])
        at = missing[members]
        rows_of = at[:, 0, None] + places // columns
        columns_of = at[:, 1, None] + places % columns
        near = samples[:, rows_of, columns_of].transpose(1, 2, 0).reshape(len(at), -1)  # [samples, place and coil]
        filled[:, at[:, 0], at[:, 1]] = (near @ weights).T
    return filled


def _solve(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve the normal equations; where they are singular, take the shortest solution."""
    try:
        return np.linalg.solve(system, right)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(system, right, rcond=None)[0]


@jaxtyped(typechecker=beartype)
def largest_centre(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Return rows and columns of the largest fully sampled rectangle about the centre ``n // 2``.

    Example:
        >>> mask = np.zeros((8, 8), bool)
        >>> mask[:, 2:6] = True
        >>> largest_centre(mask)
        (8, 4)
    """
    h, w = mask.shape
    best, width = (0, 0), w
    for height in range(1, h + 1):
        band = mask[h // 2 - height // 2 : h // 2 - height // 2 + height]
        full = np.logical_and.reduce(band, axis=0)
        while width and not full[w // 2 - width // 2 : w // 2 - width // 2 + width].all():
            width -= 1
        if height * width > best[0] * best[1]:
            best = (height, width)
    return best


@jaxtyped(typechecker=beartype)
def default_neighbourhood(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Return rows and columns of the neighbourhood: of lines, two acquired ones are in reach of nearly every line.

    Example:
        >>> lines = np.arange(64) % 4 == 0
        >>> lines[24:40] = True
        >>> default_neighbourhood(np.broadcast_to(lines, (64, 64)).copy())
        (5, 7)
    """
    lines = mask.any(axis=0)
    if (mask == lines).all():
        where = np.flatnonzero(lines)
        distances = np.sort(np.abs(np.flatnonzero(~lines)[:, None] - where), axis=1)[:, : min(2, len(where))]
        reach = int(np.quantile(distances[:, -1], 0.9, method="higher")) if distances.size else 1
        rows, columns = ROWS, 2 * reach + 1
    else:
        acceleration = mask.size / max(int(mask.sum()), 1)
        rows = columns = 2 * int(np.ceil(np.sqrt(2 * acceleration) / 2)) + 1  # some two or more samples in reach
    height, width = largest_centre(mask)
    return tuple(  # type: ignore[return-value]
        max(1, min(side, WIDEST, (room // 2) // 2 * 2 + 1)) for side, room in ((rows, height), (columns, width))
    )
