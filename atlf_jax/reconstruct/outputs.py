"""The files that ``atlf reconstruct`` writes: each whole or not at all."""

import io
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from atlf_jax.data.dicom import is_multiframe
from atlf_jax.data.fastmri import centre_crop
from atlf_jax.data.files import NotWritten, check_writable
from atlf_jax.data.inputs import FileError
from atlf_jax.ops import ct_picture
from atlf_jax.program import VERSION, no_display
from atlf_jax.reconstruct.arguments import Arguments
from atlf_jax.reconstruct.scan import HDF5, NIFTI, Scan
from atlf_jax.reconstruct.scans import is_volume
from atlf_jax.reconstruct.slices import Record, Result

__all__ = ["COMPLEX", "draw_panels", "made_by", "outputs", "staged", "versions", "write_beside"]

COMPLEX = (".cfl", ".npy")  # files that keep the phase


def outputs(arguments: Arguments) -> tuple[Path, dict[str, Path]]:
    """Return the image's file and those beside it, by kind, after checking that they can be written."""
    source, out = Path(arguments.input), Path(arguments.out)
    of_volume = is_volume(source)
    endings = NIFTI if of_volume else HDF5 + NIFTI + COMPLEX
    ending = next((ending for ending in sorted(endings, key=len, reverse=True) if out.name.endswith(ending)), None)
    if ending is None and not out.suffix and of_volume and (source.is_dir() or is_multiframe(source)):
        ending = ""  # a folder with a DICOM series
        if out.exists():
            raise ValueError(f"{out} is there already; a DICOM series is written to a new folder")
    if ending is None:
        what = "a volume is written with its place in the patient: " if of_volume else ""
        raise ValueError(f"{out} ends in neither {' nor '.join(endings)}; {what}name it so")
    stem = out.name.removesuffix(ending)
    beside = {"json": out.with_name(f"{stem}.json")}
    if arguments.panels:
        beside["png"] = out.with_name(f"{stem}.png")
    if arguments.uncertainty:
        beside["error"] = out.with_name(f"{stem}_error{'.npy' if ending == '.cfl' else ending}")
    twins = [out.with_suffix(".hdr")] if ending == ".cfl" else []
    for path in (out, *beside.values(), *twins):
        if path.exists() and any(path.samefile(given) for given in _given(arguments)):
            raise FileError(path, "is the input or another file that is only read", "write to another file")
        if path.exists() and not arguments.overwrite:
            raise ValueError(f"{path} is there already; choose another name, or replace it with --overwrite")
        check_writable(path)
    return out, beside


def _given(arguments: Arguments) -> Iterator[Path]:
    """Yield the files that are read; of a DICOM folder, each file in it."""
    named = (arguments.input, arguments.ct.path, arguments.sampling.file, arguments.kspace.coil_maps)
    for path in map(Path, filter(None, (*named, arguments.noise_covariance, arguments.checkpoint))):
        if path.is_dir():
            yield from (file for file in path.iterdir() if file.is_file())
        elif path.exists():
            yield path


def made_by(facts: dict[str, Any]) -> str:
    """Return a short text on how an image was made, for the header of the image."""
    mask, model = facts["mask"], facts["model"]
    name = f"{model['method']} {model['name']}" if model["method"] == "network" else model["method"]
    return f"undersampled {mask['effective_acceleration']:.3g}x ({mask['kind']}), reconstructed by {name}"


class staged:
    """A temporary folder beside the output: files are made there, and moved to their place when they are complete."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __enter__(self) -> Path:
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self._out.name}.", dir=self._out.parent))
        except OSError as error:
            raise self._refusal(error) from error
        return self._folder

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> NotWritten:
        return NotWritten(
            f"{self._out} cannot be written ({error.strerror or error}); make room, or choose another folder"
        )


def write_beside(files: dict[str, Path], folder: Path, writers: dict[str, Callable[[Path], object]]) -> list[str]:
    """Write the files beside the image, which is in its place already; return a text for each that failed."""
    failures = []
    for kind, path in files.items():
        try:
            writers[kind](folder / path.name)
            (folder / path.name).replace(path)
        except Exception as error:  # of a drawing library or a full disk, any: the image stands
            why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{path.name} is missing ({why[:80]})")
    return failures


def draw_panels(scan: Scan, panels: dict[int, tuple[Record, Result]]) -> bytes:
    """Draw slices as rows, and CT, zero-filled image, reconstruction, truth and error as columns; return a PNG file."""
    from PIL import Image, ImageDraw

    with no_display():
        from atlf_jax.evaluation.pictures import error_picture, picture  # matplotlib's colours

    rows, errors = [], []
    for index, (record, result) in sorted(panels.items()):
        truth, image = scan.truth(index), scan.finish(result.image)
        white = float(np.abs(image if truth is None else truth).max()) or 1.0
        ct = np.asarray(ct_picture(record.ct[None]))[0]
        cells = [] if not scan.has_ct else [("CT", centre_crop(ct, image.shape))]
        cells += [("zero-filled", scan.finish(result.start) / white), ("reconstruction", image / white)]
        if truth is not None:
            cells.append(("truth", truth / white))
            errors.append(np.abs(image - truth) / white)
        rows.append((index, cells))
    limit = float(np.percentile(errors, 99.5)) or 1.0 if errors else 1.0
    height, width = rows[0][1][0][1].shape
    titles = [title for title, _ in rows[0][1]] + ([f"error, 0 to {limit:.2g}"] if errors else [])
    gap, line = 4, 14
    sheet = Image.new("RGB", (len(titles) * (width + gap) - gap, line + len(rows) * (height + line)))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (width + gap), 1), title, fill="white")
    for place, (index, cells) in enumerate(rows):
        top = line + place * (height + line)
        pictures = [picture(np.asarray(values, np.float32)) for _, values in cells]
        pictures += [error_picture(errors[place], limit=limit)] if errors else []
        for column, drawn in enumerate(pictures):
            sheet.paste(drawn.convert("RGB"), (column * (width + gap), top))
        draw.text((0, top + height + 1), f"slice {index}", fill="white")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def versions() -> dict[str, str]:
    device = jax.devices()[0]
    return {
        "atlf_jax": VERSION,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform} ({device.device_kind})",
    }
