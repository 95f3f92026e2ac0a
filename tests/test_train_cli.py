"""train.py from end to end, as a person runs it: on one device, in a process of its own."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from atlf_jax.commands.train import main
from atlf_jax.config import Config, from_dict, load_config
from atlf_jax.models import build
from atlf_jax.program import REFUSED
from atlf_jax.training import load
from tests.data.test_prepared import write

ROOT = Path(__file__).parent.parent


def lines(workdir: Path, kind: str = "train") -> list[dict]:
    every = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


@pytest.mark.slow
def test_the_smoke_experiment_runs_through_all_stages(smoke) -> None:
    stages = [line["stage"] for line in lines(smoke)]
    assert list(dict.fromkeys(stages)) == ["autoencode", "fusion", "reconstruction", "joint"]
    assert lines(smoke, "valid")[-1]["step"] == lines(smoke)[-1]["step"] == 8
    assert f"done: {smoke}" in (smoke / "said.txt").read_text()
    assert {path.name for path in (smoke / "checkpoints").iterdir()} == {"best", "latest"}
    values, variables = load(smoke)
    config = from_dict(Config, values)
    assert config == load_config(ROOT / "configs" / "phantom_smoke.py")
    assert "fusion" in variables["params"] and build(config.model).mu_values
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("pairing", ["unpaired", "same subject"])
def test_pairs_of_different_people_are_told(monkeypatch, tmp_path, capsys, pairing) -> None:
    manifest = write(tmp_path)
    for record in manifest["subjects"]:
        record["pairing"] = pairing
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("atlf_jax.training.fit", lambda *arguments, **_: print(len(arguments[2])))
    main(["chaos_4x", f"--data.prepared.root={tmp_path}"])
    said = "CT and MR are of different people (unpaired)" in capsys.readouterr().out
    assert said == (pairing == "unpaired")


@pytest.fixture
def train(monkeypatch, capsys):
    """Run the command in this process up to the error that ends it; return exit code and standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(ROOT)
        with pytest.raises(SystemExit) as ended:
            main(arguments, program="train.py")
        return ended.value.code, capsys.readouterr().err

    return run


def test_a_mistake_is_told_in_one_line(train, tmp_path) -> None:
    (tmp_path / "file").write_text("kept")
    damaged = tmp_path / "damaged" / "checkpoints" / "latest" / "99"
    damaged.mkdir(parents=True)
    smoke = ["--config=configs/phantom_smoke.py", "--train.batch_size=4"]
    for arguments, message in [
        (["--config=configs/none.py"], "no configuration file configs/none.py; in that folder: "),
        (
            [*smoke, f"--workdir={tmp_path / 'file'}"],
            f"the folder {tmp_path / 'file'} cannot be written (File exists); ",
        ),
        ([*smoke, "--workdir=/proc/run"], "the folder /proc/run cannot be written (No such file or directory); give"),
        (
            [*smoke, f"--workdir={tmp_path / 'damaged'}"],
            f"no checkpoint of {tmp_path}/damaged/checkpoints can be gone on ",
        ),
        (
            [*smoke, "--data.valid_split=all"],
            "8 subjects (0000, 0001, 0002, ...) would be both trained on and validated",
        ),
    ]:
        code, errors = train(*arguments)
        assert code == REFUSED and errors.startswith(f"train.py: {message}") and errors.count("\n") == 1, errors
    assert (tmp_path / "file").read_text() == "kept" and list(damaged.iterdir()) == []


def test_a_subject_in_two_splits_of_a_manifest_is_refused(train, tmp_path) -> None:
    manifest = write(tmp_path)
    trained = next(record for record in manifest["subjects"] if record["split"] == "inner_train")
    manifest["subjects"].append(trained | {"split": "valid"})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    arguments = [f"--data.prepared.root={tmp_path}", f"--workdir={tmp_path / 'run'}", "--train.batch_size=4"]
    code, errors = train("--config=configs/chaos_4x.py", *arguments)
    assert code == REFUSED
    assert errors.startswith(f"train.py: {tmp_path / 'manifest.json'} has subject {trained['subject']} twice; ")
    assert "leave it in one split" in errors and len(errors) < 260 and not (tmp_path / "run").exists()


def test_a_mistake_of_a_value_names_it(train) -> None:
    code, errors = train("--config=configs/phantom_smoke.py", "--train.batch_size=0")
    assert code == REFUSED and "batch_size must be 1 or more, got 0" in errors and "Traceback" not in errors


def test_help_tells_exit_codes_and_what_may_change(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ended.value.code == 0
    assert "--resume_changed goes on with other ones" in text
    assert "Exit codes: 0 done; 1 training diverged; 2 refused, in one line; 75 interrupted" in text


def test_a_run_goes_on_with_other_settings_by_its_flag(monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr("atlf_jax.training.fit", lambda *_, resume_changed, **__: asked.append(resume_changed))
    monkeypatch.chdir(ROOT)
    for flags in ([], ["--resume_changed"]):
        main([*flags, "--config=configs/phantom_smoke.py"])
    assert asked == [False, True]
