"""Before and after a reconstruction: what of it is doubtful, found on a few slices first and on all images last."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from atlf_jax.models.inference import Model
from atlf_jax.models.withheld import WithheldErrors, gain_interval, withheld_energy_and_error
from atlf_jax.reconstruct.guards import Placement
from atlf_jax.reconstruct.judgement import Finding, Judgement, centre_findings, empty_lines, graded, noise_level
from atlf_jax.reconstruct.network import Network
from atlf_jax.reconstruct.slices import (
    SMALLEST_CENTRE,
    Record,
    Result,
    Settings,
    calibration_sides,
    check_record,
    in_batches,
    measure,
)

__all__ = [
    "Examined",
    "check_for_ct_check",
    "ct_benefit",
    "examine",
    "judge_images",
    "measured_numbers",
    "probe_indices",
]

PROBES = (0.5, 0.25, 0.75)  # where along the slices a measurement is looked at before the work
PHASE = 0.01  # energy of the imaginary part, relative to the image's, from which on there is a phase to hold
TOO_SMALL = 0.1  # dB of a gain on withheld samples that decides nothing: signs were wrong up to there (docs/trust.md)


class Examined(NamedTuple):
    """What was found before the work, and how the work is done for it."""

    findings: list[Finding]
    settings: "Settings"
    mask: Bool[np.ndarray, "s #h w"] | None = None  # of what was acquired, where the given mask says more


def probe_indices(slices: int) -> list[int]:
    """Return the few slices that a measurement is judged by before the work, the middle one first."""
    return list(dict.fromkeys(int(part * (slices - 1) + 0.5) for part in PROBES))


def examine(records: Sequence[Record], settings: Settings, model: Model | None) -> Examined:
    """Look at a few slices before the work: what of the measurement makes a reconstruction doubtful?

    Args:
        records: of the slices ``probe_indices`` names.
        settings: how slices become images.
        model: None = the zero-filled reconstruction.

    Returns:
        What was found, and the settings and the mask that the work is done with: a network whose image is real is given
        the phase of the centre, and lines without any sample are taken as not acquired.

    Raises:
        ValueError: a slice that cannot be reconstructed, with its number among the records.
    """
    for number, record in enumerate(records):
        check_record(number, record, settings)
    findings: list[Finding] = []
    acquired = None
    empty = np.logical_and.reduce([empty_lines(record.kspace, record.mask) for record in records])
    some = any(record.kspace.any() for record in records)
    if empty.any() and some:
        lines = int(empty.sum())
        reason = f"the mask acquires {lines} lines that hold nothing but zeros, which are taken as not acquired"
        findings.append(Finding("empty lines", "doubtful", reason, "give the mask of what was measured"))
        acquired = ~empty[None]
        records = [record._replace(mask=record.mask & acquired) for record in records]
        sides = calibration_sides(np.stack([record.mask for record in records]), records[0].kspace.shape[-2:])
        settings = replace(settings, calibration=sides)
    measured = [np.where(record.mask, record.kspace, 0) for record in records]
    findings += centre_findings(measured[0], records[0].mask)
    capped = model is None

    batches = list(in_batches(records, settings))
    noise, phase, lacking, fell_back = [], [], [], False
    for batch, fields in batches:
        found = measure(fields, settings)
        lacking += list(1 - np.asarray(found.combined)[: len(batch)])
        phase += list(np.asarray(found.imaginary)[: len(batch)])
        fell_back |= bool(np.asarray(found.fell_back)[: len(batch)].any())
        white = np.asarray(found.measurement.kspace)[: len(batch)]
        noise += [noise_level(one, record.mask) for one, record in zip(white, batch, strict=True)]
    if records[0].kspace.ndim == 3:
        findings += graded(
            "coil maps",
            float(np.mean(lacking)),
            f"the image combined by the coil maps lacks {100 * np.mean(lacking):.0f} % of the energy of the centre of k-space",
            "acquire more central lines, give maps by coil_maps, or take coils='low_resolution'",
        )
        if fell_back:
            findings.append(
                Finding(
                    "coil maps",
                    "doubtful",
                    "the centre of k-space is too small for ESPIRiT, so low-resolution coil maps were taken",
                    "acquire more central lines, or give coil_maps",
                )
            )
    if model is not None:
        known = isinstance(model, Network)
        if known and model.trained.real_image and float(np.mean(phase)) > PHASE:
            held = min(settings.calibration) >= SMALLEST_CENTRE
            settings = replace(settings, hold_phase=held)
            left = phase
            if held:
                left = [
                    value
                    for batch, fields in batches
                    for value in np.asarray(measure(fields, settings).imaginary)[: len(batch)]
                ]
            part = float(np.mean(left))
            kept = "after the smooth phase of the centre was taken off" if held else "and no full centre tells it"
            findings += graded(
                "phase",
                part,
                f"{100 * part:.0f} % of the image's energy is phase, which this network, of real images, cannot hold, {kept}",
                "use a network with a complex image, or a classical solver",
            )
        trained_noise = model.trained.noise if known else 0.0
        level = float(np.mean(noise))
        findings += graded(
            "noise",
            level - trained_noise if known else 0.0,
            f"the noise of a sample is {100 * level:.1f} % of the brightest pixel, and the network was trained with "
            f"{100 * trained_noise:.1f} %",
            "average more scans, or train a network with such noise (data.acquisition.noise)",
        )
        unusual = (
            settings.hold_phase or records[0].kspace.ndim == 3 or any(f.rule in ("phase", "noise") for f in findings)
        )
        if known and unusual:
            findings += _withheld_findings(batches, settings, model)
    if capped:
        findings = [f._replace(level="doubtful") if f.level == "refused" else f for f in findings]
    return Examined(findings, settings, acquired)


def _withheld_findings(batches: list, settings: Settings, model: Model) -> list[Finding]:
    """Ask whether the network predicts measured samples that it is not shown better than zeros do."""
    errors = np.zeros(2)
    for batch, fields in batches:
        found = measure(fields, settings)
        square = np.asarray(found.scale)[:, 0, 0] ** 2
        pair = withheld_energy_and_error(model, found.measurement)
        errors += [float((square * part)[: len(batch)].sum()) for part in pair]
    without, with_network = errors
    if not with_network:
        return []
    gain = 10 * float(np.log10(without / with_network))
    how = "better" if gain >= 0 else "worse"
    return graded(
        "withheld samples",
        -gain,
        f"the network predicts measured samples that were withheld from it {abs(gain):.1f} dB {how} than zeros do, on "
        "data of a kind that it was never trained on",
        "use a classical solver, or train a network on such data",
    )


def judge_images(
    findings: Sequence[Finding],
    results: Sequence[Result],
    model: Model | None,
    placement: Placement,
    *,
    check_ct: bool,
) -> Judgement:
    """Judge finished images: do they explain what was measured, and does the CT fit and help?

    Args:
        findings: from before the work.
        results: of all slices; their images are not looked at.
        model: None = the zero-filled reconstruction.
        placement: what was gathered of CT and MR.
        check_ct: whether it was asked what the CT brings.
    """
    found = list(findings)
    energy = sum(result.energy for result in results)
    if model is not None and energy > 0:
        unexplained = sum(result.misfit for result in results) / energy
        found += graded(
            "measured energy",
            unexplained,
            f"the image explains {100 * (1 - unexplained):.0f} % of what was measured",
            "do not use it; use a network that was trained on such data, or a classical solver",
        )
        found += [Finding("CT alignment", "doubtful", *_split(text)) for text in placement.warnings()]
    if check_ct:
        pairs = [result.withheld for result in results if result.withheld is not None]
        found += ct_benefit(pairs)[0]
    return Judgement(tuple(found))


def ct_benefit(pairs: Sequence[WithheldErrors]) -> tuple[list[Finding], str]:
    """Say by withheld samples whether the CT helps: a finding where it does not, and one sentence in any case."""
    gain, low, high = gain_interval(pairs)
    if np.isnan(gain):
        reason = "whether the CT helps is not known: no sample outside the middle of k-space could be withheld"
        return [Finding("CT benefit", "doubtful", reason, "")], reason
    spread_ = f" (95 % interval over slices {low:+.2f} to {high:+.2f} dB)" if len(pairs) > 1 else " (one slice)"
    if abs(gain) <= TOO_SMALL:
        return [], f"the CT changes the prediction of withheld samples by {gain:+.2f} dB{spread_}: too little to decide"
    if gain > 0:
        return [], f"the CT helps: withheld samples are predicted {gain:.2f} dB better with it{spread_}"
    reason = f"the CT does not help: withheld samples are predicted {-gain:.2f} dB worse with it{spread_}"
    return [Finding("CT benefit", "doubtful", reason, "register it to the MR, or leave it out")], reason


def check_for_ct_check(model: Model | None, *, has_ct: bool) -> None:
    """Refuse to ask what a CT brings where there is none, or the network cannot do without.

    Raises:
        ValueError: with what is missing.
    """
    if not has_ct:
        raise ValueError("check_ct asks whether the CT helps, and there is no CT; give one")
    if not (isinstance(model, Network) and model.trained.with_and_without_ct):
        raise ValueError(
            "check_ct compares a network with itself without the CT, and this one was not trained for both; choose one "
            "that was (with augment.ct_dropout or train.adapters), such as aanlib-best"
        )


def measured_numbers(results: Sequence[Result], *, check_ct: bool) -> dict[str, Any]:
    """Return what a record says of how finished images agree with what was measured."""
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
