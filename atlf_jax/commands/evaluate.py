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
from atlf_jax.evaluation.calibration import measure_reliability
from atlf_jax.evaluation.cautions import cautions
from atlf_jax.evaluation.data_audit import audit
from atlf_jax.evaluation.scoring import choose_panels, evaluate
from atlf_jax.evaluation.trial import EvaluationConfig, Reconstructor, Selection, Trial, without_black
from atlf_jax.masks import MaskConfig
from atlf_jax.models import build
from atlf_jax.program import errors_in_one_line, no_display
from atlf_jax.solvers import SOLVERS
from atlf_jax.trained import Network, load
from atlf_jax.trained.inference import mirror_average


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
    mirror_average: bool = False
    """Average every network over mirror images, in four times the time; without it those that were packed so."""
    uncertainty: bool = False
    """Also compare the errors that every network expects with its true ones; four more reconstructions a slice."""
    evaluation: Annotated[EvaluationConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=EvaluationConfig)
    """Metrics and their profile, batches, panels and bootstrap."""


def main(argv: Sequence[str], program: str = "atlf evaluate") -> None:
    """Run the command; an invalid argument ends it with one line on stderr and an exit code (see ``program``)."""
    with errors_in_one_line(program):
        arguments = parse(Arguments, argv, program=program)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every restore
        evaluate_networks(arguments)


def evaluate_networks(arguments: Arguments) -> None:
    """Load the networks, score them on one split, print the tables and write the report.

    The steps: check the output folder, load networks and data, score every slice, print and write the results.
    """
    with no_display():  # figures go into files; the backend of a notebook may fail to load here
        from atlf_jax.evaluation import report  # imports matplotlib, so only after the arguments are checked

    folder = report_folder(arguments)
    report.check_folder(folder)
    networks = {
        name: load(place, arguments.which, code=arguments.code) for name, place in checkpoint_paths(arguments).items()
    }
    data = choose_data(arguments, {name: network.config for name, network in networks.items()})
    whole_source = open_source(data, arguments.split)
    everything, left_out = without_black(whole_source, profile=arguments.evaluation.profile)
    source = spread(everything, arguments.max_slices)
    trial = Trial(
        source=source,
        masks=arguments.masks or trained_masks(networks),
        models=reconstructors(arguments, networks),
        acquisition=data.acquisition,
        config=arguments.evaluation,
    )
    results = score_trial(trial, networks, arguments)
    study = report.Study(
        trial=trial,
        dataset=", ".join(filter(None, (data.dataset, getattr(whole_source, "pairing", "")))),
        split=arguments.split,
        methods=describe_methods(arguments, networks, [row.method for row in results["rows"]]),
        audit=audit(trial),
        warnings=[*few(len(source), len(everything)), *cautions(trial, networks, data)],
        left_out=left_out,
        **results,
    )
    if getattr(data.source, "names_are_private", False):
        study = report.without_names(study)
    facts = report.summary(study)
    print_results(report.tables(facts, study.sections), facts)
    _, page = report.write(folder, study, facts)  # last: if the disk is full, the numbers have been printed
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


def score_trial(trial: Trial, networks: Mapping[str, Network], arguments: Arguments) -> dict[str, Any]:
    """Score a trial; with ``--ablate`` also with other CTs, and with ``--uncertainty`` also the expected errors.

    Returns:
        The fields ``rows``, ``panels``, ``sections`` and ``reliability`` of ``report.Study``.
    """
    from atlf_jax.evaluation.changes import has_ct

    if arguments.ablate and not has_ct(trial.source):
        raise ValueError(
            "--ablate ct exchanges the CT, and this data has none; leave it out, or choose another dataset"
        )
    rows, sections = evaluate(trial), []
    panels = choose_panels(trial, rows)
    if arguments.ablate == "ct":
        from atlf_jax.evaluation.modality import ablate_ct, ct_gains, ct_section  # imports matplotlib

        rows += ablate_ct(trial)
        sections = [ct_gains(rows), ct_section(trial)]
    reliability = []
    if arguments.uncertainty:
        of_networks = dataclasses.replace(trial, models={name: trial.models[name] for name in networks})
        calibrations = {name: network.calibration for name, network in networks.items() if network.calibration}
        reliability = measure_reliability(of_networks, calibrations)
    return {"rows": rows, "panels": panels, "sections": sections, "reliability": reliability}


def print_results(tables: Sequence[Any], facts: Mapping[str, Any]) -> None:
    """Print the sentence, the tables and the remarks of a report."""
    from atlf_jax.evaluation.headline import headline

    console = Console()
    console.print(headline(facts), "", highlight=False, markup=False)
    for table in tables:
        console.print(table, "")
    flattering = [item["name"] for item in facts["audit"] if item["found"]]
    console.print(f"What flatters these numbers: {', '.join(flattering) or 'nothing found'}.", highlight=False)
    for remark in facts["remarks"]:
        console.print(remark, highlight=False, markup=False)


def report_folder(arguments: Arguments) -> Path:
    """Return the folder for the report: ``--out``, or a folder inside the first run."""
    if not arguments.checkpoint:
        raise ValueError("give a trained network with --checkpoint=runs/NAME, or the name of packed weights")
    if arguments.out:
        return Path(arguments.out)
    first = run_folder(arguments.checkpoint[0].rpartition("=")[2])
    return (first if first.is_dir() else Path("runs", first.stem)) / "evaluation" / arguments.split


def run_folder(place: str) -> Path:
    """Return a run's folder; ``place`` may also be the folder ``checkpoints`` inside it."""
    return Path(place).parent if Path(place).name == "checkpoints" else Path(place)


def checkpoint_paths(arguments: Arguments) -> dict[str, Path]:
    """Return the path of each checkpoint by its name in the tables.

    Raises:
        ValueError: two checkpoints have one name, or one is named like a solver.
    """
    places: dict[str, Path] = {}
    for argument in arguments.checkpoint:
        name, _, place = argument.rpartition("=")
        run = run_folder(place)
        name = name or (run.resolve().name if run.is_dir() else run.name.removesuffix(".safetensors"))
        if name in places:
            raise ValueError(f"two checkpoints are named {name!r}; name them: --checkpoint=NAME=FOLDER")
        if name in arguments.solvers:
            raise ValueError(f"a checkpoint is named {name!r}, like a solver; name it: --checkpoint=NAME=FOLDER")
        places[name] = run
    return places


def reconstructors(arguments: Arguments, networks: Mapping[str, Network]) -> dict[str, Reconstructor]:
    """Return networks and solvers as functions of a measurement.

    ``Network.function`` is not used: it is compiled and resizes images, and scoring compiles the functions itself.
    """
    models: dict[str, Reconstructor] = {}
    for name, network in networks.items():
        once = jax.tree_util.Partial(build(network.config.model).apply, network.variables)
        averages = arguments.mirror_average or network.mirror_average
        if averages and arguments.uncertainty:
            raise ValueError(
                f"--uncertainty is how far mirror images differ, and {name} averages over them; leave --mirror_average "
                "out, or score a copy by atlf.load(NAME).averaging_mirrors(False).save(FILE)"
            )
        models[name] = mirror_average(once) if averages else once
    return models | {name: SOLVERS[name] for name in arguments.solvers}


def describe_methods(arguments: Arguments, networks: Mapping[str, Network], names: Sequence[str]) -> dict[str, Any]:
    """Return a ``report.Method`` for each method of the tables, by name.

    Args:
        arguments: of the command line.
        networks: by name.
        names: of the methods in the rows; a network scored with another CT is named ``NETWORK, CHANGE``.
    """
    from atlf_jax.evaluation.report import Method
    from atlf_jax.evaluation.trial import ZERO_FILLED

    places = checkpoint_paths(arguments)
    of_networks = {
        name: Method(network.parameters, checkpoint=str(places[name]), config=to_dict(network.config))
        for name, network in networks.items()
    }
    return {
        name: of_networks.get(name) or of_networks.get(name.rpartition(", ")[0]) or Method()
        for name in dict.fromkeys(names)
        if name != ZERO_FILLED
    }


def trained_masks(networks: Mapping[str, Network]) -> tuple[MaskConfig, ...]:
    """Return the masks that any of the networks was trained with."""
    return tuple(dict.fromkeys(mask for network in networks.values() for mask in network.config.masks))


def choose_data(arguments: Arguments, configs: Mapping[str, Config]) -> DataConfig:
    """Return the data settings of the first run, changed as the arguments say.

    Raises:
        ValueError: the runs were trained on different data, and the arguments do not choose.
    """
    first = next(iter(configs))
    data = configs[first].data
    given = {name: value for name in ("phase", "noise") if (value := getattr(arguments, name)) is not None}
    if "noise" in given:
        given["noise_spread"] = 1.0  # as much as is asked for, in every slice
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
        data = dataclasses.replace(data, source=with_folder(data.source, arguments.data_root, dataset=data.dataset))
    check_same_windows(data, configs)
    return data


def with_folder(settings: Any, root: str, *, dataset: str) -> Any:
    """Return the settings of a dataset with another folder."""
    if not hasattr(settings, "root"):
        raise ValueError(f"--data.root is given, but the {dataset} dataset is not read from a folder")
    return dataclasses.replace(settings, root=root)


def check_same_windows(data: DataConfig, configs: Mapping[str, Config]) -> None:
    """Raise ``ValueError`` if a network was trained with other CT windows than those of the data.

    A single window per network is not compared: it is part of the dataset's settings.
    """
    windows_here = data.ct_windows
    for name, config in configs.items():
        trained = config.data.ct_windows
        if trained != windows_here and max(len(trained), len(windows_here)) > 1:
            seen = [", ".join(windows) or "the dataset's own" for windows in (trained, windows_here)]
            raise ValueError(
                f"{name} was trained with the CT windows {seen[0]}, and the CT is read through {seen[1]} here; score "
                "it in a separate run, on data of Hounsfield units"
            )
