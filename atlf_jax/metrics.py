"""Image quality: PSNR, SSIM, NMSE and HFEN of real images, one value for each example, and the two profiles.

No function here clips or rescales images: in other toolboxes such steps change scores by decibels.
Images are magnitudes, ``[*b, h, w]``, and a score belongs to the last two axes. With ``body`` (True inside) only
those pixels count: of the squared errors, of the SSIM map and of the filtered images, respectively.

Images may be numpy or JAX arrays of any real type, byte order and strides. Arrays are scored in float64 and the result
is rounded to JAX's default float; inside ``jit`` and ``grad`` they are scored as they are, in float32 or better.

A score that is not defined is nan, never a number: where a counted pixel is not finite, no pixel counts, the target
has no energy (NMSE) or no detail (HFEN), or peak and data range are not above 0. Equal images have PSNR inf.

Profiles, named with every table:

- ``picture``: each slice for itself, in units in which the target's full range is [0, 1] (an 8-bit picture divided
  by 255): PSNR peak 1, SSIM data range 1.
- ``fastmri``: one value a volume; PSNR peak and SSIM data range are the maximum of the target's volume, NMSE is
  over the volume, SSIM the mean over its slices (``fastmri/evaluate.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, jaxtyped

from atlf_jax import own_code
from atlf_jax.ops.filters import GAUSSIAN_11, UNIFORM_7, separable, similarity_map

__all__ = [
    "METRICS",
    "PROFILES",
    "Metric",
    "find_metric",
    "hfen",
    "is_black",
    "nmse",
    "psnr",
    "score",
    "score_fastmri",
    "score_picture",
    "ssim",
]

Numbers = Any  # what the functions below accept for an image, and check: see _real

_WINDOWS = {"uniform7": UNIFORM_7, "gaussian11": GAUSSIAN_11}


class _Pair(NamedTuple):
    """Two images of one shape and type, checked."""

    prediction: Float[Array, "*b h w"]
    target: Float[Array, "*b h w"]
    body: Bool[Array, "*b h w"] | None
    span: Float[Array, "*#b"]  # peak, data range or full range


@dataclass(frozen=True)
class Metric:
    """A metric as tables take it.

    Attributes:
        function: of (prediction, target, peak, body), written with ``jax.numpy``: images ``[*b, h, w]``, the peak of
            the target or None where none is known, and a bool array ``[*b, h, w]`` of the pixels that count, or None
            where all do; it returns ``[*b]``.
        lower_is_better: so, as of an error.
        unit: for headings.
        decimals: that are shown.
        over_volume: of a whole volume under the profile ``fastmri``; None: the mean over its slices.

    Example:
        >>> error = Metric(lambda p, t, peak, body: jnp.abs(p - t).mean((-2, -1)), lower_is_better=True)
        >>> float(error(jnp.zeros((4, 4)), jnp.ones((4, 4)), 1.0, None))
        1.0
    """

    function: Callable[[Array, Array, Any, Any], Array]
    lower_is_better: bool = False
    unit: str = ""
    decimals: int = 4
    over_volume: Callable[["_Pair"], Array] | None = None

    def __call__(self, prediction: Array, target: Array, peak: Any, body: Any) -> Array:
        return self.function(prediction, target, peak, body)


@beartype
def find_metric(name: str) -> Metric:
    """Return a metric by its name.

    Args:
        name: a key of ``METRICS``, or FILE.py:NAME of a ``Metric`` or of a function for which higher is better; the
            suffix ``_body`` (inside the body) is ignored.

    Raises:
        ValueError: there is no metric of that name.

    Example:
        >>> find_metric("nmse_body").lower_is_better
        True
    """
    found = own_code.find(name.removesuffix("_body"), METRICS, what="metric")
    if isinstance(found, Metric):
        return found
    if not callable(found):
        raise ValueError(f"{name} is {found!r}; wanted a function of (prediction, target, peak, body), or a Metric")
    function: Any = found
    return Metric(function)


def psnr(prediction: Numbers, target: Numbers, *, peak: Numbers, body: Numbers = None) -> Float[Array, "*b"]:
    """Peak signal-to-noise ratio, ``10 log10(peak^2 / mean((p - t)^2))`` in dB.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        peak: of the target, a scalar or ``[*b]``, in the images' units.
        body: ``[*b, h, w]`` or ``[h, w]``, True where pixels count; all by default.

    Returns:
        ``[*b]``. Infinite for equal images, with gradient 0 there; nan where it is not defined.

    Raises:
        ValueError: what was given is no pair of real images of one shape.

    Example:
        >>> round(float(psnr(jnp.full((4, 4), 0.1), jnp.zeros((4, 4)), peak=1.0)), 4)
        20.0
    """
    return _measured(_psnr, prediction, target, body, peak=peak)


def ssim(
    prediction: Numbers,
    target: Numbers,
    *,
    data_range: Numbers,
    body: Numbers = None,
    window: Literal["uniform7", "gaussian11"] = "uniform7",
) -> Float[Array, "*b"]:
    """Structural similarity, the mean of its map over the pixels around which the whole window fits.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        data_range: of the target, a scalar or ``[*b]``, in the images' units.
        body: ``[*b, h, w]`` or ``[h, w]``, True where window centres count; all by default.
        window: ``uniform7`` (7 x 7, sample covariance) or ``gaussian11`` (11 x 11, sigma 1.5, population covariance).

    Returns:
        ``[*b]``, at most 1; nan where it is not defined.

    Raises:
        ValueError: when the images are smaller than the window, or as ``psnr``.

    Example:
        >>> image = np.eye(8)
        >>> round(float(ssim(image, image, data_range=1.0)), 4), float(ssim(1 - image, image, data_range=1.0)) < 0
        (1.0, True)

    Source: Wang et al. 2004. ``skimage.metrics.structural_similarity`` gives the same, with its defaults for
    ``uniform7``, with ``gaussian_weights=True, use_sample_covariance=False`` for ``gaussian11``.
    """
    if window not in _WINDOWS:
        raise ValueError(f"unknown SSIM window {window!r}, want one of {', '.join(_WINDOWS)}")
    return _measured(lambda pair: _ssim(pair, window), prediction, target, body, data_range=data_range)


def nmse(prediction: Numbers, target: Numbers, *, body: Numbers = None) -> Float[Array, "*b"]:
    """Normalised mean squared error, ``||p - t||^2 / ||t||^2``.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        body: ``[*b, h, w]`` or ``[h, w]``, True where pixels count; all by default.

    Returns:
        ``[*b]``; nan where it is not defined.

    Raises:
        ValueError: as ``psnr``.

    Example:
        >>> round(float(nmse(np.full((4, 4), 0.9), np.ones((4, 4)))), 4)
        0.01
    """
    return _measured(_nmse, prediction, target, body)


def hfen(prediction: Numbers, target: Numbers, *, body: Numbers = None) -> Float[Array, "*b"]:
    """High-frequency error norm, ``||L t - L p|| / ||L t||`` with a Laplacian of Gaussian L.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        body: ``[*b, h, w]`` or ``[h, w]``, True where pixels of the filtered images count; all by default.

    Returns:
        ``[*b]``, with gradient 0 for equal images; nan where it is not defined.

    Raises:
        ValueError: as ``psnr``.

    Example:
        >>> image = np.eye(8)
        >>> round(float(hfen(image + 1, image)), 4), round(float(hfen(0 * image, image)), 4)  # a shift is not detail
        (0.0, 1.0)

    Source: Ravishankar and Bresler 2011. L is 15 x 15, sigma 1.5, made zero-mean; the border repeats the nearest
    pixel (other borders change the value by up to a factor 2).
    """
    return _measured(_hfen, prediction, target, body)


def score_picture(
    prediction: Numbers,
    target: Numbers,
    *,
    full_range: Numbers = 1.0,
    body: Numbers = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Float[Array, " s"]]:
    """Score slices by the ``picture`` profile, each for itself.

    Args:
        prediction: ``[s, h, w]`` magnitudes, in the units of target.
        target: ``[s, h, w]`` magnitudes.
        full_range: what white is in these units, a scalar or ``[s]``: 1 for an 8-bit picture divided by 255, 1 / scale
            for images that were divided by scale after that. A property of the format, not the slice's maximum.
        body: ``[s, h, w]`` or ``[h, w]``, True where pixels count; all by default.
        metrics: names (see ``find_metric``); those of ``METRICS`` by default.

    Returns:
        For each name its values, ``[s]``.

    Raises:
        ValueError: as ``psnr``, or the images have no axis of slices.

    Example:
        >>> black = np.zeros((2, 4, 4))
        >>> score_picture(black + 25.5, black, full_range=255.0, metrics=["psnr"])["psnr"].round(4).tolist()
        [20.0, 20.0]
    """
    found = {name: find_metric(name) for name in (METRICS if metrics is None else metrics)}

    def values(pair: _Pair) -> dict[str, Array]:
        unit = jnp.where(_above_zero(pair.span), pair.span, jnp.nan)
        unit = unit[:, None, None] if unit.ndim else unit  # [s 1 1]
        prediction, target = pair.prediction / unit, pair.target / unit
        return {name: metric(prediction, target, 1.0, pair.body) for name, metric in found.items()}

    return _measured(values, prediction, target, body, axes=3, full_range=full_range)


def score_fastmri(
    prediction: Numbers,
    target: Numbers,
    *,
    full_range: Numbers = 1.0,
    body: Numbers = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Score one volume by the ``fastmri`` profile.

    Args:
        prediction: ``[s, h, w]`` magnitudes, in the units of target.
        target: ``[s, h, w]`` magnitudes of one volume.
        full_range: has no part in this profile, which takes the maximum of the target's volume.
        body: ``[s, h, w]`` or ``[h, w]``, True where pixels count; all by default.
        metrics: names (see ``find_metric``); those of ``METRICS`` by default.

    Returns:
        For each name one value, ``[]``. HFEN, which fastMRI does not have, filters each slice and takes the norms over
        the volume; a metric without a rule of its own, ``over_volume``, is the mean over the slices.

    Raises:
        ValueError: as ``psnr``, or the images have no axis of slices.

    Example:
        >>> volume = np.stack([np.ones((4, 4)), np.full((4, 4), 2.0)])  # its maximum is 2
        >>> round(float(score_fastmri(volume + 0.2, volume, metrics=["psnr"])["psnr"]), 4)
        20.0
    """
    del full_range
    found = {name: find_metric(name) for name in (METRICS if metrics is None else metrics)}

    def values(pair: _Pair) -> dict[str, Array]:
        pair = pair._replace(span=jnp.max(pair.target))
        return {
            name: metric.over_volume(pair)
            if metric.over_volume
            else jnp.mean(metric(pair.prediction, pair.target, pair.span, pair.body))
            for name, metric in found.items()
        }

    return _measured(values, prediction, target, body, axes=3)


def score(
    profile: Literal["picture", "fastmri"],
    prediction: Numbers,
    target: Numbers,
    *,
    full_range: Numbers = 1.0,
    body: Numbers = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Array]:
    """Score by a named profile: see ``score_picture`` (values ``[s]``) and ``score_fastmri`` (values ``[]``).

    Example:
        >>> volume = np.ones((3, 4, 4))
        >>> {name: score(name, volume, volume, metrics=["nmse"])["nmse"].shape for name in PROFILES}
        {'picture': (3,), 'fastmri': ()}
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown metric profile {profile!r}, want one of {', '.join(PROFILES)}")
    return PROFILES[profile](prediction, target, full_range=full_range, body=body, metrics=metrics)


@jaxtyped(typechecker=beartype)
def is_black(
    target: Float[Array | np.ndarray, "*b h w"] | Complex[Array | np.ndarray, "*b h w"],
) -> Bool[Array | np.ndarray | np.bool_, "*b"]:
    """Return which images are 0 everywhere; there is nothing to reconstruct, and means leave them out.

    Args:
        target: ``[*b, h, w]``.

    Returns:
        ``[*b]``.

    Example:
        >>> is_black(np.stack([np.zeros((2, 2)), np.eye(2)]))
        array([ True, False])
    """
    return (target == 0).all(axis=(-2, -1))


PROFILES: dict[str, Callable[..., dict[str, Array]]] = {"picture": score_picture, "fastmri": score_fastmri}

# To add a metric, write its function and add it here.
METRICS: dict[str, Metric] = {
    "psnr": Metric(
        lambda prediction, target, peak, body: psnr(prediction, target, peak=peak, body=body),
        unit="dB",
        decimals=2,
        over_volume=lambda volume: _psnr(_flat(volume)),
    ),
    "ssim": Metric(lambda prediction, target, peak, body: ssim(prediction, target, data_range=peak, body=body)),
    "nmse": Metric(
        lambda prediction, target, _peak, body: nmse(prediction, target, body=body),
        lower_is_better=True,
        over_volume=lambda volume: _nmse(_flat(volume)),
    ),
    "hfen": Metric(
        lambda prediction, target, _peak, body: hfen(prediction, target, body=body),
        lower_is_better=True,
        over_volume=lambda volume: _hfen(volume, axes=(-3, -2, -1)),
    ),
}


@jaxtyped(typechecker=beartype)
def _psnr(pair: _Pair) -> Float[Array, "*b"]:
    error = _mean((pair.prediction - pair.target) ** 2, pair.body)
    known = _above_zero(pair.span)
    differs = known & (error > 0)
    ratio = jnp.where(differs, pair.span, 1) ** 2 / jnp.where(differs, error, 1)
    value = 10 * jnp.log10(ratio)
    # An error may be 0 where two images differ by less than a square can hold: that is not perfect.
    equal = known & (error == 0) & (_mean((pair.prediction != pair.target).astype(error.dtype), pair.body) == 0)
    return jnp.where(differs & jnp.isfinite(value), value, jnp.where(equal, jnp.inf, jnp.nan))


@jaxtyped(typechecker=beartype)
def _ssim(pair: _Pair, window: str) -> Float[Array, "*b"]:
    known, taps = _above_zero(pair.span), _WINDOWS[window]
    data_range = jnp.where(known, pair.span, 1)
    if data_range.ndim:
        data_range = data_range[..., None, None]  # [*b 1 1]
    similarity = similarity_map(
        pair.prediction, pair.target, taps, data_range=data_range, sample_covariance=window == "uniform7"
    )
    edge = len(taps) // 2
    value = _mean(similarity, None if pair.body is None else pair.body[..., edge:-edge, edge:-edge])
    return jnp.where(known & jnp.isfinite(value), value, jnp.nan)


@jaxtyped(typechecker=beartype)
def _nmse(pair: _Pair) -> Float[Array, "*b"]:
    return _ratio(_energy(pair.prediction - pair.target, pair.body), _energy(pair.target, pair.body), 0.0)


@jaxtyped(typechecker=beartype)
def _hfen(pair: _Pair, axes: tuple[int, ...] = (-2, -1)) -> Float[Array, "..."]:
    # The kernel's sum is 0, so that a mean changes nothing; taken away, it costs no digits.
    difference, target = (
        image - lax.stop_gradient(jnp.mean(image, axis=(-2, -1), keepdims=True))
        for image in (pair.prediction - pair.target, pair.target)
    )
    error, detail = _laplacian_of_gaussian(difference), _laplacian_of_gaussian(target)
    counted = jnp.ones(detail.shape, bool) if pair.body is None else pair.body
    # Rounding leaves .02 eps of the largest value (measured) in each pixel of a target without detail.
    floor = 4 * jnp.finfo(detail.dtype).eps * jnp.max(jnp.abs(target), axis=axes)
    floor = floor**2 * jnp.sum(counted, axis=axes)
    energy = _energy(error, pair.body, axes)
    differs = energy > 0
    ratio = _ratio(jnp.where(differs, energy, 1), _energy(detail, pair.body, axes), floor)
    return jnp.where(differs, jnp.sqrt(ratio), jnp.where(energy == 0, 0 * ratio, jnp.nan))


def _ratio(
    part: Float[Array, "*b"], whole: Float[Array, "*b"], floor: float | Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Divide energies; nan where the whole is not above a floor, or one of both is not finite."""
    known = (whole > floor) & jnp.isfinite(whole) & jnp.isfinite(part)
    return jnp.where(known, part / jnp.where(known, whole, 1), jnp.nan)


def _above_zero(span: Float[Array, "*b"]) -> Bool[Array, "*b"]:
    return (span > 0) & jnp.isfinite(span)


def _energy(
    image: Float[Array, "*b h w"], body: Bool[Array, "*b h w"] | None, axes: tuple[int, ...] = (-2, -1)
) -> Float[Array, "*b"]:
    squares = image**2
    return jnp.sum(squares if body is None else jnp.where(body, squares, 0), axis=axes)


def _mean(image: Float[Array, "*b h w"], body: Bool[Array, "*b h w"] | None) -> Float[Array, "*b"]:
    return jnp.mean(image, axis=(-2, -1), where=body)


def _flat(volume: _Pair) -> _Pair:
    """Stack the slices of a volume into one image: [s h w] -> [s*h w]."""
    prediction, target, body, span = volume
    body = None if body is None else body.reshape(-1, body.shape[-1])
    return _Pair(prediction.reshape(-1, prediction.shape[-1]), target.reshape(-1, target.shape[-1]), body, span)


def _laplacian_of_gaussian(image: Float[Array, "*b h w"]) -> Float[Array, "*b h w"]:
    """Filter a centred image with the 15 x 15 kernel, written as a sum of three separable ones."""
    sigma, x = 1.5, np.arange(-7, 8)
    gaussian = np.exp(-(x**2) / (2 * sigma**2))
    gaussian /= gaussian.sum()
    curvature = gaussian * (x**2 - sigma**2) / sigma**4
    box = np.full(x.size, 1 / x.size)
    padded = jnp.pad(image, [(0, 0)] * (image.ndim - 2) + [(7, 7), (7, 7)], mode="edge")
    filtered = separable(padded, curvature, gaussian) + separable(padded, gaussian, curvature)
    return filtered - 2 * float(curvature.sum()) * separable(padded, box, box)


def _measured(
    metric: Callable[[_Pair], Any],
    prediction: Numbers,
    target: Numbers,
    body: Numbers,
    *,
    axes: int | None = None,
    **spans: Numbers,
) -> Any:
    """Check what a person gave, and call a metric with it: in float64, or traced as it is.

    Args:
        metric: of a checked pair.
        prediction: images.
        target: images.
        body: which pixels count.
        axes: how many the images must have; at least two by default.
        spans: peak, data range or full range, under the name that the person knows; none: 1.
    """
    (name, span), *_ = [*spans.items(), ("peak", 1.0)]
    prediction, target, span = _real("prediction", prediction), _real("target", target), _real(name, span)
    shape, least = prediction.shape, axes or 2
    if shape != target.shape:
        raise ValueError(f"prediction has shape {shape} and target {target.shape}; want two images of one shape")
    if len(shape) < least or (axes and len(shape) != axes) or 0 in shape[-2:]:
        wanted = "[slices, h, w]; of one slice give image[None]" if axes else "[h, w] or [..., h, w]"
        raise ValueError(f"prediction and target have shape {shape}; want pixels along {wanted}")
    body, span = _counted(body, shape), _span(name, span, shape[:-2])
    given = (prediction, target, span, body)
    if any(isinstance(array, jax.core.Tracer) for array in given):
        dtype = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
        return metric(_pair(*given, dtype))
    rounded = jax.dtypes.canonicalize_dtype(np.float64)
    with jax.enable_x64(True):
        values = metric(_pair(*given, jnp.dtype(np.float64)))
        if isinstance(values, dict):
            return {name: value.astype(rounded) for name, value in values.items()}
        return values.astype(rounded)


def _pair(prediction: Any, target: Any, span: Any, body: Any, dtype: np.dtype) -> _Pair:
    """Bring checked arrays to one type; of a person's arrays numpy takes any byte order and strides."""

    def as_float(array: Any) -> Array:
        return array.astype(dtype) if isinstance(array, jax.Array) else jnp.asarray(np.asarray(array, dtype))

    return _Pair(as_float(prediction), as_float(target), None if body is None else jnp.asarray(body), as_float(span))


def _real(name: str, value: Numbers) -> Any:
    """Return a numpy or JAX array of real numbers; raise ``ValueError`` for anything else."""
    array = _array(name, value)
    found = array.dtype
    if jnp.issubdtype(found, jnp.complexfloating):
        raise ValueError(f"{name} is {found}: metrics are of real images; give the magnitude, abs({name})")
    if jnp.issubdtype(found, np.bool_):
        raise ValueError(f"{name} holds only True and False; want numbers (which pixels count is told by body=)")
    if not (jnp.issubdtype(found, jnp.floating) or jnp.issubdtype(found, jnp.integer)):
        raise ValueError(f"{name} is {_called(value)}; want an array of real numbers")
    return array


def _array(name: str, value: Numbers) -> Any:
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; give its data, and the pixels that count as body=~{name}.mask")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} is {_called(value)}, which is no array; want an array of real numbers") from error


def _called(value: Any) -> str:
    """Return a short description of a value, for messages."""
    dtype = getattr(value, "dtype", None)
    return f"of type {type(value).__name__}" if dtype is None else f"an array of {str(dtype)[:40]}"


def _counted(body: Numbers, shape: tuple[int, ...]) -> Any:
    """Return the pixels that count, True inside, in the images' shape."""
    if body is None:
        return None
    inside = _array("body", body)
    if inside.dtype != bool:
        inside = _real("body", inside)
        if not isinstance(inside, jax.core.Tracer) and not np.isin(np.asarray(inside), (0, 1)).all():
            raise ValueError("body holds other values than 0 and 1; want True where pixels count")
        inside = inside != 0
    if inside.shape not in (shape, shape[-2:]):
        raise ValueError(f"body has shape {inside.shape}; want that of the images, {shape}, or of one of them")
    return (jnp if isinstance(inside, jax.Array) else np).broadcast_to(inside, shape)


def _span(name: str, span: Any, batch: tuple[int, ...]) -> Any:
    """Return a peak or range as a scalar or one value an image; trailing axes of one pixel are dropped."""
    if span.ndim == len(batch) + 2 and span.shape[-2:] == (1, 1):
        span = span[..., 0, 0]
    fits = span.ndim == len(batch) and all(a in (1, b) for a, b in zip(span.shape, batch, strict=True))
    if span.ndim and not fits:
        one_each = f", or one for each image, shape {batch}" if batch else ""
        raise ValueError(f"{name} has shape {span.shape}; want one number{one_each}")
    return span
