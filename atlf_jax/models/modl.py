"""MoDL: one denoiser, used again and again between exact solutions of the data consistency problem.

    x_0 = A^H y;  z_k = x_k + CNN(x_k, x_c);  x_{k+1} = argmin_x |A x - y|^2 + lambda |x - z_k|^2

Source: Aggarwal et al. 2019 (IEEE TMI 38:394), "MoDL: Model-Based Deep Learning Architecture for Inverse Problems".
Published size: 10 iterations, 5 layers with 64 features: 113,155 parameters without CT and batch normalisation.
Departures: no batch normalisation; lambda > 0 by construction; the CT may be one more channel. With one coil the
solution has a closed form.
"""

from dataclasses import dataclass
from math import log

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig, as_input, project, see_coils, start
from atlf_jax.nn.cnn import CNN
from atlf_jax.ops import from_channels
from atlf_jax.ops.consistency import conjugate_gradient, weighted

__all__ = ["MoDL", "MoDLConfig"]


@beartype
@dataclass(frozen=True)
class MoDLConfig(BaselineConfig):
    """MoDL. The defaults are its published size."""

    iterations: int = 10
    """Denoising and data consistency steps, all with the same weights."""
    depth: int = 5
    """Convolutions of the denoiser."""
    width: int = 64
    """Features per pixel."""
    initial_lambda: float = 0.05
    """Weight of the denoised image against the samples at the start of training."""
    cg_iterations: int = 10
    """Iterations of the conjugate gradient, for several coils."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.depth, self.width, self.cg_iterations) < 1 or self.initial_lambda <= 0:
            raise ValueError(
                f"got iterations {self.iterations}, depth {self.depth}, width {self.width}, cg_iterations "
                f"{self.cg_iterations}, initial_lambda {self.initial_lambda}: wanted at least 1, and a lambda above 0"
            )

    def build(self) -> "MoDL":
        """Make the module."""
        return MoDL(self)


class MoDL(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size.

    Example:
        >>> import jax, numpy as np
        >>> y = np.ones((1, 16, 16), np.complex64)
        >>> network = MoDL(MoDLConfig(use_ct=False, iterations=2))
        >>> measurement = Measurement(y, np.ones((1, 1, 16), bool), y.real)
        >>> result, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), measurement)
        >>> result.image.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))  # of one denoiser
        ((1, 16, 16), 113155)
    """

    config: MoDLConfig = MoDLConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        measurement = see_coils(measurement, c.sensitivity)
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        x = start(measurement, c)
        denoiser = CNN(c.channels, c.width, c.depth, name="denoiser")
        log_lambda = self.param("log_lambda", nn.initializers.constant(log(c.initial_lambda)), (), x.real.dtype)
        v = jnp.exp(-log_lambda)  # 1 / lambda
        for _ in range(c.iterations):
            z = x + from_channels(denoiser(as_input(x, measurement, c)))
            x = (
                weighted(z, y, mask, v)
                if maps is None
                else conjugate_gradient(z, y, mask, v, maps, iterations=c.cg_iterations)
            )
            x = project(x, c)
        return Reconstruction(x, coil_maps=measurement.coil_maps if c.sensitivity else None)
