"""Attention of every pixel of an image to a few keys, without a logit map that outlives its use.

On a CPU row by row, so that logits stay in cache; on an accelerator in blocks as large as a whole image, since loops of
small operations leave it idle.
"""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn import backend
from atlf_jax.nn.precision import wide_dtype
from atlf_jax.nn.recompute import SAVED_NAME

__all__ = ["RowBias", "attend"]

CPU_QUERIES = 128  # at a time
# A block of 2^16 queries, 256 keys and 4 heads holds 268 MB of float32 logits an example, one block at a time; its
# gradient holds about three such maps. All examples of a batch are in a block.
ACCELERATOR_QUERIES = 2**16


class RowBias(Protocol):
    """A bias on the logits that can be read by rows of the image: a pytree of arrays with these methods.

    ``attend`` reads ``rows`` on an accelerator. On a CPU it reads ``row``, and needs a third method for gradients,
    ``add_row(total, y, d_row)``, which adds the gradient of ``row(y)`` to ``total``, a bias of the same structure.
    """

    def rows(self, first: Array, count: int) -> Float[Array, "b g n m"]:
        """Return the bias of the pixels of ``count`` rows from ``first`` on towards every key."""

    def row(self, y: Array) -> Float[Array, "b g w m"]:
        """Return the bias of row ``y``'s pixels."""


def attend(
    q: Float[Array, "b h w f"],
    k: Float[Array, "b m f"],
    v: Float[Array, "b m f"],
    bias: RowBias | None = None,
    *,
    heads: int,
    query_chunk: int | None = None,
) -> Float[Array, "b h w f"]:
    """Multi-head attention of the pixels to m keys.

    softmax(q k^T / sqrt(f / heads) + bias) v, with the channels of a head contiguous.

    Args:
        q: queries ``[b, h, w, f]``.
        k, v: keys and values ``[b, m, f]``.
        bias: added to the logits; None adds nothing.
        heads: number of heads g, a divisor of f.
        query_chunk: logits are held for about this many queries at a time, for whole rows and at least one; None is
            what suits the backend.

    Returns:
        ``[b, h, w, f]`` in the dtype of ``q``; logits and softmax are float32 at least.

    Example:
        >>> q, equal_keys, v = jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 3, 4)), jnp.arange(12.0).reshape(1, 3, 4)
        >>> jax.jit(attend, static_argnames="heads")(q, equal_keys, v, heads=2).round(4).ravel().tolist()  # v's mean
        [4.0, 5.0, 6.0, 7.0]

    Source: Vaswani et al. 2017, eq. 1. The backward pass computes each chunk's weights anew from the stored
    log-sum-exp (Dao et al. 2022, FlashAttention): with automatic differentiation of the same loop it takes three
    times as long on CPU. On an accelerator it computes the weights of a block anew, and takes from its result what the
    gradient of the softmax sums over keys. It has one derivative, in reverse mode.
    """
    b, h, w, f = q.shape
    accelerated = backend.accelerated()
    query_chunk = query_chunk or (ACCELERATOR_QUERIES if accelerated else CPU_QUERIES)
    rows = max(r for r in range(1, h + 1) if h % r == 0 and (r == 1 or r * w <= query_chunk))
    dtype = q.dtype if accelerated else wide_dtype(q.dtype)

    def split(x: Array) -> Array:
        return x.astype(dtype).reshape(b, -1, heads, f // heads).swapaxes(1, 2)  # [b, n, f] -> [b, g, n, d]

    queries = jnp.moveaxis(split(q).reshape(b, heads, h // rows, rows * w, -1), 2, 0)  # [chunks, b, g, n, d]
    scale = (f // heads) ** -0.5
    if accelerated:
        out = _attention_in_blocks(rows, scale, queries, split(k), split(v), bias)
    else:
        out = _attention(rows, queries * scale, split(k), split(v), bias)
    return out.transpose(1, 0, 3, 2, 4).reshape(b, h, w, f).astype(q.dtype)


def _attention_in_blocks(
    rows: int,
    scale: float,
    q: Float[Array, "chunks b g n d"],
    k: Float[Array, "b g m d"],
    v: Float[Array, "b g m d"],
    bias: RowBias | None,
) -> Float[Array, "chunks b g n d"]:
    """Return softmax(scale q k^T + bias) v; operands of products as they come, logits and sums float32 at least."""

    def block(inputs: tuple[Array, Array]) -> Array:
        first_row, q = inputs
        return _block(rows, scale, first_row, q, k, v, bias)

    if q.shape[0] == 1:
        return block((jnp.zeros((), jnp.int32), q[0]))[None]
    return lax.map(block, (rows * jnp.arange(q.shape[0]), q))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _block(
    rows: int,
    scale: float,
    first_row: Array,
    q: Float[Array, "b g n d"],
    k: Float[Array, "b g m d"],
    v: Float[Array, "b g m d"],
    bias: RowBias | None,
) -> Float[Array, "b g n d"]:
    """Return the attention of the queries of some rows; only its arguments and result are kept for the gradient."""
    weights = _block_weights(scale, q, k, None if bias is None else bias.rows(first_row, rows))
    return jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=wide_dtype(q.dtype))


def _block_weights(scale: float, q: Array, k: Array, bias: Array | None) -> Float[Array, "b g n m"]:
    dtype = wide_dtype(q.dtype)
    logits = scale * jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=dtype)
    return jax.nn.softmax(logits if bias is None else logits + bias.astype(dtype))


def _block_forward(rows: int, scale: float, *arrays: Any) -> tuple[Array, tuple[Any, ...]]:
    out = _block(rows, scale, *arrays)
    return out, (*arrays, out)


def _block_backward(rows: int, scale: float, saved: tuple[Any, ...], d_out: Array) -> tuple[Any, ...]:
    # the barrier keeps XLA from merging these weights with the forward pass' own, which would stay in memory till now
    (first_row, q, k, v, bias, out), d_out = lax.optimization_barrier((saved, d_out))
    dtype = wide_dtype(q.dtype)
    product = partial(jnp.matmul, preferred_element_type=dtype)
    bias_rows, pull_bias = None, None
    if bias is not None:
        bias_rows, pull_bias = jax.vjp(lambda bias: bias.rows(first_row, rows), bias)
    weights = _block_weights(scale, q, k, bias_rows)
    narrow_d_out = d_out.astype(v.dtype)
    d_weights = product(narrow_d_out, v.swapaxes(-1, -2))
    d_logits = weights * (d_weights - (d_out * out).sum(-1, keepdims=True))
    narrow_d_logits = d_logits.astype(q.dtype)
    d_q = scale * product(narrow_d_logits, k)
    d_k = scale * product(narrow_d_logits.swapaxes(-1, -2), q)
    d_v = product(weights.astype(v.dtype).swapaxes(-1, -2), narrow_d_out)
    d_bias = None
    if bias_rows is not None and pull_bias is not None:
        (d_bias,) = pull_bias(d_logits.astype(bias_rows.dtype))
    return None, d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), d_bias


_block.defvjp(_block_forward, _block_backward)


def _append(x: Float[Array, "*b d"], column: Float[Array, "*b"] | float) -> Float[Array, "*b d1"]:
    """Append a column to the last axis: a row-wise constant then rides along in a matrix product."""
    return jnp.concatenate([x, jnp.broadcast_to(column, x.shape[:-1])[..., None].astype(x.dtype)], axis=-1)


def _product(x: Float[Array, "b g n d"], y: Float[Array, "b g m d"]) -> Float[Array, "b g n m"]:
    return jnp.matmul(x, y.swapaxes(-1, -2))


def _logits(
    rows: int, first_row: Array, q: Float[Array, "b g n d"], k: Float[Array, "b g m d"], bias: RowBias | None
) -> Float[Array, "b g n m"]:
    logits = _product(q, k)
    if bias is None:
        return logits
    return logits + jnp.concatenate([bias.row(first_row + i).astype(q.dtype) for i in range(rows)], axis=2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    rows: int, q: Float[Array, "chunks b g n d"], k: Float[Array, "b g m d"], v: Array, bias: RowBias | None
) -> Float[Array, "chunks b g n d"]:
    """Return softmax(q k^T + bias) v for queries in chunks of whole rows."""
    return _attention_forward(rows, q, k, v, bias)[0]


def _attention_forward(
    rows: int, q: Float[Array, "chunks b g n d"], k: Array, v: Array, bias: RowBias | None
) -> tuple[Array, tuple[Any, ...]]:
    v_and_one = _append(v, 1.0)

    def chunk(_: None, inputs: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        first_row, q = inputs
        logits = _logits(rows, first_row, q, k, bias)
        highest = logits.max(-1, keepdims=True)
        sums = jnp.matmul(jnp.exp(logits - highest), v_and_one)  # [b, g, n, d + 1], the last = sum of the weights
        total = sums[..., -1:]
        return None, (sums[..., :-1] / total, (highest + jnp.log(total))[..., 0])

    _, (out, log_sum) = checkpoint_name(lax.scan(chunk, None, (rows * jnp.arange(q.shape[0]), q)), SAVED_NAME)
    return out, (q, k, v, bias, out, log_sum)


def _attention_backward(rows: int, saved: tuple[Any, ...], d_out: Array) -> tuple[Array, Array, Array, Any]:
    q, k, v, bias, out, log_sum = saved
    k_and_one, v_and_one = _append(k, 1.0), _append(v, 1.0)
    # with these columns, q . k is the logarithm of the weights and d_out . v is centred as softmax's gradient asks
    q, d_out = _append(q, -log_sum), _append(d_out, -(d_out * out).sum(-1))

    def chunk(totals: tuple[Any, ...], inputs: tuple[Array, ...]) -> tuple[tuple[Any, ...], Array]:
        d_k, d_v, d_bias = totals
        first_row, q, d_out = inputs
        weights = jnp.exp(_logits(rows, first_row, q, k_and_one, bias))  # [b, g, n, m]
        d_logits = weights * _product(d_out, v_and_one)
        d_k = d_k + jnp.matmul(q.swapaxes(-1, -2), d_logits)  # [b, g, d + 1, m]: keys last, so both operands stream
        d_v = d_v + jnp.matmul(d_out.swapaxes(-1, -2), weights)
        if bias is not None:
            w = q.shape[2] // rows
            for i in range(rows):
                d_bias = bias.add_row(d_bias, first_row + i, d_logits[:, :, i * w : (i + 1) * w])
        return (d_k, d_v, d_bias), jnp.matmul(d_logits, k)

    def zeros(x: Array) -> Array:
        return jnp.zeros_like(_append(x, 0.0).swapaxes(-1, -2))

    start = zeros(k), zeros(v), jax.tree.map(jnp.zeros_like, bias)
    (d_k, d_v, d_bias), d_q = lax.scan(chunk, start, (rows * jnp.arange(q.shape[0]), q, d_out))
    return d_q, d_k[:, :, :-1].swapaxes(-1, -2), d_v[:, :, :-1].swapaxes(-1, -2), d_bias


_attention.defvjp(_attention_forward, _attention_backward)
