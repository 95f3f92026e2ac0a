"""Configuration files, the command line, and the JSON form."""

import dataclasses
import json
from pathlib import Path

import pytest

from atlf_jax.config import Config, experiments, from_dict, load_config, parse, to_dict
from atlf_jax.data import AANLIBConfig, AugmentConfig, DataConfig, PhantomConfig, PreparedConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import MODELS, ATLFConfig, DCCNNConfig
from atlf_jax.models.atlf.objectives import Reconstruct
from atlf_jax.objectives import SelfSupervised, Supervised
from atlf_jax.training import Stage, TrainConfig

ROOT = Path(__file__).parent.parent
SMOKE = str(ROOT / "configs" / "phantom_smoke.py")


def exits(capsys, *argv: str) -> str:
    """Parse a wrong command line and return what it says, as one line."""
    with pytest.raises(SystemExit) as stop:
        parse([f"--config={SMOKE}", *argv])
    said = capsys.readouterr().err if isinstance(stop.value.code, int) else str(stop.value.code)
    assert stop.value.code not in (0, None)
    return " ".join(said.replace("│", " ").split())


def write(folder: Path, text: str) -> Path:
    file = folder / "experiment.py"
    file.write_text(text)
    return file


CONFIGS = ROOT / "configs"


def stage_of(config: Config, name: str) -> Stage:
    return next(stage for stage in config.train.stages if stage.name == name)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_loads_says_what_it_is_and_survives_json(name) -> None:
    file, _, argument = name.partition(":")
    config = load_config(name)
    assert config.name == name.replace(":", "/" if file == "benchmark" else "_")
    assert load_config(str(CONFIGS / f"{file}.py") + f":{argument}" * bool(argument)) == config
    assert f"python train.py --config=configs/{file}.py" in (CONFIGS / f"{file}.py").read_text()
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("earlier", "name"),
    [
        ("benchmark/dc_cnn", "benchmark:dc_cnn"),
        ("configs/benchmark/dc_cnn.py", "benchmark:dc_cnn"),
        (str(CONFIGS / "benchmark" / "best.py"), "benchmark:best"),
        ("aanlib_4x_istanet_plus", "aanlib_4x:istanet_plus"),
        ("configs/aanlib_10x_istanet_plus.py", "aanlib_10x:istanet_plus"),
    ],
)
def test_experiments_that_were_files_of_their_own_are_found_by_these(earlier, name, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_config(earlier) == load_config(name)


def test_an_argument_that_a_file_does_not_take_is_told() -> None:
    with pytest.raises(ValueError, match="benchmark.py has no experiment 'vit'; there are best, best_no_ct, "):
        load_config(f"{CONFIGS}/benchmark.py:vit")
    with pytest.raises(ValueError, match=r"benchmark.py: TypeError: get_config\(\) missing 1 required positional"):
        load_config(CONFIGS / "benchmark.py")


def test_further_masks_survive_json() -> None:
    config = Config(masks=(MaskConfig("radial", 4.0), MaskConfig("radial", 8.0)))
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ValueError, match=r"masks\[0\]: MaskConfig has no field 'knd'"):
        from_dict(Config, {"masks": [{"knd": "radial"}]})


def test_several_ct_windows_are_told_by_the_command_line_and_survive_json() -> None:
    config, _ = parse([f"--config={SMOKE}", "--data.phantom.ct_window", "brain", "bone", "--data.workers=0"])
    assert config.data.source.ct_window == config.data.ct_windows == ("brain", "bone")
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    config, _ = parse([f"--config={SMOKE}", "--data.source.ct_window=bone"])
    assert config.data.ct_windows == ("bone",)
    assert DataConfig(PreparedConfig(window="wide")).ct_windows == ("wide",)
    assert DataConfig(PreparedConfig()).ct_windows == DataConfig(AANLIBConfig()).ct_windows == ()


def test_the_file_s_values_are_the_defaults() -> None:
    config, workdir = parse([f"--config={SMOKE}"])
    assert config == load_config(SMOKE)
    assert workdir == Path("runs/phantom_smoke")


@pytest.mark.parametrize(
    "argv",
    [
        ["--train.joint.steps=10"],
        ["--train.joint.steps", "10"],
        ["--config.train.joint.steps=10"],
        ["--config.train.joint.steps", "10"],
    ],
)
def test_a_field_is_overridden_in_every_spelling(argv) -> None:
    config, _ = parse([*argv, "--config", SMOKE])
    default = load_config(SMOKE)
    assert config == dataclasses.replace(default, train=default.train.with_stage("joint", steps=10))


def test_overrides_are_typed() -> None:
    config, workdir = parse(
        [
            f"--config={SMOKE}",
            "--workdir=elsewhere",
            "--name=other",
            "--masks",
            *(
                "random",
                "4",
                "0.08",
                "radial",
                "8",
                "0.04",
                "center_lines=None",
                "poisson_disc",
                "6",
                "0",
                "center_radius=.1",
            ),
            "--augment.flip=False",
            "--model.fusion.s_clamp=2",
            "--train.joint.schedule=step",
            "--train.loss.l1=1",
        ]
    )
    assert workdir == Path("elsewhere") and config.name == "other"
    drawn = MaskConfig("poisson_disc", 6.0, 0.0, center_radius=0.1)
    assert config.masks == (MaskConfig("random", 4.0, 0.08), MaskConfig("radial", 8.0, 0.04), drawn)
    assert config.augment.flip is False
    assert config.model.fusion.s_clamp == 2.0
    assert stage_of(config, "joint").schedule == "step"
    objectives = {stage.name: stage.objective for stage in config.train.stages}
    assert objectives["joint"].l1 == objectives["reconstruction"].l1 == 1.0  # of every stage that has this setting
    assert parse([f"--config={SMOKE}", "--model.fusion.s_clamp=None"])[0].model.fusion.s_clamp is None


def test_one_stage_has_its_own_objective_and_patterns() -> None:
    flags = ["--train.joint.objective.beta_fusion=0.5", "--train.joint.trains", "phase_0/*", "!*/rho"]
    config, _ = parse([f"--config={SMOKE}", *flags])
    joint = stage_of(config, "joint")
    assert joint.objective == Reconstruct(beta_fusion=0.5) and joint.trains == ("phase_0/*", "!*/rho")
    assert stage_of(config, "reconstruction") == stage_of(load_config(SMOKE), "reconstruction")


def test_a_weight_that_no_objective_has_is_refused(capsys) -> None:
    assert "Unrecognized options: --train.loss.huber=1" in exits(capsys, "--train.loss.huber=1")


def test_a_typo_is_answered_with_the_nearest_field(capsys) -> None:
    said = exits(capsys, "--train.joint.stpes=3")
    assert "Unrecognized options: --train.joint.stpes=3" in said and "--train.joint.steps INT" in said
    assert "--train.joint.learning_rate FLOAT" in exits(capsys, "--config.train.joint.lerning_rate=3")


def test_a_stray_word_is_refused(capsys) -> None:
    assert "Unrecognized options: quickly" in exits(capsys, "quickly")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--train.joint.steps=many", "Error parsing --train.joint.steps: invalid literal for int()"),
        ("--train.joint.schedule=linear", "invalid choice 'linear'"),
        ("--train.joint.steps=-1", "steps and warmup_steps must be >= 0, got -1 and 0"),
        ("--train.accumulate=4", "autoencode.steps must be a multiple of accumulate = 4, got 2"),
        ("--mask.kind=randon", "did you mean 'random'"),
        ("--mask.knd=random", "got knd=random for a mask, wanted one of kind, acceleration"),
        ("--mask.acceleration", "different numbers of values"),
        ("--masks=random", "wanted KIND ACCELERATION CENTRE_FRACTION for each mask"),
        ("--data.prepared.window=wide", "the dataset is phantom; add --data.dataset=prepared"),
        ("--data.dataset=phantm", "did you mean 'phantom'"),
    ],
)
def test_a_wrong_value_is_told(capsys, argument, message) -> None:
    assert message in exits(capsys, argument)


def test_help_lists_every_field_with_the_file_s_value(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([f"--config={SMOKE}", "--help"], description="Train a network.")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())

    def fields(value, prefix=""):
        for item in dataclasses.fields(value):
            inner = getattr(value, item.name)
            yield from (
                fields(inner, f"{prefix}{item.name}.") if dataclasses.is_dataclass(inner) else [prefix + item.name]
            )

    config = load_config(SMOKE)
    names = [name for name in fields(config) if name not in ("train.stages",)]
    for stage in config.train.stages:
        names += [f"train.{stage.name}.{name}" for name in fields(stage) if name not in ("name", "objective")]
    assert len(names) > 80
    assert [name for name in names if f"--{name} " not in text] == []
    assert "--train.adapters" not in text and "--train.stages" not in text  # what the experiment has not
    assert "Train a network." in text
    assert "(default: phantom_smoke)" in text and "Batches seen in this stage; 0 skips it. (default: 2)" in text


def test_help_needs_no_experiment(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0 and "--train.reconstruction.steps INT" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--workdir=x"]])
def test_a_missing_experiment_is_asked_for(argv, capsys) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        parse(argv)
    assert (
        "give an experiment by its name, such as phantom_demo, or as a file with --config=FILE"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("flag", ["--config", "--workdir"])
def test_a_flag_without_value_is_refused(flag, capsys) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        parse([f"--config={SMOKE}"][: flag == "--workdir"] + [flag])
    assert f"{flag} wants a value" in capsys.readouterr().err


def test_a_missing_file_is_told_with_its_neighbours() -> None:
    with pytest.raises(
        ValueError, match=r"no configuration file .*phantom_smok\.py; in that folder: .*phantom_smoke\.py"
    ):
        load_config(SMOKE.replace("smoke", "smok"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", r"wanted a function get_config\(\) -> Config, its result is None"),
        ("def get_config():\n    return 3\n", r"wanted a function get_config\(\) -> Config, its result is 3"),
        ("def get_config():\n    return Config(name=3)\n", "parameter name=3 violates type hint <class 'str'>"),
        ("def get_config():\n    return Config(nam='x')\n", "unexpected keyword argument 'nam'"),
        ("def get_config():\n    return Config(more_masks=())\n", "a setting for each acceleration"),
        (
            "from atlf_jax.data import DataConfig\ndef get_config():\n    return DataConfig(dataset='aanlib')\n",
            "give DataConfig source=, the settings of the dataset",
        ),
        (
            "def get_config():\n    return Config(train=TrainConfig(batch_size=0))\n",
            "line 4: .*batch_size must be 1 or more",
        ),
        ("def get_config(:\n", "SyntaxError: .*line 3"),
        ("import nothing_like_this\n", "line 3: ModuleNotFoundError: No module named 'nothing_like_this'"),
        (
            "from atlf_jax.training import StageConfig\n",
            r"line 3: ImportError: .* stages are now Stage\(name, objective",
        ),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, body, message) -> None:
    file = write(tmp_path, f"from atlf_jax.config import Config\nfrom atlf_jax.training import TrainConfig\n{body}")
    with pytest.raises(ValueError, match=message) as error:
        load_config(file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_json_keeps_tuples_nothing_and_numbers() -> None:
    config = Config(
        masks=(MaskConfig("random", 4.0, 0.08), MaskConfig("random", 8.0, 0.04)),
        train=TrainConfig(stages=(Stage("joint", SelfSupervised(splits=2), ("a/*", "!b"), steps=4),)),
    )
    values = json.loads(json.dumps(to_dict(config)))
    assert [mask["acceleration"] for mask in values["masks"]] == [4.0, 8.0] and values["model"]["fusion"][
        "s_clamp"
    ] is None
    assert from_dict(Config, values) == config


@pytest.mark.parametrize("kind", MODELS)
def test_json_tells_the_kind_of_model(kind) -> None:
    config = Config(model=MODELS[kind]())
    values = json.loads(json.dumps(to_dict(config)))
    assert values["model"].get("kind", "atlf") == kind
    assert from_dict(Config, values) == config


def test_a_model_without_a_kind_is_atlf_net_and_may_say_so() -> None:
    values = to_dict(Config())
    assert "kind" not in values["model"]  # as in checkpoints from before there were others
    for tag in ({}, {"kind": "atlf"}):
        assert from_dict(Config, values | {"model": tag | {"use_fusion": True}}).model == ATLFConfig()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "unet2"}, "config.model: unknown network 'unet2': did you mean 'unet'"),
        ({"kind": "unet", "phases": 3}, "config.model: UNetConfig has no field 'phases'"),
        ({"kind": "unet", "width": 0}, "config.model: got width 0"),
        (3, "config: .*parameter model=3 violates type hint"),
    ],
)
def test_a_wrong_model_is_refused(model, message) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(Config, to_dict(Config()) | {"model": model})


def test_the_file_decides_the_kind_of_model_and_options_its_fields(capsys) -> None:
    file = "--config=benchmark:dc_cnn"
    config, workdir = parse([file, "--model.cascades=3", "--config.model.use_ct", "False"])
    assert config.model == dataclasses.replace(load_config("benchmark:dc_cnn").model, cascades=3, use_ct=False)
    assert isinstance(config.model, DCCNNConfig) and workdir == Path("runs/benchmark/dc_cnn")
    with pytest.raises(SystemExit):
        parse([file, "--help"])
    said = capsys.readouterr().out
    assert all(f"--model.{item.name} " in said for item in dataclasses.fields(DCCNNConfig))
    assert "--model.reconstruction" not in said
    with pytest.raises(SystemExit):
        parse([file, "--model.reconstruction.phases=3"])
    assert "Unrecognized options: --model.reconstruction.phases=3" in " ".join(capsys.readouterr().err.split())


def test_experiments_of_the_benchmark_share_all_but_model_rate_and_steps() -> None:
    def shared(name: str) -> Config:
        config = load_config(name)
        stage = stage_of(config, "reconstruction")
        weights = {weight: getattr(stage.objective, weight) for weight in vars(Supervised())}
        alike = {"trains": ("*",), "objective": Supervised(**weights), "steps": 100, "learning_rate": 1.0}
        stages = (dataclasses.replace(stage, **alike),)
        train = dataclasses.replace(config.train, stages=stages, eval_every=1, picture_every=1)
        of_the_ct = dict.fromkeys(("ct_dropout", "ct_gamma", "ct_misplaced"), 0.0)
        augment = dataclasses.replace(config.augment, **of_the_ct)
        return dataclasses.replace(config, name="", model=ATLFConfig(), train=train, augment=augment)

    methods = [name for name in experiments() if name.startswith("benchmark:")]
    assert len(methods) >= 7
    assert len({json.dumps(to_dict(shared(name))) for name in methods}) == 1


def test_the_first_stage_of_best_is_the_training_of_best_no_ct() -> None:
    best, twin = (load_config(f"benchmark:{name}") for name in ("best", "best_no_ct"))
    assert dataclasses.replace(best.model.unadapted, use_ct=False) == dataclasses.replace(
        twin.model.unadapted, use_ct=False
    )
    assert not twin.model.sees_ct and not best.model.unadapted.sees_ct

    def plain(config: Config) -> Config:
        stages = (stage_of(config, "reconstruction"),)
        train = dataclasses.replace(config.train, stages=stages, eval_every=1, picture_every=1)
        augment = dataclasses.replace(config.augment, ct_gamma=0.0, ct_misplaced=0.0, ct_dropout=0.0)
        return dataclasses.replace(config, name="", model=ATLFConfig(), train=train, augment=augment)

    assert plain(best) == plain(twin)


def test_json_without_a_newer_field_takes_its_default() -> None:
    values = to_dict(TrainConfig(batch_size=8))
    del values["stages"][0]["objective"]["l1"], values["seed"]
    assert from_dict(TrainConfig, values) == TrainConfig(batch_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchsize": 3}, "config: TrainConfig has no field 'batchsize'"),
        ({"stages": [{"stpes": 1}]}, r"config.stages\[0\]: Stage has no field 'stpes'"),
        ({"stages": [{"name": "a", "objective": {"mes": 1.0}}]}, "objective: Supervised has no field 'mes'"),
        ({"stages": [{"name": "a", "objective": {"kind": "gan"}}]}, "unknown objective 'gan': did you mean"),
        ({"stages": [{"name": "a", "objective": 3}]}, "parameter objective=3 violates type hint"),
        ({"batch_size": "3"}, "config: .*parameter batch_size='3' violates type hint <class 'int'>"),
        ({"batch_size": 3.5}, "config: .*parameter batch_size=3.5 violates type hint"),
        (
            {"stages": [{"name": "a", "objective": {}, "schedule": "linear"}]},
            r"config.stages\[0\]: .*parameter schedule='linear' violates type hint",
        ),
        ({"batch_size": 0}, "config: batch_size must be 1 or more, got 0"),
    ],
)
def test_wrong_json_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(TrainConfig, to_dict(TrainConfig()) | change)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(value):

    with pytest.raises(ValueError, match=r"train\.stages\.0\.learning_rate is (nan|inf); wanted a finite number"):
        Config(train=TrainConfig(stages=(Stage("joint", Supervised(), learning_rate=value),)))
    with pytest.raises(ValueError, match=r"augment\.rotation is (nan|inf)"):
        AugmentConfig(rotation=value)


def test_the_mask_flags_of_earlier_versions() -> None:
    flags = ["--mask.acceleration", "4", "8", "--mask.center_fraction", "0.08", "0.04", "--mask.kind=equispaced"]
    config, _ = parse([f"--config={SMOKE}", *flags])
    assert config.masks == (MaskConfig("equispaced", 4.0, 0.08), MaskConfig("equispaced", 8.0, 0.04))


def test_another_dataset_with_its_settings() -> None:
    config, _ = parse([f"--config={SMOKE}", "--data.dataset=prepared", "--data.prepared.window=wide"])
    assert config.data.source == PreparedConfig(window="wide") and config.data.dataset == "prepared"
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_configurations_of_earlier_versions() -> None:
    mask = {"kind": "random", "acceleration": [4.0, 8.0], "center_fraction": [0.08, 0.04], "decay": 0.2}
    old = {
        "mask": mask,
        "more_masks": [{"kind": "radial", "acceleration": 6.0}],
        "data": {"dataset": "aanlib", "aanlib": {"root": "x", "fold": 2}, "phantom": {"size": 64}, "workers": 1},
    }
    config = from_dict(Config, old)
    assert config.masks == (
        MaskConfig("random", 4.0, 0.08, decay=0.2),
        MaskConfig("random", 8.0, 0.04, decay=0.2),
        MaskConfig("radial", 6.0),
    )
    assert config.data == DataConfig(AANLIBConfig(root="x", fold=2), workers=1)
    assert from_dict(Config, {"data": {"phantom": {"size": 64}}}).data == DataConfig(PhantomConfig(size=64))
    with pytest.raises(ValueError, match="wanted as many"):
        from_dict(Config, {"mask": {"acceleration": [4.0, 8.0]}})
