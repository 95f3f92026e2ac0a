"""The anatomical variation adaptive transformer: deformable attention along learned stripes.

Every pixel attends to a fixed number of sampled points (16 x 16 by default, so the cost is linear in pixels). The
points move by offsets predicted from the queries (deformable attention, Xia et al. 2022, DAT), stretched along a
learned direction; a bias on the logits depends on the distance between a key and stripes through the query.
"""

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from atlf_jax.nn.layers import ChannelNorm, Pointwise, uniform_fan_in
from atlf_jax.nn.path_attention import DynamicPaths
from atlf_jax.ops.resample import bilinear

__all__ = ["AVAT", "attend", "reference_grid", "stripe_bias", "strided_depthwise"]

RowBias = Callable[[Array], Array]  # image row -> [b, heads, w, m] added to the logits of that row's pixels


def reference_grid(h: int, w: int, stride: int) -> np.ndarray:
    """Return the centres of the stride x stride cells, ((i + 1/2) s - 1/2, (j + 1/2) s - 1/2) in pixels, [hk, wk, 2]."""
    rows, columns = (np.arange(-(-size // stride)) * stride + (stride - 1) / 2 for size in (h, w))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


def strided_depthwise(
    x: Float[Array, "b h w f"], kernel: Float[Array, "size size f"], stride: int
) -> Float[Array, "b hk wk f"]:
    """Correlate each channel with its kernel at every ``stride``-th pixel, padding ``size // 2``; hk = ceil(h / s).

    The windows are cut from blocks of ``stride`` rows, then columns: few slices, each read once, where a grouped
    ``lax.conv`` of this kernel is slow.
    """
    size = kernel.shape[0]
    windows = _windows(_windows(x, size, stride, axis=1), size, stride, axis=3)  # [b, hk, size, wk, size, f]
    return (windows * kernel[None, None, :, None]).sum((2, 4))


def _windows(x: Array, size: int, stride: int, axis: int) -> Array:
    """Replace an axis of n pixels by [ceil(n / stride), size]: windows around every ``stride``-th pixel, zero padded."""
    count, blocks = -(-x.shape[axis] // stride), -(-size // stride)
    total = (count + blocks - 1) * stride
    pad = [(0, 0)] * x.ndim
    pad[axis] = (size // 2, max(total - x.shape[axis] - size // 2, 0))
    x = lax.slice_in_dim(jnp.pad(x, pad), 0, total, axis=axis)
    x = x.reshape(*x.shape[:axis], count + blocks - 1, stride, *x.shape[axis + 1 :])
    x = jnp.concatenate([lax.slice_in_dim(x, i, i + count, axis=axis) for i in range(blocks)], axis=axis + 1)
    return lax.slice_in_dim(x, 0, size, axis=axis + 1)


def attend(
    q: Float[Array, "b h w f"],
    k: Float[Array, "b m f"],
    v: Float[Array, "b m f"],
    row_bias: RowBias | None,
    *,
    heads: int,
    query_chunk: int,
) -> Float[Array, "b h w f"]:
    """Multi-head attention of every pixel to m keys, softmax(q k^T / sqrt(f / heads) + bias) v, whole rows at a time.

    Logits exist for ``query_chunk`` queries (at least one image row) at a time and are computed anew in the backward
    pass. The softmax runs in float32 at least.
    """
    b, h, w, f = q.shape
    rows = min(max(query_chunk // w, 1), h)
    chunks = -(-h // rows)

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], heads, f // heads)

    q = jnp.pad(q * (f // heads) ** -0.5, ((0, 0), (0, chunks * rows - h), (0, 0), (0, 0)))
    q = split(q).reshape(b, chunks, rows * w, heads, -1).transpose(1, 0, 3, 2, 4)  # [chunks, b, g, n, d]
    k, v = split(k).transpose(0, 2, 3, 1), split(v).swapaxes(1, 2)  # [b, g, d, m], [b, g, m, d]
    dtype = jnp.promote_types(q.dtype, jnp.float32)

    @jax.checkpoint
    def chunk(first_row: Array, q: Array) -> Array:
        logits = jnp.matmul(q, k, preferred_element_type=dtype)  # [b, g, n, m]
        if row_bias is not None:
            logits = logits + jnp.concatenate([row_bias(first_row + i) for i in range(rows)], axis=2)
        return jnp.matmul(nn.softmax(logits).astype(v.dtype), v)  # [b, g, n, d]

    out = lax.map(lambda arguments: chunk(*arguments), (rows * jnp.arange(chunks), q))
    return out.transpose(1, 0, 3, 2, 4).reshape(b, chunks * rows, w, f)[:, :h]  # [chunks, b, g, n, d] -> [b, h, w, f]


def _lookup(tables: Float[Array, "*t bins"], position: Float[Array, "*t n"]) -> Float[Array, "*t n"]:
    """Interpolate tables linearly at positions in [0, bins - 1]."""
    bins = tables.shape[-1]
    position = jnp.clip(position, 0, bins - 1)
    index = jnp.clip(jnp.floor(position), 0, bins - 2).astype(jnp.int32)
    part = position - index.astype(position.dtype)
    low, high = (jnp.take_along_axis(tables, index + i, axis=-1, mode="clip") for i in (0, 1))
    return low + part * (high - low)


STRIPE_NORMALS = tuple((math.cos(t), -math.sin(t)) for t in np.deg2rad((0, 45, 90, 135)))  # (row, column)
STRIPE_BINS = 65


def _stripe_term(table: Float[Array, "g bins"], distance: Float[Array, "b g *n"], size: int) -> Float[Array, "b g *n"]:
    """Evaluate one direction's table at signed distances in pixels; its ends stand for -+ sqrt(2) ``size``."""
    b, heads = distance.shape[:2]
    position = (distance / (math.sqrt(2) * size) + 1) * ((STRIPE_BINS - 1) / 2)
    tables = jnp.broadcast_to(table[None], (b, *table.shape)).astype(distance.dtype)
    return _lookup(tables, position.reshape(b, heads, -1)).reshape(distance.shape)


def pair_stripe_bias(
    tables: Float[Array, "g t bins"], displacement: Float[Array, "b g *n 2"], size: int
) -> Float[Array, "b g *n"]:
    """Sum over the stripe directions of T[n . displacement], displacement = query - key in pixels."""
    return sum(
        _stripe_term(tables[:, i], displacement[..., 0] * row + displacement[..., 1] * column, size)
        for i, (row, column) in enumerate(STRIPE_NORMALS)
    )


def row_stripe_bias(tables: Float[Array, "g t bins"], positions: Float[Array, "b g m 2"], h: int, w: int) -> RowBias:
    """Return the function row -> ``pair_stripe_bias`` between that row's pixels and the keys at ``positions``.

    On the pixel grid the query's part n . p takes only h, w or h + w - 1 values, so each table is evaluated once for
    these (h + w + 2 (h + w - 1) times m values instead of 4 h w m), and a row of queries reads one line, all lines
    or one window of w lines of the result.
    """
    along_row = jnp.arange(w)
    diagonal = np.arange(h + w - 1)
    queries = (np.arange(h), diagonal[::-1] - (w - 1), -np.arange(w), -diagonal)  # y, y - x, -x, -(y + x)

    def table(i: int) -> Array:
        row, column = STRIPE_NORMALS[i]
        along = jnp.asarray(queries[i] * max(abs(row), abs(column)), positions.dtype)
        key = positions[..., 0] * row + positions[..., 1] * column  # [b, g, m]
        return _stripe_term(tables[:, i], along[None, None, :, None] - key[:, :, None], max(h, w))

    lines, falling, columns, rising = (table(i) for i in range(4))  # each [b, g, values, m]
    del along_row

    def row_bias(row: Array) -> Array:
        return (
            lax.dynamic_slice_in_dim(lines, row, 1, axis=2)
            + columns
            + lax.dynamic_slice_in_dim(falling, h - 1 - row, w, axis=2)  # y - x for x = 0 .. w - 1
            + lax.dynamic_slice_in_dim(rising, row, w, axis=2)  # y + x
        )

    return row_bias


class AVAT(nn.Module):
    """Attention branch of a phase: norm, queries, sampled keys and values along selected paths, output projection.

    out = PW(softmax(q k^T / sqrt(f / heads) + B) v). Returns the branch (the caller adds it to its input) and the cost
    of the chosen paths ``[b]``. Randomness: stream ``gumbel`` unless ``deterministic``.

    sampling:
        ``dat``: about ``key_grid`` x ``key_grid`` points shared by all queries, the cell centres of stride
        ceil(h / key_grid) moved by offsets that a 17 x 17 depthwise convolution predicts for each of ``groups``;
        ``local9``: each query's own 3 x 3 neighbourhood, moved; ``window``: the pixels of the query's
        ``window`` x ``window`` tile; ``full``: every pixel (quadratic, for tests).
    offset_tanh, offset_range:
        offsets are ``offset_range`` cells times tanh, or free (the position is clipped to the image in both cases).
    stripe_position:
        stretch offsets by S = R(t) diag(e^a, e^-a) R(t)^T and add a smooth shift, for each group; both start neutral.
    stripe_logit:
        ``stripe1d``: tables over the signed distance to the stripes of 0, 45, 90, 135 degrees through the query;
        ``dat2d``: a table over the 2-D displacement (its size is the image's); ``log_cpb``: a small network of the
        log-scaled displacement (DAT++); ``feature``: an 8 x 8 map resized and added to the queries; ``none``.

    Source: Xia et al. 2022 (DAT), sections 3.2-3.3, with the reference points in pixels; the stripe terms and
    switches as in the method description in docs/ATLF.md.
    """

    heads: int = 4
    groups: int = 2
    key_grid: int = 16
    sampling: Literal["dat", "local9", "window", "full"] = "dat"
    window: int = 8
    offset_tanh: bool = True
    offset_range: float = 1.0
    stripe_position: bool = True
    stripe_logit: Literal["stripe1d", "none", "dat2d", "log_cpb", "feature"] = "stripe1d"
    query_chunk: int = 256
    paths: Literal["conv", "skip"] = "conv"
    path_act: Literal["none", "softplus"] = "none"
    gumbel_hard: bool = True
    tau: float = 1.0
    mu_classes: int = 6
    selector: Literal["pooled", "dpcdun"] = "pooled"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None = None, *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w f"], Float[Array, " b"]]:
        b, h, w, f = x.shape
        if f % self.heads or self.heads % self.groups:
            raise ValueError(
                f"heads must divide the features and groups the heads, got {f} features, {self.heads} heads, "
                f"{self.groups} groups"
            )
        x = ChannelNorm(name="norm")(x)
        q = Pointwise(f, use_bias=True, name="query")(x)
        if self.stripe_logit == "feature":
            feature = self.param("stripe_feature", nn.initializers.zeros, (8, 8, f), x.dtype)
            q = q + jax.image.resize(feature, (h, w, f), "bilinear", antialias=False)[None]

        positions = self._positions(q)  # [b, groups, hk, wk, 2]
        hk, wk = positions.shape[2:4]
        grouped = x.reshape(b, h, w, self.groups, -1).transpose(0, 3, 1, 2, 4)  # [b, groups, h, w, f / groups]
        sampled = bilinear(
            grouped.reshape(b * self.groups, h, w, -1), positions.reshape(b * self.groups, hk * wk, 2)
        )  # [b * groups, m, f / groups]
        sampled = sampled.reshape(b, self.groups, hk, wk, -1).transpose(0, 2, 3, 1, 4).reshape(b, hk, wk, f)
        k, v, executed, cost = DynamicPaths(
            self.paths, self.path_act, self.gumbel_hard, self.tau, self.mu_classes, self.selector, name="paths"
        )(sampled, mu_index, queries=h * w, deterministic=deterministic)

        tables = self.param("stripe_tables", nn.initializers.zeros, (self.heads, 4, STRIPE_BINS), x.dtype)
        per_head = positions.reshape(b, self.groups, hk * wk, 2).repeat(self.heads // self.groups, axis=1)
        row_bias = row_stripe_bias(tables, per_head, h, w)
        out = attend(
            q,
            k.reshape(b, hk * wk, f),
            v.reshape(b, hk * wk, f),
            row_bias,
            heads=self.heads,
            query_chunk=self.query_chunk,
        )
        return Pointwise(f, use_bias=True, name="out")(out), cost

    def _positions(self, q: Float[Array, "b h w f"]) -> Float[Array, "b groups hk wk 2"]:
        b, h, w, f = q.shape
        stride = -(-h // self.key_grid)
        folded = q.reshape(b, h, w, self.groups, -1).transpose(0, 3, 1, 2, 4).reshape(b * self.groups, h, w, -1)
        kernel = self.param("offset_kernel", uniform_fan_in, (17, 17, 1, f // self.groups), q.dtype)
        bias = self.param("offset_bias", nn.initializers.zeros, (f // self.groups,), q.dtype)
        offset = strided_depthwise(folded, kernel[:, :, 0], stride) + bias[None, None, None]
        offset = nn.gelu(ChannelNorm(name="offset_norm")(offset), approximate=False)
        offset = Pointwise(2, kernel_init=nn.initializers.zeros, name="offset")(offset)
        hk, wk = offset.shape[1:3]
        offset = offset.reshape(b, self.groups, hk, wk, 2).astype(jnp.promote_types(q.dtype, jnp.float32))
        if self.offset_tanh:
            offset = jnp.tanh(offset)
        offset = offset * (self.offset_range * stride)
        if self.stripe_position:
            offset = self._stretch(offset)
        positions = offset + jnp.asarray(reference_grid(h, w, stride), offset.dtype)[None, None]
        return jnp.clip(positions, 0, jnp.array((h - 1, w - 1), positions.dtype)[None, None, None, None])

    def _stretch(self, offset: Float[Array, "b groups hk wk 2"]) -> Float[Array, "b groups hk wk 2"]:
        groups, hk, wk = offset.shape[1:4]

        def even(_: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return jnp.arange(groups, dtype=dtype).reshape(shape) * (math.pi / groups)

        angle = self.param("stripe_angle", even, (groups,), offset.dtype)
        ratio = self.param("stripe_ratio", nn.initializers.zeros, (groups,), offset.dtype)
        shift = self.param("stripe_shift", nn.initializers.zeros, (groups, 8, 8, 2), offset.dtype)
        shift = jax.image.resize(shift, (groups, hk, wk, 2), "bilinear", antialias=False)
        return jnp.einsum("gij,bghwj->bghwi", stretch(angle, ratio), offset) + shift[None]


def stretch(angle: Float[Array, " g"], ratio: Float[Array, " g"]) -> Float[Array, "g 2 2"]:
    """Return R(t) diag(e^a, e^-a) R(t)^T acting on (row, column): area is kept, and a = 0 is the identity."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    grow, shrink = jnp.exp(ratio), jnp.exp(-ratio)
    off_diagonal = c * s * (grow - shrink)
    rows = (c * c * grow + s * s * shrink, off_diagonal), (off_diagonal, s * s * grow + c * c * shrink)
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)  # [g, 2, 2]
