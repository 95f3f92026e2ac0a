"""A trial: which models are tried on which records, under which masks and acquisition, and how they are scored.

Scoring, ablation, statistics, uncertainty and the audit all take one ``Trial``. To vary it, for example with another
CT, use ``dataclasses.replace(trial, source=...)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from beartype import beartype

from atlf_jax.array_types import Reconstructor
from atlf_jax.data import AcquisitionConfig, Example, Source
from atlf_jax.masks import MaskConfig, mask_label
from atlf_jax.metrics import METRICS, find_metric, is_black

__all__ = ["ZERO_FILLED", "EvaluationConfig", "Reconstructor", "Selection", "Trial", "without_black"]

ZERO_FILLED = "zero-filled"  # the baseline, a method like the others
LEAST_PEAK, MOST_PEAK = 0.05, 2.0  # of the brightest pixel where 1 is taken for the peak
ALL_BLACK = (
    "the MR of all {} slices is black: there is nothing to reconstruct; choose another split, or look at the files"
)


@beartype
@dataclass(frozen=True)
class EvaluationConfig:
    """How reconstructions are scored and shown."""

    profile: Literal["picture", "fastmri"] = "picture"
    """Metric profile: each slice in units of its full range, or one value a volume (subject)."""
    metrics: tuple[str, ...] = tuple(METRICS)
    """What is scored: names in METRICS, or FILE.py:NAME of a metric of your own. Slices are ranked by the first."""
    batch_size: int = 4
    """Slices reconstructed at once, at most all of them; seconds a slice are those of a batch divided by this."""
    panels: int = 3
    """Slices shown for each mask, from worst to best: 1 = the median one, 3 = worst, median, best."""
    confidence: float = 0.95
    """Confidence of the bootstrap intervals."""
    bootstrap: int = 10_000
    """Bootstrap resamples of the subjects."""

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics are {', '.join(self.metrics) or 'none'}; wanted at least one, each once")
        for name in self.metrics:
            find_metric(name)
        if self.batch_size < 1 or self.bootstrap < 1:
            raise ValueError(f"batch_size and bootstrap must be >= 1, got {self.batch_size} and {self.bootstrap}")
        if self.panels < 0:
            raise ValueError(f"panels must be >= 0, got {self.panels}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")


@beartype
@dataclass(frozen=True)
class Trial:
    """Models x records x masks, and how they are scored.

    Attributes:
        source: records by index; for the profile ``fastmri``, slices of a subject follow each other.
        masks: settings, each with its own label in the tables.
        models: by name; any function of a measurement. It is compiled when it is called. Pass a network as
            ``jax.tree_util.Partial(module.apply, variables)``: its parameters are then arguments of the compiled
            program, not constants in it.
        acquisition: simulated phase, coils and noise.
        config: metrics, profile, batches, panels and bootstrap.

    Raises:
        ValueError: two masks have one label, or a model is named like the baseline.

    Example:
        >>> from atlf_jax.data import PhantomConfig
        >>> trial = Trial(PhantomConfig(size=32, slices=1).open(), masks=(MaskConfig(), MaskConfig("radial", 8.0)))
        >>> len(trial.source), trial.labels
        (32, ('random 4x, centre 0.08', 'radial 8x'))
    """

    source: Source
    masks: tuple[MaskConfig, ...] = ()
    models: Mapping[str, Reconstructor] = field(default_factory=dict)
    acquisition: AcquisitionConfig = AcquisitionConfig()
    config: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        if twice := {label for label in self.labels if self.labels.count(label) > 1}:
            raise ValueError(f"several masks are called {min(twice)!r}; score them in separate runs")
        if ZERO_FILLED in self.models:
            raise ValueError(f"a model is named {ZERO_FILLED!r}, the name of the baseline; wanted another name")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the masks in tables."""
        return tuple(map(mask_label, self.masks))


@dataclass(frozen=True)
class Selection:
    """Some records of a source."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]


@beartype
def without_black(source: Source, *, profile: Literal["picture", "fastmri"] = "picture") -> tuple[Source, list[str]]:
    """Leave out the slices whose MR is black: there is nothing to reconstruct, and their scores would mislead.

    Args:
        source: records by index; each is read once.
        profile: ``fastmri`` scores whole volumes, so it leaves out only the slices of black volumes.

    Returns:
        The source without them, and the names of the slices that were left out.

    Raises:
        ValueError: nothing remains, or for ``picture``, whose scores take 1 for the peak, the brightest pixel is far
            from 1.
    """
    volumes, names, black, brightest = [], [], [], 0.0
    for index in range(len(source)):
        example = source[index]
        volumes.append((example.subject, example.name.rpartition("_")[0]))
        names.append(example.name)
        black.append(bool(is_black(example.target)))
        brightest = max(brightest, float(np.abs(example.target).max()))
    if profile == "picture" and brightest and not LEAST_PEAK <= brightest <= MOST_PEAK:
        raise ValueError(
            f"the brightest pixel of {len(source)} slices is {brightest:.2g}, and PSNR and SSIM would take 1 for the "
            "peak; divide each volume by its maximum in the dataset, or score with --profile fastmri"
        )
    if profile == "fastmri":
        with_signal = {volume for volume, is_dark in zip(volumes, black, strict=True) if not is_dark}
        black = [volume not in with_signal for volume in volumes]
    kept = tuple(index for index, is_dark in enumerate(black) if not is_dark)
    if source and not kept:
        raise ValueError(ALL_BLACK.format(len(source)))
    left_out = [name for name, is_dark in zip(names, black, strict=True) if is_dark]
    return (Selection(source, kept), left_out) if left_out else (source, [])
