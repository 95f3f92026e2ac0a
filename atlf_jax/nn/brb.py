"""The basic reconstruction block: ISTA-Net+'s learned sparsifying transform, shrinkage and inverse transform."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Conv, Pointwise, xavier
from atlf_jax.nn.precision import in_float32, wide_dtype

__all__ = ["BRB", "soft_threshold"]


@in_float32
@jaxtyped(typechecker=beartype)
def soft_threshold(u: Float[Array, "*b"], theta: float | Float[Array, ""]) -> Float[Array, "*b"]:
    """Shrink every value towards zero by theta.

    sign(u) relu(|u| - theta); for theta >= 0 this is u - clip(u, -theta, theta), the proximal map of theta |u|_1.

    Args:
        u: values of any shape.
        theta: threshold in the unit of ``u``. It is free: trained ISTA-Net+ weights hold a negative one, which
            pushes values away from zero.

    Returns:
        Shrunk values, shaped as ``u``.

    Example:
        >>> soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0).tolist()
        [-2.0, 0.0, 1.0]

    Source: Zhang and Ghanem 2018 (ISTA-Net), eq. 9; ISTA-Net-PyTorch, BasicBlock.
    """
    return jnp.sign(u) * nn.relu(jnp.abs(u) - theta)


def _pool(x: Float[Array, "b h w f"]) -> Float[Array, "b h2 w2 f"]:
    """Average 2x2 cells; an odd last row or column is repeated first."""
    b, h, w, f = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(b, -(-h // 2), 2, -(-w // 2), 2, f).mean((2, 4))  # [b, h2, 2, w2, 2, f] -> [b, h2, w2, f]


class BRB(nn.Module):
    """u = W2 relu(W1 d); g = W4 relu(W3 soft(u, theta)); e = W4 relu(W3 u) - d.

    ``e`` measures how far the second half is from the inverse of the first; it is taken before shrinkage and the
    loss drives it to zero. With ``levels`` > 1 the shrunk u of each level is corrected by a block on its 2x2 means
    (so the whole is U-shaped); the correction starts at zero, so that every number of levels starts from the published
    block.

    Example:
        >>> import jax
        >>> d = jnp.zeros((1, 16, 16, 8))
        >>> (g, e), _ = jax.eval_shape(BRB(features=8).init_with_output, jax.random.key(0), d)
        >>> g.shape, e.shape
        ((1, 16, 16, 8), (1, 16, 16, 8))

    Source: Zhang and Ghanem 2018 (ISTA-Net+), eqs. 12-14, and its xavier-normal start; the levels are ours.
    """

    features: int = 32
    shrink: Literal["soft", "none"] = "soft"
    levels: int = 1

    @nn.compact
    def __call__(self, d: Float[Array, "b h w f"]) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w f"]]:
        def conv(name: str) -> Conv:
            return Conv(self.features, kernel_init=xavier, name=name)

        u = conv("conv1_forward")(d)
        u = conv("conv2_forward")(nn.relu(u))
        conv1_backward, conv2_backward = conv("conv1_backward"), conv("conv2_backward")

        def synthesis(u: Array) -> Array:
            return conv2_backward(nn.relu(conv1_backward(u)))

        shrunk = u
        if self.shrink == "soft":
            shrunk = soft_threshold(u, self.param("theta", nn.initializers.constant(0.01), (), wide_dtype(d.dtype)))
        if self.levels > 1:
            shrunk = shrunk + self._coarser(shrunk)
        return synthesis(shrunk), synthesis(u) - d

    def _coarser(self, u: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        coarse = Pointwise(self.features, kernel_init=xavier, name="down")(_pool(u))
        coarse, _ = BRB(self.features, self.shrink, self.levels - 1, name="coarse")(coarse)
        coarse = Pointwise(self.features, kernel_init=nn.initializers.zeros, name="up")(coarse)
        repeated = coarse.repeat(2, axis=1).repeat(2, axis=2)  # [b, h2, w2, f] -> [b, 2 h2, 2 w2, f]
        return repeated[:, : u.shape[1], : u.shape[2]]
