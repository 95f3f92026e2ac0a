"""The command line ``python -m atlf_jax.reconstruct``: files in, images and a record of how they came about out."""

import io
import itertools
import json
import logging
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from atlf_jax.data import DataConfig
from atlf_jax.data.fastmri import centre_crop
from atlf_jax.data.files import NotWritten, check_writable
from atlf_jax.data.inputs import FileError
from atlf_jax.masks import MaskConfig
from atlf_jax.models.uncertainty import Calibration
from atlf_jax.models.withheld import Foretold
from atlf_jax.ops import ct_picture
from atlf_jax.program import Incomplete, errors_in_one_line, no_display
from atlf_jax.reconstruct.arrays import (
    CoilMaps,
    Model,
    Network,
    Record,
    Result,
    Settings,
    calibration_sides,
    check_windows,
    load_model,
    solve,
)
from atlf_jax.reconstruct.guards import Placement, foreign, other_windows, untrained
from atlf_jax.reconstruct.scans import (
    HDF5,
    NIFTI,
    CTConfig,
    KSpaceConfig,
    SamplingConfig,
    Scan,
    load_array,
    open_scan,
)

__all__ = ["Arguments", "main", "run"]

PROGRAM = "atlf-reconstruct"
PANELS = (0.25, 0.5, 0.75)  # where along the slices the pictures are taken


@dataclass(frozen=True)
class Arguments:
    """Reconstruct undersampled k-space, or undersample a whole MR volume and reconstruct it."""

    input: str
    """MR volume (NIfTI file or DICOM folder) or k-space (fastMRI .h5, or .npy)."""
    out: str
    """File to write: .nii or .nii.gz, of k-space also .h5. A .json beside it tells how it was made."""
    checkpoint: str = ""
    """Folder of a training run, a packed file, or the name of weights that come with the package."""
    which: Literal["best", "latest"] = "best"
    """Which checkpoint of a run."""
    method: Literal["network", "zero_filled"] = "network"
    """The trained network, or the zero-filled image, which needs no checkpoint."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Drawn where the scan has no mask; the defaults are those that the network was trained with."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Where the mask comes from."""
    ct: CTConfig = field(default_factory=CTConfig)
    """The CT."""
    kspace: KSpaceConfig = field(default_factory=KSpaceConfig)
    """How k-space arrays are read."""
    coils: CoilMaps = "espirit"
    """How coil maps are estimated."""
    noise_covariance: str = ""
    """.npy, [c, c]: whiten the coils with it."""
    virtual_coils: int | None = None
    """Compress to as many coils."""
    hard_consistency: bool = False
    """Put the measured samples back after the network."""
    uncertainty: bool = False
    """Also write STEM_error, the expected absolute error of every pixel; three more reconstructions a slice."""
    check_ct: bool = False
    """Also tell whether the CT helps: how much better the network foretells measured samples that are kept back with it
    than without; two more reconstructions a slice."""
    batch_size: int = 4
    """Slices on the device at a time."""
    panels: bool = False
    """Also write a .png with three slices."""
    overwrite: bool = False
    """Replace files that are there."""
    dry_run: bool = False
    """Check everything, say what would be done, and write nothing."""


def main(argv: list[str] | None = None) -> None:
    """Parse, open, reconstruct, write; on a mistake say so in one line and exit (``program`` lists the codes)."""
    if argv is None and jax.config.jax_compilation_cache_dir is None:  # as train.py and evaluate.py have it
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "atlf_jax"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every restore
    with errors_in_one_line(PROGRAM):
        run(parse(argv))


def parse(argv: list[str] | None = None) -> Arguments:
    """Return what the command line asks for; masks are by default those that the network was trained with."""
    argv = list(sys.argv[1:] if argv is None else argv)
    default = Arguments(input=tyro.MISSING, out=tyro.MISSING)
    places = [next_ for flag, next_ in itertools.pairwise([*argv, ""]) if flag == "--checkpoint"]
    places += [text.partition("=")[2] for text in argv if text.startswith("--checkpoint=")]
    if places and places[-1]:
        trained = _trained(places[-1])
        from atlf_jax.config import from_dict

        default = replace(default, mask=from_dict(MaskConfig, trained["config"]["mask"]))
        windows = from_dict(DataConfig, trained["config"]["data"]).ct_windows
        if windows:
            default = replace(default, ct=CTConfig(window=windows[0] if len(windows) == 1 else windows))
    return tyro.cli(Annotated[Arguments, tyro.conf.PositionalRequiredArgs], prog=PROGRAM, args=argv, default=default)


def run(arguments: Arguments) -> dict[str, Any]:
    """Reconstruct what the arguments name, write the files, and return the record beside them."""
    console = Console(stderr=True)
    out, side_files = _outputs(arguments)
    scan = open_scan(
        arguments.input,
        mask=arguments.mask,
        sampling=arguments.sampling,
        kspace=arguments.kspace,
        ct=arguments.ct,
    )
    settings, settings_facts = _settings(arguments, scan)
    model, model_facts = _model(arguments)
    check_windows(model, arguments.ct.windows)
    if arguments.uncertainty:
        calibration = _calibration(arguments)
        settings = replace(settings, error_scale=calibration.scale)
        model_facts |= {"uncertainty": calibration._asdict()}
    if arguments.check_ct:
        _check_ct(arguments, model, scan)
        settings = replace(settings, check_ct=True)
    facts = _facts(scan) | {
        "model": model_facts,
        "coils": settings_facts,
        "warnings": [*scan.warnings, *_warnings(model, scan)],
    }
    for line in _plan(facts, scan, [out, *side_files.values()]):
        console.print(line, highlight=False, soft_wrap=True)
    _warn(console, facts["warnings"])
    if arguments.dry_run:
        console.print("dry run: nothing was written", highlight=False)
        return facts
    size = 4 * len(scan) * math.prod(scan.finish(np.zeros(scan.shape, np.complex64)).shape)  # bytes of float32
    check_writable(out, size=size // 4 if out.name.endswith(".gz") else size)  # noise packs worse than that
    with _staged(out) as folder:
        study = _Study(scan, settings, model, console, folder, keep_panels=arguments.panels)
        with closing(study.images()) as images:  # ends the progress bar before an error is told
            scan.write(folder / out.name, images)
        of_the_ct = study.placement.warnings() + study.harm()
        facts["warnings"] += of_the_ct
        facts |= study.facts() | {"versions": _versions()}
        (folder / out.name).replace(out)
        failures = _write_beside(
            side_files,
            folder,
            {
                "json": lambda file: file.write_text(json.dumps(facts, indent=1) + "\n"),
                "error": lambda file: scan.write(file, study.errors),
                "png": lambda file: file.write_bytes(_panels(scan, study.panels)),
            },
        )
    _warn(console, of_the_ct)
    if study.foretold.gain > 0:
        told = f"with the CT, samples that were kept back are foretold {study.foretold.gain:.2f} dB better"
        console.print(told, highlight=False)
    console.print(
        f"{out}: data-consistency residual {facts['data_consistency_residual']:.3g}, {facts['seconds']['total']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if failures:
        raise Incomplete(f"{out} is written, but {', and '.join(failures)}")
    return facts


class _Study:
    """One pass over the slices: images as they come, and what is gathered on the way."""

    def __init__(
        self,
        scan: Scan,
        settings: Settings,
        model: Model | None,
        console: Console,
        folder: Path,
        *,
        keep_panels: bool,
    ) -> None:
        self._scan, self._settings, self._model, self._console = scan, settings, model, console
        self._wanted = {int(part * (len(scan) - 1) + 0.5) for part in PANELS} if keep_panels else set()
        self._misfit = self._energy = self._worst = self._total = self._first = 0.0
        self._folder = folder
        self.panels: dict[int, tuple[Record, Result]] = {}
        self.placement = Placement()
        self.foretold = Foretold(np.zeros(()), np.zeros(()))
        self.errors: np.ndarray | None = None  # on disk: memory does not grow with the slices

    def images(self) -> Iterator[np.ndarray]:
        """Yield one finished image for each slice.

        Raises:
            ValueError: no slice had a sample other than 0.
        """
        scan, start = self._scan, time.perf_counter()
        columns = (TextColumn("slices"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("slices", total=len(scan))
            records = (scan[index] for index in range(len(scan)))
            for index, result in enumerate(solve(records, self._settings, self._model, self.placement)):
                self._first = self._first or time.perf_counter() - start
                self._misfit += result.misfit
                self._energy += result.energy
                if result.energy:
                    self._worst = max(self._worst, math.sqrt(result.misfit / result.energy))
                if index in self._wanted:
                    self.panels[index] = (scan[index], result)
                if result.foretold is not None:
                    self.foretold = Foretold(*(a + b for a, b in zip(self.foretold, result.foretold, strict=True)))
                if result.error is not None:
                    self._keep(index, scan.finish(result.error.astype(np.complex64)))
                yield scan.finish(result.image).astype(np.float32)
                progress.advance(task)
        if self._energy == 0:
            raise ValueError("k-space is zero at every sample that the mask acquires; is the mask the right one?")
        self._total = time.perf_counter() - start

    def _keep(self, index: int, error: np.ndarray) -> None:
        if self.errors is None:
            shape = (len(self._scan), *error.shape)
            self.errors = np.lib.format.open_memmap(self._folder / "errors.npy", "w+", np.float32, shape)
        self.errors[index] = error

    def harm(self) -> list[str]:
        """Say it where the CT was asked about and does not help."""
        gain = self.foretold.gain
        if not self._settings.check_ct or gain > 0:
            return []
        if math.isnan(gain):
            return ["whether the CT helps is not known: no sample outside the middle of k-space could be kept back"]
        return [
            f"the CT does not help: with it, samples that were kept back are foretold {abs(gain):.2f} dB worse than "
            "without; register it to the MR, or leave it out"
        ]

    def facts(self) -> dict[str, Any]:
        """Return residual, timing and, where asked for, what the CT brings."""
        rest = len(self._scan) - self._settings.batch_size
        seconds = {"total": round(self._total, 3), "first_batch": round(self._first, 3)}
        if rest > 0:
            seconds["slice"] = round((self._total - self._first) / rest, 4)
        gain = None if math.isnan(self.foretold.gain) else round(self.foretold.gain, 3)
        checked = {"ct_gain_on_withheld_samples_db": gain} if self._settings.check_ct else {}
        return checked | {
            "data_consistency_residual": math.sqrt(self._misfit / self._energy),
            "worst_slice_residual": self._worst,
            "seconds": seconds,
        }


def _outputs(arguments: Arguments) -> tuple[Path, dict[str, Path]]:
    """Return the image's file and those beside it, checked before anything is computed."""
    source, out = Path(arguments.input), Path(arguments.out)
    of_volume = source.is_dir() or source.name.endswith(NIFTI)
    endings = NIFTI if of_volume else HDF5 + NIFTI
    ending = next((ending for ending in sorted(endings, key=len, reverse=True) if out.name.endswith(ending)), None)
    if ending is None:
        what = "a volume is written with its place in the patient: " if of_volume else ""
        raise ValueError(f"{out} ends in neither {' nor '.join(endings)}; {what}name it so")
    stem = out.name.removesuffix(ending)
    beside = {"json": out.with_name(f"{stem}.json")}
    if arguments.panels:
        beside["png"] = out.with_name(f"{stem}.png")
    if arguments.uncertainty:
        beside["error"] = out.with_name(f"{stem}_error{ending}")
    for path in (out, *beside.values()):
        if path.exists() and any(path.samefile(given) for given in _given(arguments)):
            raise FileError(path, "is the input or another file that is only read", "write to another file")
        if path.exists() and not arguments.overwrite:
            raise ValueError(f"{path} is there already; choose another name, or replace it with --overwrite")
        check_writable(path)
    return out, beside


def _given(arguments: Arguments) -> Iterator[Path]:
    """Yield the files that are read, those of a DICOM folder one by one."""
    named = (arguments.input, arguments.ct.path, arguments.sampling.file, arguments.kspace.coil_maps)
    for path in map(Path, filter(None, (*named, arguments.noise_covariance, arguments.checkpoint))):
        if path.is_dir():
            yield from (file for file in path.iterdir() if file.is_file())
        elif path.exists():
            yield path


def _write_beside(files: dict[str, Path], folder: Path, writers: dict[str, Callable[[Path], object]]) -> list[str]:
    """Write the files beside the image, which is in its place already; return what is missing, and why."""
    failures = []
    for kind, path in files.items():
        try:
            writers[kind](folder / path.name)
            (folder / path.name).replace(path)
        except Exception as error:  # of a drawing library or a full disk, any: the image stands
            why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{path.name} is missing ({why[:80]})")
    return failures


def _settings(arguments: Arguments, scan: Scan) -> tuple[Settings, dict[str, Any] | None]:
    """Return how slices become images, and what is told of the coils."""
    settings = Settings(hard_consistency=arguments.hard_consistency, batch_size=min(arguments.batch_size, len(scan)))
    if arguments.batch_size < 1:
        raise ValueError(f"--batch_size is {arguments.batch_size}; wanted 1 or more slices")
    if not scan.coils:
        if arguments.noise_covariance or arguments.virtual_coils is not None:
            raise ValueError(f"{arguments.input} has no coil axis: there is nothing to whiten or to compress")
        return settings, None
    if arguments.virtual_coils is not None and not 1 <= arguments.virtual_coils <= scan.coils:
        raise ValueError(f"--virtual_coils is {arguments.virtual_coils}; wanted 1 to {scan.coils}")
    whitening = _whitening(arguments.noise_covariance, scan.coils)
    facts = {"coils": scan.coils, "virtual_coils": arguments.virtual_coils, "whitened": whitening is not None}
    settings = replace(settings, whitening=whitening, virtual_coils=arguments.virtual_coils)
    if arguments.kspace.coil_maps:
        return settings, facts | {"maps": "given"}
    sides = calibration_sides(scan.mask.mask, scan.shape)
    return replace(settings, coils=arguments.coils, calibration=sides), facts | {
        "maps": arguments.coils,
        "calibration": list(sides),
    }


def _whitening(file: str, coils: int) -> np.ndarray | None:
    from atlf_jax.ops import whitening_matrix

    if not file:
        return None
    covariance = load_array(Path(file))
    if covariance.shape != (coils, coils):
        raise ValueError(f"{file} has shape {covariance.shape}; wanted the noise covariance of {coils} coils")
    return whitening_matrix(np.asarray(covariance, np.complex128)).astype(np.complex64)


def _model(arguments: Arguments) -> tuple[Network | None, dict[str, Any]]:
    """Load the network, or None for the zero-filled image; and its line in the record."""
    if arguments.method == "zero_filled":
        return None, {"method": "zero_filled"}
    if not arguments.checkpoint:
        raise ValueError(
            "give a trained network with --checkpoint runs/NAME (a run's folder, a packed file, or the name of weights "
            "that come with the package), or --method zero_filled"
        )
    model = load_model(arguments.checkpoint, which=arguments.which)
    trained = _trained(arguments.checkpoint, arguments.which)
    return model, {
        "method": "network",
        "name": trained["config"]["name"],
        "which": arguments.which,
        "step": trained["step"],
        "trained_mask": trained["config"]["mask"],
        "hard_consistency": arguments.hard_consistency,
    }


def _calibration(arguments: Arguments) -> Calibration:
    """Return what turns the spread of a network's mirror copies into an expected error."""
    from atlf_jax.models.pretrained import calibration_of

    if arguments.method != "network":
        raise ValueError("--uncertainty is of a trained network; leave out --method zero_filled")
    calibration = calibration_of(_trained(arguments.checkpoint, arguments.which))
    if calibration is None:
        raise ValueError(
            f"{arguments.checkpoint} is not calibrated, so it cannot tell its error; fit it by evaluate.py "
            "--uncertainty, pack it by python -m atlf_jax.models.pretrained pack --calibration, and give that file"
        )
    return calibration


def _check_ct(arguments: Arguments, model: Network | None, scan: Scan) -> None:
    """Refuse to ask what a CT brings where there is none, or the network cannot do without."""
    if not scan.has_ct:
        raise ValueError("--check_ct asks whether the CT helps, and there is none; give it with --ct.path")
    if model is None or not model.trained.with_and_without_ct:
        raise ValueError(
            "--check_ct compares a network with itself without the CT, and this one was not trained for both; choose "
            "one that was (with augment.ct_dropout or train.adapters), such as --checkpoint aanlib-best"
        )


def _trained(checkpoint: str, which: Literal["best", "latest"] | None = None) -> dict[str, Any]:
    """Return what is known of a trained network."""
    from atlf_jax.models.pretrained import read_facts  # Orbax takes a second to import

    return read_facts(checkpoint, which)


def _warnings(model: Network | None, scan: Scan) -> list[str]:
    """Say what of the scan the network was never trained for."""
    if model is None:
        return []
    words = untrained(model.trained, scan.mask.mask, shape=scan.shape, coils=scan.coils)
    if scan.has_ct:
        window = scan.facts["ct"]["window"]
        words += other_windows(model.trained, window if isinstance(window, tuple) else (window,))
    return words + foreign(model.trained, raw=scan.facts["input"]["kind"] == "fastMRI file", contrast=scan.contrast)


def _warn(console: Console, warnings: list[str]) -> None:
    for words in warnings:
        console.print(f"warning {words}", highlight=False, soft_wrap=True, style="yellow")


def _facts(scan: Scan) -> dict[str, Any]:
    """Return what is known before the work: input, mask and CT."""
    mask = scan.mask
    numbers = {
        "nominal_acceleration": round(mask.nominal, 4),
        "effective_acceleration": round(mask.effective, 4),
        "conjugate_coverage": round(mask.coverage, 4),
        "hash": mask.hash,
    }
    return scan.facts | {"mask": scan.facts["mask"] | numbers, "ct": scan.facts.get("ct")}


def _plan(facts: dict[str, Any], scan: Scan, files: list[Path]) -> Iterator[str]:
    """Say in a few lines what is done."""
    mask, model, ct, coils = (facts[name] for name in ("mask", "model", "ct", "coils"))
    yield f"input   {facts['input']['kind']}, {len(scan)} slices of {scan.shape[0]}x{scan.shape[1]}"
    yield (
        f"mask    {mask['kind']}, {mask['nominal_acceleration']:g}x nominal, {mask['effective_acceleration']:g}x "
        f"effective, {mask['hash']}"
    )
    if coils:
        yield f"coils   {coils['coils']}, maps: {coils['maps']}"
    yield f"place   {facts['place']}"
    if ct is None:
        yield "ct      none (zeros)"
    else:
        windows = " and ".join(np.atleast_1d(ct["window"]))
        yield f"ct      window {windows}, registration {ct['registration']}"
    trained = f" {model['name']}, {model['which']}, step {model['step']}" if model["method"] == "network" else ""
    yield f"model   {model['method']}{trained}"
    yield f"output  {', '.join(map(str, files))} ({facts['values']})"


class _staged:
    """A folder beside the output where files are made, gone afterwards; they get their place when all are whole."""

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


def _panels(scan: Scan, panels: dict[int, tuple[Record, Result]]) -> bytes:
    """Draw slices as rows and CT, zero-filled image, reconstruction, truth and error as columns; a PNG file."""
    from PIL import Image, ImageDraw

    with no_display():
        from atlf_jax.evaluation.figures import error_picture, picture  # matplotlib's colours

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


def _versions() -> dict[str, str]:
    import atlf_jax

    device = jax.devices()[0]
    return {
        "atlf_jax": atlf_jax.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform} ({device.device_kind})",
    }
