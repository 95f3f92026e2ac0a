"""What receive coils do to a picture, simulated: coil maps, sharp phase, correlated noise; and maps from the centre.

Numpy only, but for ESPIRiT, so that loader processes need no accelerator. Every draw comes from the generator given.
"""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Bool, Complex, Complex64, Float32, jaxtyped

from atlf_jax.data.files import whole_file

__all__ = [
    "CoilKind",
    "centre_sides",
    "compress_coils",
    "espirit_maps_numpy",
    "fill_coils",
    "kept_espirit_maps",
    "low_resolution_maps_numpy",
    "noise_covariance_draw",
    "noise_draw",
    "sharp_phase",
    "simulate_maps",
]

CoilKind = Literal["birdcage", "surface", "polynomial", "any"]
KINDS: tuple[CoilKind, ...] = ("birdcage", "surface", "polynomial")
SMALLEST_CENTRE = 4  # samples along a side from which maps can be estimated
KERNEL = 6  # side of ESPIRiT's largest kernels, in samples


@beartype
def simulate_maps(
    shape: tuple[int, int], coils: int, rng: np.random.Generator, *, kind: CoilKind = "any"
) -> Complex64[np.ndarray, "c h w"]:
    """Draw smooth coil maps, normalised to ``sum_c |S_c|^2 = 1``.

    Args:
        shape: (h, w) in pixels.
        coils: their number.
        rng: generator.
        kind: ``birdcage``, loops evenly spaced on an ellipse; ``surface``, loops of random places and sizes around the
            object; ``polynomial``, random complex polynomials of degree 3; ``any``, one of these at random.

    Returns:
        Complex64 maps [c, h, w].

    Example:
        >>> maps = simulate_maps((16, 20), 5, np.random.default_rng(0))
        >>> maps.shape, bool(np.allclose((abs(maps) ** 2).sum(0), 1, atol=1e-5))
        ((5, 16, 20), True)
    """
    kind = KINDS[int(rng.integers(len(KINDS)))] if kind == "any" else kind
    if kind == "polynomial":
        maps = _polynomials(shape, coils, rng)
    else:
        angle = 2 * np.pi * (np.arange(coils) / coils + rng.random())
        if kind == "birdcage":
            distance, depth = np.full(coils, rng.uniform(1.1, 1.8)), np.full(coils, rng.uniform(0, 0.5))
        else:
            angle = angle + rng.normal(0, 0.5, coils)
            distance, depth = rng.uniform(0.9, 1.8, coils), rng.uniform(0.2, 0.9, coils)
        maps = _loops(shape, angle, distance, depth, ellipse=rng.uniform(0.8, 1.25))
    maps = maps * np.exp(2j * np.pi * rng.random((coils, 1, 1))).astype(
        np.complex64
    )  # cables have lengths of their own
    return _normalised(maps).astype(np.complex64)


def _loops(shape: tuple[int, int], angle: np.ndarray, distance: np.ndarray, depth: np.ndarray, *, ellipse: float):
    """Return the field of small loops at (distance, angle), ``depth`` out of the plane, in half fields of view."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)
    angle, distance, depth = (values.astype(np.float32) for values in (angle, distance, depth))
    stretch = np.float32(ellipse)
    dx = x - (distance * np.cos(angle) * stretch)[:, None, None]
    dy = y[:, None] - (distance * np.sin(angle) / stretch)[:, None, None]
    flat = dx**2 + dy**2
    size = np.sqrt(np.maximum(flat, np.finfo(np.float32).tiny) * (flat + depth[:, None, None] ** 2))
    return (-dy + 1j * dx) / size  # phase and decay as of sigpy's birdcage


def _polynomials(shape: tuple[int, int], coils: int, rng: np.random.Generator) -> np.ndarray:
    rows, columns = (np.polynomial.legendre.legvander(np.linspace(-1, 1, side), 3).astype("c8") for side in shape)
    order = np.add.outer(np.arange(4), np.arange(4))
    factors = rng.standard_normal((coils, 4, 4)) + 1j * rng.standard_normal((coils, 4, 4))
    # einsum, as loaders share their cores with the training: threads of BLAS would wait for one another
    along_rows = np.einsum("hi,cij->chj", rows, (factors / (1 + order) ** 1.5).astype(np.complex64))
    return np.einsum("chj,wj->chw", along_rows, columns)


@beartype
def sharp_phase(shape: tuple[int, int], rng: np.random.Generator, *, maximum: float) -> Float32[np.ndarray, "h w"]:
    """Draw a phase with sharp edges along thin winding lines, as veins and flowing blood have.

    Lines are where one smooth random field is near 0 and another is high; each keeps one phase.

    Args:
        shape: (h, w) in pixels.
        rng: generator.
        maximum: largest magnitude in radians.

    Returns:
        Float32 phase [h, w] in [-maximum, maximum], 0 off the lines.

    Example:
        >>> phase = sharp_phase((32, 32), np.random.default_rng(0), maximum=1.0)
        >>> bool((phase == 0).mean() > 0.5), bool(0 < abs(phase).max() <= 1)
        (True, True)
    """
    side = max(shape)
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])

    def field(width: float) -> np.ndarray:
        """A random field under a Gaussian of a width in pixels, with deviation 1."""
        low = np.exp(-2 * (np.pi * width) ** 2 * (rows**2 + columns**2))
        low[0, 0] = 0
        smooth = scipy.fft.irfft2(low * scipy.fft.rfft2(rng.standard_normal(shape)), s=shape)
        return smooth / max(float(smooth.std()), np.finfo(float).tiny)

    winding, where, size = field(side / 24), field(side / 10), field(side / 5)
    lines = (np.abs(winding) < 0.12) & (where > 0.3)
    phase = scipy.ndimage.gaussian_filter(lines * np.tanh(size), 0.5)
    return (maximum * np.clip(phase, -1, 1)).astype(np.float32)


@beartype
def noise_covariance_draw(coils: int, rng: np.random.Generator, *, correlation: float) -> Complex[np.ndarray, "c c"]:
    """Draw a noise covariance of coils with a mean variance of 1: ``(1 - r) I + r W W^H``, W random.

    Args:
        coils: their number.
        rng: generator.
        correlation: r in [0, 1]; 0 is white.

    Returns:
        [c, c], Hermitian and positive definite for r < 1.

    Example:
        >>> covariance = noise_covariance_draw(4, np.random.default_rng(0), correlation=0.5)
        >>> round(float(np.trace(covariance).real) / 4, 6), bool(np.allclose(covariance, covariance.conj().T))
        (1.0, True)
    """
    factors = rng.standard_normal((coils, coils)) + 1j * rng.standard_normal((coils, coils))
    shared = factors @ factors.conj().T
    return (1 - correlation) * np.eye(coils) + correlation * coils * shared / np.trace(shared).real


@jaxtyped(typechecker=beartype)
def noise_draw(
    shape: tuple[int, int, int], rng: np.random.Generator, covariance: Complex[np.ndarray, "c c"] | None = None
) -> Complex64[np.ndarray, "c h w"]:
    """Draw complex Gaussian noise of coils, ``E n n^H`` being the covariance (the identity if there is none).

    Example:
        >>> noise = noise_draw((2, 64, 64), np.random.default_rng(0))
        >>> noise.shape, round(float((abs(noise) ** 2).mean()), 1)
        ((2, 64, 64), 1.0)
    """
    parts = rng.standard_normal((*shape, 2), dtype=np.float32)  # real and imaginary
    noise = parts.view(np.complex64)[..., 0] * np.float32(np.sqrt(0.5))
    if covariance is None:
        return noise
    factor = np.linalg.cholesky(covariance).astype(np.complex64)
    return np.einsum("cd,dhw->chw", factor, noise)


@jaxtyped(typechecker=beartype)
def centre_sides(mask: Bool[np.ndarray, "#h w"], shape: tuple[int, int], *, most: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the largest fully sampled centre of a mask.

    Args:
        mask: True where k-space is acquired, [h, w] or [1, w].
        shape: (h, w) of k-space.
        most: largest rows and columns.

    Returns:
        (rows, columns): the larger of all of ``most``'s rows, as under lines, and of the same part of either side.

    Raises:
        ValueError: a side is smaller than 4 samples, too few for coil maps.

    Example:
        >>> mask = np.zeros((1, 32), bool)
        >>> mask[:, 11:21] = True
        >>> centre_sides(mask, (32, 32), most=(24, 24))
        (24, 10)
    """
    h, w = shape
    known = np.broadcast_to(mask, shape)
    rows, columns = (max(SMALLEST_CENTRE, min(largest, side)) for largest, side in zip(most, shape, strict=True))

    def is_full(tall: int, wide: int) -> bool:
        top, left = h // 2 - tall // 2, w // 2 - wide // 2
        return bool(known[top : top + tall, left : left + wide].all())

    candidates = [(rows, wide) for wide in range(columns, SMALLEST_CENTRE - 1, -1)]
    larger = max(rows, columns)
    both = [(round(rows * n / larger), round(columns * n / larger)) for n in range(larger, SMALLEST_CENTRE - 1, -1)]
    candidates += [sides for sides in both if min(sides) >= SMALLEST_CENTRE]
    found = max(filter(lambda sides: is_full(*sides), candidates), key=lambda sides: sides[0] * sides[1], default=None)
    if found is None:
        raise ValueError(
            f"the mask has a fully sampled centre of fewer than {SMALLEST_CENTRE} samples, too few for coil maps: set "
            "mask.center_lines or mask.center_radius higher, or data.acquisition.maps to given"
        )
    return found


@jaxtyped(typechecker=beartype)
def low_resolution_maps_numpy(
    kspace: Complex64[np.ndarray, "c h w"], sides: tuple[int, int]
) -> Complex64[np.ndarray, "c h w"]:
    """Estimate coil maps from the centre of k-space; the numpy twin of ``ops.low_resolution_maps``.

    Example:
        >>> maps = low_resolution_maps_numpy(np.ones((4, 32, 32), np.complex64), (24, 24))
        >>> maps.shape, round(float(abs(maps[0, 16, 16])), 3)
        ((4, 32, 32), 0.5)
    """
    window = np.outer(*(_hann(n, side) for n, side in zip(kspace.shape[-2:], sides, strict=True)))
    images = scipy.fft.ifft2(scipy.fft.ifftshift(kspace * window, axes=(-2, -1)), norm="ortho")
    return _normalised(scipy.fft.fftshift(images, axes=(-2, -1))).astype(np.complex64)


def _hann(n: int, side: int) -> np.ndarray:
    distance = np.arange(n) - n // 2
    inside = (distance >= -(side // 2)) & (distance < side - side // 2)
    return np.where(inside, np.cos(np.pi * distance / (side + 1)) ** 2, 0).astype(np.float32)


@jaxtyped(typechecker=beartype)
def espirit_maps_numpy(
    kspace: Complex64[np.ndarray, "c h w"], sides: tuple[int, int] = (24, 24)
) -> Complex64[np.ndarray, "c h w"]:
    """Estimate coil maps by ``ops.espirit_maps``, on the CPU, in whatever thread or process this is.

    Takes a second or more, and the first call of each shape compiles; it wants ``data.workers=0``.
    """
    import jax

    from atlf_jax.ops import espirit_maps

    kernel = max(2, min(KERNEL, (min(sides) + 1) // 3))
    with jax.transfer_guard("allow"), jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(espirit_maps(kspace, calibration=sides, kernel=kernel))


@jaxtyped(typechecker=beartype)
def kept_espirit_maps(
    kspace: Complex64[np.ndarray, "c h w"], folder: str | Path, sides: tuple[int, int] = (24, 24)
) -> Complex64[np.ndarray, "c h w"]:
    """Return the maps of ``espirit_maps_numpy`` for this k-space from a folder, or estimate them and keep them there.

    They are found by the content of k-space, so no file is ever out of date; one that is damaged is written anew.

    Raises:
        ValueError: the folder cannot be written.
    """
    content = hashlib.sha256(repr((kspace.shape, sides)).encode() + np.ascontiguousarray(kspace).tobytes())
    path = Path(folder).expanduser() / f"{content.hexdigest()[:32]}.npy"
    if path.is_file():
        try:
            maps = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # damaged
            maps = None
        if maps is not None and (maps.shape, maps.dtype) == (kspace.shape, np.complex64) and np.isfinite(maps).all():
            return maps
    maps = espirit_maps_numpy(kspace, sides)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, maps)
    return maps


@jaxtyped(typechecker=beartype)
def compress_coils(kspace: Complex64[np.ndarray, "c h w"], coils: int) -> Complex64[np.ndarray, "v c"]:
    """Return the matrix to the strongest virtual coils; the numpy twin of ``ops.compression_matrix``.

    Example:
        >>> kspace = np.ones((4, 2, 2), np.complex64)  # the same in all coils
        >>> abs(compress_coils(kspace, 1)).round(3).tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """
    flat = kspace.reshape(len(kspace), -1).astype(np.complex128)
    vectors = np.linalg.eigh(flat @ flat.conj().T)[1][:, ::-1]
    return vectors[:, :coils].conj().T.astype(np.complex64)


@jaxtyped(typechecker=beartype)
def fill_coils(array: Complex64[np.ndarray, "c h w"], coils: int) -> Complex64[np.ndarray, "v h w"]:
    """Add coils of zeros up to a number of coils: they change nothing of ``A^H y`` and ``A^H A``.

    Example:
        >>> fill_coils(np.ones((2, 4, 4), np.complex64), 5).any(axis=(1, 2)).tolist()
        [True, True, False, False, False]
    """
    missing = coils - len(array)
    return np.pad(array, ((0, missing), (0, 0), (0, 0))) if missing > 0 else array


def _normalised(maps: np.ndarray) -> np.ndarray:
    """Scale to ``sum_c |S_c|^2 = 1`` where the maps are not all 0."""
    norm = np.sqrt(np.sum(maps.real**2 + maps.imag**2, axis=0))
    return maps / np.where(norm > 0, norm, 1)
