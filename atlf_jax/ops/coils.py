"""Receive coils from the data itself: maps from the centre of k-space, noise whitening and coil compression.

k-space is ``[*b, c, h, w]`` with a fully sampled centre (the ACS). Matrices over coils are ``[c, c]`` or ``[v, c]``,
with v the virtual coils, and act by ``mix_coils`` on k-space, coil images and coil maps alike.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jaxtyping import Bool, Complex, Float, Float64, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.ops.fourier import ifft2c
from atlf_jax.ops.operators import normalise_maps

__all__ = [
    "centre_window",
    "compression_matrix",
    "espirit_maps",
    "low_resolution_images",
    "low_resolution_maps",
    "mix_coils",
    "noise_covariance",
    "noise_level",
    "whitening_matrix",
]

FRAME = 0.85  # where the frame of k-space begins, as a part of half a side


@jaxtyped(typechecker=beartype)
def low_resolution_maps(
    kspace: Complex[Array, "*b c h w"], *, calibration: int | tuple[int, int] = 24
) -> Complex[Array, "*b c h w"]:
    """Estimate coil maps from low-resolution coil images: ``S_c = x_c / sqrt(sum_c |x_c|^2)``, ``x = F^H (W y)``.

    W is a Hann window over the central square of k-space. Quick, and defined everywhere, in air too. The maps carry
    the phase of the object, so that the combined image has little phase left.

    Args:
        kspace: ``[*b, c, h, w]``, fully sampled in the central square.
        calibration: side of the square in samples, or (rows, columns).

    Returns:
        Maps ``[*b, c, h, w]`` with ``sum_c |S_c|^2 = 1`` (0 where the low-resolution image is 0).

    Example:
        >>> maps = low_resolution_maps(jnp.ones((4, 32, 32), jnp.complex64))
        >>> maps.shape, round(float(abs(maps[0, 16, 16])), 3)
        ((4, 32, 32), 0.5)

    Source: the estimate before refinement in E2E-VarNet (Sriram et al. 2020); departure: a square with a Hann window,
    against the ringing of its sharp edge, in place of all rows of the ACS lines.
    """
    return normalise_maps(low_resolution_images(kspace, calibration=calibration))


@jaxtyped(typechecker=beartype)
def low_resolution_images(
    kspace: Complex[Array, "*b h w"], *, calibration: int | tuple[int, int] = 24
) -> Complex[Array, "*b h w"]:
    """Reconstruct the centre of k-space alone, under a Hann window: smooth images with the smooth part of the phase.

    Args:
        kspace: ``[*b, h, w]``, fully sampled in the central square.
        calibration: side of the square in samples, or (rows, columns).

    Returns:
        Images ``[*b, h, w]``.

    Example:
        >>> kspace = np.zeros((32, 32), np.complex64)
        >>> kspace[16, 16] = kspace[0, 0] = 32  # an image of ones, and a checkerboard far from the centre of k-space
        >>> bool(np.allclose(low_resolution_images(kspace), 1, atol=1e-5))
        True
    """
    h, w = kspace.shape[-2:]
    window = centre_window((h, w), calibration)
    return ifft2c(kspace * jnp.asarray(window, kspace.dtype).reshape((1,) * (kspace.ndim - 2) + window.shape))


@jaxtyped(typechecker=beartype)
def centre_window(shape: tuple[int, int], calibration: int | tuple[int, int] = 24) -> Float64[np.ndarray, "h w"]:
    """Return the Hann window over the central square of k-space by which low-resolution images are made.

    Args:
        shape: of k-space, (h, w).
        calibration: side of the square in samples, or (rows, columns).

    Example:
        >>> centre_window((1, 6), (1, 4)).round(2)
        array([[0.  , 0.1 , 0.65, 1.  , 0.65, 0.  ]])
    """
    return np.outer(*map(_hann, shape, _sides(calibration)))


@jaxtyped(typechecker=beartype)
def espirit_maps(
    kspace: Complex[Array, "*b c h w"],
    *,
    calibration: int | tuple[int, int] = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
) -> Complex[Array, "*b c h w"]:
    """Estimate one set of coil maps by ESPIRiT.

    The maps at pixel r are the eigenvector of ``G(r) = sum_n k_n(r) k_n(r)^H / kernel^2`` with the largest eigenvalue,
    k_n(r) being the images of the kernels that span the rows of the calibration matrix. ``G`` is built from the
    projection onto these kernels, whose sums over equal lags are its few Fourier coefficients: one row of pixels is in
    memory at a time, however many kernels there are.

    Args:
        kspace: ``[*b, c, h, w]``, fully sampled in the central square.
        calibration: side of the square in samples, or (rows, columns); that of the image where it is smaller.
        kernel: side of the kernels, in samples.
        threshold: singular values of the calibration matrix below this part of the largest are noise.
        crop: pixels whose eigenvalue is not above this lie outside the object; their maps are 0.

    Returns:
        Maps ``[*b, c, h, w]`` with ``sum_c |S_c|^2`` 1 or 0, with phases relative to the first coil.

    Raises:
        ValueError: the kernel does not fit into the calibration square.

    Example:
        >>> maps = np.asarray(espirit_maps(np.ones((4, 16, 16), np.complex64), kernel=4))  # of one bright pixel
        >>> abs(maps[:, 8, 8]).round(3).tolist(), int((maps != 0).any(axis=0).sum())
        ([0.5, 0.5, 0.5, 0.5], 1)

    Source: Uecker et al. 2014; compared with sigpy ``mri.app.EspiritCalib``. Departure: eigenvectors by decomposition,
    not by 100 power iterations, which stop short where two eigenvalues are close; and coils that are 0 have phase 0,
    where sigpy divides by 0.
    """
    c, h, w = kspace.shape[-3:]
    sides = tuple(map(min, _sides(calibration), (h, w)))
    if not 1 <= kernel <= min(sides):
        raise ValueError(f"got a kernel of {kernel} samples for a calibration region of {sides}; want one that fits in")
    flat = jnp.asarray(kspace).reshape(-1, c, h, w)
    return _espirit(flat, sides, kernel, threshold, crop).reshape(kspace.shape)


@jaxtyped(typechecker=beartype)
def noise_covariance(noise: Complex[np.ndarray, "c *n"]) -> Complex[np.ndarray, "c c"]:
    """Return the covariance of the coils' noise, ``sum_n n n^H / N``.

    Args:
        noise: samples of noise alone, ``[c, *n]``, from a scan without excitation or from the edge of k-space.

    Returns:
        ``[c, c]``, Hermitian.

    Example:
        >>> noise_covariance(np.array([[1, -1, 1, -1], [2, 2, -2, -2]], complex)).real.tolist()
        [[1.0, 0.0], [0.0, 4.0]]

    Source: Pruessmann et al. 2001. Noise has no mean, so none is subtracted.
    """
    flat = noise.reshape(len(noise), -1)
    return flat @ flat.conj().T / flat.shape[1]


@jaxtyped(typechecker=beartype)
def noise_level(kspace: Complex[Array, "*bc h w"], mask: Bool[Array, "*#b #h w"]) -> Float[Array, "*b"]:
    """Estimate the standard deviation of the noise from the measured samples in the frame of k-space.

    ``sigma^2 = median |y|^2 / log 2`` over the samples whose distance from the centre is at least ``FRAME`` of half a
    side in either direction: there little but noise is left, and the median passes over what is. ``|n|^2`` of complex
    noise is exponential, with the median ``sigma^2 log 2``. Fine detail of the image counts as noise: heads of
    AANLIB without any give .003 to .010 of their maximum. Samples of exactly 0 are left out, as those of coils and
    lines that were filled up.

    Args:
        kspace: y, ``[*b, h, w]``, or ``[*b, c, h, w]`` of coils with equal noise (see ``whitening_matrix``).
        mask: ``[*#b, 1|h, w]``.

    Returns:
        ``[*b]``, in the units of k-space, which are those of the image; 0 where the frame has no measured sample.

    Example:
        >>> real, imaginary = 0.1 / np.sqrt(2) * np.random.default_rng(0).standard_normal((2, 1, 64, 64))
        >>> noise = jnp.asarray(real + 1j * imaginary, jnp.complex64)
        >>> round(float(noise_level(noise, jnp.ones((1, 1, 64), bool))[0]), 2)
        0.1
    """
    h, w = kspace.shape[-2:]
    y, x = (np.abs(np.arange(side) - side // 2) >= FRAME * (side // 2) for side in (h, w))
    measured = mask & np.broadcast_to(y[:, None] | x, (*mask.shape[:-2], h, w))
    if kspace.ndim > mask.ndim:
        measured = measured[..., None, :, :]
    power = jnp.square(kspace.real) + jnp.square(kspace.imag)
    power = jnp.where(measured & (power > 0), power, jnp.nan)
    axes = tuple(range(mask.ndim - 2, kspace.ndim))
    return jnp.sqrt(jnp.nan_to_num(jnp.nanmedian(power, axis=axes)) / math.log(2))


@jaxtyped(typechecker=beartype)
def whitening_matrix(covariance: Complex[np.ndarray, "c c"]) -> Complex[np.ndarray, "c c"]:
    """Return the matrix that makes the coils' noise white: ``L^-1`` with ``L L^H`` the covariance (Cholesky).

    Args:
        covariance: of the noise, ``[c, c]``.

    Returns:
        ``[c, c]``, lower triangular. Mixed with it, noise has the identity as covariance: samples then are in units of
        its standard deviation.

    Raises:
        ValueError: the covariance is not Hermitian, or not positive definite.

    Example:
        >>> whitening_matrix(np.diag([4, 0.25]).astype(complex)).real.tolist()
        [[0.5, 0.0], [0.0, 2.0]]
    """
    wide = covariance.astype(np.complex128)
    if not np.allclose(wide, wide.conj().T, rtol=1e-4, atol=1e-6 * np.abs(wide).max()):
        raise ValueError("the noise covariance is not Hermitian; want sum(n n^H) / N over samples n of all coils")
    try:
        factor = np.linalg.cholesky(wide)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"the noise covariance of {len(wide)} coils is not positive definite; measure it from more samples than "
            "coils, and leave out coils that are dead or copies of others"
        ) from error
    return np.linalg.inv(factor).astype(covariance.dtype)


@jaxtyped(typechecker=beartype)
def compression_matrix(kspace: Complex[Array, "*b c h w"], coils: int) -> Complex[Array, "*b v c"]:
    """Return the matrix that compresses to virtual coils: the first left singular vectors, ``U_v^H``, of the coils.

    Args:
        kspace: ``[*b, c, h, w]``; each example has its own matrix.
        coils: number v of virtual coils, the strongest first.

    Returns:
        ``[*b, v, c]`` with orthonormal rows: no other v coils keep more of the energy, and k-space that v coils span
        loses nothing.

    Raises:
        ValueError: more virtual coils than coils, or none.

    Example:
        >>> kspace = jnp.ones((8, 4, 4), jnp.complex64)  # the same in all coils
        >>> virtual = mix_coils(compression_matrix(kspace, 1), kspace)
        >>> virtual.shape, bool(jnp.allclose(jnp.linalg.norm(virtual), jnp.linalg.norm(kspace)))
        ((1, 4, 4), True)

    Source: Buehrer et al. 2007; Zhang et al. 2013, without its alignment along a readout.
    """
    c = kspace.shape[-3]
    if not 1 <= coils <= c:
        raise ValueError(f"got {coils} virtual coils for k-space of {c} coils; want 1 to {c}")
    energy = jnp.einsum("...chw,...dhw->...cd", kspace, kspace.conj())
    vectors = jnp.linalg.eigh(energy)[1][..., ::-1]  # columns, strongest first
    return vectors[..., :coils].conj().swapaxes(-1, -2)  # [*b c v] -> [*b v c]


@jaxtyped(typechecker=beartype)
def mix_coils(matrix: Complex[Array, "*#b v c"], kspace: Complex[Array, "*b c h w"]) -> Complex[Array, "*b v h w"]:
    """Mix coils, ``y'_v = sum_c W_vc y_c``: whiten or compress k-space, coil images or coil maps.

    Example:
        >>> coils = jnp.array([3 + 0j, 1 + 0j]).reshape(2, 1, 1)
        >>> mix_coils(jnp.array([[1, 1], [1, -1]], jnp.complex64), coils).real.ravel().tolist()
        [4.0, 2.0]
    """
    return jnp.einsum("...vc,...chw->...vhw", matrix, kspace)


@partial(jax.jit, static_argnums=(1, 2))
def _espirit(kspace: Array, sides: tuple[int, int], kernel: int, threshold: float, crop: float) -> Array:
    """Return the maps of k-space ``[b, c, h, w]``, one example and one row of pixels after the other."""
    c, h, w = kspace.shape[-3:]
    rows, columns = (_fourier_rows(n, kernel, kspace.dtype) for n in (h, w))  # [lags h], [lags w]

    def one(kspace: Array) -> Array:
        lags = _lag_sums(_calibration_matrix(kspace, sides, kernel), c, kernel, threshold)  # [c c lags lags]
        over_columns = jnp.einsum("cdlm,mw->lwcd", lags, columns)

        def one_row(row: Array) -> Array:  # [lags] -> [w c]
            values, vectors = jnp.linalg.eigh(jnp.einsum("l,lwcd->wcd", row, over_columns))
            maps, inside = vectors[..., -1], values[..., -1:] > crop
            return jnp.where(inside, maps * _unit(maps[..., :1]).conj(), 0)

        return lax.map(one_row, rows.T).transpose(2, 0, 1)  # [h w c] -> [c h w]

    return lax.map(one, kspace)


def _sides(calibration: int | tuple[int, int]) -> tuple[int, int]:
    return calibration if isinstance(calibration, tuple) else (calibration, calibration)


def _hann(side: int, calibration: int) -> np.ndarray:
    """A Hann window about ``side // 2``, 0 beyond the calibration region."""
    distance = np.arange(side) - side // 2
    inside = (distance >= -(calibration // 2)) & (distance < calibration - calibration // 2)
    return np.where(inside, np.cos(np.pi * distance / (calibration + 1)) ** 2, 0)


def _calibration_matrix(kspace: Array, sides: tuple[int, int], kernel: int) -> Array:
    """All kernel-sized blocks of the centre as rows: ``[blocks, c * kernel * kernel]``."""
    top, left = (n // 2 - side // 2 for n, side in zip(kspace.shape[-2:], sides, strict=True))
    i, j = (np.arange(side - kernel + 1) for side in sides)
    p = np.arange(kernel)
    rows = top + i[:, None, None, None] + p[:, None]  # [i 1 p 1]
    columns = left + j[:, None, None] + p  # [j 1 q]
    blocks = kspace[:, rows, columns]  # [c i j p q]
    return blocks.transpose(1, 2, 0, 3, 4).reshape(len(i) * len(j), -1)


def _lag_sums(matrix: Array, coils: int, kernel: int, threshold: float) -> Array:
    """Project onto the kernels above the threshold and add up equal lags: ``[c, c, 2 kernel - 1, 2 kernel - 1]``."""
    energies, vectors = jnp.linalg.eigh(matrix.conj().T @ matrix)  # squared singular values
    kept = energies > threshold**2 * energies[-1]
    kernels = jnp.where(kept, vectors, 0).conj()
    projection = kernels @ kernels.conj().T / kernel**2
    projection = projection.reshape(coils, kernel, kernel, coils, kernel, kernel)
    p, q = np.arange(kernel)[:, None], np.arange(kernel)
    lag = p - q + kernel - 1  # [p q]
    sums = jnp.zeros((coils, coils, 2 * kernel - 1, 2 * kernel - 1), matrix.dtype)
    return sums.at[:, :, lag[:, None, :, None], lag[None, :, None, :]].add(projection.transpose(0, 3, 1, 2, 4, 5))


def _fourier_rows(side: int, kernel: int, dtype: jnp.dtype) -> np.ndarray:
    """Fourier factors of each lag at each pixel about ``side // 2``: ``[2 kernel - 1, side]``."""
    lag, pixel = np.arange(1 - kernel, kernel)[:, None], np.arange(side) - side // 2
    return np.exp(2j * np.pi * lag * pixel / side).astype(dtype)


def _unit(values: Array) -> Array:
    """Return ``z / |z|``, and 1 where z is 0."""
    size = jnp.abs(values)
    return jnp.where(size > 0, values / jnp.where(size > 0, size, 1).astype(values.dtype), 1)
