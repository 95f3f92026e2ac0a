"""From a paired slice to a simulated measurement: CT windows, joint augmentation, phase, noise and undersampling.

Numpy only, so that loader processes need no accelerator, and every random draw comes from the generator passed in.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Bool, Complex, Float, Float32, jaxtyped

from atlf_jax.array_types import Batch, Measurement
from atlf_jax.data.coils import (
    CoilKind,
    centre_sides,
    compress_coils,
    espirit_maps_numpy,
    fill_coils,
    low_resolution_maps_numpy,
    noise_covariance_draw,
    noise_draw,
    sharp_phase,
    simulate_maps,
)
from atlf_jax.data.example import Example

__all__ = [
    "CT_WINDOWS",
    "AcquisitionConfig",
    "AugmentConfig",
    "CTWindow",
    "CTWindows",
    "augment",
    "ct_shape",
    "fft2c_numpy",
    "ifft2c_numpy",
    "measure",
    "move_ct",
    "simulate_acquisition",
    "smooth_phase",
    "undersample",
    "window_ct",
]

CTWindow = Literal["brain", "soft_tissue", "bone", "wide"]
CTWindows = CTWindow | tuple[CTWindow, ...]  # one, or several at once

CT_WINDOWS: dict[str, tuple[float, float]] = {  # Hounsfield units that become 0 and 1
    "brain": (0.0, 80.0),
    "soft_tissue": (-160.0, 240.0),
    "bone": (-500.0, 1300.0),
    "wide": (-1000.0, 2000.0),
}


_CENTRE = 24  # largest side of the centre that coil maps are estimated from, as ``reconstruct`` does


@beartype
@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training pairs, the same for CT and MR, made before k-space is simulated."""

    crop: tuple[int, int] = (0, 0)
    """Rows and columns of a random crop of the images, 0 keeps the side. Cropping rows alone leaves the physics of
    line masks exact (the readout decouples), for a fraction of the cost; k-space itself is never cropped."""
    flip: bool = True
    """Mirror each axis with probability 1/2."""
    rotate90: bool = True
    """Rotate by a random multiple of 90 degrees (of 180 where the image is not square)."""
    rotation: float = 0.0
    """Largest rotation in degrees, either way."""
    scale: float = 0.0
    """Largest relative zoom, either way (0.1: from 1/1.1 to 1.1)."""
    shift: float = 0.0
    """Largest shift in pixels along each axis, either way."""
    gamma: float = 0.0
    """Largest relative contrast exponent, drawn separately for CT and MR (0.2: from 1/1.2 to 1.2)."""
    contrast: float = 0.0
    """Probability that the grey levels of the MR are remapped by a random curve, as other sequences have other
    contrasts: what is dark may become bright, and black stays black."""
    ct_gamma: float = 0.0
    """Like gamma, for the CT only: display windows differ from scanner to scanner (1.0: from 1/2 to 2)."""
    ct_dropout: float = 0.0
    """Probability that the CT is replaced by zeros, so that the network also learns to reconstruct without it."""
    ct_misplaced: float = 0.0
    """Probability that the CT is misaligned, so that the network learns to recognise a CT that does not fit."""
    ct_shift: float = 8.0
    """Largest shift in pixels of a misplaced CT."""
    ct_rotation: float = 8.0
    """Largest rotation in degrees of a misplaced CT, either way."""
    ct_elastic: float = 4.0
    """Largest root mean square displacement in pixels by which a misplaced CT is bent."""

    def __post_init__(self) -> None:
        if min(self.crop) < 0:
            raise ValueError(f"augment.crop is {self.crop}; wanted two sides of 0 (whole) or more")
        for name in ("rotation", "scale", "shift", "gamma", "ct_gamma", "ct_shift", "ct_rotation", "ct_elastic"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; wanted 0 (off) or more")
        for name in ("contrast", "ct_misplaced", "ct_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; wanted a probability in [0, 1]")


@beartype
@dataclass(frozen=True)
class AcquisitionConfig:
    """The simulated acquisition of a picture, the same in training and in evaluation.

    Records of measured k-space keep their own phase and coils.
    """

    phase: float = 0.0
    """Largest magnitude in radians of a smooth random phase (0: only the picture's own phase; 0.785 is pi/4)."""
    sharp_phase: float = 0.0
    """Largest magnitude in radians of a phase along thin lines, such as veins (0: none)."""
    noise: float = 0.0
    """Standard deviation of the complex noise of each sample, relative to the largest pixel (0.01 is usual)."""
    noise_spread: float = 1.0
    """Above 1: each record's noise is drawn between noise / noise_spread and noise, log-uniformly."""
    noise_correlation: float = 0.0
    """Correlation of the noise between coils, in [0, 1): the random share of the covariance (0: white). Data with
    a noise scan are whitened before; this is for scans without one."""
    coils: tuple[int, int] = (0, 0)
    """Smallest and largest number of coils that are simulated for a picture, drawn log-uniformly: few coils differ more
    than many. By default one coil without a map. Each record is padded with coils of zeros to the largest number, so
    that all have one shape."""
    coil_kind: CoilKind = "any"
    """Simulated coils: loops on a ring, loops about the object, random polynomials, or one of these at random."""
    fold: float = 0.0
    """Largest part of the columns by which the object exceeds the field of view: what lies outside is folded in, each
    coil image by itself (0: none). Half of the records have it, with parts drawn evenly."""
    target: Literal["image", "rss"] = "image"
    """What is to be reconstructed: the picture, or the root of the sum of squares of the fully sampled coil images with
    their noise, by which multi-coil benchmarks score."""
    maps: Literal["given", "low_resolution", "espirit"] = "given"
    """Coil maps that the network gets: given (simulated, or the source's own), or estimated from the fully sampled
    centre, as for a scan (ESPIRiT takes a second or more for each record, and needs data.workers=0)."""
    virtual_coils: int = 0
    """Number of coils of every measurement: more are compressed to virtual coils, fewer are padded with zeros; 0: all
    coils as they are."""

    def __post_init__(self) -> None:
        for name in ("phase", "sharp_phase", "noise", "virtual_coils"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"acquisition.{name} is {getattr(self, name)}; wanted 0 (off) or more")
        if not 0 <= self.fold <= 0.5:
            raise ValueError(f"acquisition.fold is {self.fold}; wanted 0 (off) to 0.5")
        if not 1 <= self.noise_spread < np.inf:
            raise ValueError(f"acquisition.noise_spread is {self.noise_spread}; wanted 1 (off) or more")
        if not 0 <= self.noise_correlation < 1:
            raise ValueError(f"acquisition.noise_correlation is {self.noise_correlation}; wanted 0 (white) to below 1")
        if self.coils != (0, 0) and not 1 <= self.coils[0] <= self.coils[1]:
            raise ValueError(
                f"acquisition.coils is {self.coils}; wanted the least and the most, 1 or more, or 0 0 (off)"
            )


@jaxtyped(typechecker=beartype)
def window_ct(hounsfield: Float[np.ndarray, "*b h w"], window: CTWindows) -> Float32[np.ndarray, "*bk h w"]:
    """Map Hounsfield units to [0, 1] through a named window, or through several at once.

    ``clip((HU - low) / (high - low), 0, 1)``

    Args:
        hounsfield: CT numbers [*b, h, w] in HU (air -1000, water 0).
        window: a row of ``CT_WINDOWS``, or several.

    Returns:
        Float32 image of the same shape in [0, 1]; of several windows [*b, k, h, w], in their order.

    Raises:
        ValueError: no window is named.

    Example:
        >>> window_ct(np.array([[-1000.0, 40.0, 80.0, 1000.0]]), "brain")
        array([[0. , 0.5, 1. , 1. ]], dtype=float32)
    """
    if isinstance(window, tuple):
        if not window:
            raise ValueError(f"no CT window is named; wanted one or more of {', '.join(CT_WINDOWS)}")
        images = [window_ct(hounsfield, name) for name in window]
        return images[0] if len(images) == 1 else np.stack(images, axis=-3)
    low, high = CT_WINDOWS[window]
    return np.clip((hounsfield - low) / (high - low), 0, 1).astype(np.float32)


@beartype
def ct_shape(windows: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a slice's CT with a number of windows: [h, w] for one, [k, h, w] for several.

    Example:
        >>> ct_shape(1, (4, 5)), ct_shape(3, (4, 5))
        ((4, 5), (3, 4, 5))
    """
    return shape if windows == 1 else (windows, *shape)


@jaxtyped(typechecker=beartype)
def fft2c_numpy(image: Complex[np.ndarray, "*b h w"]) -> Complex[np.ndarray, "*b h w"]:
    """Transform images to k-space, centred and orthonormal, DC at index n // 2; the numpy twin of ``ops.fft2c``.

    Example:
        >>> fft2c_numpy(np.ones((2, 2), np.complex64)).real.round(4).tolist()
        [[0.0, 0.0], [0.0, 2.0]]
    """
    shifted = np.fft.ifftshift(image, axes=(-2, -1))
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1)).astype(image.dtype)


@jaxtyped(typechecker=beartype)
def ifft2c_numpy(kspace: Complex[np.ndarray, "*b h w"]) -> Complex[np.ndarray, "*b h w"]:
    """Transform k-space to images: the inverse, and adjoint, of ``fft2c_numpy``.

    Example:
        >>> image = np.arange(15, dtype=np.complex64).reshape(3, 5)
        >>> bool(np.allclose(ifft2c_numpy(fft2c_numpy(image)), image, atol=1e-5))
        True
    """
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1)).astype(kspace.dtype)


@beartype
def augment(example: Example, config: AugmentConfig, rng: np.random.Generator) -> Example:
    """Change CT and MR together: one random flip, quarter turn, crop, rotation, zoom and shift for both.

    Before that the CT may be misaligned; afterwards its grey levels may be changed, or the CT replaced by zeros.

    Args:
        example: a validated pair.
        config: kinds and ranges of the changes.
        rng: generator of this record, consumed in the order of the lines below. Draws for the CT alone come from a
            separate stream, so that they do not change the MR.

    Returns:
        The changed pair, of the same size or that of ``crop``, with the same name and subject. Measured k-space is
        mirrored, and cropped along its readout, together with its coil maps.

    Raises:
        ValueError: when the crop is larger than the image, or measured k-space would have to be interpolated.

    Example:
        >>> image = np.arange(16, dtype=np.float32).reshape(4, 4) / 16
        >>> pair = Example("slice", "subject", image, image.astype(np.complex64))
        >>> changed = augment(pair, AugmentConfig(), np.random.default_rng(0))
        >>> bool((changed.ct == image).all()), bool((changed.ct == changed.target.real).all())
        (False, True)
    """
    _check_measured(example, config)
    measured = example.kspace is not None
    further = [example.coil_maps, None if example.kspace is None else ifft2c_numpy(example.kspace)]
    images = [example.ct, example.target, *(each for each in further if each is not None)]
    acquired = example.acquired
    bits: Any = rng.bit_generator  # every one of numpy's own can jump
    of_ct = np.random.Generator(bits.jumped())
    if config.ct_misplaced and of_ct.random() < config.ct_misplaced:
        amounts = {part: of_ct.uniform(0, getattr(config, f"ct_{part}")) for part in ("shift", "rotation", "elastic")}
        images[0] = move_ct(example.ct, of_ct, **amounts)
    if config.flip:
        axes = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        images = [np.flip(image, axes) for image in images]
        acquired = _flip_samples(acquired, axes)
    if config.rotate90:
        quarters = int(rng.integers(4))
        if example.target.shape[0] != example.target.shape[1] or measured:  # a readout stays a readout
            quarters *= 2
        images = [np.rot90(image, quarters, axes=(-2, -1)) for image in images]
        acquired = _flip_samples(acquired, (-2, -1) if measured and quarters % 4 else ())
    images = _crop_and_warp(images, config, rng, name=example.name)
    ct, target, *further = images
    if example.coil_maps is not None:
        example = example._replace(coil_maps=np.ascontiguousarray(further[0], np.complex64))
    if measured:
        kspace = fft2c_numpy(np.ascontiguousarray(further[-1], np.complex64))
        example = example._replace(kspace=kspace, acquired=acquired)
    if config.gamma:
        ct_exponent, mr_exponent = (1 + config.gamma) ** rng.uniform(-1, 1, size=2)
        ct = ct**ct_exponent
        peak = np.abs(target).max()
        if peak > 0:
            relative = np.maximum(np.abs(target) / peak, np.finfo(np.float32).tiny)
            target = target * relative ** (mr_exponent - 1)
    if config.contrast and rng.random() < config.contrast:
        target = _recontrast(target, rng)
    if config.ct_gamma:
        ct = ct ** ((1 + config.ct_gamma) ** of_ct.uniform(-1, 1))
    if config.ct_dropout and of_ct.random() < config.ct_dropout:
        ct = np.zeros_like(ct)
    return example._replace(ct=np.ascontiguousarray(ct, np.float32), target=np.ascontiguousarray(target, np.complex64))


def _recontrast(image: Complex[np.ndarray, "h w"], rng: np.random.Generator) -> Complex[np.ndarray, "h w"]:
    """Remap the magnitude by a smooth random curve through 0, whose values lie between .1 and 1 of the largest."""
    magnitude = np.abs(image)
    peak = magnitude.max() or np.float32(1)
    knots = np.array([0, 0.2, 0.45, 0.7, 1])
    curve = scipy.interpolate.PchipInterpolator(knots, np.concatenate([[0], rng.uniform(0.1, 1, 4)]))
    levels = np.linspace(0, 1, 256)
    wanted = np.interp(magnitude / peak, levels, curve(levels))
    return (image * (wanted * peak / np.maximum(magnitude, peak * 1e-6))).astype(np.complex64)


def _check_measured(example: Example, config: AugmentConfig) -> None:
    """Refuse changes that would replace measured samples, and their noise, by interpolated ones."""
    if example.kspace is None:
        return
    set_ones = [
        f"augment.{name}" for name in ("rotation", "scale", "shift", "gamma", "contrast") if getattr(config, name)
    ]
    if config.crop[1] not in (0, example.target.shape[1]):
        set_ones.append("augment.crop of columns")
    if config.crop[0] and example.acquired is not None and len(example.acquired) > 1:
        set_ones.append("augment.crop of rows that were not all acquired")
    if set_ones:
        raise ValueError(
            f"record {example.name!r} is measured k-space, and {', '.join(set_ones)} would interpolate its samples; "
            "set it to 0: mirrored images and crops of rows leave them what they are"
        )


def _flip_samples(acquired: np.ndarray | None, axes: tuple[int, ...]) -> np.ndarray | None:
    """Mirror which frequencies were acquired, about the zero frequency at index n // 2."""
    if acquired is None:
        return None
    for axis in axes:
        if acquired.shape[axis] > 1:
            acquired = np.roll(np.flip(acquired, axis), 1 - acquired.shape[axis] % 2, axis)
    return acquired


@jaxtyped(typechecker=beartype)
def move_ct(
    ct: Float32[np.ndarray, "*k h w"],
    rng: np.random.Generator,
    *,
    shift: float = 0.0,
    rotation: float = 0.0,
    elastic: float = 0.0,
) -> Float32[np.ndarray, "*k h w"]:
    """Move a CT off its MR in one linear interpolation; what comes in from outside is 0.

    Args:
        ct: windowed CT [h, w], or several windows of it [k, h, w], which are moved together.
        rng: draws the direction of the shift, the sense of the rotation and the elastic field.
        shift: length in pixels.
        rotation: degrees about the centre.
        elastic: root mean square displacement in pixels of a smooth random field (Gaussian of a sixteenth of the side).

    Returns:
        The moved CT, the same where all three are 0.

    Example:
        >>> ct = np.pad(np.ones((8, 8), np.float32), 4)
        >>> moved = move_ct(ct, np.random.default_rng(0), shift=3.0)
        >>> centre = np.array(scipy.ndimage.center_of_mass(moved))
        >>> round(float(np.linalg.norm(centre - 7.5)), 2)
        3.0
    """
    h, w = ct.shape[-2:]
    direction, sense = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    bump = np.stack([scipy.ndimage.gaussian_filter(rng.standard_normal((h, w)), min(h, w) / 16) for _ in range(2)])
    if not (shift or rotation or elastic):
        return ct
    angle = np.deg2rad(sense * rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    grid = np.tensordot(turn, np.mgrid[:h, :w] - centre, axes=1) + centre  # [2 h w]
    grid -= shift * np.array([np.cos(direction), np.sin(direction)])[:, None, None]
    grid += elastic * bump / np.sqrt(np.square(bump).sum(0).mean())
    moved = [scipy.ndimage.map_coordinates(image, grid, order=1) for image in ct.reshape(-1, h, w)]
    return np.clip(moved, 0, 1).astype(np.float32).reshape(ct.shape)


def _crop_and_warp(
    images: list[np.ndarray], config: AugmentConfig, rng: np.random.Generator, *, name: str
) -> list[np.ndarray]:
    """Cut the crop window out of the rotated, zoomed and shifted images, in one interpolation."""
    shape = np.array(images[1].shape)
    size = np.where(config.crop, config.crop, shape)
    if (size > shape).any():
        wanted = f"{config.crop[0]}x{config.crop[1]}"
        raise ValueError(f"record {name!r} is {shape[0]}x{shape[1]}; augment.crop wanted {wanted}")
    corner = _busy_corner(np.abs(images[1]), size, rng)
    if not (config.rotation or config.scale or config.shift):
        window = tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True))
        return [image[..., *window] for image in images]
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    zoom = (1 + config.scale) ** rng.uniform(-1, 1)
    shift = rng.uniform(-config.shift, config.shift, size=2)
    # Output pixel p of the crop shows input pixel matrix (p + corner - centre) + centre - shift.
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = (shape - 1) / 2
    offset = matrix @ (corner - centre) + centre - shift

    def warp(image: np.ndarray) -> np.ndarray:
        if image.ndim > 2:  # windows of the CT
            return np.stack([warp(each) for each in image])
        if np.iscomplexobj(image):
            return warp(image.real) + 1j * warp(image.imag) if image.imag.any() else warp(image.real)
        return scipy.ndimage.affine_transform(image, matrix, offset, output_shape=tuple(size), order=1)

    return [warp(image) for image in images]


def _busy_corner(magnitude: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a window's corner, up to 8 times until more than air is in it: empty windows teach nothing."""
    for _ in range(8):
        corner = rng.integers(magnitude.shape - size + 1)
        window = tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True))
        if magnitude[window].max() >= 0.2 * magnitude.max():
            break
    return corner


@jaxtyped(typechecker=beartype)
def smooth_phase(shape: tuple[int, int], rng: np.random.Generator, *, maximum: float) -> Float32[np.ndarray, "h w"]:
    """Draw a smooth random phase map, as coil sensitivities and field offsets leave in real scans.

    A random polynomial of degree 3 in both coordinates, scaled to its largest magnitude.

    Args:
        shape: (h, w) in pixels.
        rng: generator.
        maximum: largest magnitude in radians.

    Returns:
        Float32 phase [h, w] in [-maximum, maximum].

    Example:
        >>> phase = smooth_phase((8, 8), np.random.default_rng(0), maximum=0.5)
        >>> phase.shape, float(abs(phase).max())
        ((8, 8), 0.5)
    """
    rows, columns = (np.polynomial.legendre.legvander(np.linspace(-1, 1, side), 3) for side in shape)
    phase = rows @ rng.standard_normal((4, 4)) @ columns.T
    phase -= phase.mean()
    return (maximum * phase / np.abs(phase).max()).astype(np.float32)


@beartype
def simulate_acquisition(example: Example, config: AcquisitionConfig, rng: np.random.Generator) -> Example:
    """Add the phase and the coils of a scan to a picture, whose k-space would be Hermitian otherwise.

    ``x exp(i phi)``, and coil maps if ``config.coils`` is set. Measured k-space is not changed.

    Example:
        >>> picture = Example("slice", "subject", np.zeros((8, 8), np.float32), np.ones((8, 8), np.complex64))
        >>> scan = simulate_acquisition(picture, AcquisitionConfig(phase=0.5, coils=(4, 4)), np.random.default_rng(0))
        >>> bool(np.allclose(abs(scan.target), 1)), scan.coil_maps.shape
        (True, (4, 8, 8))

    Source: implicit data crimes, Shimron et al., PNAS 2022, on what undersampling magnitude pictures hides.
    """
    if example.kspace is not None:
        return example
    shape = example.target.shape
    if config.phase:
        phase = smooth_phase(shape, rng, maximum=config.phase)
        example = example._replace(target=(example.target * np.exp(1j * phase)).astype(np.complex64))
    if config.sharp_phase:
        phase = sharp_phase(shape, rng, maximum=config.sharp_phase)
        example = example._replace(target=(example.target * np.exp(1j * phase)).astype(np.complex64))
    least, most = config.coils
    if most:
        coils = int(least * ((most + 1) / least) ** rng.random())
        if config.fold and rng.random() < 0.5:
            return _fold(example, coils, config, rng)
        example = example._replace(coil_maps=simulate_maps(shape, coils, rng, kind=config.coil_kind))
    return example


def _fold(example: Example, coils: int, config: AcquisitionConfig, rng: np.random.Generator) -> Example:
    """Simulate coils that see more than the field of view: the picture goes on outside, mirrored at its last column."""
    h, w = example.target.shape
    more = int(rng.uniform(0, config.fold) * w)
    seen = np.pad(example.target, ((0, 0), (0, more)), mode="reflect")
    images = simulate_maps(seen.shape, coils, rng, kind=config.coil_kind) * seen
    folded = images[..., :w].copy()
    folded[..., :more] += images[..., w:]
    if rng.random() < 0.5:
        folded = folded[..., ::-1]
    kspace = fft2c_numpy(np.ascontiguousarray(folded, np.complex64))
    return example._replace(kspace=kspace, coil_maps=None, target=_root_sum_of_squares(folded))


def _root_sum_of_squares(coil_images: Complex[np.ndarray, "c h w"]) -> Complex[np.ndarray, "h w"]:
    return np.sqrt(np.sum(coil_images.real**2 + coil_images.imag**2, axis=0)).astype(np.complex64)


@jaxtyped(typechecker=beartype)
def measure(
    example: Example,
    mask: Bool[np.ndarray, "#h w"],
    config: AcquisitionConfig,
    rng: np.random.Generator,
    *,
    whole: tuple[int, int] | None = None,
    record: int = 0,
) -> Batch:
    """Simulate the measurement of a record, with or without coils, and divide it by its scale.

    With coils: ``y_c = M (F S_c x + n_c)``, or ``M k_c`` for measured k-space, compressed or padded with zeros to
    ``config.virtual_coils``. ``s = max|A^H y|`` with the maps that the network gets. If these are estimated, the target
    keeps its magnitude and gets the phase of the fully sampled coils combined by them, ``sum_c conj(S_c) F^H k_c``,
    since the phase of an image depends on its maps.

    Args:
        example: the pair, as ``simulate_acquisition`` returns it.
        mask: True where k-space is acquired, [h, w] or [1, w]; restricted to ``example.acquired``.
        config: noise, maps and number of coils.
        rng: generator of the noise; not consumed without noise.
        whole: size of the image before it was cropped, so that maps have the same resolution as for whole images.
        record: index of the example in its source.

    Returns:
        One record without batch axis; with coils, k-space and maps are [c, h, w]; else as from ``undersample``.

    Raises:
        ValueError: there are no maps although ``config.maps`` is "given", or the centre is too small to estimate them.

    Example:
        >>> rng, ones = np.random.default_rng(0), np.ones((8, 8), np.complex64)
        >>> scan = Example("slice", "subject", ones.real, ones, simulate_maps((8, 8), 4, rng))
        >>> batch = measure(scan, np.ones((1, 8), bool), AcquisitionConfig(), rng)
        >>> batch.measurement.kspace.shape, round(float(batch.scale), 4)
        ((4, 8, 8), 1.0)
    """
    noise = config.noise
    if noise and config.noise_spread > 1:
        noise = float(noise * config.noise_spread ** -rng.random())
    if example.acquired is not None:
        mask = mask & example.acquired
    maps, full, truth = example.coil_maps, example.kspace, example.target
    simulated = full is None
    if full is None:
        if maps is None:
            return undersample(example, mask, rng, noise=noise, record=record)
        full = fft2c_numpy(maps * truth)
    kspace = full
    if noise:
        correlation = config.noise_correlation
        covariance = noise_covariance_draw(len(full), rng, correlation=correlation) if correlation else None
        kspace = full + np.float32(noise * np.abs(truth).max()) * noise_draw(full.shape, rng, covariance)
    if config.target == "rss":
        truth = _root_sum_of_squares(ifft2c_numpy(kspace))
    kspace = np.where(mask, kspace, 0).astype(np.complex64)

    if 0 < config.virtual_coils < len(kspace):
        matrix = compress_coils(kspace, config.virtual_coils)
        kspace, full = (np.einsum("vc,chw->vhw", matrix, each) for each in (kspace, full))
        maps = None if maps is None else np.einsum("vc,chw->vhw", matrix, maps)
    if config.maps != "given":
        most = [round(_CENTRE * side / all_) for side, all_ in zip(truth.shape, whole or truth.shape, strict=True)]
        sides = centre_sides(mask, truth.shape, most=(most[0], most[1]))
        estimate = espirit_maps_numpy if config.maps == "espirit" else low_resolution_maps_numpy
        maps = estimate(kspace, sides)
    elif maps is None:
        raise ValueError(
            f"record {example.name!r} has coils and no maps: set data.acquisition.maps to low_resolution or espirit"
        )
    if not simulated or config.maps != "given" or config.target == "rss":
        combined = np.sum(maps.conj() * ifft2c_numpy(full), axis=0)
        size = np.abs(combined)
        truth = np.abs(truth) * np.where(size > 0, combined / np.where(size > 0, size, 1), 1)

    coils = max(config.virtual_coils or config.coils[1], len(kspace))
    scale = np.abs(np.sum(maps.conj() * ifft2c_numpy(kspace), axis=0)).max() or np.float32(1)
    measurement = Measurement(fill_coils(kspace / scale, coils), mask, example.ct, fill_coils(maps, coils))
    return Batch(
        measurement=measurement,
        target=(truth / scale).astype(np.complex64),
        scale=np.asarray(scale, np.float32),
        record=np.asarray(record, np.int32),
    )


@jaxtyped(typechecker=beartype)
def undersample(
    example: Example,
    mask: Bool[np.ndarray, "#h w"],
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    record: int = 0,
) -> Batch:
    """Simulate the single-coil measurement of a slice and divide it by its scale.

    ``y = M (F x + n)``, ``n ~ CN(0, (noise max|x|)^2)``, ``s = max|F^H y|`` (1 when that is 0); returned are y / s
    and x / s. The scale sees measured samples alone.

    Args:
        example: the pair, target in arbitrary units [h, w].
        mask: True where k-space is acquired, [h, w] or [1, w].
        rng: generator of the noise; not consumed when noise is 0.
        noise: standard deviation of a complex sample relative to the target's maximum.
        record: index of the example in its source.

    Returns:
        One record without batch axis: k-space [h, w], mask and ct as given, target [h, w] and scale [].

    Raises:
        ValueError: the record has coils.

    Example:
        >>> pair = Example("slice", "subject", np.zeros((8, 8), np.float32), np.full((8, 8), 5, np.complex64))
        >>> batch = undersample(pair, np.arange(8)[None] % 2 == 0, np.random.default_rng(0))
        >>> round(float(batch.scale), 4), round(float(abs(ifft2c_numpy(batch.measurement.kspace)).max()), 4)
        (5.0, 1.0)

    Source: fastMRI's data pipeline (Zbontar et al. 2018) for the order mask, inverse transform, normalise; departure:
    one scale for all, max|F^H y|, in place of mean and standard deviation.
    """
    if example.kspace is not None or example.coil_maps is not None:
        raise ValueError(f"record {example.name!r} has coils, and undersample simulates one; use transforms.measure")
    target = example.target
    kspace = fft2c_numpy(target)
    if noise:
        sigma = noise * np.abs(target).max() / np.sqrt(2)  # of the real and of the imaginary part
        kspace = kspace + sigma * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    kspace = np.where(mask, kspace, 0).astype(np.complex64)
    scale = np.abs(ifft2c_numpy(kspace)).max() or np.float32(1)
    return Batch(
        measurement=Measurement(kspace=kspace / scale, mask=mask, ct=example.ct),
        target=target / scale,
        scale=np.asarray(scale, np.float32),
        record=np.asarray(record, np.int32),
    )
