"""The anatomical variation adaptive transformer: deformable attention along learned stripes.

Every pixel attends to a fixed number of sampled points (16 x 16 by default, so the cost is linear in pixels). The
points move by offsets predicted from the queries (deformable attention, Xia et al. 2022, DAT), stretched along a
learned direction; a bias on the logits depends on the distance between a key and stripes through the query.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jaxtyping import Float, Int, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn.attention import RowBias, attend
from atlf_jax.nn.layers import ChannelNorm, Pointwise, gelu, uniform_fan_in
from atlf_jax.nn.path_attention import DynamicPaths
from atlf_jax.nn.position_bias import STRIPE_BINS, STRIPE_STEPS, stripe_pair_bias, stripe_row_bias
from atlf_jax.nn.precision import wide, wide_dtype
from atlf_jax.ops.resample import bilinear

__all__ = ["AVAT", "reference_grid", "strided_depthwise"]

OFFSET_KERNEL = 17  # whatever the stride, so that parameters do not depend on the image's size


def reference_grid(h: int, w: int, stride: int) -> np.ndarray:
    """Return the centres of the stride x stride cells, ((i + 1/2) s - 1/2, (j + 1/2) s - 1/2) pixels, [hk, wk, 2].

    Example:
        >>> reference_grid(4, 4, 2)[0].tolist()
        [[0.5, 0.5], [0.5, 2.5]]
    """
    rows, columns = (np.arange(-(-size // stride)) * stride + (stride - 1) / 2 for size in (h, w))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


@jaxtyped(typechecker=beartype)
def strided_depthwise(
    x: Float[Array, "b h w f"], kernel: Float[Array, "size size f"], *, stride: int
) -> Float[Array, "b hk wk f"]:
    """Correlate each channel with its own large kernel at every ``stride``-th pixel, zero padding ``size // 2``.

    y[b, i, j, f] = sum_pq kernel[p, q, f] x[b, s i + p - size // 2, s j + q - size // 2, f], hk = ceil(h / s)

    The windows are cut out as a few blocks of ``stride`` rows, then columns; a grouped ``lax.conv`` is slow here.

    Args:
        x: ``[b, h, w, f]``.
        kernel: ``[size, size, f]``, size odd.
        stride: in pixels.

    Returns:
        ``[b, ceil(h / stride), ceil(w / stride), f]``.

    Example:
        >>> correlate = jax.jit(strided_depthwise, static_argnames="stride")
        >>> np.asarray(correlate(np.ones((1, 4, 4, 1), "f4"), np.ones((3, 3, 1), "f4"), stride=2))[0, :, :, 0].tolist()
        [[4.0, 6.0], [6.0, 9.0]]
    """
    size = kernel.shape[0]
    windows = _windows(_windows(x, size, stride, axis=1), size, stride, axis=3)  # [b, hk, size, wk, size, f]
    return (windows * kernel[None, None, :, None]).sum((2, 4))


def _windows(x: Array, size: int, stride: int, *, axis: int) -> Array:
    """Replace an axis of n pixels by [ceil(n / stride), size]: the zero-padded windows around every stride-th pixel."""
    count, blocks = -(-x.shape[axis] // stride), -(-size // stride)
    total = (count + blocks - 1) * stride
    pad = [(0, 0)] * x.ndim
    pad[axis] = (size // 2, max(total - x.shape[axis] - size // 2, 0))
    x = lax.slice_in_dim(jnp.pad(x, pad), 0, total, axis=axis)
    x = x.reshape(*x.shape[:axis], count + blocks - 1, stride, *x.shape[axis + 1 :])
    x = jnp.concatenate([lax.slice_in_dim(x, i, i + count, axis=axis) for i in range(blocks)], axis=axis + 1)
    return lax.slice_in_dim(x, 0, size, axis=axis + 1)


@jaxtyped(typechecker=beartype)
def stretch(angle: Float[Array, " g"], ratio: Float[Array, " g"]) -> Float[Array, "g 2 2"]:
    """Return the matrices that stretch (row, column) vectors along a direction and keep areas.

    R(t) diag(e^a, e^-a) R(t)^T, the identity at a = 0.

    Args:
        angle: t, in radians, ``[g]``.
        ratio: a, the logarithm of the stretch, ``[g]``.

    Returns:
        Symmetric matrices of determinant 1, ``[g, 2, 2]``.
    """
    c, s = jnp.cos(angle), jnp.sin(angle)
    long, short = jnp.exp(ratio), jnp.exp(-ratio)
    rows = c * c * long + s * s * short, c * s * (long - short), s * s * long + c * c * short
    return jnp.stack([jnp.stack(rows[:2], axis=-1), jnp.stack(rows[1:], axis=-1)], axis=-2)  # [g, 2, 2]


def _enlargement(h: int, w: int, side: int) -> np.ndarray:
    """Return the matrix of bilinear resizing from side x side to h x w, [h w, side^2], half-pixel centres."""

    def weights(size: int) -> np.ndarray:
        position = (np.arange(size) + 0.5) * side / size - 0.5
        hat = np.maximum(1 - np.abs(position[:, None] - np.arange(side)), 0)
        return hat / hat.sum(1, keepdims=True)  # [size, side]; beyond the border the last one counts

    return np.einsum("hi,wj->hwij", weights(h), weights(w)).reshape(h * w, side * side)


class AVAT(nn.Module):
    """Attention branch of a phase: norm, queries, sampled keys and values along selected paths, output projection.

    out = PW(softmax(q k^T / sqrt(f / heads) + B) v). Returns the branch, which the caller adds to the input, and the
    cost of the chosen paths ``[b]``. Randomness: stream ``gumbel`` unless ``deterministic``. ``mu_index`` is each
    example's class of mu, the price of computation; None means the last class.

    sampling:
        ``dat``: about ``key_grid`` x ``key_grid`` points for all queries, the centres of cells of stride
        ceil(max(h, w) / key_grid), moved by offsets that a 17 x 17 depthwise convolution of the queries predicts for
        each of ``groups``; ``window``: the pixels of the query's ``window`` x ``window`` tile; ``full``: every pixel
        (quadratic cost, for tests).
    offset_tanh, offset_range:
        offsets are ``offset_range`` cells times tanh, or unbounded; positions are clipped to the image either way.
    stripe_position:
        offsets are stretched by R(t) diag(e^a, e^-a) R(t)^T and shifted by a smooth map, for each group.
    stripe_logit:
        ``stripe1d``: tables over the signed distance to the stripes through the query; ``feature``: an 8 x 8 map,
        resized and added to the queries; ``none``. All start at zero, so that every choice starts from the same
        attention.
    neutral_start:
        the output projection starts at zero, so that the branch adds nothing at first.
    path_act, gumbel_hard, tau, mu_classes:
        see ``path_attention.DynamicPaths``.

    Example:
        >>> x = jnp.zeros((1, 32, 24, 8))
        >>> (branch, cost), _ = jax.eval_shape(AVAT().init_with_output, jax.random.key(0), x)
        >>> branch.shape, cost.shape
        ((1, 32, 24, 8), (1,))

    Source: Xia et al. 2022 (DAT), section 3, with reference points in pixels and zero initial offsets; the stripe
    terms as in the method description in docs/ATLF.md.
    """

    heads: int = 4
    groups: int = 2
    key_grid: int = 16
    sampling: Literal["dat", "window", "full"] = "dat"
    window: int = 8
    offset_tanh: bool = True
    offset_range: float = 1.0
    stripe_position: bool = True
    stripe_logit: Literal["stripe1d", "none", "feature"] = "stripe1d"
    query_chunk: int | None = None
    neutral_start: bool = False
    path_act: Literal["none", "softplus"] = "none"
    gumbel_hard: bool = True
    tau: float = 1.0
    mu_classes: int = 6

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None = None, *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w f"], Float[Array, " b"]]:
        _, h, w, f = x.shape
        if f % self.heads or self.heads % self.groups:
            raise ValueError(
                f"features must be a multiple of heads and heads of groups, got {f} features, {self.heads} heads, "
                f"{self.groups} groups"
            )
        x = ChannelNorm(name="norm")(x)
        q = Pointwise(f, use_bias=True, name="query")(x)
        if self.stripe_logit == "feature":
            feature = self.param("stripe_feature", nn.initializers.zeros, (8, 8, f), wide_dtype(x.dtype))
            q = q + jax.image.resize(feature, (h, w, f), "bilinear", antialias=False)[None].astype(q.dtype)

        dynamic_paths = DynamicPaths(self.path_act, self.gumbel_hard, self.tau, self.mu_classes, name="paths")
        positions: Array | None = None
        if self.sampling == "dat":
            positions = self._positions(wide(q))  # [b, groups, hk, wk, 2]
            x = self._sample(x, positions)
        elif self.sampling == "full":
            positions = self._whole_grid(q)
        k, v, cost = dynamic_paths(x, mu_index, deterministic=deterministic)

        if positions is None:
            out = self._attend_in_windows(q, k, v)
        else:
            flat = positions.reshape(*positions.shape[:2], -1, 2)  # [b, groups, m, 2]
            k, v = (t.reshape(t.shape[0], -1, f) for t in (k, v))  # [b, hk, wk, f] -> [b, m, f]
            bias = self._row_bias(flat, h, w)
            out = attend(q, k, v, bias, heads=self.heads, query_chunk=self.query_chunk)
        out_init = nn.initializers.zeros if self.neutral_start else uniform_fan_in
        return Pointwise(f, use_bias=True, kernel_init=out_init, name="out")(out), cost

    # --- where keys are sampled -------------------------------------------------------------------------------------

    def _positions(self, q: Float[Array, "b h w f"]) -> Float[Array, "b groups hk wk 2"]:
        b, h, w, f = q.shape
        stride, features = -(-max(h, w) // self.key_grid), f // self.groups
        kernel = self.param("offset_kernel", uniform_fan_in, (OFFSET_KERNEL, OFFSET_KERNEL, 1, features), q.dtype)
        bias = self.param("offset_bias", nn.initializers.zeros, (features,), q.dtype)
        # the groups share the weights; their channels meet again as [b, hk, wk, groups, f / groups]
        offset = strided_depthwise(q, jnp.tile(kernel[:, :, 0], self.groups), stride=stride)
        offset = offset.reshape(*offset.shape[:3], self.groups, features) + bias[None, None, None, None]
        offset = gelu(ChannelNorm(name="offset_norm")(offset))
        offset = Pointwise(2, kernel_init=nn.initializers.zeros, name="offset")(offset)
        offset = jnp.moveaxis(offset, 3, 1)  # [b, groups, hk, wk, 2]
        offset = (jnp.tanh(offset) if self.offset_tanh else offset) * (self.offset_range * stride)
        return self._move(reference_grid(h, w, stride), offset, h, w)

    def _move(
        self, reference: np.ndarray, offset: Float[Array, "b groups hk wk 2"], h: int, w: int
    ) -> Float[Array, "b groups hk wk 2"]:
        """Add the offsets to the reference points, along the stripe and inside the image."""
        if self.stripe_position:
            groups, hk, wk = offset.shape[1:4]
            even = jnp.arange(groups, dtype=offset.dtype) * (math.pi / groups)
            angle = self.param("stripe_angle", lambda _: even)
            ratio = self.param("stripe_ratio", nn.initializers.zeros, (groups,), offset.dtype)
            shift = self.param("stripe_shift", nn.initializers.zeros, (groups, 8, 8, 2), offset.dtype)
            matrix = jnp.asarray(_enlargement(hk, wk, shift.shape[1]), offset.dtype)[None, :, :, None]
            shift = (matrix * shift.reshape(groups, 1, -1, 2)).sum(2).reshape(groups, hk, wk, 2)
            matrix = stretch(angle, ratio)[None, :, None, None]  # [1, g, 1, 1, 2, 2]
            offset = (matrix * offset[..., None, :]).sum(-1)  # not a product of matrices: positions in float32, no TF32
            offset = offset + shift[None]
        positions = offset + jnp.asarray(reference, offset.dtype)[None, None]
        last = jnp.array((h - 1, w - 1), offset.dtype)[None, None, None, None]
        return jnp.clip(positions, 0, last)

    def _whole_grid(self, q: Float[Array, "b h w f"]) -> Float[Array, "b groups h w 2"]:
        b, h, w, _ = q.shape
        grid = jnp.asarray(reference_grid(h, w, 1), wide_dtype(q.dtype))
        return jnp.broadcast_to(grid[None, None], (b, self.groups, h, w, 2))

    def _sample(self, x: Float[Array, "b h w f"], positions: Float[Array, "b groups hk wk 2"]) -> Array:
        """Sample each group's channels at its own points: [b, hk, wk, f].

        All channels are read at the points of all groups and most are dropped: there are few points, and regrouping
        the whole map would cost more.
        """
        b, groups, hk, wk, _ = positions.shape
        sampled = bilinear(x, positions.reshape(b, -1, 2)).reshape(b, groups, hk, wk, groups, -1)
        return jnp.concatenate([sampled[:, g, :, :, g] for g in range(groups)], axis=-1)

    # --- what the logits know of positions --------------------------------------------------------------------------

    def _tables(self, dtype: jnp.dtype) -> Float[Array, "g t bins"] | None:
        """Return the tables of the logit bias, None if there is none."""
        if self.stripe_logit != "stripe1d":
            return None
        return self.param("stripe_tables", nn.initializers.zeros, (self.heads, len(STRIPE_STEPS), STRIPE_BINS), dtype)

    def _row_bias(self, positions: Float[Array, "b groups m 2"], h: int, w: int) -> RowBias | None:
        tables = self._tables(positions.dtype)
        if tables is None:
            return None
        return stripe_row_bias(tables, positions.repeat(self.heads // self.groups, axis=1), h=h, w=w)

    # --- attention to keys of one's own -----------------------------------------------------------------------------

    def _attend_in_windows(
        self, q: Float[Array, "b h w f"], k: Float[Array, "b h w f"], v: Float[Array, "b h w f"]
    ) -> Float[Array, "b h w f"]:
        """Attend to the pixels of the query's own tile; tiles beyond the border are cut."""
        b, h, w, f = q.shape
        side, pixels = self.window, self.window**2
        tiles_h, tiles_w = -(-h // side), -(-w // side)

        def tiles(x: Array) -> Array:
            x = jnp.pad(x, ((0, 0), (0, tiles_h * side - h), (0, tiles_w * side - w), (0, 0)))
            x = x.reshape(x.shape[0], tiles_h, side, tiles_w, side, self.heads, -1)
            # [b, tiles_h, side, tiles_w, side, heads, d] -> [tiles_h, b, tiles_w, heads, side, side, d]
            return x.transpose(1, 0, 3, 5, 2, 4, 6).reshape(tiles_h, x.shape[0], tiles_w, self.heads, pixels, -1)

        dtype = wide_dtype(q.dtype)
        inside = tiles(jnp.ones((1, h, w, self.heads), bool))[..., 0][..., None, :]  # [.., 1, tiles_w, heads, 1, m]
        bias = jnp.zeros((1, 1, 1, 1), dtype)
        tables = self._tables(dtype)
        if tables is not None:
            grid = jnp.asarray(reference_grid(side, side, 1).reshape(pixels, 2), dtype)
            displacement = grid[:, None] - grid[None]  # [n, m, 2]
            displacement = jnp.broadcast_to(displacement, (1, self.heads, pixels, pixels, 2))
            bias = stripe_pair_bias(tables, displacement, size=max(h, w))

        @jax.checkpoint
        def row_of_tiles(inputs: tuple[Array, ...]) -> Array:
            q, k, v, inside = inputs
            logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=dtype) + bias[:, None]
            # [b, tiles_w, heads, n, m]
            weights = nn.softmax(jnp.where(jnp.broadcast_to(inside, logits.shape), logits, -jnp.inf))
            return jnp.matmul(weights.astype(v.dtype), v)

        out = lax.map(row_of_tiles, (tiles(q * (f // self.heads) ** -0.5), tiles(k), tiles(v), inside))
        out = out.reshape(tiles_h, b, tiles_w, self.heads, side, side, -1).transpose(1, 0, 4, 2, 5, 3, 6)
        return out.reshape(b, tiles_h * side, tiles_w * side, f)[:, :h, :w]
