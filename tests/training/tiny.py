"""A network of a few parameters with the whole interface of ``training.objective.Model``, for the training tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from atlf_jax.array_types import FusionFeatures, Measurement, Reconstruction
from atlf_jax.ops.operators import adjoint


class Fusion(nn.Module):
    """Two 3x3 convolutions, shared by the modalities, and their mean."""

    def setup(self) -> None:
        self.encode = nn.Conv(4, (3, 3), name="encode")
        self.decode = nn.Conv(1, (1, 1), name="decode")

    def features(self, ct: Array, mr: Array) -> FusionFeatures:
        c, m = self.encode(ct[..., None]), self.encode(mr[..., None])
        return FusionFeatures(c[..., :2], m[..., :2], c[..., 2:], m[..., 2:])

    def image(self, f_global: Array, f_local: Array) -> Array:
        return nn.sigmoid(self.decode(jnp.concatenate([f_global, f_local], -1))[..., 0])


class Tiny(nn.Module):
    """x + rate * (gated) convolution of (re x, im x, fused)."""

    fused: bool = True
    mu_values: tuple[float, ...] = (1e-3, 1e-4)
    batch_stats: bool = False

    def setup(self) -> None:
        if self.fused:
            self.fusion = Fusion(name="fusion")
        self.conv = nn.Conv(2, (3, 3), name="phase_0")
        if self.batch_stats:
            self.norm = nn.BatchNorm(name="norm", momentum=0.5)

    def autoencode(self, ct: Array, mr: Array) -> tuple[Array, Array, FusionFeatures]:
        f = self.fusion.features(ct, mr)
        return self.fusion.image(f.global_ct, f.local_ct), self.fusion.image(f.global_mr, f.local_mr), f

    def fuse(self, measurement: Measurement) -> tuple[Array, FusionFeatures]:
        f = self.fusion.features(measurement.ct, jnp.abs(_start(measurement)))
        return self.fusion.image(f.global_ct + f.global_mr, f.local_ct + f.local_mr), f

    def __call__(self, measurement: Measurement, *, mu_index: Array | None = None, deterministic: bool = True):
        start = _start(measurement)
        fused, features = self.fuse(measurement) if self.fused else (None, None)
        if self.is_initializing() and self.fused:
            self.autoencode(measurement.ct, measurement.ct)
        side = jnp.zeros_like(start.real) if fused is None else fused
        x = jnp.stack([start.real, start.imag, side], -1)
        update = self.conv(x)
        if self.batch_stats:
            update = self.norm(update, use_running_average=deterministic)
        gate = jnp.ones(start.shape[0], x.dtype)
        if not deterministic:
            gate = gate + 0.01 * jax.random.normal(self.make_rng("gumbel"), gate.shape, gate.dtype)
        if mu_index is not None:
            gate = gate * (1 + jnp.asarray(self.mu_values, x.dtype)[mu_index])
        update = update * gate[:, None, None, None]
        image = start + jax.lax.complex(update[..., 0], update[..., 1])
        symmetry = jnp.square(update).mean((1, 2, 3))
        return Reconstruction(image, fused, symmetry, gate if self.mu_values else None, features)


def _start(measurement: Measurement) -> Array:
    return adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
