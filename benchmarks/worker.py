"""One contestant in a process of its own, told by lines of JSON what to do and otherwise asleep.

``python -m benchmarks.worker CONTESTANT JSON`` answers once when ready, then once a line read. Everything else that it
prints goes to standard error.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.case import Case

__all__ = ["Failed", "Worker"]

ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A contestant ended before its answer: what it said last, or the signal that ended it."""


class Worker:
    """The parent's side: start a contestant, ask, and end it on leaving.

    Args:
        contestant: "ours", "ours-remat", or a row of ``VARIANTS``.
        case: what it runs.
        log: file for all that it prints.
        options: of the contestant's constructor.
    """

    def __init__(self, contestant: str, case: Case, log: Path, **options: Any) -> None:
        self.contestant, self.log = contestant, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._errors = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", contestant, json.dumps({"case": case, "options": options})],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            self.ready = self._answer()
        except Failed:
            self.close()
            raise

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send one command and wait for the answer."""
        try:
            self._stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: reading the answer says why
        return self._answer()

    def close(self) -> None:
        """End the contestant."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._errors.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        last = (self.log.read_text().strip().splitlines() or ["no message"])[-1]
        if code == -9:
            last = "killed, most likely for want of memory"
        raise Failed(f"{self.contestant}: {last}")


def make(contestant: str, case: Case, options: dict[str, Any]) -> Any:
    """Build a contestant; only its own framework is imported."""
    if contestant.startswith("ours"):
        from benchmarks.ours import Ours

        return Ours(case, remat=contestant == "ours-remat", **options)
    from benchmarks.peers.torch_run import VARIANTS, TorchPeer

    return TorchPeer(case, **options, **VARIANTS[contestant])


def run_steps(runner: Any, count: int) -> list[float]:
    """Return the seconds of ``count`` steps, after one that is not timed."""
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        runner.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def peak_memory(runner: Any, steps: int = 2) -> dict[str, float]:
    """Return the process's peak memory in GiB: of these steps alone, what of it they add, and ever.

    What they add is beyond the process at rest, with its libraries, program, parameters and inputs. On Linux the peak
    is set back before the steps; elsewhere it is the peak ever, and at rest 0.
    """
    runner.step()
    give_back()
    reset, at_rest = Path("/proc/self/clear_refs"), 0.0
    if reset.exists():
        reset.write_text("5")
        at_rest = _status("VmRSS")
    for _ in range(steps):
        runner.step()
    ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    of_steps = _status("VmHWM") if reset.exists() else ever
    return {"steps_gib": of_steps, "added_gib": of_steps - at_rest, "process_gib": ever}


def _status(name: str) -> float:
    """Return a line of this process's status, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def give_back() -> None:
    """Return freed memory to the system, so that a sleeping contestant leaves it to the others."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Build the contestant, then obey."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("900")  # when memory runs out, this process is the one to go
    contestant, setting = sys.argv[1], json.loads(sys.argv[2])
    runner = make(contestant, Case(*setting["case"]), setting["options"])
    give_back()
    answer(
        {
            "compile_seconds": runner.compile_seconds,
            "parity": getattr(runner, "parity", None),
            "versions": runner.versions(),
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "steps":
            answer(run_steps(runner, request["count"]))
            give_back()
        elif request["command"] == "peak":
            answer(peak_memory(runner))
        elif request["command"] == "device_memory":
            answer(runner.device_memory())
        elif request["command"] == "reference":
            runner.save_reference(Path(request["path"]))
            give_back()
            answer(True)


if __name__ == "__main__":
    main()
