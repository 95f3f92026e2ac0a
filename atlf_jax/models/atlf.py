"""ATLF-Net: low-rank fused modality assisted MR reconstruction with an anatomical variation adaptive transformer.

    x_F = fuse(x_c, |A^H y|)                                    the fusion process
    x_0 = A^H y;  x_{k+1} = phase_k(x_k; y, M, S, x_F)          the reconstruction process, K phases

The image state is complex, with zero imaginary part in the one-channel model (``complex=False``, Re o DC).
docs/ATLF.md describes every block and says which parts the published material leaves open.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Complex, Float, Int

from atlf_jax.array_types import FusionFeatures, Measurement, Reconstruction
from atlf_jax.nn import backend
from atlf_jax.nn.adain import FusedStyle
from atlf_jax.nn.avat import AVAT
from atlf_jax.nn.brb import BRB
from atlf_jax.nn.ct_adapter import CTAdapter
from atlf_jax.nn.gfab import GFAB
from atlf_jax.nn.layers import Conv, pixel_shuffle, pixel_unshuffle, xavier
from atlf_jax.nn.lfab import LFAB
from atlf_jax.nn.lrfm import LRFM
from atlf_jax.nn.precision import wide
from atlf_jax.nn.recompute import recompute
from atlf_jax.nn.restormer import RestormerDecoder, RestormerEncoder
from atlf_jax.nn.sensitivity import SensitivityNet
from atlf_jax.ops import adjoint, ct_channels, ct_picture, from_channels, normal, to_channels
from atlf_jax.ops.consistency import coilwise, conjugate_gradient, gradient, hard, weighted

__all__ = ["PRESETS", "ATLFConfig", "ATLFNet", "FusionConfig", "FusionProcess", "Phase", "ReconstructionConfig"]

MU_VALUES = (2e-3, 1e-3, 5e-4, 1e-4, 5e-5, 1e-5)  # DPC-DUN's multipliers, from cheap to exact
SOFTPLUS_INVERSE_OF_1 = 0.5413248546129181  # log(e - 1)

DType = Literal["float32", "bfloat16"]


@beartype
@dataclass(frozen=True)
class FusionConfig:
    """The fusion process: encoder, GFAB, LFAB, LRFM, decoder."""

    encoder: Literal["cddfuse", "published", "unet"] = "cddfuse"
    """Restormer encoder at full resolution (CDDFuse), published convolution scaffold, or three-level Restormer."""
    share_encoder: bool = True
    """One encoder for CT and MR, or one each."""
    width: int = 64
    """Features per pixel."""
    encoder_blocks: int = 4
    """Restormer blocks of the encoder."""
    decoder_blocks: int = 4
    """Restormer blocks of the decoder."""
    heads: int = 8
    """Heads of the channel attention; divides width."""
    stride: int = 1
    """Work on stride x stride cells of pixels (pixel-unshuffle): the cost falls by stride^2."""
    gfab: Literal["bfe", "bfe_dw", "conv"] = "bfe"
    """Global block: CDDFuse's base block, the same with a depthwise convolution, or two convolutions (published)."""
    lfab: Literal["inn", "conv", "glow1x1", "detail"] = "inn"
    """Local block: invertible network, two convolutions, one invertible 1x1 (published), or CDDFuse's node."""
    lfab_layers: int = 3
    """Invertible layers of the local block."""
    s_clamp: float | None = None
    """Soft bound of the coupling's log-scale; None = unbounded, as published."""
    branches: Literal["both", "global", "local"] = "both"
    """Features that are fused and decoded: GFAB's and LFAB's, or zeros in place of one's."""
    lrfm: Literal["pixel", "pooled", "sum"] = "pixel"
    """Low-rank fusion at every pixel, or of pooled features as a gate; or the sum of both features, without it."""
    lrfm_order: Literal["sum_last", "diagram"] = "sum_last"
    """Sum over ranks after the product (the method), or inside each factor (as drawn; rank one)."""
    rank: int = 4
    """Rank of the fusion tensor."""
    lrfm_init: Literal["xavier", "sum"] = "xavier"
    """Published initialisation, or one whose output starts as the sum of both features."""
    lrfm_subnet: bool = False
    """Published pre-fusion networks with BatchNorm."""
    post_fuse_layers: bool = False
    """One more global and local block after the fusion, as in CDDFuse."""
    decoder_skip: Literal["none", "mri", "ct+mri"] = "none"
    """Image added before the decoder's sigmoid."""
    remat: bool = False
    """Recompute the Restormer blocks in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"fusion width {self.width} is not an even multiple of heads {self.heads}: change one of them"
            )


@beartype
@dataclass(frozen=True)
class ReconstructionConfig:
    """The reconstruction process: K unrolled phases of gradient step, AVAT, AdaIN, BRB and data consistency."""

    phases: int = 9
    """Number of unrolled phases K."""
    share_phases: bool = False
    """One set of weights for all phases."""
    complex: bool = True
    """Two image channels (re, im); False = one real channel, with the real part taken after data consistency."""
    width: int = 32
    """Features per pixel."""
    stride: int = 1
    """Work on stride x stride cells of pixels (pixel-unshuffle): the cost falls by stride^2."""
    avat: bool = True
    """Use the transformer."""
    avat_every: int = 1
    """AVAT and AdaIN act in phases 0, n, 2n, ... for avat_every = n; the phases between are gradient, BRB and DC."""
    avat_sampling: Literal["dat", "local9", "full", "window"] = "dat"
    """Keys: deformed grid, deformed 3x3 neighbourhood, all pixels (small images only), or windows."""
    key_grid: int = 16
    """Sampled keys along the image height, whatever the image size."""
    heads: int = 4
    """Attention heads."""
    groups: int = 2
    """Groups of features with offsets of their own."""
    offset_tanh: bool = True
    """Bound offsets by tanh; False = clip positions only."""
    offset_range: float = 1.0
    """Largest offset in cells of the key grid."""
    spb_position: bool = True
    """Stripe position bias on the sampling positions: anisotropic stretch and smooth shift."""
    spb_logit: Literal["none", "stripe1d", "dat2d", "log_cpb", "feature"] = "stripe1d"
    """Position bias of the attention logits."""
    dpa_paths: Literal["conv", "skip"] = "conv"
    """Paths of keys and values: 1x1 and 3x3 convolutions, or identity, 3x3 and no attention."""
    dpa_selector: Literal["pooled", "dpcdun"] = "pooled"
    """Order of pooling and controllable unit in the path selector."""
    path_act: Literal["none", "softplus"] = "none"
    """Activation of keys and values (published: softplus)."""
    gumbel_hard: bool = True
    """One-hot path choice with straight-through gradient in training."""
    tau: float = 1.0
    """Temperature of the Gumbel softmax."""
    mu_classes: int = 6
    """Multipliers that the paths are conditioned on; 0 = no conditioning and no cost."""
    adain: Literal["none", "conv", "image", "film"] = "conv"
    """How the fused image styles the features; none = not at all."""
    adain_alpha: float = 1.0
    """Blend of styled and plain features."""
    neutral_start: bool = False
    """AVAT's output, AdaIN's (then learned) blend and what aux_concat adds start at zero: every phase starts as
    ISTA-Net+'s."""
    aux_concat: Literal["none", "fused", "ct", "fused+ct"] = "none"
    """Also give conv_D channels: the fused image, or the CT."""
    ct_adapter: Literal["none", "ct", "guide", "ct+guide"] = "none"
    """What adapters beside the phases see, which training leaves out before its stages adapters and joint: the CT, or
    what its edges change in the gradient of the image's total variation, for which display windows matter little."""
    adapter_width: int = 32
    """Features inside an adapter."""
    shrink: Literal["soft", "none"] = "soft"
    """Shrinkage between the halves of the BRB."""
    brb_levels: int = 1
    """Resolution levels of the BRB; 1 = ISTA-Net+'s block, more = coarser copies inside it."""
    brb_width_factor: int = 1
    """Growth of the BRB's width from level to level."""
    sees_correction: bool = False
    """Give conv_D also what data consistency changed in the phase before: how wrong it was about what was measured."""
    skip: Literal["before_dc", "nullspace", "none"] = "before_dc"
    """Residual: before data consistency, through the unmeasured samples only, or none."""
    dc: Literal["soft", "hard", "none"] = "soft"
    """Data consistency after each phase: learned weight, replacement, or none (ISTA-Net+)."""
    sense_dc: Literal["cg", "gradient", "coilwise"] = "cg"
    """Multi-coil form of the soft data consistency."""
    cg_iterations: int = 8
    """Iterations of the conjugate gradient."""
    remat: bool = False
    """Recompute each phase in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        if self.avat_every < 1:
            raise ValueError(f"got avat_every {self.avat_every}, wanted 1 (every phase) or more")
        for name in ("heads", "groups"):
            if self.width % getattr(self, name):
                raise ValueError(f"width {self.width} is not a multiple of {name} {getattr(self, name)}: change either")
        if self.phases < 1:
            raise ValueError(f"got {self.phases} phases, wanted at least 1")
        if self.sees_correction and self.dc == "none":
            raise ValueError("sees_correction is on but dc none corrects nothing: set dc to soft or hard, or it off")
        if self.share_phases and self.avat_every > 1:
            raise ValueError("share_phases has one set of weights for every phase: set avat_every to 1")
        if not 0 <= self.mu_classes <= len(MU_VALUES):
            raise ValueError(f"got mu_classes {self.mu_classes}, wanted 0 to {len(MU_VALUES)}")


@beartype
@dataclass(frozen=True)
class ATLFConfig:
    """ATLF-Net. The defaults are the preset ``faithful``."""

    use_fusion: bool = True
    """Compute the fused image; False needs adain none, and aux_concat without it."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    use_ct: bool = True
    """False: the CT is taken as zero, which is the same network without it; use_fusion must be off too."""
    dtype: DType = "float32"
    """Features, convolutions and matrix products. Parameters, image, transforms, data consistency, softmax, norms,
    sampling positions and thresholds are float32 in either case."""
    sensitivity: tuple[int, int] | None = None
    """Features and poolings of a network that estimates the coil maps from the centre of k-space (E2E-VarNet: 8 and 4);
    None: the given maps. The fusion stages, which come before it is trained, look at the given ones."""

    def __post_init__(self) -> None:
        r = self.reconstruction
        if self.use_fusion and not self.use_ct:
            raise ValueError("use_ct is off but the fusion process fuses the CT: set use_fusion off too, or use_ct on")
        if not self.use_fusion and (r.adain != "none" or "fused" in r.aux_concat):
            raise ValueError(
                f"use_fusion is off but phases use the fused image (adain {r.adain!r}, aux_concat {r.aux_concat!r}): "
                "set adain to none and aux_concat to none, ct, guide or ct+guide, or use_fusion on"
            )

    @property
    def sees_ct(self) -> bool:
        """Say whether the CT reaches the image."""
        r = self.reconstruction
        return self.use_ct and {r.adain, r.aux_concat, r.ct_adapter} != {"none"}

    @property
    def unadapted(self) -> "ATLFConfig":
        """The same network without CT adapters."""
        return dataclasses.replace(self, reconstruction=dataclasses.replace(self.reconstruction, ct_adapter="none"))

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which both sides of an image must be a multiple."""
        return math.lcm(self.fusion.stride, self.reconstruction.stride)


def _features(x: Float[Array, "*b"], dtype: DType) -> Float[Array, "*b"]:
    """Return ``x`` as what features are computed from: "float32" leaves it as it is, also if that is float64."""
    return x.astype(jnp.bfloat16) if dtype == "bfloat16" else x


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
        self.encoder_ct = self.encoder if c.share_encoder else RestormerEncoder(**encoder, name="encoder_ct")
        self.gfab = GFAB(c.gfab, c.heads, name="gfab")
        self.lfab = LFAB(c.lfab, c.lfab_layers, c.s_clamp, name="lfab")
        global_width = 2 * c.width if c.encoder == "published" else c.width
        lrfm = {"rank": c.rank, "order": c.lrfm_order, "kind": c.lrfm, "start": c.lrfm_init, "subnet": c.lrfm_subnet}
        self.lrfm_global = LRFM(global_width, **lrfm, name="lrfm_global")
        self.lrfm_local = LRFM(c.width, **lrfm, name="lrfm_local")
        if c.post_fuse_layers:
            self.post_gfab = GFAB(c.gfab, c.heads, name="post_gfab")
            self.post_lfab = LFAB(c.lfab, 1, c.s_clamp, name="post_lfab")
        self.decoder = RestormerDecoder(
            c.encoder, c.width, c.decoder_blocks, c.heads, outputs=c.stride**2, remat=c.remat, name="decoder"
        )

    def _encode(
        self, image: Float[Array, "b h w f"], encoder: RestormerEncoder, deterministic: bool
    ) -> tuple[Float[Array, "b h1 w1 f"], Float[Array, "b h1 w1 f"]]:
        """Return the global and local features of one modality."""
        image = _features(image, self.dtype)
        encoded = encoder(pixel_unshuffle(image, self.config.stride), deterministic=deterministic)
        local, wide = encoded if self.config.encoder == "published" else (encoded, encoded)
        kept = self.config.branches
        return (
            jnp.zeros_like(wide) if kept == "local" else self.gfab(wide, deterministic=deterministic),
            jnp.zeros_like(local) if kept == "global" else self.lfab(local, deterministic=deterministic),
        )

    def _decode(
        self, global_features: Array, local_features: Array, skip: Array | None, deterministic: bool
    ) -> Float[Array, "b h w"]:
        if skip is not None:
            skip = pixel_unshuffle(skip[..., None], self.config.stride)
        image = self.decoder(global_features, local_features, skip, deterministic=deterministic)
        return pixel_shuffle(image, self.config.stride)[..., 0]

    def features(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> FusionFeatures:
        """Return global and local features of both modalities, in the dtype that they are computed in."""
        ct, mr = ct_channels(ct), mr[..., None]
        if self.config.share_encoder:  # it takes as many channels of either
            mr = jnp.repeat(mr, ct.shape[-1], axis=-1)
        unrolled = self.config.encoder == "published" or self.is_initializing() or backend.accelerated()
        if self.config.share_encoder and not unrolled:
            return self._features_in_turn(ct, mr, deterministic)
        global_ct, local_ct = self._encode(ct, self.encoder_ct, deterministic)
        global_mr, local_mr = self._encode(mr, self.encoder, deterministic)
        return FusionFeatures(global_ct, global_mr, local_ct, local_mr)

    def _features_in_turn(self, ct: Array, mr: Array, deterministic: bool) -> FusionFeatures:
        """Encode one after the other in a loop: half of the memory of inference (docs/DESIGN.md, 41).

        The gradient is that of the same without a loop, since it needs what both leave behind in any case.
        """

        def loop(module: "FusionProcess", images: Array) -> tuple[Array, Array]:
            def one(module: "FusionProcess", carry: None, image: Array) -> tuple[None, tuple[Array, Array]]:
                return carry, module._encode(image, module.encoder, deterministic)

            return nn.scan(one, variable_broadcast="params")(module, None, images)[1]

        def both(module: "FusionProcess", images: Array) -> tuple[Array, Array]:
            encoded = [module._encode(image, module.encoder, deterministic) for image in images]
            return jax.tree.map(lambda *parts: jnp.stack(parts), *encoded)

        def forward(module: "FusionProcess", images: Array) -> tuple[tuple[Array, Array], Any]:
            return nn.vjp(both, module, images)

        wide, local = nn.custom_vjp(loop, forward, lambda back, gradient: back(gradient))(self, jnp.stack([ct, mr]))
        return FusionFeatures(wide[0], wide[1], local[0], local[1])

    def __call__(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w"], FusionFeatures]:
        """Return the fused image, in (0, 1), and the features before the low-rank fusion."""
        z = self.features(ct, mr, deterministic=deterministic)
        fused_global = self.lrfm_global(z.global_ct, z.global_mr, deterministic=deterministic)
        fused_local = self.lrfm_local(z.local_ct, z.local_mr, deterministic=deterministic)
        if self.config.post_fuse_layers:
            fused_global = self.post_gfab(fused_global, deterministic=deterministic)
            fused_local = self.post_lfab(fused_local, deterministic=deterministic)
        skip = {"none": None, "mri": mr, "ct+mri": ct_picture(ct) + mr}[self.config.decoder_skip]
        return self._decode(fused_global, fused_local, skip, deterministic), FusionFeatures(*map(wide, z))

    def autoencode(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"], FusionFeatures]:
        """Decode each modality from its own features, past the low-rank fusion (CDDFuse's first training phase)."""
        z = self.features(ct, mr, deterministic=deterministic)
        ct_hat = self._decode(z.global_ct, z.local_ct, None, deterministic)
        mr_hat = self._decode(z.global_mr, z.local_mr, None, deterministic)
        return ct_hat, mr_hat, FusionFeatures(*map(wide, z))


class Phase(nn.Module):
    """One unrolled phase.

    r = x - rho A^H(A x - y)                        gradient step (ISTA)
    f = conv_D(r[, c]) + what the CT adapter adds;  a = f + AVAT(f; mu)
    d = AdaIN(a, style(x_F))
    g, e = BRB(d);  u = r + conv_G(g);  x <- DC_v(u; y, M, S);  c <- x - u

    Returns the image, the correction c (None where no phase sees it), mean(e^2) per example and the path cost per
    example. rho and v have gradients and ranges of their own: trained rho exceed 1. Source: ISTA-Net+ (Zhang and
    Ghanem 2018) around the published diagram; c is ours.
    """

    config: ReconstructionConfig
    styled: bool = True  # whether AVAT and AdaIN act in this phase
    dtype: DType = "float32"  # of the features

    @nn.compact
    def __call__(
        self,
        x: Complex[Array, "b h w"],
        correction: Complex[Array, "b h w"] | None,
        measurement: Measurement,
        fused: Float[Array, "b h w"] | None,
        mu_index: Int[Array, " b"] | None,
        deterministic: bool,
    ) -> tuple[Complex[Array, "b h w"], Complex[Array, "b h w"] | None, Float[Array, " b"], Float[Array, " b"]]:
        c = self.config
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        channels = 2 if c.complex else 1
        rho = self.param("rho", nn.initializers.constant(0.5), (), x.real.dtype)
        r = self._project(gradient(x, y, mask, rho, maps))

        seen = [to_channels(image)[..., :channels] for image in (r, correction) if image is not None]
        seen = _features(jnp.concatenate(seen, axis=-1), self.dtype)  # [b, h, w, 1|2|4]
        f = Conv(c.width, kernel_init=xavier, name="conv_D")(pixel_unshuffle(seen, c.stride))
        if c.aux_concat != "none":  # the same as further channels of conv_D, with an initialisation of their own
            kernel_init = nn.initializers.zeros if c.neutral_start else xavier
            aux = Conv(c.width, use_bias=False, kernel_init=kernel_init, name="conv_aux")
            shown = {"fused": lambda: fused[..., None], "ct": lambda: ct_channels(measurement.ct)}
            side = jnp.concatenate([shown[part]() for part in c.aux_concat.split("+")], axis=-1)
            f = f + aux(pixel_unshuffle(_features(side, self.dtype), c.stride))
        if c.ct_adapter != "none":
            adapter = CTAdapter(c.ct_adapter, c.adapter_width, c.stride, name="ct_adapter")
            f = adapter(f, r if c.complex else r.real, measurement.ct)

        cost = jnp.zeros(x.shape[:1], x.real.dtype)
        if c.avat and self.styled:
            attended, cost = AVAT(
                heads=c.heads,
                groups=c.groups,
                key_grid=c.key_grid,
                sampling=c.avat_sampling,
                offset_tanh=c.offset_tanh,
                offset_range=c.offset_range,
                stripe_position=c.spb_position,
                stripe_logit=c.spb_logit,
                paths=c.dpa_paths,
                selector=c.dpa_selector,
                path_act=c.path_act,
                gumbel_hard=c.gumbel_hard,
                tau=c.tau,
                mu_classes=c.mu_classes,
                neutral_start=c.neutral_start,
                name="avat",
            )(f, mu_index, deterministic=deterministic)
            f = f + attended
        if c.adain != "none" and self.styled:
            style = pixel_unshuffle(_features(fused[..., None], self.dtype), 1 if c.adain == "image" else c.stride)
            f = FusedStyle(c.adain, c.adain_alpha, c.neutral_start, name="adain")(f, style)
        g, e = BRB(c.width, c.shrink, c.brb_levels, c.brb_width_factor, name="brb")(f)
        update = Conv(channels * c.stride**2, kernel_init=xavier, name="conv_G")(g)
        update = from_channels(pixel_shuffle(wide(update), c.stride))

        if c.skip == "nullspace":
            update = update - normal(update, mask, maps)
        u = update if c.skip == "none" else r + update
        x = self._project(self._data_consistency(u, y, mask, maps))
        correction = x - self._project(u) if c.sees_correction else None
        return x, correction, jnp.square(wide(e)).mean((1, 2, 3)), cost

    def _project(self, x: Complex[Array, "b h w"]) -> Complex[Array, "b h w"]:
        return x if self.config.complex else x.real.astype(x.dtype)

    def _data_consistency(self, x: Array, y: Array, mask: Array, maps: Array | None) -> Complex[Array, "b h w"]:
        c = self.config
        if c.dc == "none":
            return x
        if c.dc == "hard":
            return hard(x, y, mask, maps)
        v = nn.softplus(self.param("dc", nn.initializers.constant(SOFTPLUS_INVERSE_OF_1), (), x.real.dtype))
        if maps is None:
            return weighted(x, y, mask, v)
        if c.sense_dc == "gradient":
            return gradient(x, y, mask, v / (1 + v), maps)
        if c.sense_dc == "coilwise":
            return coilwise(x, y, mask, v, maps)
        return conjugate_gradient(x, y, mask, v, maps, iterations=c.cg_iterations)


class ATLFNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``.

    Nothing but the measurement enters: CT, measured samples, mask and coil maps.
    """

    config: ATLFConfig = ATLFConfig()

    @property
    def unadapted(self) -> "ATLFNet":
        """The same network without CT adapters: what they are added to."""
        return ATLFNet(self.config.unadapted)

    @property
    def mu_values(self) -> tuple[float, ...]:
        """The multipliers of the path cost, by class; empty when the paths are not conditioned on one."""
        r = self.config.reconstruction
        return MU_VALUES[: r.mu_classes] if r.avat else ()

    def setup(self) -> None:
        c = self.config
        if c.use_fusion:
            self.fusion = FusionProcess(c.fusion, c.dtype, name="fusion")
        if c.sensitivity is not None:
            self.sensitivity = SensitivityNet(*c.sensitivity, name="sensitivity")
        r = c.reconstruction
        if r.share_phases:
            self.phases = [Phase(r, dtype=c.dtype, name="phase")] * r.phases
        else:
            self.phases = [Phase(r, k % r.avat_every == 0, c.dtype, name=f"phase_{k}") for k in range(r.phases)]

    def __call__(
        self, measurement: Measurement, *, mu_index: Int[Array, " b"] | None = None, deterministic: bool = True
    ) -> Reconstruction:
        """Reconstruct the image; ``mu_index`` picks the multiplier per example (None = the smallest)."""
        r = self.config.reconstruction
        if not self.config.use_ct:
            measurement = measurement._replace(ct=jnp.zeros_like(measurement.ct))
        estimated = None
        if self.config.sensitivity is not None and measurement.kspace.ndim > measurement.mask.ndim:
            estimated = self.sensitivity(measurement.kspace, measurement.mask)
            measurement = measurement._replace(coil_maps=estimated)
        x = adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
        fused, features = (
            self.fuse(measurement, deterministic=deterministic) if self.config.use_fusion else (None, None)
        )
        if not r.complex:
            x = x.real.astype(x.dtype)
        correction = jnp.zeros_like(x) if r.sees_correction else None
        symmetry, cost = 0.0, 0.0
        for phase in self.phases:
            arrays = (x, correction, measurement, fused, mu_index)
            x, correction, phase_symmetry, phase_cost = (
                recompute(phase, *arrays, deterministic=deterministic)
                if r.remat
                else phase(*arrays, deterministic=deterministic)
            )
            symmetry, cost = symmetry + phase_symmetry, cost + phase_cost / -(-r.phases // r.avat_every)
        return Reconstruction(x, fused, symmetry, cost, features, estimated)

    def fuse(
        self, measurement: Measurement, *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w"], FusionFeatures]:
        """Fuse the CT with the zero-filled MR; return the fused image and the features before the fusion."""
        zero_filled = jnp.abs(adjoint(measurement.kspace, measurement.mask, measurement.coil_maps))
        return self.fusion(measurement.ct, zero_filled, deterministic=deterministic)

    def autoencode(
        self, ct: Float[Array, "b *k h w"], mr: Float[Array, "b h w"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"], FusionFeatures]:
        """Decode each modality from its own features: CDDFuse's first training phase."""
        return self.fusion.autoencode(ct, mr, deterministic=deterministic)


def robust() -> ATLFConfig:
    """Return the faithful network with the switches that train well: additive start, bounded scales, lean GFAB."""
    return ATLFConfig(fusion=FusionConfig(lrfm_init="sum", s_clamp=2.0, gfab="bfe_dw"))


def published() -> ATLFConfig:
    """Return the closest runnable form of the published code.

    Its convolutional scaffold with BatchNorm, pooled position features, softplus keys and values, soft paths, no
    shrinkage. Its attention over all pixels does not fit in memory, so windows stand in for the 33x33 blocks it ran on.
    """
    return ATLFConfig(
        fusion=FusionConfig(encoder="published", gfab="conv", lfab="conv"),
        reconstruction=ReconstructionConfig(
            complex=False,
            avat_sampling="window",
            spb_position=False,
            spb_logit="feature",
            path_act="softplus",
            gumbel_hard=False,
            mu_classes=0,
            shrink="none",
        ),
    )


def istanet_plus() -> ATLFConfig:
    """Return exactly ISTA-Net+ (Zhang and Ghanem 2018): no CT, AVAT, AdaIN or DC; one real channel."""
    return ATLFConfig(
        use_fusion=False,
        reconstruction=ReconstructionConfig(complex=False, avat=False, adain="none", dc="none"),
    )


def compact() -> ATLFConfig:
    """Return the network that trains without a GPU: the whole method on cells of 2 x 2 pixels (docs/ATLF.md)."""
    return ATLFConfig(
        fusion=FusionConfig(
            width=16,
            encoder_blocks=1,
            decoder_blocks=1,
            heads=4,
            stride=4,
            gfab="bfe_dw",
            lfab_layers=1,
            s_clamp=2.0,
            lrfm_init="sum",
        ),
        reconstruction=ReconstructionConfig(
            phases=8,
            stride=2,
            brb_levels=2,
            key_grid=8,
            avat_every=4,
            neutral_start=True,
        ),
    )


def best() -> ATLFConfig:
    """Return ten narrow phases on whole pixels without fusion process, AdaIN and AVAT. Each has a CT adapter beside it.

    What the parts are worth is measured in docs/DESIGN.md, 47 and 49.
    """
    reconstruction = ReconstructionConfig(
        phases=10,
        width=16,
        brb_levels=3,
        avat=False,
        adain="none",
        sees_correction=True,
        ct_adapter="ct+guide",
        adapter_width=16,
    )
    return ATLFConfig(use_fusion=False, reconstruction=reconstruction)


PRESETS = {
    "faithful": ATLFConfig,
    "robust": robust,
    "published": published,
    "istanet_plus": istanet_plus,
    "compact": compact,
    "best": best,
}
