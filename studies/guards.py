"""How often a CT in place raises the guard's warning, and how often one out of place does: the choice of its margins.

``python studies/guards.py [--dataset aanlib] [--splits valid] [--accelerations 4 8 10]`` with ATLF_DATA_DIR:
zero-filled MR, each slice under its own mask, with the CT as it is, moved, mirrored, of another slice and of another
subject. Rates are over slices alone, by subject from the lowest to the highest, and over whole volumes.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from atlf_jax.data import DataConfig, dataset_settings, open_source
from atlf_jax.evaluation.slices import Panel, reconstruct_slices
from atlf_jax.evaluation.trial import ZERO_FILLED, Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.trained.guards import Placement, margin

FAMILIES = {"lines": "random", "points": "variable_density_2d"}


def changed(panel: Panel, others: list[Panel]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the CT as it is and as it should not be."""
    yield "in place", panel.ct
    for pixels in (4, 8, 16):
        for axis in (0, 1):
            yield f"moved by {pixels}", np.roll(panel.ct, pixels, axis)
    yield "mirrored left to right", panel.ct[:, ::-1]
    same = [other for other in others if other.subject == panel.subject]
    place = next(index for index, other in enumerate(same) if other.record == panel.record)
    yield "of another slice, half the head away", same[(place + len(same) // 2) % len(same)].ct
    strangers = [other for other in others if other.subject != panel.subject]
    yield "of another subject", strangers[place * len(strangers) // len(same)].ct


def main() -> None:
    """Print the rates, for slices alone and for whole subjects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["aanlib", "phantom"])
    parser.add_argument("--splits", nargs="+", default=["valid"])
    parser.add_argument("--accelerations", nargs="+", type=float, default=[4.0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--size", type=int, default=256, help="side of the generated heads")
    chosen = parser.parse_args()
    console = Console(width=120)
    for dataset in chosen.dataset:
        config = DataConfig(dataset_settings(dataset, **({"size": chosen.size} if dataset == "phantom" else {})))
        for family in chosen.families:
            for acceleration in chosen.accelerations:
                mask = MaskConfig(FAMILIES[family], acceleration, 0.08 if acceleration < 6 else 0.04)
                panels = []
                for split in chosen.splits:
                    source = open_source(config, split)
                    panels += reconstruct_slices(Trial(source, (mask,)), mask, timed=False)
                title = f"{dataset} {' '.join(chosen.splits)}, {acceleration:g}x {family}: {len(panels)} slices"
                console.print(rates(panels, title))


def rates(panels: list[Panel], title: str) -> Table:
    """Tabulate gains and warnings of every change of the CT."""
    slices: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )  # by change, subject
    volumes: defaultdict[tuple[str, int, str], Placement] = defaultdict(Placement)
    masks = np.stack([panel.sampling.samples for panel in panels])
    for panel in panels:
        for number, (name, ct) in enumerate(changed(panel, panels)):
            alone = Placement()
            for placement in (alone, volumes[name, number, panel.subject]):
                placement.add(ct, panel.images[ZERO_FILLED])
            slices[name][panel.subject].append(alone.gain[0])
    limit, of_volumes = margin(masks), margin(masks, max(map(len, next(iter(slices.values())).values())))
    table = Table(title=f"{title}; margins {limit:g} and {of_volumes:g}")
    for heading in ("CT", "slices warned (by subject)", "volumes warned", "gain: median, 90 %, largest", "of volumes"):
        table.add_column(heading)
    for name, of_subjects in slices.items():
        gains = np.concatenate([*of_subjects.values()])
        by_subject = [np.mean(np.array(values) > limit) for values in of_subjects.values()]
        whole = [placement.gain[0] for (change, _, _), placement in volumes.items() if change == name]
        table.add_row(
            name,
            f"{np.mean(gains > limit):.0%} ({min(by_subject):.0%} to {max(by_subject):.0%})",
            f"{np.mean(np.array(whole) > of_volumes):.0%}",
            " ".join(f"{value:+.3f}" for value in np.percentile(gains, (50, 90, 100))),
            f"{min(whole):+.3f} to {max(whole):+.3f}",
        )
    return table


if __name__ == "__main__":
    main()
