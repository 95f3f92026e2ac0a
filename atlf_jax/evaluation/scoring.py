"""Reconstruct every slice of a source by every method under every mask, and score it: one row each.

Magnitude images are compared in the units of the source: a reconstruction is multiplied by the scale that its
measurement was divided by. The zero-filled image, the magnitude of A^H y, is scored as a method like the others.
"""

import dataclasses
import itertools
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

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.data import AcquisitionConfig, Example, Source, evaluation_batches
from atlf_jax.masks import LINE_MASKS, Mask, MaskConfig, stored_mask
from atlf_jax.metrics import METRICS, score
from atlf_jax.models import ZeroFilled
from atlf_jax.models.uncertainty import spread
from atlf_jax.ops import ct_picture

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
    "single_masks",
]

Reconstructor = Callable[[Measurement], Reconstruction]

ZERO_FILLED = "zero-filled"
# What is told of every slice: each metric of the whole picture, and of the pixels (or windows' centres) in the body.
REPORTED = (*METRICS, *(f"{name}_body" for name in METRICS))
LOWER_IS_BETTER = frozenset({"nmse", "hfen", "nmse_body", "hfen_body"})  # for the others higher is better
BODY = 0.05  # of the maximum: what is darker is air


@beartype
@dataclass(frozen=True)
class EvaluationConfig:
    """How reconstructions are scored and shown."""

    profile: Literal["picture", "fastmri"] = "picture"
    """Metric profile: each slice in units of its full range, or one value a volume (subject)."""
    batch_size: int = 4
    """Slices reconstructed at once; seconds a slice are those of a batch divided by this."""
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
    name: str  # of the slice; of the subject for a volume
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
    spreads: dict[str, Float[np.ndarray, "h w"]] = {}  # by method, where asked for (see models.uncertainty)


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
        acquisition: simulated phase and noise.

    Returns:
        Rows in the order mask, slice, method; ``zero-filled`` comes first.

    Raises:
        ValueError: for an empty source, no mask, two masks of one label, or a model named like the baseline.
    """
    if len(source) == 0 or not masks:
        raise ValueError(f"got {len(source)} records and {len(masks)} masks, wanted at least one of each")
    rows = []
    for mask in single_masks(masks):
        panels = reconstruct_slices(models, source, mask=mask, batch_size=config.batch_size, acquisition=acquisition)
        unit = "subject" if config.profile == "fastmri" else "record"
        for _, group in itertools.groupby(panels, key=lambda panel: getattr(panel, unit)):
            rows += _score(list(group), config.profile)
    return rows


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
        ranked = [row.record for row in sorted(scored, key=lambda row: row.values["psnr"])]
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
        batch_size: slices reconstructed at once.
        acquisition: simulated phase and noise.
        timed: run the first batch twice, so that no time holds a compilation; else times are not to be used.
        with_spread: also how much the mirror copies of every model's image differ; three more reconstructions.

    Raises:
        ValueError: for a model named like the baseline.
    """
    if ZERO_FILLED in models:
        raise ValueError(f"a model is named {ZERO_FILLED!r}, the name of the baseline; wanted another name")
    methods = {ZERO_FILLED: jax.tree_util.Partial(ZeroFilled().apply, {}), **models}
    source = _Noting(source, {})
    fresh = timed
    for batch, names in evaluation_batches(source, mask=mask, batch_size=batch_size, acquisition=acquisition):
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
        fresh = False
        for index, name in enumerate(names):
            record = int(batch.record[index])
            yield Panel(
                mask=mask_label(mask),
                subject=source.subjects[record],
                name=name,
                record=record,
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
    target = np.stack([panel.target for panel in panels])
    inside = np.stack([body(image) for image in target])
    rows = []
    for method in middle.images:
        values = _score_volume(profile, np.stack([panel.images[method] for panel in panels]), target, inside)
        rows.append(
            Score(
                mask=middle.mask,
                method=method,
                subject=middle.subject,
                name=middle.name if profile == "picture" else middle.subject,
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
class _Noting:
    """A source that notes the subject of each record it reads, so that none is read twice."""

    source: Source
    subjects: dict[int, str]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        self.subjects[index] = example.subject
        return example


@dataclass(frozen=True)
class _Selection:
    """Some records of a source."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]
