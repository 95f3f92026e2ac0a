from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn.path_attention import DynamicPaths, PathSelector, gumbel_softmax

KEY = jax.random.key(0)
F = 8


def maps(seed=0, batch=3, features=F):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, 4, 5, features)), "float32")


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def randomised(variables, scale=0.5):
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(x + scale * generator.normal(size=x.shape), x.dtype), variables)


@cache
def compiled(module):
    return jax.jit(partial(module.apply, deterministic=True))


def run(module, variables, x, mu_index=None):
    return compiled(module)(variables, x, mu_index)


def start(module, x):
    return jax.jit(partial(module.init, deterministic=True))(KEY, x, None)


# --- gumbel_softmax ---


@pytest.mark.parametrize("hard", [True, False])
def test_weights_are_a_distribution(hard):
    logits = jax.random.normal(KEY, (50, 3))
    weights = gumbel_softmax(KEY, logits, tau=0.7, hard=hard)
    assert float(weights.min()) >= 0
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_hard_choice_is_exactly_one_hot_with_the_soft_gradient():
    logits, cotangent = jax.random.normal(KEY, (50, 3)), jax.random.normal(jax.random.key(1), (50, 3))

    def run(hard):
        out, pull = jax.vjp(lambda logits: gumbel_softmax(KEY, logits, tau=0.7, hard=hard), logits)
        return out, pull(cotangent)[0]

    (hard, hard_gradient), (soft, soft_gradient) = run(True), run(False)
    np.testing.assert_array_equal(np.sort(hard, axis=-1), np.tile([0.0, 0.0, 1.0], (50, 1)))
    np.testing.assert_array_equal(hard.argmax(-1), soft.argmax(-1))
    np.testing.assert_allclose(hard_gradient, soft_gradient, atol=1e-7)
    assert float(jnp.abs(hard_gradient).max()) > 0.1


def test_choices_follow_the_softmax():
    logits = jnp.array([0.3, -0.5])
    chosen = gumbel_softmax(KEY, jnp.broadcast_to(logits, (400_000, 2))).mean(0)
    np.testing.assert_allclose(chosen, jax.nn.softmax(logits), atol=2e-3)  # 2.6 standard deviations


def test_temperature_limits():
    logits = jax.random.normal(KEY, (50, 2))
    hard = gumbel_softmax(KEY, logits)
    np.testing.assert_allclose(gumbel_softmax(KEY, logits, tau=1e-4, hard=False), hard, atol=1e-6)
    np.testing.assert_allclose(gumbel_softmax(KEY, logits, tau=1e5, hard=False), 0.5, atol=1e-4)


def test_no_key_is_the_argmax_and_a_key_is_reproducible():
    logits = jax.random.normal(KEY, (50, 3))
    np.testing.assert_array_equal(gumbel_softmax(None, logits).argmax(-1), logits.argmax(-1))
    np.testing.assert_array_equal(gumbel_softmax(KEY, logits), gumbel_softmax(KEY, logits))
    assert (gumbel_softmax(KEY, logits) != gumbel_softmax(jax.random.key(1), logits)).any()


# --- the selector ---


def select(selector, variables, x, mu_index):
    return jax.jit(selector.apply)(variables, x, mu_index)


def initialise(selector, x):
    return jax.jit(selector.init)(KEY, x, None)


def numpy_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_selector_equals_the_published_formula():
    x, mu_index = maps(), jnp.array([0, 2, 5])
    selector = PathSelector()
    variables = randomised(initialise(selector, x))
    p = jax.tree.map(np.asarray, variables["params"])

    h = np.asarray(x).mean((1, 2))
    h = np.log1p(np.exp(p["scale"]["kernel"][mu_index])) * h + p["shift"]["kernel"][mu_index]
    h = np.maximum(numpy_norm(h) * p["norm1"]["scale"] + p["norm1"]["bias"], 0)
    h = numpy_norm(h) * p["norm2"]["scale"] + p["norm2"]["bias"]
    expected = h @ p["logits"]["kernel"] + p["logits"]["bias"]
    np.testing.assert_allclose(select(selector, variables, x, mu_index), expected, atol=1e-5)


def test_controllable_unit_starts_as_the_identity():
    x = maps()
    variables = initialise(PathSelector(), x)
    with_unit = select(PathSelector(), variables, x, jnp.array([0, 1, 2]))
    rest = {k: v for k, v in variables["params"].items() if k not in ("scale", "shift")}
    without = select(PathSelector(mu_classes=0), {"params": rest}, x, None)
    np.testing.assert_allclose(with_unit, without, atol=1e-6)


def test_no_mu_means_the_last_class():
    x = maps()
    variables = randomised(initialise(PathSelector(), x))
    last, first = jnp.full(3, 5), jnp.zeros(3, int)
    np.testing.assert_array_equal(
        select(PathSelector(), variables, x, None), select(PathSelector(), variables, x, last)
    )
    assert (select(PathSelector(), variables, x, None) != select(PathSelector(), variables, x, first)).any()


# --- keys and values ---


def forced(variables, name, path):
    """Make a selector choose one path always."""
    logits = variables["params"][name]["logits"]
    logits["kernel"] = jnp.zeros_like(logits["kernel"])
    logits["bias"] = jnp.zeros_like(logits["bias"]).at[path].set(5.0)


def numpy_paths(x, p, name):
    x = np.asarray(x)
    first = x @ p[f"{name}_p1"]["kernel"] + p[f"{name}_p1"]["bias"]
    padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), p[f"{name}_p3_depthwise"]["kernel"][:, :, 0]
    h, w = x.shape[1:3]
    third = sum(padded[:, i : i + h, j : j + w] * kernel[i, j] for i in range(3) for j in range(3))
    return first, third @ p[f"{name}_p3"]["kernel"] + p[f"{name}_p3"]["bias"]


@pytest.mark.parametrize("path_act", ["none", "softplus"])
def test_each_choice_is_its_path_and_its_cost(path_act):
    x, module = maps(), DynamicPaths(path_act=path_act)
    variables = randomised(start(module, x))
    p = jax.tree.map(np.asarray, variables["params"])
    act = (lambda t: np.log1p(np.exp(t))) if path_act == "softplus" else (lambda t: t)
    costs = (F / (F + 9), 1.0)
    for key_path, value_path in ((0, 0), (0, 1), (1, 0), (1, 1)):
        forced(variables, "select_key", key_path)
        forced(variables, "select_value", value_path)
        keys, values, cost = run(module, variables, x)
        np.testing.assert_allclose(keys, act(numpy_paths(x, p, "key")[key_path]), atol=1e-5)
        np.testing.assert_allclose(values, act(numpy_paths(x, p, "value")[value_path]), atol=1e-5)
        np.testing.assert_allclose(cost, (costs[key_path] + costs[value_path]) / 2, rtol=1e-6)


def test_parameters_at_width_32():
    module = DynamicPaths()
    p = start(module, maps(features=32))["params"]
    assert count({k: v for k, v in p.items() if k.startswith("key")}) == 2_400
    assert count(p["select_key"]) == count(p["select_value"]) == 578
    assert count(p) == 2 * (2_400 + 578)


def test_soft_cost_lies_between_the_cheapest_and_one_and_rises_with_the_dearer_path():
    x, module = maps(), DynamicPaths(gumbel_hard=False)
    variables, costs = start(module, x), []
    forced(variables, "select_key", 0)
    for bias in (-3.0, 0.0, 3.0):
        variables["params"]["select_value"]["logits"]["bias"] = jnp.array([0.0, bias])
        costs.append(np.asarray(run(module, variables, x)[2]))
    assert (np.diff(costs, axis=0) > 0).all()
    assert np.min(costs) >= F / (F + 9)
    assert np.max(costs) <= 1


def test_mu_steers_the_choice_and_without_classes_does_nothing():
    x = maps()
    variables = randomised(start(DynamicPaths(gumbel_hard=False), x))
    first, last = jnp.zeros(3, int), jnp.full(3, 5)
    with_mu = [run(DynamicPaths(gumbel_hard=False), variables, x, mu)[0] for mu in (first, last)]
    assert (with_mu[0] != with_mu[1]).any()

    module = DynamicPaths(mu_classes=0)
    variables = randomised(start(module, x))
    assert not {"scale", "shift"} & set(variables["params"]["select_key"])
    without = [run(module, variables, x, mu) for mu in (first, last)]
    for a, b in zip(*without, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(without[0][2], 0)


def test_training_draws_and_inference_does_not():
    x, module = maps(batch=1).repeat(64, axis=0), DynamicPaths()
    variables = start(module, x)  # even odds at first, up to the logits of the kernel

    train = jax.jit(partial(module.apply, deterministic=False))

    def draw(seed):
        rngs = {"gumbel": jax.random.key(seed)}
        return train(variables, x, None, rngs=rngs)

    keys, values, cost = draw(0)
    assert len(np.unique(np.asarray(keys)[:, 0, 0, 0])) == 2  # both paths among 64 equal examples
    assert len(np.unique(np.round(cost, 5))) == 3  # key and value draw apart: both cheap, both dear, and one each
    np.testing.assert_array_equal(draw(0)[0], keys)
    assert (draw(1)[0] != keys).any()
    assert len(np.unique(np.asarray(run(module, variables, x)[0])[:, 0, 0, 0])) == 1
