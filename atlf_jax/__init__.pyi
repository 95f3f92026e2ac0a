from . import config, data, evaluation, losses, masks, metrics, models, ops, solvers, training
from .array_types import Batch, Measurement, Reconstruction
from .interface import adjoint, fft2c, forward, ifft2c, normal
from .masks import MASKS, Mask, MaskConfig, make_mask, seed_from_name
from .metrics import METRICS, PROFILES
from .models import MODELS, PRESETS, ATLFConfig, build
from .ops import birdcage_maps, normalise_maps
from .reconstruct import ReconstructionRefused, reconstruct
from .solvers import cg_sense, guided_total_variation, l1_wavelet, total_variation
from .trained import GuardWarning, Network, load, load_model, load_pretrained
from .trained.pytorch import from_torch

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
    "Network",
    "Reconstruction",
    "ReconstructionRefused",
    "adjoint",
    "birdcage_maps",
    "build",
    "cg_sense",
    "config",
    "data",
    "evaluation",
    "fft2c",
    "forward",
    "from_torch",
    "guided_total_variation",
    "ifft2c",
    "l1_wavelet",
    "load",
    "load_model",
    "load_pretrained",
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
    "total_variation",
    "training",
]

__version__: str
