"""What a run is made of: the stages one after another, and what they share."""

from dataclasses import dataclass, field
from typing import NamedTuple

from beartype import beartype

from atlf_jax.training.objective import LossConfig
from atlf_jax.training.optimiser import StageConfig

__all__ = ["STAGES", "Stage", "TrainConfig", "stage_at", "stages"]

STAGES = ("autoencode", "fusion", "reconstruction", "adapters", "joint")  # in the order of a run


@beartype
@dataclass(frozen=True)
class TrainConfig:
    """How to train: the stages in their order, then what they share."""

    autoencode: StageConfig = field(default_factory=StageConfig)
    """Phase I of the fusion process: encode and decode each modality by itself."""
    fusion: StageConfig = field(default_factory=StageConfig)
    """Phase II of the fusion process: learn the fused image."""
    reconstruction: StageConfig = field(default_factory=StageConfig)
    """Train the reconstruction process while the fusion process is frozen and CT adapters are left out."""
    adapters: StageConfig = field(default_factory=StageConfig)
    """Train the CT adapters while all else is frozen, so that without a CT the network stays what it was."""
    joint: StageConfig = field(default_factory=StageConfig)
    """Train everything together, CT adapters too."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss terms."""
    start_from: str = ""
    """Begin with the parameters of a run's folder, a packed file or shipped weights of this name, as far as names and
    shapes are the same; the others begin as usual."""
    batch_size: int = 4
    """Records a batch, over all devices; a multiple of their number."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one update."""
    ema_decay: float = 0.999
    """Decay of the parameter average that is evaluated and kept; 0 keeps the last parameters."""
    seed: int = 0
    """Of initial parameters, order, augmentation, masks, mu and gates."""
    allow_shared_subjects: bool = False
    """Allow subjects to be both trained on and validated on; every line of the log then says so."""
    log_every: int = 20
    """Steps between logged lines."""
    eval_every: int = 500
    """Steps between validations, which choose the best checkpoint; also done at the end."""
    save_every: int = 500
    """Steps between saves of the latest checkpoint; also done at the end and when interrupted."""
    picture_every: int = 500
    """Steps between picture panels, made when a validation is also due, and at the end; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if self.picture_every < 0 or self.seed < 0:
            raise ValueError(f"picture_every and seed must be >= 0, got {self.picture_every} and {self.seed}")
        for stage in stages(self):
            if stage.config.steps % self.accumulate:
                raise ValueError(
                    f"{stage.name}.steps must be a multiple of accumulate = {self.accumulate}, got {stage.config.steps}"
                )


class Stage(NamedTuple):
    """One stage that is not skipped, from step ``start`` until before ``end``."""

    name: str
    config: StageConfig
    start: int
    end: int


def stages(config: TrainConfig) -> list[Stage]:
    """Return the stages of a run in order; the step count runs through all of them."""
    result: list[Stage] = []
    for name in STAGES:
        stage: StageConfig = getattr(config, name)
        if stage.steps:
            start = result[-1].end if result else 0
            result.append(Stage(name, stage, start, start + stage.steps))
    return result


def stage_at(config: TrainConfig, step: int) -> Stage:
    """Return the stage that takes ``step``; the last stage also stands for the end of the run."""
    every = stages(config)
    return next((stage for stage in every if step < stage.end), every[-1])
