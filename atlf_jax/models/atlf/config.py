"""Settings of the two processes of ATLF-Net, fusion and reconstruction.

The published material leaves these points open. Each is a field here; its default is our reading:

| point | field | default, and why |
| --- | --- | --- |
| encoder and decoder | ``FusionConfig.encoder`` | CDDFuse's, which the authors' cost script measures |
| global block | ``FusionConfig.gfab`` | CDDFuse's base block; the published file has two convolutions |
| local block | ``FusionConfig.lfab`` | invertible layers with couplings: the published 1x1 alone would be linear |
| sum over ranks | ``FusionConfig.lrfm_order`` | after the product, as the method's code; as drawn it has rank one |
| sampled keys | ``avat_sampling`` | a deformed grid: all pairs of pixels, as published, take 69 GB at 256 x 256 |
| stripe position bias | ``spb_position``, ``spb_logit`` | two readings of a phrase found nowhere else, from zero |
| path attention, mu | ``gumbel_hard``, ``tau``, ``mu_classes`` | DPC-DUN's meaning: mu is the price of a path |
| keys and values | ``path_act`` | no activation; the published code has softplus |
| style | ``adain`` | AdaIN by a convolution of the fused image |
| shrinkage | ``shrink`` | ISTA-Net+'s soft threshold, which the published code drops |
| skip and consistency | ``skip``, ``dc`` | a skip before consistency: after it, measured samples would count twice |

docs/ATLF.md explains them block by block, and says what was tried and taken out.
"""

from dataclasses import dataclass
from typing import Literal

from beartype import beartype

__all__ = ["MU_VALUES", "DType", "FusionConfig", "ReconstructionConfig"]

MU_VALUES = (2e-3, 1e-3, 5e-4, 1e-4, 5e-5, 1e-5)  # DPC-DUN's multipliers, from cheap to exact

DType = Literal["float32", "bfloat16"]


@beartype
@dataclass(frozen=True)
class FusionConfig:
    """The fusion process: encoder, GFAB, LFAB, LRFM, decoder."""

    encoder: Literal["cddfuse", "published"] = "cddfuse"
    """Restormer encoder at full resolution (CDDFuse), or the published convolutions."""
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
    lfab: Literal["inn", "conv", "detail"] = "inn"
    """Local block: invertible network, two convolutions (published), or CDDFuse's node."""
    lfab_layers: int = 3
    """Invertible layers of the local block."""
    s_clamp: float | None = None
    """Soft bound of the coupling's log-scale; None = unbounded, as published."""
    branches: Literal["both", "global", "local"] = "both"
    """Features that are fused and decoded: GFAB's and LFAB's, or zeros in place of one's."""
    lrfm: Literal["pixel", "sum"] = "pixel"
    """Low-rank fusion at every pixel, or the sum of both features, without it."""
    lrfm_order: Literal["sum_last", "diagram"] = "sum_last"
    """Sum over ranks after the product (the method), or inside each factor (as drawn; rank one)."""
    rank: int = 4
    """Rank of the fusion tensor."""
    lrfm_init: Literal["xavier", "sum"] = "xavier"
    """Published initialisation, or one whose output starts as the sum of both features."""
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
    avat_sampling: Literal["dat", "full", "window"] = "dat"
    """Keys: deformed grid, all pixels (small images only), or windows."""
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
    spb_logit: Literal["none", "stripe1d", "feature"] = "stripe1d"
    """Position bias of the attention logits: none, tables over stripes, or a map added to the queries (published)."""
    path_act: Literal["none", "softplus"] = "none"
    """Activation of keys and values (published: softplus)."""
    gumbel_hard: bool = True
    """One-hot path choice with straight-through gradient in training."""
    tau: float = 1.0
    """Temperature of the Gumbel softmax."""
    mu_classes: int = 6
    """Multipliers that the paths are conditioned on; 0 = no conditioning and no cost."""
    adain: Literal["none", "conv"] = "conv"
    """How the fused image styles the features: by AdaIN with a convolution of it, or not at all."""
    neutral_start: bool = False
    """AVAT's output, AdaIN's (then learned) blend and what aux_concat adds start at zero: every phase starts as
    ISTA-Net+'s."""
    aux_concat: Literal["none", "fused", "ct", "fused+ct"] = "none"
    """Also give conv_D channels: the fused image, or the CT."""
    ct_adapter: Literal["none", "ct", "guide", "ct+guide"] = "none"
    """Input of the adapters beside the phases: the CT, or its guide, the change by its edges in the gradient of the
    image's total variation, which depends little on display windows."""
    adapter_width: int = 32
    """Features inside an adapter."""
    shrink: Literal["soft", "none"] = "soft"
    """Shrinkage between the halves of the BRB."""
    brb_levels: int = 1
    """Resolution levels of the BRB; 1 = ISTA-Net+'s block, more = coarser copies inside it."""
    sees_correction: bool = False
    """Also give conv_D the change by data consistency in the phase before, the error at the measured samples."""
    skip: Literal["before_dc", "nullspace"] = "before_dc"
    """Residual: before data consistency, or through the unmeasured samples only."""
    dc: Literal["soft", "noise", "hard", "none"] = "soft"
    """Data consistency after each phase: learned weight, learned weight by the noise of the scan, replacement, or none
    (ISTA-Net+)."""
    sense_dc: Literal["cg", "gradient"] = "cg"
    """Multi-coil form of the soft data consistency: conjugate gradients, or one gradient step."""
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
        if not 0 <= self.mu_classes <= len(MU_VALUES):
            raise ValueError(f"got mu_classes {self.mu_classes}, wanted 0 to {len(MU_VALUES)}")
