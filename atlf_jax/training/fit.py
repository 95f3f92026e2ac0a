"""The fit loop: all stages of one run, from its last checkpoint to its end."""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from beartype import beartype

from atlf_jax.array_types import Batch
from atlf_jax.data import AcquisitionConfig, AugmentConfig, Source, evaluation_batches, train_batches
from atlf_jax.masks import MaskConfig
from atlf_jax.training.checkpoint import Checkpoints, evaluated, read_meta, restore_latest
from atlf_jax.training.logging import RunLog
from atlf_jax.training.objective import Model, Variables
from atlf_jax.training.sharding import data_mesh, place
from atlf_jax.training.stages import Stage, TrainConfig, stage_at, stages
from atlf_jax.training.step import FUSION, Programs, TrainState, adopt, compile_stage, initialise

__all__ = ["fit"]


@beartype
def fit(
    config: TrainConfig,
    model: Model,
    train_source: Source,
    valid_source: Source,
    *,
    mask: MaskConfig | tuple[MaskConfig, ...],
    augment: AugmentConfig,
    acquisition: AcquisitionConfig,
    workers: int,
    workdir: str | Path,
    record: dict[str, Any],
    start: Callable[[], Variables] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Path:
    """Train a model, going on from the last checkpoint in the folder if there is one.

    Args:
        config: stages, losses and intervals.
        model: a Flax module (see ``objective.Model``).
        train_source: records to train on.
        valid_source: records to choose the best checkpoint on.
        mask: mask family, or several to draw from; each training record gets a fresh member, each validation record
            always the same.
        augment: random changes of the training pairs.
        acquisition: phase and noise of the simulated scan.
        workers: loader processes.
        workdir: folder of this run's checkpoints and logs.
        record: the whole configuration as a JSON dictionary, kept in the checkpoints; a run with another
            ``record["model"]`` is refused.
        start: loads variables to begin with, as far as names and shapes are the same; not called by a resumed run.
        devices: devices to train on; all by default.

    Returns:
        The folder.

    Raises:
        ValueError: no stage has steps, a stage does not suit the model, the batch does not suit the devices, or the
            folder holds a run of another model.
        FloatingPointError: the loss or the gradient was not finite.
    """
    workdir = Path(workdir).expanduser().resolve()
    if not stages(config):
        raise ValueError("nothing to train: every stage has 0 steps; set for example train.reconstruction.steps")
    if not len(valid_source):
        raise ValueError("the validation source holds no records; wanted at least one to choose checkpoints on")
    mesh = data_mesh(batch_size=config.batch_size, devices=devices)
    total = stages(config)[-1].end
    saved = _saved(workdir, record)
    step = saved["step"] if saved else 0
    best = (read_meta(workdir, "best") or {"psnr": -math.inf})["psnr"]

    shared: dict[str, Any] = {"mask": mask, "acquisition": acquisition, "batch_size": config.batch_size}
    order: dict[str, Any] = {"seed": config.seed, "start_step": step, "workers": workers}
    validation = partial(evaluation_batches, valid_source, **shared)
    programs_of = cache(partial(compile_stage, config=config, model=model, mesh=mesh))

    with (
        jax.set_mesh(mesh),
        Checkpoints(workdir, record) as checkpoints,
        closing(train_batches(train_source, augment=augment, **order, **shared)) as batches,
        RunLog(workdir, start=step, total=total, batch_size=config.batch_size, every=config.log_every) as log,
        _interruptible() as interrupted,
        jax.transfer_guard("disallow"),
    ):
        state = initialise(model, next(validation())[0], seed=config.seed, mesh=mesh)
        _check_stages(config, model, state)
        if saved:
            state = restore_latest(workdir, like=programs_of(_stage_named(config, saved["stage"])).begin(state))
            log.say(f"resumed at step {step} of {total} from {checkpoints.last_good}")
        elif start is not None:
            with jax.transfer_guard("allow"):
                trained = start()
            state, words = adopt(trained, state, mesh=mesh)
            log.say(words)
        first, pending = step, None

        while True:
            stage = stage_at(config, step)
            programs = programs_of(stage)
            if step == stage.start:
                state = programs.begin(state)

            ending = step >= total or interrupted.is_set()
            evaluation_due = step > first and (step % config.eval_every == 0 or step >= total)
            save_due = step > first and (step % config.save_every == 0 or ending)
            if evaluation_due or save_due:
                _log(log, pending, checkpoints)  # never save what went wrong
                pending = None
            if evaluation_due:
                pictures = config.picture_every > 0 and (step % config.picture_every == 0 or step >= total)
                means = _evaluate(
                    programs, state, validation(), mesh, stage=stage.name, step=step, log=log, pictures=pictures
                )
                if means.get("psnr", -math.inf) > best:
                    best = means["psnr"]
                    checkpoints.save_best(state, step=step, stage=stage.name, psnr=best)
                    save_due = True
            if save_due:
                checkpoints.save_latest(state, step=step, stage=stage.name)
            if evaluation_due or save_due:
                log.restart_clock()
            if ending:
                break

            batch = next(batches)
            state, metrics = programs.step(state, place(batch, mesh))
            step += 1
            _log(log, pending, checkpoints)
            pending = Pending(step, stage.name, metrics, batch.record.tolist())

        log.say(f"interrupted at step {step}; run the same command to go on" if step < total else f"done: {workdir}")
    return workdir


class Pending(NamedTuple):
    """The metrics of a step that may still be under way."""

    step: int  # steps done with it
    stage: str
    metrics: dict[str, jax.Array]
    records: list[int]


def _log(log: RunLog, pending: Pending | None, checkpoints: Checkpoints) -> None:
    """Wait for a step, stop the run if it went wrong, and log it."""
    if pending is None:
        return
    metrics = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if "loss" in broken or "grad_norm" in broken:
        raise FloatingPointError(
            f"{', '.join(broken)} not finite at step {pending.step} of stage {pending.stage}, "
            f"records {pending.records} of the training source; last good checkpoint: "
            f"{checkpoints.last_good}. Look at these records, or lower train.{pending.stage}.learning_rate"
        )
    log.train(pending.step, pending.stage, metrics)


def _evaluate(
    programs: Programs,
    state: TrainState,
    batches: Iterator[tuple[Batch, list[str]]],
    mesh: jax.sharding.Mesh,
    *,
    stage: str,
    step: int,
    log: RunLog,
    pictures: bool,
) -> dict[str, float]:
    """Return and log the means of the stage's scores over the validation records, from the averaged parameters."""
    values: dict[str, list[float]] = {}
    for number, (batch, names) in enumerate(batches):
        outcome = programs.evaluate(evaluated(state), place(batch, mesh))
        scores = {f"loss/{name}": value for name, value in outcome.terms.items()} | outcome.scores
        for name, value in jax.device_get(scores).items():
            values.setdefault(name, []).extend(value[: len(names)].tolist())
        if number == 0 and pictures:
            log.picture(step, {name: value[0] for name, value in jax.device_get(outcome.pictures).items()})
    means = {name: float(np.mean(value)) for name, value in values.items()}
    means = {"loss": sum(value for name, value in means.items() if name.startswith("loss/"))} | means
    log.evaluation(step, stage, means)
    return means


def _saved(workdir: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the meta data of the folder's latest checkpoint, if there is one and it is of this model."""
    saved = read_meta(workdir, "latest")
    if saved and saved["config"]["model"] != record["model"]:
        there, here = _fields(saved["config"]["model"]), _fields(record["model"])
        differing = [
            f"model.{name} is {there.get(name)} there and {here.get(name)} here"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        ]
        raise ValueError(f"{workdir} holds a run of another model ({', '.join(differing)}); give another workdir")
    return saved


def _fields(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries, with dots between the names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _stage_named(config: TrainConfig, name: str) -> Stage:
    found = [stage for stage in stages(config) if stage.name == name]
    if not found:
        raise ValueError(f"the checkpoint is in stage {name}, which has 0 steps here; give another workdir")
    return found[0]


def _check_stages(config: TrainConfig, model: Model, state: TrainState) -> None:
    """Refuse stages that the model has no part for."""
    if not state.params:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train")
    for stage in stages(config):
        if stage.name in ("autoencode", "fusion") and FUSION not in state.params:
            raise ValueError(
                f"stage {stage.name} needs a model with a fusion process, and {type(model).__name__} as configured has "
                f"none; set train.{stage.name}.steps to 0"
            )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event, so that the loop can save and end; a second one acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        event.set()
        signal.signal(number, before[number])

    before = {int(number): signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
