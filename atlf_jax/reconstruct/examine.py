"""Find reasons to doubt a reconstruction: before it on a few slices, after it on all images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from atlf_jax.array_types import Reconstructor
from atlf_jax.data.measured import find_measured
from atlf_jax.reconstruct.judgement import Finding, Judgement, centre_findings, graded, noise_level
from atlf_jax.reconstruct.methods import Solver
from atlf_jax.reconstruct.slices import (
    SMALLEST_CENTRE,
    Record,
    Result,
    Settings,
    calibration_sides,
    check_record,
    in_batches,
    prepare_batch,
)
from atlf_jax.trained.guards import Placement
from atlf_jax.trained.network import Network, check_does_without_ct
from atlf_jax.trained.withheld import WithheldErrors, gain_interval, withheld_energy_and_error

__all__ = [
    "Examined",
    "check_for_ct_check",
    "ct_benefit",
    "examine",
    "judge_images",
    "measured_numbers",
    "probe_indices",
]

PROBES = (0.5, 0.25, 0.75)  # relative positions of the slices that are examined before the reconstruction
PHASE = 0.01  # relative energy of the imaginary part above which an image has phase
TOO_SMALL = 0.1  # dB: smaller gains on withheld samples can have the wrong sign (docs/trust.md)


class Examined(NamedTuple):
    """The result of ``examine``: findings, and the settings and mask to reconstruct with."""

    findings: list[Finding]
    settings: "Settings"
    mask: Bool[np.ndarray, "s #h w"] | None = None  # what was acquired, if the given mask names more samples


def probe_indices(slices: int) -> list[int]:
    """Return the indices of the few slices that are examined before the reconstruction, the middle one first."""
    return list(dict.fromkeys(int(part * (slices - 1) + 0.5) for part in PROBES))


def examine(records: Sequence[Record], settings: Settings, model: Reconstructor | None) -> Examined:
    """Examine a few slices before the reconstruction, for reasons to doubt it.

    Args:
        records: the slices of ``probe_indices``.
        settings: of the reconstruction.
        model: None = the zero-filled reconstruction.

    Returns:
        Findings, and the settings and mask to reconstruct with: a network of real images gets the phase of the centre,
        and empty lines count as not acquired.

    Raises:
        ValueError: a slice cannot be reconstructed; the message has its number among the records.
    """
    for number, record in enumerate(records):
        check_record(number, record, settings)
    findings, acquired = _of_lines(records)
    if acquired is not None:
        records = [record._replace(mask=record.mask & acquired) for record in records]
        sides = calibration_sides(np.stack([record.mask for record in records]), records[0].kspace.shape[-2:])
        settings = replace(settings, calibration=sides)
    first = records[0]
    findings += centre_findings(np.where(first.mask, first.kspace, 0), first.mask)
    probes = _Probes(records, settings)
    if first.kspace.ndim == 3:
        findings += _of_maps(probes)
    if model is None or isinstance(model, Solver):  # without a network nothing can be invented: never refused
        return Examined([finding._replace(level="doubtful") for finding in findings], settings, acquired)
    if isinstance(model, Network):
        of_phase, probes = _of_phase(probes, model)
        of_noise = _of_noise(probes, model)
        findings += of_phase + of_noise
        if probes.settings.hold_phase or first.kspace.ndim == 3 or of_phase or of_noise:
            findings += _of_withheld_samples(probes, model)
    return Examined(findings, probes.settings, acquired)


class _Probes:
    """The examined slices as measurements on the device."""

    def __init__(self, records: Sequence[Record], settings: Settings) -> None:
        self.records, self.settings = records, settings
        self.batches = [
            (len(batch), prepare_batch(fields, settings)) for batch, fields in in_batches(records, settings)
        ]

    def mean(self, name: str) -> float:
        """Return the mean over slices of a field of ``Measured``."""
        values = [np.asarray(getattr(each, name))[:count] for count, each in self.batches]
        return float(np.mean(np.concatenate(values)))


def _of_lines(records: Sequence[Record]) -> tuple[list[Finding], Bool[np.ndarray, "#h w"] | None]:
    """Return a finding if acquired samples are zero in every slice, and then the samples that were measured."""
    found = find_measured(lambda index: records[index].kspace, len(records))
    empty = records[0].mask & ~found
    if not empty.any():
        return [], None
    what = (
        f"{int(empty.all(0).sum() or empty.any(0).sum())} lines" if len(empty) == 1 else f"{int(empty.sum())} samples"
    )
    reason = f"the mask acquires {what} that hold nothing but zeros, which are taken as not acquired"
    return [Finding("empty lines", "doubtful", reason, "give the mask of what was measured")], found


def _of_maps(probes: _Probes) -> list[Finding]:
    lacking = 1 - probes.mean("combined")
    findings = graded(
        "coil maps",
        lacking,
        f"the image combined by the coil maps lacks {100 * lacking:.0f} % of the energy of the centre of k-space",
        "acquire more central lines, give maps by coil_maps, or take coils='low_resolution'",
    )
    if probes.mean("fell_back") > 0:
        reason = "ESPIRiT's coil maps lose a part of the image, so low-resolution maps were taken"
        findings.append(Finding("coil maps", "doubtful", reason, "acquire more central lines, or give coil_maps"))
    return findings


def _of_phase(probes: _Probes, network: Network) -> tuple[list[Finding], _Probes]:
    """Remove the smooth phase for a network that never saw it; return a finding if much remains for a real one.

    Low-resolution coil maps take the phase of the centre with them: a network that was trained with them has seen
    images without it, whatever the maps are here, or if there is one coil.
    """
    has_centre = min(probes.settings.calibration) >= SMALLEST_CENTRE
    if network.trained_for.coil_maps == "low_resolution" and has_centre:
        probes = _Probes(probes.records, replace(probes.settings, hold_phase=True))
    if not network.trained_for.real_image or probes.mean("imaginary") <= PHASE:
        return [], probes
    if has_centre:
        probes = _Probes(probes.records, replace(probes.settings, hold_phase=True))
    part = probes.mean("imaginary")
    how = (
        "after the smooth phase of the centre was taken off"
        if has_centre
        else "and no sampled centre tells its smooth part"
    )
    findings = graded(
        "phase",
        part,
        f"{100 * part:.0f} % of the image's energy is phase that a network of real images cannot hold, {how}",
        "use a network of complex images, or a classical solver",
    )
    return findings, probes


def _of_noise(probes: _Probes, network: Network) -> list[Finding]:
    white = [each for count, found in probes.batches for each in np.asarray(found.measurement.kspace)[:count]]
    levels = [noise_level(samples, record.mask) for samples, record in zip(white, probes.records, strict=True)]
    level, trained = float(np.mean(levels)), network.trained_for.noise
    return graded(
        "noise",
        level - trained,
        f"the noise of a sample is {100 * level:.1f} % of the brightest pixel, and {100 * trained:.1f} % was trained",
        "average more scans, or train a network with such noise (data.acquisition.noise)",
    )


def _of_withheld_samples(probes: _Probes, model: Reconstructor) -> list[Finding]:
    """Return a finding if the network predicts withheld samples hardly better than zeros do."""
    energy, error = np.sum(
        [
            [(part * np.asarray(found.scale)[:, 0, 0] ** 2)[:count].sum() for part in pair]
            for count, found in probes.batches
            for pair in [withheld_energy_and_error(model, found.measurement)]
        ],
        axis=0,
    )
    if not error:
        return []
    gain = 10 * float(np.log10(energy / error))
    how = "better" if gain >= 0 else "worse"
    return graded(
        "withheld samples",
        -gain,
        f"on data of a kind that it was never trained on, the network predicts withheld samples {abs(gain):.1f} dB "
        f"{how} than zeros do",
        "use a classical solver, or train a network on such data",
    )


def judge_images(
    findings: Sequence[Finding],
    results: Sequence[Result],
    model: Reconstructor | None,
    placement: Placement,
    *,
    check_ct: bool,
) -> Judgement:
    """Judge finished images: whether they agree with the measured samples, and whether the CT is aligned and helps.

    Args:
        findings: from before the reconstruction.
        results: of all slices; their images are not used.
        model: None = the zero-filled reconstruction.
        placement: the alignment of CT and MR over all slices.
        check_ct: also judge whether the CT helps.
    """
    found = list(findings)
    energy = sum(result.energy for result in results)
    if model is not None and not isinstance(model, Solver) and energy > 0:
        unexplained = sum(result.misfit for result in results) / energy
        found += graded(
            "measured energy",
            unexplained,
            f"the image explains {100 * (1 - unexplained):.0f} % of what was measured",
            "do not use it; use a network that was trained on such data, or a classical solver",
        )
    if model is not None:
        found += [Finding("CT alignment", "doubtful", *_split(text)) for text in placement.warnings()]
    if check_ct:
        pairs = [result.withheld for result in results if result.withheld is not None]
        found += ct_benefit(pairs)[0]
    return Judgement(tuple(found))


def ct_benefit(pairs: Sequence[WithheldErrors]) -> tuple[list[Finding], str]:
    """Return a finding if the CT does not help to predict withheld samples, and one sentence in any case."""
    gain, low, high = gain_interval(pairs)
    if np.isnan(gain):
        reason = "whether the CT helps is not known: no sample outside the middle of k-space could be withheld"
        return [Finding("CT benefit", "doubtful", reason, "")], reason
    interval = f" (95 % interval over slices {low:+.2f} to {high:+.2f} dB)" if len(pairs) > 1 else " (one slice)"
    if abs(gain) <= TOO_SMALL:
        return (
            [],
            f"the CT changes the prediction of withheld samples by {gain:+.2f} dB{interval}: too little to decide",
        )
    if gain > 0:
        return [], f"the CT helps: withheld samples are predicted {gain:.2f} dB better with it{interval}"
    reason = f"the CT does not help: withheld samples are predicted {-gain:.2f} dB worse with it{interval}"
    return [Finding("CT benefit", "doubtful", reason, "register it to the MR, or leave it out")], reason


def check_for_ct_check(model: Reconstructor | None, *, has_ct: bool) -> None:
    """Check that ``check_ct`` is possible: there is a CT, and the network was trained both with and without one.

    Raises:
        ValueError: it is not; the message says what is missing.
    """
    if not has_ct:
        raise ValueError("check_ct asks whether the CT helps, and there is no CT; give one")
    check_does_without_ct(model)


def measured_numbers(results: Sequence[Result], *, check_ct: bool) -> dict[str, Any]:
    """Return the numbers of a record on how finished images agree with the measured samples."""
    energy, misfit = (sum(getattr(result, name) for result in results) for name in ("energy", "misfit"))
    numbers = {
        "measured_energy_explained": 1 - misfit / energy if energy else None,
        "data_consistency_residual": float(np.sqrt(misfit / energy)) if energy else None,
    }
    if check_ct:
        gain, low, high = gain_interval([result.withheld for result in results if result.withheld is not None])
        interval = None if np.isnan([low, high]).any() else [round(low, 3), round(high, 3)]
        numbers["ct_gain_on_withheld_samples_db"] = None if np.isnan(gain) else round(gain, 3)
        numbers["ct_gain_interval_db"] = interval
    return numbers


def _split(text: str) -> tuple[str, str]:
    reason, _, remedy = text.partition("; ")
    return reason, remedy
