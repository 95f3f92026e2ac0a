"""A trained network as a compiled function of measurements of any size, with little memory on a CPU."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from jax import lax

from atlf_jax.array_types import Array, Measurement, Reconstruction, Reconstructor
from atlf_jax.models import ModelConfig, build, multiple_of
from atlf_jax.nn.backend import accelerated
from atlf_jax.ops import MIRRORS, fft2c, ifft2c, mirror, normalise_maps
from atlf_jax.trained.uncertainty import mirror_measurement

__all__ = ["as_function", "for_any_size", "in_turn", "mirror_average", "weigh_ct"]


@beartype
def as_function(config: ModelConfig, variables: Mapping[str, Any]) -> Reconstructor:
    """Return a network with its variables as a compiled function of a measurement, for images of any size.

    Args:
        config: of the network.
        variables: parameters under "params", and further collections.

    Returns:
        A compiled function ``Measurement -> Reconstruction``, batched (see ``for_any_size`` and ``in_turn``).
    """
    apply = jax.tree_util.Partial(in_turn, jax.tree_util.Partial(build(config).apply, variables))
    return jax.jit(jax.tree_util.Partial(partial(for_any_size, multiple=multiple_of(config)), apply))


def in_turn(model: Reconstructor, measurement: Measurement) -> Reconstruction:
    """Call a network with one example at a time on a CPU, and with the whole batch on an accelerator.

    One example keeps a CPU busy: a loop takes no longer, and needs the memory of one example (docs/DESIGN.md, 48).

    Args:
        model: the network.
        measurement: a batch.

    Returns:
        What the model returns for the batch.
    """
    count = measurement.kspace.shape[0]  # a symbolic dimension in an export
    if accelerated() or count == 1:
        return model(measurement)

    def alone(example: Measurement) -> Reconstruction:
        result = model(jax.tree.map(lambda part: part[None], example))
        return jax.tree.map(lambda part: part[0], result)

    # one mask, or one set of coil maps, may be shared by all examples
    return lax.map(alone, jax.tree.map(lambda part: jnp.broadcast_to(part, (count, *part.shape[1:])), measurement))


@beartype
def mirror_average(model: Reconstructor) -> Reconstructor:
    """Return a function that averages over what a network makes of a scan and of its three mirror images.

    The mean of the magnitudes, mirrored back, with the phase of the mean image; the rest is that of the scan as it is.
    The network runs four times, one after the other. Its errors are in part those of its weights, which know left from
    right: those average out.

    Args:
        model: a network; jax must be able to trace it.

    Returns:
        A function ``Measurement -> Reconstruction``. The image of a mirrored scan is the mirrored image, so the errors
        of such a function cannot be expected by ``uncertainty.spread``.

    Example:
        >>> def leaning(measurement):
        ...     return Reconstruction(measurement.kspace * jnp.array([[[0.0, 1.0, 2.0]]]))
        >>> seen = Measurement(jnp.ones((1, 1, 3), jnp.complex64), jnp.ones((1, 1, 3), bool), jnp.zeros((1, 1, 3)))
        >>> mirror_average(leaning)(seen).image.real.tolist()
        [[[1.0, 1.0, 1.0]]]
    """
    return jax.tree_util.Partial(_mirror_average, model)


def _mirror_average(model: Reconstructor, measurement: Measurement) -> Reconstruction:
    mirrored = [mirror_measurement(measurement, axes) for axes in MIRRORS]
    results = lax.map(model, jax.tree.map(lambda *parts: jnp.stack(parts), *mirrored))  # one program, and its memory
    images = jnp.stack([mirror(image, axes) for image, axes in zip(results.image, MIRRORS, strict=True)])
    mean, magnitude = images.mean(axis=0), jnp.abs(images).mean(axis=0)
    size = jnp.abs(mean)
    phase = jnp.where(size > 0, mean / jnp.where(size > 0, size, 1), 1)
    return jax.tree.map(lambda part: part[0], results)._replace(image=magnitude * phase)


@beartype
def weigh_ct(model: Reconstructor, weight: float | Array) -> Reconstructor:
    """Return a function whose images lie between those of a network without the CT and with it.

    ``(1 - w) f(y, 0) + w f(y, c)``. Where both images hold the measured samples, so does this.

    Args:
        model: a network that can do without a CT.
        weight: w in [0, 1]; ``WithheldErrors.weight`` measures it.

    Returns:
        A function ``Measurement -> Reconstruction`` that costs two reconstructions.

    Example:
        >>> def trusting(measurement):
        ...     return Reconstruction(measurement.ct.astype(jnp.complex64))
        >>> seen = Measurement(jnp.zeros((1, 2, 2), jnp.complex64), jnp.ones((1, 1, 2), bool), jnp.ones((1, 2, 2)))
        >>> float(weigh_ct(trusting, 0.25)(seen).image.real.max())
        0.25
    """
    return jax.tree_util.Partial(_weighed, model, weight)


def _weighed(model: Reconstructor, weight: float | Array, measurement: Measurement) -> Reconstruction:
    without, with_ct = model(measurement._replace(ct=jnp.zeros_like(measurement.ct))), model(measurement)
    return with_ct._replace(image=without.image + weight * (with_ct.image - without.image))


def for_any_size(model: Reconstructor, measurement: Measurement, *, multiple: int) -> Reconstruction:
    """Call a network whose image sides must be multiples of a number with images of any size.

    k-space is padded with samples that count as not acquired: pixels become smaller, and nothing moves. CT and coil
    maps are interpolated to the finer grid. The k-space of the result is cropped to the original grid.

    Args:
        model: the network.
        measurement: of any size.
        multiple: the sides that the network takes are multiples of it.

    Returns:
        The result of the model; if the size had to change, only its image.

    Example:
        >>> from atlf_jax.ops import adjoint
        >>> odd = Measurement(jnp.ones((1, 5, 7), jnp.complex64), jnp.ones((1, 1, 7), bool), jnp.zeros((1, 5, 7)))
        >>> def model(measurement):
        ...     assert measurement.kspace.shape == (1, 8, 8)
        ...     return Reconstruction(adjoint(measurement.kspace, measurement.mask))
        >>> image = for_any_size(model, odd, multiple=4).image
        >>> bool(jnp.allclose(image, adjoint(odd.kspace, odd.mask), atol=1e-6))
        True
    """
    kspace, mask, ct, maps = measurement
    h, w = shape = kspace.shape[-2:]
    larger = (-(-h // multiple) * multiple, -(-w // multiple) * multiple)
    if larger == shape:
        return model(measurement)
    rows, columns = (
        ((new // 2 - old // 2), new - old - (new // 2 - old // 2)) for old, new in zip(shape, larger, strict=True)
    )
    gain = math.sqrt(math.prod(larger) / math.prod(shape))  # the transform is orthonormal: keep the image's values

    def extend(samples: Array) -> Array:
        return jnp.pad(samples, [(0, 0)] * (samples.ndim - 2) + [rows, columns])

    if maps is not None:
        maps = normalise_maps(lax.complex(_interpolate(maps.real, larger), _interpolate(maps.imag, larger)))
    whole = jnp.broadcast_to(mask, (*mask.shape[:-2], *shape))  # new rows are not acquired, under line masks too
    image = model(Measurement(extend(kspace) * gain, extend(whole), _interpolate(ct, larger), maps)).image
    samples = fft2c(image)[..., rows[0] : rows[0] + shape[0], columns[0] : columns[0] + shape[1]]
    return Reconstruction(ifft2c(samples / gain))


def _interpolate(images: Array, shape: tuple[int, int]) -> Array:
    """Interpolate ``[*b, h, w]`` linearly to as many smaller pixels about the same centre ``n // 2``."""
    old = images.shape[-2:]
    scale = [new / side for side, new in zip(old, shape, strict=True)]
    # jax puts the centre of pixel i at i + 1/2
    move = [0.5 + new // 2 - s * (side // 2 + 0.5) for side, new, s in zip(old, shape, scale, strict=True)]
    axes = (images.ndim - 2, images.ndim - 1)
    target = (*images.shape[:-2], *shape)
    return jax.image.scale_and_translate(
        images, target, axes, jnp.array(scale), jnp.array(move), method="linear", antialias=False
    )
