"""Configurations of earlier versions: what their checkpoints say is read in the form of today."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from atlf_jax.config import Config, from_dict, load_config, to_dict
from atlf_jax.earlier import REMOVED_SETTINGS, REMOVED_VALUES, migrate, migrated
from atlf_jax.models import UNetConfig
from atlf_jax.models.atlf.objectives import Reconstruct
from atlf_jax.objectives import Supervised
from atlf_jax.training.identity import changes

EARLIER = json.loads(Path(__file__).with_name("earlier_run.json").read_text())  # of phantom_smoke, at step 4
OTHER = {"share_encoder": False, "lrfm_subnet": True, "post_fuse_layers": True, "decoder_skip": "mri"} | {
    "share_phases": True,
    "dpa_paths": "skip",
    "dpa_selector": "dpcdun",
    "adain_alpha": 0.5,
    "brb_width_factor": 2,
}
GONE = [
    (part, name, value)
    for part, fields in REMOVED_VALUES.items()
    for name, values in fields.items()
    for value in values
]


@pytest.fixture
def earlier() -> dict[str, Any]:
    return copy.deepcopy(EARLIER)


def test_a_run_of_before_has_todays_configuration_and_goes_on(earlier) -> None:
    today = load_config("phantom_smoke")
    config = from_dict(Config, earlier["config"])
    assert config.model == today.model and config.data == today.data
    used = [stage for stage in config.train.stages if stage.steps]
    assert used == list(today.train.stages)
    now = {"config": to_dict(today), "data": earlier["data"]}
    assert changes(migrated(earlier), now, step=4) == ({}, {})


def test_losses_of_before_are_those_of_every_stage(earlier) -> None:
    earlier["config"]["train"]["loss"] |= {"l1": 1.0, "mse": 0.0, "beta_fusion": 0.3, "eta_gap": 0.7}
    objectives = {stage.name: stage.objective for stage in from_dict(Config, earlier["config"]).train.stages}
    assert objectives["joint"] == Reconstruct(mse=0.0, l1=1.0, beta_fusion=0.3, eta_gap=0.7)
    assert objectives["reconstruction"] == Reconstruct(mse=0.0, l1=1.0, eta_gap=0.7, adapters=False)
    assert objectives["fusion"].eta_gap == 0.7


def test_other_networks_of_before_have_the_image_losses_alone(earlier) -> None:
    earlier["config"]["model"] = {"kind": "unet", "width": 8}
    earlier["config"]["train"]["loss"]["ssim"] = 0.5
    config = from_dict(Config, earlier["config"])
    assert config.model == UNetConfig(width=8)
    assert [stage.name for stage in config.train.stages] == ["reconstruction", "joint"]
    assert config.train.stages[0].objective == Supervised(ssim=0.5) and config.train.stages[0].trains == ("*",)


def test_a_configuration_of_today_stays_as_it_is() -> None:
    values = to_dict(load_config("benchmark:best"))
    assert migrate(values) == values


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, fields in REMOVED_SETTINGS.items() for name in fields]
)
def test_a_setting_that_was_taken_out_may_have_its_default_alone(earlier, part, name) -> None:
    assert name in earlier["config"]["model"][part]
    assert name not in migrate(earlier["config"])["model"][part]
    earlier["config"]["model"][part][name] = OTHER[name]
    with pytest.raises(ValueError, match=rf"model\.{part}\.{name} was taken out of the package, which now has "):
        from_dict(Config, earlier["config"])


@pytest.mark.parametrize(("part", "name", "value"), GONE)
def test_a_value_that_was_taken_out_is_refused(earlier, part, name, value) -> None:
    earlier["config"]["model"][part][name] = value
    with pytest.raises(ValueError, match=rf"{name} .* another value than '{value}' alone; load this network with"):
        from_dict(Config, earlier["config"])
