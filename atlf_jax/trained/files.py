"""The files of trained networks: folders of runs, packed files, and the weights that come with the package.

A packed file is one safetensors file: arrays named by their path in Flax's tree (``params/phase_0/...``), and one JSON
text in the header, ``atlf_jax``: version of the format, whole configuration, step, stage, the score by which the
checkpoint was chosen, and since format 2 a SHA-256 of these entries and the arrays (docs/DESIGN.md says why). For a
network, dataset or mask in a user's own file it holds the file's name and the SHA-256 of the code, never the code
itself. Reading a packed file runs no code except files that the user names.
"""

import contextlib
import functools
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from beartype import beartype
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import save

from atlf_jax.array_types import Measurement
from atlf_jax.config import Config, from_dict, to_dict
from atlf_jax.data.files import write_file
from atlf_jax.data.inputs import FileError, parse_json, reading
from atlf_jax.data.transforms import ct_shape
from atlf_jax.models import build, multiple_of
from atlf_jax.own_code import already_imported, digest, files_in, with_files
from atlf_jax.program import LONGEST_MESSAGE

__all__ = ["FORMAT", "Which", "arrays_of", "read", "shipped", "write"]

FORMAT = 2  # version of packed files; newer ones are refused, and version 1 has no digest
DIGEST = "sha256"  # header entry: digest of the other entries and the arrays
LARGEST_WEIGHT = 1e6  # larger weights are refused; those of trained networks are below a hundred
CODE = "code"  # header entry: SHA-256 of the user's own files, by file name
KEY = "atlf_jax"  # the one metadata key, which holds all as JSON: safetensors writes several keys in random order
ENDING = ".safetensors"

Which = Literal["best", "latest"]


class Content(NamedTuple):
    """What a run's checkpoint or a packed file holds."""

    config: Config
    variables: dict[str, Any]  # on the device; parameters under "params", and further collections
    facts: dict[str, Any]  # step, stage; psnr [dB] if the checkpoint was chosen by it; uncertainty if calibrated


@beartype
def read(place: str | Path, which: Which = "best", code: Sequence[Path] = ()) -> Content:
    """Read a trained network.

    Args:
        place: a run's folder, a packed file, or the name of weights that come with the package; tried in this order.
        which: checkpoint of a run; a packed file holds one.
        code: the user's own files that it needs; they replace the files of the same names that it was trained with.

    Raises:
        ValueError: there is nothing of that name, it cannot be read, is no packed network, of a newer format or
            damaged, or its arrays are not those of its network.
    """
    found = _find(place)
    if found.is_file():
        return _read_packed(found, code)
    from atlf_jax.training import checkpoint  # Orbax takes a second to import

    with _one_sentence(found):
        facts, variables = checkpoint.read(found, which)
    facts = facts | {"config": _located(found, facts["config"], code)}
    config = _checked_config(found, facts)
    _check_values(found, {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()})
    return Content(config, jax.device_put(variables), {name: facts[name] for name in facts if name != "config"})


@beartype
def write(
    file: str | Path, config: Config, variables: Mapping[str, Any], facts: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Write a packed file, whole or not at all; the same network gives the same bytes.

    Folders of data are left out of the configuration: they are of the machine that it was trained on.

    Args:
        file: its name ends in .safetensors.
        config: of the network.
        variables: of the network.
        facts: of the network.
        overwrite: replace a file that is there.

    Raises:
        ValueError: the name ends otherwise, the file is there already, or it cannot be written.
    """
    file = Path(file)
    if file.suffix != ENDING:
        raise ValueError(f"{file} does not end in {ENDING}, by which packed networks are known; name it so")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already; choose another name, or replace it with --overwrite")
    plain = _without_folders(to_dict(config))
    own = {place: Path(place).name for place in files_in(plain)}
    if len(set(own.values())) < len({Path(place).resolve() for place in own}):
        raise ValueError(
            f"two of {', '.join(sorted(own))} have one name, by which {file} could not tell them; rename one"
        )
    header = {"format": FORMAT, "config": with_files(plain, own), **facts}
    if own:
        header[CODE] = {name: digest(place) for place, name in own.items()}
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    _check_values(file, flat)
    header[DIGEST] = _digest(header, flat)
    write_file(file, save(flat, {KEY: json.dumps(header)}))


@beartype
def shipped() -> dict[str, Path]:
    """Return the files of the weights that come with the package, by name."""
    folder = Path(str(resources.files("atlf_jax"))) / "weights"
    return {file.stem: file for file in sorted(folder.glob(f"*{ENDING}"))}


def _find(place: str | Path) -> Path:
    """Return the path of a run's folder or packed file: ``place`` if it exists, else shipped weights of that name."""
    path = Path(place).expanduser()
    if path.exists():
        return path
    if str(place) in shipped():
        return shipped()[str(place)]
    raise ValueError(
        f"{path} is neither a run's folder nor a packed file, and no weights are named so; there are "
        f"{', '.join(shipped()) or 'none in this installation'}"
    )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="numpy") as arrays:
            yield arrays
    except FileError:
        raise
    except Exception as error:  # of a header that is no header, and of arrays that are none
        why = " ".join(str(error).split())[:90] or type(error).__name__
        raise FileError(file, f"is no readable safetensors file ({why})", "pack or download it again") from error


@contextlib.contextmanager
def _one_sentence(run: Path) -> Iterator[None]:
    """Turn any error of reading a checkpoint into a ``FileError`` of one sentence; short errors of ours pass."""
    try:
        yield
    except Exception as error:  # Orbax and its storage raise what they like, over many lines
        message = str(error)
        short = "\n" not in message and len(message) <= LONGEST_MESSAGE
        if isinstance(error, ValueError) and run.name in message and short:
            raise
        why = (" ".join(str(error).split()) or type(error).__name__)[:80]
        raise FileError(
            run, f"holds a checkpoint that cannot be read ({why})", "use another, or train again"
        ) from error


def _read_packed(file: Path, code: Sequence[Path]) -> Content:
    with _opened(file) as arrays:
        header = _checked_header(file, (arrays.metadata() or {}).get(KEY))
        located = _located(file, header.get("config"), code, header.get(CODE, {}))
        config = _checked_config(file, header | {"config": located})
        flat = {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118, no mapping
    _check_same(file, flat, config)
    _check_values(file, flat)
    if (header["format"] > 1 or DIGEST in header) and header.get(DIGEST) != _digest(header, flat):
        raise FileError(
            file, "was changed or damaged since it was packed: its checksum is another", "download it again"
        )
    facts = {name: header[name] for name in header if name not in ("format", "config", CODE, DIGEST)}
    return Content(config, jax.device_put(unflatten_dict(flat, sep="/")), facts)


def _located(place: Path, config: Any, code: Sequence[Path], packed: Mapping[str, str] | None = None) -> Any:
    """Return a configuration in which the user's own files have their present paths.

    Args:
        place: of the network.
        config: as it was saved.
        code: files that the user names.
        packed: for a packed file, the SHA-256 of each of its files. Without ``code``, a packed file may only use files
            that this process has already imported; a run's folder uses the files that it was trained with.
    """
    given = {path.name: path for path in code}
    places: dict[str, str] = {}
    for file in sorted(files_in(config)):
        name = Path(file).name
        if name in given:
            found: Path | None = given[name].expanduser().resolve()
        elif packed is None:
            found = Path(file) if Path(file).is_file() else None
        else:
            found = already_imported(name, packed.get(name, ""))
        if found is None or not found.is_file():
            missing = "" if packed is not None else ", which is no longer where it was"
            raise FileError(
                place,
                f"needs {name}, code of its own{missing}",
                f'read the code, and give it: atlf.load(..., code="{name}"), or --code {name} on a command line',
            )
        if packed is not None and digest(found) != packed.get(name):
            warnings.warn(f"{found} is not the code that {place} was packed with", stacklevel=4)
        places[file] = str(found)
    return with_files(config, places)


def _checked_header(file: Path, text: str | None) -> dict[str, Any]:
    """Return a packed file's header, or raise ``FileError`` if its format is not known."""
    if text is None:
        raise FileError(
            file,
            f"is a safetensors file of something else: its header has no {KEY!r}",
            "give a file made by atlf pack",
        )
    header = parse_json(text, file, "a header of a packed network", "pack or download it again")
    version = header["format"] if isinstance(header, dict) and "format" in header else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FileError(file, f"has a header without a format: {text[:40]!r}", "pack or download it again")
    if version > FORMAT:
        raise FileError(
            file, f"is of format {version}, and this version of the package reads up to {FORMAT}", "install a newer one"
        )
    return header


def _checked_config(place: Path, facts: Mapping[str, Any]) -> Config:
    """Return the configuration among a network's facts; missing fields get their defaults, invalid ones are refused."""
    remedy = "it was made by another version of the package, or damaged"
    with reading(place, "a trained network", remedy):
        try:
            config = from_dict(Config, facts.get("config"))
        except ValueError as error:
            raise FileError(f"{place}:", str(error), remedy) from error
        step, calibration = facts.get("step"), facts.get("uncertainty")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise FileError(f"{place}:", f"its step is {step!r}", remedy)
        if calibration is not None and not all(0 < float(calibration[name]) < np.inf for name in ("scale", "bound")):
            raise FileError(f"{place}:", "its calibration is not two positive numbers", remedy)
    return config


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a header's facts and of names, types, shapes and values of the arrays."""
    facts = {name: header[name] for name in header if name != DIGEST}
    state = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def _check_values(file: Path, flat: Mapping[str, np.ndarray]) -> None:
    """Refuse weights that are not finite or far too large to come from training."""
    for name, array in flat.items():
        if array.size and not np.abs(array.astype(np.float64, copy=False)).max() <= LARGEST_WEIGHT:
            raise FileError(
                file,
                f"holds weights that are not finite or above {LARGEST_WEIGHT:g}, first in {name}",
                "train or download again",
            )


@functools.lru_cache(maxsize=8)
def arrays_of(model: Any, windows: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of a network's arrays by their names."""
    multiple = multiple_of(model)
    side = multiple * -(-64 // multiple)  # of any image: parameters do not depend on it
    blank = np.zeros((1, side, side), np.complex64)
    ct = np.zeros((1, *ct_shape(windows, (side, side))), np.float32)
    measurement = Measurement(blank, np.ones((1, 1, side), bool), ct)
    wanted: dict[str, Any] = flatten_dict(jax.eval_shape(build(model).init, jax.random.key(0), measurement), sep="/")
    return {name: (leaf.shape, str(leaf.dtype)) for name, leaf in wanted.items()}


def _check_same(file: Path, flat: Mapping[str, np.ndarray], config: Config) -> None:
    """Compare names, shapes and dtypes with those of the network: Flax would ignore arrays that it does not know."""
    with reading(file, "a trained network", "it was packed by another version of the package, or damaged"):
        expected = arrays_of(config.model, len(config.data.ct_windows) or 1)
    found = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in flat.items()}
    differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differing:
        name = differing[0]
        raise FileError(
            file,
            f"does not fit its network: {len(differing)} arrays differ, first {name}: "
            f"there {found.get(name)}, wanted {expected.get(name)}",
            "pack it again",
        )


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    data = {
        name: value | {"root": ""} if isinstance(value, dict) and "root" in value else value
        for name, value in config["data"].items()
    }
    return config | {"data": data}
