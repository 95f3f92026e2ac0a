"""Guards: a CT out of place and data that were never trained are told, all else is let pass."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Reconstruction
from atlf_jax.config import Config
from atlf_jax.data import (
    AcquisitionConfig,
    AugmentConfig,
    DataConfig,
    FastMRIConfig,
    PhantomConfig,
    PhantomSource,
    PreparedConfig,
)
from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS, ATLFConfig, ReconstructionConfig
from atlf_jax.models.atlf.objectives import ADAPTERS, PHASES, Reconstruct
from atlf_jax.trained import guards
from atlf_jax.training import Stage, TrainConfig
from tests.networks import network_of

HEAD = PhantomSource(PhantomConfig(size=128, subjects=4, slices=8, split="valid"))[4]
SHAPE = (128, 128)
MASK = atlf.make_mask(MaskConfig("random", 4.0, 0.08), SHAPE, seed=1).samples
KSPACE = fft2c_numpy(HEAD.target)
TRAINED = guards.TrainedFor(masks=(MaskConfig("random", 4.0, 0.08),), sizes=(SHAPE,), dataset="prepared")


def plain(measurement):
    return Reconstruction(atlf.adjoint(measurement.kspace, measurement.mask))


def placement(ct):
    placed = guards.Placement()
    placed.add(ct, atlf.reconstruct(KSPACE, MASK))
    return placed


def test_a_ct_in_place_is_no_warning():
    assert placement(HEAD.ct).warnings() == [] and placement(HEAD.ct).gain[0] < 0


@pytest.mark.parametrize("move", [(8, 0), (0, -8), (4, 4)])
def test_a_moved_ct_is_told_with_the_way_back(move):
    words = placement(np.roll(HEAD.ct, move, (0, 1))).warnings()
    assert len(words) == 1 and "do not match in place" in words[0]
    back = f"moved by {-move[0]:+d} rows and {-move[1]:+d} columns".replace("-0", "+0")
    assert back in words[0]


def test_a_mirrored_ct_is_told():
    assert "mirrored top to bottom" in placement(np.ascontiguousarray(HEAD.ct[::-1])).warnings()[0]
    assert "turned by 180 degrees" in placement(np.ascontiguousarray(HEAD.ct[::-1, ::-1])).warnings()[0]


def test_information_is_that_of_the_histogram():
    rng = np.random.default_rng(0)
    ct = rng.random(SHAPE)
    values = guards.mutual_information_by_move(ct, 1 - ct)
    assert values["in place"] == pytest.approx(np.log(guards.GREY_LEVELS), abs=0.01)  # each tells the other wholly
    chance = guards.GREY_LEVELS**2 / (2 * 112**2)  # of independent images: bins^2 / 2 n
    assert all(value < 1.1 * chance for name, value in values.items() if name != "in place")
    assert len(values) == 1 + 3 * 8 + 3


def test_no_ct_and_tiny_slices_say_nothing():
    assert placement(np.zeros(SHAPE, np.float32)).warnings() == []
    assert placement(np.full(SHAPE, 0.5, np.float32)).warnings() == []
    assert guards.mutual_information_by_move(np.random.default_rng(0).random((40, 40)), np.ones((40, 40))) is None


def test_reconstruct_warns_once_a_call():
    moved = np.stack([np.roll(HEAD.ct, 8, 0)] * 2)
    with pytest.warns(atlf.GuardWarning, match="do not match in place") as caught:
        atlf.reconstruct(np.stack([KSPACE] * 2), MASK, ct=moved, model=plain)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atlf.reconstruct(KSPACE, MASK, ct=HEAD.ct, model=plain)
        atlf.reconstruct(KSPACE, MASK, ct=moved[0])  # without a network the CT is not used
        atlf.reconstruct(KSPACE, MASK, model=network_of(plain, TRAINED))
    both = network_of(plain, TRAINED._replace(sizes=((64, 64),)))
    with pytest.warns(
        atlf.GuardWarning, match="image size 128x128 was not trained.*; CT and MR do not match in place"
    ) as caught:
        atlf.reconstruct(KSPACE, MASK, ct=moved[0], model=both)
    assert len(caught) == 1


def drawn(kind, acceleration, centre=0.08, seed=3):
    return atlf.make_mask(MaskConfig(kind, acceleration, centre), SHAPE, seed=seed).samples


@pytest.mark.parametrize(
    ("mask", "options", "words"),
    [
        (drawn("equispaced_fraction", 4.0), {}, []),  # of lines, too
        (drawn("random", 8.0, 0.04), {}, ["x acceleration was not trained"]),
        (drawn("random", 2.0), {}, ["x acceleration was not trained"]),
        (drawn("variable_density_2d", 4.0), {}, ["a mask of points was not trained (trained: lines)"]),
        (np.ones((1, 128), bool), {}, ["1.00x acceleration"]),
        (MASK, {"shape": (96, 128)}, ["image size 96x128 was not trained (trained: 128x128)"]),
        (MASK, {"coils": 8}, ["k-space has 8 coils, and the network was trained with one"]),
        (drawn("radial", 10.0), {"coils": 2}, ["coils", "acceleration", "points"]),
    ],
)
def test_untrained_measurements(mask, options, words):
    told = guards.unseen_sampling(TRAINED, mask, **{"shape": SHAPE} | options)
    assert len(told) == len(words)
    assert all(word in text for word, text in zip(words, told, strict=True))


@pytest.mark.parametrize("kind", ["random", "equispaced", "gaussian_1d"])
def test_trained_masks_pass(kind):
    trained = guards.TrainedFor(masks=(MaskConfig(kind, 4.0, 0.08), MaskConfig(kind, 6.0, 0.05)))
    for seed in range(1000, 1010):
        mask = atlf.make_mask(trained.masks[seed % 2], SHAPE, seed=seed).samples
        assert guards.unseen_sampling(trained, mask, shape=SHAPE) == []


def test_several_families_may_be_trained():
    trained = guards.TrainedFor(masks=(MaskConfig("random", 4.0, 0.08), MaskConfig("radial", 8.0)))
    for mask in (MASK, drawn("radial", 8.0)):
        assert guards.unseen_sampling(trained, mask, shape=SHAPE) == []
    words = guards.unseen_sampling(trained, drawn("radial", 12.0), shape=SHAPE)
    assert len(words) == 1 and "to 8.00x)" in words[0]


def test_coil_maps_of_another_kind_than_in_training_are_said() -> None:
    coils = AcquisitionConfig(coils=(4, 8), maps="low_resolution")
    trained = guards.trained_for(Config(data=DataConfig(acquisition=coils)))
    asked = {"shape": trained.sizes[0], "coils": 8}
    mask = atlf.make_mask(trained.masks[0], trained.sizes[0], seed=1).samples
    (told,) = guards.unseen_sampling(trained, mask, coil_maps="espirit", **asked)
    assert told == "coil maps by espirit were not trained (trained: low_resolution)"
    assert guards.unseen_sampling(trained, mask, coil_maps="low_resolution", **asked) == []
    assert guards.unseen_sampling(trained, mask, **asked) == []  # given maps
    assert guards.trained_for(Config()).coil_maps == ""


def test_networks_that_can_do_without_a_ct_are_known():
    stages = (
        Stage("reconstruction", Reconstruct(adapters=False), PHASES, 1),
        Stage("adapters", Reconstruct(), ADAPTERS, 1),
        Stage("joint", Reconstruct(), steps=1),
    )
    augment, adapters, joint = AugmentConfig(ct_dropout=0.2), TrainConfig(stages=stages[:2]), TrainConfig(stages=stages)
    blind = ATLFConfig(use_fusion=False, use_ct=False, reconstruction=ReconstructionConfig(adain="none"))
    for config, known in (
        (Config(), False),
        (Config(augment=augment), True),
        (Config(train=adapters, model=PRESETS["best"]()), True),
        (Config(train=joint, model=PRESETS["best"]()), False),  # the rest has learnt on with every CT
        (Config(train=adapters), False),  # AdaIN sees the CT too
        (Config(augment=augment, model=blind), False),
    ):
        assert guards.trained_for(config).with_and_without_ct is known


def test_what_a_configuration_trains():
    config = Config(data=DataConfig(PhantomConfig(size=64, contrast="t1")), masks=(MaskConfig("radial"),))
    trained = guards.trained_for(config)
    assert trained == guards.TrainedFor((MaskConfig("radial"),), ((64, 64),), "phantom", "t1", 0.0, 0.0, ("brain",))
    cropped = dataclasses.replace(config, augment=dataclasses.replace(config.augment, crop=(32, 0)))
    assert guards.trained_for(cropped).sizes == ((64, 64), (32, 64))
    unknown = dataclasses.replace(config, data=DataConfig(PreparedConfig()))
    assert guards.trained_for(unknown).sizes == ()
    sized = DataConfig(PreparedConfig(size=(32, 48)))
    assert guards.trained_for(dataclasses.replace(config, data=sized)).sizes == ((32, 48),)


def test_other_data():
    trained = guards.TrainedFor((MaskConfig(),), dataset="phantom", contrast="t2")
    assert guards.unseen_dataset(trained, DataConfig()) == []
    t1 = DataConfig(PhantomConfig(contrast="t1"), acquisition=AcquisitionConfig(phase=0.5, noise=0.01))
    assert guards.unseen_dataset(trained, t1) == [
        "the contrast t1 was never trained, t2 was",
        "a simulated phase of 0.5 was never trained, 0 was",
        "a simulated noise of 0.01 was never trained, 0 was",
    ]
    assert guards.unseen_dataset(trained, DataConfig(FastMRIConfig())) == [
        "the dataset fastmri was never trained, phantom was"
    ]


def test_other_windows():
    trained = TRAINED._replace(windows=("brain", "bone"))
    for windows in (("brain", "bone"), ("none",)):
        assert guards.unseen_windows(trained, windows) == []
    assert guards.unseen_windows(TRAINED._replace(windows=()), ("wide",)) == []
    words = ["CT windows bone, brain were never trained, brain, bone were"]
    assert guards.unseen_windows(trained, ("bone", "brain")) == words


def test_foreign_scans():
    assert "generated heads" in guards.unseen_scan_kind(guards.TrainedFor((), dataset="phantom"), raw=False)[0]
    raw = guards.TrainedFor((), dataset="fastmri", contrast="AXT2")
    assert guards.unseen_scan_kind(raw, raw=True, contrast="AXT2") == [] == guards.unseen_scan_kind(raw, raw=True)
    assert guards.unseen_scan_kind(raw, raw=True, contrast="AXT1") == ["the contrast AXT1 was never trained, AXT2 was"]
    assert "fastMRI files" in guards.unseen_scan_kind(raw, raw=False)[0]
    assert guards.unseen_scan_kind(TRAINED, raw=False) == []


def test_the_command_records_warnings(tmp_path, monkeypatch, capsys):
    import json

    from atlf_jax.reconstruct import command

    def network(*arguments):
        return network_of(plain, TRAINED._replace(sizes=((64, 64),))), {
            "method": "network", "name": "x", "which": "best", "step": 1
        }  # fmt: skip

    monkeypatch.setattr(command, "_model", network)
    np.save(tmp_path / "k.npy", np.stack([KSPACE] * 3))
    np.save(tmp_path / "ct.npy", np.stack([np.roll(HEAD.ct, 8, 1)] * 3))
    np.save(tmp_path / "mask.npy", MASK)
    flags = ["--sampling.file", str(tmp_path / "mask.npy"), "--ct.path", str(tmp_path / "ct.npy")]
    command.main([str(tmp_path / "k.npy"), str(tmp_path / "out.h5"), *flags, "--ct.window", "none"])
    told = json.loads((tmp_path / "out.json").read_text())["warnings"]
    assert [text[:20] for text in told] == ["image size 128x128 w", "CT and MR do not mat"]
    said = capsys.readouterr().err
    monkeypatch.setattr(
        command, "_model", lambda *_: (network_of(plain, TRAINED._replace(windows=("wide",))), network(0)[1])
    )
    command.main([str(tmp_path / "k.npy"), str(tmp_path / "b.h5"), *flags, "--ct.window", "brain", "--dry_run"])
    assert "doubtful: CT windows brain were never trained, wide were" in capsys.readouterr().err
    assert all(said.count(f"doubtful: {text}") == 1 for text in told)


def test_the_model_is_called_as_before():
    network = network_of(plain, TRAINED)
    measurement = atlf.Measurement(jnp.asarray(KSPACE)[None], jnp.asarray(MASK)[None], jnp.asarray(HEAD.ct)[None])
    np.testing.assert_array_equal(network(measurement).image, plain(measurement).image)


def test_margins_follow_the_mask_and_the_number_of_slices():
    few = drawn("random", 10.0, 0.04)
    assert guards.margin() == guards.margin(MASK) == guards.MARGIN
    assert guards.margin(few) == guards.FEW_LINES_MARGIN and guards.margin(drawn("radial", 10.0)) == guards.MARGIN
    assert guards.margin(few, slices=guards.VOLUME_SLICES) == guards.VOLUME_MARGIN


def test_a_small_move_of_a_whole_volume_is_found():
    """Of one slice it passes: its information scatters."""
    heads = PhantomSource(PhantomConfig(size=128, subjects=4, slices=10, split="valid"))
    one, whole = guards.Placement(MASK), guards.Placement(MASK)
    for index in range(2, 8):
        image = atlf.reconstruct(fft2c_numpy(heads[index].target), MASK)
        for placement in (whole, *([one] if index == 4 else [])):
            placement.add(np.roll(heads[index].ct, 3, 0), image)
    assert one.warnings() == [] or one.gain[0] > guards.MARGIN
    assert whole.gain[0] > guards.VOLUME_MARGIN and "do not match in place" in whole.warnings()[0]
