import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from atlf_jax.nn.gfab import GFAB, DenseMDTA, PairedGDFN, paired_conv

KEY = jax.random.key(0)


def conv(x, kernel, groups: int = 1):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout, feature_group_count=groups
    )


def norm(x, params):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    scale, bias = (params[name][None, None, None] for name in ("scale", "bias"))
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def plain_attention(qkv, temperature, projection):
    b, h, w, f3 = qkv.shape
    g, f = temperature.size, f3 // 3
    query, key, value = (
        a.reshape(b, h * w, g, f // g).transpose(0, 2, 3, 1) for a in jnp.split(qkv, 3, -1)
    )  # [b, g, f/g, n]
    query, key = (a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-12) for a in (query, key))
    attended = jax.nn.softmax(temperature.reshape(1, g, 1, 1) * (query @ key.swapaxes(-1, -2)), -1) @ value
    return attended.transpose(0, 3, 1, 2).reshape(b, h, w, f) @ projection


def plain_gfab(params, x, kind):
    """CDDFuse's BaseFeatureExtraction, convolution by convolution."""
    y, attn, mlp = norm(x, params["norm1"]), params["attn"], params["mlp"]
    if kind == "bfe":
        x = x + plain_attention(conv(y @ attn["qkv1"], attn["qkv2"]), attn["scale"], attn["proj"])
    else:
        f3 = attn["qkv"]["kernel"].shape[1]
        qkv = conv(y @ attn["qkv"]["kernel"], attn["qkv_dwconv"]["kernel"], groups=f3)
        x = x + plain_attention(qkv, attn["temperature"], attn["project_out"])
    y = norm(x, params["norm2"])
    gate, signal = jnp.split(conv(y @ mlp["project_in"]["kernel"], mlp["dwconv"], groups=x.shape[-1]), 2, -1)
    gelu = 0.5 * gate * (1 + lax.erf(gate / np.sqrt(2).astype(gate.dtype)))
    return x + (gelu * signal) @ mlp["project_out"]["kernel"]


@pytest.mark.parametrize("kind", ["bfe", "bfe_dw"])
def test_gfab_equals_its_plain_form_in_value_and_gradient(x64, normal, variables_of, kind):
    x, cotangent = normal(2, 2, 9, 7, 8)
    module = GFAB(kind, heads=4)
    params = variables_of(module, x)["params"]

    def value_and_gradient(apply):
        def loss(params, x):
            y = apply(params, x)
            return (y * cotangent).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    ours = value_and_gradient(lambda params, x: module.apply({"params": params}, x))
    plain = value_and_gradient(lambda params, x: plain_gfab(params, x, kind))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, plain)


@pytest.mark.parametrize("shape", [(2, 5, 8, 6), (1, 2, 3, 4)])
def test_paired_conv_equals_the_grouped_convolution(x64, normal, shape):
    (x, cotangent), kernel = normal(2, *shape), normal(3, 3, 2, shape[-1])

    def grouped(x, kernel):
        return conv(x, kernel, groups=shape[-1] // 2)

    @jax.jit
    def both(x, kernel, cotangent):
        ours, our_vjp = jax.vjp(paired_conv, x, kernel)
        wanted, wanted_vjp = jax.vjp(grouped, x, kernel)
        return (ours, our_vjp(cotangent)), (wanted, wanted_vjp(cotangent))

    ours, wanted = both(x, kernel, cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), ours, wanted)


def test_parameter_counts():
    x = jnp.zeros((1, 4, 4, 64))
    wanted = {
        GFAB(): 363_016,
        GFAB("bfe_dw"): 363_016 - 330_048,
        DenseMDTA(): 348_168,
        PairedGDFN(): 14_592,
    }
    for module, number in wanted.items():
        params = jax.eval_shape(module.init, KEY, x)["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == number, module
    params = jax.eval_shape(GFAB("conv").init, KEY, jnp.zeros((1, 4, 4, 128)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 295_424


def test_parameter_paths():
    params = jax.eval_shape(GFAB().init, KEY, jnp.zeros((1, 4, 4, 64)))["params"]
    paths = {
        jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    norms = {f"{norm}/{name}" for norm in ("norm1", "norm2") for name in ("scale", "bias")}
    attention = {f"attn/{name}" for name in ("qkv1", "qkv2", "scale", "proj")}
    assert paths == norms | attention | {"mlp/project_in/kernel", "mlp/dwconv", "mlp/project_out/kernel"}


def test_conv_kind_uses_batch_statistics_only_in_training(x64, normal, variables_of):
    x = 3 + normal(2, 5, 6, 4)
    module = GFAB("conv")
    variables = variables_of(module, x)

    @jax.jit
    def plain(variables, x):
        for name in ("conv_0", "conv_1"):
            params, statistics = variables["params"][name], variables["batch_stats"][name]["norm"]
            mean, variance = (statistics[moment][None, None, None] for moment in ("mean", "var"))
            x = (conv(x, params["conv"]["kernel"]) - mean) / jnp.sqrt(variance + 1e-5)
            x = x * params["norm"]["scale"][None, None, None] + params["norm"]["bias"][None, None, None]
            x = jnp.maximum(x, 0)
        return x

    y = jax.jit(module.apply)(variables, x)
    # flax keeps the running statistics in float32
    np.testing.assert_allclose(y, plain(variables, x), rtol=1e-6, atol=1e-6)
    train = jax.jit(lambda v, x: module.apply(v, x, deterministic=False, mutable=["batch_stats"]))
    trained, state = train(variables, x)
    assert float(jnp.abs(trained - y).max()) > 0.1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_gradients_are_finite_at_a_zero_map(variables_of):
    x = jnp.zeros((1, 6, 6, 8))
    module = GFAB(heads=2)
    variables = variables_of(module, x)
    for norm in ("norm1", "norm2"):
        variables["params"][norm]["bias"] = jnp.zeros(8)  # as at initialisation: queries and keys are then 0
    gradients = jax.jit(jax.grad(lambda v, x: module.apply(v, x).sum(), (0, 1)))(variables, x)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="got 'lsra', wanted 'bfe'"):
        jax.eval_shape(GFAB("lsra").init, KEY, jnp.zeros((1, 4, 4, 8)))
