"""Whole networks: a configuration and a Flax module each."""

import flax.linen as nn

from atlf_jax.models.atlf import PRESETS, ATLFConfig, ATLFNet, FusionConfig, ReconstructionConfig
from atlf_jax.models.zero_filled import ZeroFilled, ZeroFilledConfig

__all__ = [
    "MODELS",
    "PRESETS",
    "ATLFConfig",
    "ATLFNet",
    "FusionConfig",
    "ReconstructionConfig",
    "ZeroFilled",
    "ZeroFilledConfig",
    "build",
]

MODELS = {
    "atlf": (ATLFConfig, ATLFNet),
    "zero_filled": (ZeroFilledConfig, ZeroFilled),
}


def build(config: ATLFConfig | ZeroFilledConfig) -> nn.Module:
    """Make the module that a model configuration describes."""
    for config_class, module_class in MODELS.values():
        if isinstance(config, config_class):
            return module_class(config)
    raise ValueError(f"got a {type(config).__name__}, wanted the Config class of one of: {', '.join(MODELS)}")
