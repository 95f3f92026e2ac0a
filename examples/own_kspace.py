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
# # Your own k-space with several coils
#
# k-space `[c, h, w]` of eight coils from a file: coil maps from its fully sampled centre by ESPIRiT, then CG-SENSE,
# total variation, wavelets and a network.

# %%
import warnings

import jax.numpy as jnp
import numpy as np
from pictures import folder, show

import atlf_jax as atlf
from atlf_jax.data import PhantomConfig, PhantomSource

# %% [markdown]
# We have no scanner here, so we simulate one: a generated head with a smooth phase, eight coils, a quarter of the
# lines, and noise. With a scan of your own, start at `np.load`.

# %%
head = PhantomSource(PhantomConfig(size=128, phase=0.5, noise=0.0))[4]
truth = jnp.asarray(head.target) / np.abs(head.target).max()
mask = atlf.make_mask(atlf.MaskConfig(kind="random_exact", acceleration=4.0, center_lines=20), (128, 128), seed=1)
measured = np.array(atlf.forward(truth, mask, atlf.birdcage_maps((128, 128), 8)))
rng = np.random.default_rng(0)
noise = 0.005 * (rng.standard_normal(measured.shape) + 1j * rng.standard_normal(measured.shape))
np.save(folder() / "kspace.npy", (measured + noise * mask.samples).astype(np.complex64))
np.save(folder() / "mask.npy", mask)

# %% [markdown]
# ## From the file to images
# k-space is centred: the zero frequency lies at index `n // 2` of both axes. If yours lies at index 0, apply
# `numpy.fft.fftshift` over the last two axes first.

# %%
kspace, lines = np.load(folder() / "kspace.npy"), np.load(folder() / "mask.npy")
print("k-space", kspace.shape, kspace.dtype, "-", int(lines.sum()), "of", lines.shape[-1], "lines")

maps = atlf.ops.espirit_maps(jnp.asarray(kspace), calibration=(128, 20), kernel=6)
scale = float(jnp.abs(atlf.adjoint(kspace, lines, maps)).max())  # regularisation is in units of the image
images = {
    "zero-filled": atlf.adjoint(kspace, lines, maps),
    "CG-SENSE": atlf.cg_sense(kspace, lines, maps, iterations=30, regularisation=0.01),
    "total variation": atlf.total_variation(kspace, lines, maps, regularisation=2e-3 * scale, isotropic=True),
    "wavelets": atlf.l1_wavelet(kspace, lines, maps, regularisation=2e-3 * scale),
}

# %% [markdown]
# ## A network, and what it thinks of these data
# `aanlib-best` was trained on pictures without phase, with one coil and without noise. `atlf.reconstruct` takes the
# phase off, estimates maps, and says what makes the result doubtful; where it were very likely wrong, it would raise
# `ReconstructionRefused` instead of returning an image.

# %%
network = atlf.models.load_pretrained("aanlib-best")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    images["network"] = atlf.reconstruct(kspace, lines, ct=head.ct, coils="espirit", model=network, force=True)
for warning in caught:
    print(f"{warning.category.__name__}:")
    for sentence in str(warning.message).split("; "):
        print("  -", sentence)

# %%
inside = np.asarray(jnp.abs(truth)) > 0.05  # ESPIRiT says nothing about air


def decibels(image):
    """Return the PSNR of the magnitude inside the head."""
    return float(atlf.metrics.psnr(np.abs(image), np.abs(truth), peak=1.0, body=inside))


scores = {name: f"{decibels(image):.2f} dB" for name, image in images.items()}
for name, score in scores.items():
    print(f"{name:18}{score:>10}")
pictures = {"truth": truth} | images
show("own_kspace", {name: np.asarray(image) for name, image in pictures.items()}, below=scores, columns=3)
