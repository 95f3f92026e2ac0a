"""Learning without fully sampled images: some measured samples are withheld, and predicted from the others."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Bool, Complex, Float, Key

from atlf_jax.array_types import Array, Batch, Measurement
from atlf_jax.objectives.base import Model, Outcome, Variables, apply
from atlf_jax.objectives.supervised import compare
from atlf_jax.ops import forward

__all__ = ["SelfSupervised", "split_samples"]


@beartype
@dataclass(frozen=True)
class SelfSupervised:
    """SSDU: reconstruct from some of the measured samples, and compare with the others in k-space.

    ::

        Omega = Theta + Lambda;  u = y on Lambda;  v = A_Lambda f(y on Theta)
        loss = |u - v|_2 / |u|_2 + |u - v|_1 / |u|_1, the mean over several splits

    The fully sampled image is used only for the scores, never for the loss. In validation the image is reconstructed
    from all samples, and the loss is that of one fixed split.

    Source: Yaman et al. 2020 (Magn Reson Med 84:3172), SSDU, with the several masks of Yaman et al. 2022 (NMR Biomed
    35:e4798). Departures: a split is new for each step and example, where theirs were drawn once; the withheld samples
    are drawn uniformly (as in 2022), not with a Gaussian density.
    """

    withheld: float = 0.4
    """Fraction of the measured samples that is withheld."""
    splits: int = 1
    """Number of splits of each example per step; the time of a step grows with it."""
    centre: int = 4
    """Side of the square about zero frequency that is never withheld."""

    def __post_init__(self) -> None:
        if not 0 < self.withheld < 1 or self.splits < 1 or self.centre < 0:
            raise ValueError(
                f"got withheld {self.withheld}, splits {self.splits} and centre {self.centre}; wanted a part between 0 "
                "and 1, one split or more and no negative side"
            )

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome:
        """Predict the withheld samples."""
        losses, images, state = [], [], {}
        keys = jax.random.split(jax.random.key(0) if key is None else key, self.splits if key is not None else 1)
        for split_key in keys:
            key_mask, key_model = jax.random.split(split_key)
            seen, withheld = split_samples(key_mask, batch.measurement, part=self.withheld, centre=self.centre)
            result, state = apply(model, variables | state, seen, key=None if key is None else key_model)
            losses.append(_distance(result.image, withheld))
            images.append(result)
        shown = apply(model, variables, batch.measurement, key=None)[0] if key is None else images[0]
        terms: dict[str, Any] = {"withheld": jnp.stack(losses).mean(0)}
        return Outcome(terms, *compare(jax.lax.stop_gradient(shown), batch), state)


def split_samples(
    key: Key[Array, ""], measurement: Measurement, *, part: float, centre: int
) -> tuple[Measurement, Measurement]:
    """Split the measured samples of each example at random into two sets.

    Args:
        key: for the random draw.
        measurement: a batch.
        part: probability that a sample is withheld; a sample is withheld in all coils or in none.
        centre: side of the square about zero frequency that is never withheld.

    Returns:
        The measurement of the samples that are seen, and that of the withheld ones; their masks are ``[b, h, w]``.

    Example:
        >>> full = Measurement(jnp.ones((1, 8, 8), jnp.complex64), jnp.ones((1, 1, 8), bool), jnp.zeros((1, 8, 8)))
        >>> seen, withheld = split_samples(jax.random.key(0), full, part=0.5, centre=2)
        >>> bool((seen.mask ^ withheld.mask).all()), bool(withheld.mask[0, 3:5, 3:5].any())
        (True, False)
    """
    (h, w), batch = measurement.kspace.shape[-2:], measurement.kspace.shape[0]
    mask = jnp.broadcast_to(measurement.mask, (batch, h, w))
    rows, columns = (jnp.arange(side) - side // 2 + centre // 2 for side in (h, w))
    kept = ((rows >= 0) & (rows < centre))[:, None] & ((columns >= 0) & (columns < centre))[None]
    withheld = mask & jax.random.bernoulli(key, part, mask.shape) & ~kept[None]
    return _restricted(measurement, mask & ~withheld), _restricted(measurement, withheld)


def _restricted(measurement: Measurement, mask: Bool[Array, "b h w"]) -> Measurement:
    kspace = measurement.kspace
    coils = mask[:, None] if kspace.ndim > mask.ndim else mask
    return measurement._replace(kspace=jnp.where(coils, kspace, 0), mask=mask)


def _distance(image: Complex[Array, "b h w"], withheld: Measurement) -> Float[Array, " b"]:
    """Return the normalised l2 and l1 distances of an image's samples to the withheld ones, added."""
    measured = jnp.asarray(withheld.kspace)
    error = forward(image, withheld.mask, withheld.coil_maps) - measured
    axes = tuple(range(1, measured.ndim))
    tiny = jnp.finfo(measured.real.dtype).tiny

    def squares(x: Array) -> Array:
        return (jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x))).sum(axes)

    def sizes(x: Array) -> Array:
        size = jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x))
        return jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1)), 0).sum(axes)

    l2 = jnp.sqrt(jnp.maximum(squares(error), tiny)) / jnp.sqrt(jnp.maximum(squares(measured), tiny))
    return l2 + sizes(error) / jnp.maximum(sizes(measured), tiny)
