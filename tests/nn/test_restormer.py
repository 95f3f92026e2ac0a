import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from atlf_jax.nn import backend
from atlf_jax.nn.restormer import (
    GDFN,
    MDTA,
    RestormerBlock,
    RestormerDecoder,
    RestormerEncoder,
    channel_attention,
    project_attended,
)

KEY = jax.random.key(0)


def block_tree(case, group: str, *, use_bias: bool, bias_free_norm: bool) -> dict:
    def norm(name):
        scale = {"scale": case[f"{group}/{name}.body.weight"]}
        return scale if bias_free_norm else scale | {"bias": case[f"{group}/{name}.body.bias"]}

    def layer(name, kernel):
        entry = {"kernel": kernel(f"{group}/{name}.weight")}
        return entry | {"bias": case[f"{group}/{name}.bias"]} if use_bias else entry

    attention = {
        "qkv": layer("attn.qkv", case.pointwise),
        "qkv_dwconv": layer("attn.qkv_dwconv", case.depthwise),
        "temperature": case[f"{group}/attn.temperature"].reshape(-1),
        "project_out": case.pointwise(f"{group}/attn.project_out.weight"),
    }
    if use_bias:
        attention["project_out_bias"] = case[f"{group}/attn.project_out.bias"]
    feed_forward = {
        "project_in": layer("ffn.project_in", case.pointwise),
        "dwconv": layer("ffn.dwconv", case.depthwise),
        "project_out": layer("ffn.project_out", case.pointwise),
    }
    return {"norm1": norm("norm1"), "attn": attention, "norm2": norm("norm2"), "ffn": feed_forward}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("a_c16_h4", RestormerBlock(heads=4)),
        ("b_c8_h1_nonsquare", RestormerBlock(heads=1)),
        ("c_c16_h8_odd", RestormerBlock(heads=8)),
        ("d_bias_biasfreeLN_odd", RestormerBlock(heads=2, expansion=2.66, use_bias=True, bias_free_norm=True)),
    ],
)
def test_block_equals_cddfuse(reference, name, block):
    case = reference("restormer_block.npz", name)
    switches = {"use_bias": block.use_bias, "bias_free_norm": block.bias_free_norm}
    params = block_tree(case, "param", **switches)
    x = case.image("in/x")
    initial = jax.eval_shape(block.init, KEY, x)["params"]
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)

    def loss(params, x):
        y, state = block.apply({"params": params}, x, capture_intermediates=True)
        return (y * case.image("cot/y")).sum(), (y, state["intermediates"])

    (_, (y, inner)), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    inner = {k: v["__call__"][0] for k, v in inner.items() if k != "__call__"}
    ours = {"y": y, "norm1": inner["norm1"], "mdta": inner["attn"], "after_attn": x + inner["attn"]}
    theirs = {k: case.image(f"out/{k}" if k == "y" else f"mid/{k}") for k in ours}
    double = case.dtype == "float64"
    case.check(ours, theirs, 1e-9 if double else 2.4e-6)

    theirs = (block_tree(case, "grad/param", **switches), case.image("grad/in/x"))
    case.check(gradients, theirs, 1e-9 if double else 8.5e-6)


def test_parameter_counts():
    x, image = jnp.zeros((1, 4, 4, 64)), jnp.zeros((1, 4, 4, 1))
    shapes = {
        "block": (RestormerBlock(), (x,), 45_256),
        "attention": (MDTA(), (x,), 18_120),
        "feed-forward": (GDFN(), (x,), 26_880),
        "encoder": (RestormerEncoder(), (image,), 576 + 181_024),
        "decoder": (RestormerDecoder(), (x, x), 8_192 + 181_024 + 18_720),
        "published encoder": (RestormerEncoder("published"), (image,), 112_384),
        "published decoder": (RestormerDecoder("published"), (jnp.zeros((1, 1, 1, 128)), x), 205_121),
    }
    for name, (module, inputs, wanted) in shapes.items():
        params = jax.eval_shape(module.init, KEY, *inputs)["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == wanted, name


# --- attention between channels --------------------------------------------------------------------------------------


def plain_attention(query, key, value, temperature, projection):
    """The textbook order: split into heads, normalise each channel's map, attend, merge, project."""
    b, n, f = query.shape
    g = temperature.shape[0]
    query, key, value = (a.reshape(b, n, g, f // g).transpose(0, 2, 3, 1) for a in (query, key, value))
    query, key = (a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-12) for a in (query, key))
    logits = temperature.reshape(1, g, 1, 1) * (query @ key.swapaxes(-1, -2))
    attention = jax.nn.softmax(logits, axis=-1)
    merged = (attention @ value).transpose(0, 3, 1, 2).reshape(b, n, f)
    return attention, jnp.einsum("bnf,fk->bnk", merged, projection)


def test_attention_equals_its_plain_form(x64, normal):
    query, key, value = normal(3, 2, 35, 12)
    temperature, projection = jnp.asarray([0.5, -3.0, 40.0]), normal(12, 5)

    @jax.jit
    def both(query, key, value):
        attention = channel_attention(query, key, temperature)
        ours = attention, project_attended(attention, value, projection)
        return ours, plain_attention(query, key, value, temperature, projection)

    for ours, plain in zip(*both(query, key, value), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-12)


def test_attention_rows_sum_to_one_and_logits_are_bounded(x64, normal):
    query, key = np.array(normal(2, 2, 35, 12))
    key[:, :, 0] = query[:, :, 0]  # a perfect match reaches the bound
    temperature = np.asarray([0.5, 3.0])
    attention = np.asarray(jax.jit(channel_attention)(query, key, temperature))
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-12)
    spread = np.log(attention.max(-1) / attention.min(-1)).max((0, 2))  # largest logit difference in a row, [g]
    assert (spread <= 2 * temperature).all()
    first, second = query[:, :, 0], key[:, :, 1]
    cosine = (first * second).sum(1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))
    reached = np.log(attention[:, 0, 0, 0] / attention[:, 0, 0, 1])
    np.testing.assert_allclose(reached, temperature[0] * (1 - cosine), rtol=1e-10)


def test_attention_has_finite_gradients_at_zero_maps(normal):
    some = normal(1, 20, 4).at[:, :, 1].set(0.0)
    gradient = jax.jit(jax.grad(lambda q, k: channel_attention(q, k, jnp.ones(2))[..., 0].sum(), (0, 1)))
    for maps in ((some, some), (jnp.zeros_like(some), jnp.zeros_like(some))):
        assert all(bool(jnp.isfinite(g).all()) for g in gradient(*maps))


def test_attention_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="got 10 features and 4 heads"):
        jax.eval_shape(MDTA(heads=4).init, KEY, jnp.zeros((1, 4, 4, 10)))


def test_mdta_with_delta_kernels_commutes_with_pixel_permutations(x64, normal, variables_of):
    x = normal(2, 4, 5, 8)
    module = MDTA(heads=2)
    params = variables_of(module, x)["params"]
    params["qkv_dwconv"]["kernel"] = jnp.zeros((3, 3, 1, 24)).at[1, 1].set(1)
    order = np.random.default_rng(2).permutation(20)

    def permute(a):
        return np.asarray(a).reshape(2, 20, 8)[:, order].reshape(a.shape)

    apply = jax.jit(module.apply)
    ours = apply({"params": params}, permute(x))
    np.testing.assert_allclose(ours, permute(apply({"params": params}, x)), rtol=1e-10, atol=1e-12)


# --- encoder and decoder ---------------------------------------------------------------------------------------------


def conv(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def batch_norm(x, params, statistics):
    def row(a):
        return a[None, None, None]

    centred = (x - row(statistics["mean"])) / jnp.sqrt(row(statistics["var"]) + 1e-5)
    return centred * row(params["scale"]) + row(params["bias"])


def conv_batch_norm(x, variables, name, stride=1):
    params, statistics = variables["params"][name], variables["batch_stats"][name]
    return jax.nn.relu(batch_norm(conv(x, params["conv"]["kernel"], stride), params["norm"], statistics["norm"]))


def test_cddfuse_encoder_is_a_convolution_and_then_its_blocks(x64, normal, variables_of):
    image = normal(2, 9, 7, 1)
    encoder = RestormerEncoder(width=8, blocks=2, heads=2, expansion=1.5)
    variables = variables_of(encoder, image)

    def plain(variables, image):
        y = conv(image, variables["params"]["patch_embed"]["kernel"])
        for i in range(2):
            block = RestormerBlock(heads=2, expansion=1.5)
            y = block.apply({"params": variables["params"][f"block_{i}"]}, y)
        return y

    wanted = jax.jit(plain)(variables, image)
    np.testing.assert_allclose(jax.jit(encoder.apply)(variables, image), wanted, rtol=1e-10, atol=1e-12)


def test_cddfuse_decoder_equals_its_plain_form(x64, normal, variables_of):
    features = normal(2, 2, 5, 7, 8)
    decoder = RestormerDecoder(width=8, blocks=1, heads=2)
    variables = variables_of(decoder, *features)

    def plain(variables, features):
        params = variables["params"]
        y = jnp.concatenate([*features], -1) @ params["reduce_channel"]["kernel"]
        y = RestormerBlock(heads=2).apply({"params": params["block_0"]}, y)
        y = conv(y, params["output_0"]["kernel"])
        return conv(jnp.where(y > 0, y, 0.01 * y), params["output_1"]["kernel"])

    logits = jax.jit(plain)(variables, features)
    image = jax.jit(decoder.apply)(variables, *features)
    np.testing.assert_allclose(image, 1 / (1 + np.exp(-logits)), rtol=1e-10)


def test_published_scaffold_equals_its_plain_form(x64, normal, variables_of):
    image, features = normal(2, 8, 12, 1), (normal(2, 2, 3, 8), normal(2, 8, 12, 4))
    encoder, decoder = RestormerEncoder("published", width=4), RestormerDecoder("published", width=4)
    variables = (variables_of(encoder, image), variables_of(decoder, *features))

    @jax.jit
    def ours(variables, image, features):
        encoding, decoding = variables
        return *encoder.apply(encoding, image), decoder.apply(decoding, *features)

    @jax.jit
    def plain(variables, image, features):
        encoding, decoding = variables
        local_features = conv_batch_norm(conv_batch_norm(image, encoding, "local_0"), encoding, "local_1")
        quarter = conv_batch_norm(conv_batch_norm(image, encoding, "global_0", 2), encoding, "global_1", 2)
        params, statistics = decoding["params"], decoding["batch_stats"]
        kernel = params["enlarge"]["kernel"].reshape(8, 4, 4, 4)  # [f, i, j, k] of the transposed convolution
        y = jnp.einsum("bhwf,fijk->bhiwjk", features[0], kernel).reshape(2, 8, 12, 4)
        y = jax.nn.relu(batch_norm(y, params["enlarge_norm"], statistics["enlarge_norm"]))
        y = conv_batch_norm(jnp.concatenate([y, features[1]], -1), decoding, "fuse")
        y = y @ params["output"]["kernel"] + params["output"]["bias"].reshape(1, 1, 1, 1)
        return local_features, quarter, y

    wanted = plain(variables, image, features)
    assert [a.shape for a in wanted] == [(2, 8, 12, 4), (2, 2, 3, 8), (2, 8, 12, 1)]
    for a, b in zip(ours(variables, image, features), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)  # flax keeps the running statistics in float32


def test_published_scaffold_updates_its_statistics_only_in_training(normal, variables_of):
    encoder, decoder = RestormerEncoder("published", width=4), RestormerDecoder("published", width=4)
    image, features = normal(2, 9, 13, 1), (normal(2, 3, 4, 8), normal(2, 9, 13, 4))
    for module, inputs, shapes in (
        (encoder, (image,), [(2, 9, 13, 4), (2, 3, 4, 8)]),
        (decoder, features, [(2, 9, 13, 1)]),  # odd sides are cropped
    ):
        variables = variables_of(module, *inputs)
        train = jax.jit(lambda v, *a, m=module: m.apply(v, *a, deterministic=False, mutable=["batch_stats"]))
        y, state = train(variables, *inputs)
        assert jax.tree.map(jnp.shape, jax.tree.leaves(y)) == shapes
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], variables["batch_stats"])
        assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("module", [RestormerEncoder, RestormerDecoder])
def test_unknown_kind_is_refused(module):
    inputs = [jnp.zeros((1, 4, 4, 1))] * (2 if module is RestormerDecoder else 1)
    with pytest.raises(ValueError, match="got 'vit', wanted 'cddfuse'"):
        jax.eval_shape(module("vit").init, KEY, *inputs)


def test_formulation_for_accelerators_is_the_same_function(x64, normal, variables_of, monkeypatch):
    """One Gram product, borders after the 1x1 convolution, and a backward pass that computes cheap parts again."""
    encoder, x = RestormerEncoder(width=8, blocks=1, heads=2), normal(2, 5, 6, 1)
    variables = variables_of(encoder, x)

    def value_and_gradient(accelerated):
        monkeypatch.setattr(backend, "accelerated", lambda: accelerated)
        return jax.jit(jax.value_and_grad(lambda v, x: jnp.square(encoder.apply(v, x)).sum(), (0, 1)))(variables, x)

    plain, fast = value_and_gradient(False), value_and_gradient(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), fast, plain)
