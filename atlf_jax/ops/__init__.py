"""Pure functions of arrays: Fourier and wavelet transforms, acquisition, coils, data consistency, resampling."""

from atlf_jax.ops import consistency
from atlf_jax.ops.coils import (
    centre_window,
    compression_matrix,
    espirit_maps,
    low_resolution_images,
    low_resolution_maps,
    mix_coils,
    noise_covariance,
    noise_level,
    whitening_matrix,
)
from atlf_jax.ops.complex import from_channels, magnitude, rss, to_channels
from atlf_jax.ops.differences import differences, differences_adjoint
from atlf_jax.ops.fourier import fft2c, ifft2c
from atlf_jax.ops.linear_solve import solve_hermitian
from atlf_jax.ops.mirrors import MIRRORS, mirror
from atlf_jax.ops.operators import adjoint, birdcage_maps, forward, normal, normalise_maps, operator_norm
from atlf_jax.ops.resample import bilinear
from atlf_jax.ops.wavelets import daubechies, fwt, iwt
from atlf_jax.ops.windows import ct_channels, ct_picture

__all__ = [
    "MIRRORS",
    "adjoint",
    "bilinear",
    "birdcage_maps",
    "centre_window",
    "compression_matrix",
    "consistency",
    "ct_channels",
    "ct_picture",
    "daubechies",
    "differences",
    "differences_adjoint",
    "espirit_maps",
    "fft2c",
    "forward",
    "from_channels",
    "fwt",
    "ifft2c",
    "iwt",
    "low_resolution_images",
    "low_resolution_maps",
    "magnitude",
    "mirror",
    "mix_coils",
    "noise_covariance",
    "noise_level",
    "normal",
    "normalise_maps",
    "operator_norm",
    "rss",
    "solve_hermitian",
    "to_channels",
    "whitening_matrix",
]
