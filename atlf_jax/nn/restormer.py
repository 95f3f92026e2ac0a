"""Restormer blocks, and the encoder and decoder of the fusion process.

Source: Zamir et al. 2022, "Restormer" (blocks); Zhao et al. 2023, "CDDFuse" ``net.py`` (encoder, decoder);
houxiaotong/ATLF-NET ``fusion_interfaces.py`` (kind "published"). Parameter names follow CDDFuse.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn import backend
from atlf_jax.nn.layers import (
    ChannelNorm,
    Conv,
    Depthwise,
    Pointwise,
    add_bias,
    gelu,
    pixel_shuffle,
    uniform_fan_in,
    zero_border,
)
from atlf_jax.nn.precision import wide, wide_dtype
from atlf_jax.nn.recompute import REUSED_NAME, keep_products, recompute
from atlf_jax.nn.scaffold import ConvBatchNorm, batch_norm

__all__ = [
    "GDFN",
    "MDTA",
    "EncoderKind",
    "RestormerBlock",
    "RestormerDecoder",
    "RestormerEncoder",
    "attend_channels",
    "channel_attention",
    "project_attended",
]

EncoderKind = Literal["cddfuse", "published"]


def _inverse_norm(x: Float[Array, "b n f"]) -> Float[Array, "b f"]:
    """Return 1 / max(||x||, 1e-12) over the pixels: PyTorch's ``normalize``, with gradient 0 of the norm at 0."""
    return lax.rsqrt(jnp.maximum(jnp.square(wide(x)).sum(1), 1e-24))


def channel_attention(
    query: Float[Array, "b n f"], key: Float[Array, "b n f"], temperature: Float[Array, " g"]
) -> Float[Array, "b g f1 f1"]:
    """Return the attention between the f1 = f / g channels of each head; every row sums to 1.

    A_ij = softmax_j(t_g <q_i / ||q_i||, k_j / ||k_j||>), inner products and norms over all pixels

    The norms divide the small product instead of the maps, so that q and k are read once. The channels of a head
    are contiguous. The result is float32 at least.

    Example:
        >>> x = jnp.arange(8.0).reshape(1, 4, 2)
        >>> attention = jax.jit(channel_attention)(x, x, jnp.ones(1))
        >>> attention.shape, attention.sum(-1).round(4).tolist()
        ((1, 1, 2, 2), [[[1.0, 1.0]]])
    """
    b, n, f = query.shape
    g = temperature.shape[0]
    if f % g:
        raise ValueError(f"channel attention: got {f} features and {g} heads, wanted heads that divide the features")
    # one product of all channels, of which the heads are diagonal blocks: faster than g thin ones
    gram = jnp.einsum("bni,bnj->bij", query, key, preferred_element_type=wide_dtype(query.dtype))
    gram = gram.reshape(b, g, f // g, g, f // g)
    product = jnp.einsum("bgigj->bgij", gram)
    rows = _inverse_norm(query).reshape(b, g, f // g, 1)
    columns = _inverse_norm(key).reshape(b, g, 1, f // g)
    return jax.nn.softmax(product * rows * columns * temperature.reshape(1, g, 1, 1), axis=-1)


def project_attended(
    attention: Float[Array, "b g f1 f1"], value: Float[Array, "b n f"], projection: Float[Array, "f k"]
) -> Float[Array, "b n k"]:
    """Return (A v) . projection, with the attention folded into the projection first.

    y_no = sum_gj v_n(gj) sum_i A_gij P_(gi)o

    The attended map is never formed: one matrix product over the pixels instead of two.

    Example:
        >>> value, identity = jnp.arange(8.0).reshape(1, 4, 2), jnp.eye(2)
        >>> jax.jit(project_attended)(identity.reshape(1, 1, 2, 2), value, identity).tolist() == value.tolist()
        True
    """
    b, g, f1, _ = attention.shape
    folded = jnp.einsum("bgij,gik->bgjk", attention, projection.reshape(g, f1, -1)).astype(value.dtype)
    return jnp.einsum("bnf,bfk->bnk", value, folded.reshape(b, g * f1, -1))


def attend_channels(
    qkv: Float[Array, "b h w f3"], temperature: Float[Array, " g"], projection: Float[Array, "f k"]
) -> Float[Array, "b h w k"]:
    """Apply channel attention to the stacked maps (query, key, value) and project the result.

    Example:
        >>> jax.eval_shape(attend_channels, jnp.ones((1, 2, 3, 6)), jnp.ones(1), jnp.eye(2)).shape
        (1, 2, 3, 2)
    """
    b, h, w, _ = qkv.shape
    qkv = qkv.reshape(b, h * w, -1)
    query, key, value = jnp.split(qkv, 3, axis=-1)  # 3 x [b, n, f]
    if backend.accelerated():
        attention = _whole_channel_attention(qkv[..., : 2 * query.shape[-1]], temperature)
        folded = jnp.einsum("bij,ik->bjk", attention, projection).astype(value.dtype)
        y = jnp.einsum("bnf,bfk->bnk", value, folded)
    else:
        y = project_attended(channel_attention(query, key, temperature), value, projection)
    return y.reshape(b, h, w, -1)


@jax.custom_vjp
def _gram(x: Float[Array, "b n f"]) -> Float[Array, "b f f"]:
    """Return x^T x, float32 at least; its gradient is one product, where the automatic one is the sum of two."""
    return jnp.einsum("bni,bnj->bij", x, x, preferred_element_type=wide_dtype(x.dtype))


def _gram_backward(x: Array, d_gram: Array) -> tuple[Array]:
    return (jnp.einsum("bnj,bji->bni", x, (d_gram + d_gram.swapaxes(1, 2)).astype(x.dtype)),)


_gram.defvjp(lambda x: (_gram(x), x), _gram_backward)


def _whole_channel_attention(
    query_and_key: Float[Array, "b n f2"], temperature: Float[Array, " g"]
) -> Float[Array, "b f f"]:
    """Return ``channel_attention`` as the diagonal blocks of a matrix that is zero elsewhere.

    Few large operations for accelerators: one product of all maps has the inner products and, on its diagonal, the
    norms; no head is cut out.
    """
    f = query_and_key.shape[-1] // 2
    gram = _gram(query_and_key)
    squares = jnp.where(jnp.eye(2 * f, dtype=bool)[None], gram, 0).sum(-1)
    norms = lax.rsqrt(jnp.maximum(squares, 1e-24))
    rows = (norms[:, :f] * jnp.repeat(temperature, f // temperature.shape[0])[None])[:, :, None]
    head = np.arange(f) * temperature.shape[0] // f
    same_head = jnp.asarray(head[:, None] == head[None])[None]
    logits = jnp.where(same_head, gram[:, :f, f:] * rows * norms[:, None, f:], -jnp.inf)
    return checkpoint_name(jax.nn.softmax(logits), REUSED_NAME)


def _project(
    x: Float[Array, "b h w f"], features: int, use_bias: bool, pointwise: str, depthwise: str
) -> Float[Array, "b h w k"]:
    """Return DW3x3(PW(x)), zero beyond the image, in the calling module's own parameters.

    Without biases zeros stay zeros: on a CPU the border is put around the few channels before the 1x1 convolution. On
    an accelerator it costs nothing after it, where it is a part of the next kernel.
    """
    if use_bias or backend.accelerated():
        x = Pointwise(features, use_bias=use_bias, name=pointwise)(x)
        return Depthwise(use_bias=use_bias, name=depthwise)(x)
    x = Pointwise(features, name=pointwise)(zero_border(x))
    return Depthwise(pad_mode="valid", name=depthwise)(x)


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention: attention between channels, linear in the number of pixels.

    q, k, v = DW3x3(PW(x)); y = PW(softmax(t q k^T) v)
    Source: Zamir et al. 2022, eq. 1; CDDFuse ``net.py`` Attention.
    """

    heads: int = 8
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        features = x.shape[-1]
        qkv = _project(x, 3 * features, self.use_bias, "qkv", "qkv_dwconv")
        dtype = wide_dtype(x.dtype)
        temperature = self.param("temperature", nn.initializers.ones, (self.heads,), dtype)
        projection = self.param("project_out", uniform_fan_in, (features, features), dtype)
        y = attend_channels(qkv, temperature, projection)
        if self.use_bias:
            y = add_bias(y, self.param("project_out_bias", nn.initializers.zeros, (features,), dtype))
        return y


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network with int(f * expansion) hidden features.

    a, b = DW3x3(PW(x)); y = PW(gelu(a) b), exact GELU
    Source: Zamir et al. 2022, eq. 2; CDDFuse ``net.py`` FeedForward.
    """

    expansion: float = 2.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        features = x.shape[-1]
        hidden = int(features * self.expansion)
        gate, signal = jnp.split(_project(x, 2 * hidden, self.use_bias, "project_in", "dwconv"), 2, axis=-1)
        y = gelu(gate) * signal
        return Pointwise(features, use_bias=self.use_bias, name="project_out")(y)


class RestormerBlock(nn.Module):
    """Compute x <- x + MDTA(LN x); x <- x + GDFN(LN x).

    Source: Zamir et al. 2022, section 3; CDDFuse ``net.py`` TransformerBlock.
    """

    heads: int = 8
    expansion: float = 2.0
    use_bias: bool = False
    bias_free_norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        normed = ChannelNorm(bias_free=self.bias_free_norm, name="norm1")(x)
        x = x + MDTA(self.heads, use_bias=self.use_bias, name="attn")(normed)
        normed = ChannelNorm(bias_free=self.bias_free_norm, name="norm2")(x)
        return x + GDFN(self.expansion, use_bias=self.use_bias, name="ffn")(normed)


class RestormerEncoder(nn.Module):
    """Encode one image into features; the same weights serve CT and MR.

    kind "cddfuse": conv3x3 and ``blocks`` Restormer blocks at full resolution -> [b, h, w, width].
    kind "published": convolutions with BatchNorm -> the pair (local [b, h, w, width], global [b, h/4, w/4, 2 width]),
    quarter sides rounded up.

    Example:
        >>> encoder, image = RestormerEncoder(width=16, blocks=1), jnp.zeros((1, 32, 24, 1))
        >>> jax.eval_shape(encoder.init_with_output, jax.random.key(0), image)[0].shape
        (1, 32, 24, 16)
    """

    kind: EncoderKind = "cddfuse"
    width: int = 64
    blocks: int = 4
    heads: int = 8
    expansion: float = 2.0
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, deterministic: bool = True
    ) -> Float[Array, "b h w f"] | tuple[Float[Array, "b h w f"], Float[Array, "b h4 w4 f2"]]:
        if self.kind == "published":
            return self._published(x, deterministic=deterministic)
        if self.kind != "cddfuse":
            raise ValueError(f"encoder kind: got {self.kind!r}, wanted 'cddfuse' or 'published'")
        x = Conv(self.width, name="patch_embed")(x)
        for i in range(self.blocks):
            block = RestormerBlock(self.heads, self.expansion, name=f"block_{i}")
            x = recompute(block, x) if self.remat else keep_products(block, x)
        return x

    def _published(self, x: Array, *, deterministic: bool) -> tuple[Array, Array]:
        local, quarter = x, x
        for i in range(2):
            local = ConvBatchNorm(self.width, name=f"local_{i}")(local, deterministic=deterministic)
            wide = ConvBatchNorm(self.width * (1 + i), stride=2, name=f"global_{i}")
            quarter = wide(quarter, deterministic=deterministic)
        return local, quarter


class RestormerDecoder(nn.Module):
    """Decode the fused global and local features into an image.

    kind "cddfuse": sigmoid(convs(blocks(PW[global, local]))), in (0, 1). CDDFuse's min-max
    normalisation after the sigmoid at test time is left out: it belongs to its fusion metrics.
    kind "published": the quarter-resolution global features are enlarged by a transposed convolution; the output is
    linear.
    """

    kind: EncoderKind = "cddfuse"
    width: int = 64
    blocks: int = 4
    heads: int = 8
    expansion: float = 2.0
    remat: bool = False
    outputs: int = 1

    @nn.compact
    def __call__(
        self,
        global_features: Float[Array, "b h1 w1 f1"],
        local_features: Float[Array, "b h w f"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b h w o"]:
        if self.kind == "published":
            return wide(self._published(global_features, local_features, deterministic=deterministic))
        if self.kind != "cddfuse":
            raise ValueError(f"decoder kind: got {self.kind!r}, wanted 'cddfuse' or 'published'")
        x = jnp.concatenate([global_features, local_features], axis=-1)  # [b, h, w, 2f]
        x = Pointwise(self.width, name="reduce_channel")(x)
        for i in range(self.blocks):
            block = RestormerBlock(self.heads, self.expansion, name=f"block_{i}")
            x = recompute(block, x) if self.remat else keep_products(block, x)
        x = nn.leaky_relu(Conv(self.width // 2, name="output_0")(x), negative_slope=0.01)
        x = Conv(self.outputs, name="output_1")(x)
        return nn.sigmoid(wide(x))

    def _published(self, global_features: Array, local_features: Array, *, deterministic: bool) -> Array:
        h, w = local_features.shape[1:3]
        # a transposed 4x4 convolution of stride 4 does not overlap: it is a 1x1 convolution and a shuffle
        x = pixel_shuffle(Pointwise(16 * self.width, name="enlarge")(global_features), 4)
        x = nn.relu(batch_norm(x, deterministic=deterministic, name="enlarge_norm"))
        x = jnp.concatenate([x[:, :h, :w], local_features], axis=-1)  # [b, h, w, 2f]
        x = ConvBatchNorm(self.width, name="fuse")(x, deterministic=deterministic)
        return Pointwise(self.outputs, use_bias=True, name="output")(x)
