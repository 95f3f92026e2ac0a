import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from atlf_jax.nn.brb import BRB, soft_threshold

NAMES = ("conv1_forward", "conv2_forward", "conv1_backward", "conv2_backward")


def maps(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_soft_threshold_is_the_proximal_map(x64):
    u = np.linspace(-2, 2, 41)
    for theta in (0.0, 0.3, 1.0):
        shrunk = np.asarray(soft_threshold(jnp.asarray(u), theta))
        np.testing.assert_allclose(shrunk, u - np.clip(u, -theta, theta), atol=1e-15)
        candidates = np.linspace(-3, 3, 6001)  # argmin of (x - u)^2 / 2 + theta |x|
        cost = (candidates[None] - u[:, None]) ** 2 / 2 + theta * np.abs(candidates[None])
        np.testing.assert_allclose(shrunk, candidates[cost.argmin(1)], atol=1e-3)  # the grid's spacing


def test_a_negative_threshold_pushes_outwards(x64):
    np.testing.assert_allclose(soft_threshold(jnp.array([-1.0, 0.0, 2.0]), -0.5), [-1.5, 0.0, 2.5])


def numpy_conv(x, kernel):
    """Correlate with zero padding 1, channel by channel."""
    y = np.zeros((*x.shape[:3], kernel.shape[3]))
    for b in range(x.shape[0]):
        for i in range(kernel.shape[2]):
            for o in range(kernel.shape[3]):
                y[b, :, :, o] += correlate(x[b, :, :, i], kernel[:, :, i, o], mode="same")
    return y


@pytest.mark.parametrize("theta", [0.2, -0.1])
def test_equals_the_published_formula(x64, theta):
    d = np.random.default_rng(0).normal(size=(2, 5, 6, 4))
    variables = BRB(4).init(jax.random.key(0), jnp.asarray(d))
    variables["params"]["theta"] = jnp.asarray(theta)
    w1, w2, w3, w4 = (np.asarray(variables["params"][name]["kernel"]) for name in NAMES)

    u = numpy_conv(np.maximum(numpy_conv(d, w1), 0), w2)
    shrunk = np.sign(u) * np.maximum(np.abs(u) - theta, 0)
    g = numpy_conv(np.maximum(numpy_conv(shrunk, w3), 0), w4)
    e = numpy_conv(np.maximum(numpy_conv(u, w3), 0), w4) - d
    ours = BRB(4).apply(variables, jnp.asarray(d))
    np.testing.assert_allclose(ours[0], g, atol=1e-12)
    np.testing.assert_allclose(ours[1], e, atol=1e-12)


def test_parameters_and_their_start():
    variables = BRB().init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))
    assert count(variables) == 36_865
    assert set(variables["params"]) == {*NAMES, "theta"}
    assert variables["params"]["theta"] == np.float32(0.01)
    for name in NAMES:  # xavier-normal: sqrt(2 / (9 32 + 9 32)); 9216 draws scatter by 0.7 %
        assert np.std(variables["params"][name]["kernel"]) == pytest.approx(0.0589, rel=0.04)


def test_zero_threshold_is_no_shrinkage():
    d = maps(0, 1, 5, 6, 8)
    variables = BRB(8).init(jax.random.key(0), d)
    variables["params"]["theta"] = jnp.zeros(())
    without = {"params": {k: v for k, v in variables["params"].items() if k != "theta"}}
    assert "theta" not in BRB(8, "none").init(jax.random.key(0), d)["params"]
    for ours, theirs in zip(BRB(8).apply(variables, d), BRB(8, "none").apply(without, d), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_levels_start_from_the_published_block():
    d = maps(0, 2, 7, 10, 8)  # odd sides at both levels
    variables = BRB(8, levels=3).init(jax.random.key(0), d)
    one = {"params": {name: variables["params"][name] for name in (*NAMES, "theta")}}
    deep, flat = jax.jit(BRB(8, levels=3).apply)(variables, d), jax.jit(BRB(8).apply)(one, d)
    for ours, theirs in zip(deep, flat, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)  # adds exact zeros; the compiler may order sums anew


def test_levels_have_one_width_and_reach_every_parameter():
    d = maps(0, 1, 6, 6, 4)
    block = BRB(4, levels=3)
    variables = block.init(jax.random.key(0), d)

    assert count(variables) == 3 * (4 * 9 * 4**2 + 1) + 2 * 2 * 4 * 4
    random = jax.tree.map(lambda x: x + 0.1, variables)
    gradient = jax.jit(jax.grad(lambda v: jnp.square(block.apply(v, d)[0]).sum()))
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient(random)))
    assert float(jnp.abs(gradient(variables)["params"]["up"]["kernel"]).max()) > 0  # the coarse branch wakes up


def test_coarse_level_sees_two_by_two_means():
    """A map with zero mean in every 2 x 2 cell of u passes the coarse branch unseen."""
    d = maps(0, 1, 4, 4, 2)
    block = BRB(2, "none", levels=2)
    variables = block.init(jax.random.key(0), d)
    params = variables["params"]
    identity = jnp.zeros((3, 3, 2, 2)).at[1, 1].set(jnp.eye(2))
    params["conv1_forward"]["kernel"] = params["conv2_forward"]["kernel"] = identity
    params["up"]["kernel"] = jnp.eye(2)
    checker = jnp.tile(jnp.array([[1.0, 0.0], [0.0, 0.0]]), (2, 2))[None, :, :, None] * jnp.ones((1, 1, 1, 2))
    shifted = jnp.roll(checker, 1, axis=2)  # the same means, elsewhere in the cell

    def coarse(x):
        _, state = block.apply(variables, x, capture_intermediates=True)
        return state["intermediates"]["up"]["__call__"][0]

    np.testing.assert_array_equal(coarse(checker), coarse(shifted))
    assert coarse(checker).shape == (1, 2, 2, 2)
    assert float(jnp.abs(coarse(checker)).max()) > 0
