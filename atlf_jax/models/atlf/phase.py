"""One unrolled phase of the reconstruction process."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Complex, Float, Int

from atlf_jax.array_types import Array, Measurement
from atlf_jax.models.atlf.config import DType, ReconstructionConfig
from atlf_jax.models.baseline import sample_weight
from atlf_jax.nn.adain import FusedImage, FusedStyle
from atlf_jax.nn.avat import AVAT
from atlf_jax.nn.brb import BRB
from atlf_jax.nn.ct_adapter import CTAdapter
from atlf_jax.nn.layers import Conv, pixel_shuffle, pixel_unshuffle, xavier
from atlf_jax.nn.precision import narrow, wide
from atlf_jax.ops import ct_channels, from_channels, normal, to_channels
from atlf_jax.ops.consistency import conjugate_gradient, gradient, hard, weighted

__all__ = ["ADAPTER", "Phase"]

ADAPTER = "ct_adapter"  # a phase's CT adapter has its parameters under this name


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
        fused: FusedImage | None,
        mu_index: Int[Array, " b"] | None,
        deterministic: bool,
    ) -> tuple[Complex[Array, "b h w"], Complex[Array, "b h w"] | None, Float[Array, " b"], Float[Array, " b"]]:
        c = self.config
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        channels = 2 if c.complex else 1
        rho = self.param("rho", nn.initializers.constant(0.5), (), x.real.dtype)
        r = self._project(gradient(x, y, mask, rho, maps))

        seen = [to_channels(image)[..., :channels] for image in (r, correction) if image is not None]
        seen = narrow(jnp.concatenate(seen, axis=-1), self.dtype)  # [b, h, w, 1|2|4]
        f = Conv(c.width, kernel_init=xavier, name="conv_D")(pixel_unshuffle(seen, c.stride))
        if c.aux_concat != "none":  # the same as further channels of conv_D, with an initialisation of their own
            kernel_init = nn.initializers.zeros if c.neutral_start else xavier
            aux = Conv(c.width, use_bias=False, kernel_init=kernel_init, name="conv_aux")
            shown = {"ct": ct_channels(measurement.ct)}
            if fused is not None:
                shown["fused"] = fused.image[..., None]
            side = jnp.concatenate([shown[part] for part in c.aux_concat.split("+")], axis=-1)
            f = f + aux(pixel_unshuffle(narrow(side, self.dtype), c.stride))
        if c.ct_adapter != "none":
            adapter = CTAdapter(c.ct_adapter, c.adapter_width, c.stride, name=ADAPTER)
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
                path_act=c.path_act,
                gumbel_hard=c.gumbel_hard,
                tau=c.tau,
                mu_classes=c.mu_classes,
                neutral_start=c.neutral_start,
                name="avat",
            )(f, mu_index, deterministic=deterministic)
            f = f + attended
        if c.adain != "none" and self.styled and fused is not None and fused.moments is not None:
            f = FusedStyle(c.neutral_start, name="adain")(f, fused.moments)
        g, e = BRB(c.width, c.shrink, c.brb_levels, name="brb")(f)
        update = Conv(channels * c.stride**2, kernel_init=xavier, name="conv_G")(g)
        update = from_channels(pixel_shuffle(wide(update), c.stride))

        if c.skip == "nullspace":
            update = update - normal(update, mask, maps)
        u = r + update
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
        v = sample_weight(self, c.dc, y, mask)
        if maps is None:
            return weighted(x, y, mask, v)
        if c.sense_dc == "gradient":
            return gradient(x, y, mask, v / (1 + v), maps)
        return conjugate_gradient(x, y, mask, v, maps, iterations=c.cg_iterations)
