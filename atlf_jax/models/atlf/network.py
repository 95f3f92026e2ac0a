"""ATLF-Net: low-rank fused modality assisted MR reconstruction with an anatomical variation adaptive transformer.

    x_F = fuse(x_c, |A^H y|)                                    the fusion process
    x_0 = A^H y;  x_{k+1} = phase_k(x_k; y, M, S, x_F)          the reconstruction process, K phases

The image state is complex, with zero imaginary part in the one-channel model (``complex=False``, Re o DC).
docs/ATLF.md describes every block and says which parts the published material leaves open.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Int

from atlf_jax.array_types import Array, FusionFeatures, Measurement, Reconstruction
from atlf_jax.models.atlf.config import MU_VALUES, DType, FusionConfig, ReconstructionConfig
from atlf_jax.models.atlf.fusion import FusionProcess
from atlf_jax.models.atlf.phase import Phase
from atlf_jax.nn.adain import FusedImage, patch_moments
from atlf_jax.nn.layers import pixel_unshuffle
from atlf_jax.nn.recompute import recompute
from atlf_jax.nn.sensitivity import SensitivityNet
from atlf_jax.ops import adjoint

__all__ = ["FUSION", "ATLFConfig", "ATLFNet", "Extras"]

FUSION = "fusion"  # the fusion process has its parameters under this name


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
                "set adain to none and aux_concat to none or ct, or use_fusion on"
            )

    def build(self) -> "ATLFNet":
        """Make the module."""
        return ATLFNet(self)

    @property
    def sees_ct(self) -> bool:
        """Whether the CT affects the image."""
        r = self.reconstruction
        return self.use_ct and {r.adain, r.aux_concat, r.ct_adapter} != {"none"}

    @property
    def complex(self) -> bool:
        """Whether the image has an imaginary part."""
        return self.reconstruction.complex

    @property
    def unadapted(self) -> "ATLFConfig":
        """The same network without CT adapters."""
        return dataclasses.replace(self, reconstruction=dataclasses.replace(self.reconstruction, ct_adapter="none"))

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which both sides of an image must be a multiple."""
        return math.lcm(self.fusion.stride, self.reconstruction.stride)


class Extras(NamedTuple):
    """Outputs of ATLF-Net for its own objectives."""

    symmetry: Float[Array, " b"]  # sum over phases of mean(e_k^2)
    path_cost: Float[Array, " b"]  # mean cost of the chosen attention paths, in [min cost, 1]
    features: FusionFeatures | None  # before the low-rank fusion


class ATLFNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``.

    Nothing but the measurement enters: CT, measured samples, mask and coil maps.

    Example:
        >>> import jax
        >>> config = ATLFConfig(fusion=FusionConfig(encoder_blocks=1), reconstruction=ReconstructionConfig(phases=1))
        >>> y = jnp.ones((1, 32, 32), jnp.complex64)
        >>> measurement = Measurement(y, jnp.ones((1, 1, 32), bool), y.real)
        >>> result, _ = jax.eval_shape(ATLFNet(config).init_with_output, jax.random.key(0), measurement)
        >>> result.image.shape, result.fused.shape
        ((1, 32, 32), (1, 32, 32))
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
            self.fusion = FusionProcess(c.fusion, c.dtype, name=FUSION)
        if c.sensitivity is not None:
            self.sensitivity = SensitivityNet(*c.sensitivity, name="sensitivity")
        r = c.reconstruction
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
        shown = None
        if fused is not None:  # the moments are the same for all phases
            moments = None if r.adain == "none" else patch_moments(pixel_unshuffle(fused[..., None], r.stride))
            shown = FusedImage(fused, moments)
        correction = jnp.zeros_like(x) if r.sees_correction else None
        symmetry = cost = jnp.zeros(x.shape[:1], x.real.dtype)
        for phase in self.phases:
            arrays = (x, correction, measurement, shown, mu_index)
            x, correction, phase_symmetry, phase_cost = (
                recompute(phase, *arrays, deterministic=deterministic)
                if r.remat
                else phase(*arrays, deterministic=deterministic)
            )
            symmetry, cost = symmetry + phase_symmetry, cost + phase_cost / -(-r.phases // r.avat_every)
        return Reconstruction(x, fused, estimated, Extras(symmetry, cost, features))

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
