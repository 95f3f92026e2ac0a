"""Small image filters, and the structural similarity map that metrics and losses share."""

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import lax
from jaxtyping import Array, Float, jaxtyped

__all__ = ["UNIFORM_7", "GAUSSIAN_11", "separable", "similarity_map"]

UNIFORM_7 = np.full(7, 1 / 7)
_GAUSSIAN = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
GAUSSIAN_11 = _GAUSSIAN / _GAUSSIAN.sum()


@jaxtyped(typechecker=beartype)
def separable(
    image: Float[Array, "*b h w"], rows: Float[np.ndarray, " n"], columns: Float[np.ndarray, " m"]
) -> Float[Array, "*b hv wv"]:
    """Correlate images with ``outer(rows, columns)`` where it fits wholly inside.

    Args:
        image: ``[*b, h, w]``.
        rows: taps along h.
        columns: taps along w.

    Returns:
        ``[*b, h - n + 1, w - m + 1]``.

    Raises:
        ValueError: when the image is smaller than the filter.

    Example:
        >>> separable(jnp.arange(9.0).reshape(3, 3), np.full(3, 1 / 3), np.full(3, 1 / 3)).round(4).tolist()
        [[4.0]]

    Written as two products with banded matrices. For SSIM at 256 x 256 on CPU, sums of shifted images are twice as
    fast forward, but 20 times slower in the gradient and 10 times slower to compile; ``lax.conv`` with one channel
    is 10 times slower in both (jax 0.10).
    """
    h, w = image.shape[-2:]
    if h < len(rows) or w < len(columns):
        raise ValueError(f"got images of {h, w}, want at least the filter's {len(rows), len(columns)}")
    left, right = jnp.asarray(_banded(rows, h), image.dtype), jnp.asarray(_banded(columns, w), image.dtype)
    # "highest": a GPU would round float32 to ten bits here, and window variances are small differences.
    return jnp.einsum("ih,...hw,jw->...ij", left, image, right, precision="highest")


def _banded(taps: Float[np.ndarray, " n"], size: int) -> Float[np.ndarray, "rows size"]:
    """Return the matrix that correlates vectors of a size with the taps, where they fit."""
    rows = size - len(taps) + 1
    return np.sum([tap * np.eye(rows, size, offset) for offset, tap in enumerate(taps)], axis=0)


@jaxtyped(typechecker=beartype)
def similarity_map(
    prediction: Float[Array, "*b h w"],
    target: Float[Array, "*b h w"],
    window: Float[np.ndarray, " n"],
    *,
    data_range: float | Float[Array, ""] | Float[Array, "*#b 1 1"],
    sample_covariance: bool,
) -> Float[Array, "*b hv wv"]:
    """Compute the structural similarity of two images around each pixel, where the window fits.

    ``(2 m_p m_t + c1) (2 s_pt + c2) / ((m_p^2 + m_t^2 + c1) (s_p^2 + s_t^2 + c2))``, ``c = (k data_range)^2``,
    k1 = .01, k2 = .03, with window means m and covariances s.

    Args:
        prediction: ``[*b, h, w]``.
        target: ``[*b, h, w]``.
        window: taps of the separable window, summing to 1.
        data_range: a scalar or ``[*#b, 1, 1]``.
        sample_covariance: divide by ``n^2 - 1`` in place of ``n^2`` (scikit-image's default; Wang et al. do not).

    Returns:
        ``[*b, h - n + 1, w - n + 1]``.

    Example:
        >>> image = jnp.asarray(np.arange(64, dtype=np.float32).reshape(8, 8) / 64)
        >>> similarity = similarity_map(image, image, UNIFORM_7, data_range=1.0, sample_covariance=True)
        >>> np.asarray(similarity).round(4).tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    Source: Wang et al. 2004, eq. 13. Covariances are taken of the images less their means, which leaves them as they
    are and keeps the digits that squares of large values would lose.
    """

    def mean(x: Array) -> Array:
        return separable(x, window, window)

    def centred(x: Array) -> tuple[Array, Array]:
        centre = lax.stop_gradient(jnp.mean(x, axis=(-2, -1), keepdims=True))
        return x - centre, centre

    data_range = jnp.asarray(data_range, target.dtype)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    points = len(window) ** 2
    norm = points / (points - 1) if sample_covariance else 1.0
    (prediction, centre_p), (target, centre_t) = centred(prediction), centred(target)
    mean_p, mean_t = mean(prediction), mean(target)
    covariance = norm * (mean(prediction * target) - mean_p * mean_t)
    variances = norm * (mean(prediction**2) - mean_p**2 + mean(target**2) - mean_t**2)
    mean_p, mean_t = mean_p + centre_p, mean_t + centre_t
    return ((2 * mean_p * mean_t + c1) * (2 * covariance + c2)) / ((mean_p**2 + mean_t**2 + c1) * (variances + c2))
