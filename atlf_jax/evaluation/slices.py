"""Reconstruct the slices of a trial: one ``Panel`` of pictures for each slice and mask."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Array, Float

from atlf_jax.array_types import Batch, Measurement
from atlf_jax.data import Example, Source, evaluation_batches
from atlf_jax.evaluation.trial import ZERO_FILLED, Reconstructor, Trial
from atlf_jax.masks import Mask, MaskConfig, mask_label, stored_mask
from atlf_jax.models import ZeroFilled
from atlf_jax.ops import ct_picture
from atlf_jax.trained.uncertainty import spread

__all__ = ["Panel", "reconstruct_slices"]


class Panel(NamedTuple):
    """The pictures of one slice under one mask, as magnitudes in the units of the source."""

    mask: str
    subject: str
    name: str
    record: int  # index into the source
    sampling: Mask
    ct: Float[np.ndarray, "h w"]
    target: Float[np.ndarray, "h w"]
    real: bool
    images: dict[str, Float[np.ndarray, "h w"]]  # by method
    fused: dict[str, Float[np.ndarray, "h w"]]  # by method, of those that fuse
    seconds: dict[str, float]  # by method
    spreads: dict[str, Float[np.ndarray, "h w"]] = {}  # by method, where asked for (see trained.uncertainty)


class _Results(NamedTuple):
    """What all methods made of one batch, by method."""

    images: dict[str, np.ndarray]  # magnitudes [b h w] in the units of the source
    fused: dict[str, np.ndarray]
    seconds: dict[str, float]  # a slice
    spreads: dict[str, np.ndarray]


@beartype
def reconstruct_slices(
    trial: Trial, mask: MaskConfig, *, timed: bool = True, with_spread: bool = False
) -> Iterator[Panel]:
    """Yield every slice of a trial with its zero-filled image and the reconstruction of every model.

    Args:
        trial: models, records, acquisition and the size of batches: slices that follow each other and have one size.
        mask: one of its masks.
        timed: run the first batch of each shape twice, so that times do not include compilation. Without it the times
            are not valid.
        with_spread: also compute how much the mirror copies of every model's image differ; three more
            reconstructions per slice.
    """
    zero_filled = jax.tree_util.Partial(ZeroFilled().apply, {})
    methods = {
        name: model if isinstance(model, jax.tree_util.Partial) else jax.tree_util.Partial(model)
        for name, model in {ZERO_FILLED: zero_filled, **trial.models}.items()
    }
    batch_size = min(trial.config.batch_size, len(trial.source))
    seen: set[tuple[int, ...]] = set()  # shapes that are compiled
    for part in _of_one_size(trial.source, batch_size):
        ((batch, names),) = evaluation_batches(part, mask=mask, batch_size=batch_size, acquisition=trial.acquisition)
        fresh = timed and batch.target.shape not in seen
        seen.add(batch.target.shape)
        results = _run(methods, batch, compile_first=fresh, with_spread=with_spread)
        cts = np.asarray(ct_picture(batch.measurement.ct))  # [b h w]
        for index, name in enumerate(names):
            yield Panel(
                mask=mask_label(mask),
                subject=part.examples[index].subject,
                name=name,
                record=part.start + index,
                sampling=stored_mask(np.asarray(batch.measurement.mask[index]), layout="centered")._replace(
                    nominal=float(mask.acceleration)
                ),
                ct=cts[index],
                target=np.abs(batch.target[index]) * batch.scale[index],
                real=not batch.target[index].imag.any(),
                images={method: image[index] for method, image in results.images.items()},
                fused={method: image[index] for method, image in results.fused.items()},
                seconds=results.seconds,
                spreads={method: values[index] for method, values in results.spreads.items()},
            )


def _run(
    methods: dict[str, jax.tree_util.Partial], batch: Batch, *, compile_first: bool, with_spread: bool
) -> _Results:
    """Reconstruct a batch by every method."""
    measurement = jax.device_put(batch.measurement)
    scale = batch.scale[:, None, None]  # [b 1 1]
    results = _Results({}, {}, {}, {})
    for method, reconstructor in methods.items():
        if compile_first:
            jax.block_until_ready(_reconstruct(reconstructor, measurement))
        start = time.perf_counter()
        image, fused = jax.block_until_ready(_reconstruct(reconstructor, measurement))
        results.seconds[method] = (time.perf_counter() - start) / len(batch.target)
        results.images[method] = np.asarray(image) * scale
        if fused is not None:
            results.fused[method] = np.asarray(fused)
        if with_spread and method != ZERO_FILLED:
            magnitude = partial(_magnitude, reconstructor)
            results.spreads[method] = np.asarray(spread(magnitude, measurement, image=image)) * scale
    return results


@jax.jit
def _reconstruct(reconstructor: Reconstructor, measurement: Measurement) -> tuple[Array, Any]:
    """Return only the two images that are used, so that the compiled program does not return features."""
    result = reconstructor(measurement)
    return jnp.abs(result.image), result.fused


def _magnitude(reconstructor: Reconstructor, measurement: Measurement) -> Array:
    return _reconstruct(reconstructor, measurement)[0]


@dataclass(frozen=True)
class _Part:
    """Records that follow each other in a source and have one size."""

    start: int  # index of the first in the source
    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def _of_one_size(source: Source, most: int) -> Iterator[_Part]:
    """Split a source into parts of consecutive records of one image size, at most ``most`` each; read each once."""
    part = _Part(0, [])
    for index in range(len(source)):
        example = source[index]
        if part.examples and (len(part.examples) == most or part.examples[0].target.shape != example.target.shape):
            yield part
            part = _Part(index, [])
        part.examples.append(example)
    if part.examples:
        yield part
