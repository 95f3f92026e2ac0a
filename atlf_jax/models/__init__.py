"""Complete networks: a configuration and a Flax module each. ``atlf.load`` loads trained ones.

A network is described by a frozen dataclass with a method ``build``; nothing else is required. A network in a file of
your own needs no entry in ``MODELS`` (docs/own-network.md).
"""

from functools import partial
from typing import Any, Protocol, runtime_checkable

from atlf_jax.models.atlf import PRESETS, ATLFConfig, ATLFNet, FusionConfig, ReconstructionConfig
from atlf_jax.models.dc_cnn import DCCNN, DCCNNConfig
from atlf_jax.models.e2e_varnet import E2EVarNet, E2EVarNetConfig
from atlf_jax.models.modl import MoDL, MoDLConfig
from atlf_jax.models.mtrans import MTrans, MTransConfig
from atlf_jax.models.sense_net import SenseNet, SenseNetConfig
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
    "SenseNet",
    "SenseNetConfig",
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
    "sense_net": SenseNetConfig,
    "mtrans": MTransConfig,
    "zero_filled": ZeroFilledConfig,
}


@runtime_checkable
class ModelConfig(Protocol):
    """The configuration of a network: a frozen dataclass with the method ``build``.

    Optional attributes or properties: ``sees_ct`` (bool, default True: the CT affects the image), ``multiple`` (int,
    default 1: both sides of an image must be multiples of it) and ``complex`` (bool, default True: the image has an
    imaginary part).
    """

    def build(self) -> Any:
        """Return the network, an object with ``init`` and ``apply`` (see ``objectives.Model``)."""
        ...


def build(config: ModelConfig) -> Any:
    """Return the network of a configuration.

    Raises:
        ValueError: ``config`` is not the configuration of a network.

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
    """Return whether the CT affects the image; True if the configuration does not say.

    Example:
        >>> sees_ct(UNetConfig()), sees_ct(UNetConfig(use_ct=False))
        (True, False)
    """
    return getattr(config, "sees_ct", True)


def multiple_of(config: ModelConfig) -> int:
    """Return the number that both sides of an image must be multiples of; 1 if the configuration does not say.

    Example:
        >>> multiple_of(UNetConfig()), multiple_of(ATLFConfig(fusion=FusionConfig(stride=2)))
        (1, 2)
    """
    return getattr(config, "multiple", 1)


__getattr__ = partial(old_name, __name__)  # load_pretrained
