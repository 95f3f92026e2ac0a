"""How often a CT in place raises the guard's warning, and how often one out of place does: the choice of its margin.

``python benchmarks/guards.py`` with ATLF_DATA_DIR: zero-filled MR of AANLIB's validation subjects and of generated
heads, each slice under its own 4x mask, with the CT as it is, moved, mirrored, of another slice and of another subject.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from atlf_jax.data import DataConfig, PhantomConfig, open_source
from atlf_jax.evaluation.scoring import ZERO_FILLED, Panel, reconstruct_slices
from atlf_jax.masks import MaskConfig
from atlf_jax.trained.guards import MARGIN, Placement

MASKS = {"lines": MaskConfig("random", 4.0, 0.08), "points": MaskConfig("variable_density_2d", 4.0)}


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
    """Print the rates for each margin, for slices alone and for whole subjects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--size", type=int, default=256, help="side of the generated heads")
    chosen = parser.parse_args()
    console = Console(width=100)
    for dataset in ("aanlib", "phantom"):
        config = DataConfig(dataset=dataset, phantom=PhantomConfig(size=chosen.size))
        source = open_source(config, chosen.split)
        for family, mask in MASKS.items():
            panels = list(reconstruct_slices({}, source, mask=mask, batch_size=4, timed=False))
            slices, volumes = defaultdict(list), defaultdict(Placement)
            for panel in panels:
                for number, (name, ct) in enumerate(changed(panel, panels)):
                    alone = Placement()
                    for placement in (alone, volumes[name, number, panel.subject]):
                        placement.add(ct, panel.images[ZERO_FILLED])
                    slices[name].append(alone.gain[0])
            whole = defaultdict(list)
            for (name, _, _), placement in volumes.items():
                whole[name].append(placement.gain[0])
            table = Table(title=f"{dataset} {chosen.split}, 4x {family}: {len(panels)} slices; margin {MARGIN}")
            for heading in (
                "CT",
                "slices warned",
                "subjects warned",
                "gain: 10 %, median, 90 % of slices, largest",
                "of subjects",
            ):
                table.add_column(heading)
            for name, gains in slices.items():
                rates = [f"{np.mean(np.array(values) > MARGIN):.0%}" for values in (gains, whole[name])]
                spread = " ".join(f"{value:+.3f}" for value in np.percentile(gains, (10, 50, 90, 100)))
                table.add_row(name, *rates, spread, f"{min(whole[name]):+.3f} to {max(whole[name]):+.3f}")
            console.print(table)


if __name__ == "__main__":
    main()
