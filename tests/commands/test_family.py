"""The command family: one list, one way of telling mistakes, and the commands of earlier versions."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from atlf_jax import command_line
from atlf_jax.commands import COMMANDS, atlf, audit, evaluate, run
from atlf_jax.config import experiments, load_config
from atlf_jax.config import parse as parse_experiment
from atlf_jax.masks import MaskConfig
from atlf_jax.models import pretrained
from atlf_jax.program import REFUSED, VERSION
from atlf_jax.reconstruct import command as reconstruct
from atlf_jax.trained import load

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_command_in_a_line_without_jax() -> None:
    code = (
        "import sys; from atlf_jax.commands import atlf; sys.argv = ['atlf', '--help']; atlf(); "
        "assert 'jax' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stdout.splitlines()
    for name, summary in COMMANDS.items():
        assert sum(line.split() == [name, *summary.split()] for line in lines) == 1
    assert len(lines) == len(COMMANDS) + 4 and max(map(len, lines)) <= 80
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # measured 0.05


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    with pytest.raises(SystemExit) as ended:
        run(name, ["--help"])
    assert not ended.value.code and f"usage: atlf {name}" in capsys.readouterr().out


def call(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["atlf", *arguments])
    try:
        atlf()
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_console_script(capsys, monkeypatch) -> None:
    assert call(monkeypatch) == 0 and capsys.readouterr().out.startswith("usage: atlf COMMAND")
    assert call(monkeypatch, "--version") == 0 and capsys.readouterr().out == f"{VERSION}\n"
    assert call(monkeypatch, "trian") == REFUSED
    assert capsys.readouterr().err == "atlf: there is no command 'trian'; did you mean train?\n"
    assert call(monkeypatch, "x") == REFUSED
    assert capsys.readouterr().err == f"atlf: there is no command 'x'; there are {', '.join(COMMANDS)}\n"
    with pytest.raises(ValueError, match="got a command 'x', wanted one of: demo, train, "):
        run("x", [])


def test_an_experiment_by_name_is_the_file_of_configs() -> None:
    files = {file.stem: str(file) for file in (ROOT / "configs").glob("*.py")}
    found = experiments()
    assert {name.partition(":")[0] for name in found} == files.keys()
    for name in ("phantom_smoke", "benchmark:dc_cnn"):
        file, _, argument = name.partition(":")
        assert found[name] == files[file] + f":{argument}" * bool(argument)
        assert load_config(name) == load_config(found[name])
    config, workdir = parse_experiment(["phantom_smoke", "--train.seed=3"])
    assert config == parse_experiment([f"--config={files['phantom_smoke']}", "--train.seed=3"])[0]
    assert workdir == Path("runs/phantom_smoke") and config.train.seed == 3


def test_an_unknown_experiment_is_told_with_what_may_be_meant(capsys) -> None:
    for name, words in (("phantom_demp", "did you mean phantom_demo?"), ("x", "there are aanlib_10x, ")):
        with pytest.raises(SystemExit, match=str(REFUSED)):
            parse_experiment([name])
        said = capsys.readouterr().err
        assert said.startswith(f"atlf train: no experiment {name}; ") and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "--train.joint.stpes=3",
            "Unrecognized options: --train.joint.stpes=3; Perhaps you meant: --train.joint.steps",
        ),
        (
            "--train.joint.steps=many",
            "Error parsing --train.joint.steps: invalid literal for int() with base 10: 'many'",
        ),
        ("--train.joint.steps=-1", "steps and warmup_steps must be >= 0, got -1 and 0"),
        (f"--mask.kind={'long' * 100}", "unknown mask 'longlong"),
        ("quickly", "Unrecognized options: quickly"),
    ],
)
def test_a_mistyped_argument_is_one_line(capsys, argument, words) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_experiment(["phantom_smoke", argument])
    captured = capsys.readouterr()
    assert ended.value.code == REFUSED and captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("atlf train: ") and words in captured.err and len(captured.err) <= 251
    assert captured.err.endswith("; see atlf train --help\n")


def test_the_command_of_earlier_versions_packs(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    out = tmp_path / "copy.safetensors"
    monkeypatch.setattr(sys, "argv", ["pretrained", "pack", "aanlib-best", str(out)])
    pretrained.main()
    assert load(out).facts == load("aanlib-best").facts
    monkeypatch.setattr(sys, "argv", ["pretrained", "pack", "aanlib-best", str(out), "--overwrite", "--mirror_average"])
    pretrained.main()
    assert load(out).mirror_average and load(out).averaging_mirrors(False).facts == load("aanlib-best").facts | {
        "mirror_average": False
    }
    monkeypatch.setattr(sys, "argv", ["pretrained", "table", str(tmp_path / "none"), str(tmp_path / "card.md")])
    with pytest.raises(SystemExit, match="2"):
        pretrained.main()
    assert "atlf_jax.models.pretrained table: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["pretrained"])
    with pytest.raises(SystemExit, match="2"):
        pretrained.main()
    assert "give pack or table" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("train.py",),
        ("evaluate.py",),
        ("-m", "atlf_jax.reconstruct"),
        ("-m", "atlf_jax.data.prepare"),
        ("-m", "atlf_jax.evaluation.audit"),
        ("-m", "atlf_jax.models.pretrained", "pack"),
    ],
    ids=" ".join,
)
def test_documented_commands_go_on_working(program, arguments) -> None:
    done = program("-W", "error", *arguments, "--help")
    name = "python " * (arguments[0] == "-m") + " ".join(arguments)
    assert done.returncode == 0 and f"usage: {name}" in done.stdout and done.stderr == ""


def test_masks_have_one_spelling_on_all_command_lines() -> None:
    wanted = MaskConfig("radial", 8.0, 0.04)
    flags = ["--masks", "radial", "8", "0.04"]
    assert parse_experiment(["phantom_smoke", *flags])[0].masks == (wanted,)
    assert command_line.parse(evaluate.Arguments, ["--checkpoint=x", *flags], program="x").masks == (wanted,)
    assert command_line.parse(audit.Arguments, ["--dataset=phantom", *flags], program="x").masks == (wanted,)
    files = ["in.npy", "out.h5", "--method=zero_filled"]
    assert reconstruct.parse([*files, *flags]).mask == wanted
    old = ["--mask.kind=radial", "--mask.acceleration", "8", "--mask.center_fraction=0.04"]
    assert reconstruct.parse([*files, *old]).mask == wanted  # of earlier versions
    arguments = command_line.parse(audit.Arguments, ["--dataset=phantom", "--mask", *flags[1:]], program="x")
    assert arguments.masks == (wanted,)
