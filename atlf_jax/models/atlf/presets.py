"""Settings of ATLF-Net with a name. docs/ATLF.md has their sizes and says what each is for."""

from atlf_jax.models.atlf.config import FusionConfig, ReconstructionConfig
from atlf_jax.models.atlf.network import ATLFConfig

__all__ = ["PRESETS"]


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
