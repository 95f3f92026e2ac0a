"""CT-assisted MR reconstruction in JAX and Flax.

    import atlf_jax as atlf

Operators, data consistency, masks, metrics, losses and models are at hand at once; ``atlf.data``, ``atlf.training`` and
``atlf.evaluation`` load when first used, since Grain, Orbax and matplotlib take seconds.
"""

import importlib
from types import ModuleType

from atlf_jax import losses, masks, metrics, models, ops, solvers
from atlf_jax.array_types import Batch, Measurement, Reconstruction
from atlf_jax.masks import MASKS, Mask, MaskConfig, make_mask, seed_from_name
from atlf_jax.metrics import METRICS, PROFILES
from atlf_jax.models import MODELS, PRESETS, ATLFConfig, build
from atlf_jax.ops import adjoint, birdcage_maps, fft2c, forward, ifft2c, normal, normalise_maps
from atlf_jax.reconstruct import GuardWarning, load_model, reconstruct
from atlf_jax.solvers import cg_sense

__version__ = "0.1.0"

__all__ = [
    "MASKS",
    "METRICS",
    "MODELS",
    "PRESETS",
    "PROFILES",
    "ATLFConfig",
    "Batch",
    "GuardWarning",
    "Mask",
    "MaskConfig",
    "Measurement",
    "Reconstruction",
    "adjoint",
    "birdcage_maps",
    "build",
    "cg_sense",
    "fft2c",
    "forward",
    "ifft2c",
    "load_model",
    "losses",
    "make_mask",
    "masks",
    "metrics",
    "models",
    "normal",
    "normalise_maps",
    "ops",
    "reconstruct",
    "seed_from_name",
    "solvers",
]

_LAZY = ("config", "data", "evaluation", "training")


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
