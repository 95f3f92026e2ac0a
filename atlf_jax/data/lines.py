"""Sort lines of k-space, as scanners store them one acquisition after the other, into slices.

The same steps apply to every format: noise scans give a covariance; navigators, phase correction and dummy scans are
left out; lines measured backwards are flipped; repeated lines are averaged or chosen; partial lines and echoes are
placed by the centre in the header; and the oversampling of the readout is removed.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from beartype import beartype
from jaxtyping import Bool, Complex, Complex64, jaxtyped

from atlf_jax.data.inputs import FileError, check_memory

__all__ = ["Choice", "Encoding", "KSpace", "Line", "remove_oversampling", "sort_lines"]

COUNTERS = ("repetition", "contrast", "phase", "set")  # each volume of a scan has one value of each


class Line(NamedTuple):
    """One readout of all coils."""

    data: Complex64[np.ndarray, "c n"]
    row: int = 0  # phase encoding step, as the scanner counts
    partition: int = 0  # of the second phase encoding, of three-dimensional scans
    slice: int = 0
    average: int = 0
    repetition: int = 0
    contrast: int = 0
    phase: int = 0
    set: int = 0
    centre: int | None = None  # sample of the readout where k = 0; None: the middle
    discard: tuple[int, int] = (0, 0)  # samples at the beginning and the end that are not k-space
    reverse: bool = False
    noise: bool = False
    calibration: bool = False  # a reference line, for the coils alone
    dwell: float = 1.0  # time of a sample; any unit


class Encoding(NamedTuple):
    """Sizes and centres of k-space in the header."""

    readout: int  # samples of a whole readout, oversampled
    lines: int  # phase encoding steps of the whole matrix
    image: tuple[int, int]  # readout and lines of the image
    image_field_of_view: tuple[float, float, float] | None = None  # of the image: readout, lines, slice (or slab), mm
    centre: int | None = None  # phase encoding step of k = 0; None: the middle
    partitions: int = 1
    partition_centre: int | None = None
    separate_calibration: bool = False  # reference lines are a scan of their own, unlike the image's
    noise_bandwidth: float = 1.0  # of the receiver in a noise scan, as a part of its sampling bandwidth


class Choice(NamedTuple):
    """Which volume of a scan; None: the only one."""

    repetition: int | None = None
    contrast: int | None = None
    phase: int | None = None
    set: int | None = None


class KSpace(NamedTuple):
    """k-space of one volume, from any file format."""

    samples: Complex64[np.ndarray, "s *c h w"]  # readout along h, lines along w, zero frequency at n // 2
    mask: Bool[np.ndarray, "#h w"] | None  # True = measured; None: the file does not say
    kind: str  # of the file, in words
    image_shape: tuple[int, int]
    spacing: tuple[float, float, float] | None = None  # mm between rows, columns and slices of the image
    noise_covariance: Complex[np.ndarray, "c c"] | None = None  # of a sample, from a noise scan of the file
    calibration: Complex64[np.ndarray, "s c h w"] | None = None  # of a reference scan of its own, zeros about it
    notes: tuple[str, ...] = ()  # what was done that a reader should know
    bart_axes: tuple[int, int] = (0, 1)  # BART's axes of an image's rows and columns


@beartype
def sort_lines(lines: Iterable[Line], encoding: Encoding, *, path: Any, kind: str, choice: Choice = Choice()) -> KSpace:
    """Sort acquisitions into the k-space of one volume.

    Slices are in the order of their counters. For three-dimensional scans the readout is transformed and its pixels
    become the slices, with lines along w and partitions along h.

    Args:
        lines: in any order.
        encoding: sizes and centres.
        path: the file, for messages.
        kind: of the file, for messages.
        choice: which volume, if there are several.

    Returns:
        k-space, in which repeated lines are averaged, with the facts in the header.

    Raises:
        FileError: there are no lines, several volumes and none chosen, other numbers of coils, or lines off the matrix.

    Example:
        >>> lines = [Line(np.ones((2, 4), np.complex64), row=row) for row in (3, 1, 2)]
        >>> kspace = sort_lines(lines, Encoding(readout=4, lines=4, image=(4, 4)), path="scan", kind="scan")
        >>> kspace.samples.shape, kspace.mask.tolist()
        ((1, 2, 4, 4), [[False, True, True, True]])
    """
    noise: list[Line] = []
    image: list[Line] = []
    for line in lines:
        (noise if line.noise else image).append(line)
    if not image:
        raise FileError(path, "holds no image lines", "is it the right file?")
    image = _of_one_volume(image, choice, path)
    coils = image[0].data.shape[0]
    if any(line.data.shape[0] != coils for line in image):
        raise FileError(path, "has lines of different numbers of coils", "export the measurement again")
    apart = [line for line in image if line.calibration] if encoding.separate_calibration else []
    used = [line for line in image if not (encoding.separate_calibration and line.calibration)]
    if not used:
        raise FileError(path, "holds reference lines alone", "is it the right file?")
    samples, measured, rows, notes = _gridded(used, encoding, path)
    noise_covariance = _covariance(noise, image[0].dwell * encoding.noise_bandwidth, coils)
    if noise_covariance is not None:
        notes += (f"a noise scan of {sum(line.data.shape[1] for line in noise)} samples",)
    calibration = None
    if apart:
        calibration = _gridded(apart, encoding, path, slices=sorted({line.slice for line in used}))[0]
        notes += (f"{len(apart)} lines of a reference scan of its own, for the coil maps alone",)
    readout = encoding.image[0]
    if encoding.readout != readout:
        notes += (f"the readout's oversampling was removed, {encoding.readout} to {readout}",)
    spacing = _spacing(encoding)
    if encoding.partitions > 1:
        if len(samples) > 1:
            raise FileError(path, f"holds {len(samples)} slabs of three-dimensional scans", "export one of them")
        samples = _along_readout(samples, readout)
        calibration = None if calibration is None else _along_readout(calibration, readout)
        return KSpace(
            samples,
            measured[0],
            kind,
            (encoding.partitions, encoding.image[1]),
            spacing,
            noise_covariance,
            calibration,
            notes,
        )
    samples, measured = samples[:, :, 0], measured[:, 0]
    mask = np.logical_and.reduce(measured, axis=0)
    if (measured.any(axis=0) != mask).any():
        notes += ("slices differ in the lines that were measured; those of all are used",)
    if encoding.readout != readout:
        samples = remove_oversampling(samples, readout)
        calibration = None if calibration is None else remove_oversampling(calibration[:, :, 0], readout)
    elif calibration is not None:
        calibration = calibration[:, :, 0]
    mask = mask.reshape(1, -1)
    if rows != (0, encoding.readout):
        mask = mask & _echo(rows, encoding)[:, None]
    samples = np.where(mask, samples, 0).astype(np.complex64)
    return KSpace(samples, mask, kind, encoding.image, spacing, noise_covariance, calibration, notes)


@jaxtyped(typechecker=beartype)
def remove_oversampling(samples: Complex[np.ndarray, "*b h w"], readout: int) -> Complex[np.ndarray, "*b y w"]:
    """Crop the image along h to its central pixels; the noise of a sample does not change.

    Args:
        samples: k-space, readout along h.
        readout: pixels to keep.

    Example:
        >>> remove_oversampling(np.ones((8, 3), complex), 4).shape
        (4, 3)
    """
    shifted = np.fft.ifftshift(samples, axes=-2)
    images = np.fft.fftshift(np.fft.ifft(shifted, axis=-2, norm="ortho"), axes=-2)
    top = samples.shape[-2] // 2 - readout // 2
    kept = np.fft.ifftshift(images[..., top : top + readout, :], axes=-2)
    return np.fft.fftshift(np.fft.fft(kept, axis=-2, norm="ortho"), axes=-2).astype(samples.dtype)


def _of_one_volume(lines: list[Line], choice: Choice, path: Any) -> list[Line]:
    """Return the lines of the chosen volume; refuse several volumes without a choice."""
    for name in COUNTERS:
        values = sorted({getattr(line, name) for line in lines})
        wanted = getattr(choice, name)
        if wanted is None and len(values) > 1:
            raise FileError(
                path,
                f"holds {len(values)} volumes that differ in {name} ({', '.join(map(str, values[:6]))})",
                f"choose one with --kspace.{name}",
            )
        if wanted is not None:
            if wanted not in values:
                raise FileError(path, f"has no {name} {wanted}", f"there are {', '.join(map(str, values[:12]))}")
            lines = [line for line in lines if getattr(line, name) == wanted]
    return lines


def _gridded(
    lines: list[Line], encoding: Encoding, path: Any, slices: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[int, int], tuple[str, ...]]:
    """Return samples ``[s, c, partition, readout, line]``, the lines that were measured ``[s, partition, line]``, and
    the first and last sample of the readout that all of them have.
    """
    slices = slices or sorted({line.slice for line in lines})
    coils, readout = lines[0].data.shape[0], encoding.readout
    shape = (len(slices), coils, encoding.partitions, readout, encoding.lines)
    check_memory(path, 24 * int(np.prod(shape, dtype=object)), f"k-space of {shape}")
    samples = np.zeros(shape, np.complex64)
    count = np.zeros((len(slices), encoding.partitions, encoding.lines), np.int32)
    row_centre = encoding.lines // 2 if encoding.centre is None else encoding.centre
    partition_centre = encoding.partitions // 2 if encoding.partition_centre is None else encoding.partition_centre
    first, last, partial = 0, readout, 0
    for line in lines:
        if line.slice not in slices:
            continue
        before, after = line.discard
        data = line.data[:, before : line.data.shape[1] - after]
        centre = data.shape[1] // 2 if line.centre is None else line.centre - before
        if line.reverse:
            data, centre = data[:, ::-1], data.shape[1] - 1 - centre
        start = readout // 2 - centre
        row = line.row - row_centre + encoding.lines // 2
        partition = line.partition - partition_centre + encoding.partitions // 2
        if not (0 <= row < encoding.lines and 0 <= partition < encoding.partitions):
            raise FileError(
                path,
                f"has line {line.row} of partition {line.partition}, off its matrix of {encoding.lines} lines",
                "export the measurement again",
            )
        if start < 0 or start + data.shape[1] > readout:
            raise FileError(
                path,
                f"has readouts of {data.shape[1]} samples about sample {centre}, longer than its matrix of {readout}",
                "is it a Cartesian scan? for others grid it first (BART nufft)",
            )
        first, last = max(first, start), min(last, start + data.shape[1])
        partial += data.shape[1] < readout
        place = slices.index(line.slice)
        samples[place, :, partition, start : start + data.shape[1], row] += data
        count[place, partition, row] += 1
    samples /= np.maximum(count, 1)[:, None, :, None, :]
    notes = ()
    if count.max() > 1:
        notes += (f"up to {count.max()} acquisitions of a line were averaged",)
    if partial:
        notes += (f"{partial} readouts are partial echoes; what they lack is zero",)
    return samples, count > 0, (first, last), notes


def _covariance(noise: list[Line], dwell: float, coils: int) -> np.ndarray | None:
    """Return the noise covariance of an image sample: noise grows with the bandwidth, 1 / dwell time."""
    noise = [line for line in noise if line.data.shape[0] == coils]
    if not noise:
        return None
    samples = np.concatenate([line.data for line in noise], axis=1).astype(np.complex128)
    if samples.shape[1] < 2 * coils:
        return None
    samples -= samples.mean(axis=1, keepdims=True)
    return samples @ samples.conj().T / (samples.shape[1] - 1) * (noise[0].dwell / dwell)


def _echo(rows: tuple[int, int], encoding: Encoding) -> Bool[np.ndarray, " h"]:
    """Return the samples of the readout that a partial echo has, once its oversampling is removed."""
    ratio, middle = encoding.readout / encoding.image[0], encoding.readout // 2
    place = (np.arange(encoding.image[0]) - encoding.image[0] // 2) * ratio + middle
    return (place >= rows[0]) & (place <= rows[1] - 1)


def _spacing(encoding: Encoding) -> tuple[float, float, float] | None:
    """Return mm between the rows, columns and slices of the image."""
    if encoding.image_field_of_view is None:
        return None
    along, across, through = encoding.image_field_of_view
    along, across = along / encoding.image[0], across / encoding.image[1]
    return (along, across, through) if encoding.partitions == 1 else (through / encoding.partitions, across, along)


def _along_readout(samples: Complex[np.ndarray, "1 c p h w"], readout: int) -> Complex64[np.ndarray, "h c p w"]:
    """Transform the readout, whose central pixels then are slices."""
    shifted = np.fft.ifftshift(samples[0], axes=-2)
    images = np.fft.fftshift(np.fft.ifft(shifted, axis=-2, norm="ortho"), axes=-2)
    start = images.shape[-2] // 2 - readout // 2
    return np.moveaxis(images[..., start : start + readout, :], -2, 0).astype(np.complex64)
