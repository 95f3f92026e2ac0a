"""Whole networks: a configuration and a Flax module each. Trained ones are loaded by ``atlf.load``.

A network is described by a frozen dataclass with a method ``build``, and nothing else is asked of it: one of your own
needs no row here (docs/own-network.md).
"""

from functools import partial
from typing import Any, Protocol, runtime_checkable

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
    "multiple_of",
    "sees_ct",
]

MODELS = {
    "atlf": ATLFConfig,
    "unet": UNetConfig,
    "dc_cnn": DCCNNConfig,
    "modl": MoDLConfig,
    "varnet": VarNetConfig,
    "e2e_varnet": E2EVarNetConfig,
    "mtrans": MTransConfig,
    "zero_filled": ZeroFilledConfig,
}


@runtime_checkable
class ModelConfig(Protocol):
    """What describes a network: a frozen dataclass with this method.

    It may say more, by attributes or properties: ``sees_ct`` (bool; by default it does), ``multiple`` (int: both sides
    of an image must be multiples of it; 1 by default) and ``complex`` (bool: the image has an imaginary part; by
    default it has).
    """

    def build(self) -> Any:
        """Make the network, with ``init`` and ``apply`` (see ``objectives.Model``)."""
        ...


def build(config: ModelConfig) -> Any:
    """Make the network that a configuration describes.

    Raises:
        ValueError: it is no configuration of a network.

    Example:
        >>> type(build(UNetConfig(width=8))).__name__
        'ImageUNet'
    """
    if isinstance(config, type) or not isinstance(config, ModelConfig):
        raise ValueError(
            f"got {config!r}, wanted the configuration of a network: one of {', '.join(MODELS)}, or a dataclass of "
            "your own with a method build()"
        )
    return config.build()


def sees_ct(config: ModelConfig) -> bool:
    """Say whether the CT reaches the image; of a network that does not say so, it is assumed."""
    return getattr(config, "sees_ct", True)


def multiple_of(config: ModelConfig) -> int:
    """Return the number of pixels of which both sides of an image must be a multiple."""
    return getattr(config, "multiple", 1)


__getattr__ = partial(old_name, __name__)  # load_pretrained
