"""Siemens twix files (``.dat``), by the package twixtools: each line as the scanner stored it."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from beartype import beartype

from atlf_jax.data.inputs import FileError, reading
from atlf_jax.data.lines import Choice, Encoding, KSpace, Line, sort_lines

__all__ = ["read_twix"]

KIND = "Siemens twix file"
NOISE_BANDWIDTH = 0.793  # as siemens_to_ismrmrd writes it for every scanner
_NO_IMAGE = (
    "ACQEND",
    "SYNCDATA",
    "PHASCOR",
    "RTFEEDBACK",
    "HPFEEDBACK",
    "REFPHASESTABSCAN",
    "PHASESTABSCAN",
    "DUMMYSCAN",
)


@beartype
def read_twix(path: str | Path, *, choice: Choice = Choice()) -> KSpace:
    """Read the Cartesian k-space of one volume from a twix file: of its last measurement, with noise scans of all.

    The lines are read one by one, since the sorted arrays of ``twixtools.map_twix`` can be zeros where lines are not.

    Args:
        path: the ``.dat`` file.
        choice: of several repetitions, echoes, phases of the heart or sets, which.

    Raises:
        FileError: twixtools is missing, or the file is damaged, not Cartesian, or of several volumes.
    """
    path = Path(path)
    try:
        import twixtools
    except ImportError as error:
        raise FileError(
            path, "is a Siemens twix file, and twixtools is not installed", "pip install 'atlf-jax[twix]'"
        ) from error
    with reading(path, "a Siemens twix file"), _silence():
        measurements = twixtools.read_twix(str(path), parse_pmu=False, verbose=False)
        if not measurements or not measurements[-1].get("mdb"):
            raise FileError(path, "holds no measurement", "export it again")
        encoding = _encoding(measurements[-1], path)
        return sort_lines(_lines(measurements), encoding, path=path, kind=KIND, choice=choice)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what twixtools prints, and its progress bar, from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _lines(measurements: list[Any]) -> Iterator[Line]:
    for place, measurement in enumerate(measurements):
        for block in measurement["mdb"]:
            flags = {*block.get_active_flags()}
            noise = "NOISEADJSCAN" in flags
            if flags & {*_NO_IMAGE} or (place < len(measurements) - 1 and not noise):
                continue
            header, count = block.mdh, block.mdh.Counter
            dwell = 1.0
            with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):  # only to scale the noise
                dwell = float(measurement["hdr"]["MeasYaps"]["sRXSPEC"]["alDwellTime"][0]) or 1.0
            yield Line(
                data=np.asarray(block.data, np.complex64),
                row=count.Lin,
                partition=count.Par,
                slice=count.Sli,
                average=count.Ave,
                repetition=count.Rep,
                contrast=count.Eco,
                phase=count.Phs,
                set=count.Set,
                centre=header.CenterCol,
                discard=(header.CutOff.Pre, header.CutOff.Post),
                reverse="REFLECT" in flags,
                noise=noise,
                calibration="PATREFSCAN" in flags and "PATREFANDIMASCAN" not in flags,
                dwell=dwell,
            )


def _encoding(measurement: Any, path: Path) -> Encoding:
    """Return what the protocol says, and the lines where it is silent."""
    meas, protocol = measurement["hdr"].get("Meas", {}), measurement["hdr"].get("MeasYaps", {})

    def number(name: str, default: float = 0) -> float:
        value = meas.get(name)
        return float(value) if isinstance(value, int | float) and value else default

    sampling = protocol.get("sKSpace", {})
    if sampling.get("ucTrajectory", 1) not in (1, 0):
        raise FileError(path, "is not a Cartesian scan", "grid it first (BART nufft)")
    lines = [block for block in measurement["mdb"] if block.is_image_scan()]
    if not lines:
        raise FileError(path, "holds no image lines", "is it the right file?")
    header = lines[0].mdh
    oversampling = number("flReadoutOSFactor", 1)
    readout = round(int(number("iRoFTLength", 0)) or header.SamplesInScan)
    readout = max(readout, max(block.mdh.SamplesInScan for block in lines))
    base = int(sampling.get("lBaseResolution", 0))
    if base and readout < round(base * oversampling):  # a partial echo
        readout = round(base * oversampling)
    matrix = max(int(number("iPEFTLength")), int(number("NoOfFourierLines")), 1 + max(b.mdh.Counter.Lin for b in lines))
    partitions = 1 + max(block.mdh.Counter.Par for block in lines)
    three = partitions > 1
    if three:
        partitions = max(partitions, int(number("i3DFTLength", 1)))
    image = (round(readout / max(oversampling, 1)), min(int(number("NImageLins", matrix)) or matrix, matrix))
    view = (number("ReadFoV"), number("PhaseFoV"))
    slices = protocol.get("sSliceArray", {}).get("asSlice") or [{}]
    thickness = float(slices[0].get("dThickness", 0) or 0)
    return Encoding(
        readout=readout,
        lines=matrix,
        image=image,
        image_field_of_view=(*view, thickness) if min(*view, thickness) > 0 else None,
        centre=int(header.CenterLin),
        partitions=partitions,
        partition_centre=int(header.CenterPar) if three else 0,
        separate_calibration=int(protocol.get("sPat", {}).get("ucRefScanMode", 2)) in (4, 8, 16, 32, 64),
        noise_bandwidth=NOISE_BANDWIDTH,
    )
