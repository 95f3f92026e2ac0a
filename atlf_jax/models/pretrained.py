"""Trained networks: of a run, of a packed file, or by the name of weights that come with the package.

    python -m atlf_jax.models.pretrained pack runs/aanlib_4x atlf_jax/weights/aanlib-4x-compact.safetensors
    python -m atlf_jax.models.pretrained table runs/report_4x/summary.json atlf_jax/weights/aanlib-4x-compact.md

A packed file is one safetensors file: arrays named by their path in Flax's tree (``params/phase_0/...``), and one JSON
text in the header, ``atlf_jax``, with the format's version, the whole configuration, step, stage and the score that the
checkpoint was chosen by. docs/DESIGN.md says why.
"""

import contextlib
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
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from atlf_jax.array_types import Measurement
from atlf_jax.config import Config, from_dict, to_dict
from atlf_jax.data.files import write_file
from atlf_jax.data.transforms import ct_shape
from atlf_jax.models import ATLFConfig, build
from atlf_jax.models.uncertainty import Calibration

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

FORMAT = 1  # version of packed files; a reader refuses newer ones
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

    facts, variables = checkpoint.read(found, which)
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
        return _read_header(found)
    from atlf_jax.training.checkpoint import read_meta  # Orbax takes a second to import

    kinds: tuple[Which, ...] = (which,) if which else ("best", "latest")
    for kind in kinds:
        if facts := read_meta(found, kind):
            return facts
    raise ValueError(f"{found} holds no {' and no '.join(kinds)} checkpoint; train first, or give a run's folder")


@beartype
def read(file: str | Path) -> Trained:
    """Read a packed file.

    Raises:
        ValueError: it is no packed network, of a newer format, damaged, or its arrays are not those of its network.
    """
    file = Path(file)
    facts = _read_header(file)
    with _opened(file) as arrays:
        flat = {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118, no mapping
    try:
        config = from_dict(Config, facts.pop("config"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}; it was packed by another version of the package") from error
    _check_same(file, flat, config)
    return Trained(config, facts, jax.device_put(unflatten_dict(flat, sep="/")))


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
    except (SafetensorError, OSError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{file} is no readable safetensors file ({why}); pack or download it again") from error


def _read_header(file: Path) -> dict[str, Any]:
    """Return a packed file's facts, with the configuration among them."""
    with _opened(file) as arrays:
        header = (arrays.metadata() or {}).get(KEY)
    if header is None:
        raise ValueError(
            f"{file} is a safetensors file of something else: its header has no {KEY!r}; give a file made by "
            "python -m atlf_jax.models.pretrained pack"
        )
    facts = json.loads(header)
    version = facts.pop("format")
    if version > FORMAT:
        raise ValueError(
            f"{file} is of format {version}, and this version of the package reads up to {FORMAT}; install a newer one"
        )
    return facts


def _check_same(file: Path, flat: Mapping[str, np.ndarray], config: Config) -> None:
    """Compare names, shapes and dtypes with those of the network: Flax would ignore arrays that it does not know."""
    model = config.model
    multiple = model.multiple if isinstance(model, ATLFConfig) else 1
    side = multiple * -(-64 // multiple)  # of any image: parameters do not depend on it
    blank = np.zeros((1, side, side), np.complex64)
    ct = np.zeros((1, *ct_shape(len(config.data.ct_windows) or 1, (side, side))), np.float32)
    measurement = Measurement(blank, np.ones((1, 1, side), bool), ct)
    wanted = flatten_dict(jax.eval_shape(build(model).init, jax.random.key(0), measurement), sep="/")
    there, here = ({name: (leaf.shape, str(leaf.dtype)) for name, leaf in tree.items()} for tree in (flat, wanted))
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{file} does not hold the parameters of its network: {len(differing)} arrays differ, first {name}: "
            f"there {there.get(name)}, wanted {here.get(name)}; it was packed by another version of the package"
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
        rows = table(json.loads(_read_text(self.summary)))
        write_file(self.card, f"{before}{START}\n{rows}\n{END}{after}".encode())
        return f"{self.card}: table renewed"


def _fitted(file: str) -> dict[str, Any]:
    """Return the calibration that an evaluation fitted, and on what."""
    summary = json.loads(_read_text(file))
    found = summary.get("uncertainty", [])
    if len(found) != 1:
        raise ValueError(
            f"{file} has calibrations of {len(found)} methods and masks, wanted one; make it by evaluate.py "
            "--uncertainty with this network alone, under the mask that it was trained with"
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
    try:
        print(chosen.run())
    except ValueError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from error


if __name__ == "__main__":
    main()
