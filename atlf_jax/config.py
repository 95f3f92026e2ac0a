"""The whole configuration of an experiment, its command line and its JSON form.

An experiment is a file with a function ``get_config() -> Config``, or one with an argument, ``FILE.py:ARGUMENT``; those
of ``configs/`` come with the package and are known by their names. Any field can be overridden on the command line.
"""

import ast
import dataclasses
import difflib
import math
import re
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation

from atlf_jax import command_line
from atlf_jax.data import DATASETS, AugmentConfig, DataConfig, Dataset, dataset_settings
from atlf_jax.earlier import REMOVED_FIELDS, migrate
from atlf_jax.masks import MaskConfig
from atlf_jax.models import MODELS, ATLFConfig, ModelConfig
from atlf_jax.models.atlf import objectives as atlf_objectives
from atlf_jax.objectives import OBJECTIVES, Objective
from atlf_jax.own_code import find, load_file, name_of
from atlf_jax.program import REFUSED
from atlf_jax.training import Stage, TrainConfig

__all__ = ["Config", "experiments", "from_dict", "load_config", "parse", "to_dict"]

T = TypeVar("T")
# field types that accept any class with the right methods, also of a user's file: the package's table, and a noun
EXTENSIBLE: dict[Any, tuple[dict[str, Any], str]] = {
    ModelConfig: (MODELS, "network"),
    Dataset: (DATASETS, "dataset"),
    Objective: ({**OBJECTIVES, **atlf_objectives.OBJECTIVES}, "objective"),
}
# experiments of earlier versions, which were files of their own
MOVED_EXPERIMENTS = (
    (r"(.*)\bbenchmark/(\w+?)(\.py)?", r"\1benchmark\3:\2"),
    (r"(.*)_istanet_plus(\.py)?", r"\1\2:istanet_plus"),
)


@beartype
@dataclass(frozen=True)
class Config:
    """All settings of an experiment, except the folder that it is written to."""

    name: str = "experiment"
    """Name of the experiment; results go to runs/NAME."""
    model: ModelConfig = field(default_factory=ATLFConfig)
    """The network; the experiment's file decides its kind."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the CT-MR pairs come from."""
    masks: tuple[MaskConfig, ...] = (MaskConfig(),)
    """Masks of training and validation: one setting or several. For each record, training draws a kind and then one of
    its settings; validation takes the kinds in turn."""
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


def experiments() -> dict[str, str]:
    """Return the experiments that come with the package: by name, what ``load_config`` takes.

    Example:
        >>> Path(experiments()["aanlib_4x"]).name, Path(experiments()["benchmark:unet"]).name
        ('aanlib_4x.py', 'benchmark.py:unet')
    """
    package = Path(__file__).parent
    installed, checkout = package / "experiments", package.parent / "configs"  # setup.py makes one of the other
    folder = installed if installed.is_dir() else checkout
    found = {}
    for file in sorted(folder.glob("*.py")):
        plain, arguments = _arguments(file)
        names = [""] * plain + [f":{argument}" for argument in arguments]
        found |= {f"{file.stem}{name}": f"{file}{name}" for name in names}
    return found


def _arguments(file: Path) -> tuple[bool, tuple[str, ...]]:
    """Read from an experiment's file, without running it, whether get_config works without argument, and its arguments.

    The arguments are listed in the file as ``ARGUMENTS = ("...", ...)``.
    """
    plain, arguments = False, ()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "get_config":
            plain = len(node.args.args) == len(node.args.defaults)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS":
            arguments = ast.literal_eval(node.value)
    return plain, arguments


def load_config(experiment: str | Path) -> Config:
    """Return what ``get_config`` of an experiment returns.

    Args:
        experiment: a Python file, one with an argument (``FILE.py:ARGUMENT``), or the name of an experiment that comes
            with the package.

    Raises:
        ValueError: there is no such file, it has no ``get_config``, or something in it is wrong; with the line.

    Example:
        >>> load_config("benchmark:unet").name
        'benchmark/unet'
    """
    path, argument = _located(str(experiment))
    try:
        get_config = getattr(load_file(path), "get_config", None)
        config = get_config(*[argument] if argument else []) if get_config else None
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else path
        if str(error).startswith(f"{path}, line"):  # of the file as a whole
            raise
        gone = next((name for name in REMOVED_FIELDS if f"keyword argument {name!r}" in str(error)), None)
        remedy = f"; {REMOVED_FIELDS[gone]}" if gone else ""
        raise ValueError(f"{where}: {type(error).__name__}: {_one_line(error)}{remedy}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path}: wanted a function get_config() -> Config, its result is {config!r}")
    return config


def _located(experiment: str) -> tuple[Path, str]:
    """Return the file of an experiment and the argument of its ``get_config``, or nothing."""
    shipped = experiments()
    for name in (experiment, *(re.sub(f"^{old}$", new, experiment) for old, new in MOVED_EXPERIMENTS)):
        text = shipped.get(name, name)
        file, _, argument = text.rpartition(":") if re.search(r"\.py:\w+$", text) else (text, "", "")
        path = Path(file).expanduser()
        if path.is_file():
            known = _arguments(path)[1] if argument and path.suffix == ".py" else ()
            if known and argument not in known:
                raise ValueError(f"{path} has no experiment {argument!r}; there are {', '.join(known)}")
            return path, argument
    raise ValueError(_no_experiment(Path(experiment)))


def _no_experiment(path: Path) -> str:
    """Return the message for a file that does not exist, with suggestions."""
    if path.suffix == ".py":
        neighbours = ", ".join(sorted(str(file) for file in path.parent.glob("*.py"))) or "no configuration"
        return f"no configuration file {path}; in that folder: {neighbours}"
    near = difflib.get_close_matches(str(path), experiments(), n=1)
    listed = [name for name in experiments() if ":" not in name]
    return f"no experiment {path}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(listed)}")


def parse(
    argv: Sequence[str] | None = None, *, program: str = "atlf train", description: str = ""
) -> tuple[Config, Path]:
    """Parse a command line: return the configuration and the run's folder, or report a mistake and exit.

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
        default, argv = _chosen(default, [re.sub(r"^--config\.", "--", text) for text in argv], program=program)
        options = _as_options(default)
        parsed = command_line.parse(
            type(options),
            _spread(argv, default.train.stages),
            program=f"{program} --config={path or 'FILE'} [--workdir=DIR]",
            description=description,
            default=options,
            config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        )
        config = _from_options(parsed, default)
    except (BeartypeCallHintParamViolation, ValueError) as error:
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(REFUSED) from error
    return config, Path(workdir or Path("runs") / config.name)


def _as_options(config: Config) -> Any:
    """Return an experiment as the command line shows it: with the types of its own network, and its stages by name."""
    stages = {
        stage.name: _listed(stage, {"objective": stage.objective}, hidden=("name",)) for stage in config.train.stages
    }
    train = _listed(dataclasses.replace(config.train, stages=()), stages, hidden=("stages",))
    data = _listed(config.data, {"source": config.data.source})
    return _listed(config, {"model": config.model, "data": data, "train": train})


def _listed(value: Any, parts: dict[str, Any], *, hidden: Sequence[str] = ()) -> Any:
    """Return an instance of a subclass in which ``parts`` have their exact types and ``hidden`` fields are hidden."""
    import tyro

    hints: list[tuple[str, Any, Any]] = [(name, type(part), field(default=part)) for name, part in parts.items()]
    unseen = tyro.conf.Suppress[tyro.conf.Fixed[Any]]
    hints += [(name, unseen, field(default=getattr(value, name))) for name in hidden]
    kind = dataclasses.make_dataclass(
        type(value).__name__, hints, bases=(type(value),), frozen=True, namespace={"__doc__": type(value).__doc__}
    )
    own = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return kind(**own | parts)


def _from_options(parsed: Any, default: Config) -> Config:
    """Undo ``_as_options``."""

    def plain(kind: type[T], value: Any, **parts: Any) -> T:
        names = [item.name for item in dataclasses.fields(typing.cast(Any, kind))]
        return kind(**{name: getattr(value, name) for name in names} | parts)

    stages = tuple(plain(Stage, getattr(parsed.train, stage.name)) for stage in default.train.stages)
    train = plain(TrainConfig, parsed.train, stages=stages)
    return plain(Config, parsed, train=train, data=plain(DataConfig, parsed.data))


def _spread(argv: Sequence[str], stages: Sequence[Stage]) -> list[str]:
    """Expand ``--train.loss.NAME`` to this setting of the objective of every stage that has it."""
    spread: list[str] = []
    for argument in argv:
        found = re.match(r"--train\.loss\.(\w+)(=.*)?$", argument)
        names = [stage.name for stage in stages if found and hasattr(stage.objective, found[1])]
        if found and names:
            value = found[2] or ""
            spread += [f"--train.{name}.objective.{found[1]}{value}" for name in names]
        else:
            spread.append(argument)
    return spread


def _chosen(default: Config, argv: list[str], *, program: str) -> tuple[Config, list[str]]:
    """Apply the arguments that must be read first: the dataset, which determines the fields, and old mask flags."""
    try:
        argv, masks = command_line.apply_old_mask_flags(argv, default.masks, several=True)
        argv, data = _choose_dataset(argv, default.data)
    except ValueError as error:
        raise command_line.refused(_one_line(error), program=program) from error
    return dataclasses.replace(default, masks=masks, data=data), argv


def _choose_dataset(argv: list[str], data: DataConfig) -> tuple[list[str], DataConfig]:
    """Apply ``--data.dataset NAME``, and replace ``--data.NAME.FIELD`` by ``--data.source.FIELD``."""
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
    """Remove one ``--flag=value`` or ``--flag value`` from the arguments; return the value and the other arguments."""
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

    For a field that may hold any network, dataset or objective, "kind" stores its class: a key of the package's table,
    or ``FILE.py:NAME``. ATLF-Net has no "kind", as in the first checkpoints.

    Raises:
        ValueError: a user's class is not defined at the top level of a file.
    """
    hints = typing.get_type_hints(type(config))
    return {name: _plain(getattr(config, name), hints[name]) for name in (f.name for f in dataclasses.fields(config))}


def from_dict(kind: type[T], values: Any, *, where: str = "config") -> T:
    """Build a configuration from plain JSON values, checking names and types.

    Args:
        kind: a configuration dataclass.
        values: a JSON dictionary as ``to_dict`` made it, today or in an earlier version; fields that are missing keep
            their defaults, so that checkpoints outlive new fields.
        where: name of the whole, for messages.

    Raises:
        ValueError: an unknown field, or a value of the wrong type.

    Example:
        >>> from_dict(TrainConfig, to_dict(TrainConfig(seed=3))) == TrainConfig(seed=3)
        True
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: wanted a dictionary of {kind.__name__}, got {values!r}")
    if kind is Config:
        values = migrate(values)
    hints = typing.get_type_hints(kind)
    unknown = values.keys() - {item.name for item in dataclasses.fields(typing.cast(Any, kind))}
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
    if hint in EXTENSIBLE and isinstance(value, dict):
        table, what = EXTENSIBLE[hint]
        name = value.get("kind", next(iter(table)))
        try:
            hint = find(name, table, what=what)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        value = {name: item for name, item in value.items() if name != "kind"}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=where)
    item = next(iter(typing.get_args(hint)), None)  # of tuple[Item, ...]
    if dataclasses.is_dataclass(item) and isinstance(value, list):
        return tuple(from_dict(typing.cast(type, item), each, where=f"{where}[{i}]") for i, each in enumerate(value))
    return _tuples(value)


def _plain(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        tagged = hint in EXTENSIBLE and not isinstance(value, ATLFConfig)
        tag = {"kind": name_of(type(value), EXTENSIBLE[hint][0], what=EXTENSIBLE[hint][1])} if tagged else {}
        return tag | to_dict(value)
    return [_plain(item, None) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
