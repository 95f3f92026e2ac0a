"""The whole configuration of an experiment, its command line and its JSON form.

An experiment is a file with a function ``get_config() -> Config``; those of ``configs/`` come with the package and are
known by their names. Any field can be overridden on the command line.
"""

import dataclasses
import difflib
import math
import re
import runpy
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation

from atlf_jax import command_line, own_code
from atlf_jax.data import DATASETS, AugmentConfig, DataConfig, Dataset, dataset_settings
from atlf_jax.masks import MaskConfig
from atlf_jax.migration import MOVED, migrated
from atlf_jax.models import MODELS, ATLFConfig, ModelConfig
from atlf_jax.program import REFUSED
from atlf_jax.training import TrainConfig

__all__ = ["Config", "experiments", "from_dict", "load_config", "parse", "to_dict"]

T = TypeVar("T")
KINDS = {config_class: kind for kind, (config_class, _) in MODELS.items()}


@beartype
@dataclass(frozen=True)
class Config:
    """Everything that decides an experiment, but the folder it is written to."""

    name: str = "experiment"
    """Name of the experiment; results go to runs/NAME."""
    model: ModelConfig = field(default_factory=ATLFConfig)
    """The network; the experiment's file decides its kind."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the CT-MR pairs come from."""
    masks: tuple[MaskConfig, ...] = (MaskConfig(),)
    """Undersampling, in training and in validation: one setting or several, as many accelerations as kinds need. For
    each record training draws a kind and then one of its settings; validation takes the kinds in turn."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the training pairs."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Stages, losses and intervals of training."""

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks is empty; wanted at least one setting")
        for name, value in _numbers(self):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; wanted a finite number")


def experiments() -> dict[str, Path]:
    """Return the files of the experiments that come with the package, by name.

    Example:
        >>> experiments()["aanlib_4x"].name
        'aanlib_4x.py'
    """
    package = Path(__file__).parent
    installed, checkout = package / "experiments", package.parent / "configs"  # setup.py makes one of the other
    folder = installed if installed.is_dir() else checkout
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.py"))}
    return {name: file for name, file in files.items() if "def get_config" in file.read_text(encoding="utf-8")}


def load_config(experiment: str | Path) -> Config:
    """Return what ``get_config()`` of an experiment returns.

    Args:
        experiment: a Python file, or the name of an experiment that comes with the package.

    Raises:
        ValueError: there is no such file, it has no ``get_config``, or something in it is wrong; with the line.
    """
    path = Path(experiment)
    if not path.is_file():
        if str(experiment) not in experiments():
            raise ValueError(_no_experiment(path))
        path = experiments()[str(experiment)]
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if get_config else None
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else path
        gone = next((name for name in MOVED if f"keyword argument {name!r}" in str(error)), None)
        remedy = f"; {MOVED[gone]}" if gone else ""
        raise ValueError(f"{where}: {type(error).__name__}: {_one_line(error)}{remedy}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path}: wanted a function get_config() -> Config, its result is {config!r}")
    return config


def _no_experiment(path: Path) -> str:
    """Say that a file does not exist, with what may be meant."""
    if path.suffix == ".py":
        neighbours = ", ".join(sorted(str(file) for file in path.parent.glob("*.py"))) or "no configuration"
        return f"no configuration file {path}; in that folder: {neighbours}"
    near = difflib.get_close_matches(str(path), experiments(), n=1)
    listed = [name for name in experiments() if "/" not in name]
    return f"no experiment {path}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(listed)}")


def parse(
    argv: Sequence[str] | None = None, *, program: str = "atlf train", description: str = ""
) -> tuple[Config, Path]:
    """Return the configuration and the run's folder that a command line asks for; on a mistake, say so and exit.

    A name that comes first, or ``--config=FILE``, gives the defaults; ``--train.joint.steps 10``,
    ``--train.joint.steps=10`` and ``--config.train.joint.steps=10`` override them; ``--workdir=DIR`` is ``runs/NAME``
    by default; ``--help`` lists every field with its default.

    Args:
        argv: arguments after the program's name; those of the process by default.
        program: its name, for messages.
        description: what the program does, for ``--help``.
    """
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        path, argv = _take(argv, "--config")
        workdir, argv = _take(argv, "--workdir")
        if path is None and argv and not argv[0].startswith("-"):
            path, *argv = argv
        if path is None and not {"-h", "--help"} & set(argv):
            raise ValueError(
                "give an experiment by its name, such as phantom_demo, or as a file with --config=FILE; --help lists "
                "all there is to set"
            )
        default = Config() if path is None else load_config(path)
    except ValueError as error:
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(REFUSED) from error
    argv = [re.sub(r"^--config\.", "--", text) for text in argv]
    try:
        argv, masks = command_line.apply_old_mask_flags(argv, default.masks, several=True)
        argv, data = _choose_dataset(argv, default.data)
        default = dataclasses.replace(default, masks=masks, data=data)
    except ValueError as error:
        raise command_line.refused(_one_line(error), program=program) from error
    config = command_line.parse(
        Config,
        argv,
        program=f"{program} --config={path or 'FILE'} [--workdir=DIR]",
        description=description,
        default=default,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
    return config, Path(workdir or Path("runs") / config.name)


def _choose_dataset(argv: list[str], data: DataConfig) -> tuple[list[str], DataConfig]:
    """Take ``--data.dataset NAME``, and read ``--data.NAME.FIELD`` as ``--data.source.FIELD``."""
    name, argv = _take(argv, "--data.dataset")
    if name is not None and name != data.dataset:
        data = dataclasses.replace(data, source=dataset_settings(name))
    for text in argv:
        found = re.match(r"--data\.(\w+)\.", text)
        if found and found[1] in DATASETS and found[1] != data.dataset:
            raise ValueError(f"{text} is given, and the dataset is {data.dataset}; add --data.dataset={found[1]}")
    old = re.compile(rf"^--data\.{re.escape(data.dataset)}\.")
    return [old.sub("--data.source.", text) for text in argv], data


def _take(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Take one ``--flag=value`` or ``--flag value`` out of the arguments."""
    for position, argument in enumerate(argv):
        if argument == flag:
            if position + 1 == len(argv):
                raise ValueError(f"{flag} wants a value")
            return argv[position + 1], argv[:position] + argv[position + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), argv[:position] + argv[position + 1 :]
    return None, argv


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as a dictionary of plain JSON values; ``from_dict`` undoes it.

    Where a field may be the configuration of any model, "kind" says of which; ATLF-Net's has none, as in checkpoints
    from before there were others.
    """
    return {item.name: _plain(getattr(config, item.name)) for item in dataclasses.fields(config)}


def from_dict(kind: type[T], values: Any, *, where: str = "config") -> T:
    """Build a configuration from plain JSON values, checking names and types.

    Args:
        kind: a configuration dataclass.
        values: a JSON dictionary as ``to_dict`` made it; fields that are missing keep their defaults, so that
            checkpoints outlive new fields.
        where: name of the whole, for messages.

    Raises:
        ValueError: an unknown field, or a value of the wrong type.

    Example:
        >>> from atlf_jax.training import StageConfig
        >>> from_dict(StageConfig, to_dict(StageConfig(steps=3))) == StageConfig(steps=3)
        True
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: wanted a dictionary of {kind.__name__}, got {values!r}")
    if kind is Config:
        values = migrated(values)
    hints = typing.get_type_hints(kind)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise ValueError(f"{where}: {kind.__name__} has no field {sorted(unknown)[0]!r}")
    fields = {name: _field(hints[name], value, where=f"{where}.{name}") for name, value in values.items()}
    try:
        return kind(**fields)  # beartype checks the types
    except (BeartypeCallHintParamViolation, ValueError) as error:
        raise ValueError(f"{where}: {_one_line(error)}") from error


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield each float among the fields of a configuration, with its dotted name."""
    if isinstance(value, float):
        yield name, value
    parts = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, item.name) for item in dataclasses.fields(value)]
    names = [item.name for item in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else range(len(parts))
    for key, part in zip(names, parts, strict=True):
        yield from _numbers(part, f"{name}.{key}" if name else str(key))


def _field(hint: Any, value: Any, *, where: str) -> Any:
    """Undo ``_plain``: build a configuration, a tuple of configurations, or what JSON says."""
    if hint == ModelConfig and isinstance(value, dict):
        kind = value.get("kind", "atlf")
        if kind not in MODELS:
            raise ValueError(f"{where}: got kind {kind!r}, wanted one of: {', '.join(MODELS)}")
        hint, value = MODELS[kind][0], {name: item for name, item in value.items() if name != "kind"}
    if where.endswith("data.source"):
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise ValueError(f"{where}: got {value!r}, wanted a dictionary with the kind of the dataset")
        hint = type(dataset_settings(value["kind"]))
        value = {name: item for name, item in value.items() if name != "kind"}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=where)
    item = next(iter(typing.get_args(hint)), None)  # of tuple[Item, ...]
    if dataclasses.is_dataclass(item) and isinstance(value, list):
        return tuple(from_dict(typing.cast(type, item), each, where=f"{where}[{i}]") for i, each in enumerate(value))
    return _tuples(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        if isinstance(value, Dataset):
            return {"kind": own_code.name_of(type(value), DATASETS, what="dataset")} | to_dict(value)
        tagged = type(value) in KINDS and not isinstance(value, ATLFConfig)
        return ({"kind": KINDS[type(value)]} if tagged else {}) | to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
