"""Dynamic path attention: each example picks the path along which keys and values are projected.

A selector sees the pooled features and the wanted trade-off between quality and computation, mu, and draws one path
by a Gumbel-softmax. After DPC-DUN (Song, Chen and Zhang 2023), where mu is the Lagrange multiplier of a cost.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Float, Int, Key, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import ChannelNorm, Pointwise, depthwise, uniform_fan_in, zero_border
from atlf_jax.nn.precision import in_float32, wide, wide_dtype

__all__ = ["DynamicPaths", "PathSelector", "gumbel_softmax"]

Initializer = Callable[..., Array]


@jaxtyped(typechecker=beartype)
def gumbel_softmax(
    key: Key[Array, ""] | None, logits: Float[Array, "*b p"], *, tau: float = 1.0, hard: bool = True
) -> Float[Array, "*b p"]:
    """Draw a (relaxed) one-hot choice over the last axis.

    softmax((logits + gumbel) / tau); ``hard`` returns its argmax as a one-hot vector and keeps the gradient of the
    soft weights (straight-through).

    Args:
        key: random key; None adds no noise, so that ``hard`` is the argmax of the logits.
        logits: unnormalised log-probabilities ``[*b, p]``.
        tau: temperature, > 0; small values come close to one-hot, large ones to uniform weights.
        hard: whether the forward value is exactly one-hot.

    Returns:
        Weights ``[*b, p]`` that sum to 1.

    Example:
        >>> gumbel_softmax(None, jnp.array([0.0, 2.0, 1.0])).tolist()
        [0.0, 1.0, 0.0]

    Source: Jang, Gu and Poole 2017, eq. 2.
    """
    if key is not None:
        logits = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = nn.softmax(logits / tau)
    if not hard:
        return soft
    one_hot = jax.nn.one_hot(soft.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    return one_hot + (soft - lax.stop_gradient(soft))  # the bracket is exactly 0, its gradient is not


Shapes = Mapping[str, tuple[Initializer, tuple[int, ...]]]


class _Parameters(nn.Module):
    """Parameters of given shapes under their ordinary names, for operations on those of several layers at once."""

    shapes: Shapes
    dtype: Any

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {name: self.param(name, init, shape, self.dtype) for name, (init, shape) in self.shapes.items()}


class PathSelector(nn.Module):
    """Logits over two paths, from the sampled features and the class of mu; in float32.

    Mean over the grid, controllable unit, norm, ReLU, norm, linear. The controllable unit is softplus(W1 e) h + W2 e
    with the one-hot e of mu's class, and the identity at the start; ``mu_classes=0`` leaves it out.
    """

    mu_classes: int = 6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None) -> Float[Array, "b p"]:
        h = self._control(wide(x).mean((1, 2), keepdims=True), mu_index)[:, 0, 0]  # [b, 1, 1, f] -> [b, f]
        h = ChannelNorm(name="norm2")(nn.relu(ChannelNorm(name="norm1")(h)))
        return nn.Dense(2, kernel_init=uniform_fan_in, param_dtype=h.dtype, name="logits")(h)

    def _control(self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None) -> Float[Array, "b h w f"]:
        if self.mu_classes == 0:
            return x
        if mu_index is None:  # the last class: the smallest price on computation
            mu_index = jnp.full(x.shape[:1], self.mu_classes - 1)
        e = jax.nn.one_hot(mu_index, self.mu_classes, dtype=x.dtype)[:, None, None]  # [b, 1, 1, classes]
        softplus_is_one = nn.initializers.constant(math.log(math.e - 1))
        scale = nn.softplus(Pointwise(x.shape[-1], kernel_init=softplus_is_one, name="scale")(e))
        return scale * x + Pointwise(x.shape[-1], kernel_init=nn.initializers.zeros, name="shift")(e)


class DynamicPaths(nn.Module):
    """Project the sampled features to keys and values along selected paths.

    K = a1 P1(x) + a2 P3(x), P1 = pointwise, P3 = depthwise 3x3 then pointwise; V likewise with weights of its own.

    Returns keys, values and the cost of the choice ``[b]``, sum_j a_j c_j with c_j = multiply-adds of path j over those
    of the dearest; 0 without mu. Both paths are computed whatever the choice: in a batch there is nothing to gain from
    branching. Keys and values are computed as one, since the sampled maps are small.
    """

    path_act: Literal["none", "softplus"] = "none"
    gumbel_hard: bool = True
    tau: float = 1.0
    mu_classes: int = 6

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None, *, deterministic: bool
    ) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w f"], Float[Array, " b"]]:
        features = x.shape[-1]
        weights = [self._choose(x, mu_index, name, deterministic) for name in ("select_key", "select_value")]
        keys_and_values = self._mix(x, jnp.stack(weights, axis=2))  # [b, h, w, 2, f]
        macs = (features * features, features * (features + 9))
        relative = jnp.array(macs, weights[0].dtype) / max(macs)
        cost = (weights[0] + weights[1]) @ relative / 2 if self.mu_classes else jnp.zeros_like(weights[0][:, 0])
        return keys_and_values[..., 0, :], keys_and_values[..., 1, :], cost

    def _choose(self, x: Array, mu_index: Array | None, name: str, deterministic: bool) -> Float[Array, "b p"]:
        logits = PathSelector(self.mu_classes, name=name)(x, mu_index)
        key = None if deterministic else self.make_rng("gumbel")
        return gumbel_softmax(key, logits, tau=self.tau, hard=self.gumbel_hard)

    def _mix(self, x: Array, weights: Float[Array, "b p 2"]) -> Float[Array, "b h w 2 f"]:
        f, dtype = x.shape[-1], wide_dtype(x.dtype)
        linear: Shapes = {"kernel": (uniform_fan_in, (f, f)), "bias": (nn.initializers.zeros, (f,))}
        p1 = [_Parameters(linear, dtype, name=f"{name}_p1")() for name in ("key", "value")]
        p3 = [_Parameters(linear, dtype, name=f"{name}_p3")() for name in ("key", "value")]
        depth: Shapes = {"kernel": (uniform_fan_in, (3, 3, 1, f))}
        taps = [_Parameters(depth, dtype, name=f"{name}_p3_depthwise")()["kernel"] for name in ("key", "value")]

        first = jnp.dot(x, jnp.concatenate([layer["kernel"] for layer in p1], axis=1).astype(x.dtype))
        second = depthwise(
            zero_border(jnp.concatenate([x, x], axis=-1)), jnp.concatenate(taps, axis=-1)[:, :, 0].astype(x.dtype)
        ).reshape(*x.shape[:3], 2, f)
        kernels = jnp.stack([layer["kernel"] for layer in p3]).astype(x.dtype)  # [2, f, f]
        second = jnp.einsum("bhwtf,tfk->bhwtk", second, kernels)
        paths = jnp.stack([first.reshape(second.shape), second], axis=3)  # [b, h, w, p, 2, f]
        bias = jnp.stack([jnp.stack([layer["bias"] for layer in path]) for path in (p1, p3)])  # [p, 2, f]

        @in_float32
        def mixed(paths: Array, bias: Array, weights: Array) -> Array:
            paths = paths + bias[None, None, None]
            if self.path_act == "softplus":
                paths = nn.softplus(paths)
            return (paths * weights[:, None, None, :, :, None]).sum(3)

        return mixed(paths, bias, weights)
