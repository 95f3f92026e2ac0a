"""The whole configuration of an experiment, its command line and its JSON form.

An experiment is a file ``configs/x.py`` with a function ``get_config() -> Config``; any field can be overridden on
the command line.
"""

import dataclasses
import os
import runpy
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation

from atlf_jax.data import AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models.atlf import ATLFConfig
from atlf_jax.training import TrainConfig

__all__ = ["Config", "from_dict", "load_config", "parse", "to_dict"]

T = TypeVar("T")


@beartype
@dataclass(frozen=True)
class Config:
    """Everything that decides an experiment, but the folder it is written to."""

    name: str = "experiment"
    """Name of the experiment; results go to runs/NAME."""
    model: ATLFConfig = field(default_factory=ATLFConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the CT-MR pairs come from."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Undersampling, in training and in validation."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the training pairs."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Stages, losses and intervals of training."""


def load_config(path: str | Path) -> Config:
    """Return what ``get_config()`` of a configuration file returns.

    Args:
        path: a Python file.

    Raises:
        ValueError: there is no such file, it has no ``get_config``, or a value in it is wrong.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(str(file) for file in path.parent.glob("*.py"))) or "no configuration"
        raise ValueError(f"no configuration file {path}; in that folder: {there}")
    namespace = runpy.run_path(str(path))
    if "get_config" not in namespace:
        raise ValueError(f"{path} has no function get_config() -> Config")
    try:
        config = namespace["get_config"]()
    except (BeartypeCallHintParamViolation, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path}: get_config() returned {type(config).__name__}, wanted Config")
    return config


def parse(argv: Sequence[str] | None = None, *, description: str = "") -> tuple[Config, Path]:
    """Return the configuration and the run's folder that a command line asks for; on a mistake, say so and exit.

    ``--config=FILE`` comes first in effect, wherever it stands; ``--train.joint.steps 10``,
    ``--train.joint.steps=10`` and ``--config.train.joint.steps=10`` override its fields; ``--workdir=DIR`` is
    ``runs/NAME`` by default; ``--help`` lists every field with the file's values.

    Args:
        argv: arguments after the program's name; those of the process by default.
        description: what the program does, for ``--help``.
    """
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    program = Path(sys.argv[0]).name
    try:
        path, argv = _take(argv, "--config")
        workdir, argv = _take(argv, "--workdir")
        if path is None:
            raise ValueError("give an experiment with --config=configs/NAME.py (and --help after it lists its fields)")
        default = load_config(path)
    except ValueError as error:
        raise SystemExit(f"{program}: {error}") from error
    argv = ["--" + argument.removeprefix("--config.") if argument.startswith("--config.") else argument for argument in argv]
    config = tyro.cli(
        Config,
        prog=f"{program} --config={path} [--workdir=DIR]",
        description=description,
        default=default,
        args=argv,
        config=(tyro.conf.FlagConversionOff,),
    )
    return config, Path(workdir or Path("runs") / config.name)


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
    """Return a configuration as plain JSON values; ``from_dict`` undoes it."""
    return _plain(config)


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
    hints = typing.get_type_hints(kind)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise ValueError(f"{where}: {kind.__name__} has no field {sorted(unknown)[0]!r}")
    built = {name: _typed(hints[name], value, where=f"{where}.{name}") for name, value in values.items()}
    try:
        return kind(**built)
    except (BeartypeCallHintParamViolation, ValueError) as error:
        raise ValueError(f"{where}: {_one_line(error)}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _typed(hint: Any, value: Any, *, where: str) -> Any:
    """Turn JSON's dictionaries and lists back to dataclasses and tuples; beartype checks the rest on construction."""
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where=where)
    if typing.get_origin(hint) in (Union, types.UnionType) and isinstance(value, dict):
        kinds = [kind for kind in typing.get_args(hint) if dataclasses.is_dataclass(kind)]
        return from_dict(kinds[0], value, where=where)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
