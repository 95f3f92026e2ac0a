"""Image quality: PSNR, SSIM, NMSE and HFEN of real images, one value for each example, and the two profiles.

Nothing here clips, casts or rescales an image on its own: what the toolboxes do there moves the numbers by decibels.
Images are magnitudes, ``[*b, h, w]``, and a score belongs to the last two axes. With ``body`` (True inside) only
those pixels count: of the squared errors, of the SSIM map and of the filtered images, respectively.

Profiles, named with every table:

- ``picture``: each slice for itself, in units in which the target's full range is [0, 1] (an 8-bit picture divided
  by 255): PSNR peak 1, SSIM data range 1.
- ``fastmri``: one value a volume; PSNR peak and SSIM data range are the maximum of the target's volume, NMSE is
  over the volume, SSIM the mean over its slices (``fastmri/evaluate.py``).
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Array, Bool, Float, jaxtyped

from atlf_jax.ops.filters import GAUSSIAN_11, UNIFORM_7, separable, similarity_map

__all__ = ["METRICS", "PROFILES", "hfen", "nmse", "psnr", "score", "score_fastmri", "score_picture", "ssim"]

Images = Float[Array | np.ndarray, "*b h w"]
Body = Bool[Array | np.ndarray, "*b h w"] | None
Range = float | int | Float[Array | np.ndarray, "*#b"]
Volume = Float[Array | np.ndarray, "s h w"]
VolumeBody = Bool[Array | np.ndarray, "s h w"] | None

_WINDOWS = {"uniform7": UNIFORM_7, "gaussian11": GAUSSIAN_11}


@jaxtyped(typechecker=beartype)
def psnr(prediction: Images, target: Images, *, peak: Range, body: Body = None) -> Float[Array, "*b"]:
    """Peak signal-to-noise ratio, ``10 log10(peak^2 / mean((p - t)^2))`` in dB.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        peak: of the target, a scalar or ``[*b]``, in the images' units.
        body: ``[*b, h, w]``, True where pixels count; all by default.

    Returns:
        ``[*b]``. Infinite for equal images, with gradient 0 there.

    Example:
        >>> round(float(psnr(jnp.full((4, 4), 0.1), jnp.zeros((4, 4)), peak=1.0)), 4)
        20.0
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    error = _mean((prediction - target) ** 2, body)
    differs = error > 0
    peak = jnp.asarray(peak, error.dtype)
    return jnp.where(differs, 10 * jnp.log10(peak**2 / jnp.where(differs, error, 1)), jnp.inf)


@jaxtyped(typechecker=beartype)
def ssim(
    prediction: Images,
    target: Images,
    *,
    data_range: Range,
    body: Body = None,
    window: Literal["uniform7", "gaussian11"] = "uniform7",
) -> Float[Array, "*b"]:
    """Structural similarity, the mean of its map over the pixels around which the whole window fits.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        data_range: of the target, a scalar or ``[*b]``, in the images' units.
        body: ``[*b, h, w]``, True where window centres count; all by default.
        window: ``uniform7`` (7 x 7, sample covariance) or ``gaussian11`` (11 x 11, sigma 1.5, population covariance).

    Returns:
        ``[*b]``, at most 1.

    Raises:
        ValueError: when the images are smaller than the window.

    Source: Wang et al. 2004. ``skimage.metrics.structural_similarity`` gives the same, with its defaults for
    ``uniform7``, with ``gaussian_weights=True, use_sample_covariance=False`` for ``gaussian11``.
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    data_range = jnp.asarray(data_range, target.dtype)
    if data_range.ndim:
        data_range = data_range[..., None, None]  # [*b 1 1]
    taps = _WINDOWS[window]
    similarity = similarity_map(prediction, target, taps, data_range=data_range, sample_covariance=window == "uniform7")
    edge = len(taps) // 2
    return _mean(similarity, None if body is None else body[..., edge:-edge, edge:-edge])


@jaxtyped(typechecker=beartype)
def nmse(prediction: Images, target: Images, *, body: Body = None) -> Float[Array, "*b"]:
    """Normalised mean squared error, ``||p - t||^2 / ||t||^2``.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        body: ``[*b, h, w]``, True where pixels count; all by default.

    Returns:
        ``[*b]``.
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    return _energy(prediction - target, body) / _energy(target, body)


@jaxtyped(typechecker=beartype)
def hfen(prediction: Images, target: Images, *, body: Body = None) -> Float[Array, "*b"]:
    """High-frequency error norm, ``||L t - L p|| / ||L t||`` with a Laplacian of Gaussian L.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        body: ``[*b, h, w]``, True where pixels of the filtered images count; all by default.

    Returns:
        ``[*b]``, with gradient 0 for equal images.

    Source: Ravishankar and Bresler 2011. L is 15 x 15, sigma 1.5, made zero-mean; the border repeats the nearest
    pixel (other borders change the value by up to a factor 2).
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    return _relative_norm(_laplacian_of_gaussian(prediction - target), _laplacian_of_gaussian(target), body)


@jaxtyped(typechecker=beartype)
def score_picture(
    prediction: Volume, target: Volume, *, full_range: Range = 1.0, body: VolumeBody = None
) -> dict[str, Float[Array, " s"]]:
    """Score slices by the ``picture`` profile, each for itself.

    Args:
        prediction: ``[s, h, w]`` magnitudes, in the units of target.
        target: ``[s, h, w]`` magnitudes.
        full_range: what white is in these units, a scalar or ``[s]``: 1 for an 8-bit picture divided by 255, 1 / scale
            for images that were divided by scale after that. A property of the format, not the slice's maximum.
        body: ``[s, h, w]``, True where pixels count; all by default.

    Returns:
        For each name in ``METRICS`` its values, ``[s]``.
    """
    full_range = jnp.asarray(full_range, target.dtype)
    unit = full_range[:, None, None] if full_range.ndim else full_range  # [s 1 1]
    prediction, target = jnp.asarray(prediction) / unit, jnp.asarray(target) / unit
    return {name: metric(prediction, target, 1.0, body) for name, metric in METRICS.items()}


@jaxtyped(typechecker=beartype)
def score_fastmri(
    prediction: Volume, target: Volume, *, full_range: Range = 1.0, body: VolumeBody = None
) -> dict[str, Float[Array, ""]]:
    """Score one volume by the ``fastmri`` profile.

    Args:
        prediction: ``[s, h, w]`` magnitudes, in the units of target.
        target: ``[s, h, w]`` magnitudes of one volume.
        full_range: has no part in this profile, which takes the maximum of the target's volume.
        body: ``[s, h, w]``, True where pixels count; all by default.

    Returns:
        For each name in ``METRICS`` one value, ``[]``. HFEN, which fastMRI does not have, filters each slice and
        takes the norms over the volume.
    """
    del full_range
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    peak = jnp.max(target)

    def flat(x: Array) -> Array:
        return x.reshape(-1, x.shape[-1])  # [s h w] -> [s*h w]

    flat_body = None if body is None else flat(jnp.asarray(body))
    error, detail = flat(_laplacian_of_gaussian(prediction - target)), flat(_laplacian_of_gaussian(target))
    return {
        "psnr": psnr(flat(prediction), flat(target), peak=peak, body=flat_body),
        "ssim": jnp.mean(ssim(prediction, target, data_range=peak, body=body)),
        "nmse": nmse(flat(prediction), flat(target), body=flat_body),
        "hfen": _relative_norm(error, detail, flat_body),
    }


def score(
    profile: Literal["picture", "fastmri"],
    prediction: Volume,
    target: Volume,
    *,
    full_range: Range = 1.0,
    body: VolumeBody = None,
) -> dict[str, Array]:
    """Score by a named profile: see ``score_picture`` (values ``[s]``) and ``score_fastmri`` (values ``[]``)."""
    if profile not in PROFILES:
        raise ValueError(f"unknown metric profile {profile!r}, want one of {', '.join(PROFILES)}")
    return PROFILES[profile](prediction, target, full_range=full_range, body=body)


PROFILES: dict[str, Callable[..., dict[str, Array]]] = {"picture": score_picture, "fastmri": score_fastmri}

# What the profiles report, each called with (prediction, target, peak, body).
METRICS: dict[str, Callable[[Array, Array, Range, Body], Array]] = {
    "psnr": lambda prediction, target, peak, body: psnr(prediction, target, peak=peak, body=body),
    "ssim": lambda prediction, target, peak, body: ssim(prediction, target, data_range=peak, body=body),
    "nmse": lambda prediction, target, _peak, body: nmse(prediction, target, body=body),
    "hfen": lambda prediction, target, _peak, body: hfen(prediction, target, body=body),
}


def _energy(image: Float[Array, "*b h w"], body: Body) -> Float[Array, "*b"]:
    squares = image**2
    return jnp.sum(squares if body is None else jnp.where(body, squares, 0), axis=(-2, -1))


def _mean(image: Float[Array, "*b h w"], body: Body) -> Float[Array, "*b"]:
    return jnp.mean(image, axis=(-2, -1), where=None if body is None else jnp.asarray(body))


def _relative_norm(error: Float[Array, "*b h w"], whole: Float[Array, "*b h w"], body: Body) -> Float[Array, "*b"]:
    """``||error|| / ||whole||``, with gradient 0 where the error is 0."""
    energy = _energy(error, body)
    differs = energy > 0
    return jnp.where(differs, jnp.sqrt(jnp.where(differs, energy, 1) / _energy(whole, body)), 0)


def _laplacian_of_gaussian(image: Float[Array, "*b h w"]) -> Float[Array, "*b h w"]:
    """Filter with the 15 x 15 kernel, written as a sum of three separable ones."""
    sigma, x = 1.5, np.arange(-7, 8)
    gaussian = np.exp(-(x**2) / (2 * sigma**2))
    gaussian /= gaussian.sum()
    curvature = gaussian * (x**2 - sigma**2) / sigma**4
    box = np.full(x.size, 1 / x.size)
    padded = jnp.pad(image, [(0, 0)] * (image.ndim - 2) + [(7, 7), (7, 7)], mode="edge")
    filtered = separable(padded, curvature, gaussian) + separable(padded, gaussian, curvature)
    return filtered - 2 * float(curvature.sum()) * separable(padded, box, box)
