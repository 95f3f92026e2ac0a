"""Read raw k-space from all supported file formats: one function, one record, one table of formats."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from beartype import beartype

from atlf_jax.data.arrays import read_array, read_cfl
from atlf_jax.data.fastmri import check_complex
from atlf_jax.data.hdf5 import open_hdf5
from atlf_jax.data.inputs import FileError
from atlf_jax.data.ismrmrd import ismrmrd_group, read_ismrmrd
from atlf_jax.data.lines import Choice, KSpace
from atlf_jax.data.measured import find_measured
from atlf_jax.data.twix import read_twix

__all__ = ["CONVERTERS", "ENDINGS", "FORMATS", "Format", "format_of", "order_axes", "read_kspace"]

LETTERS = "schw"  # slices, coils, readout (rows), lines (columns)


class Format(NamedTuple):
    """One kind of file."""

    kind: str
    endings: tuple[str, ...]
    read: Callable[..., KSpace]  # path, axes, name and choice


def _array(path: Path, *, axes: str, name: str, choice: Choice) -> KSpace:
    del choice
    samples = read_array(path, name)
    return KSpace(order_axes(samples, axes, path), None, "k-space array", samples.shape[-2:])


def _cfl(path: Path, *, axes: str, name: str, choice: Choice) -> KSpace:
    """Return k-space of a BART file, whose axes are known; lines of zeros count as not measured."""
    del name
    if axes:
        raise FileError(path, "is a BART file, whose axes have an order of their own", "leave out --kspace.axes")
    samples = read_cfl(path)
    for axis, counter, value in ((10, "repetition", choice.repetition), (5, "contrast", choice.contrast)):
        if value is not None:
            if not 0 <= value < samples.shape[axis]:
                raise FileError(
                    path, f"has {samples.shape[axis]} of {counter}", f"wanted a number below it, not {value}"
                )
            samples = np.take(samples, [value], axis)
    others = [axis for axis in range(4, 16) if axis != 13 and samples.shape[axis] > 1]
    if others:
        raise FileError(
            path, f"has {samples.shape[others[0]]} entries along BART's axis {others[0]}", "choose one (bart slice)"
        )
    # readout, line, partition, coil, slice
    samples = samples.reshape(*samples.shape[:4], samples.shape[13], order="F")
    plane = samples.shape[2] > 1
    if plane:
        if samples.shape[4] > 1 or samples.shape[0] > 1:
            raise FileError(
                path,
                "is three-dimensional",
                "transform its readout and make it slices (bart fft -i -u 1, bart transpose)",
            )
        samples = samples.transpose(4, 3, 2, 1, 0)[..., 0]  # a plane of two phase encodings
    else:
        samples = samples[:, :, 0].transpose(3, 2, 0, 1)
    found = find_measured(samples.__getitem__, len(samples))
    samples = samples if samples.shape[1] > 1 else samples[:, 0]
    return KSpace(samples, found, "BART array", samples.shape[-2:], bart_axes=(2, 1) if plane else (0, 1))


def _lines(read: Callable[..., KSpace]) -> Callable[..., KSpace]:
    def opened(path: Path, *, axes: str, name: str, choice: Choice) -> KSpace:
        if axes or name:
            raise FileError(path, "says itself how it is ordered", "leave out --kspace.axes and --kspace.name")
        return read(path, choice=choice)

    return opened


FORMATS: dict[str, Format] = {
    "ismrmrd": Format("ISMRMRD file", (".h5", ".hdf5", ".mrd"), _lines(read_ismrmrd)),
    "twix": Format("Siemens twix file", (".dat",), _lines(read_twix)),
    "bart": Format("BART array", (".cfl", ".hdr"), _cfl),
    "matlab": Format("MATLAB file", (".mat",), _array),
    "hdf5": Format("HDF5 file of arrays", (".h5", ".hdf5"), _array),
    "numpy": Format("numpy array", (".npy", ".npz"), _array),
}

ENDINGS = tuple(dict.fromkeys(itertools.chain.from_iterable(entry.endings for entry in FORMATS.values())))

CONVERTERS = {  # files of k-space that are not read here, and what turns them into one that is
    ".7": ("a GE P-file", "convert it by ge_to_ismrmrd"),
    ".data": ("a Philips .list/.data export", "convert it by philips_to_ismrmrd, or read it by BART or MRecon"),
    ".list": ("a Philips .list/.data export", "convert it by philips_to_ismrmrd, or read it by BART or MRecon"),
    ".raw": ("a raw export (Philips .lab/.raw, Canon)", "convert it by philips_to_ismrmrd"),
    ".lab": ("a Philips .lab/.raw export", "convert it by philips_to_ismrmrd"),
    ".fid": ("a Varian or Bruker fid", "convert it by bruker_to_ismrmrd, or save its array as .npy"),
    ".ra": ("an RA array", "save it as .npy by numpy.save"),
}


@beartype
def format_of(path: str | Path, name: str = "") -> str:
    """Return the key of ``FORMATS`` that a file belongs to, by its ending and its first bytes; "fastmri" for those.

    Args:
        path: the file.
        name: of an array in it; an HDF5 file is then read as a file of arrays.

    Raises:
        FileError: it is of no known format; a converter is named if there is one.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in (".h5", ".hdf5", ".mrd"):
        with open_hdf5(path) as file:
            if ismrmrd_group(file):
                return "ismrmrd"
            return "hdf5" if name and "kspace" not in file else "fastmri"
    for key, entry in FORMATS.items():
        if ending in entry.endings:
            return key
    if ending in CONVERTERS:
        what, remedy = CONVERTERS[ending]
        raise FileError(path, f"is {what}, which is not read", remedy)
    raise FileError(path, f"ends in none of {', '.join(ENDINGS)}", "wanted k-space in one of these")


@beartype
def read_kspace(path: str | Path, *, axes: str = "", name: str = "", choice: Choice = Choice()) -> KSpace:
    """Read raw k-space of one volume from a file of ``FORMATS`` (a fastMRI file: ``data.fastmri.KSpaceFile``).

    Args:
        path: the file.
        axes: of an array, its axes in order: s (slices), c (coils), h (readout, rows), w (lines, columns), such as
            "hwc"; "" = as it is.
        name: of the array, if the file has several.
        choice: which volume of a file of acquisitions.

    Returns:
        k-space with the facts in its file.

    Raises:
        FileError: what is wrong with the file, and what to do.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/k.npy", np.ones((320, 256, 8), np.complex64))
        ...     read_kspace(f"{folder}/k.npy", axes="hwc").samples.shape
        (8, 320, 256)
    """
    path = Path(path)
    key = format_of(path, name)
    if key == "fastmri":
        raise FileError(path, "holds no ISMRMRD acquisitions", "read a fastMRI file by data.fastmri.KSpaceFile")
    found = FORMATS[key].read(path, axes=axes, name=name, choice=choice)
    check_complex(found.samples.dtype, found.samples.shape, str(path))
    return found


@beartype
def order_axes(samples: np.ndarray, axes: str, path: str | Path = "k-space") -> np.ndarray:
    """Reorder axes to slices, coils, rows, columns, without copying.

    Args:
        samples: an array.
        axes: a letter of "schw" for each of its axes, h and w among them; "" = leave it as it is.
        path: for messages.

    Example:
        >>> order_axes(np.zeros((320, 256, 8)), "hwc").shape
        (8, 320, 256)
    """
    if not axes:
        return samples
    if len({*axes}) != len(axes) or not {"h", "w"} <= {*axes} <= {*LETTERS}:
        raise ValueError(
            f"--kspace.axes is {axes!r}; wanted each of the letters s (slices), c (coils), h (readout, rows) and w "
            "(lines, columns) once at most, h and w among them, such as hwc"
        )
    if samples.ndim != len(axes):
        raise FileError(path, f"has shape {samples.shape}, and --kspace.axes {axes} names {len(axes)} axes", "name all")
    return samples.transpose([axes.index(letter) for letter in LETTERS if letter in axes])
