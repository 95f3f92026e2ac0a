"""Whether withheld samples tell what the CT does to the image: ``python studies/ct_check.py RUN_OR_WEIGHTS ...``.

With ATLF_DATA_DIR. Each network reconstructs its own validation subjects with their CT, with that of another subject
and without; what a CT brings to the image (against the true image, in dB of squared error over all slices of a subject)
stands beside what it brings to the samples that were kept back, which needs no truth. So do the weights of the CT with
which the image, and these samples, come out best.
"""

import argparse
import dataclasses
import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from atlf_jax.data import evaluation_batches, open_source
from atlf_jax.evaluation.changes import ABLATIONS, Changed
from atlf_jax.masks import MaskConfig, mask_label
from atlf_jax.trained import load
from atlf_jax.trained.inference import as_function
from atlf_jax.trained.withheld import WithheldErrors, withheld_errors

MASKS = (MaskConfig("random", 4.0, 0.08), MaskConfig("random", 10.0, 0.04))
CTS = {"its own": lambda source, index: source[index], "of another subject": ABLATIONS["CT of another subject"]}


def main() -> None:
    """Print a row for each subject, mask and CT, and how often both gains have the same sign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--which", default="best", choices=["best", "latest"])
    chosen = parser.parse_args()
    console = Console(width=110)
    table = Table(title="what the CT brings [dB]")
    for heading in (
        "network",
        "subject",
        "mask",
        "CT",
        "to the image",
        "to withheld samples",
        "weight: image",
        "samples",
    ):
        table.add_column(heading)
    agreed = []
    for checkpoint in chosen.checkpoints:
        network = load(checkpoint, chosen.which)
        model = as_function(network.config.model, network.variables)
        source = open_source(dataclasses.replace(network.config.data, workers=0), "valid")
        cases = list(itertools.product(MASKS, CTS.items()))
        for mask, (name, change) in track(cases, checkpoint, console=console):
            image, samples = defaultdict(list), defaultdict(list)
            for batch, _ in evaluation_batches(Changed(source, change), mask=mask, batch_size=1):
                subject, square = source[int(batch.record[0])].subject, float(batch.scale[0]) ** 2
                without = batch.measurement._replace(ct=jnp.zeros_like(batch.measurement.ct))
                images = [model(seen).image for seen in (without, batch.measurement)]
                pairs = ((images[0], batch.target), (images[1], batch.target), images)
                image[subject].append(square * np.array([_error(*pair) for pair in pairs]))
                samples[subject].append(square * np.concatenate(withheld_errors(model, batch.measurement)))
            for subject in image:
                found = [WithheldErrors(*np.stack(parts[subject], axis=1)) for parts in (image, samples)]
                agreed.append((name, [each.gain for each in found]))
                told = [f"{each.gain:+.2f}" for each in found] + [f"{each.weight:.2f}" for each in found]
                table.add_row(checkpoint.rsplit("/", 1)[-1], subject, mask_label(mask), name, *told)
    console.print(table)
    for name in CTS:
        gains = np.array([pair for which, pair in agreed if which == name])
        same = (np.sign(gains[:, 0]) == np.sign(gains[:, 1])).mean()
        console.print(f"CT {name}: same sign in {same:.0%} of {len(gains)}")


@jax.jit
def _error(image: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.sum((jnp.abs(image) - jnp.abs(target)) ** 2)


if __name__ == "__main__":
    main()
