from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError
from scipy.ndimage import map_coordinates
from scipy.special import erf

from atlf_jax.nn.avat import AVAT, reference_grid, stretch, strided_depthwise
from atlf_jax.ops.resample import bilinear

KEY = jax.random.key(0)
F = 8


def maps(h, w, *, batch=2, features=F, seed=0, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, h, w, features)), dtype)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@cache
def compiled(module):
    return jax.jit(partial(module.apply, deterministic=True))


def start(module, x):
    return jax.jit(module.init)(KEY, x)


def randomised(variables, scale=0.5):
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(x + scale * generator.normal(size=x.shape), x.dtype), variables)


def use_first_path(variables):
    """Let every selector choose the pointwise path."""
    for name in ("select_key", "select_value"):
        logits = variables["params"]["paths"][name]["logits"]
        logits["kernel"], logits["bias"] = 0 * logits["kernel"], 0 * logits["bias"] + jnp.array([5.0, 0.0])
    return variables


# --- an independent AVAT, in numpy and scipy ---


def np_norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def np_resize(map_, h, w):
    """Half-pixel bilinear resize, without antialiasing, of [8, 8]."""
    rows, columns = ((np.arange(n) + 0.5) * 8 / n - 0.5 for n in (h, w))
    return map_coordinates(map_, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")


def np_positions(module, p, q, group):
    """Sampling positions [b, hk, wk, 2] of one group, from that group's channels of the queries."""
    b, h, w, f = q.shape
    s = -(-max(h, w) // module.key_grid)
    hk, wk = -(-h // s), -(-w // s)
    padded, kernel = np.pad(q, ((0, 0), (8, 8), (8, 8), (0, 0))), p["offset_kernel"][:, :, 0]
    offset = np.zeros((b, hk, wk, f))
    for i in range(hk):
        for j in range(wk):
            offset[:, i, j] = (padded[:, s * i : s * i + 17, s * j : s * j + 17] * kernel).sum((1, 2))
    offset = np_norm(offset + p["offset_bias"], p["offset_norm"])
    offset = offset * (1 + erf(offset / np.sqrt(2))) / 2 @ p["offset"]["kernel"]
    offset = (np.tanh(offset) if module.offset_tanh else offset) * module.offset_range * s
    if module.stripe_position:
        t, a = p["stripe_angle"][group], p["stripe_ratio"][group]
        rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        offset = offset @ (rotation @ np.diag([np.exp(a), np.exp(-a)]) @ rotation.T).T
        offset = offset + np.stack([np_resize(p["stripe_shift"][group, :, :, i], hk, wk) for i in (0, 1)], -1)
    centres = np.stack(np.meshgrid(*((np.arange(n) + 0.5) * s - 0.5 for n in (hk, wk)), indexing="ij"), -1)
    return np.clip(centres + offset, 0, (h - 1, w - 1))


def np_sample(x, positions):
    """Sample one map [h, w, f] at [..., 2]."""
    points = np.moveaxis(positions, -1, 0)
    return np.stack([map_coordinates(x[..., i], points, order=1, mode="nearest") for i in range(x.shape[-1])], -1)


def np_select(x, p):
    h = np_norm(np.maximum(np_norm(np_unit(x.mean((0, 1)), p), p["norm1"]), 0), p["norm2"])
    return np.argmax(h @ p["logits"]["kernel"] + p["logits"]["bias"])


def np_unit(h, p):
    return np.log1p(np.exp(p["scale"]["kernel"][-1])) * h + p["shift"]["kernel"][-1]  # the last class of mu


def np_project(x, p, name):
    """Project one map [hk, wk, f] along the path that its selector chooses."""
    hk, wk = x.shape[:2]
    if np_select(x, p[f"select_{name}"]) == 0:
        return x @ p[f"{name}_p1"]["kernel"] + p[f"{name}_p1"]["bias"]
    padded, kernel = np.pad(x, ((1, 1), (1, 1), (0, 0))), p[f"{name}_p3_depthwise"]["kernel"][:, :, 0]
    y = sum(padded[i : i + hk, j : j + wk] * kernel[i, j] for i in range(3) for j in range(3))
    return y @ p[f"{name}_p3"]["kernel"] + p[f"{name}_p3"]["bias"]


def np_attend(q, k, v, bias):
    """One head: q [n, d], k, v [m, d], bias [n, m]."""
    logits = q @ k.T / np.sqrt(q.shape[1]) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def np_stripes(tables, displacement, size):
    """[n, m] of one head: sum over the directions of the interpolated table."""
    distances = np.linspace(-np.sqrt(2) * size, np.sqrt(2) * size, 65)
    normals = [(np.cos(t), -np.sin(t)) for t in np.deg2rad((0, 45, 90, 135))]
    return sum(np.interp(displacement @ np.array(normals[i]), distances, tables[i]) for i in range(4))


def np_avat(module, variables, x):
    p = jax.tree.map(np.asarray, variables["params"])
    x = np_norm(np.asarray(x), p["norm"])
    b, h, w, f = x.shape
    q = x @ p["query"]["kernel"] + p["query"]["bias"]
    d, width = f // module.heads, f // module.groups
    pixels = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2)
    groups = [slice(g * width, (g + 1) * width) for g in range(module.groups)]
    if module.sampling == "full":
        positions = [np.broadcast_to(pixels.reshape(h, w, 2), (b, h, w, 2))] * module.groups
    else:
        positions = [np_positions(module, p, q[..., channels], g) for g, channels in enumerate(groups)]
    out = np.zeros((b, h * w, f))
    for i in range(b):
        sampled = np.concatenate(
            [np_sample(x[i][..., c], at[i]) for c, at in zip(groups, positions, strict=True)], axis=-1
        )
        k, v = (np_project(sampled, p["paths"], name).reshape(-1, f) for name in ("key", "value"))
        for head in range(module.heads):
            channels = slice(head * d, (head + 1) * d)
            bias = 0.0
            if module.stripe_logit == "stripe1d":
                keys = positions[head // (module.heads // module.groups)][i].reshape(1, -1, 2)
                bias = np_stripes(p["stripe_tables"][head], pixels[:, None] - keys, max(h, w))
            out[i, :, channels] = np_attend(q[i].reshape(-1, f)[:, channels], k[:, channels], v[:, channels], bias)
    return out.reshape(b, h, w, f) @ p["out"]["kernel"] + p["out"]["bias"]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("module", "h", "w"),
    [
        (AVAT(key_grid=4), 18, 13),  # stride 5 divides neither side
        (AVAT(key_grid=3, heads=2, groups=1, offset_range=0.6, query_chunk=1), 6, 11),
        (AVAT(key_grid=2, offset_tanh=False, stripe_position=False, stripe_logit="none"), 8, 8),
        (AVAT(sampling="full"), 4, 6),
    ],
)
def test_equals_an_independent_implementation(x64, module, h, w):
    x = maps(h, w)
    variables = randomised(start(module, x))
    ours, _ = compiled(module)(variables, x)
    np.testing.assert_allclose(ours, np_avat(module, variables, x), atol=1e-10)


def test_all_gradients_equal_finite_differences(x64):
    """Directional derivatives at a random point, where no position is near a pixel and no gate near a tie."""
    module, x = AVAT(key_grid=3, gumbel_hard=False), maps(6, 7, batch=1)
    variables = randomised(start(module, x), scale=0.3)
    weights = maps(6, 7, batch=1, seed=3)

    @jax.jit
    def loss(variables, x):
        out, cost = module.apply(variables, x)
        return (out * weights).sum() + cost.sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, x)
    generator, step = np.random.default_rng(5), 1e-6
    leaves, tree = jax.tree.flatten((variables, x))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        index = [key for key, _ in jax.tree_util.tree_leaves_with_path((variables, x))].index(path)
        direction = jnp.asarray(generator.normal(size=gradient.shape))
        sides = []
        for sign in (1, -1):
            moved = [leaf + sign * step * direction if i == index else leaf for i, leaf in enumerate(leaves)]
            sides.append(float(loss(*jax.tree.unflatten(tree, moved))))
        expected, ours = (sides[0] - sides[1]) / (2 * step), float((gradient * direction).sum())
        name = jax.tree_util.keystr(path)
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-7), name
        if "key_p" in name and "bias" in name:  # it shifts all logits of a query alike, which softmax cancels
            assert float(jnp.abs(gradient).max()) < 1e-12
        elif "['shift']" not in name and "['scale']" not in name:
            assert float(jnp.abs(gradient).max()) > 1e-6, name


# --- identities ---


def test_stride_one_without_offsets_is_plain_attention(x64):
    """At the start (zero offsets, tables and shifts) and with as many keys as pixels."""
    x, module = maps(5, 7), AVAT(key_grid=7)
    variables = start(module, x)
    full = {"params": {k: v for k, v in variables["params"].items() if k in ("norm", "query", "paths", "out")}}
    plain = AVAT(sampling="full", stripe_logit="none")
    np.testing.assert_allclose(compiled(module)(variables, x)[0], np_avat(plain, full, x), atol=1e-12)


@pytest.mark.parametrize(("stride", "inner"), [(2, slice(0, 2)), (4, slice(1, 3))])
def test_reference_points_average_the_middle_of_their_cells(x64, stride, inner):
    x = maps(8, 12)
    grid = reference_grid(8, 12, stride).reshape(1, -1, 2)
    sampled = bilinear(x, jnp.broadcast_to(jnp.asarray(grid), (2, *grid.shape[1:])))
    cells = np.asarray(x).reshape(2, 8 // stride, stride, 12 // stride, stride, F)[:, :, inner][:, :, :, :, inner]
    np.testing.assert_allclose(sampled, cells.mean((2, 4)).reshape(2, -1, F), atol=1e-12)


def test_a_constant_on_a_table_changes_nothing_and_a_slope_does(x64):
    x, module = maps(6, 7), AVAT(key_grid=3)
    variables = start(module, x)
    out = compiled(module)(variables, x)[0]
    zero = variables["params"]["stripe_tables"]
    variables["params"]["stripe_tables"] = zero.at[1, 2].add(3.0)
    np.testing.assert_allclose(compiled(module)(variables, x)[0], out, atol=1e-12)
    variables["params"]["stripe_tables"] = zero.at[1, 2].add(jnp.linspace(-9, 9, 65))
    changed = compiled(module)(variables, x)[0] - out
    assert float(jnp.abs(changed).max()) > 1e-3


def test_stretch_keeps_areas_and_is_the_identity_at_zero(x64):
    angle, ratio = jnp.array([0.3, 2.0]), jnp.array([0.7, -1.2])
    matrices = np.asarray(stretch(angle, ratio))
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-12)
    np.testing.assert_allclose(matrices, matrices.swapaxes(1, 2), atol=1e-12)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    np.testing.assert_allclose(
        np.einsum("gij,gj->gi", matrices, direction), np.exp(ratio)[:, None] * direction, atol=1e-12
    )
    np.testing.assert_allclose(stretch(angle, 0 * ratio), np.tile(np.eye(2), (2, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(("h", "w", "size", "stride"), [(9, 7, 5, 1), (11, 8, 17, 3), (40, 33, 5, 20), (8, 9, 3, 2)])
def test_strided_depthwise_equals_a_grouped_convolution(x64, h, w, size, stride):
    x, kernel = maps(h, w, features=3), maps(size, size, batch=1, features=3, seed=1)[0]
    expected = jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        ((size // 2, size // 2),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    ours = strided_depthwise(x, kernel, stride=stride)
    assert ours.shape == (2, -(-h // stride), -(-w // stride), 3)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


# --- sizes and switches ---


def test_parameters_do_not_depend_on_the_image():
    x = maps(16, 16, batch=1, features=32, dtype="float32")
    shapes = jax.eval_shape(AVAT().init, KEY, x)["params"]
    assert count(shapes) == 14_136
    offset = [shapes[name] for name in ("offset_kernel", "offset_bias", "offset_norm", "offset")]
    stripe = [shapes[name] for name in ("stripe_angle", "stripe_ratio", "stripe_shift")]
    sizes = [count(part) for part in (shapes["norm"], shapes["query"], offset, stripe, shapes["stripe_tables"])]
    assert sizes == [64, 1_056, 4_704, 260, 1_040]
    assert [count(shapes["paths"]), count(shapes["out"])] == [2 * (2_400 + 578), 1_056]
    large = jax.eval_shape(AVAT().init, KEY, jax.ShapeDtypeStruct((1, 250, 130, 32), jnp.float32))["params"]
    assert jax.tree.map(jnp.shape, large) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"stripe_logit": "none"}, -1_040),
        ({"stripe_logit": "feature"}, -1_040 + 8 * 8 * 32),
        ({"stripe_position": False}, -260),
        ({"mu_classes": 0}, -2 * 2 * 6 * 32),
        ({"sampling": "window"}, -4_704 - 260),
        ({"sampling": "full"}, -4_704 - 260),
    ],
)
def test_parameters_of_the_switches(options, difference):
    x = jax.ShapeDtypeStruct((1, 16, 16, 32), jnp.float32)
    assert count(jax.eval_shape(AVAT(**options).init, KEY, x)) - 14_136 == difference


def test_the_feature_bias_starts_from_the_same_attention_and_then_matters():
    x = maps(5, 6, dtype="float32")
    module = AVAT(key_grid=3, stripe_logit="feature")
    variables = start(module, x)
    rest = {"params": {k: v for k, v in variables["params"].items() if k != "stripe_feature"}}
    plain = compiled(AVAT(key_grid=3, stripe_logit="none"))(rest, x)[0]
    np.testing.assert_allclose(compiled(module)(variables, x)[0], plain, atol=1e-6)
    changed = {"params": rest["params"] | randomised({"stripe_feature": variables["params"]["stripe_feature"]})}
    assert float(jnp.abs(compiled(module)(changed, x)[0] - plain).max()) > 1e-3


def test_one_window_over_the_image_is_full_attention(x64):
    x = maps(5, 7)
    variables = randomised(start(AVAT(sampling="full"), x))
    np.testing.assert_allclose(
        compiled(AVAT(sampling="window", window=8))(variables, x)[0],
        compiled(AVAT(sampling="full"))(variables, x)[0],
        atol=1e-12,
    )


def test_windows_do_not_see_each_other(x64):
    x = maps(7, 6, batch=1)
    module = AVAT(sampling="window", window=4)
    variables = use_first_path(randomised(start(module, x)))
    changed = (
        compiled(module)(variables, x.at[:, 4:, 4:].add(maps(3, 2, batch=1)))[0] - compiled(module)(variables, x)[0]
    )
    assert float(jnp.abs(changed[:, :4]).max()) == float(jnp.abs(changed[:, :, :4]).max()) == 0
    assert float(jnp.abs(changed[:, 4:, 4:]).min()) > 0


def test_neutral_start_adds_nothing_at_first():
    x, module = maps(5, 6, dtype="float32"), AVAT(key_grid=3, neutral_start=True)
    variables = start(module, x)
    np.testing.assert_array_equal(compiled(module)(variables, x)[0], 0)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, start(AVAT(key_grid=3), x))


def test_training_needs_the_gumbel_stream():
    x, module = maps(5, 6, dtype="float32"), AVAT(key_grid=3)
    variables = start(module, x)
    mu_index = jnp.array([0, 5])
    train = partial(module.apply, deterministic=False)
    out, cost = jax.eval_shape(train, variables, x, mu_index, rngs={"gumbel": KEY})
    assert out.shape == x.shape
    assert cost.shape == (2,)
    with pytest.raises(InvalidRngError, match="gumbel"):
        jax.eval_shape(train, variables, x, mu_index)


@pytest.mark.parametrize("sampling", ["dat", "window", "full"])
def test_types_never_mix(sampling):
    x, module = maps(5, 6, dtype="float32"), AVAT(sampling=sampling)
    with jax.numpy_dtype_promotion("strict"):
        variables = jax.eval_shape(module.init, KEY, x)
        gradient = jax.eval_shape(jax.grad(lambda v: module.apply(v, x)[0].sum()), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_unfit_widths_are_refused():
    with pytest.raises(ValueError, match="8 features, 3 heads"):
        jax.eval_shape(AVAT(heads=3, groups=3).init, KEY, jnp.zeros((1, 4, 4, 8)))
    with pytest.raises(ValueError, match="2 groups"):
        jax.eval_shape(AVAT(heads=1).init, KEY, jnp.zeros((1, 4, 4, 8)))
