"""Recomputing: the same values and gradients, and truly less memory, on this very backend."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn import backend
from atlf_jax.nn.attention import attend
from atlf_jax.nn.recompute import keep_products, recompute
from atlf_jax.nn.restormer import RestormerEncoder


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mask, *, gain=1.0):
        for i in range(2):
            x = jnp.sin(nn.Dense(16, name=f"dense_{i}")(x)) * x * gain
        return jnp.where(mask, x, 0), x.mean()


class Stack(nn.Module):
    saving: bool

    @nn.compact
    def __call__(self, x, mask):
        for i in range(3):
            block = Block(name=f"block_{i}")
            x, _ = recompute(block, x, mask, gain=0.5) if self.saving else block(x, mask, gain=0.5)
        return jnp.square(x).sum()


def gradient(saving):
    return jax.jit(jax.grad(lambda variables, x, mask: Stack(saving).apply(variables, x, mask), argnums=(0, 1)))


def inputs():
    x = jax.random.normal(jax.random.key(1), (256, 16))
    mask = jax.random.bernoulli(jax.random.key(2), 0.8, x.shape)
    return Stack(False).init(jax.random.key(0), x, mask), x, mask


def test_value_and_gradients_are_those_of_the_plain_module():
    variables, x, mask = inputs()
    plain, saving = gradient(False)(variables, x, mask), gradient(True)(variables, x, mask)
    for want, got in zip(jax.tree.leaves(plain), jax.tree.leaves(saving), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * float(jnp.abs(want).max()))
    assert float(Stack(True).apply(variables, x, mask)) == float(Stack(False).apply(variables, x, mask))


def test_parameters_have_the_same_names():
    variables, x, mask = inputs()
    assert jax.tree.structure(Stack(True).init(jax.random.key(0), x, mask)) == jax.tree.structure(variables)


@pytest.mark.slow
def test_it_saves_memory_although_the_compiler_merges_equal_computations():
    image = jnp.ones((1, 32, 32, 1))

    def memory(remat):
        encoder = RestormerEncoder(width=16, blocks=4, heads=2, remat=remat)
        variables = jax.eval_shape(encoder.init, jax.random.key(0), image)
        gradient = jax.jit(jax.grad(lambda variables: jnp.square(encoder.apply(variables, image)).sum()))
        return gradient.lower(variables).compile().memory_analysis().temp_size_in_bytes

    plain, saving = memory(False), memory(True)
    assert saving < 0.6 * plain  # .44 measured; nn.remat alone: 1


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        keys = nn.Dense(8)(x[:, :2].reshape(1, -1, 8))
        return jnp.sin(attend(jnp.sin(x), keys, keys, heads=2))


class SavingAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return recompute(Attention(), x).sum()


def test_attention_is_kept_and_not_computed_again():
    """Its two loops, of the value and of the gradient, are all that there are."""
    x = jnp.ones((1, 8, 8, 8))
    variables = SavingAttention().init(jax.random.key(0), x)
    program = jax.jit(jax.value_and_grad(SavingAttention().apply)).lower(variables, x)
    assert program.as_text().count("stablehlo.while") == 2


def test_what_is_kept_on_an_accelerator(monkeypatch):
    """A matrix product, unless its result is much wider than its argument; sines are computed again."""
    monkeypatch.setattr(backend, "accelerated", lambda: True)

    class Wide(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            return jnp.sin(nn.Dense(self.features, use_bias=False, name="dense")(x))

    class Whole(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            return keep_products(Wide(self.features, name="wide"), x)

    x = jnp.ones((64, 4))
    for features, products in ((8, 3), (16, 4)):  # forward, two gradients; and once more
        variables = jax.eval_shape(Whole(features).init, jax.random.key(0), x)
        gradient = jax.grad(lambda v, x, features=features: Whole(features).apply(v, x).sum(), argnums=(0, 1))
        text = str(jax.make_jaxpr(gradient)(variables, x))
        assert text.count("dot_general") == products and text.count("= cos") == 1
