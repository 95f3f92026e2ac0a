"""Trained networks: of a run, of a packed file, or by the name of weights that come with the package.

    python -m atlf_jax.models.pretrained pack runs/aanlib_4x atlf_jax/weights/aanlib-4x-compact.safetensors
    python -m atlf_jax.models.pretrained table runs/report_4x/summary.json atlf_jax/weights/aanlib-4x-compact.md

A packed file is one safetensors file: arrays named by their path in Flax's tree (``params/phase_0/...``), and one JSON
text in the header, ``atlf_jax``, with the format's version, the whole configuration, step, stage, the score that the
checkpoint was chosen by, and since format 2 a SHA-256 of all that and of the arrays. docs/DESIGN.md says why.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from atlf_jax.data.inputs import FileError, parse_json, read_json, reading
from atlf_jax.data.transforms import ct_shape
from atlf_jax.models import ATLFConfig, build
from atlf_jax.models.uncertainty import Calibration
from atlf_jax.program import errors_in_one_line

__all__ = [
    "FORMAT",
    "Trained",
    "calibration_of",
    "load",
    "names",
    "pack",
    "read",
    "read_facts",
    "shipped",
    "table",
]

FORMAT = 2  # version of packed files; a reader refuses newer ones. Those of 1 have no digest.
DIGEST = "sha256"  # of the header's other facts and the arrays
LARGEST = 1e6  # of a weight; those of trained networks stay below a hundred
KEY = "atlf_jax"  # of the header's JSON text; one only, as safetensors writes several in a random order
ENDING = ".safetensors"
START, END = "<!-- scores -->", "<!-- /scores -->"  # a model card's table stands between them

PROGRAM = "python -m atlf_jax.models.pretrained"

Which = Literal["best", "latest"]


class Trained(NamedTuple):
    """A trained network."""

    config: Config
    facts: dict[str, Any]  # step, stage; psnr [dB] if the checkpoint was chosen by it; uncertainty if calibrated
    variables: dict[str, Any]  # parameters under "params", and further collections

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    @property
    def calibration(self) -> Calibration | None:
        """What turns the spread of its mirror copies into an expected error, where it is known."""
        return calibration_of(self.facts)


@beartype
def load(place: str | Path, which: Which = "best") -> Trained:
    """Load a trained network.

    Args:
        place: a run's folder, a packed file, or the name of weights that come with the package; tried in this order.
        which: checkpoint of a run; a packed file holds one.

    Raises:
        ValueError: there is nothing of that name, or it cannot be read.
    """
    found = _find(place)
    if found.is_file():
        return read(found)
    from atlf_jax.training import checkpoint  # Orbax takes a second to import

    with _one_sentence(found):
        facts, variables = checkpoint.read(found, which)
    facts = _checked_facts(found, facts)
    _check_values(found, {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()})
    config = from_dict(Config, facts.pop("config"))
    return Trained(config, facts, jax.device_put(variables))


@beartype
def read_facts(place: str | Path, which: Which | None = None) -> dict[str, Any]:
    """Return what is known of a trained network, without reading its parameters.

    Args:
        place: as for ``load``.
        which: as for ``load``; None: the best where a run has one, else the latest.

    Returns:
        ``config`` (the whole, as a JSON dictionary), ``step``, ``stage``, and ``psnr`` [dB] of a best checkpoint.

    Raises:
        ValueError: there is nothing of that name, or it cannot be read.
    """
    found = _find(place)
    if found.is_file():
        return _read_header(found)[0]
    from atlf_jax.training.checkpoint import read_meta  # Orbax takes a second to import

    kinds: tuple[Which, ...] = (which,) if which else ("best", "latest")
    for kind in kinds:
        with _one_sentence(found):
            facts = read_meta(found, kind)
        if facts:
            return _checked_facts(found, facts)
    raise ValueError(f"{found} holds no {' and no '.join(kinds)} checkpoint; train first, or give a run's folder")


@beartype
def read(file: str | Path) -> Trained:
    """Read a packed file.

    Raises:
        ValueError: it is no packed network, of a newer format, damaged, or its arrays are not those of its network.
    """
    file = Path(file)
    facts, header = _read_header(file)
    with _opened(file) as arrays:
        flat = {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118, no mapping
    config = from_dict(Config, facts["config"])
    _check_same(file, flat, config)
    _check_values(file, flat)
    if (header["format"] > 1 or DIGEST in header) and header.get(DIGEST) != _digest(header, flat):
        raise FileError(
            file, "was changed or damaged since it was packed: its checksum is another", "download it again"
        )
    return Trained(
        config,
        {name: value for name, value in facts.items() if name != "config"},
        jax.device_put(unflatten_dict(flat, sep="/")),
    )


@beartype
def pack(trained: Trained, file: str | Path, *, overwrite: bool = False) -> None:
    """Write a trained network to one file, whole or not at all; the same network gives the same bytes.

    Folders of data are left out of the configuration: they are of the machine that it was trained on.

    Args:
        trained: from ``load``.
        file: its name ends in .safetensors.
        overwrite: replace a file that is there.

    Raises:
        ValueError: the name ends otherwise, the file is there already, or it cannot be written.
    """
    file = Path(file)
    if file.suffix != ENDING:
        raise ValueError(f"{file} does not end in {ENDING}, by which packed networks are known; name it so")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already; choose another name, or replace it with --overwrite")
    header = {"format": FORMAT, "config": _without_folders(to_dict(trained.config)), **trained.facts}
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(trained.variables, sep="/").items()}
    _check_values(file, flat)
    header[DIGEST] = _digest(header, flat)
    write_file(file, save(flat, {KEY: json.dumps(header)}))


@beartype
def calibration_of(facts: Mapping[str, Any]) -> Calibration | None:
    """Return the calibration among a network's facts, or None (see ``models.uncertainty``)."""
    found = facts.get("uncertainty")
    return found and Calibration(found["scale"], found["bound"])


@beartype
def shipped() -> dict[str, Path]:
    """Return the files of the weights that come with the package, by name."""
    folder = Path(str(resources.files("atlf_jax"))) / "weights"
    return {file.stem: file for file in sorted(folder.glob(f"*{ENDING}"))}


@beartype
def table(summary: Mapping[str, Any]) -> str:
    """Write an evaluation's results as Markdown: means over subjects, the worst slice, and expected errors if measured.

    Args:
        summary: what evaluate.py wrote to summary.json.
    """
    protocol = summary["protocol"]
    lines = [
        f"{protocol['dataset']}, split {protocol['split']}, {protocol['slices']} slices of cases "
        f"{', '.join(protocol['subjects'])}; profile `{protocol['profile']}`. Means over subjects:",
        "",
        "| mask (effective, coverage, hash) | method | PSNR [dB] | by subject | worst slice | SSIM | NMSE | HFEN |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mask in protocol["masks"]:
        for method in summary["methods"]:
            found = {
                item["metric"]: item
                for item in summary["results"]
                if (item["mask"], item["method"]) == (mask["label"], method)
            }
            psnr = found["psnr"]
            subjects = ", ".join(f"{value:.2f}" for value in psnr["subjects"].values())
            others = " | ".join(f"{found[metric]['mean']:.4f}" for metric in ("ssim", "nmse", "hfen"))
            lines.append(
                f"| {mask['label']} ({mask['effective']:.2f}x, {mask['coverage']:.3f}, `{mask['hash']}`) | {method} | "
                f"{psnr['mean']:.2f} | {subjects} | {psnr['worst']:.2f} ({psnr['worst_name']}) | {others} |"
            )
    if told := summary.get("uncertainty"):
        lines += [
            "",
            "Expected absolute errors against true ones, pixels inside the body, in units of each slice's maximum:",
            "",
            "| mask | method | mean error | expected off by | below the 90 % bound | Pearson | Spearman | scale |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
    for item in told or []:
        scale = f"{item['scale']:.3f}{'' if item['calibrated'] else ' (of these slices)'}"
        lines.append(
            f"| {item['mask']} | {item['method']} | {item['error']:.4f} | {item['calibration_error']:.4f} | "
            f"{100 * item['coverage']:.1f} % | {item['pearson']:.2f} | {item['spearman']:.2f} | {scale} |"
        )
    return "\n".join(lines)


def _find(place: str | Path) -> Path:
    """Return a run's folder or a packed file: what lies at ``place``, else the weights of that name."""
    path = Path(place).expanduser()
    if path.exists():
        return path
    if str(place) in shipped():
        return shipped()[str(place)]
    raise ValueError(
        f"{path} is neither a run's folder nor a packed file, and no weights are named so; there are {names()}"
    )


def names() -> str:
    """Return the names of ``shipped()`` in words."""
    return ", ".join(shipped()) or "none in this installation"


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
    """Let one sentence of the checkpoints' own pass, and turn all else that damaged ones raise into one."""
    try:
        yield
    except Exception as error:  # Orbax and its storage raise what they like, over many lines
        words = str(error)
        if isinstance(error, ValueError) and run.name in words and "\n" not in words and len(words) <= 250:
            raise
        why = (" ".join(str(error).split()) or type(error).__name__)[:80]
        raise FileError(
            run, f"holds a checkpoint that cannot be read ({why})", "use another, or train again"
        ) from error


def _read_header(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a packed file's facts, with the configuration among them, and its header as it stands there."""
    with _opened(file) as arrays:
        text = (arrays.metadata() or {}).get(KEY)
        if text is None:
            raise FileError(
                file,
                f"is a safetensors file of something else: its header has no {KEY!r}",
                f"give a file made by {PROGRAM} pack",
            )
        header = parse_json(text, file, "a header of a packed network", "pack or download it again")
        version = header["format"] if isinstance(header, dict) and "format" in header else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise FileError(file, f"has a header without a format: {text[:40]!r}", "pack or download it again")
    if version > FORMAT:
        raise FileError(
            file, f"is of format {version}, and this version of the package reads up to {FORMAT}", "install a newer one"
        )
    return _checked_facts(file, {name: header[name] for name in header if name not in ("format", DIGEST)}), header


def _checked_facts(place: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a network, with the fields that its configuration leaves out; or refuse it."""
    remedy = "it was made by another version of the package, or damaged"
    with reading(place, "a trained network", remedy):
        try:
            config = to_dict(from_dict(Config, facts.get("config")))
        except ValueError as error:
            raise FileError(f"{place}:", str(error), remedy) from error
        step, told = facts.get("step"), facts.get("uncertainty")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise FileError(f"{place}:", f"its step is {step!r}", remedy)
        if told is not None and not all(0 < float(told[name]) < np.inf for name in ("scale", "bound")):
            raise FileError(f"{place}:", "its calibration is not two positive numbers", remedy)
    return facts | {"config": config}


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
    """Refuse weights that no training leaves: not finite, or absurdly large."""
    for name, array in flat.items():
        if array.size and not np.abs(array.astype(np.float64, copy=False)).max() <= LARGEST:
            raise FileError(
                file,
                f"holds weights that are not finite or above {LARGEST:g}, first in {name}",
                "train or download again",
            )


@functools.lru_cache(maxsize=8)
def _arrays_of(model: Any, windows: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of a network's arrays by their names."""
    multiple = model.multiple if isinstance(model, ATLFConfig) else 1
    side = multiple * -(-64 // multiple)  # of any image: parameters do not depend on it
    blank = np.zeros((1, side, side), np.complex64)
    ct = np.zeros((1, *ct_shape(windows, (side, side))), np.float32)
    measurement = Measurement(blank, np.ones((1, 1, side), bool), ct)
    wanted = flatten_dict(jax.eval_shape(build(model).init, jax.random.key(0), measurement), sep="/")
    return {name: (leaf.shape, str(leaf.dtype)) for name, leaf in wanted.items()}


def _check_same(file: Path, flat: Mapping[str, np.ndarray], config: Config) -> None:
    """Compare names, shapes and dtypes with those of the network: Flax would ignore arrays that it does not know."""
    with reading(file, "a trained network", "it was packed by another version of the package, or damaged"):
        here = _arrays_of(config.model, len(config.data.ct_windows) or 1)
    there = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in flat.items()}
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        raise FileError(
            file,
            f"does not fit its network: {len(differing)} arrays differ, first {name}: "
            f"there {there.get(name)}, wanted {here.get(name)}",
            "pack it again",
        )


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    data = {
        name: value | {"root": ""} if isinstance(value, dict) and "root" in value else value
        for name, value in config["data"].items()
    }
    return config | {"data": data}


@dataclass(frozen=True)
class Pack:
    """Pack the checkpoint of a run into one file."""

    source: str
    """The run's folder."""
    out: str
    """File to write; NAME.safetensors in atlf_jax/weights makes it known by its name."""
    which: Which = "best"
    """Which checkpoint of the run."""
    calibration: str = ""
    """The summary.json of evaluate.py --uncertainty for this network alone, on subjects that chose nothing but the
    checkpoint (--split=inner_valid): its calibration is packed too."""
    overwrite: bool = False
    """Replace a file that is there."""

    def run(self) -> str:
        """Do it, and say what was done."""
        trained = load(self.source, self.which)
        if self.calibration:
            fitted = _fitted(self.calibration)
            trained = trained._replace(facts=trained.facts | {"uncertainty": fitted})
        pack(trained, self.out, overwrite=self.overwrite)
        size = Path(self.out).stat().st_size / 2**20
        return f"{self.out}: {trained.parameters:,} parameters, {size:.1f} MiB, step {trained.facts['step']}"


@dataclass(frozen=True)
class Table:
    """Put the results of an evaluation into a model card."""

    summary: str
    """The summary.json that evaluate.py wrote."""
    card: str
    """The card, NAME.md; what stands between its two marks is replaced."""

    def run(self) -> str:
        """Do it, and say what was done."""
        card = _read_text(self.card)
        before, mark, rest = card.partition(START)
        _, end, after = rest.partition(END)
        if not (mark and end):
            raise ValueError(f"{self.card} has no {START} with {END} after it; write both where the table belongs")
        with reading(self.summary, "a summary", "give the summary.json of evaluate.py"):
            rows = table(read_json(self.summary, "a summary", "give the summary.json of evaluate.py"))
        write_file(self.card, f"{before}{START}\n{rows}\n{END}{after}".encode())
        return f"{self.card}: table renewed"


def _fitted(file: str) -> dict[str, Any]:
    """Return the calibration that an evaluation fitted, and on what."""
    remedy = "give the summary.json of evaluate.py --uncertainty"
    summary = read_json(file, "a summary", remedy)
    with reading(file, "a summary", remedy):
        found = summary.get("uncertainty", [])
        if len(found) != 1:
            raise FileError(
                file,
                f"has calibrations of {len(found)} methods and masks, wanted one",
                "make it by evaluate.py --uncertainty with this network alone, under the mask that it was trained with",
            )
        protocol = summary["protocol"]
        where = {name: protocol[name] for name in ("dataset", "split")} | {"subjects": list(protocol["subjects"])}
        return found[0]["fitted"] | where


def _read_text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error


def main(argv: list[str] | None = None) -> None:
    """Pack a run, or renew the table of a model card; on a mistake say so in one line and exit."""
    import tyro

    subcommands = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitSubcommandPrefixes)
    chosen = tyro.cli(Pack | Table, prog=PROGRAM, args=argv, config=subcommands, use_underscores=True)
    with errors_in_one_line(PROGRAM):
        print(chosen.run())


if __name__ == "__main__":
    main()
