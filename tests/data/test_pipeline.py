import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from atlf_jax.data import AcquisitionConfig, AugmentConfig, Example, PhantomConfig, PhantomSource
from atlf_jax.data.pipeline import evaluation_batches, train_batches
from atlf_jax.masks import MaskConfig, make_mask, seed_from_name

SOURCE = PhantomSource(PhantomConfig(subjects=5, slices=2, size=24, split="all"))  # 10 records
AUGMENT = AugmentConfig(rotation=5.0, shift=1.0, gamma=0.1, ct_dropout=0.2, crop=(16, 16))
MASK = (MaskConfig("random", 2.0, 0.16), MaskConfig("random", 4.0, 0.08))


def batches(count, **changes):
    settings = {"mask": MASK, "augment": AUGMENT, "batch_size": 3, "seed": 0} | changes
    iterator = train_batches(changes.pop("source", SOURCE), **{k: v for k, v in settings.items() if k != "source"})
    try:
        return list(itertools.islice(iterator, count))
    finally:
        iterator.close()


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_shapes_and_dtypes():
    (batch,) = batches(1)
    assert batch.measurement.kspace.shape == batch.target.shape == batch.measurement.ct.shape == (3, 16, 16)
    assert batch.measurement.mask.shape == (3, 1, 16)
    assert batch.measurement.coil_maps is None
    assert batch.scale.shape == batch.record.shape == (3,)
    assert [leaf.dtype.name for leaf in jax.tree.leaves(batch)] == [
        "complex64",
        "bool",
        "float32",
        "complex64",
        "float32",
        "int32",
    ]
    (plane,) = batches(1, mask=MaskConfig("variable_density_2d", center_radius=0.1))
    assert plane.measurement.mask.shape == (3, 16, 16)


def test_the_same_seed_gives_the_same_batches_and_another_does_not():
    acquisition = AcquisitionConfig(phase=0.5, noise=0.02)
    a, b, c = (batches(4, acquisition=acquisition, seed=seed) for seed in (1, 1, 2))
    assert_same(a, b)
    assert not np.array_equal(a[0].record, c[0].record)


def test_resuming_in_mid_epoch_is_bit_identical():
    whole = batches(9)  # an epoch is 10 records: step 5 is in the second, and batches straddle epochs
    assert_same(whole[5:], batches(4, start_step=5))


def test_every_epoch_shows_every_record_once_in_a_new_order():
    order = np.concatenate([batch.record for batch in batches(10)])  # 30 records
    epochs = order.reshape(3, 10)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
    assert not np.array_equal(epochs[0], epochs[1])


def test_masks_and_augmentation_are_fresh_each_time():
    plain = AugmentConfig(flip=False, rotate90=False)
    mask = MaskConfig("random", acceleration=3.0)
    seen = {index: set() for index in range(10)}
    for batch in batches(20, augment=plain, mask=mask):
        for index, lines in zip(batch.record, batch.measurement.mask, strict=True):
            seen[int(index)].add(lines.tobytes())
    assert all(len(masks) > 1 for masks in seen.values())
    images = {index: set() for index in range(10)}
    for batch in batches(20):
        for index, image in zip(batch.record, batch.target, strict=True):
            images[int(index)].add(image.tobytes())
    assert all(len(variants) > 1 for variants in images.values())


def test_processes_load_the_rows_of_one_batch():
    """The rows of two processes are the batch of one, in training and in evaluation, also where it is padded."""
    whole = batches(5, batch_size=4, start_step=2)
    halves = [batches(5, batch_size=4, start_step=2, rows=(first, 2)) for first in (0, 2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert_same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))
    settings = {"mask": MASK, "batch_size": 4}
    halves = [list(evaluation_batches(SOURCE, **settings, rows=(first, 2))) for first in (0, 2)]
    for (batch, names), *parts in zip(evaluation_batches(SOURCE, **settings), *halves, strict=True):
        assert_same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *(part for part, _ in parts)))
        assert [len(of) for _, of in parts] == [len(names)] * 2
        assert all(name in (a, b) for name, a, b in zip(names, parts[0][1], parts[1][1], strict=True))


def test_several_accelerations_of_a_kind_are_drawn_from():
    pair = (MaskConfig("random_exact", 2.0, 0.1), MaskConfig("random_exact", 6.0, 0.1))
    lines = np.concatenate([batch.measurement.mask.sum(axis=(1, 2)) for batch in batches(10, mask=pair)])
    assert set(lines) == {8, 3}  # of 16


def test_families_of_masks_are_drawn_from_and_stack():
    lines = MaskConfig("random_exact", acceleration=4.0, center_fraction=0.1)
    families = (lines, MaskConfig("radial", acceleration=2.0))
    masks = np.concatenate([batch.measurement.mask for batch in batches(10, mask=families)])
    of_lines = (masks == masks[:, :1]).all(axis=(1, 2))
    assert masks.shape[1:] == (16, 16) and 0 < of_lines.sum() < len(masks)
    validation = list(evaluation_batches(SOURCE, mask=families, batch_size=1))
    of_lines = [bool((batch.measurement.mask[0] == batch.measurement.mask[0, :1]).all()) for batch, _ in validation]
    assert of_lines == [index % 2 == 0 for index in range(10)]
    alone = next(evaluation_batches(SOURCE, mask=lines, batch_size=1))[0]
    whole = np.broadcast_to(alone.measurement.mask, (1, 24, 24))
    np.testing.assert_array_equal(validation[0][0].measurement.mask, whole)


def test_the_record_number_names_the_source_record():
    plain = AugmentConfig(flip=False, rotate90=False)
    for batch in batches(3, augment=plain):
        for index, target, scale in zip(batch.record, batch.target, batch.scale, strict=True):
            np.testing.assert_allclose(target * scale, SOURCE[int(index)].target, atol=1e-6)


def test_acquisition_noise_reaches_the_training_data():
    clean, noisy = (batches(1, acquisition=AcquisitionConfig(noise=noise))[0] for noise in (0.0, 0.1))
    assert np.abs(clean.measurement.kspace - noisy.measurement.kspace).max() > 0.01


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="holds no records"):
        batches(1, source=[])


class Uneven:
    """Two records of different size."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        shape = (16, 16 + index)
        return Example(f"u{index}", "s", np.ones(shape, np.float32), np.ones(shape, np.complex64))


def test_records_of_several_sizes_in_one_batch_are_refused():
    with pytest.raises(ValueError, match=r"sizes \[\(16, 16\), \(16, 17\)\]; set augment.crop"):
        list(evaluation_batches(Uneven(), mask=MaskConfig(), batch_size=2))
    assert len(list(evaluation_batches(Uneven(), mask=MaskConfig(), batch_size=1))) == 2


def test_evaluation_sees_every_record_once_and_pads_the_last_batch():
    seen = list(evaluation_batches(SOURCE, mask=MASK, batch_size=4))
    assert [len(names) for _, names in seen] == [4, 4, 2]
    assert [name for _, names in seen for name in names] == [example.name for example in SOURCE]
    assert {batch.target.shape for batch, _ in seen} == {(4, 24, 24)}
    last, _ = seen[-1]
    np.testing.assert_array_equal(last.record, [8, 9, 9, 9])
    np.testing.assert_array_equal(last.measurement.kspace[2], last.measurement.kspace[1])


def test_evaluation_masks_follow_the_name_alone():
    (whole, names), *_ = evaluation_batches(SOURCE, mask=MASK, batch_size=10)
    for name, lines in zip(names, whole.measurement.mask, strict=True):
        rng = np.random.RandomState(seed_from_name(name))
        setting = MASK[rng.randint(2)]  # of one kind the seed draws the setting
        np.testing.assert_array_equal(lines, make_mask(setting, (24, 24), seed=rng).samples)
    acquisition = AcquisitionConfig(phase=0.5, noise=0.02)
    (whole, _), *_ = evaluation_batches(SOURCE, mask=MASK, batch_size=10, acquisition=acquisition)
    singles = [b for b, _ in evaluation_batches(SOURCE, mask=MASK, batch_size=1, acquisition=acquisition)]
    for n, single in enumerate(singles):
        assert_same(single, jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], whole))


def test_evaluation_of_pictures_is_of_the_whole_picture():
    (batch, _), *_ = evaluation_batches(SOURCE, mask=MASK, batch_size=10)
    for index, example in enumerate(SOURCE):
        np.testing.assert_allclose(batch.target[index] * batch.scale[index], example.target, atol=1e-6)


@pytest.mark.slow  # starts processes
def test_the_number_of_workers_does_not_change_the_batches():
    assert_same(batches(7, start_step=2), batches(7, start_step=2, workers=2))


SCRIPT = """
import multiprocessing
import time
from atlf_jax.data import AugmentConfig, PhantomConfig, PhantomSource, train_batches
from atlf_jax.masks import MaskConfig

if __name__ == "__main__":
    source = PhantomSource(PhantomConfig(subjects=4, slices=1, size=16))
    batches = train_batches(source, mask=MaskConfig(), augment=AugmentConfig(), batch_size=1, seed=0, workers=1)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # not ended, waiting to be reaped


@pytest.mark.slow  # starts processes
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_no_worker_outlives_a_killed_run(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=paths) as run:
        workers = [int(pid) for pid in run.stdout.readline().split()]
        alive = [is_running(worker) for worker in workers]
        run.kill()
    assert alive == [True]
    deadline = time.monotonic() + 30
    while is_running(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(workers[0])


@pytest.mark.slow  # starts a process
def test_a_loader_process_that_dies_ends_the_batches_in_one_line():
    source = PhantomSource(PhantomConfig(subjects=4, slices=1, size=16))
    loaded = train_batches(source, mask=MaskConfig(), augment=AugmentConfig(), batch_size=1, seed=0, workers=1)
    next(loaded)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(OSError, match=r"^a loader process has ended by itself or was killed"):
        list(itertools.islice(loaded, 100))
