"""A transformer of two modalities in the manner of MTrans: MR and CT tokens that attend to one another.

    t_m = embed(P_m(H_m(x_0)));  t_c = embed(P_c(H_c(x_c)))                     heads H, patches P of two sizes
    t_m, t_c <- block(t_m; [t_m, t_c]), block(t_c; [t_c, t_m])                  attention and a perceptron each
    x = DC(x_0 + tail(H_m(x_0) + P_m^-1(t_m)); y, M, S)

Source: Feng et al. 2023 (IEEE TMI 42:2804), "Multimodal Transformer for Accelerated MR Imaging". As there, each
modality has a head of three convolutions, MR has small patches for detail and the auxiliary modality large ones for
context, and attention crosses both ways in every layer.
Published size: its tokens are whole patches of head features, each with a learned position for one image size, so its
size depends on the image's. Ours has 7,792,482 parameters.
Lighter than published: tokens are projected to ``embed`` features; positions are sines, so that any image size is
taken; no batch normalisation; no second reconstruction of the auxiliary modality, which is given in full. Added: keys
of both modalities in every attention (MTrans: the other's alone), so that without CT self-attention is left; the
head's features skip the transformer; the network computes an update of the image.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig, Consistency, DataConsistency, project, see_coils, start
from atlf_jax.nn.attention import attend
from atlf_jax.nn.layers import ChannelNorm, Conv, Pointwise, gelu, pixel_shuffle, pixel_unshuffle
from atlf_jax.ops import ct_channels, from_channels, to_channels

__all__ = ["MTrans", "MTransConfig"]


@beartype
@dataclass(frozen=True)
class MTransConfig(BaselineConfig):
    """The two-modality transformer."""

    width: int = 32
    """Features per pixel of the heads."""
    embed: int = 256
    """Features of a token; a multiple of 4."""
    patch: int = 8
    """Pixels along a side of an MR patch."""
    ct_patch: int = 16
    """Pixels along a side of a CT patch."""
    layers: int = 4
    """Layers of cross attention."""
    heads: int = 8
    """Attention heads; a divisor of embed."""
    mlp_ratio: int = 3
    """Hidden features of the perceptron after each attention, as a multiple of embed."""
    dc: Consistency = "none"
    """Data consistency of the result: learned weight ("noise": by the noise of the scan), replacement, or
    none (as published)."""

    def __post_init__(self) -> None:
        sizes = ("width", "embed", "patch", "ct_patch", "layers", "heads", "mlp_ratio")
        if min(getattr(self, name) for name in sizes) < 1:
            raise ValueError(f"got {', '.join(f'{name} {getattr(self, name)}' for name in sizes)}; wanted each above 0")
        if self.embed % 4 or self.embed % self.heads:
            raise ValueError(f"embed {self.embed} is not a multiple of 4 and of heads {self.heads}: change either")

    def build(self) -> "MTrans":
        """Make the module."""
        return MTrans(self)


class Head(nn.Module):
    """Three 3x3 convolutions, each with a ReLU."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w k"]:
        for layer in range(3):
            x = nn.relu(
                Conv(self.width, use_bias=True, kernel_init=nn.initializers.he_normal(), name=f"conv_{layer}")(x)
            )
        return x


class Block(nn.Module):
    """t <- t + attention(t; context); t <- t + MLP(t), each after a normalisation."""

    heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "b h w f"], context: Float[Array, "b m f"]) -> Float[Array, "b h w f"]:
        features = tokens.shape[-1]
        query = Pointwise(features, name="query")(ChannelNorm(name="norm_query")(tokens))
        context = ChannelNorm(name="norm_context")(context)
        key, value = Pointwise(features, name="key")(context), Pointwise(features, name="value")(context)
        attended = attend(query, key, value, heads=self.heads)
        tokens = tokens + Pointwise(features, use_bias=True, name="project")(attended)
        hidden = Pointwise(self.mlp_ratio * features, use_bias=True, name="expand")(
            ChannelNorm(name="norm_mlp")(tokens)
        )
        return tokens + Pointwise(features, use_bias=True, name="contract")(gelu(hidden))


class MTrans(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size.

    Example:
        >>> import jax
        >>> y = np.ones((1, 32, 32), np.complex64)
        >>> network, measurement = MTrans(MTransConfig(layers=1)), Measurement(y, np.ones((1, 1, 32), bool), y.real)
        >>> jax.eval_shape(network.init_with_output, jax.random.key(0), measurement)[0].image.shape
        (1, 32, 32)
    """

    config: MTransConfig = MTransConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        measurement = see_coils(measurement, c.sensitivity)
        x = start(measurement, c)
        h, w = x.shape[-2:]
        features = Head(c.width, name="head")(to_channels(x)[..., : c.channels])
        mr = _embed(features, c.patch, c.embed, name="embed")
        ct = None
        if c.use_ct:
            seen = Head(c.width, name="head_ct")(ct_channels(measurement.ct))
            ct = _embed(seen, c.ct_patch, c.embed, name="embed_ct")
        for layer in range(c.layers):
            context = _sequence(mr) if ct is None else jnp.concatenate([_sequence(mr), _sequence(ct)], axis=1)
            mr = Block(c.heads, c.mlp_ratio, name=f"block_{layer}")(mr, context)
            if ct is not None and layer + 1 < c.layers:  # nothing looks at the CT's tokens after the last layer
                ct = Block(c.heads, c.mlp_ratio, name=f"block_ct_{layer}")(ct, context)
        patches = Pointwise(c.width * c.patch**2, name="unembed")(ChannelNorm(name="norm")(mr))
        features = features + pixel_shuffle(patches, c.patch)[:, :h, :w]
        update = Conv(c.channels, use_bias=True, kernel_init=nn.initializers.zeros, name="tail")(features)
        x = DataConsistency(c.dc, name="consistency")(x + from_channels(update), measurement)
        return Reconstruction(project(x, c), coil_maps=measurement.coil_maps if c.sensitivity else None)


def _embed(x: Float[Array, "b h w f"], patch: int, features: int, *, name: str) -> Float[Array, "b h1 w1 k"]:
    """Project patches to tokens and add their positions; zeros fill the last patches (call inside a module)."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % patch), (0, -x.shape[2] % patch), (0, 0)))
    tokens = Pointwise(features, use_bias=True, name=name)(pixel_unshuffle(x, patch))
    rows, columns = tokens.shape[1:3]
    return tokens + jnp.asarray(_positions(rows, columns, patch, features), tokens.dtype)[None]


def _sequence(tokens: Float[Array, "b h w f"]) -> Float[Array, "b m f"]:
    return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])  # [b, h, w, f] -> [b, h w, f]


def _positions(rows: int, columns: int, patch: int, features: int) -> Float[np.ndarray, "h w f"]:
    """Return sines and cosines of the patches' centres in pixels, half of the features for each axis.

    Wavelengths run geometrically from 2 pi to 2 pi 10,000 pixels (Vaswani et al. 2017), in pixels for both patch sizes,
    so that the same place has the same position in both modalities.
    """
    frequencies = 10_000.0 ** -(np.arange(features // 4) / max(features // 4, 1))

    def encode(count: int) -> np.ndarray:
        angles = ((np.arange(count) + 0.5) * patch)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)  # [count, f / 2]

    shape = (rows, columns, features // 2)
    row, column = np.broadcast_to(encode(rows)[:, None], shape), np.broadcast_to(encode(columns)[None], shape)
    return np.concatenate([row, column], axis=-1)
