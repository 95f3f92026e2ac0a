"""What the CT does to a reconstruction: take it away, exchange it, move it, paint into it, and score again.

Everything here is a source: a change of the pairs that leaves names, subjects, masks and noise alone, so that each
variant is compared with the untouched pairs slice by slice. Nothing is told to the networks.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Float32

from atlf_jax.data import AcquisitionConfig, Example, Source
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy, move_ct
from atlf_jax.evaluation.figures import curve_figure
from atlf_jax.evaluation.report import Section, number, title
from atlf_jax.evaluation.scoring import (
    ZERO_FILLED,
    EvaluationConfig,
    Reconstructor,
    Score,
    evaluate,
    mask_label,
    reconstruct_slices,
)
from atlf_jax.evaluation.statistics import Comparison, compare, subject_means
from atlf_jax.masks import MaskConfig, seed_from_name

__all__ = [
    "ABLATIONS",
    "SWEEPS",
    "Changed",
    "Lesion",
    "SweepPoint",
    "ablate_ct",
    "ct_gains",
    "ct_section",
    "hallucination",
    "lesion",
    "null_space_share",
    "sweep",
]

SECTION_WORDS = (
    "The CT of the same slices is taken away or exchanged: these are methods of their own in all tables of this page, "
    "on the same masks. A method that the CT helps falls with each of them.",
    "The curves move the true CT off the MR (each slice in its own direction, drawn from its name), and add noise to "
    "the measured samples.",
    "A small Gaussian lesion of three tenths of the maximum is painted into the CT alone, where anything but 0 in the "
    "output is invented, and into the MR alone, where 1 is right: the share of the lesion in the change of the output, "
    "by least squares, mean over slices with the worst slice. The null space holds the samples that were not acquired.",
)

GAIN_WORDS = (
    "What the true CT brings to each method over no CT, another subject's and another slice's: difference of the mean "
    "over subjects, and on how many slices the true CT does better. A gain counts where all four columns agree: PSNR "
    "can rise while SSIM falls, and a mean over the picture holds air, where nothing is diagnosed.",
)
GAINS = ("psnr", "ssim", "psnr_body", "ssim_body")  # the columns of this table; its numbers are of all metrics

Change = Callable[[Source, int], Example]

SWEEPS: dict[str, tuple[float, ...]] = {
    "CT shift [px]": (0.0, 1.0, 2.0, 4.0, 8.0),
    "CT rotation [degrees]": (0.0, 2.0, 5.0, 10.0),
    "CT elastic [px]": (0.0, 1.0, 2.0, 4.0),
    "noise [of the peak]": (0.0, 0.01, 0.02, 0.05),
}


@dataclass(frozen=True)
class Changed:
    """A source whose records are changed on reading."""

    source: Source
    change: Change  # (source, index) -> the changed record

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return self.change(self.source, index)


def zeros(source: Source, index: int) -> Example:
    """Take the CT away: zeros, as a network is told that there is none."""
    example = source[index]
    return example._replace(ct=np.zeros_like(example.ct))


def of_another_subject(source: Source, index: int) -> Example:
    """Give the CT of the next subject, at the same height between its first and last slice."""
    volumes = _volumes(source)
    subjects = list(volumes)
    example = source[index]
    if len(subjects) < 2:
        raise ValueError("the CT of another subject was asked for, and the split holds only one; choose another split")
    own = volumes[example.subject]
    other = volumes[subjects[(subjects.index(example.subject) + 1) % len(subjects)]]
    height = own.index(index) / max(1, len(own) - 1)
    return _with_ct(example, source[other[round(height * (len(other) - 1))]])


def of_another_slice(source: Source, index: int) -> Example:
    """Give the CT of the same subject half a volume away."""
    example = source[index]
    own = _volumes(source)[example.subject]
    if len(own) < 2:
        raise ValueError(f"the CT of another slice was asked for, and subject {example.subject} has only one slice")
    return _with_ct(example, source[own[(own.index(index) + len(own) // 2) % len(own)]])


ABLATIONS: dict[str, Change] = {
    "CT zero": zeros,
    "CT of another subject": of_another_subject,
    "CT of another slice": of_another_slice,
}


@beartype
def ablate_ct(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    masks: Sequence[MaskConfig],
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
) -> list[Score]:
    """Score every model again with each row of ``ABLATIONS`` in place of the true CT.

    Of a split of one subject that of another subject is left out, and where a subject has one slice that of another.

    Returns:
        Rows as of ``scoring.evaluate``, of methods named ``MODEL, ABLATION``; the zero-filled image, which no CT
        changes, is not among them.
    """
    rows: list[Score] = []
    volumes = _volumes(source)
    impossible = {of_another_subject} if len(volumes) == 1 else set()
    impossible |= {of_another_slice} if min(map(len, volumes.values())) == 1 else set()
    for name, change in ABLATIONS.items():
        if change in impossible:
            continue
        held = _Held(Changed(source, change))
        scored = evaluate(models, held, masks=masks, config=config, acquisition=acquisition)
        rows += [row._replace(method=f"{row.method}, {name}") for row in scored if row.method != ZERO_FILLED]
    return rows


@beartype
def ct_gains(rows: Sequence[Score]) -> Section:
    """Set side by side what the true CT brings by PSNR and SSIM, whole and inside the body.

    Args:
        rows: scores by the true CT, and what ``ablate_ct`` returned.
    """
    facts: list[dict[str, Any]] = []
    gains: list[Comparison] = []
    found = {(item.mask, item.first, item.second, item.metric): item for item in compare(rows)}
    for mask, first, second in dict.fromkeys(key[:3] for key in found):
        method, _, change = second.rpartition(", ")
        if method != first or change not in ABLATIONS:
            continue
        items = {metric: found[mask, first, second, metric] for metric in GAINS}
        gains += [item for key, item in found.items() if key[:3] == (mask, first, second)]
        facts.append(
            {"over": f"over {change}, {mask}", "method": method}
            | {
                title(metric): f"{number(item.difference, metric, signed=True)} ({item.better_slices}/{item.slices})"
                for metric, item in items.items()
            }
        )
    return Section(
        title="What the CT brings",
        key="ct_gains",
        words=GAIN_WORDS,
        facts=sorted(facts, key=lambda fact: list(dict.fromkeys(f["over"] for f in facts)).index(fact["over"])),
        numbers=[item._asdict() for item in gains],
        group="over",
    )


class SweepPoint(NamedTuple):
    """The mean scores of one method at one amount of one disturbance: over subjects, of the mean over slices."""

    sweep: str  # a row of SWEEPS
    amount: float
    mask: str
    method: str
    psnr: float  # dB
    ssim: float
    psnr_body: float  # inside the body
    ssim_body: float


@beartype
def sweep(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    masks: Sequence[MaskConfig],
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
    sweeps: Mapping[str, Sequence[float]] = SWEEPS,
) -> list[SweepPoint]:
    """Score all models with the CT moved off the MR by growing amounts, and with growing noise.

    Args:
        sweeps: amounts by row of ``SWEEPS``; directions are drawn once from each slice's name.
    """
    points = []
    for name, amounts in sweeps.items():
        for amount in amounts:
            noise = name.startswith("noise")
            moved = source if noise else _Held(Changed(source, _mover(name, amount)))
            seen = AcquisitionConfig(phase=acquisition.phase, noise=amount) if noise else acquisition
            rows = evaluate(models, moved, masks=masks, config=config, acquisition=seen)
            for mask, method in dict.fromkeys((row.mask, row.method) for row in rows):
                group = [row for row in rows if (row.mask, row.method) == (mask, method)]
                subjects = [row.subject for row in group]
                means = {
                    metric: float(np.mean([*subject_means([row.values[metric] for row in group], subjects).values()]))
                    for metric in GAINS
                }
                points.append(SweepPoint(name, amount, mask, method, **means))
    return points


class Lesion(NamedTuple):
    """How much of a painted lesion one method shows in one slice."""

    mask: str
    method: str
    subject: str
    name: str
    painted: Literal["ct", "mr"]
    shown: float  # least-squares share of the lesion in the change of the output; 1 = all of it


@beartype
def hallucination(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    masks: Sequence[MaskConfig],
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
    contrast: float = 0.3,
) -> list[Lesion]:
    """Paint a lesion into the CT alone, and into the MR alone, and measure how much of it the output shows.

    With L the painted lesion and d the change of the output's magnitude, ``shown = <d, L> / <L, L>``. For a lesion in
    the CT, L is taken at the size it would have in the MR: anything but 0 is invented. For one in the MR, which is
    measured through the same mask, 1 is right.

    Args:
        contrast: of the lesion, in units of each image's maximum.
    """
    found = []
    for mask in masks:
        shared = {"mask": mask, "batch_size": config.batch_size, "acquisition": acquisition, "timed": False}
        variants = {
            painted: _Held(Changed(source, _painter(painted, contrast))) if painted else source
            for painted in ("", "ct", "mr")
        }
        streams = [reconstruct_slices(models, variant, **shared) for variant in variants.values()]
        for panels in zip(*streams, strict=True):
            plain = dict(zip(variants, panels, strict=True))
            example = source[plain[""].record]
            mark = lesion(example)
            size = contrast * float(np.abs(example.target).max())
            for painted in ("ct", "mr"):
                for method, image in plain[painted].images.items():
                    change = image - plain[""].images[method]
                    shown = float((change * mark).sum() / (size * np.square(mark).sum()))
                    panel = plain[painted]
                    found.append(Lesion(panel.mask, method, panel.subject, panel.name, painted, shown))
    return found


@beartype
def lesion(example: Example, *, radius: float = 0.01) -> Float32[np.ndarray, "h w"]:
    """Draw a round lesion of height 1 inside the body, at a place that follows from the record's name.

    Args:
        example: its MR says where the body is: above a tenth of the maximum, holes filled.
        radius: standard deviation of the Gaussian, in image sides: smaller than what the centre of k-space resolves.
    """
    magnitude = np.abs(example.target)
    h, w = magnitude.shape
    body = scipy.ndimage.binary_fill_holes(magnitude > 0.1 * magnitude.max())
    deep = scipy.ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(deep >= 0.5 * deep.max())
    place = np.random.default_rng(seed_from_name(example.name)).integers(len(rows))
    y, x = np.ogrid[:h, :w]
    square = (y - rows[place]) ** 2 + (x - columns[place]) ** 2
    return np.exp(-square / (2 * (radius * min(h, w)) ** 2)).astype(np.float32)


@beartype
def null_space_share(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    mask: MaskConfig,
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
) -> dict[str, float]:
    """Return by method the share of the error's energy at samples that were not acquired: what no consistency removes.

    The error is that of the magnitude images that are scored; the mean is over slices.
    """
    shares: dict[str, list[float]] = {}
    shared = {"mask": mask, "batch_size": config.batch_size, "acquisition": acquisition, "timed": False}
    for panel in reconstruct_slices(models, source, **shared):
        for method, image in panel.images.items():
            energy = np.square(np.abs(fft2c_numpy((image - panel.target).astype(np.complex64))))
            total = float(energy.sum())
            outside = float((energy * ~panel.sampling.mask).sum())
            shares.setdefault(method, []).append(outside / total if total else 0.0)
    return {method: float(np.mean(values)) for method, values in shares.items()}


@beartype
def ct_section(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    masks: Sequence[MaskConfig],
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
) -> Section:
    """Measure sweeps, painted lesions and the null-space share of the error, as a section of a report."""
    shared: dict[str, Any] = {"config": config, "acquisition": acquisition}
    points = sweep(models, source, masks=masks, **shared)
    lesions = hallucination(models, source, masks=masks, **shared)
    facts = []
    for mask in masks:
        label, shares = mask_label(mask), null_space_share(models, source, mask=mask, **shared)
        for method in shares:
            group = {
                painted: [x.shown for x in lesions if (x.mask, x.method, x.painted) == (label, method, painted)]
                for painted in ("ct", "mr")
            }
            facts.append(
                {
                    "method": method,
                    "mask": label,
                    "lesion in CT only, shown": float(np.mean(group["ct"])),
                    "largest": float(np.abs(group["ct"]).max()),
                    "lesion in MR only, shown": float(np.mean(group["mr"])),
                    "least": float(min(group["mr"])),
                    "error in the null space": shares[method],
                }
            )
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    labels: dict[str, str] = {}
    for label, metric in itertools.product(map(mask_label, masks), GAINS):
        for point in (point for point in points if point.mask == label):
            axis = f"{point.sweep}: {title(metric)}" + (f"\n{label}" if len(masks) > 1 else "")
            labels[axis] = title(metric)
            value = (point.amount, getattr(point, metric))
            curves.setdefault(axis, {}).setdefault(point.method, []).append(value)
    return Section(
        title="What the CT does",
        key="ct",
        words=SECTION_WORDS,
        facts=facts,
        group="mask",
        numbers={
            "table": facts,
            "sweeps": [point._asdict() for point in points],
            "lesions": [found._asdict() for found in lesions],
        },
        figure=lambda dark: curve_figure(curves, ylabel=labels, dark=dark),
    )


@dataclass(frozen=True)
class _Held:
    """A source that keeps what it has read: exchanged and moved CTs are asked for once a mask."""

    source: Source
    read: dict[int, Example] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        if index not in self.read:
            self.read[index] = self.source[index]
        return self.read[index]


def _mover(name: str, amount: float) -> Change:
    kind = name.split()[1]  # shift, rotation or elastic

    def change(source: Source, index: int) -> Example:
        example = source[index]
        rng = np.random.default_rng(seed_from_name(example.name))
        return example._replace(ct=move_ct(example.ct, rng, **{kind: amount}))

    return change


def _painter(painted: str, contrast: float) -> Change:
    def change(source: Source, index: int) -> Example:
        example = source[index]
        mark = lesion(example)
        if painted == "ct":
            return example._replace(ct=np.clip(example.ct + contrast * mark, 0, 1))
        size = contrast * np.abs(example.target).max()
        phase = np.exp(1j * np.angle(example.target))
        if example.kspace is not None:  # the coils see it as strongly, against each other, as what lies there
            images = ifft2c_numpy(example.kspace)
            strength = np.maximum(np.linalg.norm(images, axis=0), np.finfo(np.float32).tiny)
            images = (images * (1 + size * mark / strength)).astype(np.complex64)
            example = example._replace(kspace=fft2c_numpy(images))
        return example._replace(target=(example.target + size * mark * phase).astype(np.complex64))

    return change


def _volumes(source: Source) -> dict[str, list[int]]:
    """Return the records of each subject, in order."""
    volumes: dict[str, list[int]] = {}
    for index in range(len(source)):
        volumes.setdefault(source[index].subject, []).append(index)
    return volumes


def _with_ct(example: Example, other: Example) -> Example:
    if other.ct.shape != example.ct.shape:
        raise ValueError(
            f"{example.name} is {example.ct.shape} and {other.name}, whose CT it was to have, is {other.ct.shape}: "
            "exchange CTs only where all slices have one size"
        )
    return example._replace(ct=other.ct)
