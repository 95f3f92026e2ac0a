"""Settings of a training run: its stages, and what they share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from beartype import beartype

from atlf_jax.objectives import Objective, Supervised

__all__ = ["Span", "Stage", "TrainConfig", "matches", "span_at", "spans"]


@beartype
@dataclass(frozen=True)
class Stage:
    """One stage of training; a stage of 0 steps is skipped."""

    name: str
    """Unique name of the stage, in the log and on the command line (--train.NAME.steps)."""
    objective: Objective
    """What is minimised: a frozen dataclass such as those in ``atlf_jax.objectives``."""
    trains: tuple[str, ...] = ("*",)
    """Patterns of the names of the parameters that are trained, such as ``fusion/*`` or ``phase_0/*``. A pattern
    after ! excludes parameters. All others are frozen."""
    steps: int = 0
    """Batches seen in this stage; 0 skips it."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """After the warm-up: cosine decay, constant, or halved after every sixth of the stage."""
    final_fraction: float = 0.01
    """Floor of the schedule, as a fraction of the peak (not used by 'constant')."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    optimiser: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay; only for adamw."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a stage is named {self.name!r}; wanted a word of letters, digits and _")
        if not dataclasses.is_dataclass(self.objective) or isinstance(self.objective, type):
            raise ValueError(
                f"the objective of stage {self.name} is {self.objective!r}; wanted one with its settings, such as "
                "Supervised(l1=1.0), made of a frozen dataclass"
            )
        if self.steps < 0 or self.warmup_steps < 0:
            raise ValueError(f"steps and warmup_steps must be >= 0, got {self.steps} and {self.warmup_steps}")
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps must be below steps = {self.steps}, got {self.warmup_steps}; with fewer steps, "
                f"also give a smaller --train.{self.name}.warmup_steps"
            )
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError(
                f"learning_rate and clip_norm must be above 0, got {self.learning_rate} and {self.clip_norm}"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction must be in [0, 1], got {self.final_fraction}")
        if self.weight_decay < 0 or (self.weight_decay and self.optimiser == "adam"):
            raise ValueError(f"weight_decay {self.weight_decay} must be >= 0 and needs optimiser 'adamw'")


@beartype
@dataclass(frozen=True)
class TrainConfig:
    """Settings of training: the stages in order, and what they share."""

    stages: tuple[Stage, ...] = (Stage("reconstruction", Supervised()),)
    """Each stage starts from the averaged parameters of the stage before."""
    start_from: str = ""
    """A run's folder, a packed file or the name of shipped weights: parameters of the same name and shape are copied
    from it, and the others are initialised as usual."""
    batch_size: int = 4
    """Records per batch, over all devices; a multiple of the number of devices."""
    parameter_shards: int = 1
    """Devices among which large parameters and their optimiser state are divided (FSDP); 1: every device has a copy."""
    shard_rules: tuple[tuple[str, int], ...] = ()
    """Exceptions from dividing along the largest axis: pairs of a pattern of parameter names and an axis, of which the
    first that matches holds; -1 leaves a copy on every device."""
    skip_not_finite: int = 0
    """Steps in a row whose loss or gradient may be not finite: they are left out and counted; one more ends the run."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one update."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, which is evaluated and saved; 0 saves the last parameters."""
    seed: int = 0
    """Seed of initial parameters, order, augmentation, masks, and random choices of objective and network."""
    allow_shared_subjects: bool = False
    """Allow subjects in both training and validation; every line of the log then says so."""
    log_every: int = 20
    """Steps between logged lines."""
    eval_every: int = 500
    """Steps between validations, which choose the best checkpoint; also done at the end."""
    save_every: int = 500
    """Steps between saves of the latest checkpoint; also done at the end and when interrupted."""
    picture_every: int = 500
    """Steps between picture panels, made if a validation is due too, and at the end; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "parameter_shards", "accumulate", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        for name in ("picture_every", "seed", "skip_not_finite"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        names = [stage.name for stage in self.stages]
        taken = {"loss", *(item.name for item in dataclasses.fields(TrainConfig))}  # on the command line
        if len(set(names)) < len(names) or taken & set(names):
            raise ValueError(
                f"the stages are named {', '.join(names)}; wanted names unlike each other and unlike "
                f"{', '.join(sorted(taken))}"
            )
        for stage in self.stages:
            if stage.steps % self.accumulate:
                raise ValueError(
                    f"{stage.name}.steps must be a multiple of accumulate = {self.accumulate}, got {stage.steps}"
                )

    def with_stage(self, name: str, **changes: Any) -> "TrainConfig":
        """Return the same settings with changes to one stage.

        Args:
            name: of the stage.
            changes: its fields.

        Raises:
            ValueError: there is no such stage.

        Example:
            >>> TrainConfig().with_stage("reconstruction", steps=5).stages[0].steps
            5
        """
        if name not in [stage.name for stage in self.stages]:
            raise ValueError(f"there is no stage {name!r}; there are {', '.join(stage.name for stage in self.stages)}")
        changed = (dataclasses.replace(each, **changes) if each.name == name else each for each in self.stages)
        return dataclasses.replace(self, stages=tuple(changed))


class Span(NamedTuple):
    """A stage and its steps: from ``start`` up to but not including ``end``, counted over all stages."""

    stage: Stage
    start: int
    end: int

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.name


def spans(config: TrainConfig) -> list[Span]:
    """Return the stages of a run in order, without those of 0 steps.

    Example:
        >>> first, last = (Stage(name, Supervised(), steps=steps) for name, steps in (("first", 2), ("last", 3)))
        >>> [(each.name, each.start, each.end) for each in spans(TrainConfig(stages=(first, last)))]
        [('first', 0, 2), ('last', 2, 5)]
    """
    result: list[Span] = []
    for stage in config.stages:
        if stage.steps:
            start = result[-1].end if result else 0
            result.append(Span(stage, start, start + stage.steps))
    return result


def span_at(config: TrainConfig, step: int) -> Span:
    """Return the stage of a step; steps after the end belong to the last stage.

    Example:
        >>> first, last = (Stage(name, Supervised(), steps=steps) for name, steps in (("first", 2), ("last", 3)))
        >>> [span_at(TrainConfig(stages=(first, last)), step).name for step in (0, 2, 9)]
        ['first', 'last', 'last']
    """
    every = spans(config)
    return next((span for span in every if step < span.end), every[-1])


def matches(patterns: Sequence[str], name: str) -> bool:
    """Return whether a parameter matches a pattern, and none of those that begin with ``!``.

    Args:
        patterns: as of ``Stage.trains``; ``*`` stands for any characters.
        name: of the parameter, such as ``phase_0/conv_D/kernel``.

    Example:
        >>> [matches(("*", "!fusion/*"), name) for name in ("phase_0/rho", "fusion/decoder/kernel")]
        [True, False]
    """
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    return any(fnmatchcase(name, each) for each in included) and not any(fnmatchcase(name, each) for each in excluded)
