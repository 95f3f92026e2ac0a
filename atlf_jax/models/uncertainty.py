"""How far a reconstruction may be off, pixel by pixel: how much its mirror copies differ.

Turning rows or columns round changes nothing about the physics: the mirrored measurement is what the scanner would have
measured of the mirrored body. Where a network does not answer with the mirrored image, it does not know. This spread,
times one number fitted on subjects that were not trained on (``evaluation/calibration.py``), is the expected absolute
error.

Chosen on seven slices of AANLIB case 41 by correlation with the true error and by whether one number fits all (random
lines 4x; 2-D variable density 10x): pooled Pearson .35 and .33, number 2.65 and 2.66. Eight reconstructions with a
tenth of the outer samples held out: .34 and .33, but 1.99 and 2.53, so that each mask wants a number of its own; both
together: .37 and .35 at eleven reconstructions for three; the update of the zero-filled image: .15 and .24. A
monotone map in place of the number was no better on the slices that it was not fitted to.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Shaped, jaxtyped

from atlf_jax.array_types import Array, Measurement
from atlf_jax.ops.filters import GAUSSIAN_11, separable

__all__ = ["MIRRORS", "Calibration", "mirror", "mirror_measurement", "spread"]

MIRRORS = ((), (-2,), (-1,), (-2, -1))  # axes that are turned round: the group of all mirrorings


class Calibration(NamedTuple):
    """What turns a spread into an error, fitted on one data set."""

    scale: float  # expected absolute error / spread
    bound: float  # 90 % of absolute errors are below bound * expected error


@jaxtyped(typechecker=beartype)
def mirror(samples: Shaped[Array, "*b h w"], axes: tuple[int, ...]) -> Shaped[Array, "*b h w"]:
    """Turn images or k-space round about the centre ``n // 2``, on a circle: sample c + i goes to c - i.

    Of an even side the first sample, which has no partner, stays where it is. So an image and its k-space are mirrored
    by the same permutation, exactly, and twice is nothing. An axis of one sample (masks of lines) stays as it is.

    Args:
        samples: of any dtype.
        axes: some of -2 and -1.

    Example:
        >>> mirror(jnp.array([[0, 1, 2, 3]]), (-1,)).tolist(), mirror(jnp.array([[0, 1, 2]]), (-1,)).tolist()
        ([[0, 3, 2, 1]], [[2, 1, 0]])
    """
    samples = jnp.asarray(samples)
    for axis in axes:
        samples = jnp.roll(jnp.flip(samples, axis), 1 - samples.shape[axis] % 2, axis)
    return samples


@beartype
def mirror_measurement(measurement: Measurement, axes: tuple[int, ...]) -> Measurement:
    """Return what would have been measured of the mirrored body: k-space, mask, CT and coil maps mirrored together."""
    return jax.tree.map(lambda field: mirror(field, axes), measurement)


def spread(
    magnitude: Callable[[Measurement], Float[Array, "b h w"]],
    measurement: Measurement,
    *,
    image: Float[Array, "b h w"] | None = None,
) -> Float[jax.Array, "b h w"]:
    """Return the standard deviation of a reconstruction over its mirror copies.

    ``sqrt(G * sum_k (m_k - m)^2 / 3)`` with the four copies ``m_k`` mirrored back, their mean m, and G a Gaussian of
    1.5 pixels, as four copies alone are noisy. The copies are made one after the other, so memory is that of one.

    Args:
        magnitude: a network's magnitude image of a measurement; compiled, as it is called four times.
        measurement: as the network takes it.
        image: ``magnitude(measurement)`` where it is known already, which saves one call.

    Returns:
        ``[b, h, w]`` in the units of the image.
    """
    mean = moment = None
    for count, axes in enumerate(MIRRORS, 1):
        if not axes and image is not None:
            copy: Any = jnp.asarray(image)
        else:
            copy = mirror(magnitude(mirror_measurement(measurement, axes)), axes)
        mean = copy if mean is None else mean
        step = copy - mean
        mean = mean + step / count  # Welford's update
        moment = step * (copy - mean) + (0 if moment is None else moment)
    return jnp.sqrt(_smooth(moment / (len(MIRRORS) - 1)))


def _smooth(images: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Average over a Gaussian window, over what of it lies inside the picture."""
    half = len(GAUSSIAN_11) // 2

    def total(values: Any) -> Any:
        return separable(jnp.pad(values, [(0, 0)] * (values.ndim - 2) + [(half, half)] * 2), GAUSSIAN_11, GAUSSIAN_11)

    return total(images) / total(jnp.ones_like(images))
