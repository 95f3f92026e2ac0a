"""ATLF-Net. To read it: ``network`` (the whole), ``fusion`` and ``phase`` (its parts), ``config`` (what is open)."""

from atlf_jax.models.atlf.config import DType, FusionConfig, ReconstructionConfig
from atlf_jax.models.atlf.network import ATLFConfig, ATLFNet
from atlf_jax.models.atlf.phase import Phase
from atlf_jax.models.atlf.presets import PRESETS

__all__ = ["PRESETS", "ATLFConfig", "ATLFNet", "DType", "FusionConfig", "Phase", "ReconstructionConfig"]
