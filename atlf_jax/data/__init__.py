"""Data: sources of paired CT-MR slices, their transforms and the pipeline to batches.

To add a dataset, write ``data/x.py`` with a frozen dataclass ``XConfig`` that has a field ``split`` and a method
``open()``, which returns a source (``__len__`` and ``__getitem__(index) -> Example``), and add it to ``DATASETS``. A
dataset in a file of your own needs no entry there: its name is ``FILE.py:XConfig``.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beartype import beartype

from atlf_jax import own_code
from atlf_jax.data.aanlib import AANLIBConfig, AANLIBSource
from atlf_jax.data.example import Dataset, Example, Source, Split, validate_example
from atlf_jax.data.fastmri import FastMRIConfig, FastMRISource
from atlf_jax.data.images import ImagesConfig, ImagesSource
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
    "Dataset",
    "Example",
    "FastMRIConfig",
    "FastMRISource",
    "ImagesConfig",
    "ImagesSource",
    "PhantomConfig",
    "PhantomSource",
    "PreparedConfig",
    "PreparedSource",
    "Source",
    "Split",
    "augment",
    "dataset_settings",
    "evaluation_batches",
    "open_source",
    "train_batches",
    "undersample",
    "validate_example",
    "window_ct",
]

DATASETS: dict[str, type[Dataset]] = {
    "aanlib": AANLIBConfig,
    "fastmri": FastMRIConfig,
    "images": ImagesConfig,
    "phantom": PhantomConfig,
    "prepared": PreparedConfig,
}


@beartype
@dataclass(frozen=True)
class DataConfig:
    """Which dataset to read, and how."""

    source: Dataset = field(default_factory=PhantomConfig)
    """Settings of the dataset; their class says which dataset it is. --data.dataset NAME or FILE.py:NAME changes it."""
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    """Phase, coils, coil maps and noise of the simulated scan."""
    train_split: Split = "train"
    """Subjects to train on."""
    valid_split: Split = "valid"
    """Subjects to choose checkpoints on."""
    workers: int = 0
    """Loader processes; 0 loads in a thread of the main process."""

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.source):
            raise ValueError(
                f"data.source is {self.source!r}; wanted the settings of a dataset, a dataclass with a field split and "
                "a method open(), such as AANLIBConfig()"
            )
        if self.workers < 0:
            raise ValueError(f"data.workers is {self.workers}; wanted 0 or more loader processes")

    @property
    def dataset(self) -> str:
        """The name of the dataset: a key of ``DATASETS``, or FILE.py:NAME without the folder."""
        file, colon, name = own_code.name_of(type(self.source), DATASETS, what="dataset").rpartition(":")
        return f"{Path(file).name}{colon}{name}"

    @property
    def ct_windows(self) -> tuple[str, ...]:
        """The windows of the CT; empty if the settings do not say."""
        return getattr(self.source, "ct_windows", ())


@beartype
def dataset_settings(name: str, **settings: Any) -> Any:
    """Return the settings of a dataset, with defaults for the fields that are not given.

    Args:
        name: a key of ``DATASETS``, or FILE.py:NAME.
        settings: fields of the dataset's own configuration.

    Raises:
        ValueError: there is no such dataset, or the name is not that of a dataset.

    Example:
        >>> dataset_settings("phantom", subjects=4).subjects
        4
    """
    kind = own_code.find(name, DATASETS, what="dataset")
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "open")):
        raise ValueError(f"{name} is no dataset; wanted a dataclass of settings with a field split and a method open()")
    return kind(**settings)


@beartype
def open_source(config: DataConfig, split: Split) -> Source:
    """Open the configured dataset at one split.

    Args:
        config: settings of the dataset; their ``split`` is replaced.
        split: the subjects to read.

    Returns:
        Records by index.
    """
    settings: Any = config.source  # a dataclass, as DataConfig has checked
    return dataclasses.replace(settings, split=split).open()
