"""GFAB, the global feature block of the fusion process.

Source: CDDFuse ``net.py`` BaseFeatureExtraction (kind "bfe"); houxiaotong/ATLF-NET ``fusion_interfaces.py`` (kind
"conv"). Parameter names follow CDDFuse.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import ChannelNorm, Pointwise, convolve, depthwise, gelu, uniform_fan_in
from atlf_jax.nn.precision import parameter, wide_dtype
from atlf_jax.nn.restormer import MDTA, attend_channels
from atlf_jax.nn.scaffold import ConvBatchNorm

__all__ = ["GFAB", "DenseMDTA", "PairedGDFN", "paired_conv"]


class DenseMDTA(nn.Module):
    """Channel attention whose queries, keys and values come from a 1x1 and a full 3x3 convolution.

    qkv = conv3x3_{3f -> 3f}(PW_{f -> 3f}(x)); y = PW(softmax(t q k^T) v)

    There is neither bias nor nonlinearity between the two convolutions, and zeros stay zeros, so they are one
    3x3 convolution f -> 3f: its kernel is computed at each call (a third of the multiplications per pixel), while
    the parameters stay the published ones.
    """

    heads: int = 8

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        f = x.shape[-1]
        dtype = wide_dtype(x.dtype)
        qkv1 = self.param("qkv1", uniform_fan_in, (f, 3 * f), dtype)
        qkv2 = self.param("qkv2", uniform_fan_in, (3, 3, 3 * f, 3 * f), dtype)
        temperature = self.param("scale", nn.initializers.ones, (self.heads,), dtype)
        projection = self.param("proj", uniform_fan_in, (f, f), dtype)
        kernel = jnp.einsum("fk,ijkl->ijfl", qkv1, qkv2).astype(x.dtype)  # [3, 3, f, 3f]
        return attend_channels(convolve(x, kernel), temperature, projection)


def paired_conv(x: Float[Array, "b h w f"], kernel: Float[Array, "3 3 2 f"]) -> Float[Array, "b h w f"]:
    """Convolve 3x3 in groups of two channels (``feature_group_count = f / 2``), zero padding.

    y_o = k_0o * x_(2 floor(o/2)) + k_1o * x_(2 floor(o/2) + 1)

    Written as two depthwise convolutions, of each channel and of its partner in the pair: on CPU the gradient of the
    grouped convolution is hundreds of times slower.

    Example:
        >>> import jax, numpy as np
        >>> swap = np.pad(np.array([[[[0, 1], [1, 0]]]], np.float32), ((1, 1), (1, 1), (0, 0), (0, 0)))
        >>> jax.jit(paired_conv)(np.array([[[[1, 2]]]], np.float32), swap).ravel().tolist()
        [2.0, 1.0]
    """
    f = x.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    partner = padded.reshape(*padded.shape[:-1], f // 2, 2)[..., ::-1].reshape(padded.shape)
    even, odd = kernel[..., 0::2], kernel[..., 1::2]  # 2 x [3, 3, 2, f/2], by output channel
    own = jnp.stack([even[:, :, 0], odd[:, :, 1]], axis=-1).reshape(3, 3, f)
    other = jnp.stack([even[:, :, 1], odd[:, :, 0]], axis=-1).reshape(3, 3, f)
    return depthwise(padded, own) + depthwise(partner, other)


class PairedGDFN(nn.Module):
    """GDFN with expansion 1 whose 3x3 convolution works on pairs of channels, as published.

    a, b = conv3x3_{groups of 2}(PW(x)); y = PW(gelu(a) b)
    Source: CDDFuse ``net.py`` Mlp.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        f = x.shape[-1]
        y = Pointwise(2 * f, name="project_in")(x)
        y = paired_conv(y, parameter(self, "dwconv", uniform_fan_in, (3, 3, 2, 2 * f), x.dtype))
        gate, signal = jnp.split(y, 2, axis=-1)
        return Pointwise(f, name="project_out")(gelu(gate) * signal)


class GFAB(nn.Module):
    """Extract global (base) features; the same weights serve CT and MR.

    kind "bfe": x <- x + DenseMDTA(LN x); x <- x + PairedGDFN(LN x), as CDDFuse.
    kind "bfe_dw": the same with a depthwise 3x3 in the attention, which is Restormer's MDTA (330,048 parameters
    fewer at 64 features).
    kind "conv": two conv3x3-BatchNorm-ReLU, the published scaffold.

    Example:
        >>> import jax
        >>> jax.eval_shape(GFAB().init_with_output, jax.random.key(0), jnp.zeros((1, 16, 16, 8)))[0].shape
        (1, 16, 16, 8)
    """

    kind: Literal["bfe", "bfe_dw", "conv"] = "bfe"
    heads: int = 8

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], *, deterministic: bool = True) -> Float[Array, "b h w f"]:
        if self.kind == "conv":
            for i in range(2):
                x = ConvBatchNorm(x.shape[-1], name=f"conv_{i}")(x, deterministic=deterministic)
            return x
        if self.kind not in ("bfe", "bfe_dw"):
            raise ValueError(f"GFAB kind: got {self.kind!r}, wanted 'bfe', 'bfe_dw' or 'conv'")
        attention = DenseMDTA if self.kind == "bfe" else MDTA
        x = x + attention(self.heads, name="attn")(ChannelNorm(name="norm1")(x))
        return x + PairedGDFN(name="mlp")(ChannelNorm(name="norm2")(x))
