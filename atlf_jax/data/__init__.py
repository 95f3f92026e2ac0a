"""Data: sources of paired CT-MR slices, their transforms and the pipeline to batches.

To add a dataset, write ``data/x.py`` with an ``XConfig`` (with a field ``split``) and an ``XSource`` (``__len__`` and
``__getitem__(index) -> Example``), and add its row to ``DATASETS``.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from beartype import beartype

from atlf_jax.data.aanlib import AANLIBConfig, AANLIBSource
from atlf_jax.data.example import Example, Source, Split, validate_example
from atlf_jax.data.fastmri import FastMRIConfig, FastMRISource
from atlf_jax.data.phantom import PhantomConfig, PhantomSource
from atlf_jax.data.pipeline import evaluation_batches, train_batches
from atlf_jax.data.prepared import PreparedConfig, PreparedSource
from atlf_jax.data.transforms import AcquisitionConfig, AugmentConfig, augment, undersample, window_ct

__all__ = [
    "DATASETS",
    "AANLIBConfig",
    "AANLIBSource",
    "AcquisitionConfig",
    "AugmentConfig",
    "DataConfig",
    "Example",
    "FastMRIConfig",
    "FastMRISource",
    "PhantomConfig",
    "PhantomSource",
    "PreparedConfig",
    "PreparedSource",
    "Source",
    "Split",
    "augment",
    "evaluation_batches",
    "open_source",
    "train_batches",
    "undersample",
    "validate_example",
    "window_ct",
]

DATASETS = {
    "aanlib": (AANLIBConfig, AANLIBSource),
    "fastmri": (FastMRIConfig, FastMRISource),
    "phantom": (PhantomConfig, PhantomSource),
    "prepared": (PreparedConfig, PreparedSource),
}


@beartype
@dataclass(frozen=True)
class DataConfig:
    """Which dataset to read, and how."""

    dataset: Literal["aanlib", "fastmri", "phantom", "prepared"] = "phantom"
    """The dataset; the settings of the others are ignored."""
    aanlib: AANLIBConfig = field(default_factory=AANLIBConfig)
    """Registered brain CT-MR pictures from a folder."""
    fastmri: FastMRIConfig = field(default_factory=FastMRIConfig)
    """Raw k-space of knees or heads from fastMRI files; no CT."""
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    """Generated heads; needs no download."""
    prepared: PreparedConfig = field(default_factory=PreparedConfig)
    """Your own scans, CHAOS or MM-WHS, made by python -m atlf_jax.data.prepare."""
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    """Phase, coils, coil maps and noise of the simulated scan."""
    train_split: Split = "train"
    """Subjects to train on."""
    valid_split: Split = "valid"
    """Subjects to choose checkpoints on."""
    workers: int = 0
    """Loader processes; 0 loads in a thread of the main process."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"data.workers is {self.workers}; wanted 0 or more loader processes")

    @property
    def ct_windows(self) -> tuple[str, ...]:
        """Return the windows that the CT is read through; empty where the configuration alone does not tell."""
        found = {"phantom": self.phantom.ct_window, "prepared": self.prepared.window}.get(self.dataset, "manifest")
        return found if isinstance(found, tuple) else () if found == "manifest" else (found,)


@beartype
def open_source(config: DataConfig, split: Split) -> Source:
    """Open the configured dataset at one split.

    Args:
        config: names the dataset and holds its settings; their own ``split`` is replaced.
        split: the subjects to read.

    Returns:
        Records by index.
    """
    _, source = DATASETS[config.dataset]
    return source(dataclasses.replace(getattr(config, config.dataset), split=split))
