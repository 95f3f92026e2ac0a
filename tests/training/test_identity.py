"""What may change when a run goes on."""

import copy
import dataclasses

import pytest

from atlf_jax.config import Config, to_dict
from atlf_jax.data import AcquisitionConfig, AugmentConfig, DataConfig, PhantomConfig, PreparedConfig, open_source
from atlf_jax.earlier import migrated
from atlf_jax.masks import MaskConfig
from atlf_jax.models import DCCNNConfig
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig
from atlf_jax.training.identity import changes, describe_data, shared_subjects

FIRST = Stage("fusion", Supervised(), steps=10)
MAIN = Stage("reconstruction", Supervised(), steps=20, schedule="constant")
TRAIN = TrainConfig(stages=(FIRST, MAIN, Stage("joint", Supervised())))
CONFIG = Config(model=DCCNNConfig(width=8), train=TRAIN)


def record(config: Config = CONFIG, **data: str) -> dict:
    return {"config": to_dict(config), "data": {"train": "90 records", "valid": "10 records"} | data}


def change(part: str, **fields) -> Config:
    return dataclasses.replace(CONFIG, **{part: dataclasses.replace(getattr(CONFIG, part), **fields)})


def stage(name: str, **fields) -> Config:
    return dataclasses.replace(CONFIG, train=TRAIN.with_stage(name, **fields))


def stages(*them: Stage) -> Config:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(TRAIN, stages=them))


@pytest.mark.parametrize(
    ("config", "name", "pair"),
    [
        (dataclasses.replace(CONFIG, masks=(MaskConfig(acceleration=8.0),)), "masks.0.acceleration", (4.0, 8.0)),
        (change("train", seed=1), "train.seed", (0, 1)),
        (change("train", batch_size=8), "train.batch_size", (4, 8)),
        (change("train", ema_decay=0.5), "train.ema_decay", (0.999, 0.5)),
        (stage("fusion", objective=Supervised(l1=1.0)), "train.fusion.objective.l1", (0.0, 1.0)),
        (stage("fusion", trains=("a/*",)), "train.fusion.trains", (["*"], ["a/*"])),
        (stages(MAIN), "train.fusion.steps", (10, 0)),
        (stages(Stage("new", Supervised(), steps=1), FIRST, MAIN), "train.new.steps", (0, 1)),
        (change("model", width=16), "model.width", (8, 16)),
        (change("data", train_split="inner_train"), "data.train_split", ("train", "inner_train")),
        (change("data", source=PhantomConfig(seed=3)), "data.source.seed", (0, 3)),
        (change("data", acquisition=AcquisitionConfig(noise=0.1)), "data.acquisition.noise", (0.0, 0.1)),
        (dataclasses.replace(CONFIG, augment=AugmentConfig(flip=False)), "augment.flip", (True, False)),
        (stage("fusion", learning_rate=1e-3), "train.fusion.learning_rate", (1e-4, 1e-3)),
        (stage("fusion", steps=12), "train.fusion.steps", (10, 12)),
        (
            stage("reconstruction", steps=25, schedule="cosine"),
            "train.reconstruction.steps",
            (20, 25),
        ),
        (
            stage("reconstruction", steps=2),
            "train.reconstruction.steps",
            (20, 2),
        ),
        (
            dataclasses.replace(CONFIG, masks=(MaskConfig(), MaskConfig(kind="radial"))),
            "masks",
            (1, 2),
        ),
    ],
)
def test_another_experiment_is_told_by_name(config, name, pair) -> None:
    found = changes(record(), record(config), step=15)
    assert found.others[name] == pair and found.free == {}
    assert f"{name}: {pair[0]} -> {pair[1]}" in found.lines()
    assert f"{name} {pair[0]} -> {pair[1]}" in found.refusal("runs/x")
    assert found.entry(15)[0]["step"] == 15 and found.entry(15)[0][name] == list(pair)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (CONFIG, set()),
        (dataclasses.replace(CONFIG, name="y"), {"name"}),
        (change("train", log_every=1, save_every=2), {"train.log_every", "train.save_every"}),
        (change("train", eval_every=1, picture_every=2), {"train.eval_every", "train.picture_every"}),
        (change("data", workers=2), {"data.workers"}),
        (
            stage("joint", steps=5, learning_rate=1e-3),
            {"train.joint.steps", "train.joint.learning_rate"},
        ),
        (
            stage("reconstruction", steps=25),
            {"train.reconstruction.steps"},
        ),
        (change("data", source=PhantomConfig(split="all")), set()),  # it is replaced
        (stages(FIRST, MAIN), set()),  # a stage of 0 steps more or less
        (stages(FIRST, MAIN, Stage("last", Supervised(), steps=3)), {"train.last.steps"}),
    ],
)
def test_what_changes_nothing_of_what_is_computed_is_free(config, names) -> None:
    found = changes(record(), record(config), step=15)
    assert found.free.keys() == names and found.others == {} and found.entry(15) == []


def test_settings_of_a_stage_are_free_until_it_has_begun() -> None:
    longer = record(stage("reconstruction", steps=30, learning_rate=1e-3, schedule="cosine"))
    names = {f"train.reconstruction.{name}" for name in ("steps", "learning_rate", "schedule")}
    assert changes(record(), longer, step=10).free.keys() == names
    assert changes(record(), longer, step=11).others.keys() == names


def test_a_folder_may_move_and_its_data_may_not_change() -> None:
    first, moved = (dataclasses.replace(CONFIG, data=DataConfig(PreparedConfig(root=root))) for root in ("a", "b"))
    assert changes(record(first), record(moved), step=15).free == {"data.source.root": ("a", "b")}
    found = changes(record(first), record(moved, train="91 records"), step=15)
    assert found.others == {"records to train on": ("90 records", "91 records")}


def test_records_of_other_versions_lack_fields() -> None:
    older = copy.deepcopy(record())
    del older["config"]["train"]["allow_shared_subjects"], older["data"]
    assert changes(older, record(), step=15) == changes(record(), older, step=15) == ({}, {})
    atlf = record(dataclasses.replace(CONFIG, model=Config().model))
    assert "model.kind" in changes(record(), atlf, step=15).others  # of models every field counts


def test_records_of_earlier_versions_are_of_the_same_experiment() -> None:
    older = copy.deepcopy(record())
    config = older["config"]
    config["mask"], config["more_masks"] = config.pop("masks")[0], []
    settings = config["data"].pop("source")
    config["data"] |= {"dataset": settings.pop("kind"), "phantom": settings, "prepared": {"root": "elsewhere"}}
    older = migrated(older)  # as checkpoints are read
    assert changes(older, record(), step=15) == ({}, {})
    other = dataclasses.replace(CONFIG, data=DataConfig(PreparedConfig()))
    assert changes(older, record(other), step=15).others["data.source.kind"] == ("phantom", "prepared")


def test_a_refusal_fits_a_line() -> None:
    everything = record(Config(masks=(MaskConfig(kind="radial", acceleration=10.0),), train=TrainConfig(seed=5)))
    found = changes(record(), everything, step=15)
    message = found.refusal("runs/aanlib_4x")
    assert len(found.others) > 10 and len(message) <= 250 and " more)" in message and "--resume_changed" in message


def test_sources_tell_their_subjects_and_what_they_hold(discs) -> None:
    train, valid = (open_source(DataConfig(PhantomConfig(size=16, slices=1)), split) for split in ("train", "valid"))
    assert shared_subjects(train, valid) == []
    assert shared_subjects(train, train) == sorted({train[index].subject for index in range(len(train))})
    assert shared_subjects(discs(3), discs(12)) == ["s00", "s01", "s02"]
    described = describe_data(discs(3), discs(3, group="v"))
    assert described["train"].startswith("3 records of 3 subjects (") and described["train"] != described["valid"]
    assert describe_data(discs(3), discs(4))["valid"].startswith("4 records of 4 subjects (")
