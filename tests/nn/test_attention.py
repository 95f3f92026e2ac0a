import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn import backend
from atlf_jax.nn.attention import attend
from atlf_jax.nn.position_bias import stripe_pair_bias, stripe_row_bias

H, W, M, HEADS, F = 6, 5, 7, 4, 8


def arguments(dtype="float64"):
    generator = np.random.default_rng(0)
    shapes = (2, H, W, F), (2, M, F), (2, M, F), (HEADS, 4, 65)
    q, k, v, tables = (generator.normal(size=shape) for shape in shapes)
    positions = generator.uniform(size=(2, HEADS, M, 2)) * (H - 1, W - 1)
    return tuple(jnp.asarray(x, dtype) for x in (2 * q, k, v, tables, positions))


def pixels():
    return jnp.stack(jnp.meshgrid(jnp.arange(H), jnp.arange(W), indexing="ij"), -1).reshape(1, 1, H * W, 1, 2)


def naive(q, k, v, bias=None):
    b, h, w, f = q.shape
    q, k, v = (x.reshape(b, -1, HEADS, f // HEADS) for x in (q, k, v))
    logits = jnp.einsum("bngd,bmgd->bgnm", q, k) / np.sqrt(f // HEADS)
    weights = jax.nn.softmax(logits if bias is None else logits + bias)
    return jnp.einsum("bgnm,bmgd->bngd", weights, v).reshape(b, h, w, f)


def naive_with_stripes(q, k, v, tables, positions):
    displacement = pixels() - positions[:, :, None]
    return naive(q, k, v, stripe_pair_bias(tables, displacement, size=max(H, W)))


def stripes(tables, positions):
    return stripe_row_bias(tables, positions, h=H, w=W)


@pytest.fixture(params=[False, True], ids=["cpu", "accelerator"])
def accelerated(request, monkeypatch):
    """Force the formulation of either kind of backend."""
    monkeypatch.setattr(backend, "accelerated", lambda: request.param)
    return request.param


@pytest.mark.parametrize("query_chunk", [2 * W, None, 1])
def test_attention_and_gradients_equal_the_plain_formula(x64, query_chunk, accelerated):
    def ours(q, k, v, tables, positions):
        return attend(q, k, v, stripes(tables, positions), heads=HEADS, query_chunk=query_chunk)

    def value_and_gradients(function):
        def run(*inputs):
            out, pull = jax.vjp(function, *inputs)
            return out, *pull(jnp.cos(out))

        return jax.jit(run)(*arguments())

    theirs = value_and_gradients(naive_with_stripes)
    for a, b in zip(value_and_gradients(ours), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_no_bias_is_plain_attention(x64, accelerated):
    q, k, v, _, _ = arguments()
    ours = jax.value_and_grad(lambda q: jnp.sin(attend(q, k, v, heads=HEADS)).sum())(q)
    theirs = jax.value_and_grad(lambda q: jnp.sin(naive(q, k, v)).sum())(q)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-13)


@pytest.mark.parametrize("query_chunk", [1, 12, 10**6])
def test_chunk_size_does_not_matter(query_chunk, accelerated):
    q, k, v, tables, positions = arguments("float32")
    bias = stripes(tables, positions)
    whole = attend(q, k, v, bias, heads=HEADS, query_chunk=H * W)
    chunked = attend(q, k, v, bias, heads=HEADS, query_chunk=query_chunk)
    np.testing.assert_allclose(chunked, whole, atol=1e-6)


def test_large_logits_stay_finite(accelerated):
    q, k, v, _, _ = arguments("float32")
    out, gradient = jax.value_and_grad(lambda q: attend(q * 1e3, k, v, heads=HEADS).sum())(q)
    assert np.isfinite(out)
    assert np.isfinite(gradient).all()


def test_half_precision_input_is_computed_in_float32(accelerated):
    q, k, v, _, _ = arguments("bfloat16")
    out = attend(q, k, v, heads=HEADS)
    exact = attend(*(x.astype("float32") for x in (q, k, v)), heads=HEADS)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype("float32"), exact, atol=2**-8 * float(jnp.abs(exact).max()))
