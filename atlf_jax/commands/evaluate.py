"""Score trained networks: ``atlf evaluate --checkpoint=runs/NAME [--checkpoint=OTHER=runs/X] [--split=valid]``."""

import dataclasses
import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from atlf_jax.command_line import parse
from atlf_jax.config import Config, to_dict
from atlf_jax.data import DataConfig, Source, Split, open_source
from atlf_jax.evaluation.audit import audit
from atlf_jax.evaluation.calibration import measure
from atlf_jax.evaluation.scoring import (
    ZERO_FILLED,
    EvaluationConfig,
    Reconstructor,
    choose_panels,
    evaluate,
    mask_label,
    reconstruct_slices,
    single_masks,
    without_black,
)
from atlf_jax.masks import MaskConfig, make_mask, seed_from_name
from atlf_jax.models import build
from atlf_jax.program import errors_in_one_line, no_display
from atlf_jax.solvers import SOLVERS
from atlf_jax.trained import Network, load
from atlf_jax.trained.guards import Placement, unseen_dataset, unseen_sampling


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
    split: Split = "valid"
    """Subjects to score."""
    dataset: Literal["aanlib", "fastmri", "phantom", "prepared"] | None = None
    """Dataset to score on; None: the one that the networks were trained on."""
    data_root: Annotated[str | None, tyro.conf.arg(aliases=["--data.root"])] = None
    """Folder of the dataset; None: the one in the checkpoint."""
    phase: Annotated[float | None, tyro.conf.arg(name="acquisition.phase")] = None
    """Largest simulated phase in radians (0.785 is usual: it takes the Hermitian symmetry away); None: as trained."""
    noise: Annotated[float | None, tyro.conf.arg(name="acquisition.noise")] = None
    """Simulated noise relative to the largest pixel (0.01 is usual); None: as trained."""
    masks: tuple[tuple[str, float, float], ...] = ()
    """KIND ACCELERATION CENTRE_FRACTION, repeated for each mask; none: those that the networks were trained with."""
    ablate: Literal["ct"] | None = None
    """ct: score again with the CT taken away, exchanged or moved, under noise, and with lesions painted in."""
    uncertainty: bool = False
    """Also compare the errors that every network expects with its true ones; four more reconstructions a slice."""
    evaluation: Annotated[EvaluationConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=EvaluationConfig)
    """Metric profile, batches, panels and bootstrap."""


def main(argv: Sequence[str], program: str = "atlf evaluate") -> None:
    """Parse, load, score, write; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Arguments, argv, program=program)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every restore
        run(arguments)


def run(arguments: Arguments) -> None:
    """Score what the arguments name, print the tables and write the files."""
    with no_display():  # figures go into files; a notebook's backend may not even load here
        from atlf_jax.evaluation import report  # matplotlib: only once the arguments are known to be good

    folder = folder_of(arguments)
    report.check_folder(folder)
    places = places_of(arguments)
    networks = {name: load(place, arguments.which) for name, place in places.items()}
    models = reconstructors(arguments, networks)
    methods = {name: report.Method() for name in models} | {
        name: report.Method(network.parameters, checkpoint=str(places[name]), config=to_dict(network.config))
        for name, network in networks.items()
    }
    configs = {name: network.config for name, network in networks.items()}
    data = choose_data(arguments, configs)
    if arguments.ablate and data.dataset == "fastmri":
        raise ValueError(
            "--ablate ct exchanges the CT, and fastMRI data has none; leave it out, or choose another --dataset"
        )
    masks = [MaskConfig(kind, acceleration, center) for kind, acceleration, center in arguments.masks]
    trained = dict.fromkeys(mask for config in configs.values() for mask in (config.mask, *config.more_masks))
    masks = single_masks(masks or list(trained))
    opened = open_source(data, arguments.split)
    source, left_out = without_black(opened, profile=arguments.evaluation.profile)
    shared = {"masks": masks, "config": arguments.evaluation, "acquisition": data.acquisition}
    rows, sections = evaluate(models, source, **shared), []
    panels = choose_panels(models, source, rows, **shared)
    if arguments.ablate == "ct":
        from atlf_jax.evaluation.modality import ablate_ct, ct_gains, ct_section

        ablated = ablate_ct(models, source, **shared)
        methods |= {row.method: methods[row.method.rpartition(", ")[0]] for row in ablated}
        rows += ablated
        sections += [ct_gains(rows), ct_section(models, source, **shared)]
    study = report.Study(
        dataset=", ".join(filter(None, (data.dataset, getattr(opened, "pairing", "")))),
        split=arguments.split,
        config=arguments.evaluation,
        methods=methods,
        rows=rows,
        panels=panels,
        acquisition=to_dict(data.acquisition),
        sections=sections,
        audit=audit(source, masks=masks, acquisition=data.acquisition),
        warnings=guard(networks, data, source, masks),
        reliability=measure(
            {name: models[name] for name in networks},
            source,
            calibrations={name: network.calibration for name, network in networks.items() if network.calibration},
            **shared,
        )
        if arguments.uncertainty
        else (),
        left_out=left_out,
    )
    if data.dataset == "fastmri":
        study = without_names(study)
    facts = report.summary(study)
    console = Console()
    for table in report.tables(facts, study.sections):
        console.print(table, "")
    flattering = [item["name"] for item in facts["audit"] if item["found"]]
    console.print(f"What flatters these numbers: {', '.join(flattering) or 'nothing found'}.", highlight=False)
    for remark in facts["remarks"]:
        console.print(remark, highlight=False, markup=False)
    _, page = report.write(folder, study, facts)  # last: a disk that is full by now costs no number
    console.print(f"\nreport: {page.resolve()}", highlight=False, soft_wrap=True)


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


def without_names(study: "report.Study") -> "report.Study":
    """Put codes in the place of names that come from a person's files, as these may be named after people."""

    def code(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()[:8]

    def coded(name: str) -> str:
        stem, _, number = name.rpartition("_")  # of a slice
        return f"{code(stem)}_{number}"

    of_rows = coded if study.config.profile == "picture" else code
    return dataclasses.replace(
        study,
        rows=[row._replace(name=of_rows(row.name)) for row in study.rows],
        panels=[panel._replace(name=coded(panel.name)) for panel in study.panels],
        left_out=[coded(name) for name in study.left_out],
        reliability=[item._replace(left_out=[coded(name) for name in item.left_out]) for item in study.reliability],
    )


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
    if arguments.dataset is not None:
        data = dataclasses.replace(data, dataset=arguments.dataset)
    if arguments.data_root is not None:
        settings = getattr(data, data.dataset)
        if not hasattr(settings, "root"):
            raise ValueError(f"--data_root is given, but the {data.dataset} dataset is not read from a folder")
        data = dataclasses.replace(data, **{data.dataset: dataclasses.replace(settings, root=arguments.data_root)})
    for name, config in configs.items():
        there, here = config.data.ct_windows, data.ct_windows
        if there != here and max(len(there), len(here)) > 1:
            seen = [", ".join(windows) or "the dataset's own" for windows in (there, here)]
            raise ValueError(
                f"{name} was trained with the CT windows {seen[0]}, and the CT is read through {seen[1]} here; score "
                "it in a separate run, on data of Hounsfield units"
            )
    return data


def guard(networks: Mapping[str, Network], data: DataConfig, source: Source, masks: list[MaskConfig]) -> list[str]:
    """Say which subjects' CT and MR do not match in place, and what of the scoring a network was never trained for."""
    singles = single_masks(masks)
    words: list[str] = []
    places: defaultdict[str, Placement] = defaultdict(Placement)
    drawn: defaultdict[tuple[str, tuple[int, ...]], list[np.ndarray]] = defaultdict(list)  # by label and size
    for panel in reconstruct_slices(
        {}, source, mask=singles[0], batch_size=1, acquisition=data.acquisition, timed=False
    ):
        places[panel.subject].add(panel.ct, panel.images[ZERO_FILLED])
        shape, seed = panel.target.shape, seed_from_name(panel.name)
        for mask in singles:
            drawn[mask_label(mask), shape].append(make_mask(mask, shape, seed=seed).mask)
    for (label, shape), drawn_masks in drawn.items():
        for name, network in networks.items():
            found = unseen_sampling(network.trained_for, np.stack(drawn_masks), shape=shape)
            words += [f"{name}, {label}: {text}." for text in found]
    for name, network in networks.items():
        words += [f"{name}: {text}." for text in unseen_dataset(network.trained_for, data)]
    words += [f"Subject {subject}: {text}." for subject, place in places.items() for text in place.warnings()]
    return words
