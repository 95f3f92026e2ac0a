from . import config, data, evaluation, losses, masks, metrics, models, ops, solvers, training
from .array_types import Batch, Measurement, Reconstruction
from .masks import MASKS, Mask, MaskConfig, make_mask, seed_from_name
from .metrics import METRICS, PROFILES
from .models import MODELS, PRESETS, ATLFConfig, build
from .ops import adjoint, birdcage_maps, fft2c, forward, ifft2c, normal, normalise_maps
from .reconstruct import GuardWarning, load_model, reconstruct
from .solvers import cg_sense

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
    "config",
    "data",
    "evaluation",
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
    "training",
]

__version__: str
