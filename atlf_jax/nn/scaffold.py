"""The convolution block of the published ATLF-Net scaffold, the only place where BatchNorm is kept.

Source: houxiaotong/ATLF-NET ``fusion_interfaces.py``; only the ``published`` and ``conv`` kinds use it.
"""

import flax.linen as nn
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Conv
from atlf_jax.nn.precision import wide_dtype

__all__ = ["ConvBatchNorm", "batch_norm"]


def batch_norm(x: Float[Array, "*b f"], *, deterministic: bool, name: str) -> Float[Array, "*b f"]:
    """Normalise by batch statistics, or when ``deterministic`` by their running mean (call inside a module)."""
    norm = nn.BatchNorm(
        use_running_average=deterministic,
        momentum=0.9,
        epsilon=1e-5,
        dtype=x.dtype,
        param_dtype=wide_dtype(x.dtype),
        name=name,
    )
    return norm(x)


class ConvBatchNorm(nn.Module):
    """Compute relu(BatchNorm(conv3x3(x))) without a convolution bias."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], *, deterministic: bool = True) -> Float[Array, "b h1 w1 k"]:
        x = Conv(self.features, stride=self.stride, name="conv")(x)
        return nn.relu(batch_norm(x, deterministic=deterministic, name="norm"))
