"""Reconstruct every slice of a source by every method under every mask, and score it: one row each.

Magnitude images are compared in the units of the source: a reconstruction is multiplied by the scale that its
measurement was divided by. The zero-filled image, the magnitude of A^H y, is scored as a method like the others.
"""

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Array, Bool, Float, jaxtyped

from atlf_jax import metrics
from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.data import AcquisitionConfig, Example, Source, evaluation_batches
from atlf_jax.masks import LINE_MASKS, Mask, MaskConfig, stored_mask
from atlf_jax.metrics import METRICS, is_black, score
from atlf_jax.models import ZeroFilled
from atlf_jax.ops import ct_picture
from atlf_jax.trained.uncertainty import spread

__all__ = [
    "LOWER_IS_BETTER",
    "REPORTED",
    "ZERO_FILLED",
    "EvaluationConfig",
    "Panel",
    "Reconstructor",
    "Score",
    "body",
    "choose_panels",
    "evaluate",
    "mask_label",
    "reconstruct_slices",
    "quality",
    "single_masks",
    "without_black",
]

Reconstructor = Callable[[Measurement], Reconstruction]

ZERO_FILLED = "zero-filled"
# What is told of every slice: each metric of the whole picture, and of the pixels (or windows' centres) in the body.
REPORTED = (*METRICS, *(f"{name}_body" for name in METRICS))
LOWER_IS_BETTER = frozenset(name for name in REPORTED if name.removesuffix("_body") in metrics.LOWER_IS_BETTER)
BODY = 0.05  # of the maximum: what is darker is air

_log = logging.getLogger(__name__)
_ALL_BLACK = (
    "the MR of all {} slices is black: there is nothing to reconstruct; choose another split, or look at the files"
)


@beartype
@dataclass(frozen=True)
class EvaluationConfig:
    """How reconstructions are scored and shown."""

    profile: Literal["picture", "fastmri"] = "picture"
    """Metric profile: each slice in units of its full range, or one value a volume (subject)."""
    batch_size: int = 4
    """Slices reconstructed at once, at most all of them; seconds a slice are those of a batch divided by this."""
    panels: int = 3
    """Slices shown for each mask, from worst to best PSNR: 1 = the median one, 3 = worst, median, best."""
    confidence: float = 0.95
    """Confidence of the bootstrap intervals."""
    bootstrap: int = 10_000
    """Bootstrap resamples of the subjects."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.bootstrap < 1:
            raise ValueError(f"batch_size and bootstrap must be >= 1, got {self.batch_size} and {self.bootstrap}")
        if self.panels < 0:
            raise ValueError(f"panels must be >= 0, got {self.panels}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")


class Score(NamedTuple):
    """What one method did on one slice (profile ``fastmri``: on one volume) under one mask."""

    mask: str  # see mask_label
    method: str
    subject: str
    name: str  # of the slice, or of the volume
    record: int  # index into the source; of the middle slice for a volume
    nominal: float  # acceleration asked for
    effective: float  # acceleration drawn
    coverage: float  # part of k-space known where the image is real
    mask_hash: str
    real: bool  # the target has no phase, so its k-space is Hermitian
    seconds: float  # a slice, on the device, without compilation
    values: dict[str, float]  # by name in REPORTED


class Panel(NamedTuple):
    """The pictures of one slice under one mask, as magnitudes in the units of the source."""

    mask: str
    subject: str
    name: str
    record: int  # index into the source
    sampling: Mask
    ct: Float[np.ndarray, "h w"]
    target: Float[np.ndarray, "h w"]
    real: bool
    images: dict[str, Float[np.ndarray, "h w"]]  # by method
    fused: dict[str, Float[np.ndarray, "h w"]]  # by method, of those that fuse
    seconds: dict[str, float]  # by method
    spreads: dict[str, Float[np.ndarray, "h w"]] = {}  # by method, where asked for (see trained.uncertainty)


@beartype
def evaluate(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    masks: Sequence[MaskConfig],
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
) -> list[Score]:
    """Score the zero-filled image and every model on every slice under every mask.

    Args:
        models: by name; any function of a measurement, compiled here. A network is
            ``jax.tree_util.Partial(module.apply, variables)``, so that its parameters are arguments of the program.
        source: records by index; for the profile ``fastmri``, slices of a subject follow each other.
        masks: mask families; one with several accelerations counts as one family for each.
        config: metric profile and batch size.
        acquisition: simulated phase, coils and noise.

    Returns:
        Rows in the order mask, slice, method; ``zero-filled`` comes first. A black slice (profile ``fastmri``: a black
        volume) has none, as there is nothing to reconstruct: the log names it, and ``without_black`` finds it before.
        A score that is not defined is nan.

    Raises:
        ValueError: for an empty source or one of black slices alone, no mask, two masks of one label, a model named
            like the baseline, or slices of several sizes in a volume that is scored as one.
    """
    if len(source) == 0 or not masks:
        raise ValueError(f"got {len(source)} records and {len(masks)} masks, wanted at least one of each")
    rows: list[Score] = []
    black: dict[str, None] = {}
    for mask in single_masks(masks):
        panels = reconstruct_slices(models, source, mask=mask, batch_size=config.batch_size, acquisition=acquisition)
        for _, slices in itertools.groupby(panels, key=_volume if config.profile == "fastmri" else _record):
            group = list(slices)
            if all(is_black(panel.target) for panel in group):
                black |= dict.fromkeys(panel.name for panel in group)
            else:
                rows += _score(group, config.profile)
    if not rows:
        raise ValueError(_ALL_BLACK.format(len(source)))
    if black:
        _log.warning("left out, as the MR is black and there is nothing to reconstruct: %s", ", ".join(black))
    return rows


def _record(panel: Panel) -> int:
    return panel.record


def _volume(panel: Panel) -> tuple[str, str]:
    """Tell volumes apart: a subject may have several, whose slices are named ``VOLUME_NUMBER``."""
    return panel.subject, panel.name.rpartition("_")[0]


@beartype
def without_black(source: Source, *, profile: Literal["picture", "fastmri"] = "picture") -> tuple[Source, list[str]]:
    """Leave out the slices whose MR is black: nothing is there to reconstruct, and any score of them would mislead.

    Args:
        source: records by index; each is read once.
        profile: of ``fastmri``, which scores whole volumes, only the slices of black volumes are left out.

    Returns:
        A source without them, and their names.

    Raises:
        ValueError: nothing remains.
    """
    volumes, names, black = [], [], []
    for index in range(len(source)):
        example = source[index]
        volumes.append((example.subject, example.name.rpartition("_")[0]))
        names.append(example.name)
        black.append(bool(is_black(example.target)))
    if profile == "fastmri":
        lit = {volume for volume, dark in zip(volumes, black, strict=True) if not dark}
        black = [volume not in lit for volume in volumes]
    kept = tuple(index for index, dark in enumerate(black) if not dark)
    if source and not kept:
        raise ValueError(_ALL_BLACK.format(len(source)))
    left_out = [name for name, dark in zip(names, black, strict=True) if dark]
    return (_Selection(source, kept), left_out) if left_out else (source, [])


@beartype
def quality(row: Score) -> float:
    """Return what slices are ranked by, from worst to best: PSNR, and an undefined one is worse than any other."""
    value = row.values["psnr"]
    return -math.inf if math.isnan(value) else value


@beartype
def choose_panels(
    models: Mapping[str, Reconstructor],
    source: Source,
    rows: Sequence[Score],
    *,
    masks: Sequence[MaskConfig],
    config: EvaluationConfig = EvaluationConfig(),
    acquisition: AcquisitionConfig = AcquisitionConfig(),
) -> list[Panel]:
    """Reconstruct again the slices to be shown: evenly spaced in the PSNR of the first model, from worst to best.

    Only these are kept in memory; they are the slices that were scored, as masks and noise follow from their names.

    Args:
        models: as in ``evaluate``.
        source: as in ``evaluate``.
        rows: what ``evaluate`` returned.
        masks: as in ``evaluate``.
        config: ``panels`` is their number for each mask.
        acquisition: as in ``evaluate``.

    Returns:
        The panels of each mask, from worst to best.
    """
    lead = next(iter(models), ZERO_FILLED)
    panels = []
    for mask in single_masks(masks):
        scored = [row for row in rows if row.mask == mask_label(mask) and row.method == lead]
        ranked = [row.record for row in sorted(scored, key=quality)]
        last = len(ranked) - 1
        ranks = np.linspace(0, last, config.panels) if config.panels > 1 else np.full(config.panels, last / 2)
        chosen = _Selection(source, tuple(dict.fromkeys(ranked[rank] for rank in np.rint(ranks).astype(int))))
        shown = reconstruct_slices(
            models, chosen, mask=mask, batch_size=config.batch_size, acquisition=acquisition, timed=False
        )
        panels += [panel._replace(record=chosen.indices[panel.record]) for panel in shown]
    return panels


@beartype
def reconstruct_slices(
    models: Mapping[str, Reconstructor],
    source: Source,
    *,
    mask: MaskConfig,
    batch_size: int,
    acquisition: AcquisitionConfig = AcquisitionConfig(),
    timed: bool = True,
    with_spread: bool = False,
) -> Iterator[Panel]:
    """Yield every slice of the source with its zero-filled image and the reconstruction of every model.

    Args:
        models: as in ``evaluate``.
        source: records by index.
        mask: one mask family with one acceleration.
        batch_size: slices reconstructed at once, at most all; slices that follow each other and have one size.
        acquisition: simulated phase, coils and noise.
        timed: run the first batch twice, so that no time holds a compilation; else times are not to be used.
        with_spread: also how much the mirror copies of every model's image differ; three more reconstructions.

    Raises:
        ValueError: for a model named like the baseline.
    """
    if ZERO_FILLED in models:
        raise ValueError(f"a model is named {ZERO_FILLED!r}, the name of the baseline; wanted another name")
    methods = {ZERO_FILLED: jax.tree_util.Partial(ZeroFilled().apply, {}), **models}
    batch_size = min(batch_size, len(source))
    seen: set[tuple[int, ...]] = set()  # shapes that are compiled
    for part in _of_one_size(source, batch_size):
        ((batch, names),) = evaluation_batches(part, mask=mask, batch_size=batch_size, acquisition=acquisition)
        fresh = timed and batch.target.shape not in seen
        seen.add(batch.target.shape)
        measurement = jax.device_put(batch.measurement)
        scale, cts = batch.scale[:, None, None], ct_picture(batch.measurement.ct)  # [b 1 1], [b h w]
        images, fused, seconds, spreads = {}, {}, {}, {}
        for method, reconstructor in methods.items():
            if not isinstance(reconstructor, jax.tree_util.Partial):
                reconstructor = jax.tree_util.Partial(reconstructor)
            if fresh:
                jax.block_until_ready(_reconstruct(reconstructor, measurement))
            start = time.perf_counter()
            result = jax.block_until_ready(_reconstruct(reconstructor, measurement))
            seconds[method] = (time.perf_counter() - start) / batch_size
            images[method] = np.asarray(result[0]) * scale
            if result[1] is not None:
                fused[method] = np.asarray(result[1])
            if with_spread and method != ZERO_FILLED:
                magnitude = partial(_magnitude, reconstructor)
                spreads[method] = np.asarray(spread(magnitude, measurement, image=result[0])) * scale
        for index, name in enumerate(names):
            yield Panel(
                mask=mask_label(mask),
                subject=part.examples[index].subject,
                name=name,
                record=part.start + index,
                sampling=stored_mask(batch.measurement.mask[index], layout="centered")._replace(
                    nominal=float(mask.pairs[0][0])
                ),
                ct=cts[index],
                target=np.abs(batch.target[index]) * batch.scale[index],
                real=not batch.target[index].imag.any(),
                images={method: image[index] for method, image in images.items()},
                fused={method: image[index] for method, image in fused.items()},
                seconds=seconds,
                spreads={method: values[index] for method, values in spreads.items()},
            )


@beartype
def single_masks(masks: Sequence[MaskConfig]) -> list[MaskConfig]:
    """Split families of several accelerations into one for each.

    Raises:
        ValueError: when two masks would have the same label in a table.
    """
    singles = [
        dataclasses.replace(mask, acceleration=acceleration, center_fraction=center_fraction)
        for mask in masks
        for acceleration, center_fraction in mask.pairs
    ]
    labels = [mask_label(mask) for mask in singles]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"several masks are called {min(twice)!r}; score them in separate runs")
    return singles


@beartype
def mask_label(mask: MaskConfig) -> str:
    """Name a mask family in a table.

    Example:
        >>> mask_label(MaskConfig("random", 4.0, 0.08)), mask_label(MaskConfig("variable_density_2d", 10.0))
        ('random 4x, centre 0.08', 'variable_density_2d 10x')
    """
    acceleration, center_fraction = mask.pairs[0]
    label = f"{mask.kind} {acceleration:g}x"
    if mask.kind not in LINE_MASKS:
        return label
    return (
        f"{label}, centre {center_fraction:g}" if mask.center_lines is None else f"{label}, {mask.center_lines} lines"
    )


@jax.jit
def _reconstruct(reconstructor: Reconstructor, measurement: Measurement) -> tuple[Array, Array | None]:
    """Return only what is looked at, so that no features leave the program."""
    result = reconstructor(measurement)
    return jnp.abs(result.image), result.fused


def _magnitude(reconstructor: Reconstructor, measurement: Measurement) -> Array:
    return _reconstruct(reconstructor, measurement)[0]


@jaxtyped(typechecker=beartype)
def body(image: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the largest part of an image that is brighter than air (5 % of the maximum), with its holes filled."""
    parts, count = scipy.ndimage.label(scipy.ndimage.binary_fill_holes(image > BODY * image.max()))
    if not count:
        return np.ones(image.shape, bool)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


@partial(jax.jit, static_argnums=0)
def _score_volume(profile: str, prediction: Array, target: Array, body: Array) -> dict[str, Array]:
    inside = score(profile, prediction, target, body=body)
    return score(profile, prediction, target) | {f"{name}_body": value for name, value in inside.items()}


def _score(panels: list[Panel], profile: str) -> list[Score]:
    """Score the slices of one unit of the profile: one slice, or the slices of one volume."""
    middle = panels[len(panels) // 2]
    if len(sizes := {panel.target.shape for panel in panels}) > 1:
        raise ValueError(
            f"slices of subject {middle.subject} have sizes {sorted(sizes)}, and profile fastmri scores them as one "
            "volume; score them by the profile picture"
        )
    target = np.stack([panel.target for panel in panels]).astype(np.float64)
    inside = np.stack([body(image) for image in target])
    rows = []
    for method in middle.images:
        image = np.stack([panel.images[method] for panel in panels]).astype(np.float64)
        with jax.enable_x64(True):
            values = jax.device_get(_score_volume(profile, image, target, inside))
        rows.append(
            Score(
                mask=middle.mask,
                method=method,
                subject=middle.subject,
                name=middle.name if profile == "picture" else _volume(middle)[1] or middle.subject,
                record=middle.record,
                nominal=middle.sampling.nominal,
                effective=middle.sampling.effective,
                coverage=middle.sampling.coverage,
                mask_hash=middle.sampling.hash,
                real=all(panel.real for panel in panels),
                seconds=float(np.mean([panel.seconds[method] for panel in panels])),
                values={name: float(np.reshape(values[name], ())) for name in REPORTED},
            )
        )
    return rows


@dataclass(frozen=True)
class _Part:
    """Records that follow each other in a source and have one size."""

    start: int  # index of the first in the source
    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def _of_one_size(source: Source, most: int) -> Iterator[_Part]:
    """Part a source into batches of one size each, of at most so many records, each read once."""
    part = _Part(0, [])
    for index in range(len(source)):
        example = source[index]
        if part.examples and (len(part.examples) == most or part.examples[0].target.shape != example.target.shape):
            yield part
            part = _Part(index, [])
        part.examples.append(example)
    if part.examples:
        yield part


@dataclass(frozen=True)
class _Selection:
    """Some records of a source."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]
