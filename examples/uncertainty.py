# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Expected errors
#
# How far may the image be off, pixel by pixel? A network reconstructs the scan and its three mirror images; where the
# answers differ, it does not know. This spread times one number, fitted where the truth is known, is the expected
# absolute error.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
from pictures import save, show

import atlf_jax as atlf
from atlf_jax.data import PhantomConfig, PhantomSource
from atlf_jax.trained.uncertainty import Calibration

warnings.simplefilter("ignore", atlf.GuardWarning)  # this network never saw generated heads; see "Trust"
source = PhantomSource(PhantomConfig(size=128, noise=0.002))
network = atlf.models.load_pretrained("aanlib-best")


def scan(index, network):
    """Return truth, image and the expected error of one generated head at 4x, in units of its brightest pixel."""
    head = source[index]
    mask = atlf.make_mask(atlf.MaskConfig(kind="random_exact", acceleration=4.0), (128, 128), seed=index)
    truth = head.target / np.abs(head.target).max()
    kspace = np.asarray(atlf.forward(truth, mask))
    image, expected = atlf.reconstruct(kspace, mask, ct=head.ct, model=network, uncertainty=True, force=True)
    return np.abs(truth), np.abs(image), expected


# %% [markdown]
# ## Calibrate on one head
# A calibration of 1 gives the spread itself. For a network of your own, `evaluate.py --uncertainty` fits the numbers on
# subjects that it was not trained on.

# %%
truth, image, spread = scan(4, network.calibrated(Calibration(scale=1.0, bound=1.0)))
inside = truth > 0.05
error = np.abs(image - truth)[inside]
scale = float(error.mean() / spread[inside].mean())
bound = float(np.quantile(error / (scale * spread[inside]), 0.9))
print(f"expected error = {scale:.2f} x spread; 90 % of the errors are below {bound:.2f} x the expected one")
calibrated = network.calibrated(Calibration(scale, bound))

# %% [markdown]
# ## Try it on another

# %%
truth, image, expected = scan(12, calibrated)
error, inside = np.abs(image - truth), truth > 0.05
print(f"mean error inside the head: expected {expected[inside].mean():.4f}, true {error[inside].mean():.4f}")
print(f"below the bound: {np.mean(error[inside] < bound * expected[inside]):.0%} of the pixels (wanted 90 %)")
print(f"correlation over pixels: {np.corrcoef(expected[inside], error[inside])[0, 1]:.2f}")

# %%
show(
    "uncertainty",
    {"truth": truth, "network": image, "true error": error, "expected error": expected},
    colours={"true error": "inferno", "expected error": "inferno"},
    white={"true error": 0.4, "expected error": 0.4},
)

# %% [markdown]
# The expectation holds for groups of pixels, and says little about a single one. Pixels sorted by what was expected of
# them, in ten groups:

# %%
groups = np.array_split(np.argsort(expected[inside]), 10)
points = np.array([[part[inside][group].mean() for part in (expected, error)] for group in groups])
figure, axis = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
axis.plot(*points.T, "o-")
axis.plot([0, points.max()], [0, points.max()], ":", color="grey")
axis.set(xlabel="expected error", ylabel="true error")
save("uncertainty_groups", figure)

# %% [markdown]
# It is no probability that something seen in the image is real: a lesion that the mask lost is missing in all mirror
# copies alike.
