"""Biases on attention logits that depend on where the query and the key lie. Positions are (row, column) in pixels.

The stripe bias is our reading of the paper's term: a stripe is a straight line through the query at 0, 45, 90 or 135
degrees, and a table per head and direction holds the bias for each signed distance of a key from it.
"""

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jaxtyping import Float, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn import backend

__all__ = [
    "STRIPE_BINS",
    "STRIPE_STEPS",
    "StackedStripeBias",
    "StripeBias",
    "stripe_pair_bias",
    "stripe_row_bias",
]

STRIPE_BINS = 65  # entries of a table, for distances from -sqrt(2) max(h, w) to sqrt(2) max(h, w)
# normals (cos t, -sin t) of the stripes at 0, 45, 90, 135 degrees, without the 1 / sqrt(2) of the diagonals: the
# projections of pixels are whole numbers
STRIPE_STEPS = ((1, 0), (1, -1), (0, -1), (-1, -1))


@jaxtyped(typechecker=beartype)
def stripe_pair_bias(
    tables: Float[Array, "g t bins"], displacement: Float[Array, "b g n m 2"], *, size: int
) -> Float[Array, "b g n m"]:
    """Evaluate the bias for single query-key pairs.

    sum over directions of T[n . (p_query - P_key)], linearly interpolated at ((d / (sqrt(2) size)) + 1) / 2 * 64.

    Args:
        tables: ``[heads, 4, 65]``, in logit units.
        displacement: query minus key in pixels, ``[b, heads, n, m, 2]``.
        size: the longer side of the image, in pixels.

    Returns:
        ``[b, heads, n, m]``.

    Example:
        >>> import jax
        >>> tables, displacement = np.ones((1, 4, STRIPE_BINS), np.float32), np.zeros((1, 1, 1, 1, 2), np.float32)
        >>> jax.jit(stripe_pair_bias, static_argnames="size")(tables, displacement, size=8).item()  # of 4 directions
        4.0
    """
    b, g, n, m, _ = displacement.shape
    total = jnp.zeros((b, g, n * m), displacement.dtype)
    for i, (row, column) in enumerate(STRIPE_STEPS):
        # exact products, and a sum before the last product: fused multiply-adds cannot then round the position
        # differently for the index and for the part, which XLA may compute in two places
        distance = displacement[..., 0] * row + displacement[..., 1] * column
        reach = math.sqrt(2) * size * math.hypot(row, column)
        position = (distance.reshape(b, g, -1) + reach) * ((STRIPE_BINS - 1) / 2 / reach)
        position = jnp.clip(position, 0, STRIPE_BINS - 1)
        index = jnp.clip(jnp.floor(position), 0, STRIPE_BINS - 2).astype(jnp.int32)
        table = jnp.broadcast_to(tables[None, :, i].astype(total.dtype), (b, g, STRIPE_BINS))
        low, high = (jnp.take_along_axis(table, index + j, axis=-1, mode="clip") for j in (0, 1))
        total = total + low + (position - index.astype(position.dtype)) * (high - low)
    return total.reshape(b, g, n, m)


@flax.struct.dataclass
class StripeBias:
    """The bias of every pixel of an image, by direction: ``[b, g, values, m]`` for each value of the projection."""

    lines: Float[Array, "b g h m"]  # by y
    falling: Float[Array, "b g d m"]  # by x - y, ascending
    columns: Float[Array, "b g w m"]  # by x
    rising: Float[Array, "b g d m"]  # by x + y

    def row(self, y: Array) -> Float[Array, "b g w m"]:
        """Return the bias of row ``y``'s pixels: one line and one window of each diagonal's values."""
        h, w = self.lines.shape[2], self.columns.shape[2]
        return (
            lax.dynamic_slice_in_dim(self.lines, y, 1, axis=2)
            + lax.dynamic_slice_in_dim(self.falling, h - 1 - y, w, axis=2)
            + self.columns
            + lax.dynamic_slice_in_dim(self.rising, y, w, axis=2)
        )

    def add_row(self, total: "StripeBias", y: Array, d_row: Float[Array, "b g w m"]) -> "StripeBias":
        """Add the gradient of ``row(y)`` to ``total``, touching only what that row reads."""

        def add(values: Array, start: Array, d_values: Array) -> Array:
            window = lax.dynamic_slice_in_dim(values, start, d_values.shape[2], axis=2)
            return lax.dynamic_update_slice_in_dim(values, window + d_values.astype(values.dtype), start, axis=2)

        h = self.lines.shape[2]
        return StripeBias(
            lines=add(total.lines, y, d_row.sum(2, keepdims=True)),
            falling=add(total.falling, h - 1 - y, d_row),
            columns=total.columns + d_row.astype(total.columns.dtype),
            rising=add(total.rising, y, d_row),
        )

    def rows(self, first: Array, count: int) -> Float[Array, "b g n m"]:
        """Return the bias of the pixels of ``count`` rows, by slices and reshapes alone, whose gradients are sums."""
        h, w = self.lines.shape[2], self.columns.shape[2]
        lines = lax.dynamic_slice_in_dim(self.lines, first, count, axis=2)
        falling = lax.dynamic_slice_in_dim(self.falling, h - first - count, count + w - 1, axis=2)
        rising = lax.dynamic_slice_in_dim(self.rising, first, count + w - 1, axis=2)
        diagonals = _windows(falling, count, w)[:, :, ::-1] + _windows(rising, count, w)
        total = diagonals + lines[:, :, :, None] + self.columns[:, :, None]  # [b, g, count, w, m]
        return total.reshape(*total.shape[:2], count * w, -1)


@flax.struct.dataclass
class StackedStripeBias:
    """A ``StripeBias`` as one array, as it is computed on accelerators: one thing to keep for the gradient."""

    values: Float[Array, "b g t s m"]  # by direction, in the order of StripeBias; what is beyond its length is not used
    h: int = flax.struct.field(pytree_node=False)
    w: int = flax.struct.field(pytree_node=False)

    def split(self) -> StripeBias:
        """Return the four directions by themselves."""
        lengths = self.h, self.h + self.w - 1, self.w, self.h + self.w - 1
        return StripeBias(*(self.values[:, :, i, :length] for i, length in enumerate(lengths)))

    def row(self, y: Array) -> Float[Array, "b g w m"]:
        """Return the bias of row ``y``'s pixels."""
        return self.split().row(y)

    def rows(self, first: Array, count: int) -> Float[Array, "b g n m"]:
        """Return the bias of the pixels of ``count`` rows."""
        return self.split().rows(first, count)


def _windows(x: Float[Array, "b g d m"], count: int, w: int) -> Float[Array, "b g count w m"]:
    """Return x[:, :, y : y + w] for y = 0 .. count - 1, with d = count + w - 1.

    ``count`` copies of x one after the other, read as rows of d + 1 values, begin one value later in each row. So there
    is neither a gather nor, in the gradient, a scatter.
    """
    b, g, d, m = x.shape
    copies = jnp.broadcast_to(x[:, :, None], (b, g, count, d, m)).reshape(b, g, count * d, m)
    copies = jnp.pad(copies, ((0, 0), (0, 0), (0, count), (0, 0)))
    return copies.reshape(b, g, count, d + 1, m)[:, :, :, :w]


@jaxtyped(typechecker=beartype)
def stripe_row_bias(
    tables: Float[Array, "g t bins"], positions: Float[Array, "b g m 2"], *, h: int, w: int
) -> StripeBias | StackedStripeBias:
    """Prepare the bias between every pixel of an image and keys at ``positions``, equal to ``stripe_pair_bias``.

    On the pixel grid n . p_query takes only h, w or h + w - 1 values, so each table is evaluated for these times m
    keys instead of for h w m pairs.

    Args:
        tables: ``[heads, 4, 65]``, in logit units.
        positions: keys inside the image, ``[b, heads, m, 2]``.
        h, w: the image's size in pixels.

    Returns:
        The bias in the form that ``attention.attend`` reads.

    Example:
        >>> import jax
        >>> tables, positions = jnp.ones((1, 4, STRIPE_BINS)), jnp.zeros((1, 1, 3, 2))
        >>> jax.eval_shape(lambda *arrays: stripe_row_bias(*arrays, h=4, w=5).row(0), tables, positions).shape
        (1, 1, 5, 3)
    """
    diagonal = np.arange(h + w - 1)
    # STRIPE_STEPS . pixel, in the order of StripeBias' fields
    projections = (np.arange(h), (h - 1) - diagonal, -np.arange(w), -diagonal)
    if backend.accelerated():
        return _stripe_row_bias_at_once(tables, positions, projections, size=max(h, w))
    terms = []
    for i, projection in enumerate(projections):
        (row, column), norm = STRIPE_STEPS[i], math.hypot(*STRIPE_STEPS[i])
        key = positions[..., 0] * row + positions[..., 1] * column  # [b, g, m]
        bins_per_step = (STRIPE_BINS - 1) / 2 / (math.sqrt(2) * max(h, w) * norm)
        table = tables[:, i].astype(positions.dtype)
        terms.append(_resample(table, projection * bins_per_step, key * -bins_per_step, (STRIPE_BINS - 1) // 2))
    return StripeBias(*terms)


def _stripe_row_bias_at_once(
    tables: Float[Array, "g t bins"],
    positions: Float[Array, "b g m 2"],
    projections: Sequence[np.ndarray],
    *,
    size: int,
) -> StackedStripeBias:
    """Evaluate all four directions by sums over the bins, T(p) = sum_k T_k relu(1 - |p - k|): one kernel each way.

    An accelerator has arithmetic to spare: 65 terms for each of some million values cost less than the dozens of small
    operations of ``_resample``. The gradient computes the terms again, so they are never in memory.
    """
    count = max(map(len, projections))
    scale = np.array([(STRIPE_BINS - 1) / 2 / (math.sqrt(2) * size * math.hypot(*step)) for step in STRIPE_STEPS])
    fixed = np.stack([np.pad(projection, (0, count - len(projection))) for projection in projections])  # [t, s]
    fixed = (fixed * scale[:, None] + (STRIPE_BINS - 1) / 2)[None, None, :, :, None]
    steps = (np.transpose(STRIPE_STEPS) * scale)[:, None, None, :, None]
    bins = np.arange(STRIPE_BINS).reshape(1, 1, 1, 1, 1, -1)

    @jax.checkpoint
    def evaluate(tables: Array, positions: Array) -> Float[Array, "b g t s m"]:
        dtype = positions.dtype
        rows, columns = jnp.asarray(steps, dtype)
        moving = positions[:, :, None, :, 0] * rows + positions[:, :, None, :, 1] * columns  # [b, g, t, m]
        position = (jnp.asarray(fixed, dtype) - moving[:, :, :, None])[..., None]
        hats = jnp.maximum(1 - jnp.abs(position - jnp.asarray(bins, dtype)), 0)  # [b, g, t, s, m, bins], in the kernel
        return (tables.astype(dtype)[None, :, :, None, None] * hats).sum(-1)

    values = evaluate(tables, positions)
    return StackedStripeBias(values, h=len(projections[0]), w=len(projections[2]))


def _resample(
    table: Float[Array, "g bins"], fixed: np.ndarray, moving: Float[Array, "b g m"], origin: int
) -> Float[Array, "b g s m"]:
    """Interpolate tables at the sums origin + fixed[s] + moving[m], where ``fixed`` is known when tracing.

    Split into whole and fractional parts, fixed = i + r and moving = j + t; with T_k = T[origin + i + j + k],
    the interpolant is T_0 + (r + t) (T_1 - T_0) + relu(r + t - 1) (T_2 - 2 T_1 + T_0), so a matrix of the tables'
    values over (s, j) and a one-hot matrix over (j, m) give it by two products. Gathers are as fast forward, but
    their gradient is a scatter of s m numbers, four times slower on CPU than all of this.
    ``moving`` must lie in the range of ``-fixed``, as projections of positions inside the image do.
    """
    whole = np.floor(fixed).astype(int)
    fraction = fixed - whole
    shifts = np.arange(np.floor(-fixed.max()), np.floor(-fixed.min()) + 1)  # all values of j
    knots = np.arange(whole.min(), whole.max() + 3)  # all values of i + k
    first = np.eye(len(knots))[whole - knots[0]]  # [s, knots]: picks T_0
    slope, bend = np.roll(first, 1, axis=1) - first, np.roll(first, 2, axis=1) - 2 * np.roll(first, 1, axis=1) + first

    index = np.clip(origin + knots[:, None] + shifts[None].astype(int), 0, table.shape[-1] - 1)  # [knots, j]
    values = jnp.take(table, index, axis=-1, mode="clip")  # [g, knots, j]

    def read(pick: np.ndarray) -> Array:
        return jnp.einsum("si,gij->gsj", jnp.asarray(pick, table.dtype), values)

    j = jnp.clip(jnp.floor(moving), shifts[0], shifts[-1])
    t = (moving - j)[:, :, None]  # [b, g, 1, m]
    all_j = jnp.asarray(shifts, table.dtype)[None, None, :, None]
    chosen = (j[:, :, None] == all_j).astype(table.dtype)  # [b, g, j, m]
    linear = jnp.einsum(
        "gsj,bgjm->bgsm",
        jnp.concatenate([read(first + fraction[:, None] * slope), read(slope)], axis=-1),
        jnp.concatenate([chosen, t * chosen], axis=2),
    )
    over = jnp.maximum(jnp.asarray(fraction - 1, table.dtype)[None, None, :, None] + t, 0)
    return linear + over * jnp.einsum("gsj,bgjm->bgsm", read(bend), chosen)
