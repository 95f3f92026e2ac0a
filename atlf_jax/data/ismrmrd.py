"""ISMRMRD files: acquisitions in HDF5 with an XML header, read by h5py (the package ismrmrd is not needed)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from beartype import beartype

from atlf_jax.data.hdf5 import hdf5_dataset, open_hdf5
from atlf_jax.data.inputs import FileError, reading
from atlf_jax.data.lines import Choice, Encoding, KSpace, Line, sort_lines

__all__ = ["ismrmrd_group", "read_ismrmrd"]

KIND = "ISMRMRD file"
AT_ONCE = 256  # acquisitions that are read at a time
LARGEST_HEADER = 2**24  # bytes of XML; a scanner's has some ten thousand
_FLAGS = {  # of an acquisition, numbered from 1 in the standard
    "noise": 19,
    "calibration": 20,
    "calibration_and_imaging": 21,
    "reverse": 22,
}
_NO_IMAGE = (23, 24, 26, 27, 28, 29, 30, 31)  # navigators, phase correction, feedback, dummy scans and the like


@beartype
def ismrmrd_group(file: Any) -> str:
    """Return the name of the group of an open HDF5 file that holds ISMRMRD acquisitions; empty if there is none."""
    names = [name for name, value in file.items() if hasattr(value, "keys") and {"xml", "data"} <= {*value}]
    return names[0] if names else ""


@beartype
def read_ismrmrd(path: str | Path, *, choice: Choice = Choice()) -> KSpace:
    """Read the Cartesian k-space of one volume from an ISMRMRD file, of its first encoding.

    Args:
        path: the ``.h5`` file.
        choice: of several repetitions, contrasts, phases of the heart or sets, which.

    Returns:
        k-space with the noise covariance of its noise scan, where it has one.

    Raises:
        FileError: it is no such file, damaged, not Cartesian, or holds several volumes of which none is chosen.

    Source: Inati et al. 2017, and the flags of ``ismrmrd.h``.
    """
    path = Path(path)
    with open_hdf5(path) as file, reading(path, "an ISMRMRD file", "export it again"):
        group = ismrmrd_group(file)
        if not group:
            raise FileError(path, "holds no ISMRMRD acquisitions (a group with xml and data)", "is it the right file?")
        xml = hdf5_dataset(file, f"{group}/xml", path)
        if xml.size != 1:
            raise FileError(path, f"has {xml.size} headers", "wanted one")
        encoding = _encoding(xml[0] if xml.shape else xml[()], path)
        acquisitions = file[f"{group}/data"]
        if {*(acquisitions.dtype.names or ())} < {"head", "data"} or acquisitions.external or acquisitions.is_virtual:
            raise FileError(path, f"has no acquisitions in {group}/data", "export it again")
        return sort_lines(_lines(acquisitions, path), encoding, path=path, kind=KIND, choice=choice)


def _lines(acquisitions: Any, path: Path) -> Iterator[Line]:
    for start in range(0, len(acquisitions), AT_ONCE):
        for head, data in zip(*(acquisitions[start : start + AT_ONCE][name] for name in ("head", "data")), strict=True):
            flags = int(head["flags"])

            def has(bit: int, flags: int = flags) -> bool:
                return bool(flags >> (bit - 1) & 1)

            if any(map(has, _NO_IMAGE)) or (int(head["encoding_space_ref"]) and not has(_FLAGS["noise"])):
                continue
            if int(head["trajectory_dimensions"]) and not has(_FLAGS["noise"]):
                raise FileError(path, "has a trajectory: it is not Cartesian", "grid it first (BART nufft)")
            channels, count = int(head["active_channels"]), int(head["number_of_samples"])
            values = np.asarray(data, np.float32)
            if values.size != 2 * channels * count:
                raise FileError(path, f"has an acquisition of {values.size} numbers, not {2 * channels * count}", "")
            index = head["idx"]
            yield Line(
                data=values.view(np.complex64).reshape(channels, count),
                row=int(index["kspace_encode_step_1"]),
                partition=int(index["kspace_encode_step_2"]),
                slice=int(index["slice"]),
                average=int(index["average"]),
                repetition=int(index["repetition"]),
                contrast=int(index["contrast"]),
                phase=int(index["phase"]),
                set=int(index["set"]),
                centre=int(head["center_sample"]),
                discard=(int(head["discard_pre"]), int(head["discard_post"])),
                reverse=has(_FLAGS["reverse"]),
                noise=has(_FLAGS["noise"]),
                calibration=has(_FLAGS["calibration"]) and not has(_FLAGS["calibration_and_imaging"]),
                dwell=float(head["sample_time_us"]) or 1.0,
            )


def _encoding(text: bytes | str, path: Path) -> Encoding:
    """Return what the first encoding of the header says."""
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) > LARGEST_HEADER or b"<!DOCTYPE" in raw:
        raise FileError(path, "has a header that is too long or defines entities of its own", "export it again")
    root = ElementTree.fromstring(raw)
    for element in root.iter():  # with and without the namespace
        element.tag = element.tag.rpartition("}")[2]
    encoding = root.find("encoding")
    if encoding is None:
        raise FileError(path, "has a header without an encoding", "export it again")

    def number(place: str, default: float | None = None) -> float:
        found = encoding.findtext(place)
        if found is None and default is None:
            raise FileError(path, f"has a header without {place}", "export it again")
        return float(default if found is None else found)  # type: ignore[arg-type]

    trajectory = (encoding.findtext("trajectory") or "cartesian").strip().lower()
    if trajectory not in ("cartesian", "epi"):
        raise FileError(path, f"is of a {trajectory} trajectory, not Cartesian", "grid it first (BART nufft)")
    readout, lines, partitions = (int(number(f"encodedSpace/matrixSize/{axis}")) for axis in "xyz")
    encoded = [number(f"encodedSpace/fieldOfView_mm/{axis}", 0) for axis in "xyz"]
    image = [number(f"reconSpace/fieldOfView_mm/{axis}", 0) for axis in "xyz"]
    sides = (readout, lines)
    if min(*encoded[:2], *image[:2]) > 0:  # the image's matrix may be interpolated: its field of view is not
        sides = (round(readout * min(image[0] / encoded[0], 1)), round(lines * min(image[1] / encoded[1], 1)))
    bandwidth = float(root.findtext("acquisitionSystemInformation/relativeReceiverNoiseBandwidth") or 1)
    mode = (encoding.findtext("parallelImaging/calibrationMode") or "").strip().lower()
    middle = "encodingLimits/kspace_encoding_step_{}/center"
    return Encoding(
        readout=readout,
        lines=lines,
        image=sides,
        image_field_of_view=(image[0], image[1], image[2]) if min(image) > 0 else None,
        centre=int(number(middle.format(1), lines // 2)),
        partitions=partitions,
        partition_centre=int(number(middle.format(2), partitions // 2)),
        separate_calibration=mode in ("separate", "external"),
        noise_bandwidth=bandwidth if 0 < bandwidth <= 1 else 1.0,
    )
