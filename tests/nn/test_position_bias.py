import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn.backend import formulated_for
from atlf_jax.nn.position_bias import STRIPE_BINS, stripe_pair_bias, stripe_row_bias

ANGLES = np.deg2rad((0, 45, 90, 135))


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def numpy_stripe_bias(tables, displacement, size):
    """Sum of np.interp over the four directions, from the definition."""
    distances = np.linspace(-np.sqrt(2) * size, np.sqrt(2) * size, STRIPE_BINS)
    total = np.zeros(displacement.shape[:-1])
    for i, angle in enumerate(ANGLES):
        d = displacement @ np.array((np.cos(angle), -np.sin(angle)))
        for head in range(len(tables)):
            total[:, head] += np.interp(d[:, head], distances, tables[head, i])
    return total


def test_pair_bias_equals_numpy(x64):
    tables, displacement = random(0, 3, 4, STRIPE_BINS), random(1, 2, 3, 5, 6, 2) * 4
    ours = stripe_pair_bias(jnp.asarray(tables), jnp.asarray(displacement), size=9)
    np.testing.assert_allclose(ours, numpy_stripe_bias(tables, displacement, 9), atol=1e-12)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(("h", "w"), [(5, 11), (12, 3), (1, 4)])
def test_row_bias_equals_pair_bias(x64, h, w, platform):
    tables = random(0, 2, 4, STRIPE_BINS)
    positions = np.random.default_rng(1).uniform(size=(2, 2, 6, 2)) * (h - 1, w - 1)
    positions[0, 0, :4] = (0, 0), (h - 1, w - 1), (0, w - 1), (h // 2, w // 2)  # corners and whole pixels
    with formulated_for(platform):
        bias = jax.jit(lambda *inputs: stripe_row_bias(*inputs, h=h, w=w))(jnp.asarray(tables), jnp.asarray(positions))
    for y in {0, h // 2, h - 1}:
        query = np.stack([np.full(w, y), np.arange(w)], -1).reshape(1, 1, w, 1, 2)
        expected = numpy_stripe_bias(tables, query - positions[:, :, None], max(h, w))
        np.testing.assert_allclose(bias.row(jnp.asarray(y)), expected, atol=1e-11)


@pytest.mark.parametrize("y", [0, 3])
def test_add_row_is_the_gradient_of_row(x64, y):
    positions = np.random.default_rng(1).uniform(size=(1, 2, 6, 2)) * (4, 6)
    make = jax.jit(lambda *inputs: stripe_row_bias(*inputs, h=5, w=7))
    bias = make(jnp.asarray(random(0, 2, 4, STRIPE_BINS)), jnp.asarray(positions))
    d_row = jnp.asarray(random(2, 1, 2, 7, 6))
    start = jax.tree.map(jnp.ones_like, bias)
    (expected,) = jax.vjp(jax.jit(lambda bias: bias.row(y)), bias)[1](d_row)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b + 1, atol=1e-12),
        bias.add_row(start, jnp.asarray(y), d_row),
        expected,
    )


@pytest.mark.parametrize("direction", range(4))
def test_a_table_knows_only_the_distance_to_its_stripe(x64, direction):
    tables = np.zeros((1, 4, STRIPE_BINS))
    tables[0, direction] = random(0, STRIPE_BINS)
    normal = np.array((np.cos(ANGLES[direction]), -np.sin(ANGLES[direction])))
    along, displacement = np.array((-normal[1], normal[0])), np.array((1.3, -0.4))

    def bias(d):
        return float(stripe_pair_bias(jnp.asarray(tables), jnp.asarray(d.reshape(1, 1, 1, 1, 2)), size=8)[0, 0, 0, 0])

    np.testing.assert_allclose(bias(displacement + 2.5 * along), bias(displacement), atol=1e-12)
    assert abs(bias(displacement + 2.5 * normal) - bias(displacement)) > 1e-3
