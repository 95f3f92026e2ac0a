"""Classical reconstructions.

``SOLVERS`` holds those that need no training as functions of a measurement, like networks; ``evaluate.py --solvers``
scores them. ``COIL_SOLVERS`` are those that several coils are needed for. To add one,
write ``solvers/x.py`` and its row, with settings from ``python -m studies.solver_settings``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.ops import adjoint, ct_picture
from atlf_jax.ops.differences import edge_field
from atlf_jax.solvers.cg_sense import cg_sense
from atlf_jax.solvers.grappa import grappa
from atlf_jax.solvers.l1_wavelet import l1_wavelet
from atlf_jax.solvers.total_variation import guided_total_variation, total_variation

__all__ = [
    "COIL_SOLVERS",
    "SOLVERS",
    "cg_sense",
    "edge_field",
    "grappa",
    "guided_total_variation",
    "l1_wavelet",
    "total_variation",
]

# Defaults for images with max|A^H y| = 1, chosen by `python -m studies.solver_settings` on two or three slices of
# case 41 only; eta = .1 is the largest that was tried.


def _total_variation(measurement: Measurement, *, regularisation: Any = 3e-3) -> Reconstruction:
    kspace, mask, _, coil_maps = measurement
    return Reconstruction(total_variation(kspace, mask, coil_maps, regularisation=regularisation, isotropic=True))


def _l1_wavelet(measurement: Measurement, *, regularisation: Any = 3e-3) -> Reconstruction:
    kspace, mask, _, coil_maps = measurement
    return Reconstruction(l1_wavelet(kspace, mask, coil_maps, regularisation=regularisation))


def _guided_total_variation(measurement: Measurement, *, regularisation: Any = 3e-3, eta: Any = 0.1) -> Reconstruction:
    kspace, mask, ct, coil_maps = measurement
    ct = ct_picture(ct)
    return Reconstruction(
        guided_total_variation(kspace, mask, coil_maps, ct=ct, regularisation=regularisation, eta=eta)
    )


@jax.jit
def _cg_sense(measurement: Measurement, *, regularisation: Any = 1e-2) -> Reconstruction:
    kspace, mask, _, coil_maps = measurement
    return Reconstruction(cg_sense(kspace, mask, coil_maps, regularisation=regularisation))


def _grappa(measurement: Measurement, *, regularisation: Any = 1e-2) -> Reconstruction:
    """Fill in k-space, and combine its coils by the maps."""
    kspace, mask, _, coil_maps = measurement
    filled = jnp.asarray(grappa(kspace, mask, regularisation=regularisation))
    return Reconstruction(adjoint(filled, jnp.ones_like(mask), coil_maps))


SOLVERS: dict[str, Callable[..., Reconstruction]] = {
    "total_variation": _total_variation,
    "l1_wavelet": _l1_wavelet,
    "guided_total_variation": _guided_total_variation,
}

COIL_SOLVERS: dict[str, Callable[..., Reconstruction]] = {"cg_sense": _cg_sense, "grappa": _grappa}
