"""Handle SIGINT and SIGTERM within seconds, whatever the program is doing.

Python runs a signal's handler between two of its own instructions: not while XLA compiles, and not while a library
waits for a loader. Here the signal wakes a thread of its own, which gives the work ``GRACE`` seconds to end by
itself; after that it saves what was reached, and ends the process. A second signal ends it at once. Windows blocks no
signals of threads: there Python's own handler asks the work to end, when the next instruction comes.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType

from atlf_jax.program import FAILED, INTERRUPTED

__all__ = ["GRACE", "SIGNALS", "Interruption", "between_instructions", "interruptible"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 3.0  # seconds for a step and a save; batch schedulers kill a process after about 30 s


class Interruption:
    """Whether a signal has asked the work to end, and what is to be done if it does not end by itself.

    Attributes:
        asked: set by the first signal.
        rescue: saves what would be lost, and returns the message that the program ends with; called from another
            thread. None while there is nothing to lose: the program then ends at once.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.rescue: Callable[[], str] | None = None
        self.over = False  # the program has said its last line


@contextlib.contextmanager
def interruptible(program: str) -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM of this process, and end it in time. Call it from the main thread.

    Args:
        program: its name, the prefix of its last message.
    """
    interruption = Interruption()
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        with between_instructions(interruption):
            yield interruption
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}  # the wake-up needs a handler
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Threads and processes started from here on inherit the blocked signals: loader processes do not react to a Ctrl-C,
    # which the terminal sends to all processes. The listener unblocks them for itself. Python's tracker of shared
    # memory comes with the first process, and unblocks them when it starts: so it is started before.
    _start_tracker()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_listen, args=(program, interruption, reader), daemon=True).start()
    try:
        yield interruption
    finally:
        interruption.over = True
        if not interruption.asked.is_set():
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(writer)  # ends the listener


@contextlib.contextmanager
def between_instructions(interruption: Interruption) -> Iterator[None]:
    """Let the first signal ask the work to end, between two instructions of Python; a second one acts as before.

    Args:
        interruption: is asked. Call it from the main thread.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.asked.set()
        signal.signal(number, before[number])

    before = {int(number): signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_tracker() -> None:
    """Start Python's tracker of shared memory, silent: it removes what ended loaders leave, and would warn of that."""
    if sys.stderr is None:  # closed
        resource_tracker.ensure_running()
        return
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        resource_tracker.ensure_running()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _listen(program: str, interruption: Interruption, reader: int) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while byte := os.read(reader, 1):
        if byte[0] not in SIGNALS:
            continue
        if interruption.asked.is_set():
            message = "interrupted again and ended at once; run the same command to go on from the last checkpoint"
            _end(f"{program}: {message}", INTERRUPTED)
        interruption.asked.set()
        threading.Thread(target=_end_in_time, args=(program, interruption), daemon=True).start()
    os.close(reader)


def _end_in_time(program: str, interruption: Interruption) -> None:
    """Wait for the work to end by itself, then end it."""
    if interruption.rescue is not None:
        time.sleep(GRACE)
    message, code = "interrupted before anything new was done; run the same command to go on", INTERRUPTED
    try:
        if interruption.rescue is not None:
            message = interruption.rescue()
    except Exception as error:  # whatever it is, the process has to end, and to say why
        message, code = f"interrupted, and what was reached is lost: {' '.join(str(error).split())}", FAILED
    _end("" if interruption.over else f"{program}: {message}", code)


def _end(line: str, code: int) -> None:
    """End the process without waiting for any of its threads, and leave no process of its own behind."""
    for child in multiprocessing.active_children():
        child.kill()
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # a progress bar hides the cursor
    if line:
        # not by sys.stderr, whose lock another thread may hold; by its descriptor, which training.hosts may move
        os.write(2 if sys.stderr is None else sys.stderr.fileno(), f"{line}\n".encode())
    os._exit(code)
