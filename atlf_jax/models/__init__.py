"""Whole networks: a configuration and a Flax module each. Trained ones are loaded by ``atlf.load``."""

from functools import partial

import flax.linen as nn

from atlf_jax.models.atlf import PRESETS, ATLFConfig, ATLFNet, FusionConfig, ReconstructionConfig
from atlf_jax.models.dc_cnn import DCCNN, DCCNNConfig
from atlf_jax.models.e2e_varnet import E2EVarNet, E2EVarNetConfig
from atlf_jax.models.modl import MoDL, MoDLConfig
from atlf_jax.models.mtrans import MTrans, MTransConfig
from atlf_jax.models.unet import ImageUNet, UNetConfig
from atlf_jax.models.varnet import VarNet, VarNetConfig
from atlf_jax.models.zero_filled import ZeroFilled, ZeroFilledConfig
from atlf_jax.old_names import old_name

__all__ = [
    "DCCNN",
    "MODELS",
    "PRESETS",
    "ATLFConfig",
    "ATLFNet",
    "DCCNNConfig",
    "E2EVarNet",
    "E2EVarNetConfig",
    "FusionConfig",
    "ImageUNet",
    "MTrans",
    "MTransConfig",
    "MoDL",
    "MoDLConfig",
    "ModelConfig",
    "ReconstructionConfig",
    "UNetConfig",
    "VarNet",
    "VarNetConfig",
    "ZeroFilled",
    "ZeroFilledConfig",
    "build",
]

MODELS = {
    "atlf": (ATLFConfig, ATLFNet),
    "unet": (UNetConfig, ImageUNet),
    "dc_cnn": (DCCNNConfig, DCCNN),
    "modl": (MoDLConfig, MoDL),
    "varnet": (VarNetConfig, VarNet),
    "e2e_varnet": (E2EVarNetConfig, E2EVarNet),
    "mtrans": (MTransConfig, MTrans),
    "zero_filled": (ZeroFilledConfig, ZeroFilled),
}

ModelConfig = (
    ATLFConfig
    | UNetConfig
    | DCCNNConfig
    | MoDLConfig
    | VarNetConfig
    | E2EVarNetConfig
    | MTransConfig
    | ZeroFilledConfig
)


def build(config: ModelConfig) -> nn.Module:
    """Make the module that a model configuration describes."""
    for config_class, module_class in MODELS.values():
        if isinstance(config, config_class):
            return module_class(config)
    raise ValueError(f"got a {type(config).__name__}, wanted the Config class of one of: {', '.join(MODELS)}")


__getattr__ = partial(old_name, __name__)  # load_pretrained
