"""Weights that were trained by published PyTorch code: ISTA-Net+, and the U-Net and the VarNet of fastMRI."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from beartype import beartype
from flax.traverse_util import flatten_dict, unflatten_dict

from atlf_jax.config import Config
from atlf_jax.data import DataConfig, FastMRIConfig, PreparedConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import PRESETS, E2EVarNetConfig, ModelConfig, UNetConfig
from atlf_jax.models.e2e_varnet import from_fastmri, unet_from_fastmri
from atlf_jax.trained.files import arrays_of
from atlf_jax.trained.network import Network

__all__ = ["from_torch"]

PREFIXES = ("module.", "varnet.", "unet.")  # of torch.nn.DataParallel, and of fastMRI's Lightning modules
NO_WEIGHTS = re.compile(r"loss\.w|cascades\.\d+\.zero|.*num_batches_tracked")  # buffers beside the weights
Arrays = Mapping[str, np.ndarray]


@beartype
def from_torch(
    weights: Mapping[str, Any] | str | Path, *, masks: tuple[MaskConfig, ...], data: DataConfig | None = None
) -> Network:
    """Return a network with the weights of published PyTorch code; it reconstructs, packs and exports as any other.

    Which network it is, and its sizes, are read from the names and shapes of the arrays:

    * ISTA-Net+ for MR (ISTA-Net-PyTorch, ``ISTANetplus``): one coil, real images;
    * the U-Net of fastMRI (``Unet`` with one channel in and out): magnitude in, magnitude out, k-space cut to the image
      before (the published code crops zero-filled images to 320 x 320); equal to it where both sides are multiples of
      16;
    * the E2E-VarNet of fastMRI (``VarNet``): several coils.

    None of them sees a CT.

    Args:
        weights: a ``state_dict`` as numpy arrays by name, ``{name: tensor.numpy()}``, or a file of ``torch.save``, read
            with ``weights_only=True`` (needs PyTorch). A Lightning checkpoint is looked into.
        masks: what it was trained with: guards compare a scan with it, and the file does not say.
        data: the dataset that it was trained on; fastMRI by default, for ISTA-Net+ scans of one's own.

    Raises:
        ValueError: the arrays are of another network, one is missing or too many, or has another shape.
        ImportError: a file is given and PyTorch is not installed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shapes = {"conv_D": (32, 1, 3, 3), "conv_G": (1, 32, 3, 3), "lambda_step": (1,), "soft_thr": (1,)}
        >>> shapes |= {f"conv{n}_{way}": (32, 32, 3, 3) for n in (1, 2) for way in ("forward", "backward")}
        >>> state = {f"fcs.{k}.{name}": rng.normal(size=shape) for k in range(9) for name, shape in shapes.items()}
        >>> from_torch(state, masks=(MaskConfig(kind="variable_density_2d", acceleration=5.0),))
        Network('istanet_plus', 336,978 parameters, step 0)
    """
    if not masks:
        raise ValueError("masks is empty; give the masks that the network was trained with, such as (MaskConfig(),)")
    arrays = _arrays(weights)
    fastmri = DataConfig(FastMRIConfig())
    if "fcs.0.conv_D" in arrays:
        name, (model, params), default = "istanet_plus", _istanet_plus(arrays), DataConfig(PreparedConfig())
    elif any(each.startswith("sens_net.") for each in arrays):
        name, (model, params) = "fastmri_varnet", _varnet(arrays)
        default = DataConfig(FastMRIConfig(measured=True, coils="multicoil"))
    elif "down_sample_layers.0.layers.0.weight" in arrays:
        name, (model, params), default = "fastmri_unet", _unet(arrays), fastmri
    else:
        raise ValueError(
            f"the {len(arrays)} arrays ({', '.join(sorted(arrays)[:3])}, ...) are of no network that is known here; "
            "wanted the state_dict of ISTANetplus, or of fastMRI's Unet or VarNet"
        )
    used = sum(leaf.size for leaf in jax.tree.leaves(params))
    given = sum(array.size for array in arrays.values())
    if used != given:
        raise ValueError(
            f"{given - used:,} of {given:,} numbers belong to no layer of {name}; wanted the published network as it is"
        )
    config = Config(name=name, model=model, data=data or default, masks=masks)
    wanted = arrays_of(model, 1)
    flat: dict[str, np.ndarray] = dict(flatten_dict(params, sep="/"))  # type: ignore[arg-type]
    for place, leaf in flat.items():
        if place not in wanted or wanted[place][0] != leaf.shape:
            raise ValueError(
                f"an array for {place} of {name} has shape {leaf.shape}, wanted {wanted.get(place, ('none',))[0]}; "
                "wanted the published network as it is"
            )
    return Network(config, jax.device_put(params), {"step": 0, "stage": "published"})


def _arrays(weights: Mapping[str, Any] | str | Path) -> dict[str, np.ndarray]:
    """Return the weights by their names in the published module."""
    state = _load(Path(weights)) if isinstance(weights, str | Path) else weights
    found = {}
    for name, array in state.get("state_dict", state).items():
        while prefix := next((each for each in PREFIXES if name.startswith(each)), ""):
            name = name.removeprefix(prefix)
        if not NO_WEIGHTS.fullmatch(name):
            found[name] = np.asarray(array, np.float32)
    return found


def _load(file: Path) -> Mapping[str, Any]:
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            f"{file} is read by PyTorch, which is not installed; install torch, or give a dictionary of numpy arrays"
        ) from error
    if not file.is_file():
        raise ValueError(f"there is no file {file}; wanted one that torch.save wrote")
    return torch.load(file, map_location="cpu", weights_only=True)


def _istanet_plus(arrays: Arrays) -> tuple[ModelConfig, dict[str, Any]]:
    phases = 1 + max(int(found[1]) for name in arrays if (found := re.match(r"fcs\.(\d+)\.", name)))
    take = _taker(arrays, "ISTANetplus")
    flat: dict[str, np.ndarray] = {}
    for k in range(phases):
        for layer in ("conv_D", "conv_G", "conv1_forward", "conv2_forward", "conv1_backward", "conv2_backward"):
            place = layer if layer.startswith("conv_") else f"brb/{layer}"
            flat[f"phase_{k}/{place}/kernel"] = take(f"fcs.{k}.{layer}").transpose(2, 3, 1, 0)  # [y, x, in, out]
        flat[f"phase_{k}/rho"] = take(f"fcs.{k}.lambda_step").reshape(())
        flat[f"phase_{k}/brb/theta"] = take(f"fcs.{k}.soft_thr").reshape(())
    preset = PRESETS["istanet_plus"]()
    width = len(take("fcs.0.conv_D"))
    model = replace(preset, reconstruction=replace(preset.reconstruction, phases=phases, width=width))
    return model, {"params": unflatten_dict(flat, sep="/")}


def _varnet(arrays: Arrays) -> tuple[ModelConfig, dict[str, Any]]:
    variables = from_fastmri(arrays)
    cascades = sum(name.startswith("unet_") for name in variables["params"])
    sensitivity = _unet_sizes(arrays, "sens_net.norm_unet.unet.")
    width, pools = _unet_sizes(arrays, "cascades.0.model.unet.")
    return E2EVarNetConfig(sensitivity=sensitivity, cascades=cascades, width=width, pools=pools), variables


def _unet(arrays: Arrays) -> tuple[ModelConfig, dict[str, Any]]:
    width, pools = _unet_sizes(arrays, "")
    params = unet_from_fastmri(_taker(arrays, "fastMRI's Unet"), arrays, "")
    return UNetConfig(use_ct=False, published=True, width=width, pools=pools), {"params": {"unet": {"unet": params}}}


def _unet_sizes(arrays: Arrays, prefix: str) -> tuple[int, int]:
    """Return features and poolings of a U-Net."""
    first = re.compile(re.escape(prefix) + r"down_sample_layers\.\d+\.layers\.0\.weight")
    return len(arrays[f"{prefix}down_sample_layers.0.layers.0.weight"]), sum(map(bool, map(first.fullmatch, arrays)))


def _taker(arrays: Arrays, network: str) -> Callable[[str], np.ndarray]:
    def take(name: str) -> np.ndarray:
        if name not in arrays:
            raise ValueError(f"there is no array {name} among {len(arrays)}; wanted the whole state_dict of {network}")
        return arrays[name]

    return take
