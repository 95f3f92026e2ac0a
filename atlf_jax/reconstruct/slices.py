"""Reconstruct slices in batches: scale k-space to the network's units, apply the network, and scale back."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex64, Float32

from atlf_jax.array_types import Array, Measurement, Reconstructor
from atlf_jax.data.coils import SMALLEST_CENTRE
from atlf_jax.ops import (
    adjoint,
    centre_window,
    compression_matrix,
    consistency,
    ct_picture,
    espirit_maps,
    forward,
    ifft2c,
    mix_coils,
    normalise_maps,
    rss,
)
from atlf_jax.trained.guards import Placement
from atlf_jax.trained.uncertainty import spread
from atlf_jax.trained.withheld import WithheldErrors, withheld_errors

__all__ = [
    "SMALLEST_CENTRE",
    "CoilMaps",
    "Measured",
    "Record",
    "Result",
    "Settings",
    "calibration_sides",
    "check_record",
    "in_batches",
    "prepare_batch",
    "reconstruct_records",
    "too_small_a_centre",
    "withheld_errors_of",
]

CoilMaps = Literal["espirit", "low_resolution"]
CALIBRATION = 24  # largest side of the centre from which coil maps and phase are estimated, in samples
KERNEL = 6  # ESPIRiT's largest, in samples
POOR_MAPS = 0.9  # if ESPIRiT's maps combine less of the centre's energy, low-resolution maps are used


class Record(NamedTuple):
    """One slice to reconstruct."""

    kspace: Complex64[np.ndarray, "*c h w"]  # with a coil axis if there are coils
    mask: Bool[np.ndarray, "#h w"]
    ct: Float32[np.ndarray, "*k h w"]  # windowed to [0, 1]; [h, w] of one window
    coil_maps: Complex64[np.ndarray, "c h w"] | None = None


class Result(NamedTuple):
    """One slice, reconstructed."""

    image: Complex64[np.ndarray, "h w"]  # in the units of its k-space
    start: Complex64[np.ndarray, "h w"]  # the zero-filled image
    misfit: float  # |A x - y|^2 over the measured samples
    energy: float  # |y|^2
    error: Float32[np.ndarray, "h w"] | None = None  # expected |error| of the magnitude, with ``Settings.error_scale``
    withheld: WithheldErrors | None = None  # with ``Settings.check_ct``


@dataclass(frozen=True)
class Settings:
    """Settings of a reconstruction, the same for all slices."""

    coils: CoilMaps | None = None
    """How coil maps are estimated for a record with coils that has no maps."""
    calibration: tuple[int, int] = (CALIBRATION, CALIBRATION)
    """Rows and columns of the fully sampled centre, from which maps and phase are estimated."""
    whitening: Complex64[np.ndarray, "c c"] | None = None
    """Matrix that makes the coils' noise white."""
    virtual_coils: int | None = None
    """Number of coils to compress to."""
    hard_consistency: bool = False
    """Restore the measured samples after the network."""
    batch_size: int = 1
    """Slices on the device at a time."""
    error_scale: float | None = None
    """Factor from the spread of mirror copies to the expected error; None: no expected error is computed."""
    check_ct: bool = False
    """Also compute how well withheld samples are predicted with and without the CT."""
    hold_phase: bool = False
    """For a network that never saw the smooth phase: multiply the coil maps by the phase of the centre of k-space."""


def calibration_sides(mask: Bool[np.ndarray, "*b #h w"], shape: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the largest fully sampled centre, up to ``CALIBRATION``, that all masks share.

    Its sides are 0 if there is none of ``SMALLEST_CENTRE`` samples.
    """
    h, w = shape
    common = np.broadcast_to(mask.reshape(-1, *mask.shape[-2:]).all(axis=0), (h, w))

    def is_full(rows: int, columns: int) -> bool:
        top, left = h // 2 - rows // 2, w // 2 - columns // 2
        return bool(common[top : top + rows, left : left + columns].all())

    rows = min(CALIBRATION, h)  # masks of lines are full along the readout
    candidates = [(rows, side) for side in range(min(CALIBRATION, w), SMALLEST_CENTRE - 1, -1)]
    candidates += [(side, side) for side in range(min(CALIBRATION, h, w), SMALLEST_CENTRE - 1, -1)]
    return next((sides for sides in candidates if is_full(*sides)), (0, 0))


def too_small_a_centre() -> str:
    """Return the error message for a centre that is too small to estimate coil maps."""
    return (
        f"the fully sampled centre of the mask is smaller than {SMALLEST_CENTRE} samples, too small for coil maps; "
        "acquire more central lines, or give coil maps"
    )


def kernel_side(sides: tuple[int, int]) -> int:
    """Return the side of ESPIRiT's kernels: a third of the centre's smaller side, between 2 and 6.

    On simulated coils (48 x 48 with 6 coils, 96 x 160 with 15), kernels of 6 samples gave an empty image if the centre
    had 6 to 8 lines; with a third of the centre the image was within .02 to .06 of the true one.
    """
    return max(2, min(KERNEL, (min(sides) + 1) // 3))


def reconstruct_records(
    records: Iterable[Record], settings: Settings, model: Reconstructor | None, placement: Placement | None = None
) -> Iterator[Result]:
    """Reconstruct slices in batches of one size, one batch after the other.

    Args:
        records: slices of one shape; the last one is repeated to fill the last batch.
        settings: coils, batches and consistency.
        model: None = the zero-filled reconstruction; the alignment of the CT is then not checked.
        placement: collects how well CT and MR are aligned.

    Yields:
        One result for each record, in order.

    Raises:
        ValueError: k-space or CT has values that are not finite, or coils do not fit; the message names the slice.
    """
    if settings.batch_size < 1:
        raise ValueError(f"batch_size is {settings.batch_size}; wanted 1 or more slices")

    def checked() -> Iterator[Record]:
        for number, record in enumerate(records):
            check_record(number, record, settings)
            yield record

    number = 0
    for batch, fields in in_batches(checked(), settings):
        found = prepare_batch(fields, settings)
        measurement, start, scale = found.measurement, found.start, found.scale
        image, maps = start / scale.astype(start.dtype), measurement.coil_maps
        if model is not None:
            result = model(measurement)
            image, maps = result.image, maps if result.coil_maps is None else result.coil_maps
        hard = settings.hard_consistency and model is not None
        image, misfit, energy = _finish(image, measurement._replace(coil_maps=maps), scale, hard)
        error = None
        if settings.error_scale is not None and model is not None:
            differing = spread(partial(_magnitude, model, hard), measurement, image=jnp.abs(image) / scale)
            error = np.asarray(settings.error_scale * scale * differing)
        withheld = None
        if settings.check_ct and model is not None:
            withheld = withheld_errors_of(found, model)
        if settings.hold_phase:
            image, start = found.phase * image, found.phase * start
        image, start = np.asarray(image), np.asarray(start)
        misfit, energy = map(np.asarray, (misfit, energy))
        for index, record in enumerate(batch):
            if not np.isfinite(image[index]).all():
                raise ValueError(
                    f"the image of slice {number} is not finite; the network's weights or the range of the data are at "
                    "fault: load the weights again, and divide k-space by a constant if it is very large"
                )
            if placement is not None and model is not None:
                placement.add(np.asarray(ct_picture(record.ct[None])[0]), start[index])
            expected = None if error is None else error[index]
            of_ct = None if withheld is None else WithheldErrors(*(np.asarray(part)[index] for part in withheld))
            yield Result(image[index], start[index], float(misfit[index]), float(energy[index]), expected, of_ct)
            number += 1


def withheld_errors_of(found: "Measured", model: Reconstructor, *, seed: int = 0) -> WithheldErrors:
    """Return the errors of predicting withheld samples of a prepared batch, in the units of its k-space."""
    square = np.asarray(found.scale[:, 0, 0]) ** 2
    return WithheldErrors(*(square * part for part in withheld_errors(model, found.measurement, seed=seed)))


def in_batches(records: Iterable[Record], settings: Settings) -> Iterator[tuple[list[Record], list]]:
    """Yield batches: the records, and their stacked fields, with the last record repeated to fill the last batch."""
    records = iter(records)
    while batch := list(itertools.islice(records, settings.batch_size)):
        padded = batch + batch[-1:] * (settings.batch_size - len(batch))
        yield batch, [None if field[0] is None else np.stack(field) for field in zip(*padded, strict=True)]


def _magnitude(model: Reconstructor, hard: bool, measurement: Measurement) -> Array:
    """Return the magnitude of the final image of a measurement."""
    image = model(measurement).image
    if hard:
        image = consistency.hard(image, measurement.kspace, measurement.mask, measurement.coil_maps)
    return jnp.abs(image)


class Measured(NamedTuple):
    """A prepared batch on the device, with numbers that describe it."""

    measurement: Measurement  # divided by scale
    start: Complex64[Array, "b h w"]  # the zero-filled image, without the removed phase
    scale: Float32[Array, "b 1 1"]
    phase: Complex64[Array, "b h w"]  # the removed phase, as factors of magnitude 1
    combined: Float32[Array, " b"]  # share of the centre's energy that is in the combined image
    imaginary: Float32[Array, " b"]  # share of the centre's energy that is in the imaginary part
    fell_back: Bool[Array, " b"]  # low-resolution maps were used in place of ESPIRiT's


def prepare_batch(fields: list, settings: Settings) -> Measured:
    """Prepare a batch of ``in_batches`` on the device: whiten and compress coils, estimate maps and phase, scale."""
    window = None  # an argument: a centre of another size asks for no new compilation, except by ESPIRiT
    if min(settings.calibration) >= SMALLEST_CENTRE:
        window = np.asarray(centre_window(fields[0].shape[-2:], settings.calibration), np.complex64)
    sides = settings.calibration if settings.coils == "espirit" else None
    static = (settings.coils, sides, settings.virtual_coils, settings.hold_phase)
    return _measure(*fields, settings.whitening, window, *static)


@partial(jax.jit, static_argnums=(6, 7, 8, 9))
def _measure(
    kspace: Array,
    mask: Array,
    ct: Array,
    coil_maps: Array | None,
    whitening: Array | None,
    window: Array | None,
    coils: CoilMaps | None,
    calibration: tuple[int, int] | None,
    virtual_coils: int | None,
    hold_phase: bool,
) -> Measured:
    """Whiten and compress coils, estimate maps and phase, and divide by the scale."""
    with_coils = kspace.ndim == 4
    kspace = jnp.where(mask[:, None] if with_coils else mask, kspace, 0)
    if with_coils and whitening is not None:
        kspace = mix_coils(whitening[None], kspace)
        coil_maps = None if coil_maps is None else mix_coils(whitening[None], coil_maps)
    if with_coils and virtual_coils is not None:
        matrix = compression_matrix(kspace, virtual_coils)
        kspace = mix_coils(matrix, kspace)
        coil_maps = None if coil_maps is None else mix_coils(matrix, coil_maps)
    if coil_maps is not None and (whitening is not None or virtual_coils is not None):
        coil_maps = normalise_maps(coil_maps)

    known = window is not None
    low = jnp.zeros_like(kspace)
    if window is not None:
        low = ifft2c(kspace * window.reshape((1,) * (kspace.ndim - 2) + window.shape))
    fell_back = jnp.zeros(len(kspace), bool)
    if with_coils and coil_maps is None:
        coil_maps = smooth = normalise_maps(low)
        if calibration is not None:
            sharp = espirit_maps(kspace, calibration=calibration, kernel=kernel_side(calibration))
            fell_back = _combined(low, sharp) < POOR_MAPS
            coil_maps = jnp.where(fell_back[:, None, None, None], smooth, sharp)
    combined = _combined(low, coil_maps) if coil_maps is not None and known else jnp.ones(len(kspace), jnp.float32)

    phase = jnp.ones(kspace.shape[:1] + kspace.shape[-2:], kspace.dtype)
    if hold_phase:
        centre = low if coil_maps is None else jnp.sum(coil_maps.conj() * low, axis=1)
        size = jnp.abs(centre)
        phase = jnp.where(size > 0, centre / jnp.where(size > 0, size, 1).astype(centre.dtype), 1)
        if coil_maps is not None:
            coil_maps = coil_maps * phase[:, None]
        else:
            kspace, coil_maps, with_coils = kspace[:, None], phase[:, None], True
    start = adjoint(kspace, mask, coil_maps)
    scale = jnp.abs(start).max(axis=(-2, -1), keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    divisor = scale[:, None] if with_coils else scale
    seen = start  # the imaginary part is measured on the centre if it is sampled, else on the zero-filled image
    if known and not hold_phase:
        seen = low if coil_maps is None else jnp.sum(coil_maps.conj() * low, axis=1)
    total = jnp.sum(jnp.abs(seen) ** 2, axis=(-2, -1))
    imaginary = jnp.sum(seen.imag**2, axis=(-2, -1)) / jnp.where(total > 0, total, 1)
    measurement = Measurement(kspace / divisor, mask, ct, coil_maps)
    return Measured(measurement, start, scale, phase, combined, imaginary, fell_back)


def _combined(coil_images: Array, coil_maps: Array) -> Array:
    """Return the part of the coil images' energy that is in the combined image."""
    image = jnp.sum(coil_maps.conj() * coil_images, axis=1)
    whole = jnp.sum(rss(coil_images) ** 2, axis=(-2, -1))
    return jnp.sum(jnp.abs(image) ** 2, axis=(-2, -1)) / jnp.where(whole > 0, whole, 1)


@partial(jax.jit, static_argnums=3)
def _finish(image: Array, measurement: Measurement, scale: Array, hard: bool) -> tuple[Array, Array, Array]:
    """Return the images in their own units, ``|A x - y|^2`` and ``|y|^2``."""
    kspace, mask, _, maps = measurement
    if maps is not None:  # pixels that no coil sees were not measured
        image = jnp.where((maps != 0).any(axis=1), image, 0)
    if hard:
        image = consistency.hard(image, kspace, mask, maps)
    axes = tuple(range(1, kspace.ndim))
    square = scale[:, 0, 0] ** 2
    misfit = jnp.sum(jnp.abs(forward(image, mask, maps) - kspace) ** 2, axis=axes) * square
    return image * scale, misfit, jnp.sum(jnp.abs(kspace) ** 2, axis=axes) * square


def check_record(number: int, record: Record, settings: Settings) -> None:
    """Raise ``ValueError`` for a slice with values that are not finite, or coils that do not fit the settings."""
    for name, values in (("k-space", record.kspace), ("CT", record.ct), ("coil maps", record.coil_maps)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name} of slice {number} holds values that are not finite; remove or zero them first")
    coils = record.kspace.shape[0] if record.kspace.ndim == 3 else 0
    whitening = settings.whitening
    if whitening is not None and whitening.shape != (coils, coils):
        raise ValueError(
            f"the noise covariance is of {len(whitening)} coils, and k-space has {coils or 'no coil axis'}"
        )
    if settings.virtual_coils is not None and not 1 <= settings.virtual_coils <= coils:
        raise ValueError(f"got {settings.virtual_coils} virtual coils, and k-space has {coils or 'no coil axis'}")
