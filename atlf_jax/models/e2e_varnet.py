"""The end-to-end variational network as fastMRI's code has it: the state is the k-space of every coil.

    S = SensitivityNet(y);  k_0 = y
    k_{t+1} = k_t - eta_t M (k_t - y) - F S UNet_t(sum_c conj(S_c) F^H k_t)
    |x| = sqrt(sum_c |F^H k_T|^2), with the phase of sum_c conj(S_c) F^H k_T

Source: Sriram et al. 2020 (MICCAI) and fastMRI ``fastmri/models/varnet.py``: sides padded to multiples of 16, unbiased
deviations, and the mean put back behind each U-Net.
Published size: 12 cascades of U-Nets of width 18 with 4 poolings, and 8 features for the maps; 29,936,966 parameters,
of which 484,898 estimate coil maps.
Additions: the image has the phase of the coils' combination by the maps, without a gradient: train its magnitude, as
published, by ``train.loss.ssim``. Off by default: the combination itself as the image, the CT as one more channel, and
given coil maps.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models.baseline import BaselineConfig
from atlf_jax.nn.sensitivity import SensitivityNet
from atlf_jax.nn.unet import NormUNet
from atlf_jax.ops import ct_channels, fft2c, from_channels, ifft2c, rss, to_channels
from atlf_jax.ops.consistency import varnet

__all__ = ["E2EVarNet", "E2EVarNetConfig", "from_fastmri", "unet_from_fastmri"]


@beartype
@dataclass(frozen=True)
class E2EVarNetConfig(BaselineConfig):
    """E2E-VarNet. The defaults are its published size, without CT."""

    use_ct: bool = False
    """Give the CT to the network; False = MR only."""
    sensitivity: tuple[int, int] | None = (8, 4)
    """Features and poolings of the network that estimates coil maps; None: the given ones."""
    cascades: int = 12
    """Number of cascades."""
    width: int = 18
    """Features per pixel of each U-Net at full resolution; they double at each pooling."""
    pools: int = 4
    """Number of poolings of each U-Net."""
    output: Literal["rss", "combined"] = "rss"
    """The magnitude of the image: root of the sum of squares of the coils, or of their combination by the maps."""

    def __post_init__(self) -> None:
        if min(self.cascades, self.width) < 1 or self.pools < 0:
            raise ValueError(
                f"got cascades {self.cascades}, width {self.width} and pools {self.pools}, wanted 1, 1 and 0 or more"
            )
        if not self.complex:
            raise ValueError("complex is off, and the state of this network is complex k-space; leave it on")

    def build(self) -> "E2EVarNet":
        """Make the module."""
        return E2EVarNet(self)


class E2EVarNet(nn.Module):
    """The whole network: ``apply(variables, measurement) -> Reconstruction``, for images of any size.

    Example:
        >>> import jax
        >>> network = E2EVarNet(E2EVarNetConfig(cascades=1, pools=1, sensitivity=(4, 1)))
        >>> kspace, mask, ct = np.ones((1, 4, 16, 16), "c8"), np.ones((1, 1, 16), bool), np.zeros((1, 16, 16), "f4")
        >>> result, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), Measurement(kspace, mask, ct))
        >>> result.image.shape, result.coil_maps.shape
        ((1, 16, 16), (1, 4, 16, 16))
    """

    config: E2EVarNetConfig = E2EVarNetConfig()

    @nn.compact
    def __call__(self, measurement: Measurement, *, deterministic: bool = True) -> Reconstruction:
        c = self.config
        y, mask, maps = measurement.kspace, measurement.mask, measurement.coil_maps
        if y.ndim == mask.ndim:  # one coil without an axis
            y = y[:, None]
        if c.sensitivity is not None:
            maps = SensitivityNet(*c.sensitivity, published=True, name="sensitivity")(y, mask)
        elif maps is None:
            if y.shape[1] > 1:
                raise ValueError(f"k-space has {y.shape[1]} coils and no maps; give coil maps, or set sensitivity")
            maps = jnp.ones_like(y)
        ct = ct_channels(measurement.ct) if c.use_ct else None
        k = y
        for t in range(c.cascades):
            x = to_channels(jnp.sum(maps.conj() * ifft2c(k), axis=1))
            seen = x if ct is None else jnp.concatenate([x, ct], axis=-1)
            update = from_channels(NormUNet(2, c.width, c.pools, published=True, name=f"unet_{t}")(seen))
            eta = self.param(f"eta_{t}", nn.initializers.ones, (), y.real.dtype)
            k = varnet(k, y, mask, eta) - fft2c(maps * update[:, None])
        coil_images = ifft2c(k)
        image = jnp.sum(maps.conj() * coil_images, axis=1)
        if c.output == "rss":
            size = jnp.abs(image)
            phase = jnp.where(size > 0, image / jnp.where(size > 0, size, 1).astype(image.dtype), 1)
            image = rss(coil_images).astype(image.dtype) * lax.stop_gradient(phase)
        return Reconstruction(image, coil_maps=maps if c.sensitivity else None)


@beartype
def from_fastmri(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the variables of fastMRI's trained ``VarNet`` for an ``E2EVarNet`` of its sizes without CT.

    Args:
        state: its ``state_dict`` as numpy arrays by name, ``{name: tensor.numpy()}``; names may begin with ``varnet.``,
            as in checkpoints of its training.

    Returns:
        ``{"params": ...}``. ``E2EVarNetConfig()`` has the sizes of the published weights.

    Raises:
        ValueError: an array is missing.
    """
    arrays = {name.removeprefix("varnet."): array for name, array in state.items()}

    def take(name: str) -> np.ndarray:
        if name not in arrays:
            raise ValueError(f"there is no array {name} among {len(arrays)}; wanted the state_dict of fastMRI's VarNet")
        return np.asarray(arrays[name], np.float32)

    cascades = 1 + max((int(found[1]) for name in arrays if (found := re.match(r"cascades\.(\d+)\.", name))), default=0)
    params: dict[str, Any] = {
        "sensitivity": {"unet": {"unet": unet_from_fastmri(take, arrays, "sens_net.norm_unet.unet.")}}
    }
    for t in range(cascades):
        params[f"unet_{t}"] = {"unet": unet_from_fastmri(take, arrays, f"cascades.{t}.model.unet.")}
        params[f"eta_{t}"] = take(f"cascades.{t}.dc_weight").reshape(())
    return {"params": params}


def unet_from_fastmri(
    take: Callable[[str], np.ndarray], arrays: Mapping[str, np.ndarray], prefix: str
) -> dict[str, Any]:
    """Rename and transpose the arrays of one U-Net: kernels from [out, in, y, x] to [y, x, in, out].

    Args:
        take: returns an array by its name.
        arrays: all arrays by name.
        prefix: what their names begin with, "" or up to a dot.
    """
    first = re.compile(re.escape(prefix) + r"down_sample_layers\.\d+\.layers\.0\.weight")
    pools = sum(1 for each in arrays if first.fullmatch(each))

    def block(place: str) -> dict[str, Any]:
        kernels = [take(f"{prefix}{place}.layers.{layer}.weight").transpose(2, 3, 1, 0) for layer in (0, 4)]
        return {f"conv_{i}": {"kernel": kernel} for i, kernel in enumerate(kernels)}

    params = {f"down_{level}": block(f"down_sample_layers.{level}") for level in range(pools)}
    params["bottom"] = block("conv")
    for i in range(pools):
        level = pools - 1 - i
        stretched = take(f"{prefix}up_transpose_conv.{i}.layers.0.weight").transpose(0, 2, 3, 1)  # [in y x out]
        params[f"enlarge_{level}"] = {"kernel": stretched.reshape(len(stretched), -1)}
        params[f"up_{level}"] = block(f"up_conv.{i}" if level else f"up_conv.{i}.0")
    last = f"{prefix}up_conv.{pools - 1}.1"
    params["out"] = {"kernel": take(f"{last}.weight")[:, :, 0, 0].T, "bias": take(f"{last}.bias")}
    return params
