"""From a source to batches of numpy arrays.

Training batches are a function of (source, configs, seed, step): neither the number of workers nor where a run was
interrupted changes them, so a checkpoint needs no iterator state. Evaluation sees every record once, in order, with
masks seeded by the record's name.
"""

import atexit
import ctypes
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from beartype import beartype

from atlf_jax.array_types import Batch, Measurement
from atlf_jax.data.example import Example, Source
from atlf_jax.data.transforms import AcquisitionConfig, AugmentConfig, augment, measure, simulate_acquisition
from atlf_jax.masks import MaskConfig, make_mask, seed_from_name
from atlf_jax.own_code import LoadedFiles

__all__ = ["evaluation_batches", "train_batches"]


@beartype
def train_batches(
    source: Source,
    *,
    mask: MaskConfig | tuple[MaskConfig, ...],
    augment: AugmentConfig,
    batch_size: int,
    seed: int,
    acquisition: AcquisitionConfig = AcquisitionConfig(),
    start_step: int = 0,
    workers: int = 0,
    rows: tuple[int, int] | None = None,
) -> Generator[Batch, None, None]:
    """Yield training batches without end: shuffled, augmented, each record under a fresh mask.

    Args:
        source: records by index, numpy only and picklable where there are workers.
        mask: one setting or several. For each record a kind is drawn, then one of its settings (see ``_kinds``), then a
            fresh mask.
        augment: random changes of the pairs.
        batch_size: records a batch; all of one size (see ``AugmentConfig.crop``).
        seed: of order, augmentation, masks and noise together.
        acquisition: simulated phase, coils and noise.
        start_step: number of the first batch to yield, to resume: step k is the same batch whatever came before.
        workers: loader processes; 0 loads in a thread of this process.
        rows: of each batch, as (first, number): what one of several processes loads. All by default.

    Yields:
        Batch of numpy arrays with leading axis ``batch_size``, or the number of rows.

    Raises:
        ValueError: for an empty source, or records of several sizes in one batch.
    """
    import grain  # 2 s, so only where it is used

    if len(source) == 0:
        raise ValueError("the source holds no records; wanted at least one")
    simulate = _Simulate(kinds=_kinds(mask), augment=augment, acquisition=acquisition)
    records = grain.MapDataset.source(_Numbered(source)).seed(seed).shuffle().repeat(None).random_map(simulate)
    first, number = rows or (0, batch_size)
    if number < batch_size:
        from atlf_jax.data.rows import Rows

        records = Rows(records, batch_size=batch_size, first=first, number=number)
    dataset = records.batch(number, drop_remainder=True, batch_fn=_stack)
    batches = dataset[start_step:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads its flags in the workers
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=functools.partial(_die_with, os.getpid()))
    return _until_closed(batches)


@beartype
def evaluation_batches(
    source: Source,
    *,
    mask: MaskConfig | tuple[MaskConfig, ...],
    batch_size: int,
    acquisition: AcquisitionConfig = AcquisitionConfig(),
    rows: tuple[int, int] | None = None,
) -> Iterator[tuple[Batch, list[str]]]:
    """Yield every record once, in order, with mask, phase and noise fixed by the record's name.

    Args:
        source: records by index.
        mask: one setting or several; the mask is drawn from ``seed_from_name(example.name)``. Several kinds take turns
            by the index of the record, and the seed draws the setting.
        batch_size: records a batch; the last batch repeats its last record up to this number, so that no shape is
            new to the compiler.
        acquisition: simulated phase, coils and noise.
        rows: of each batch, as (first, number): what one of several processes loads. All by default.

    Yields:
        (batch, names): names lists the true records of the whole batch only and may be shorter than it. A record of
        another process is named by its number.

    Raises:
        ValueError: for records of several sizes in one batch.
    """
    kinds = _kinds(mask)

    def record(index: int) -> tuple[Batch, str]:
        example = source[index]
        seed = seed_from_name(example.name)
        sampling = _draw(kinds[index % len(kinds)], example, seed=seed, whole=len(kinds) > 1)
        rng = np.random.default_rng(seed)
        example = simulate_acquisition(example, acquisition, rng)
        return measure(example, sampling, acquisition, rng, record=index), example.name

    first, number = rows or (0, batch_size)
    for start in range(0, len(source), batch_size):
        every = range(start, min(start + batch_size, len(source)))
        own = range(start + first, start + first + number)
        loaded = {index: record(index) for index in sorted({min(index, every[-1]) for index in own})}
        names = [loaded[index][1] if index in loaded else f"record {index}" for index in every]
        yield _stack([loaded[min(index, every[-1])][0] for index in own]), names


def _until_closed(batches: Iterable[Batch]) -> Generator[Batch, None, None]:
    """Iterate, and end loader threads and processes when the caller drops the iterator or Python exits."""
    held: list[Any] = [iter(batches)]  # Grain's iterators can be closed

    def close() -> None:
        if held:
            held.pop().close()

    atexit.register(close)  # closed any later, Grain misses modules that are already gone
    try:
        while held:
            yield next(held[0])
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise OSError(
            "a loader process has ended by itself or was killed, perhaps for want of memory; use fewer "
            "--data.workers, and run the same command to go on from the last checkpoint"
        ) from error
    finally:
        atexit.unregister(close)
        close()


@dataclass(frozen=True)
class _Numbered:
    """A source whose items carry their index."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Example]:
        return index, self.source[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return _after_loading, (LoadedFiles(), self.source)  # it may be of a user's own file


def _after_loading(_: LoadedFiles, source: Source) -> _Numbered:
    return _Numbered(source)


@dataclass(frozen=True)
class _Simulate:
    """Augment, draw a mask and undersample one record, from the generator that Grain seeds for its position."""

    kinds: list[list[MaskConfig]]
    augment: AugmentConfig
    acquisition: AcquisitionConfig

    def __call__(self, numbered: tuple[int, Example], rng: np.random.Generator) -> Batch:
        index, example = numbered
        whole = example.target.shape
        example = augment(example, self.augment, rng)
        example = simulate_acquisition(example, self.acquisition, rng)
        several = len(self.kinds) > 1
        kind = self.kinds[int(rng.integers(len(self.kinds)))] if several else self.kinds[0]
        sampling = _draw(kind, example, seed=int(rng.integers(2**31)), whole=several)
        return measure(example, sampling, self.acquisition, rng, whole=whole, record=index)


def _kinds(mask: MaskConfig | tuple[MaskConfig, ...]) -> list[list[MaskConfig]]:
    """Sort settings into kinds: those of one differ in acceleration and centre alone."""
    kinds: dict[MaskConfig, list[MaskConfig]] = {}
    for each in mask if isinstance(mask, tuple) else (mask,):
        kinds.setdefault(dataclasses.replace(each, acceleration=1.0, center_fraction=0.0), []).append(each)
    if not kinds:
        raise ValueError("got no mask, wanted at least one setting")
    return list(kinds.values())


def _draw(kind: list[MaskConfig], example: Example, *, seed: int | tuple[int, ...], whole: bool) -> np.ndarray:
    """Draw the mask of a record; ``whole`` gives masks of lines all rows too: kinds then stack, in one program."""
    shape = example.target.shape
    rng = np.random.RandomState(seed)
    setting = kind[rng.randint(len(kind))] if len(kind) > 1 else kind[0]
    drawn = make_mask(setting, shape=shape, seed=rng).samples
    return np.broadcast_to(drawn, shape) if whole else drawn


def _stack(records: Sequence[Batch]) -> Batch:
    """Stack records to a batch, field by field."""
    shapes = {record.target.shape for record in records}
    if len(shapes) > 1:
        raise ValueError(f"records of one batch have sizes {sorted(shapes)}; set augment.crop, or a batch size of 1")
    coils = {record.measurement.kspace.shape[:-2] for record in records}
    if len(coils) > 1:
        numbers = ", ".join(str(sum(each)) for each in sorted(coils))
        raise ValueError(f"records of one batch have {numbers} coils; set data.acquisition.virtual_coils to one number")
    kspace, mask, ct, maps = zip(*(record.measurement for record in records), strict=True)
    maps = None if maps[0] is None else np.stack(maps)
    measurement = Measurement(np.stack(kspace), np.stack(mask), np.stack(ct), maps)
    target, scale, record = (np.stack(field) for field in list(zip(*records, strict=True))[1:])
    return Batch(measurement, target, scale, record)


def _die_with(parent: int, worker: int, workers: int) -> None:
    """Have the kernel end this loader process with its parent, however that ends, so that none is orphaned."""
    del worker, workers
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))  # blocked where the program hears it in a thread
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
