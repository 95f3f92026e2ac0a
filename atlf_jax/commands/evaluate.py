"""Score trained networks: ``atlf evaluate --checkpoint=runs/NAME [--checkpoint=OTHER=runs/X] [--split=valid]``."""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from atlf_jax.command_line import parse
from atlf_jax.config import Config, to_dict
from atlf_jax.data import DataConfig, Source, Split, dataset_settings, open_source
from atlf_jax.evaluation.audit import audit
from atlf_jax.evaluation.calibration import measure
from atlf_jax.evaluation.cautions import cautions
from atlf_jax.evaluation.scoring import choose_panels, evaluate
from atlf_jax.evaluation.trial import EvaluationConfig, Reconstructor, Selection, Trial, without_black
from atlf_jax.masks import MaskConfig
from atlf_jax.models import build
from atlf_jax.program import errors_in_one_line, no_display
from atlf_jax.solvers import SOLVERS
from atlf_jax.trained import Network, load


@dataclass(frozen=True)
class Arguments:
    """Score trained networks and the zero-filled image on one split, under the same masks."""

    checkpoint: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """Folder of a training run, a packed file, or the name of weights that come with the package; NAME=... names it in
    the tables; repeat to compare several."""
    solvers: tuple[Literal["total_variation", "l1_wavelet", "guided_total_variation"], ...] = ()
    """Classical reconstructions to score beside the networks, under the same masks."""
    out: str = ""
    """Folder for the report and its numbers; empty: evaluation/SPLIT in the first run's folder, runs/NAME for weights
    without one."""
    which: Literal["best", "latest"] = "best"
    """Which checkpoint of each run."""
    code: tuple[str, ...] = ()
    """Files of your own code that packed networks need: their names stand in the message that asks for them."""
    split: Split = "valid"
    """Subjects to score."""
    max_slices: int | None = None
    """For a first look: score no more slices than this, evenly spaced over the split; None: all."""
    dataset: str | None = None
    """Dataset to score on: aanlib, fastmri, phantom, prepared, or FILE.py:NAME of your own; None: the one that the
    networks were trained on."""
    data_root: Annotated[str | None, tyro.conf.arg(aliases=["--data.root"])] = None
    """Folder of the dataset; None: the one in the checkpoint."""
    phase: Annotated[float | None, tyro.conf.arg(name="acquisition.phase")] = None
    """Largest simulated phase in radians (0.785 is usual: it takes the Hermitian symmetry away); None: as trained."""
    noise: Annotated[float | None, tyro.conf.arg(name="acquisition.noise")] = None
    """Simulated noise relative to the largest pixel (0.01 is usual); None: as trained."""
    masks: tuple[MaskConfig, ...] = ()
    """KIND ACCELERATION CENTRE_FRACTION [NAME=VALUE ...], repeated for each mask; none: those that the networks were
    trained with."""
    ablate: Literal["ct"] | None = None
    """ct: score again with the CT taken away, exchanged or moved, under noise, and with lesions painted in."""
    uncertainty: bool = False
    """Also compare the errors that every network expects with its true ones; four more reconstructions a slice."""
    evaluation: Annotated[EvaluationConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=EvaluationConfig)
    """Metrics and their profile, batches, panels and bootstrap."""


def main(argv: Sequence[str], program: str = "atlf evaluate") -> None:
    """Parse, load, score, write; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Arguments, argv, program=program)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every restore
        run(arguments)


def run(arguments: Arguments) -> None:
    """Score what the arguments name, print the tables and write the files."""
    with no_display():  # figures go into files; a notebook's backend may not even load here
        from atlf_jax.evaluation import report  # matplotlib: only once the arguments are known to be good

    folder = folder_of(arguments)
    report.check_folder(folder)
    networks = {name: load(place, arguments.which, code=arguments.code) for name, place in places_of(arguments).items()}
    data = choose_data(arguments, {name: network.config for name, network in networks.items()})
    opened = open_source(data, arguments.split)
    everything, left_out = without_black(opened, profile=arguments.evaluation.profile)
    source = spread(everything, arguments.max_slices)
    trial = Trial(
        source=source,
        masks=arguments.masks or trained_masks(networks),
        models=reconstructors(arguments, networks),
        acquisition=data.acquisition,
        config=arguments.evaluation,
    )
    found = score(trial, networks, arguments)
    study = report.Study(
        trial=trial,
        dataset=", ".join(filter(None, (data.dataset, getattr(opened, "pairing", "")))),
        split=arguments.split,
        methods=methods_of(arguments, networks, [row.method for row in found["rows"]]),
        audit=audit(trial),
        warnings=[*few(len(source), len(everything)), *cautions(trial, networks, data)],
        left_out=left_out,
        **found,
    )
    if getattr(data.source, "names_are_private", False):
        study = report.without_names(study)
    facts = report.summary(study)
    show(report.tables(facts, study.sections), facts)
    _, page = report.write(folder, study, facts)  # last: a disk that is full by now costs no number
    Console().print(f"\nreport: {page.resolve()}", highlight=False, soft_wrap=True)


def spread(source: Source, number: int | None) -> Source:
    """Return so many records of a source, evenly spaced in their order; all of them where there are no more."""
    if number is None or number >= len(source):
        return source
    if number < 1:
        raise ValueError(f"--max_slices is {number}; wanted at least 1")
    return Selection(source, tuple(len(source) * k // number for k in range(number)))


def few(scored: int, slices: int) -> list[str]:
    """Return the warning that not all slices were scored, if so."""
    return [f"Only {scored} of {slices} slices were scored (--max_slices)."] if scored < slices else []


def score(trial: Trial, networks: Mapping[str, Network], arguments: Arguments) -> dict[str, Any]:
    """Score a trial, and again with other CTs or with expected errors where that is asked for.

    Returns:
        The fields of ``report.Study`` that hold what was found.
    """
    from atlf_jax.evaluation.changes import has_ct

    if arguments.ablate and not has_ct(trial.source):
        raise ValueError(
            "--ablate ct exchanges the CT, and this data has none; leave it out, or choose another dataset"
        )
    rows, sections = evaluate(trial), []
    panels = choose_panels(trial, rows)
    if arguments.ablate == "ct":
        from atlf_jax.evaluation.modality import ablate_ct, ct_gains, ct_section  # draws by matplotlib

        rows += ablate_ct(trial)
        sections = [ct_gains(rows), ct_section(trial)]
    reliability = []
    if arguments.uncertainty:
        of_networks = dataclasses.replace(trial, models={name: trial.models[name] for name in networks})
        known = {name: network.calibration for name, network in networks.items() if network.calibration}
        reliability = measure(of_networks, known)
    return {"rows": rows, "panels": panels, "sections": sections, "reliability": reliability}


def show(tables: Sequence[Any], facts: Mapping[str, Any]) -> None:
    """Print the tables and the remarks of a report."""
    console = Console()
    for table in tables:
        console.print(table, "")
    flattering = [item["name"] for item in facts["audit"] if item["found"]]
    console.print(f"What flatters these numbers: {', '.join(flattering) or 'nothing found'}.", highlight=False)
    for remark in facts["remarks"]:
        console.print(remark, highlight=False, markup=False)


def folder_of(arguments: Arguments) -> Path:
    """Return the folder to write into, which follows from the arguments alone."""
    if not arguments.checkpoint:
        raise ValueError("give a trained network with --checkpoint=runs/NAME, or the name of packed weights")
    if arguments.out:
        return Path(arguments.out)
    first = run_of(arguments.checkpoint[0].rpartition("=")[2])
    return (first if first.is_dir() else Path("runs", first.stem)) / "evaluation" / arguments.split


def run_of(place: str) -> Path:
    """Return a run's folder, also where its folder of checkpoints was given."""
    return Path(place).parent if Path(place).name == "checkpoints" else Path(place)


def places_of(arguments: Arguments) -> dict[str, Path]:
    """Return where the networks are, by the names that they have in the tables."""
    places: dict[str, Path] = {}
    for argument in arguments.checkpoint:
        name, _, place = argument.rpartition("=")
        run = run_of(place)
        name = name or (run.resolve().name if run.is_dir() else run.name.removesuffix(".safetensors"))
        if name in places:
            raise ValueError(f"two checkpoints are named {name!r}; name them: --checkpoint=NAME=FOLDER")
        if name in arguments.solvers:
            raise ValueError(f"a checkpoint is named {name!r}, like a solver; name it: --checkpoint=NAME=FOLDER")
        places[name] = run
    return places


def reconstructors(arguments: Arguments, networks: Mapping[str, Network]) -> dict[str, Reconstructor]:
    """Return networks and solvers as functions of a measurement.

    Scoring compiles them by itself and gives images of the size that the network takes: not ``Network.function``.
    """
    models: dict[str, Reconstructor] = {
        name: jax.tree_util.Partial(build(network.config.model).apply, network.variables)
        for name, network in networks.items()
    }
    return models | {name: SOLVERS[name] for name in arguments.solvers}


def methods_of(arguments: Arguments, networks: Mapping[str, Network], named: Sequence[str]) -> dict[str, Any]:
    """Return where the rows of each method come from, a ``report.Method``; with another CT it is named ``NAME, CT``."""
    from atlf_jax.evaluation.report import Method
    from atlf_jax.evaluation.trial import ZERO_FILLED

    places = places_of(arguments)
    known = {
        name: Method(network.parameters, checkpoint=str(places[name]), config=to_dict(network.config))
        for name, network in networks.items()
    }
    return {
        name: known.get(name) or known.get(name.rpartition(", ")[0]) or Method()
        for name in dict.fromkeys(named)
        if name != ZERO_FILLED
    }


def trained_masks(networks: Mapping[str, Network]) -> tuple[MaskConfig, ...]:
    """Return the masks that any of the networks was trained with."""
    return tuple(dict.fromkeys(mask for network in networks.values() for mask in network.config.masks))


def choose_data(arguments: Arguments, configs: Mapping[str, Config]) -> DataConfig:
    """Take the data of the first run, which the others must share, and replace what the arguments say."""
    first = next(iter(configs))
    data = configs[first].data
    given = {name: value for name in ("phase", "noise") if (value := getattr(arguments, name)) is not None}
    data = dataclasses.replace(data, acquisition=dataclasses.replace(data.acquisition, **given))
    for name, config in itertools.islice(configs.items(), 1, None):
        if dataclasses.replace(config.data.acquisition, **given) != data.acquisition or (
            arguments.dataset is None and config.data.dataset != data.dataset
        ):
            raise ValueError(
                f"{first} and {name} were trained on different data ({data.dataset} and {config.data.dataset}, or "
                "another phase or noise); score them in separate runs, or choose with --dataset, --acquisition.phase "
                "and --acquisition.noise"
            )
    if arguments.dataset is not None and arguments.dataset != data.dataset:
        data = dataclasses.replace(data, source=dataset_settings(arguments.dataset))
    if arguments.data_root is not None:
        data = dataclasses.replace(data, source=read_from(data.source, arguments.data_root, dataset=data.dataset))
    check_windows(data, configs)
    return data


def read_from(settings: Any, root: str, *, dataset: str) -> Any:
    """Return the settings of a dataset with another folder."""
    if not hasattr(settings, "root"):
        raise ValueError(f"--data.root is given, but the {dataset} dataset is not read from a folder")
    return dataclasses.replace(settings, root=root)


def check_windows(data: DataConfig, configs: Mapping[str, Config]) -> None:
    """Refuse CT windows that a network was not trained with, where several are at stake."""
    here = data.ct_windows
    for name, config in configs.items():
        trained = config.data.ct_windows
        if trained != here and max(len(trained), len(here)) > 1:
            seen = [", ".join(windows) or "the dataset's own" for windows in (trained, here)]
            raise ValueError(
                f"{name} was trained with the CT windows {seen[0]}, and the CT is read through {seen[1]} here; score "
                "it in a separate run, on data of Hounsfield units"
            )
