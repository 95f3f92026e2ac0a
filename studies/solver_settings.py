"""Choose the solvers' settings on the inner validation subject: ``python -m studies.solver_settings``.

Every setting of a grid is scored by PSNR on case 41 of AANLIB (split ``inner_valid``), mean over 4x random lines and
10x variable density in 2-D; the best stand as defaults in ``atlf_jax/solvers/__init__.py``. Needs ATLF_DATA_DIR, or
the folder by ``--root``.
"""

import argparse
import itertools
from collections.abc import Sequence
from statistics import mean
from typing import Any

import jax
import numpy as np

from atlf_jax.data import AANLIBConfig, DataConfig, open_source
from atlf_jax.evaluation.scoring import evaluate
from atlf_jax.evaluation.trial import EvaluationConfig, Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.solvers import SOLVERS
from benchmarks.table import markdown

MASKS = (MaskConfig("random", 4.0, 0.08), MaskConfig("variable_density_2d", 10.0))
REGULARISATION = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "total_variation": {"regularisation": REGULARISATION},
    "l1_wavelet": {"regularisation": REGULARISATION},
    "guided_total_variation": {"regularisation": REGULARISATION, "eta": (0.003, 0.01, 0.03, 0.1)},
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.solver_settings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    add("--regularisation", nargs="+", type=float, help="values to try, in place of the grid's")
    add("--eta", nargs="+", type=float, help="values to try, in place of the grid's")
    add("--slices", type=int, default=6, help="evenly spaced slices of the subject")
    add("--root", default="", help="folder of AANLIB; empty: aanlib_ct_mri in ATLF_DATA_DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Score every setting; print a table for each solver, and its best."""
    arguments = parse(argv)
    source = open_source(DataConfig(AANLIBConfig(root=arguments.root)), "inner_valid")
    chosen = np.rint(np.linspace(0, len(source) - 1, min(arguments.slices, len(source)))).astype(int)
    records = [source[index] for index in chosen.tolist()]
    for name in arguments.solvers:
        grid = {key: getattr(arguments, key) or values for key, values in GRIDS[name].items()}
        rows = score(name, grid, records)
        best = max(rows, key=lambda row: row["mean"])
        print(f"{name}, PSNR [dB] of {len(records)} slices\n\n{markdown(rows)}\n")
        print(f"best: {', '.join(f'{key} {best[key]:g}' for key in grid)}, {best['mean']:.2f} dB\n", flush=True)


def score(name: str, grid: dict[str, Sequence[float]], source: Any) -> list[dict[str, Any]]:
    """Return the mean PSNR under each mask, and their mean, of every setting of the grid."""
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    methods = {
        str(number): jax.tree_util.Partial(SOLVERS[name], **setting)  # values are arguments: one program for all
        for number, setting in enumerate(settings)
    }
    scores = evaluate(Trial(source, MASKS, methods, config=EvaluationConfig(batch_size=1)))
    rows = []
    for number, setting in enumerate(settings):
        row: dict[str, Any] = dict(setting)
        for mask in dict.fromkeys(score.mask for score in scores):
            row[mask] = mean(s.values["psnr"] for s in scores if (s.mask, s.method) == (mask, str(number)))
        rows.append(row | {"mean": mean(list(row.values())[len(setting) :])})
    return rows


if __name__ == "__main__":
    main()
