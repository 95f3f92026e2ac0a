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
# # Does the CT help?
#
# The same measurement, reconstructed without a CT, with the right one, with one that lies elsewhere, and with that of
# another person. On a real scan the truth is not known: `check_ct` then withholds a part of the measured samples and
# asks which image predicts them better, and `ct_weight="withheld"` takes as much of the CT as they ask for.

# %%
import warnings

import numpy as np
from pictures import show

import atlf_jax as atlf
from atlf_jax.data import PhantomConfig, PhantomSource

warnings.simplefilter("ignore", atlf.GuardWarning)  # this network never saw generated heads; see "Trust"
source = PhantomSource(PhantomConfig(size=128, noise=0.002))
head, other = source[4], source[12]
truth = np.abs(head.target)
mask = atlf.make_mask(atlf.MaskConfig(kind="random_exact", acceleration=8.0, center_fraction=0.04), (128, 128), seed=2)
kspace = np.asarray(atlf.forward(head.target, mask))


def decibels(image):
    """Return the PSNR of the magnitude."""
    return float(atlf.metrics.psnr(np.abs(image), truth, peak=truth.max()))


# %%
network = atlf.models.load_pretrained("aanlib-best")
cts = {
    "its own CT": head.ct,
    "one moved by 6 pixels": np.roll(head.ct, 6, axis=1),
    "another person's": other.ct,
}
images = {"no CT": atlf.reconstruct(kspace, mask, model=network, force=True)}
print(f"{'CT':22}{'true gain':>12}{'gain on withheld samples':>28}{'weight':>9}{'true gain, weighed':>21}")
for name, ct in cts.items():
    images[name], record = atlf.reconstruct(
        kspace, mask, ct=ct, model=network, check_ct=True, return_record=True, force=True
    )
    weighed, weighing = atlf.reconstruct(
        kspace, mask, ct=ct, model=network, ct_weight="withheld", return_record=True, force=True
    )
    gain, gain_weighed = (decibels(image) - decibels(images["no CT"]) for image in (images[name], weighed))
    on_withheld, weight = record["ct_gain_on_withheld_samples_db"], weighing["ct_weight"]
    print(f"{name:22}{gain:+9.2f} dB{on_withheld:+25.2f} dB{weight:9.2f}{gain_weighed:+18.2f} dB")

# %%
pictures = {"truth": truth, "CT": head.ct * truth.max()} | {name: np.abs(image) for name, image in images.items()}
errors = {f"error, {name}": np.abs(np.abs(image) - truth) for name, image in images.items()}
scores = {name: f"{decibels(image):.2f} dB" for name, image in images.items()}
show("does_the_ct_help", pictures, below=scores, white=truth.max(), columns=3)
show("does_the_ct_help_errors", errors, white=0.5 * truth.max(), colours=dict.fromkeys(errors, "inferno"))

# %% [markdown]
# Withheld samples tell the right CT from the moved one, whose weight is 0. They do not tell another person's: it
# predicts them better, so it has a weight too, and the image is no better. A gain within about .1 dB of zero is too
# small to decide, and a single slice decides little. A classical solver can use a CT as well, and shows how much of the
# gain is in the edges alone:

# %%
peak = np.abs(np.asarray(atlf.adjoint(kspace, mask))).max()
plain = atlf.total_variation(kspace, mask, regularisation=3e-3 * peak, isotropic=True)
print(f"total variation without a CT: {decibels(plain):.2f} dB")
for name, ct in cts.items():
    guided = atlf.guided_total_variation(kspace, mask, ct=ct, regularisation=3e-3 * peak, eta=0.1)
    print(f"guided by {name:22}{decibels(guided):6.2f} dB")
