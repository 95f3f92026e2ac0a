"""Dynamic path attention: each example picks the path along which keys and values are projected.

A selector sees the pooled features and the wanted trade-off between quality and computation, mu, and draws one path
by a Gumbel-softmax. After DPC-DUN (Song, Chen and Zhang 2023), where mu is the Lagrange multiplier of a cost.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Array, Float, Int, Key, jaxtyped

from atlf_jax.nn.layers import ChannelNorm, Conv, Depthwise, Pointwise, uniform_fan_in
from atlf_jax.nn.precision import in_float32, wide

__all__ = ["DynamicPaths", "PathSelector", "gumbel_softmax"]


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

    Source: Jang, Gu and Poole 2017, eq. 2.
    """
    if key is not None:
        logits = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = nn.softmax(logits / tau)
    if not hard:
        return soft
    one_hot = jax.nn.one_hot(soft.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    return one_hot + (soft - lax.stop_gradient(soft))  # the bracket is exactly 0, its gradient is not


class PathSelector(nn.Module):
    """Logits over the paths, from the sampled features and the class of mu; in float32 once pooled.

    order:
        ``pooled``: mean over the grid, controllable unit, norm, ReLU, norm, linear; ``dpcdun``: DPC-DUN's own,
        controllable unit around a 3x3 convolution of the map, mean, linear to f / 4, ReLU, linear.

    The controllable unit is softplus(W1 e) h + W2 e with the one-hot e of mu's class, and the identity at the
    start; ``mu_classes=0`` leaves it out.
    """

    paths: int = 2
    heads: int = 1
    mu_classes: int = 6
    order: Literal["pooled", "dpcdun"] = "pooled"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None
    ) -> tuple[Float[Array, "b p"], ...]:
        features = x.shape[-1]
        if self.order == "dpcdun":
            x = wide(Conv(features, use_bias=True, name="conv")(x))
            h = self._control(x, mu_index).mean((1, 2))  # [b, h, w, f] -> [b, f]
            h = nn.relu(Pointwise(max(features // 4, 1), use_bias=True, name="hidden")(h))
        else:
            h = self._control(wide(x).mean((1, 2), keepdims=True), mu_index)[:, 0, 0]  # [b, 1, 1, f] -> [b, f]
            h = ChannelNorm(name="norm2")(nn.relu(ChannelNorm(name="norm1")(h)))

        def bias_init(_: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            # DPC-DUN starts with "execute" preferred over the cheaper paths
            start = (*(0.1,) * (self.paths - 1), 2.0) if self.order == "dpcdun" else (0.0,) * self.paths
            return jnp.asarray(start, dtype).reshape(shape)

        return tuple(
            nn.Dense(
                self.paths,
                kernel_init=uniform_fan_in,
                bias_init=bias_init,
                param_dtype=h.dtype,
                name="logits" if self.heads == 1 else f"logits_{head}",
            )(h)
            for head in range(self.heads)
        )

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
    With ``paths="skip"`` one choice holds for both: the features as they are, P3, or no attention at all.

    Returns keys, values, the weight with which the attention is executed (1 but for "skip") and the cost of the
    choice, sum_j a_j c_j with c_j = multiply-adds of path j over those of the dearest; both ``[b]``. ``queries`` is
    the number of pixels that attend to one key, which the cost of an executed attention grows with. The cost is 0
    without mu. Both paths are computed whatever the choice: in a batch there is nothing to gain from branching.
    """

    paths: Literal["conv", "skip"] = "conv"
    path_act: Literal["none", "softplus"] = "none"
    gumbel_hard: bool = True
    tau: float = 1.0
    mu_classes: int = 6
    selector: Literal["pooled", "dpcdun"] = "pooled"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], mu_index: Int[Array, " b"] | None, *, queries: int, deterministic: bool
    ) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w f"], Float[Array, " b"], Float[Array, " b"]]:
        features = x.shape[-1]
        if self.paths == "skip":
            attention = 2 * queries * features
            macs: tuple[int, ...] = (attention, attention + 2 * features * (features + 9), 0)
            weights = self._choose(x, mu_index, 3, ("select",), deterministic) * 2
        else:
            macs = (features * features, features * (features + 9))
            weights = self._choose(x, mu_index, 2, ("select_key", "select_value"), deterministic)

        keys = self._mix(x, weights[0], "key")
        values = self._mix(x, weights[1], "value")
        executed = weights[0][:, 0] + weights[0][:, 1]
        relative = jnp.array(macs, executed.dtype) / max(macs)
        cost = (weights[0] + weights[1]) @ relative / 2 if self.mu_classes else jnp.zeros_like(executed)
        return keys, values, executed, cost

    def _choose(
        self, x: Array, mu_index: Array | None, paths: int, names: tuple[str, ...], deterministic: bool
    ) -> tuple[Float[Array, "b p"], ...]:
        if self.selector == "dpcdun":  # one selector with a head for each choice
            all_logits = PathSelector(paths, len(names), self.mu_classes, self.selector, name="select")(x, mu_index)
        else:
            all_logits = tuple(
                PathSelector(paths, 1, self.mu_classes, self.selector, name=name)(x, mu_index)[0] for name in names
            )
        return tuple(
            gumbel_softmax(
                None if deterministic else self.make_rng("gumbel"), logits, tau=self.tau, hard=self.gumbel_hard
            )
            for logits in all_logits
        )

    def _mix(self, x: Array, weights: Array, name: str) -> Array:
        features = x.shape[-1]
        first = x if self.paths == "skip" else Pointwise(features, use_bias=True, name=f"{name}_p1")(x)
        second = Depthwise(name=f"{name}_p3_depthwise")(x)
        second = Pointwise(features, use_bias=True, name=f"{name}_p3")(second)
        if self.path_act == "softplus":
            first, second = (in_float32(nn.softplus)(x) for x in (first, second))
        a = weights[:, :, None, None, None]  # [b, p, 1, 1, 1]
        return in_float32(lambda first, second, a: a[:, 0] * first + a[:, 1] * second)(first, second, a)
