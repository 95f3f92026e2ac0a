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
# # Masks and what they cost
#
# Twelve families of sampling masks, drawn for one generated head. Each acquires about a quarter of k-space
# (`partial_fourier` cannot go below one half). How good is the image without any network, zero-filled and by total
# variation?

# %%
import jax.numpy as jnp
import numpy as np
from pictures import show

import atlf_jax as atlf
from atlf_jax.data import PhantomConfig, PhantomSource

head = PhantomSource(PhantomConfig(size=128))[4]
truth = jnp.asarray(head.target)
peak = float(jnp.abs(truth).max())

# %% [markdown]
# A mask is an array of zeros and ones, `[1, w]` for families of whole lines and `[h, w]` for the others, with the zero
# frequency at index `n // 2`. The same seed gives the same mask. *Effective* is the number of points divided by the
# number of acquired points; *coverage* is the part of k-space that is known for an image without phase, where the
# samples k and -k are conjugates.

# %%
masks = {}
for kind in atlf.MASKS:
    acceleration = 1.8 if kind == "partial_fourier" else 4.0
    masks[kind] = atlf.make_mask(atlf.MaskConfig(kind=kind, acceleration=acceleration), (128, 128), seed=1)

stack = jnp.stack([jnp.broadcast_to(mask.samples, (128, 128)) for mask in masks.values()])
kspace = atlf.forward(jnp.broadcast_to(truth, stack.shape), stack)  # twelve scans of one head
zero_filled = atlf.adjoint(kspace, stack)
smooth = atlf.total_variation(kspace, stack, regularisation=3e-3 * peak, isotropic=True, iterations=150)


def decibels(images):
    """Return the PSNR of each image."""
    return np.asarray(atlf.metrics.psnr(jnp.abs(images), jnp.broadcast_to(jnp.abs(truth), stack.shape), peak=peak))


print(f"{'family':22}{'effective':>10}{'coverage':>10}{'zero-filled':>13}{'total variation':>17}")
before, after = decibels(zero_filled), decibels(smooth)
for (kind, mask), low, high in zip(masks.items(), before, after, strict=True):
    print(f"{kind:22}{mask.effective:9.2f}x{mask.coverage:10.2f}{low:10.2f} dB{high:14.2f} dB")

# %%
show(
    "masks",
    {kind: np.asarray(mask) for kind, mask in zip(masks, stack, strict=True)},
    below={kind: f"{mask.effective:.2f}x effective" for kind, mask in masks.items()},
    columns=6,
)

# %%
show(
    "masks_zero_filled",
    {kind: np.asarray(image) for kind, image in zip(masks, zero_filled, strict=True)},
    below={kind: f"{low:.1f} dB, with TV {high:.1f} dB" for kind, low, high in zip(masks, before, after, strict=True)},
    columns=6,
    white=peak,
)

# %% [markdown]
# Points in two dimensions cost much less quality than lines at the same acceleration, because their aliases look like
# noise, which total variation removes. In a two-dimensional scan a whole line costs as much time as one point, so
# points are for three-dimensional scans. `random` draws every line by itself, as fastMRI does: its effective
# acceleration varies with the seed. `random_exact` keeps exactly as many lines as asked for.
