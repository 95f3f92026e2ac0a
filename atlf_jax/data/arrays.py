"""Arrays in files: numpy's, MATLAB's and BART's, with their axes in the order in which their program shows them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from beartype import beartype

from atlf_jax.data.files import whole_file
from atlf_jax.data.hdf5 import hdf5_dataset, open_hdf5
from atlf_jax.data.inputs import FileError, check_memory, load_npy, read_start, reading

__all__ = ["npy_bytes", "read_array", "read_cfl", "write_cfl"]

MATLAB_5, HDF5 = b"MATLAB 5.0 MAT-file", b"\x89HDF\r\n\x1a\n"
_AXES = 16  # of BART, the first four being readout, two phase encodings and coils, and the fourteenth slices


@beartype
def read_array(path: str | Path, name: str = "") -> np.ndarray:
    """Read an array of numbers from a ``.npy``, ``.npz``, ``.mat`` (v5 and v7.3) or HDF5 file.

    A MATLAB array has the axes that MATLAB shows, also of v7.3, which stores them reversed.

    Args:
        path: the file; a ``.npy`` file is not read until its numbers are asked for.
        name: of the array, where a file holds several.

    Returns:
        The array as it is stored; a pair of fields ``real`` and ``imag`` becomes complex.

    Raises:
        FileError: it is another kind of file or damaged, or holds several arrays and none or an unknown one is named.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/scan.npz", kspace=np.ones((2, 3)), mask=np.ones(3))
        ...     read_array(f"{folder}/scan.npz", "kspace").shape
        (2, 3)
    """
    path = Path(path)
    if path.suffix == ".npy":
        return load_npy(path)
    if path.suffix == ".npz":
        return _from_npz(path, name)
    start = read_start(path, 520, "a file of arrays")
    if start.startswith(MATLAB_5):
        return _from_matlab_5(path, name)
    if start.startswith(HDF5) or start[512:520] == HDF5:
        return _from_hdf5(path, name)
    raise FileError(
        path, "is neither MATLAB nor HDF5", "save it by save(..., '-v7.3') in MATLAB, or as .npy by numpy.save"
    )


@beartype
def read_cfl(path: str | Path) -> np.ndarray:
    """Open a BART file, ``NAME.cfl`` with ``NAME.hdr`` beside it; it is not read until its numbers are asked for.

    Args:
        path: with or without the ending.

    Returns:
        complex64 of 16 axes, in BART's order: readout, two phase encodings, coils, ...

    Raises:
        FileError: one of the two files is missing, or they do not fit each other.
    """
    path = Path(path)
    data, header = path.with_suffix(".cfl"), path.with_suffix(".hdr")
    with reading(header, "a BART header", "wanted NAME.cfl with NAME.hdr beside it"):
        lines = header.read_text(errors="replace").splitlines()
        sides = tuple(int(side) for side in lines[lines.index("# Dimensions") + 1].split())
        if not sides or min(sides) < 1:
            raise FileError(header, f"has dimensions {sides}", "wanted positive numbers")
    with reading(data, "a BART array", "wanted NAME.cfl with NAME.hdr beside it"):
        size = 8 * int(np.prod(sides, dtype=object))
        if data.stat().st_size != size:
            raise FileError(data, f"has {data.stat().st_size} bytes where its header tells of {size}", "copy it again")
        sides += (1,) * (_AXES - len(sides))
        return np.memmap(data, np.dtype("<c8"), "r", shape=sides, order="F")


@beartype
def write_cfl(path: str | Path, array: np.ndarray) -> None:
    """Write an array as a BART file, ``NAME.cfl`` and ``NAME.hdr``.

    Args:
        path: with or without the ending.
        array: in BART's order of axes, at most 16.

    Raises:
        NotWritten: one of the two cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_cfl(f"{folder}/k", np.ones((3, 2)))
        ...     read_cfl(f"{folder}/k").shape[:3]
        (3, 2, 1)
    """
    path = Path(path)
    sides = " ".join(map(str, array.shape + (1,) * (_AXES - array.ndim)))
    with whole_file(path.with_suffix(".cfl")) as partial:
        partial.write_bytes(np.asarray(array, "<c8").tobytes(order="F"))
    with whole_file(path.with_suffix(".hdr")) as partial:
        partial.write_text(f"# Dimensions\n{sides}\n")


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as a ``.npy`` file.

    Example:
        >>> np.load(io.BytesIO(npy_bytes(np.arange(3)))).tolist()
        [0, 1, 2]
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _from_npz(path: Path, name: str) -> np.ndarray:
    with reading(path, "an .npz archive", "save it again with numpy.savez"), np.load(path, allow_pickle=False) as file:
        chosen = _named(path, {key: file.zip.getinfo(f"{key}.npy").file_size for key in file.files}, name)
        check_memory(path, 2 * file.zip.getinfo(f"{chosen}.npy").file_size, f"the array {chosen}")
        return _numbers(path, chosen, file[chosen])


def _from_matlab_5(path: Path, name: str) -> np.ndarray:
    import scipy.io

    with reading(path, "a MATLAB file", "save it again in MATLAB"):
        sizes = {
            key: int(np.prod(shape)) for key, shape, kind in scipy.io.whosmat(path) if kind not in ("char", "cell")
        }
        chosen = _named(path, sizes, name)
        check_memory(path, 16 * sizes[chosen], f"the array {chosen}")
        return _numbers(path, chosen, scipy.io.loadmat(path, variable_names=[chosen])[chosen])


def _from_hdf5(path: Path, name: str) -> np.ndarray:
    with open_hdf5(path) as file, reading(path, "a HDF5 file"):
        sizes = {key: file[key].size for key in file if hasattr(file[key], "dtype") and file[key].dtype.kind in "iufcV"}
        chosen = _named(path, sizes, name)
        dataset = hdf5_dataset(file, chosen, path)
        check_memory(path, 2 * dataset.nbytes, f"the array {chosen}")
        array = _numbers(path, chosen, dataset[()])
        return array.transpose() if "MATLAB_class" in dataset.attrs else array


def _named(path: Path, sizes: dict[str, int], name: str) -> str:
    """Return the array that is meant: the one that is named, or the only one, scalars aside."""
    if name in sizes:
        return name
    arrays = [key for key, size in sizes.items() if size > 1]
    if name or not arrays:
        raise FileError(path, f"holds no array {name or 'of numbers'}", f"there are {', '.join(sizes) or 'none'}")
    if len(arrays) > 1:
        raise FileError(path, f"holds {len(arrays)} arrays ({', '.join(arrays[:8])})", "name one with --kspace.name")
    return arrays[0]


def _numbers(path: Path, name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.names and {*array.dtype.names} == {"real", "imag"}:
        array = array["real"] + 1j * array["imag"]
    if array.dtype.kind not in "biufc":
        raise FileError(path, f"holds {array.dtype} and no numbers in {name}", "save a plain array")
    return array
