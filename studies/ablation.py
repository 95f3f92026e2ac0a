"""What is each part of ATLF-Net worth? ``python -m studies.ablation --out=runs/ablation``.

The benchmark's ``compact``, which has all of them, is trained once more for each part that is left out or exchanged,
with equal steps, and scored by PSNR on the inner validation subject, case 41 of AANLIB, under the benchmark's masks.
One seed, one subject, short training: differences below a tenth of a dB say nothing. Runs are kept in OUT: run again
to go on. Needs ATLF_DATA_DIR.
"""

import argparse
from collections.abc import Sequence

import jax

from atlf_jax.training import load
from benchmarks.table import markdown
from studies.core import finish, finished, parser, train, training_seconds
from studies.rates import psnr

_FUSION, _PHASE = "--model.fusion", "--model.reconstruction"
# The fused image reaches the reconstruction by AdaIN alone: without AdaIN there is nothing to fuse for.
_NO_FUSION = (
    "--model.use_fusion=False",
    "--train.autoencode.steps=0",
    "--train.fusion.steps=0",
    f"{_PHASE}.adain=none",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "compact": (),
    "no fusion, no AdaIN": _NO_FUSION,
    "no LRFM: features are added": (f"{_FUSION}.lrfm=sum",),
    "GFAB alone": (f"{_FUSION}.branches=global",),
    "LFAB alone": (f"{_FUSION}.branches=local",),
    "fused image as a channel, no AdaIN": (f"{_PHASE}.adain=none", f"{_PHASE}.aux_concat=fused"),
    "CT as a channel, no fusion": (*_NO_FUSION, f"{_PHASE}.aux_concat=ct"),
    "CT by adapters, no fusion": (*_NO_FUSION, f"{_PHASE}.ct_adapter=ct+guide", "--train.joint.learning_rate=1e-3"),
    "no AVAT": (f"{_PHASE}.avat=False",),
    "no DC": (f"{_PHASE}.dc=none",),
    "hard DC": (f"{_PHASE}.dc=hard",),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    made = parser("ablation", __doc__)
    add = made.add_argument
    add("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    add("--steps", type=int, default=400, help="of reconstruction and joint; the first warms up over 50")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing; write and print the table."""
    arguments = parse(argv)
    out = arguments.out.resolve()
    rows = []
    for name in arguments.variants:
        run = out / name.replace(" ", "_").replace(",", "").replace(":", "")
        if not finished(run):
            joint = arguments.steps // 2 if any("ct_adapter" in option for option in VARIANTS[name]) else 0
            steps = (f"--train.reconstruction.steps={arguments.steps - joint}", f"--train.joint.steps={joint}")
            train("benchmark:compact", run, *VARIANTS[name], *steps, "--train.eval_every=100000")
        parameters = sum(leaf.size for leaf in jax.tree.leaves(load(run, "latest")[1]["params"]))
        rows.append(
            {
                "variant": name,
                "PSNR [dB]": psnr(run, arguments.steps),
                "parameters": parameters,
                "CPU s": training_seconds(run),
            }
        )
    for row in rows:
        row["difference"] = row["PSNR [dB]"] - rows[0]["PSNR [dB]"]
    finish(out, f"after {arguments.steps} steps, case 41\n\n{markdown(rows, digits=4)}")


if __name__ == "__main__":
    main()
