"""Supervised training: the distance to the fully sampled image."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Key

from atlf_jax import losses, metrics
from atlf_jax.array_types import Array, Batch, Reconstruction
from atlf_jax.objectives.base import Model, Outcome, Variables, apply, zero_filled
from atlf_jax.ops import ct_picture

__all__ = ["Supervised", "compare"]


@beartype
@dataclass(frozen=True)
class Supervised:
    """A weighted sum of distances between the image and the fully sampled one; a weight of 0 leaves its term out."""

    mse: float = 1.0
    """Mean squared error of the complex image."""
    l1: float = 0.0
    """Mean absolute error of the complex image."""
    charbonnier: float = 0.0
    """Charbonnier error of the complex image (0.1 in CIPM-Net)."""
    ssim: float = 0.0
    """(1 - SSIM) / 2 of the magnitude."""
    relative: float = 0.0
    """Above 0: each of these losses is replaced by log(1 + loss / relative), for each example. The gradient of a
    loss far above this value is then divided by the loss, so that easy and hard masks count equally, as in dB."""
    magnitude: float = 0.0
    """Mean squared error of the magnitude, whatever the phase."""

    def __post_init__(self) -> None:
        weights = {name: value for name, value in vars(self).items() if type(value) is float}
        if min(weights.values()) < 0:
            raise ValueError(f"loss weights must be >= 0, got {weights}")
        if not any(getattr(self, name) for name in losses.RECONSTRUCTION_LOSSES):
            raise ValueError(
                f"one of the loss weights {', '.join(losses.RECONSTRUCTION_LOSSES)} must be above 0, and all are 0"
            )

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome:
        """Compare the network's image with the fully sampled one."""
        result, state = apply(model, variables, batch.measurement, key=key)
        return Outcome(self.terms(result, batch), *compare(result, batch), state)

    def terms(self, result: Reconstruction, batch: Batch) -> dict[str, Float[Array, " b"]]:
        """Return the weighted terms."""
        terms = {}
        for name, loss in losses.RECONSTRUCTION_LOSSES.items():
            if weight := getattr(self, name):
                value = loss(result.image, batch.target)
                terms[name] = weight * (jnp.log1p(value / self.relative) if self.relative else value)
        return terms


def compare(result: Reconstruction, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores and pictures of an ``Outcome``, by comparison with the fully sampled image."""
    magnitude, truth = jnp.abs(result.image), jnp.abs(batch.target)
    scores = {"psnr": metrics.psnr(magnitude, truth, peak=1 / batch.scale)}  # the peak is 1 in the source's own units
    pictures = {"ct": ct_picture(batch.measurement.ct), "zero-filled": jnp.abs(zero_filled(batch.measurement))}
    if result.fused is not None:
        pictures["fused"] = result.fused
    pictures |= {"reconstruction": magnitude, "target": truth, "error": jnp.abs(magnitude - truth)}
    return scores, pictures
