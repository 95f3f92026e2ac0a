"""Whether the CT of a scan helps, without knowing the truth: by measured samples that the network is not shown.

A fifth of the samples outside the middle of k-space is kept back. The network reconstructs from the others, with the CT
and without, and either image foretells the samples that were kept back. It is cross-validation in k-space, as in the
choice of regularisation weights and, for training, in SSDU (Yaman et al. 2020). How well it tells what the CT does to
the error of the image is measured by ``benchmarks/ct_check.py``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Bool, Float, jaxtyped

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.ops import forward

__all__ = ["Foretold", "foretell", "withhold"]

SHARE = 0.2  # of the samples outside the middle
MIDDLE = 0.08  # of each side, never kept back: as wide as the fully sampled centres that networks are trained with


class Foretold(NamedTuple):
    """Squared errors over the samples that were kept back, in the units of k-space."""

    without: Float[Array, "*b"]  # of the image that was reconstructed without the CT
    with_ct: Float[Array, "*b"]

    @property
    def gain(self) -> float:
        """What the CT brings, in decibel, over all examples together; NaN where no sample was kept back."""
        without, with_ct = (float(np.sum(part, dtype=np.float64)) for part in self)
        return 10 * float(np.log10(without / with_ct)) if with_ct else float("nan")


@jaxtyped(typechecker=beartype)
def withhold(mask: Bool[Array, "b #h w"], *, seed: int = 0) -> Bool[np.ndarray, "b #h w"]:
    """Draw the samples to keep back: whole lines where the mask is of lines.

    Args:
        mask: True = acquired; ``[b, 1, w]`` of lines.
        seed: of the draw, which is the same for all examples of a shape.

    Returns:
        True = kept back; shaped as ``mask``.

    Example:
        >>> kept_back = withhold(np.ones((1, 1, 256), bool))
        >>> int(kept_back.sum()), int(kept_back[0, 0, 118:138].sum())
        (49, 0)
    """
    rows, columns = mask.shape[-2:]
    from_middle = [np.abs(np.arange(side) - side // 2) / side for side in (rows, columns)]
    far = np.maximum(*np.ix_(*from_middle)) > MIDDLE / 2
    drawn = np.random.default_rng(seed).random((rows, columns)) < SHARE
    return np.asarray(mask) & drawn & far


@beartype
def foretell(model: Callable[[Measurement], Reconstruction], measurement: Measurement, *, seed: int = 0) -> Foretold:
    """Reconstruct twice from fewer samples, without the CT and with it, and look at those that were kept back.

    Args:
        model: a network that can do without a CT, such as ``best``; one that cannot makes any CT look well.
        measurement: as the network takes it.
        seed: of the samples that are kept back.

    Source: ours; see the module.
    """
    kept_back = withhold(measurement.mask, seed=seed)
    with_coils = measurement.kspace.ndim == 4
    where = kept_back[:, None] if with_coils else kept_back
    fewer = measurement._replace(
        kspace=jnp.where(where, 0, measurement.kspace), mask=jnp.asarray(measurement.mask) & ~kept_back
    )

    def error(ct: Array) -> Float[np.ndarray, " b"]:
        image = model(fewer._replace(ct=ct)).image
        missed = forward(image, kept_back, measurement.coil_maps) - jnp.where(where, measurement.kspace, 0)
        return np.asarray(jnp.sum(jnp.abs(missed) ** 2, axis=tuple(range(1, missed.ndim))))

    ct = jnp.asarray(measurement.ct)
    return Foretold(error(jnp.zeros_like(ct)), error(ct))
