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
# # Your own network
#
# A small Flax module in your own file, trained in a plain Optax loop with the masks, operators and losses of this
# library, and handed to `atlf.reconstruct` like any other. Nothing needs to be registered.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from pictures import save, show

import atlf_jax as atlf
from atlf_jax.data import AugmentConfig, PhantomConfig, PhantomSource, evaluation_batches, train_batches

# %% [markdown]
# ## The network
# Whatever takes a `Measurement` (k-space, mask, CT, coil maps; never the truth) and returns a `Reconstruction` is a
# network here. This one repeats three times: look at the image and the CT, correct, put the measured samples back.


# %%
class Cascade(nn.Module):
    """Three small convolutional networks with data consistency between them."""

    width: int = 16
    phases: int = 3

    @nn.compact
    def __call__(self, measurement: atlf.Measurement) -> atlf.Reconstruction:
        kspace, mask, ct, _ = measurement
        image = atlf.ops.adjoint(kspace, mask)
        for _ in range(self.phases):
            x = jnp.stack([image.real, image.imag, ct], axis=-1)  # [b, h, w, 3]
            for _ in range(2):
                x = nn.relu(nn.Conv(self.width, (3, 3))(x))
            x = nn.Conv(2, (3, 3), kernel_init=nn.initializers.zeros)(x)
            image = atlf.ops.consistency.hard(image + atlf.ops.from_channels(x), kspace, mask)
        return atlf.Reconstruction(image)


# %% [markdown]
# ## The training
# `train_batches` yields batches without end, every record under a mask of its own. k-space is divided by
# `max|A^H y|`, which is known without the truth, and so is the target.

# %%
sampling = atlf.MaskConfig(kind="random_exact", acceleration=4.0, center_fraction=0.08)
source = PhantomSource(PhantomConfig(size=64, subjects=20))
batches = train_batches(source, mask=sampling, augment=AugmentConfig(), batch_size=8, seed=0)
network = Cascade()
parameters = network.init(jax.random.key(0), jax.tree.map(jnp.asarray, next(batches).measurement))
optimiser = optax.adam(optax.cosine_decay_schedule(4e-3, 120))
state = optimiser.init(parameters)


@jax.jit
def step(parameters, state, batch):
    """Make one step of Adam on the mean absolute error."""

    def loss(parameters):
        return atlf.losses.l1(network.apply(parameters, batch.measurement).image, batch.target).mean()

    value, gradient = jax.value_and_grad(loss)(parameters)
    update, state = optimiser.update(gradient, state)
    return optax.apply_updates(parameters, update), state, value


history = []
for _ in range(120):
    parameters, state, value = step(parameters, state, next(batches))
    history.append(float(value))
first, last = np.mean(history[:10]), np.mean(history[-10:])
print(f"mean absolute error: {first:.4f} in the first ten steps, {last:.4f} in the last")

# %%
figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
axis.semilogy(history)
axis.set(xlabel="step", ylabel="mean absolute error")
save("own_network_loss", figure)

# %% [markdown]
# ## On heads that it has not seen
# `evaluation_batches` seeds every mask by the record's name, so that each method is scored under the same masks.

# %%
unseen = PhantomSource(PhantomConfig(size=64, subjects=20, split="valid"))
gains = []
for batch, names in evaluation_batches(unseen, mask=sampling, batch_size=8):
    after = network.apply(parameters, batch.measurement).image
    before = atlf.adjoint(batch.measurement.kspace, batch.measurement.mask)
    peak = np.abs(batch.target).max(axis=(-2, -1))
    pair = (atlf.metrics.psnr(np.abs(image), np.abs(batch.target), peak=peak) for image in (before, after))
    gains.append(np.stack([np.asarray(score) for score in pair])[:, : len(names)])
low, high = np.concatenate(gains, axis=1).mean(axis=1)
print(f"PSNR on unseen heads: zero-filled {low:.2f} dB, own network {high:.2f} dB")

# %% [markdown]
# ## Like any other network
# `atlf.reconstruct` divides by the scale, calls the network, multiplies, and keeps the units of your k-space.

# %%
head = unseen[3]
mask = atlf.make_mask(sampling, (64, 64), seed=7)
kspace = np.asarray(atlf.forward(head.target, mask))
image = atlf.reconstruct(kspace, mask, ct=head.ct, model=lambda measured: network.apply(parameters, measured))
truth = np.abs(head.target)
show(
    "own_network",
    {
        "CT": head.ct,
        "truth": truth / truth.max(),
        "zero-filled": np.abs(atlf.adjoint(kspace, mask)) / truth.max(),
        "own network": np.abs(image) / truth.max(),
    },
    below={"own network": f"{float(atlf.metrics.psnr(np.abs(image), truth, peak=truth.max())):.2f} dB"},
)
