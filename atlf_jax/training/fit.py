"""The fit loop: all stages of one run, from its last checkpoint to its end."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from beartype import beartype

from atlf_jax.array_types import Array, Batch
from atlf_jax.data import AcquisitionConfig, AugmentConfig, Source, evaluation_batches, train_batches
from atlf_jax.earlier import migrated
from atlf_jax.masks import MaskConfig
from atlf_jax.metrics import is_black
from atlf_jax.objectives import Model
from atlf_jax.program import Interrupted
from atlf_jax.signals import Interruption, between_instructions
from atlf_jax.training.checkpoint import (
    Checkpoints,
    Saved,
    Snapshot,
    checkpoints_of,
    evaluated,
    newest,
    put_state,
    read_meta,
)
from atlf_jax.training.fault import first_fault
from atlf_jax.training.hosts import StopVote, barrier, gathered, is_first, one_at_a_time, wait_for_common_step
from atlf_jax.training.identity import changes, describe_data, shared_subjects
from atlf_jax.training.lock import exclusive
from atlf_jax.training.logging import RunLog, SilentLog
from atlf_jax.training.sharding import data_mesh, own_rows, place
from atlf_jax.training.speed import Profile, Speed, describe_start
from atlf_jax.training.stages import Span, TrainConfig, span_at, spans
from atlf_jax.training.step import Programs, TrainState, compile_stage, copy_matching_arrays, initialise, trained_names

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
    start: Callable[[], Mapping[str, Any]] | None = None,
    devices: Sequence[jax.Device] | None = None,
    resume_changed: bool = False,
    profile: tuple[int, int] | None = None,
    interruption: Interruption | None = None,
) -> Path:
    """Train a model; continue from the last checkpoint in the folder if there is one.

    Args:
        config: stages, losses and intervals.
        model: the network (see ``objectives.Model``).
        train_source: records to train on.
        valid_source: records to choose the best checkpoint on.
        mask: mask settings, one or several to draw from. A training record gets a new mask each time, a validation
            record always the same.
        augment: random changes of the training pairs.
        acquisition: phase, coils and noise of the simulated scan.
        workers: loader processes.
        workdir: folder of this run's checkpoints and logs.
        record: the whole configuration as a JSON dictionary, kept in the checkpoints.
        start: loads the variables to begin with, where names and shapes agree; not called when a run is resumed.
        devices: devices to train on; all by default.
        resume_changed: continue although settings or data differ from those of the run in the folder; its checkpoints
            record from which step on they changed, and its best checkpoint is set aside.
        profile: first and last step of which a trace is written to ``WORKDIR/profile``, for TensorBoard or Perfetto.
        interruption: of ``atlf_jax.signals.interruptible``; by default signals are checked between two steps.

    Returns:
        The folder.

    Raises:
        ValueError: no stage has steps, a stage does not suit the model, the batch does not suit the devices, subjects
            are both trained on and validated on, or the folder is in use, cannot be written, or holds a run of other
            settings or only damaged checkpoints.
        FloatingPointError: the loss or the gradient was not finite.
        Interrupted: a signal came; the state was saved.
        OSError: the disk did not take a checkpoint or a line of the log.
    """
    workdir = Path(workdir).expanduser().resolve()
    if not spans(config):
        last = config.stages[-1].name if config.stages else "NAME"
        raise ValueError(f"nothing to train: every stage has 0 steps; set for example train.{last}.steps")
    if not len(valid_source):
        raise ValueError("the validation source holds no records; wanted at least one to choose checkpoints on")
    mesh = data_mesh(batch_size=config.batch_size, devices=devices, parameter_shards=config.parameter_shards)
    warning = _check_subjects(config, train_source, valid_source)
    shared: dict[str, Any] = {"mask": mask, "acquisition": acquisition, "batch_size": config.batch_size}
    shared["rows"] = own_rows(mesh, config.batch_size)
    validation = partial(evaluation_batches, valid_source, **shared)
    programs_of = cache(partial(compile_stage, config=config, model=model, mesh=mesh))

    with (
        exclusive(workdir) if is_first() else nullcontext("") as lock_notice,
        _interruptible(interruption) as interruption,
        jax.set_mesh(mesh),
        jax.transfer_guard("disallow"),
    ):
        data = describe_data(train_source, valid_source)
        barrier("the folder is locked")
        earlier = _read_earlier_run(workdir, {"config": record, "data": data}, resume_changed=resume_changed)
        barrier("the checkpoints are read")
        begun = _begin(config, model, next(validation())[0], earlier, programs_of, mesh=mesh, start=start)
        facts = {"data": data, **earlier.facts} | ({"warning": warning} if warning else {})
        order: dict[str, Any] = {"seed": config.seed, "start_step": begun.step, "workers": workers}
        pace: dict[str, Any] = {"batch_size": config.batch_size, "every": config.log_every}
        pace |= {"start": begun.step, "total": spans(config)[-1].end, "validation_due": begun.validation_due}
        if is_first():
            describe_start(workdir, record=record, step=begun.step, mesh=mesh)

        with (
            RunLog(workdir, warning=warning, **pace) if is_first() else SilentLog() as log,
            Checkpoints(workdir, record, facts, earlier.replaced) as checkpoints,
            closing(train_batches(train_source, augment=augment, **order, **shared)) as batches,
            Profile(workdir / "profile", profile if is_first() else None) as tracing,
        ):
            for notice in filter(None, (lock_notice, *earlier.notices, *begun.notices)):
                log.say(notice)
            alone = jax.process_count() == 1
            interruption.rescue = (
                checkpoints.rescue if alone else partial(wait_for_common_step, lambda: checkpoints.last_good)
            )
            vote = StopVote(interruption.asked, mesh)
            validate = partial(_validate, validation, vote=vote, mesh=mesh, log=log)
            tools = (programs_of, batches, validate, checkpoints)
            speed = Speed(mesh)
            if not _loop(config, begun, *tools, vote=vote, mesh=mesh, log=log, speed=speed, tracing=tracing):
                raise Interrupted(checkpoints.rescue())
            log.say(f"done: {workdir}")
    return workdir


class Begun(NamedTuple):
    """The start of a run: new, from trained weights, or from its checkpoint."""

    state: list[TrainState]  # one, which the loop takes out: its memory is free once it has trained a step
    step: int
    best: float  # validation PSNR [dB] of the best checkpoint
    validation_due: bool  # the validation of this step was interrupted
    notices: list[str]  # lines for the log


def _begin(
    config: TrainConfig,
    model: Model,
    example: Batch,
    earlier: "EarlierRun",
    programs_of: Callable[[Span], Programs],
    *,
    mesh: jax.sharding.Mesh,
    start: Callable[[], Mapping[str, Any]] | None,
) -> Begun:
    """Return the start of a run: from its last checkpoint, from a trained network, or new."""
    state = initialise(model, example, seed=config.seed, mesh=mesh, rules=config.shard_rules)
    _check_stages(config, model, state)
    saved, notices = earlier.saved, []
    if saved:
        state = put_state(saved, like=programs_of(_stage_of(config, saved.meta)).begin(state))
        notices = [f"resumed at step {saved.meta['step']} of {spans(config)[-1].end} from {saved.folder}"]
    elif start is not None:
        with jax.transfer_guard("allow"):
            trained = start()
        state, notice = copy_matching_arrays(trained, state)
        notices = [notice]
    meta = saved.meta if saved else {}
    return Begun([state], meta.get("step", 0), earlier.best, bool(meta.get("validation_due")), notices)


def _loop(
    config: TrainConfig,
    begun: Begun,
    programs_of: Callable[[Span], Programs],
    batches: Iterator[Batch],
    validate: Callable[..., dict[str, float] | None],
    checkpoints: Checkpoints,
    *,
    vote: StopVote,
    mesh: jax.sharding.Mesh,
    log: RunLog | SilentLog,
    speed: Speed,
    tracing: Profile,
) -> bool:
    """Train to the end or until a signal comes; return whether the end was reached.

    At each step: validate if it is due, save if it is due, take the next batch, step, and log the step before.
    """
    state, (_, step, best, validation_due, _) = begun.state.pop(), begun
    first, total, pending = step, spans(config)[-1].end, None
    note = _Notes(config, log, checkpoints, vote)
    while True:
        span = span_at(config, step)
        programs = programs_of(span)
        if step == span.start:
            state = one_at_a_time(programs.begin, state)

        evaluation_due = (step > first or validation_due) and (step % config.eval_every == 0 or step >= total)
        snapshot = Snapshot(state, step, span.name, validation_due=evaluation_due)
        improved = False
        if step > first and (evaluation_due or step == span.start):  # what follows may take long
            pending = note(pending)  # raises if the step failed, so that a broken state is never saved
            checkpoints.offer(snapshot)
        if evaluation_due:
            pictures = config.picture_every > 0 and (step % config.picture_every == 0 or step >= total)
            means = validate(programs, state, snapshot=snapshot, pictures=pictures)
            if means is not None:
                snapshot = snapshot._replace(validation_due=False)
                checkpoints.offer(snapshot)
                psnr = means.get("psnr", math.nan)
                improved = math.isfinite(psnr) and psnr > best
                if improved:
                    best = psnr
                    checkpoints.save_best(snapshot, psnr=best)

        ending = step >= total or vote.stop
        save_due = step > first and (step % config.save_every == 0 or improved or ending)
        if save_due:
            pending = note(pending)
            checkpoints.save_latest(snapshot)
        if evaluation_due or save_due:
            log.restart_clock()
        if ending:
            return step >= total and not snapshot.validation_due

        if step in (first, span.start):
            log.compiling(span.name)
        tracing.at(step)
        with speed.waiting():
            batch = next(batches)
        placed = place(batch, mesh)
        following, metrics = one_at_a_time(programs.step, state, placed)
        measured = speed.of(programs, state, placed, images=config.batch_size)
        cause = partial(_cause, programs, state, placed)
        note(pending)  # of the step before, while this one runs
        if step > first:
            checkpoints.offer(Snapshot(state, step, span.name))
        state, step = following, step + 1
        pending = Pending(step, span.name, metrics, vote.cast(), measured, np.asarray(batch.record), cause)


class Pending(NamedTuple):
    """The metrics of a step that may still be running."""

    step: int  # steps done with it
    stage: str
    metrics: dict[str, Array]
    vote: Array | None
    speed: dict[str, float]
    records: np.ndarray  # of this process
    cause: Callable[[], str]  # looks for where a number that is not finite came from


class _Notes:
    """What becomes of a step's metrics: they are logged, or the run stops where the loss or the gradient is not finite.

    ``train.skip_not_finite`` steps in a row may be not finite: the program has left out their updates.
    """

    def __init__(self, config: TrainConfig, log: RunLog | SilentLog, checkpoints: Checkpoints, vote: StopVote) -> None:
        self._limit, self._log, self._checkpoints, self._vote = config.skip_not_finite, log, checkpoints, vote
        self._skipped = 0  # in a row

    def __call__(self, pending: Pending | None) -> None:
        """Wait for a step, and log it."""
        if pending is None:
            return
        metrics = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
        self._vote.hear(pending.vote)
        if all(math.isfinite(metrics[name]) for name in ("loss", "grad_norm")):
            self._skipped = 0
            self._log.train(pending.step, pending.stage, metrics, pending.speed)
            return
        broken = [name for name, value in metrics.items() if not math.isfinite(value) and "_norm/" not in name]
        records = gathered(pending.records).tolist()
        message = (
            f"{', '.join(broken)} not finite at step {pending.step} of stage {pending.stage}, records {records} of the "
            "training source"
        )
        self._skipped += 1
        if self._skipped <= self._limit:
            self._log.say(f"{message}; left out, {self._skipped} in a row of {self._limit} allowed")
            return
        last_good = self._checkpoints.last_good
        with jax.transfer_guard("allow"):
            cause = pending.cause()
        raise FloatingPointError(
            f"{message}{cause and f', first in {cause}'}; last good checkpoint: {last_good}. Look at these records, or "
            f"lower train.{pending.stage}.learning_rate"
        )


def _cause(programs: Programs, state: TrainState, batch: Batch) -> str:
    """Return the module in which a step's first number that is not finite arose; empty where it is not found again."""
    return "" if programs.gradient is None else first_fault(programs.gradient, state, batch)


def _validate(
    validation: Callable[[], Iterator[tuple[Batch, list[str]]]],
    programs: Programs,
    state: TrainState,
    *,
    snapshot: Snapshot,
    pictures: bool,
    vote: StopVote,
    mesh: jax.sharding.Mesh,
    log: RunLog | SilentLog,
) -> dict[str, float] | None:
    """Return and log the means of the stage's scores over the validation records, from the averaged parameters.

    Records whose target is black are left out and named: there is nothing to reconstruct, and their scores would
    outweigh all others. A score that is not defined for another record, as the PSNR of a strip that is reconstructed
    exactly, is left out of the mean and counted. Where a loss is not finite the image is at fault, and the mean scores
    are nan.

    Returns:
        The means; None if a signal came before the last record.
    """
    values: dict[str, list[float]] = {}
    black: list[str] = []
    for number, (batch, names) in enumerate(validation()):
        if vote.now():
            return None
        outcome = one_at_a_time(programs.evaluate, evaluated(state), place(batch, mesh))
        empty = gathered(np.asarray(is_black(np.asarray(batch.target))))[: len(names)]
        black += [name for name, nothing in zip(names, empty, strict=True) if nothing]
        scores = {f"loss/{name}": value for name, value in outcome.terms.items()} | outcome.scores
        for name, value in jax.device_get(scores).items():
            values.setdefault(name, []).extend(value[: len(names)][~empty].tolist())
        if number == 0 and pictures:
            own = {name: cast(jax.Array, value).addressable_data(0) for name, value in outcome.pictures.items()}
            first = {name: value[0] for name, value in jax.device_get(own).items()}
            log.picture(snapshot.step, first)
    losses = {name: float(np.mean(value)) for name, value in values.items() if name.startswith("loss/")}
    means = {"loss": sum(losses.values())} | losses
    notes = [f"left out, as their MR is black: {', '.join(black[:5])} ({len(black)} records)"] if black else []
    for name in values.keys() - losses.keys():
        defined = [value for value in values[name] if math.isfinite(value)]
        means[name] = float(np.mean(defined)) if defined and math.isfinite(means["loss"]) else math.nan
        if len(defined) < len(values[name]):
            notes.append(f"{name} is undefined for {len(values[name]) - len(defined)} of {len(values[name])} records")
    log.evaluation(snapshot.step, snapshot.stage, means, "; ".join(notes))
    return means


class EarlierRun(NamedTuple):
    """The run that is already in a folder."""

    saved: Saved | None  # the state to continue from
    best: float  # validation PSNR [dB] of the best checkpoint
    facts: dict[str, Any]  # the steps at which settings changed, for the next checkpoints
    replaced: list[Path]  # checkpoints that are damaged or of other settings
    notices: list[str]  # lines for the log


def _read_earlier_run(workdir: Path, now: dict[str, Any], *, resume_changed: bool) -> EarlierRun:
    """Read the run that is in a folder, and check that its settings are those of the present one."""
    saved, damaged = newest(workdir)
    notices = [f"{problem}; it is set aside" for problem in damaged.values()]
    if saved is None:
        return EarlierRun(None, -math.inf, {}, list(damaged), notices)
    found = changes(migrated(saved.meta), now, step=saved.meta["step"])
    if found.others and not resume_changed:
        message = found.refusal(workdir)
        if is_first() and not all(name in message for name in found.others):  # more than a line holds
            print("\n".join(found.lines()), flush=True)
        raise ValueError(message)
    notices += found.lines()
    history = [*saved.meta.get("changes", []), *found.entry(saved.meta["step"])]
    facts = {"changes": history} if history else {}
    replaced, best = list(damaged), -math.inf
    for folder in set(checkpoints_of(workdir, "best")) - set(damaged):
        meta = read_meta(workdir, "best")
        if meta is None:
            continue
        if changes(migrated(meta), now, step=meta["step"]).others:
            replaced.append(folder)
            notices.append(f"{folder} ({meta['psnr']:.2f} dB) is of other settings: it is set aside")
        elif math.isfinite(meta["psnr"]):
            best = meta["psnr"]
    return EarlierRun(saved, best, facts, replaced, notices)


def _check_subjects(config: TrainConfig, train_source: Source, valid_source: Source) -> str:
    """Refuse subjects that are in both training and validation; if they are allowed, return a warning."""
    both = shared_subjects(train_source, valid_source)
    if not both:
        return ""
    names = ", ".join(both[:3]) + ", ..." * (len(both) > 3)
    number = f"{len(both)} subject{'s' * (len(both) > 1)}"
    if not config.allow_shared_subjects:
        raise ValueError(
            f"{number} ({names}) would be both trained on and validated on; choose other splits (data.train_split, "
            "data.valid_split), mend the manifest, or allow it with --train.allow_shared_subjects=True"
        )
    return f"{number} both trained on and validated on"


def _stage_of(config: TrainConfig, meta: dict[str, Any]) -> Span:
    """Return the stage of a checkpoint, if this configuration has it at the same step."""
    name, step = meta["stage"], meta["step"]
    found = [span for span in spans(config) if span.name == name]
    if not found:
        raise ValueError(f"the checkpoint is in stage {name}, which has no steps here; give another workdir")
    if not found[0].start <= step <= found[0].end:
        raise ValueError(
            f"the checkpoint is at step {step} in stage {name}, which spans steps {found[0].start} to {found[0].end} "
            "here; give another workdir"
        )
    return found[0]


def _check_stages(config: TrainConfig, model: Model, state: TrainState) -> None:
    """Refuse stages whose patterns match no parameter of the model."""
    if not state.params:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train")
    for span in spans(config):
        if not trained_names(state.params, span.stage.trains):
            raise ValueError(
                f"stage {span.name} trains {', '.join(span.stage.trains)}, and no parameter of {type(model).__name__} "
                f"as configured has such a name; set train.{span.name}.steps to 0, or name others in "
                f"train.{span.name}.trains"
            )


@contextmanager
def _interruptible(given: Interruption | None) -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM into an event, so that the loop can save and end; a second one acts at once.

    Args:
        given: where a program hears the signals itself.
    """
    interruption = Interruption() if given is None else given
    if given is not None or threading.current_thread() is not threading.main_thread():  # others may set no handlers
        try:
            yield interruption
        finally:
            interruption.rescue = None
        return

    with between_instructions(interruption):
        yield interruption
