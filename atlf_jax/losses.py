"""Losses, one value for each example: of the fusion, and of the reconstruction.

Real images are ``[b, h, w]``, feature maps ``[b, h, w, f]``; a batch is averaged by whoever trains. Sources: CDDFuse
(Zhao et al. 2023, ``utils/loss.py`` and ``train.py``), of which the fusion losses are the CT-MR form.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Complex, Float, jaxtyped

from atlf_jax.array_types import Array, FusionFeatures
from atlf_jax.ops.filters import GAUSSIAN_11, separable, similarity_map

__all__ = [
    "RECONSTRUCTION_LOSSES",
    "autoencode",
    "charbonnier",
    "correlation",
    "decomposition",
    "edge",
    "fusion",
    "gap",
    "gradient",
    "intensity",
    "l1",
    "magnitude",
    "mse",
    "reproduction",
    "sobel",
    "ssim",
    "ssim_magnitude",
]

Images = Float[Array, "b h w"]
ComplexImages = Complex[Array, "b h w"]
Features = Float[Array, "b h w f"]
PerExample = Float[Array, " b"]

_SMOOTH, _DIFFERENCE = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
_PIXELS = (-2, -1)


@jaxtyped(typechecker=beartype)
def correlation(a: Features, b: Features) -> PerExample:
    """Pearson correlation over pixels, clamped to [-1, 1] and averaged over features.

    ``cc = mean_f sum(a' b') / (eps + |a'| |b'|)`` with ``a' = a - mean(a)``. Invariant to positive affine maps of
    either argument up to eps; 0, with a finite gradient, for constant features.

    Args:
        a: ``[b, h, w, f]``.
        b: ``[b, h, w, f]``.

    Returns:
        ``[b]``.

    Example:
        >>> a = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> correlation(a, 1 - 2 * a).round(4).tolist()
        [-1.0]

    Source: CDDFuse ``cc``, which averages over examples too; eps is float32's whatever the dtype.
    """
    a = a - jnp.mean(a, axis=(1, 2), keepdims=True)
    b = b - jnp.mean(b, axis=(1, 2), keepdims=True)
    norms = _root(jnp.sum(a**2, axis=(1, 2))) * _root(jnp.sum(b**2, axis=(1, 2)))  # [b f]
    cosine = jnp.sum(a * b, axis=(1, 2)) / (float(np.finfo(np.float32).eps) + norms)
    return jnp.mean(jnp.clip(cosine, -1, 1), axis=-1)


@jaxtyped(typechecker=beartype)
def decomposition(features: FusionFeatures) -> PerExample:
    """Penalise global features of CT and MR that differ, and local features that correlate.

    ``cc(local_ct, local_mr)^2 / (1.01 + cc(global_ct, global_mr))``, from 0 to 100; 1 / 2.01 when both cc are 1.

    Returns:
        ``[b]``.

    Example:
        >>> a = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> round(float(decomposition(FusionFeatures(a, a, a, a))[0]), 4)  # 1 / 2.01
        0.4975

    Source: CDDFuse, eq. 12 in the published code's form.
    """
    detail = correlation(features.local_ct, features.local_mr)
    return detail**2 / (1.01 + correlation(features.global_ct, features.global_mr))


@jaxtyped(typechecker=beartype)
def sobel(image: Images) -> Images:
    """Compute the edge strength ``|G_x| + |G_y|`` by 3 x 3 Sobel filters, unscaled, with a zero border.

    Example:
        >>> sobel(jnp.array([[[0.0, 0.0, 1.0, 1.0]] * 3]))[0, 1].tolist()  # the last: an edge towards the border
        [0.0, 4.0, 4.0, 4.0]

    Source: CDDFuse ``Sobelxy``.
    """
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1)))
    return jnp.abs(separable(padded, _SMOOTH, _DIFFERENCE)) + jnp.abs(separable(padded, _DIFFERENCE, _SMOOTH))


@jaxtyped(typechecker=beartype)
def intensity(fused: Images, ct: Images, mr: Images) -> PerExample:
    """Penalise the distance to the brighter modality: ``mean |max(ct, mr) - fused|``.

    Example:
        >>> dark, bright = jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2))
        >>> intensity(bright, dark, bright).tolist(), intensity(dark, dark, bright).tolist()
        ([0.0], [1.0])
    """
    return jnp.mean(jnp.abs(jnp.maximum(ct, mr) - fused), axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def gradient(fused: Images, ct: Images, mr: Images) -> PerExample:
    """Penalise the distance to the stronger edge: ``mean |max(sobel(ct), sobel(mr)) - sobel(fused)|``.

    Example:
        >>> flat, step = jnp.zeros((1, 3, 4)), jnp.array([[[0.0, 0.0, 1.0, 1.0]] * 3])
        >>> gradient(step, flat, step).tolist(), bool(gradient(flat, flat, step)[0] > 0)
        ([0.0], True)
    """
    return jnp.mean(jnp.abs(jnp.maximum(sobel(ct), sobel(mr)) - sobel(fused)), axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def gap(fused: Images, mr: Images) -> PerExample:
    """Penalise the distance to the MR, which the fused image should help to reconstruct: ``mean |fused - mr|``.

    Example:
        >>> gap(jnp.full((1, 2, 2), 0.75), jnp.ones((1, 2, 2))).tolist()
        [0.25]
    """
    return jnp.mean(jnp.abs(fused - mr), axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def fusion(
    fused: Images, ct: Images, mr: Images, features: FusionFeatures | None = None, *, gap_weight: float = 1.0
) -> PerExample:
    """Compute the fusion loss: ``intensity + 10 gradient + 2 decomposition + gap_weight gap``.

    Args:
        fused: ``[b, h, w]``, in [0, 1].
        ct: ``[b, h, w]``, in [0, 1].
        mr: the target MR, ``[b, h, w]``: in training the fully sampled magnitude is allowed here, and only here.
        features: for the decomposition term, which is left out without them.
        gap_weight: of the term that CDDFuse does not have.

    Returns:
        ``[b]``.

    Example:
        >>> ct, mr = jnp.zeros((1, 4, 4)), jnp.eye(4)[None]
        >>> fusion(mr, ct, mr).tolist(), fusion(ct, ct, mr).tolist(), fusion(ct, ct, mr, gap_weight=0.0).tolist()
        ([0.0], [23.0], [22.75])

    Source: CDDFuse, phase II, with the gap term of this library.
    """
    loss = intensity(fused, ct, mr) + 10 * gradient(fused, ct, mr) + gap_weight * gap(fused, mr)
    return loss if features is None else loss + 2 * decomposition(features)


@jaxtyped(typechecker=beartype)
def ssim(prediction: Images, target: Images, *, data_range: float = 1.0) -> PerExample:
    """Structural dissimilarity ``mean clip((1 - SSIM) / 2, 0, 1)``: Gaussian 11 x 11 window, reflected border.

    Args:
        prediction: ``[b, h, w]``.
        target: ``[b, h, w]``.
        data_range: of the target.

    Returns:
        ``[b]``, 0 for equal images.

    Example:
        >>> import jax
        >>> image, loss = np.eye(8, dtype=np.float32)[None], jax.jit(ssim)
        >>> [round(float(loss(prediction, image)[0]), 2) for prediction in (image, 1 - image)]
        [0.0, 0.65]

    Source: kornia ``SSIMLoss(11)``. Unlike ``metrics.ssim``, every pixel counts, the border too.
    """
    border = len(GAUSSIAN_11) // 2
    width = ((0, 0), (border, border), (border, border))
    prediction, target = jnp.pad(prediction, width, mode="reflect"), jnp.pad(target, width, mode="reflect")
    similarity = similarity_map(prediction, target, GAUSSIAN_11, data_range=data_range, sample_covariance=False)
    return jnp.mean(jnp.clip((1 - similarity) / 2, 0, 1), axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def edge(prediction: Images, target: Images) -> PerExample:
    """Compare signed derivatives: the mean over x, y and pixels of ``|d prediction - d target|``.

    Example:
        >>> image = jnp.arange(16.0).reshape(1, 4, 4)
        >>> edge(image + 1, image).tolist(), bool(edge(2 * image, image)[0] > 0)
        ([0.0], True)

    Source: kornia ``SpatialGradient`` (Sobel / 8, replicated border) under an L1 loss, as CDDFuse's phase I.
    """
    padded = jnp.pad(prediction - target, ((0, 0), (1, 1), (1, 1)), mode="edge")
    dx, dy = separable(padded, _SMOOTH / 8, _DIFFERENCE), separable(padded, _DIFFERENCE, _SMOOTH / 8)
    return (jnp.mean(jnp.abs(dx), axis=_PIXELS) + jnp.mean(jnp.abs(dy), axis=_PIXELS)) / 2


@jaxtyped(typechecker=beartype)
def reproduction(prediction: Images, target: Images) -> PerExample:
    """Compare one decoded modality with its input: ``mse + 5 ssim``."""
    return jnp.mean((prediction - target) ** 2, axis=_PIXELS) + 5 * ssim(prediction, target)


@jaxtyped(typechecker=beartype)
def autoencode(
    ct_prediction: Images, ct: Images, mr_prediction: Images, mr: Images, features: FusionFeatures
) -> PerExample:
    """Compute the autoencoding loss: ``reproduction`` of both modalities, ``2 decomposition`` and ``5 edge`` of the MR.

    Args:
        ct_prediction: CT decoded from its own features, ``[b, h, w]``.
        ct: ``[b, h, w]``, in [0, 1].
        mr_prediction: MR decoded from its own features, ``[b, h, w]``.
        mr: ``[b, h, w]``, in [0, 1].
        features: of both.

    Returns:
        ``[b]``.

    Source: CDDFuse, phase I, where the visible image takes the MR's place.
    """
    return (
        reproduction(ct_prediction, ct)
        + reproduction(mr_prediction, mr)
        + 2 * decomposition(features)
        + 5 * edge(mr_prediction, mr)
    )


@jaxtyped(typechecker=beartype)
def mse(prediction: ComplexImages, target: ComplexImages) -> PerExample:
    """Mean squared error of complex images, ``mean |p - t|^2``: twice the mean over real and imaginary channels.

    Example:
        >>> mse(jnp.full((1, 2, 2), 3 + 4j), jnp.zeros((1, 2, 2), jnp.complex64)).tolist()
        [25.0]
    """
    error = prediction - target
    return jnp.mean(error.real**2 + error.imag**2, axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def magnitude(prediction: ComplexImages, target: ComplexImages) -> PerExample:
    """Mean squared error of the magnitudes, ``mean (|p| - |t|)^2``: the phase is free."""
    return jnp.mean((jnp.abs(prediction) - jnp.abs(target)) ** 2, axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def l1(prediction: ComplexImages, target: ComplexImages) -> PerExample:
    """Mean absolute error of complex images, ``mean |p - t|``.

    Example:
        >>> l1(jnp.full((1, 2, 2), 3 + 4j), jnp.zeros((1, 2, 2), jnp.complex64)).tolist()
        [5.0]
    """
    return jnp.mean(jnp.abs(prediction - target), axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def charbonnier(prediction: ComplexImages, target: ComplexImages, *, epsilon: float = 1e-6) -> PerExample:
    """Smooth absolute error of complex images, ``mean sqrt(|p - t|^2 + epsilon)``.

    Example:
        >>> image = jnp.ones((1, 2, 2), jnp.complex64)
        >>> round(float(charbonnier(image, image)[0]), 6)
        0.001

    Source: CIPM-Net ``cipm-train.py``: epsilon stands under the root unsquared, so errors round off below 1e-3.
    """
    error = prediction - target
    return jnp.mean(jnp.sqrt(error.real**2 + error.imag**2 + epsilon), axis=_PIXELS)


@jaxtyped(typechecker=beartype)
def ssim_magnitude(prediction: ComplexImages, target: ComplexImages) -> PerExample:
    """Structural dissimilarity ``ssim`` of the magnitudes, for images with data range 1.

    Example:
        >>> import jax
        >>> image = np.eye(8, dtype=np.complex64)[None]
        >>> round(float(jax.jit(ssim_magnitude)(1j * image, image)[0]), 4)  # a phase changes nothing
        0.0
    """
    return ssim(jnp.abs(prediction), jnp.abs(target))


RECONSTRUCTION_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "mse": mse,
    "l1": l1,
    "charbonnier": charbonnier,
    "ssim": ssim_magnitude,
    "magnitude": magnitude,
}


def _root(x: Array) -> Array:
    """Square root with gradient 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
