"""The fusion process: CT and zero-filled MR become one image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from atlf_jax.array_types import Array, FusionFeatures
from atlf_jax.models.atlf.config import DType, FusionConfig
from atlf_jax.nn import backend
from atlf_jax.nn.gfab import GFAB
from atlf_jax.nn.layers import pixel_shuffle, pixel_unshuffle
from atlf_jax.nn.lfab import LFAB
from atlf_jax.nn.lrfm import LRFM
from atlf_jax.nn.precision import narrow, wide
from atlf_jax.nn.recompute import keep_products
from atlf_jax.nn.restormer import RestormerDecoder, RestormerEncoder
from atlf_jax.ops import ct_channels

__all__ = ["FusionProcess"]


class FusionProcess(nn.Module):
    """Fuse CT and zero-filled MR into one image.

    z^g = LRFM_g(GFAB(E(x_c)), GFAB(E(x_u))); z^l = LRFM_l(LFAB(E(x_c)), LFAB(E(x_u))); x_F = D([z^g, z^l])

    Encoder, GFAB and LFAB share their weights between the modalities. A CT of several windows comes in as as many
    channels, and the MR as often; what comes out is one image all the same. Source: the published diagram, with CDDFuse
    (Zhao et al. 2023) for the blocks and LMF (Liu et al. 2018) for the fusion.
    """

    config: FusionConfig
    dtype: DType = "float32"

    def setup(self) -> None:
        c = self.config
        encoder = {"kind": c.encoder, "width": c.width, "blocks": c.encoder_blocks, "heads": c.heads, "remat": c.remat}
        self.encoder = RestormerEncoder(**encoder, name="encoder")
        self.gfab = GFAB(c.gfab, c.heads, name="gfab")
        self.lfab = LFAB(c.lfab, c.lfab_layers, c.s_clamp, name="lfab")
        global_width = 2 * c.width if c.encoder == "published" else c.width
        lrfm = {"rank": c.rank, "order": c.lrfm_order, "kind": c.lrfm, "start": c.lrfm_init}
        self.lrfm_global = LRFM(global_width, **lrfm, name="lrfm_global")
        self.lrfm_local = LRFM(c.width, **lrfm, name="lrfm_local")
        self.decoder = RestormerDecoder(
            c.encoder, c.width, c.decoder_blocks, c.heads, outputs=c.stride**2, remat=c.remat, name="decoder"
        )

    def _encode(
        self, image: Float[Array, "b h w f"], deterministic: bool
    ) -> tuple[Float[Array, "b h1 w1 f"], Float[Array, "b h1 w1 f"]]:
        """Return the global and local features of one modality."""
        image = narrow(image, self.dtype)
        encoded = self.encoder(pixel_unshuffle(image, self.config.stride), deterministic=deterministic)
        local, whole = encoded if isinstance(encoded, tuple) else (encoded, encoded)  # published: two
        kept = self.config.branches
        return (
            jnp.zeros_like(whole) if kept == "local" else keep_products(self.gfab, whole, deterministic=deterministic),
            jnp.zeros_like(local) if kept == "global" else keep_products(self.lfab, local, deterministic=deterministic),
        )

    def _decode(self, global_features: Array, local_features: Array, deterministic: bool) -> Float[Array, "b h w"]:
        image = self.decoder(global_features, local_features, deterministic=deterministic)
        return pixel_shuffle(image, self.config.stride)[..., 0]

    def features(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> FusionFeatures:
        """Return global and local features of both modalities, in the dtype that they are computed in."""
        ct = ct_channels(ct)
        mr = jnp.repeat(mr[..., None], ct.shape[-1], axis=-1)  # the encoder takes as many channels of either
        in_turn = self.config.encoder != "published" and not self.is_initializing()
        if in_turn and backend.accelerated():
            return self._features_together(ct, mr, deterministic)
        if in_turn:
            return self._features_in_turn(ct, mr, deterministic)
        global_ct, local_ct = self._encode(ct, deterministic)
        global_mr, local_mr = self._encode(mr, deterministic)
        return FusionFeatures(global_ct, global_mr, local_ct, local_mr)

    def _features_together(self, ct: Array, mr: Array, deterministic: bool) -> FusionFeatures:
        """Encode both as one batch: half of the kernels, each of twice the size.

        The modalities alternate along the batch axis, so that both of an example stay on the device that has it.
        """
        b = ct.shape[0]
        images = jnp.stack([ct, mr], axis=1).reshape(2 * b, *ct.shape[1:])
        encoded = self._encode(images, deterministic)
        whole, local = (x.reshape(b, 2, *x.shape[1:]) for x in encoded)
        return FusionFeatures(whole[:, 0], whole[:, 1], local[:, 0], local[:, 1])

    def _features_in_turn(self, ct: Array, mr: Array, deterministic: bool) -> FusionFeatures:
        """Encode one after the other in a loop: half of the memory of inference (docs/DESIGN.md, 41).

        The gradient is that of the same without a loop, since it needs what both leave behind in any case.
        """

        def loop(module: "FusionProcess", images: Array) -> tuple[Array, Array]:
            def one(module: "FusionProcess", carry: None, image: Array) -> tuple[None, tuple[Array, Array]]:
                return carry, module._encode(image, deterministic)

            return nn.scan(one, variable_broadcast="params")(module, None, images)[1]

        def both(module: "FusionProcess", images: Array) -> tuple[Array, Array]:
            encoded = [module._encode(image, deterministic) for image in images]
            return jax.tree.map(lambda *parts: jnp.stack(parts), *encoded)

        def forward(module: "FusionProcess", images: Array) -> tuple[tuple[Array, Array], Any]:
            return nn.vjp(both, module, images)

        whole, local = nn.custom_vjp(loop, forward, lambda back, gradient: back(gradient))(self, jnp.stack([ct, mr]))
        return FusionFeatures(whole[0], whole[1], local[0], local[1])

    def __call__(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w"], FusionFeatures]:
        """Return the fused image, in (0, 1), and the features before the low-rank fusion."""
        z = self.features(ct, mr, deterministic=deterministic)
        fused_global = keep_products(self.lrfm_global, z.global_ct, z.global_mr)
        fused_local = keep_products(self.lrfm_local, z.local_ct, z.local_mr)
        return self._decode(fused_global, fused_local, deterministic), FusionFeatures(*map(wide, z))

    def autoencode(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"], FusionFeatures]:
        """Decode each modality from its own features, past the low-rank fusion (CDDFuse's first training phase)."""
        z = self.features(ct, mr, deterministic=deterministic)
        ct_hat = self._decode(z.global_ct, z.local_ct, deterministic)
        mr_hat = self._decode(z.global_mr, z.local_mr, deterministic)
        return ct_hat, mr_hat, FusionFeatures(*map(wide, z))
