"""The contract that every row of DATASETS keeps."""

import itertools

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from PIL import Image

from atlf_jax.data import (
    DATASETS,
    AANLIBConfig,
    DataConfig,
    FastMRIConfig,
    PhantomConfig,
    PreparedConfig,
    dataset_settings,
    open_source,
    validate_example,
)
from atlf_jax.data.fastmri import write_kspace
from atlf_jax.data.preparation import PrepareConfig, prepare

CASES = ("2", "16", "20", "21", "28", "32", "33", "34", "37", "41")
PARTS = ("inner_train", "inner_valid", "valid", "test")  # all together: every subject once


@pytest.fixture(params=sorted(DATASETS.keys() - {"images"}))  # a mixture for training: tests/data/test_images.py
def config(request, tmp_path):
    """Settings of one dataset, small."""
    rng = np.random.default_rng(0)
    for case, number, kind in itertools.product(CASES, (1, 2), ("CT", "MRI")):
        (tmp_path / kind).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / kind / f"{case}{number:03d}.png")
    if request.param == "prepared":
        prepare(PrepareConfig("aanlib", str(tmp_path), f"{tmp_path}_prepared"), say=str)
    for case in CASES:
        kspace = (rng.standard_normal((2, 16, 16)) + 1j * rng.standard_normal((2, 16, 16))).astype(np.complex64)
        write_kspace(tmp_path / f"file{case}.h5", kspace, attributes={"patient_id": case})
    small = {
        "aanlib": AANLIBConfig(root=str(tmp_path)),
        "fastmri": FastMRIConfig(root=str(tmp_path)),
        "phantom": PhantomConfig(subjects=11, slices=2, size=16),
        "prepared": PreparedConfig(root=f"{tmp_path}_prepared"),
    }
    config = DataConfig(small[request.param])
    assert config.dataset == request.param and type(config.source) is DATASETS[request.param]
    return config


def test_records_are_valid_and_named_once(config):
    source = open_source(config, "all")
    examples = [source[index] for index in range(len(source))]
    assert len(examples) > 0
    for example in examples:
        validate_example(example)
    assert len({example.name for example in examples}) == len(examples)
    with pytest.raises(IndexError):
        source[len(source)]


def test_no_subject_is_in_two_splits(config):
    subjects = {part: {example.subject for example in open_source(config, part)} for part in (*PARTS, "train", "all")}
    assert all(subjects.values())
    for a, b in itertools.combinations(PARTS, 2):
        assert not subjects[a] & subjects[b]
    assert subjects["train"] == subjects["inner_train"] | subjects["inner_valid"]
    assert subjects["all"] == set.union(*(subjects[part] for part in PARTS))


def test_the_same_settings_give_the_same_records(config):
    for a, b in zip(open_source(config, "valid"), open_source(config, "valid"), strict=True):
        assert (a.name, a.subject) == (b.name, b.subject)
        np.testing.assert_array_equal(a.ct, b.ct)
        np.testing.assert_array_equal(a.target, b.target)


def test_a_record_does_not_depend_on_its_split(config):
    everything = {example.name: example for example in open_source(config, "all")}
    for example in open_source(config, "test"):
        np.testing.assert_array_equal(example.target, everything[example.name].target)


def test_what_is_no_dataset_is_refused():
    with pytest.raises(BeartypeCallHintParamViolation, match="source=3 violates type hint"):
        DataConfig(3)
    with pytest.raises(ValueError, match="did you mean 'phantom'"):
        dataset_settings("phantm")


def test_negative_workers_are_refused():
    with pytest.raises(ValueError, match="data.workers is -1"):
        DataConfig(workers=-1)
