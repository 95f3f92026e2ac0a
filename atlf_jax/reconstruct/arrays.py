"""From numpy arrays to a reconstruction: the same scaling and the same network as in training and evaluation."""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex64, Float32

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.data.transforms import ct_shape
from atlf_jax.models.inference import Model, as_function
from atlf_jax.models.uncertainty import spread
from atlf_jax.models.withheld import Foretold, foretell
from atlf_jax.ops import (
    adjoint,
    compression_matrix,
    consistency,
    ct_picture,
    espirit_maps,
    forward,
    low_resolution_maps,
    mix_coils,
    normalise_maps,
    whitening_matrix,
)
from atlf_jax.reconstruct.guards import GuardWarning, Placement, TrainedFor, trained_for, untrained

__all__ = [
    "CoilMaps",
    "Model",
    "Network",
    "Record",
    "Result",
    "Settings",
    "calibration_sides",
    "check_windows",
    "load_model",
    "load_pretrained",
    "reconstruct",
    "solve",
]

CoilMaps = Literal["espirit", "low_resolution"]

CALIBRATION = 24  # largest side of the centre that coil maps are estimated from, in samples
KERNEL = 6  # ESPIRiT's, in samples: the centre must be at least as wide


@dataclass(frozen=True)
class Network:
    """A trained network: a function of a measurement that knows what it was trained for."""

    apply: Model
    trained: TrainedFor

    def __call__(self, measurement: Measurement) -> Reconstruction:
        """Reconstruct."""
        return self.apply(measurement)


class Record(NamedTuple):
    """One slice to reconstruct."""

    kspace: Complex64[np.ndarray, "*c h w"]  # a coil axis where there are coils
    mask: Bool[np.ndarray, "#h w"]
    ct: Float32[np.ndarray, "*k h w"]  # windowed to [0, 1]; [h, w] of one window
    coil_maps: Complex64[np.ndarray, "c h w"] | None = None


class Result(NamedTuple):
    """One slice, reconstructed."""

    image: Complex64[np.ndarray, "h w"]  # in the units of its k-space
    start: Complex64[np.ndarray, "h w"]  # the zero-filled image
    misfit: float  # |A x - y|^2 over the measured samples
    energy: float  # |y|^2
    error: Float32[np.ndarray, "h w"] | None = None  # expected |error| of the magnitude, where asked for
    foretold: Foretold | None = None  # how well samples are foretold with and without the CT, where asked for


@dataclass(frozen=True)
class Settings:
    """How slices become images."""

    coils: CoilMaps | None = None
    """Where maps come from when a record has coils and none of its own."""
    calibration: tuple[int, int] = (CALIBRATION, CALIBRATION)
    """Rows and columns of the fully sampled centre, for the maps."""
    whitening: Complex64[np.ndarray, "c c"] | None = None
    """Matrix that makes the coils' noise white."""
    virtual_coils: int | None = None
    """Number of coils to compress to."""
    hard_consistency: bool = False
    """Put the measured samples back after the network."""
    batch_size: int = 1
    """Slices on the device at a time."""
    error_scale: float | None = None
    """Times how much mirror copies differ: the expected error; None: no error is asked for."""
    check_ct: bool = False
    """Also see how well samples that are kept back are foretold with and without the CT."""


def load_model(checkpoint: str | Path, *, which: Literal["best", "latest"] = "best") -> Network:
    """Load a trained network as a function of a measurement.

    Args:
        checkpoint: a run's folder, a packed file, or the name of weights that come with the package; nothing else is
            needed.
        which: of a run, "best" or "latest".

    Returns:
        A compiled function ``Measurement -> Reconstruction``, batched, for images of any size (see ``for_any_size``);
        its ``trained`` says what for.

    Raises:
        ValueError: there is no such network, or its file is damaged.
    """
    from atlf_jax.models.pretrained import load  # Orbax takes a second to import

    network = load(checkpoint, which)
    return Network(as_function(network.config.model, network.variables), trained_for(network.config))


def load_pretrained(name: str) -> Network:
    """Load weights that come with the package, as ``load_model`` does.

    Args:
        name: such as "aanlib-4x-compact"; ``models.pretrained.shipped()`` has them all, and NAME.md beside each file
            tells what it was trained on and what it must not be used for.

    Raises:
        ValueError: there are no such weights.
    """
    from atlf_jax.models.pretrained import names, shipped

    if name not in shipped():
        raise ValueError(f"no weights are named {name!r}; there are {names()}")
    return load_model(shipped()[name])


def reconstruct(
    kspace: Any,
    mask: Any,
    *,
    ct: Any = None,
    coil_maps: Any = None,
    model: Model | str | Path | None = None,
    coils: CoilMaps | None = None,
    noise_covariance: Any = None,
    virtual_coils: int | None = None,
    hard_consistency: bool = False,
    batch_size: int = 1,
) -> np.ndarray:
    """Reconstruct images from undersampled k-space.

    ``y`` is divided by ``max|A^H y|`` before the network and the result multiplied by it, so that units are kept.
    Slices are read one after the other, so that k-space, CT and maps may be open HDF5 datasets or memory maps; the
    device holds one batch at a time.

    With a model, one ``GuardWarning`` is given where the CT does not match the zero-filled image in place, or where the
    model comes from ``load_model`` and was never trained for such data (see ``guards``).

    Args:
        kspace: complex ``[h, w]`` or ``[slices, h, w]``, centred; with coils one axis more, ``[*slices, c, h, w]``.
        mask: bool ``[w]``, ``[1|h, w]`` or ``[slices, 1|h, w]``, True = acquired.
        ct: ``[h, w]`` or ``[slices, h, w]``, windowed to [0, 1] on the MR grid; of several windows ``[*slices, k, h,
            w]``; None = no CT (zeros).
        coil_maps: complex ``[c, h, w]`` or ``[slices, c, h, w]``, normalised.
        model: from ``load_model``, or what it takes (then loaded and compiled in each call); None = the zero-filled
            reconstruction.
        coils: for k-space of several coils without maps: estimate them from the fully sampled centre by "espirit" or
            "low_resolution".
        noise_covariance: ``[c, c]``; coils (and maps) are whitened with it, and images then are in units of the
            noise's standard deviation, where maps were estimated.
        virtual_coils: compress to as many coils, slice by slice.
        hard_consistency: put the measured samples back after the network (exact with one coil).
        batch_size: slices on the device at a time; the last batch is filled up, so that nothing is compiled again.

    Returns:
        Complex64 images, ``[h, w]`` or ``[slices, h, w]`` as k-space has slices.

    Raises:
        ValueError: shapes that do not fit, real and imaginary parts kept apart, or values that are not finite.

    Example:
        >>> mask = np.ones((1, 8), bool)
        >>> image = reconstruct(np.eye(8, dtype=np.complex64), mask)
        >>> image.shape, image.dtype
        ((8, 8), dtype('complex64'))
    """
    model = load_model(model) if isinstance(model, str | Path) else model
    kspace, coil_maps = _lazy(kspace), None if coil_maps is None else _lazy(coil_maps)
    several = coils is not None or coil_maps is not None
    axes = 3 if several else 2
    single = kspace.ndim == axes
    if kspace.dtype.kind != "c" and kspace.ndim > 2 and kspace.shape[-1] == 2:
        raise ValueError(
            f"k-space is {kspace.dtype} of shape {kspace.shape}, real and imaginary parts kept apart; give "
            "k[..., 0] + 1j * k[..., 1]"
        )
    if kspace.ndim not in (axes, axes + 1):
        wanted = "[c, h, w] or [slices, c, h, w] with coil maps" if several else "[h, w] or [slices, h, w]"
        raise ValueError(f"k-space has shape {kspace.shape}, wanted {wanted}")
    kspace = kspace[None] if single else kspace
    slices, (h, w) = kspace.shape[0], kspace.shape[-2:]

    mask = np.asarray(mask, bool)
    mask = mask.reshape((1,) * (3 - mask.ndim) + mask.shape)
    if mask.ndim != 3 or mask.shape[0] not in (1, slices) or mask.shape[1] not in (1, h) or mask.shape[2] != w:
        raise ValueError(f"mask has shape {mask.shape}, wanted [{w}], [1|{h}, {w}] or [{slices}, 1|{h}, {w}]")
    mask = np.broadcast_to(mask, (slices, *mask.shape[1:]))
    if ct is not None:
        ct = _lazy(ct)
        ct = ct[None] if ct.ndim == 2 or (single and ct.ndim == 3 and len(ct) > 1) else ct
        if ct.ndim not in (3, 4) or (ct.shape[0], *ct.shape[-2:]) != (slices, h, w):
            raise ValueError(f"CT has shape {ct.shape}, wanted {(slices, h, w)}: resample it to the MR grid")
    windows = _windows(model) if ct is None else 1 if ct.ndim == 3 else ct.shape[1]
    check_windows(model, windows)
    if coil_maps is not None:
        coil_maps = coil_maps[None] if coil_maps.ndim == 3 else coil_maps
        if coil_maps.shape[0] not in (1, slices) or coil_maps.shape[1:] != kspace.shape[1:]:
            raise ValueError(f"coil maps have shape {coil_maps.shape}, wanted {kspace.shape[1:]} for each slice or all")

    def read(index: int) -> Record:
        maps = None
        if coil_maps is not None:
            maps = np.asarray(coil_maps[index if len(coil_maps) > 1 else 0], np.complex64)
        image = np.zeros(ct_shape(windows, (h, w))) if ct is None else ct[index]
        return Record(np.asarray(kspace[index], np.complex64), mask[index], np.asarray(image, np.float32), maps)

    settings = Settings(
        coils=coils,
        calibration=calibration_sides(mask, (h, w)) if coils is not None and coil_maps is None else (0, 0),
        whitening=None
        if noise_covariance is None
        else whitening_matrix(np.asarray(noise_covariance, np.complex128)).astype(np.complex64),
        virtual_coils=virtual_coils,
        hard_consistency=hard_consistency,
        batch_size=batch_size,
    )
    placement = Placement()
    images = [result.image for result in solve(map(read, range(slices)), settings, model, placement)]
    if model is not None:
        found = placement.warnings()
        if isinstance(model, Network):
            found += untrained(model.trained, mask, shape=(h, w), coils=kspace.shape[1] if several else 0)
        if found:
            warnings.warn("; ".join(found), GuardWarning, stacklevel=2)
    return images[0] if single else np.stack(images)


def check_windows(model: Model | None, windows: int) -> None:
    """Refuse a CT through another number of windows than the network's, where it is known (see ``Network``).

    Raises:
        ValueError: with the windows that were trained.
    """
    if isinstance(model, Network) and windows != _windows(model):
        told = f": {', '.join(model.trained.windows)}" if model.trained.windows else ""
        raise ValueError(
            f"the number of CT windows is {windows}, and the network was trained with {_windows(model)}{told}; give as "
            "many"
        )


def _windows(model: Model | None) -> int:
    return len(model.trained.windows) or 1 if isinstance(model, Network) else 1


def calibration_sides(mask: Bool[np.ndarray, "*b #h w"], shape: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the largest fully sampled centre, up to ``CALIBRATION``, that all masks share.

    Raises:
        ValueError: it is too small to estimate coil maps from.
    """
    h, w = shape
    common = np.broadcast_to(mask.reshape(-1, *mask.shape[-2:]).all(axis=0), (h, w))

    def is_full(rows: int, columns: int) -> bool:
        top, left = h // 2 - rows // 2, w // 2 - columns // 2
        return bool(common[top : top + rows, left : left + columns].all())

    tall = min(CALIBRATION, h)  # masks of lines are full along the readout
    candidates = [(tall, side) for side in range(min(CALIBRATION, w), KERNEL - 1, -1)]
    candidates += [(side, side) for side in range(min(CALIBRATION, h, w), KERNEL - 1, -1)]
    for sides in candidates:
        if is_full(*sides):
            return sides
    raise ValueError(
        f"the fully sampled centre of the mask is smaller than {KERNEL} samples, too small for coil maps; acquire more "
        "central lines, or give coil maps"
    )


def solve(
    records: Iterable[Record], settings: Settings, model: Model | None, placement: Placement | None = None
) -> Iterator[Result]:
    """Reconstruct slices in batches of one size as they come.

    Args:
        records: slices of one shape; the last one is repeated to fill up the last batch.
        settings: coils, batches and consistency.
        model: None = the zero-filled reconstruction, and the CT is not looked at.
        placement: where it is gathered whether CT and MR match.

    Yields:
        One result for each record, in order.

    Raises:
        ValueError: k-space or CT holds values that are not finite, or coils do not fit; with the slice's number.
    """
    if settings.batch_size < 1:
        raise ValueError(f"batch_size is {settings.batch_size}; wanted 1 or more slices")
    numbered = enumerate(records)
    while batch := list(itertools.islice(numbered, settings.batch_size)):
        for number, record in batch:
            _check(number, record, settings)
        records = [record for _, record in batch]
        padded = records + records[-1:] * (settings.batch_size - len(records))
        fields = [None if field[0] is None else np.stack(field) for field in zip(*padded, strict=True)]
        measurement, start, scale = _measure(*fields, settings.whitening, *_static(settings))
        image = start / scale.astype(start.dtype) if model is None else model(measurement).image
        hard = settings.hard_consistency and model is not None
        image, misfit, energy = _finish(image, measurement, scale, hard)
        error = None
        if settings.error_scale is not None and model is not None:
            differing = spread(partial(_magnitude, model, hard), measurement, image=jnp.abs(image) / scale)
            error = np.asarray(settings.error_scale * scale * differing)
        foretold = None
        if settings.check_ct and model is not None:
            square = np.asarray(scale[:, 0, 0]) ** 2
            foretold = Foretold(*(square * part for part in foretell(model, measurement)))
        image, start, misfit, energy = map(np.asarray, (image, start, misfit, energy))
        for index in range(len(records)):
            if placement is not None and model is not None:
                placement.add(np.asarray(ct_picture(records[index].ct[None])[0]), start[index])
            expected = None if error is None else error[index]
            told = None if foretold is None else Foretold(*(part[index] for part in foretold))
            yield Result(image[index], start[index], float(misfit[index]), float(energy[index]), expected, told)


def _magnitude(model: Model, hard: bool, measurement: Measurement) -> Array:
    """Return the magnitude of what is handed out for a measurement."""
    image = model(measurement).image
    if hard:
        image = consistency.hard(image, measurement.kspace, measurement.mask, measurement.coil_maps)
    return jnp.abs(image)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _measure(
    kspace: Array,
    mask: Array,
    ct: Array,
    coil_maps: Array | None,
    whitening: Array | None,
    coils: CoilMaps | None,
    calibration: tuple[int, int],
    virtual_coils: int | None,
) -> tuple[Measurement, Array, Array]:
    """Return the measurement divided by its scale, the zero-filled image, and the scale ``[b, 1, 1]``."""
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
    if with_coils and coil_maps is None:
        if coils == "espirit":
            coil_maps = espirit_maps(kspace, calibration=calibration, kernel=KERNEL)
        else:
            coil_maps = low_resolution_maps(kspace, calibration=calibration)
    start = adjoint(kspace, mask, coil_maps)
    scale = jnp.abs(start).max(axis=(-2, -1), keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    divisor = scale[:, None] if with_coils else scale
    return Measurement(kspace / divisor, mask, ct, coil_maps), start, scale


@partial(jax.jit, static_argnums=3)
def _finish(image: Array, measurement: Measurement, scale: Array, hard: bool) -> tuple[Array, Array, Array]:
    """Return the images in their own units, ``|A x - y|^2`` and ``|y|^2``."""
    kspace, mask, _, maps = measurement
    if hard:
        image = consistency.hard(image, kspace, mask, maps)
    axes = tuple(range(1, kspace.ndim))
    square = scale[:, 0, 0] ** 2
    misfit = jnp.sum(jnp.abs(forward(image, mask, maps) - kspace) ** 2, axis=axes) * square
    return image * scale, misfit, jnp.sum(jnp.abs(kspace) ** 2, axis=axes) * square


def _static(settings: Settings) -> tuple[CoilMaps | None, tuple[int, int], int | None]:
    return settings.coils, settings.calibration, settings.virtual_coils


def _check(number: int, record: Record, settings: Settings) -> None:
    """Refuse a slice that would give a wrong image or a long traceback."""
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


def _lazy(values: Any) -> Any:
    """Keep what has a shape and is read by index, such as an HDF5 dataset; make an array of the rest."""
    return values if all(hasattr(values, name) for name in ("shape", "ndim", "dtype")) else np.asarray(values)
