"""Networks, datasets, masks and metrics from a user's own Python file, named ``FILE.py:NAME``.

Wherever the package takes a name from a table (``MODELS``, ``DATASETS``, ``MASKS``, ``METRICS``), it also takes such a
name. Configurations, checkpoints and command lines store this text, and the file is loaded from it.
"""

import difflib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from beartype import beartype

__all__ = [
    "LoadedFiles",
    "already_imported",
    "digest",
    "files_in",
    "find",
    "is_own",
    "load_file",
    "name_of",
    "with_files",
]

PREFIX = "atlf_own_code_"  # of the module names under which the files are imported


@beartype
def is_own(name: str) -> bool:
    """Return whether a text has the form ``FILE.py:NAME``.

    Example:
        >>> is_own("my_masks.py:spiral"), is_own("random")
        (True, False)
    """
    file, _, attribute = name.rpartition(":")
    return file.endswith(".py") and bool(attribute)


@beartype
def load_file(path: str | Path) -> ModuleType:
    """Import a Python file. It is imported once until it changes, so that its classes stay identical.

    Args:
        path: of the file. It may import other modules from its own folder.

    Raises:
        ValueError: there is no such file, or it raises an error; the message has the line.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"there is no Python file {path}; give the path of one that is there")
    name = PREFIX + hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:16]
    for module in [sys.modules.get(name), *_imported(file)]:
        if module is not None:
            return module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; give the path of one, NAME.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, since dataclasses look up their module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


class LoadedFiles:
    """Unpickling an instance loads the user's files that were loaded where it was pickled, for loader processes.

    Objects pickled after it in the same stream may be instances of classes in these files.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        files = [module.__file__ for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]
        return _load_files, (files,)


def _load_files(files: list[str]) -> LoadedFiles:
    for file in files:
        load_file(file)
    return LoadedFiles()


def _imported(file: Path) -> Iterator[ModuleType]:
    """Yield the modules of a file that were imported by ``import``."""
    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None)
        if not name.startswith(PREFIX) and place and Path(place).name == file.name and Path(place).resolve() == file:
            yield module


@beartype
def files_in(values: Any) -> set[str]:
    """Return the files of all ``FILE.py:NAME`` anywhere in JSON values.

    Example:
        >>> files_in({"model": {"kind": "my_network.py:Small"}, "mask": ["random", "masks/mine.py:spiral"]}) == {
        ...     "my_network.py", "masks/mine.py"}
        True
    """
    if isinstance(values, dict):
        return {file for value in values.values() for file in files_in(value)}
    if isinstance(values, list):
        return {file for value in values for file in files_in(value)}
    return {values.rpartition(":")[0]} if isinstance(values, str) and is_own(values) else set()


@beartype
def with_files(values: Any, places: Mapping[str, str]) -> Any:
    """Return JSON values in which the files of all ``FILE.py:NAME`` are replaced.

    Args:
        values: JSON values.
        places: the new path of each file; others stay as they are.

    Example:
        >>> with_files({"kind": "mine.py:Net", "width": 8}, {"mine.py": "run/mine.py"})
        {'kind': 'run/mine.py:Net', 'width': 8}
    """
    if isinstance(values, dict):
        return {name: with_files(value, places) for name, value in values.items()}
    if isinstance(values, list):
        return [with_files(value, places) for value in values]
    if isinstance(values, str) and is_own(values):
        file, _, name = values.rpartition(":")
        return f"{places.get(file, file)}:{name}"
    return values


@beartype
def digest(file: str | Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@beartype
def already_imported(name: str, sha256: str) -> Path | None:
    """Return a file of this name and content that was imported in this process, if there is one."""
    for module in list(sys.modules.values()):
        place = getattr(module, "__file__", None)
        if place and Path(place).name == name and Path(place).is_file() and digest(place) == sha256:
            return Path(place).resolve()
    return None


@beartype
def find(name: str, table: Mapping[str, Any], *, what: str) -> Any:
    """Return an entry of a table, or for ``FILE.py:NAME`` the object of this name in the file.

    Args:
        name: a key of the table, or ``FILE.py:NAME``.
        table: of the package, by name.
        what: a noun for messages, such as "mask".

    Raises:
        ValueError: there is no such row, file or name.

    Example:
        >>> find("one", {"one": 1}, what="number")
        1
    """
    if name in table:
        return table[name]
    if is_own(name):
        file, _, attribute = name.rpartition(":")
        module = load_file(file)
        if hasattr(module, attribute):
            return getattr(module, attribute)
        near = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{file} defines no {what} {attribute!r}{hint}")
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.0)
    raise ValueError(
        f"unknown {what} {name!r}: did you mean {near[0]!r}? There are {', '.join(table)}, and FILE.py:NAME names one "
        "of your own file"
    )


@beartype
def name_of(thing: Any, table: Mapping[str, Any], *, what: str) -> str:
    """Undo ``find``: return the key of a class or function in a table, or ``FILE.py:NAME``.

    Raises:
        ValueError: it is neither in the table nor a top-level name of a Python file.

    Example:
        >>> name_of(len, {"length": len}, what="function")
        'length'
    """
    for name, row in table.items():
        if row is thing:
            return name
    attribute, module = getattr(thing, "__qualname__", ""), sys.modules.get(getattr(thing, "__module__", ""))
    file = getattr(module, "__file__", None)
    if file is None or getattr(module, attribute, None) is not thing:
        raise ValueError(
            f"{what} {thing!r} is defined neither in the package nor at the top level of a Python file, where it would "
            "be found again; move it into a file of its own"
        )
    return f"{Path(file).resolve()}:{attribute}"
