"""Several processes that train as one: joining them, sharing the work, and ending together.

Every process runs the same command. JAX's distributed runtime joins them; the batch is one array over the devices of
all, of which each process loads its own rows; process 0 alone writes the log; checkpoints are written by all.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from atlf_jax.array_types import Array
from atlf_jax.program import FAILED, INTERRUPTED
from atlf_jax.together import LOST, LOST_LINE
from atlf_jax.training.sharding import place, replicated

__all__ = [
    "Hosts",
    "StopVote",
    "barrier",
    "gathered",
    "is_first",
    "join",
    "one_at_a_time",
    "parse_hosts",
    "wait_for_common_step",
]

# seconds without a sign of life, after which the others end: within a minute of a machine's loss
HEARTBEAT, HEARTBEAT_VARIABLE = 40, "ATLF_HEARTBEAT_SECONDS"
CPU_VARIABLE = "ATLF_CPU_PROCESSES"  # XLA's CPU runtime has no order of the messages within one program
LAST_CALL = 20.0  # seconds after a signal for all to reach a common step; batch schedulers kill after about 30
FLAGS = ("--coordinator", "--num_processes", "--process_id")
Results = TypeVar("Results")


class Hosts(NamedTuple):
    """How this process finds the others; ``jax.distributed.initialize`` explains the three."""

    coordinator: str | None = None  # HOST:PORT of process 0
    num_processes: int | None = None
    process_id: int | None = None


def parse_hosts(argv: Sequence[str]) -> tuple[Hosts | None, list[str]]:
    """Take ``--coordinator``, ``--num_processes`` and ``--process_id`` out of the arguments of a command.

    Without them the cluster's own variables decide: several tasks of a Slurm step (``SLURM_NTASKS``), of Open MPI
    (``OMPI_COMM_WORLD_SIZE``), or ``JAX_COORDINATOR_ADDRESS`` with ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Args:
        argv: the arguments.

    Returns:
        How to find the other processes, None where this is the only one; and the other arguments.

    Raises:
        ValueError: some of the three are missing, or are not numbers in range.

    Example:
        >>> parse_hosts(["x.py", "--coordinator=a:1", "--num_processes", "2", "--process_id=1"])
        (Hosts(coordinator='a:1', num_processes=2, process_id=1), ['x.py'])
    """
    values, rest = _take(argv)
    environment = {name: os.environ.get(f"JAX_{name[2:].upper()}") for name in FLAGS[1:]}
    environment["--coordinator"] = os.environ.get("JAX_COORDINATOR_ADDRESS")
    given = {name: values.get(name) or environment[name] for name in FLAGS}
    if not any(given.values()):
        tasks = {name: int(os.environ.get(name) or 1) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")}
        inside = {"SLURM_NTASKS": "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
        several = any(number > 1 and inside[name] in os.environ for name, number in tasks.items())
        return (Hosts() if several else None), rest
    missing = [name for name in FLAGS if not given[name]]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: of several processes each is "
            "given --coordinator=HOST:PORT, --num_processes=N and its own --process_id from 0 to N - 1"
        )
    try:
        count, number = int(given["--num_processes"] or ""), int(given["--process_id"] or "")
    except ValueError as error:
        raise ValueError("--num_processes and --process_id must be whole numbers") from error
    if not 0 <= number < count:
        raise ValueError(f"--process_id is {number}; wanted 0 to {count - 1}, as --num_processes is {count}")
    coordinator = given["--coordinator"] or ""
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"--coordinator is {coordinator!r}; wanted HOST:PORT of process 0")
    return (Hosts(coordinator, count, number) if count > 1 else None), rest


def _take(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split the arguments into the values of ``FLAGS`` and the others."""
    values: dict[str, str] = {}
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in FLAGS:
            rest.append(argument)
        elif equals:
            values[name] = value
        else:
            values[name] = next(arguments, "")
            if not values[name]:
                raise ValueError(f"{name} wants a value")
    return values, rest


def join(hosts: Hosts | None, workdir: Path, program: str) -> None:
    """Join the other processes; from here on ``together.ended_together`` ends this one with them.

    What JAX's runtime itself has to say goes to ``WORKDIR/process_N.txt``.

    Args:
        hosts: of ``parse_hosts``; None does nothing.
        workdir: the run's folder, on a disk that all processes share.
        program: its name, for messages.

    Raises:
        ValueError: the folder cannot be written, the others cannot be reached, or the devices are CPUs.
    """
    if hosts is None:
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are handled by atlf_jax.signals
    number = hosts.process_id if hosts.process_id is not None else os.environ.get("SLURM_PROCID", os.getpid())
    file = workdir.expanduser().resolve() / f"process_{number}.txt"
    try:
        heartbeat = int(os.environ.get(HEARTBEAT_VARIABLE) or HEARTBEAT)
    except ValueError as error:
        raise ValueError(f"{HEARTBEAT_VARIABLE} must be a whole number of seconds") from error
    _redirect_runtime(file)
    try:
        jax.distributed.initialize(
            *hosts,
            cluster_detection_method="deactivate" if hosts.coordinator else None,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise ValueError(
                "the experiment's file computes with JAX while it is read, and the processes must be joined before "
                "that: use numpy there, or compute in a function that is called later"
            ) from error
        raise ValueError(
            f"the other processes cannot be reached at {hosts.coordinator or 'the address of the cluster'} "
            f"({_first_line(error)}); start all of them within five minutes, with the same --coordinator and "
            "--num_processes"
        ) from error
    _replace_abort(program, file)
    if jax.default_backend() == "cpu" and not os.environ.get(CPU_VARIABLE):
        raise ValueError(
            "several processes on CPU devices may take each other's messages and so train wrongly: use one process, "
            f"which takes all its cores, or set {CPU_VARIABLE}=1 to try a small network all the same"
        )


def _redirect_runtime(file: Path) -> None:
    """Let what the runtime, in C++, prints go to a file; Python goes on to print where it did."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error.strerror}); give another --workdir") from error
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None:
            stream.flush()
            setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1, closefd=False))
        os.dup2(log, number)
    os.close(log)


def _replace_abort(program: str, file: Path) -> None:
    """Let the runtime's abort, by which it ends a process whose peers are lost, be one line and an exit code.

    The runtime knows no other way to end, and Python's own signal handlers run too late for SIGABRT.
    """

    def handle(_: int) -> None:
        lost = LOST.search(file.read_text(errors="replace")[-10_000:])
        line = LOST_LINE if lost else f"JAX's runtime has failed; what it said is in {file}"
        if sys.stderr is not None:
            os.write(sys.stderr.fileno(), f"{program}: {line}\n".encode())
        os._exit(INTERRUPTED if lost else FAILED)

    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handle))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _kept[-1])


_kept: list[Any] = []  # C calls it, so it must not be collected


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]


def is_first() -> bool:
    """Return whether this is the process that writes logs; the only one is."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here; nothing where there is one.

    Args:
        name: of this place, the same on all.
    """
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(name)


def one_at_a_time(program: Callable[..., Results], *arguments: Any) -> Results:
    """Run a compiled program whose devices exchange something; every such program is called through here.

    Accelerators run programs one after the other. On CPU devices XLA runs them at the same time, and those of two
    processes would take each other's messages: with several processes, each program is waited for.

    Args:
        program: the program.
        arguments: its arguments.

    Raises:
        jax.errors.JaxRuntimeError: another process is lost.
    """
    try:
        results = program(*arguments)
        if jax.process_count() > 1 and jax.default_backend() == "cpu":
            jax.block_until_ready(results)
    except ValueError as error:
        if jax.process_count() > 1 and LOST.search(str(error)):  # jax gives the runtime's errors two classes
            raise jax.errors.JaxRuntimeError(str(error)) from error
        raise
    return results


def gathered(rows: np.ndarray) -> np.ndarray:
    """Return the rows of all processes, in the order of the batch; called by all of them.

    Args:
        rows: those of this process, as many as of every other.
    """
    if jax.process_count() == 1:
        return rows
    with jax.transfer_guard("allow"):
        return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


class StopVote:
    """Whether a signal has asked the work to end: all processes hear of it at the same step.

    A signal may reach one process only, and each at another moment. So each casts a vote with every step, and acts on
    the sum of all. Where there is one process, it acts at once.

    Args:
        asked: set by a signal to this process.
        mesh: the devices of all.
    """

    def __init__(self, asked: threading.Event, mesh: jax.sharding.Mesh) -> None:
        self._asked, self._mesh, self._heard = asked, mesh, False
        self._alone = jax.process_count() == 1
        self._any = jax.jit(lambda votes: votes.max(), out_shardings=replicated(mesh))

    @property
    def stop(self) -> bool:
        """Whether to end, by the votes that were heard."""
        return self._asked.is_set() if self._alone else self._heard

    def cast(self) -> Array | None:
        """Vote; returns at once, while the devices may still be at work."""
        if self._alone:
            return None
        own = np.full(jax.local_device_count(), self._asked.is_set(), np.int32)
        return one_at_a_time(self._any, place(own, self._mesh))

    def hear(self, vote: Array | None) -> None:
        """Wait for the votes of all processes."""
        if vote is not None:
            self._heard |= bool(jax.device_get(vote))

    def now(self) -> bool:
        """Vote, wait for all, and return whether to end."""
        self.hear(self.cast())
        return self.stop


def wait_for_common_step(last_good: Callable[[], str]) -> str:
    """Give all processes the time to reach a common step, and save; used as ``Interruption.rescue``.

    One process alone cannot save a state that is spread over several. Where no step ends in time, as when a program is
    compiled, the run goes on from its last checkpoint.

    Args:
        last_good: returns the newest checkpoint.
    """
    time.sleep(LAST_CALL)
    return f"interrupted, and no step ended within {LAST_CALL:.0f} s; last checkpoint: {last_good()}"
