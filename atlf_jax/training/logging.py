"""The log of a run: terminal, ``log.jsonl`` and TensorBoard."""

import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from beartype import beartype
from jaxtyping import Float, UInt8, jaxtyped

__all__ = ["RunLog", "SilentLog", "panel"]


class RunLog:
    """The log of one run; a context manager.

    A line is printed at each logged step; on a terminal a progress bar below them shows every step. Images a second and
    the time left do not count the first step of a stage, which is compiled. ``log.jsonl`` and TensorBoard get the means
    since the last logged step.

    Args:
        workdir: the run's folder.
        start: first step of this process; lines of an interrupted run at later steps are dropped.
        total: steps of the run.
        batch_size: images a step.
        every: steps between logged lines.
        validation_due: the validation of step ``start`` is done again, and its line is dropped too.
        warning: printed at the start of every line.

    Raises:
        ValueError: ``log.jsonl`` was not written by a run.
        OSError: a line cannot be written; also raised by the methods.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        total: int,
        batch_size: int,
        every: int,
        validation_due: bool = False,
        warning: str = "",
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        workdir.mkdir(parents=True, exist_ok=True)
        self._file = workdir / "log.jsonl"
        with self._writing():
            self._before = self._keep_until(start, validation_due)
            self._jsonl = self._file.open("a", buffering=1)
            self._board = _Board(workdir / "tensorboard", start=start)
        self._warning = warning
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(self._headed("start"), total=total, completed=start, shown="")
        self._total, self._batch_size, self._every = total, batch_size, every
        self._stage = ""  # whose program is compiled
        self._rate = 0.0  # images a second, by the last steps; 0: not known
        self._began = time.monotonic()
        self._window: list[dict[str, float]] = []  # metrics since the last logged line
        self.restart_clock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        with self._writing():
            try:
                self._jsonl.close()
            finally:
                self._board.close()

    def train(self, step: int, stage: str, metrics: dict[str, float], speed: dict[str, float] | None = None) -> None:
        """Add the metrics of one step, and its speed; ``step`` is the number of steps done.

        Infinite values are left out of the mean of a line, such as the PSNR of an empty crop.
        """
        metrics = metrics | (speed or {})
        self._window.append(metrics)
        if stage == self._stage:
            self._timed += 1
            self._rate = self._timed * self._batch_size / max(time.monotonic() - self._clock, 1e-9)
        else:  # this step was compiled
            self._stage, self._rate = stage, 0.0
            self.restart_clock()
        psnr = f"  psnr {metrics['psnr']:.2f} dB" if "psnr" in metrics else ""
        shown = f"loss {metrics['loss']:.3g}{psnr}"
        if self._rate:
            left = (self._total - step) * self._batch_size / self._rate
            shown += f"  {self._rate:.3g} images/s  {_duration(left)} left"
        self._bar.update(self._task, completed=step, description=self._headed(stage), shown=shown)
        if step % self._every == 0 or step == self._total:
            values = {name: [each[name] for each in self._window if name in each] for name in metrics}
            finite = {name: [one for one in several if not math.isinf(one)] for name, several in values.items()}
            means = {name: float(np.mean(several)) for name, several in finite.items() if several}
            self._write("train", step, stage, means | ({"images_per_second": self._rate} if self._rate else {}))
            self.say(f"{stage} {step}/{self._total}  {shown}")
            self._window = []
            self.restart_clock()

    def compiling(self, stage: str) -> None:
        """Say that the first step of a stage comes next."""
        self.say(f"{stage}: compiling the first step")

    def evaluation(self, step: int, stage: str, metrics: dict[str, float], note: str = "") -> None:
        """Log the means over the validation records, with a note."""
        self._write("valid", step, stage, metrics)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if "/" not in name)
        self.say(f"{stage} {step}/{self._total}  validation  {shown}{note and f'  ({note})'}")

    def picture(self, step: int, pictures: dict[str, Float[np.ndarray, "h w"]]) -> None:
        """Show pictures side by side."""
        with self._writing():
            self._board.image("validation/" + " | ".join(pictures), panel(list(pictures.values())), step)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._console.print(self._headed(text), markup=False)

    def restart_clock(self) -> None:
        """Measure the rate from here on, so that evaluation and saving do not count as training time."""
        self._timed, self._clock = 0, time.monotonic()

    def _headed(self, text: str) -> str:
        return f"[{self._warning}] {text}" if self._warning else text

    def _write(self, kind: str, step: int, stage: str, metrics: dict[str, float]) -> None:
        elapsed, cpu = time.monotonic() - self._began, time.process_time()
        line = {"kind": kind, "step": step, "stage": stage, **metrics}
        line |= {"warning": self._warning} if self._warning else {}
        line |= {"elapsed_seconds": self._before[0] + elapsed, "cpu_seconds": self._before[1] + cpu}
        with self._writing():
            self._jsonl.write(json.dumps(line) + "\n")
            self._board.scalars({f"{kind}/{name}": value for name, value in metrics.items()}, step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Add the folder to the message of an error in writing."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the log in {self._file.parent} cannot be written ({error.strerror or error}); make room there or "
                "mend the folder, and run the same command to go on"
            ) from error

    def _keep_until(self, start: int, validation_due: bool) -> tuple[float, float]:
        """Drop the lines after ``start`` and return the seconds spent until then."""
        if not self._file.exists():
            return 0.0, 0.0
        texts = self._file.read_bytes().splitlines()
        lines = [self._parsed(text, number, last=number == len(texts)) for number, text in enumerate(texts, start=1)]
        kept = [line for line in lines if line and line["step"] <= start]
        if validation_due:
            kept = [line for line in kept if (line["kind"], line["step"]) != ("valid", start)]
        partial = self._file.with_name(f"{self._file.name}.partial")  # a kill leaves one or the other whole
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self._file)
        return (kept[-1]["elapsed_seconds"], kept[-1]["cpu_seconds"]) if kept else (0.0, 0.0)

    def _parsed(self, text: bytes, number: int, *, last: bool) -> dict[str, Any] | None:
        """Return one line, or None for the last one where a kill cut it short."""
        try:
            line = json.loads(text)
        except ValueError:
            line = None
            if last:
                return None
        wanted = {"step": int, "kind": str, "elapsed_seconds": int | float, "cpu_seconds": int | float}
        if not isinstance(line, dict) or not all(isinstance(line.get(name), kind) for name, kind in wanted.items()):
            raise ValueError(
                f"line {number} of {self._file} is not what a run writes; mend or delete it, or move the file away"
            )
        return line


class SilentLog:
    """The log of a process that is not the first: it has the methods of ``RunLog``, and writes nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def _nothing(self, *_: object, **__: object) -> None:
        """Write nothing."""

    train = evaluation = picture = say = compiling = restart_clock = _nothing


class _Board:
    """An event file for TensorBoard; its usual writer has a thread of its own, which a full disk ends silently."""

    def __init__(self, folder: Path, *, start: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog  # pyrefly: ignore[missing-module-attribute]  # protobuf makes it
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{start}"
        self._writer = RecordWriter(str(folder / name))
        self._flushed = time.monotonic()
        self._event(0, file_version="brain.Event:2")
        self._event(start + 1, session_log=SessionLog(status=SessionLog.START))  # drops what a run before did after it

    def scalars(self, values: dict[str, float], step: int) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._event(step, summary=scalar(name, value))

    def image(self, name: str, picture: UInt8[np.ndarray, "h w"], step: int) -> None:
        from tensorboardX.summary import image

        self._event(step, summary=image(name, picture, dataformats="HW"))

    def close(self) -> None:
        self._writer.close()

    def _event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]  # protobuf makes it

        self._writer.write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
        if time.monotonic() - self._flushed > 10:  # seconds: it waits for the disk
            self._writer.flush()
            self._flushed = time.monotonic()


def _duration(seconds: float) -> str:
    """Format a time to wait: in the largest unit of which there are more than a few."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 3 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@jaxtyped(typechecker=beartype)
def panel(pictures: list[Float[np.ndarray, "h w"]]) -> UInt8[np.ndarray, "h all_w"]:
    """Return pictures in one row, black 0 to white 1, as bytes.

    Args:
        pictures: images of one size; values outside [0, 1] are clipped.

    Example:
        >>> import numpy as np
        >>> panel([np.zeros((1, 2)), np.ones((1, 2))])
        array([[  0,   0, 255, 255]], dtype=uint8)
    """
    return (np.clip(np.concatenate(pictures, axis=-1), 0, 1) * 255).round().astype(np.uint8)
