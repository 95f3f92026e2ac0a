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
# # Learn a solver's parameter by differentiating through it
#
# How much total variation is right? Instead of a grid of trials, differentiate the error of the solution with respect
# to the weight. `guided_total_variation` has two numbers to choose: the weight, and eta, the size of a step in the CT
# that counts as an edge. Both are learned on one head and tried on others.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from pictures import save, show

import atlf_jax as atlf
from atlf_jax.data import PhantomConfig, PhantomSource

source = PhantomSource(PhantomConfig(size=64, noise=0.002))
sampling = atlf.MaskConfig(kind="variable_density_2d", acceleration=4.0)


def scan(index):
    """Return k-space, mask, CT and truth of one generated head, scaled to maximum 1."""
    head = source[index]
    truth = jnp.asarray(head.target) / np.abs(head.target).max()
    mask = atlf.make_mask(sampling, (64, 64), seed=index)
    return atlf.forward(truth, mask), jnp.asarray(mask.samples), jnp.asarray(head.ct), truth


# %% [markdown]
# Both numbers are positive, so their logarithms are learned. With the default `tolerance=0` every iteration is made,
# and JAX differentiates through all of them.

# %%
kspace, mask, ct, truth = scan(4)


@jax.jit
def solve(logarithms, kspace, mask, ct):
    """Reconstruct with the weight and eta of which the logarithms are given."""
    weight, eta = jnp.exp(logarithms)
    return atlf.guided_total_variation(kspace, mask, ct=ct, regularisation=weight, eta=eta, iterations=80)


def error(logarithms):
    """Return the mean squared error in dB."""
    difference = solve(logarithms, kspace, mask, ct) - truth
    return 10 * jnp.log10(jnp.mean(jnp.abs(difference) ** 2))


value_and_slope = jax.jit(jax.value_and_grad(error))
logarithms = jnp.log(jnp.array([0.03, 1.0]))  # a poor guess
optimiser = optax.adam(0.3)
state = optimiser.init(logarithms)
path, errors = [np.exp(logarithms)], []
for _ in range(25):
    value, slope = value_and_slope(logarithms)
    update, state = optimiser.update(slope, state)
    logarithms = optax.apply_updates(logarithms, update)
    path.append(np.exp(logarithms))
    errors.append(float(value))
path = np.array(path)
print(f"weight {path[0, 0]:.3g} -> {path[-1, 0]:.3g}, eta {path[0, 1]:.3g} -> {path[-1, 1]:.3g}")
print(f"PSNR on this head {-errors[0]:.2f} -> {-float(error(logarithms)):.2f} dB")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
left.plot(-np.array(errors))
left.set(xlabel="step", ylabel="PSNR [dB]")
right.semilogy(path, label=["weight", "eta"])
right.set(xlabel="step")
right.legend()
save("learn_parameter", figure)

# %% [markdown]
# ## On heads that were not learned from


# %%
def decibels(image, truth):
    """Return the PSNR of complex images."""
    return -10 * np.log10(float(jnp.mean(jnp.abs(image - truth) ** 2)))


first = jnp.log(jnp.array([0.03, 1.0]))
for index in (12, 20, 28):
    *other, its_truth = scan(index)
    guess, learned = (decibels(solve(numbers, *other), its_truth) for numbers in (first, logarithms))
    print(f"head {index}: guessed {guess:.2f} dB, learned {learned:.2f} dB")

# %%
show(
    "learn_parameter_images",
    {
        "truth": np.asarray(truth),
        "zero-filled": np.asarray(atlf.adjoint(kspace, mask)),
        "guessed": np.asarray(solve(first, kspace, mask, ct)),
        "learned": np.asarray(solve(logarithms, kspace, mask, ct)),
    },
)
