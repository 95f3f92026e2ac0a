"""The expected error of a reconstruction, pixel by pixel, from the spread of its mirror copies.

Mirroring does not change the physics: the mirrored measurement is what the scanner would have measured of the mirrored
body. Where the network does not return the mirrored image, it is uncertain. This spread, times one factor fitted on
subjects outside the training set (``evaluation/calibration.py``), is the expected absolute error.

Chosen on seven slices of AANLIB case 41 by correlation with the true error and by whether one number fits all (random
lines 4x; 2-D variable density 10x): pooled Pearson .35 and .33, number 2.65 and 2.66. Eight reconstructions with a
tenth of the outer samples held out: .34 and .33, but 1.99 and 2.53, so that each mask wants a number of its own; both
together: .37 and .35 by eleven reconstructions in place of three; the update of the zero-filled image: .15 and .24. A
monotone map in place of the number was no better on slices that it was not fitted to.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float

from atlf_jax.array_types import Array, Measurement
from atlf_jax.ops import MIRRORS, mirror
from atlf_jax.ops.filters import GAUSSIAN_11, separable

__all__ = ["Calibration", "mirror_measurement", "spread"]


class Calibration(NamedTuple):
    """Factors from a spread to an error, fitted on one data set."""

    scale: float  # expected absolute error / spread
    bound: float  # 90 % of absolute errors are below bound * expected error


@beartype
def mirror_measurement(measurement: Measurement, axes: tuple[int, ...]) -> Measurement:
    """Return the measurement of the mirrored body: k-space, mask, CT and coil maps are mirrored together.

    Example:
        >>> mask = jnp.array([[[True, True, False, False]]])
        >>> measurement = Measurement(jnp.ones((1, 1, 4), jnp.complex64), mask, jnp.zeros((1, 1, 4)))
        >>> mirror_measurement(measurement, (-1,)).mask[0, 0].tolist()
        [True, False, False, True]
    """
    return jax.tree.map(lambda field: mirror(field, axes), measurement)


def spread(
    magnitude: Callable[[Measurement], Float[Array, "b h w"]],
    measurement: Measurement,
    *,
    image: Float[Array, "b h w"] | None = None,
) -> Float[jax.Array, "b h w"]:
    """Return the standard deviation of a reconstruction over its mirror copies.

    ``sqrt(G * sum_k (m_k - m)^2 / 3)`` with the four copies ``m_k`` mirrored back, their mean m, and G a Gaussian of
    1.5 pixels, as four copies alone are noisy. They are made one after the other, so that memory is that of one.

    Args:
        magnitude: a network's magnitude image of a measurement; compiled, as it is called four times.
        measurement: as the network takes it.
        image: ``magnitude(measurement)`` if it was computed before; saves one call.

    Returns:
        ``[b, h, w]`` in the units of the image.
    """
    first = magnitude(measurement) if image is None else image
    turned = [magnitude(_mirror_measurement(measurement, axes)) for axes in MIRRORS[1:]]
    return _deviation([first, *turned])


_mirror_measurement = jax.jit(mirror_measurement, static_argnums=1)


@jax.jit
def _deviation(copies: list[Float[Array, "b h w"]]) -> Float[jax.Array, "b h w"]:
    """Return the smoothed standard deviation of what was reconstructed of MIRRORS, in their order."""
    back = jnp.stack([mirror(copy, axes) for copy, axes in zip(copies, MIRRORS, strict=True)])  # [4 b h w]
    return jnp.sqrt(_smooth(back.var(axis=0, ddof=1)))


def _smooth(images: Float[jax.Array, "b h w"]) -> Float[jax.Array, "b h w"]:
    """Average over a Gaussian window, over what of it lies inside the picture."""
    half = len(GAUSSIAN_11) // 2

    def total(values: jax.Array) -> jax.Array:
        return separable(jnp.pad(values, [(0, 0), (half, half), (half, half)]), GAUSSIAN_11, GAUSSIAN_11)

    return total(images) / total(jnp.ones_like(images))
