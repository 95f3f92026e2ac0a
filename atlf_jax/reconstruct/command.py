"""The command ``atlf reconstruct``: from files to images and a record of how they were made."""

import json
import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

from atlf_jax.array_types import Reconstructor
from atlf_jax.config import to_dict
from atlf_jax.data.files import check_writable
from atlf_jax.data.inputs import load_npy
from atlf_jax.program import Incomplete, errors_in_one_line
from atlf_jax.reconstruct.arguments import Arguments, named_network, parse
from atlf_jax.reconstruct.ct_weight import check_ct_weight, choose_ct_weight
from atlf_jax.reconstruct.examine import (
    Examined,
    check_for_ct_check,
    ct_benefit,
    examine,
    judge_images,
    measured_numbers,
    probe_indices,
)
from atlf_jax.reconstruct.judgement import Finding, Judgement
from atlf_jax.reconstruct.methods import METHODS, Solver, choose_regularisation, solver_of
from atlf_jax.reconstruct.outputs import COMPLEX, draw_panels, made_by, outputs, staged, versions, write_beside
from atlf_jax.reconstruct.scan import Scan
from atlf_jax.reconstruct.scans import open_scan
from atlf_jax.reconstruct.slices import (
    SMALLEST_CENTRE,
    Record,
    Result,
    Settings,
    calibration_sides,
    reconstruct_records,
    too_small_a_centre,
)
from atlf_jax.trained.guards import Placement, unseen_sampling, unseen_scan_kind, unseen_windows
from atlf_jax.trained.network import Network, check_takes_ct, check_windows, error_scale, load
from atlf_jax.trained.withheld import WithheldErrors

__all__ = ["Arguments", "main", "run"]

RAW_FORMATS = ("fastMRI file", "ISMRMRD file", "Siemens twix file")
_RULES = {  # how the record of a regularisation is printed
    "given": "given",
    "withheld": "chosen by withheld samples",
    "discrepancy": "chosen by the discrepancy principle",
}
PANELS = (0.25, 0.5, 0.75)  # relative positions of the slices in the picture


def main(argv: Sequence[str], program: str = "atlf reconstruct") -> None:
    """Run the command; an invalid argument or input ends it with one line on stderr and an exit code (``program``)."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every restore
    with errors_in_one_line(program):
        network = named_network(argv)
        run(parse(argv, network, program=program), network)


def run(arguments: Arguments, network: Network | None = None) -> dict[str, Any]:
    """Reconstruct the input, write the files, and return the record that is written beside the image.

    Args:
        arguments: as returned by ``parse``.
        network: the one that the arguments name; it is loaded here if it is not given.
    """
    console = Console(stderr=True)
    out, side_files = outputs(arguments)
    scan = open_scan(
        arguments.input,
        mask=arguments.mask,
        sampling=arguments.sampling,
        kspace=arguments.kspace,
        ct=arguments.ct,
        series=arguments.series,
        volume=arguments.volume,
    )
    model, settings, facts = _configure(arguments, network, scan)
    if out.suffix in COMPLEX:
        facts["values"] = "complex"
    for line in _plan(facts, scan, [out, *side_files.values()]):
        _print(console, line)

    probes = [scan[index] for index in probe_indices(len(scan))]
    examined = examine(probes, settings, model)
    findings = [Finding("empty lines", "doubtful", reason, "") for reason in scan.warnings]
    findings += _never_trained(model, scan, settings) + examined.findings
    judgement = Judgement(tuple(findings))
    facts["judgement"] = judgement.record()
    _print_findings(console, findings)
    judgement.raise_if_refused(force=arguments.force)
    if isinstance(model, Solver):
        if examined.mask is not None:
            probes = [record._replace(mask=record.mask & examined.mask) for record in probes]
        model, chosen = choose_regularisation(model, probes, examined.settings)
        facts["model"] |= chosen
        rule = _RULES[chosen["regularisation_rule"]]
        _print(console, f"regularisation {chosen['regularisation']:.3g} ({rule})")
    if arguments.dry_run:
        console.print("dry run: nothing was written", highlight=False)
        return facts

    size = 4 * len(scan) * math.prod(scan.finish(np.zeros(scan.shape, np.complex64)).shape)  # bytes of float32
    check_writable(out, size=size // 4 if out.name.endswith(".gz") else size)  # the least: noise compresses less
    if isinstance(model, Network) and arguments.ct_weight != 1:
        records = (_acquired_record(scan, index, examined) for index in range(len(scan)))
        shown = track(records, "weight of the CT", total=len(scan), console=console, transient=True)
        model, chosen = choose_ct_weight(arguments.ct_weight, model, shown, examined.settings)
        facts["model"] |= chosen
        _print(console, f"weight of the CT {chosen['ct_weight']:.2f} ({_RULES[chosen['ct_weight_rule']]})")
    with staged(out) as folder:
        loop = _SliceLoop(
            scan,
            examined,
            model,
            console,
            folder,
            keep_panels=arguments.panels,
            keep_phase=out.suffix in COMPLEX,
        )
        judgement, failures = _write_results(loop, out, side_files, findings, facts, force=arguments.force)
    if arguments.check_ct:
        _print(console, ct_benefit(loop.withheld)[1])
    verdict = judgement.level if judgement.level != "refused" else "refused, and forced"
    explained, seconds = facts["measured_energy_explained"], facts["seconds"]["total"]
    _print(
        console, f"{out}: {verdict}; the image explains {100 * explained:.1f} % of what was measured, {seconds:.1f} s"
    )
    if failures:
        raise Incomplete(f"{out} is written, but {', and '.join(failures)}")
    return facts


def _configure(
    arguments: Arguments, network: Network | None, scan: Scan
) -> tuple[Network | Solver | None, Settings, dict[str, Any]]:
    """Return the model, the settings of the reconstruction, and the facts known before it; check that they fit."""
    settings, coil_facts = _settings(arguments, scan)
    model, model_facts = _model(arguments, network, scan)
    check_windows(model, arguments.ct.windows)
    check_takes_ct(model, has_ct=scan.has_ct)
    if arguments.uncertainty:
        settings = replace(settings, error_scale=error_scale(model))
    if arguments.uncertainty and isinstance(model, Network) and model.calibration is not None:
        model_facts |= {"uncertainty": model.calibration._asdict()}
    if arguments.check_ct:
        check_for_ct_check(model, has_ct=scan.has_ct)
        settings = replace(settings, check_ct=True)
    check_ct_weight(arguments.ct_weight, model, has_ct=scan.has_ct)
    return model, settings, _input_facts(scan) | {"model": model_facts, "coils": coil_facts}


def _write_results(
    loop: "_SliceLoop",
    out: Path,
    side_files: dict[str, Path],
    findings: Sequence[Finding],
    facts: dict[str, Any],
    *,
    force: bool,
) -> tuple[Judgement, list[str]]:
    """Reconstruct all slices, and write the image and the files beside it.

    Args:
        loop: of the slices; files are made in its folder, and moved to their place when they are complete.
        out: the image.
        side_files: files beside it, by kind.
        findings: from before the reconstruction.
        facts: the record; what is found here is added to it.
        force: write the image even if it is refused.

    Returns:
        The judgement of the image, and one text for each file beside it that could not be written.
    """
    scan, folder = loop.scan, loop.folder
    with closing(loop.images()) as images:  # closes the progress bar before an error is printed
        scan.write(folder / out.name, images, note=made_by(facts))
    judgement = loop.judge(findings)
    _print_findings(loop.console, judgement.findings[len(findings) :])
    judgement.raise_if_refused(force=force)
    facts |= {"judgement": judgement.record(), "warnings": [str(finding) for finding in judgement.findings]}
    facts |= loop.facts() | {"versions": versions()}
    (folder / out.name).replace(out)
    if out.suffix == ".cfl":
        (folder / out.name).with_suffix(".hdr").replace(out.with_suffix(".hdr"))
    failures = write_beside(
        side_files,
        folder,
        {
            "json": lambda file: file.write_text(json.dumps(facts, indent=1) + "\n"),
            "error": lambda file: scan.write(
                file, [] if loop.errors is None else loop.errors, note=f"expected error of: {made_by(facts)}"
            ),
            "png": lambda file: file.write_bytes(draw_panels(scan, loop.panels)),
        },
    )
    return judgement, failures


class _SliceLoop:
    """One pass over the slices: it yields images one by one and collects numbers for the record."""

    def __init__(
        self,
        scan: Scan,
        examined: Examined,
        model: Reconstructor | None,
        console: Console,
        folder: Path,
        *,
        keep_panels: bool,
        keep_phase: bool,
    ) -> None:
        self.scan, self.console, self.folder = scan, console, folder
        self._settings, self._model = examined.settings, model
        self._examined, self._keep_phase = examined, keep_phase
        self._panel_indices = {int(part * (len(scan) - 1) + 0.5) for part in PANELS} if keep_panels else set()
        self._total = self._first = 0.0
        self.panels: dict[int, tuple[Record, Result]] = {}
        self.placement = Placement(scan.mask.samples)
        self._results: list[Result] = []  # without their images
        self.errors: np.ndarray | None = None  # on disk, so that memory does not grow with the slices

    def images(self) -> Generator[np.ndarray, None, None]:
        """Yield one finished image for each slice.

        Raises:
            ValueError: no slice had a sample other than 0.
        """
        scan, start = self.scan, time.perf_counter()
        columns = (TextColumn("slices"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("slices", total=len(scan))
            records = (_acquired_record(scan, index, self._examined) for index in range(len(scan)))
            for index, result in enumerate(reconstruct_records(records, self._settings, self._model, self.placement)):
                self._first = self._first or time.perf_counter() - start
                empty = np.zeros((0, 0))
                self._results.append(result._replace(image=empty, start=empty, error=None))
                if index in self._panel_indices:
                    self.panels[index] = (scan[index], result)
                if result.error is not None:
                    self._store_error(index, scan.finish(result.error.astype(np.complex64)))
                yield (
                    scan.finish_complex(result.image)
                    if self._keep_phase
                    else scan.finish(result.image).astype(np.float32)
                )
                progress.advance(task)
        if not any(result.energy for result in self._results):
            raise ValueError("k-space is zero at every sample that the mask acquires; is the mask the right one?")
        self._total = time.perf_counter() - start

    def _store_error(self, index: int, error: np.ndarray) -> None:
        if self.errors is None:
            shape = (len(self.scan), *error.shape)
            self.errors = np.lib.format.open_memmap(self.folder / "errors.npy", "w+", np.float32, shape)
        self.errors[index] = error

    @property
    def withheld(self) -> list[WithheldErrors]:
        """How well withheld samples of each slice were predicted, where that was asked for."""
        return [result.withheld for result in self._results if result.withheld is not None]

    def judge(self, findings: Sequence[Finding]) -> Judgement:
        """Judge the finished images.

        Args:
            findings: from before the work.
        """
        check_ct = self._settings.check_ct
        return judge_images(findings, self._results, self._model, self.placement, check_ct=check_ct)

    def facts(self) -> dict[str, Any]:
        """Return residuals, times and, with ``check_ct``, the gain by the CT."""
        after_first = len(self.scan) - self._settings.batch_size  # slices that do not wait for the compilation
        seconds = {"total": round(self._total, 3), "first_batch": round(self._first, 3)}
        if after_first > 0:
            seconds["slice"] = round((self._total - self._first) / after_first, 4)
        numbers = measured_numbers(self._results, check_ct=self._settings.check_ct)
        worst = max(math.sqrt(result.misfit / result.energy) for result in self._results if result.energy)
        return numbers | {"worst_slice_residual": worst, "seconds": seconds}


def _acquired_record(scan: Scan, index: int, examined: Examined) -> Record:
    """Return a slice with the mask of what was acquired."""
    record = scan[index]
    return record if examined.mask is None else record._replace(mask=record.mask & examined.mask)


def _settings(arguments: Arguments, scan: Scan) -> tuple[Settings, dict[str, Any] | None]:
    """Return the settings of the reconstruction, and the facts about the coils."""
    if arguments.batch_size < 1:
        raise ValueError(f"--batch_size is {arguments.batch_size}; wanted 1 or more slices")
    sides = calibration_sides(scan.mask.samples, scan.shape)
    batch_size = min(arguments.batch_size, len(scan))
    settings = Settings(hard_consistency=arguments.hard_consistency, batch_size=batch_size, calibration=sides)
    if not scan.coils:
        if arguments.noise_covariance or arguments.virtual_coils is not None:
            raise ValueError(f"{arguments.input} has no coil axis: there is nothing to whiten or to compress")
        return settings, None
    if arguments.virtual_coils is not None and not 1 <= arguments.virtual_coils <= scan.coils:
        raise ValueError(f"--virtual_coils is {arguments.virtual_coils}; wanted 1 to {scan.coils}")
    whitening = _whitening(arguments.noise_covariance, scan)
    facts = {"coils": scan.coils, "virtual_coils": arguments.virtual_coils, "whitened": whitening is not None}
    settings = replace(settings, whitening=whitening, virtual_coils=arguments.virtual_coils)
    if scan.maps_from:
        return settings, facts | {"maps": scan.maps_from}
    if min(sides) < SMALLEST_CENTRE:
        raise ValueError(too_small_a_centre())
    return replace(settings, coils=arguments.coils), facts | {
        "maps": arguments.coils,
        "calibration": list(sides),
    }


def _whitening(file: str, scan: Scan) -> np.ndarray | None:
    """Return the whitening matrix from the covariance in a file, or else from that of the scan's own noise."""
    from atlf_jax.ops import whitening_matrix

    covariance = load_npy(Path(file)) if file else scan.noise_covariance
    if covariance is None:
        return None
    if covariance.shape != (scan.coils, scan.coils):
        raise ValueError(f"{file} has shape {covariance.shape}; wanted the noise covariance of {scan.coils} coils")
    return whitening_matrix(np.asarray(covariance, np.complex128)).astype(np.complex64)


def _model(arguments: Arguments, network: Network | None, scan: Scan) -> tuple[Network | Solver | None, dict[str, Any]]:
    """Return the network, the solver, or None for the zero-filled image; and its facts for the record."""
    if arguments.method != "network":
        if arguments.mirror_average:
            raise ValueError(f"--mirror_average is for networks; leave it out with --method {arguments.method}")
        solver = solver_of(arguments.method, arguments.regularisation, coils=scan.coils, has_ct=scan.has_ct)
        return solver, {"method": arguments.method}
    if not arguments.checkpoint:
        raise ValueError(
            "give a trained network with --checkpoint runs/NAME (a run's folder, a packed file, or the name of weights "
            f"that come with the package), or --method {', '.join(METHODS[1:-1])} or {METHODS[-1]}"
        )
    network = network or load(arguments.checkpoint, arguments.which, code=arguments.code)
    network = network.averaging_mirrors(arguments.mirror_average)
    return network, {
        "method": "network",
        "name": network.config.name,
        "which": arguments.which,
        "step": network.facts["step"],
        "trained_mask": to_dict(network.config.masks[0]),
        "mirror_average": arguments.mirror_average,
        "hard_consistency": arguments.hard_consistency,
    }


def _never_trained(model: Network | Solver | None, scan: Scan, settings: Settings) -> list[Finding]:
    """Return a finding for each property of the scan that the network was not trained for."""
    if not isinstance(model, Network):
        return []
    found = unseen_sampling(
        model.trained_for,
        scan.mask.samples,
        shape=scan.shape,
        coils=scan.coils,
        coil_maps=settings.coils or "",
    )
    if scan.has_ct:
        window = scan.facts["ct"]["window"]
        found += unseen_windows(model.trained_for, window if isinstance(window, tuple) else (window,))
    found += unseen_scan_kind(model.trained_for, raw=scan.facts["input"]["kind"] in RAW_FORMATS, contrast=scan.contrast)
    return [Finding("never trained", "doubtful", reason, "") for reason in found]


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _print_findings(console: Console, findings: Sequence[Finding]) -> None:
    for finding in findings:
        colour = "red" if finding.level == "refused" else "yellow"
        console.print(f"{finding.level}: {finding}", highlight=False, soft_wrap=True, style=colour)


def _input_facts(scan: Scan) -> dict[str, Any]:
    """Return the facts known before the reconstruction: input, mask and CT."""
    mask = scan.mask
    numbers = {
        "nominal_acceleration": round(mask.nominal, 4),
        "effective_acceleration": round(mask.effective, 4),
        "conjugate_coverage": round(mask.coverage, 4),
        "hash": mask.hash,
    }
    return scan.facts | {"mask": scan.facts["mask"] | numbers, "ct": scan.facts.get("ct")}


def _plan(facts: dict[str, Any], scan: Scan, files: list[Path]) -> Iterator[str]:
    """Yield the lines that say what will be done."""
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
