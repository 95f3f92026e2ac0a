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
# # Training on two devices
#
# The batch is split over all devices by `jax.jit` with named shardings, as `train.py` does. The result does not depend
# on how many there are. Without a GPU, XLA can pretend to have two processors, which is what this page does.

# %%
import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from pictures import save

import atlf_jax as atlf
from atlf_jax.data import AugmentConfig, PhantomConfig, PhantomSource, train_batches
from atlf_jax.models import DCCNNConfig

print(len(jax.devices()), "devices:", *jax.devices())

# %% [markdown]
# A mesh with one axis, `"data"`. Parameters are copied to every device; batches are split along their first axis. The
# program of the step is the one for a single device: XLA adds the sum of the gradients over devices.

# %%
network = atlf.build(DCCNNConfig(cascades=2, depth=3, width=16))
optimiser = optax.adam(2e-3)
source = PhantomSource(PhantomConfig(size=64, subjects=20))
sampling = atlf.MaskConfig(kind="random_exact", acceleration=4.0)


def loss(parameters, batch):
    """Return the mean squared error of a batch."""
    return atlf.losses.mse(network.apply(parameters, batch.measurement).image, batch.target).mean()


def train(devices, steps=20):
    """Train on these devices, and return the losses and where the last batch lay."""
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, split = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, jax.P("data"))

    @jax.jit
    def step(parameters, state, batch):
        value, gradient = jax.value_and_grad(loss)(parameters, batch)
        update, state = optimiser.update(gradient, state)
        return optax.apply_updates(parameters, update), state, value

    batches = train_batches(source, mask=sampling, augment=AugmentConfig(), batch_size=8, seed=0)
    first = jax.tree.map(jnp.asarray, next(batches).measurement)
    parameters = jax.device_put(network.init(jax.random.key(0), first), everywhere)
    state = jax.device_put(optimiser.init(parameters), everywhere)
    losses = []
    for _ in range(steps):
        batch = jax.device_put(next(batches), split)
        parameters, state, value = step(parameters, state, batch)
        losses.append(float(value))
    return np.array(losses), batch.measurement.kspace


one, _ = train(jax.devices()[:1])
two, kspace = train(jax.devices())
for shard in kspace.addressable_shards:
    print(shard.device, "holds records", shard.index[0], "of", kspace.shape)
print(f"largest relative difference of the losses: {np.max(np.abs(two / one - 1)):.1e}")

# %%
figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
axis.semilogy(one, label="one device", linewidth=3, alpha=0.4)
axis.semilogy(two, label="two devices", linestyle="--")
axis.set(xlabel="step", ylabel="mean squared error")
axis.legend()
save("two_devices", figure)

# %% [markdown]
# With `train.py` nothing has to be done: it takes all devices that JAX shows. `batch_size` must be a multiple of their
# number.
