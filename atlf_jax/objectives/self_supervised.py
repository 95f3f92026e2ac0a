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

    With ``multi_operator`` the reconstruction x of all samples, held fixed, is measured again by the mirrored mask, and
    what the network makes of that is to be x, wherever the samples lie::

        loss + multi_operator |f(A' x) - x|_1 / |x|_1

    So the network also learns with as many samples as it will be given, and what no sample of its own says. Two more
    passes through the network a step.

    Under a mask of lines whole lines are withheld: a network that is asked for single points of a line learns to fill
    them in from their neighbours along the line, which the lines that were never measured do not have.

    Source: Yaman et al. 2020 (Magn Reson Med 84:3172), SSDU, with the several masks of Yaman et al. 2022 (NMR Biomed
    35:e4798). Departures: a split is new for each step and example, where theirs were drawn once; the withheld samples
    are drawn uniformly (as in 2022), not with a Gaussian density; and they are lines where the mask is, which is of
    Millard and Chiew 2023 (IEEE Trans Comput Imaging 9:707). Multi-operator imaging: Tachella, Chen and Davies 2022
    (NeurIPS 35), eq. 9, where x is not held fixed and the other masks are those of other examples.
    """

    withheld: float = 0.4
    """Fraction of the measured samples that is withheld, outside the centre."""
    splits: int = 1
    """Number of splits of each example per step; the time of a step grows with it."""
    centre: int = 4
    """Side of the square about zero frequency, or number of central lines, that is never withheld."""
    multi_operator: float = 0.0
    """Weight of the distance between reconstructions from the measured and from the mirrored mask."""
    lines: bool = True
    """Withhold whole lines under a mask of lines; False: points, as published."""

    def __post_init__(self) -> None:
        if not 0 < self.withheld < 1 or self.splits < 1 or self.centre < 0 or self.multi_operator < 0:
            raise ValueError(
                f"got withheld {self.withheld}, splits {self.splits}, centre {self.centre} and multi_operator "
                f"{self.multi_operator}; wanted a part between 0 and 1, one split or more, no negative side or weight"
            )

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome:
        """Predict the withheld samples."""
        losses, images, state = [], [], {}
        keys = jax.random.split(jax.random.key(0) if key is None else key, self.splits if key is not None else 1)
        for split_key in keys:
            key_mask, key_model = jax.random.split(split_key)
            seen, withheld = split_samples(
                key_mask, batch.measurement, part=self.withheld, centre=self.centre, lines=self.lines
            )
            result, state = apply(model, variables | state, seen, key=None if key is None else key_model)
            losses.append(_distance(result.image, withheld))
            images.append(result)
        terms: dict[str, Any] = {"withheld": jnp.stack(losses).mean(0)}
        shown = images[0]
        if key is None or self.multi_operator:
            shown = apply(model, variables, batch.measurement, key=None)[0]
        if key is not None and self.multi_operator:
            image = jax.lax.stop_gradient(shown.image)
            key_mask, key_model = jax.random.split(jax.random.fold_in(key, self.splits))
            again = measured_by_mirrored_mask(key_mask, batch.measurement, image)
            result, state = apply(model, variables | state, again, key=key_model)
            tiny = jnp.finfo(image.real.dtype).tiny
            terms["multi_operator"] = self.multi_operator * _l1(result.image - image) / jnp.maximum(_l1(image), tiny)
        return Outcome(terms, *compare(jax.lax.stop_gradient(shown), batch), state)


def split_samples(
    key: Key[Array, ""], measurement: Measurement, *, part: float, centre: int, lines: bool = True
) -> tuple[Measurement, Measurement]:
    """Split the measured samples of each example at random into two sets.

    Args:
        key: for the random draw.
        measurement: a batch; under a mask of lines, ``[b, 1, w]``, lines are withheld, else points.
        part: probability that a sample, or a line, is withheld; it is withheld in all coils or in none.
        centre: side of the square about zero frequency, or number of central lines, that is never withheld.
        lines: False withholds points under a mask of lines too.

    Returns:
        The measurement of the samples that are seen, and that of the withheld ones; their masks are ``[b, h, w]``, or
        ``[b, 1, w]`` where lines were withheld.

    Example:
        >>> full = Measurement(jnp.ones((1, 8, 8), jnp.complex64), jnp.ones((1, 1, 8), bool), jnp.zeros((1, 8, 8)))
        >>> seen, withheld = split_samples(jax.random.key(0), full, part=0.5, centre=2)
        >>> bool((seen.mask ^ withheld.mask).all()), withheld.mask.shape, bool(withheld.mask[0, 0, 3:5].any())
        (True, (1, 1, 8), False)
    """
    (h, w), mask = measurement.kspace.shape[-2:], jnp.asarray(measurement.mask)
    rows, columns = (jnp.arange(side) - side // 2 + centre // 2 for side in (h, w))
    kept = ((columns >= 0) & (columns < centre))[None, None]  # [1, 1, w]
    if not lines or mask.shape[-2] > 1:
        mask = jnp.broadcast_to(mask, (len(mask), h, w))
        kept = kept & ((rows >= 0) & (rows < centre))[None, :, None]  # [1, h, w]
    withheld = mask & jax.random.bernoulli(key, part, mask.shape) & ~kept
    return _restricted(measurement, mask & ~withheld), _restricted(measurement, withheld)


def measured_by_mirrored_mask(
    key: Key[Array, ""], measurement: Measurement, image: Complex[Array, "b h w"]
) -> Measurement:
    """Return the samples of other images under each example's mask, mirrored left to right and maybe top to bottom.

    Zero frequency stays where it is. A mask of lines is mirrored left to right alone.

    Args:
        key: decides for each example whether its mask is mirrored top to bottom too.
        measurement: a batch, of which mask, coil maps and CT are taken.
        image: what is measured.
    """
    mask = jnp.asarray(measurement.mask)
    mirrored = _mirrored(mask, axis=-1)
    if mask.shape[-2] > 1:
        down = jax.random.bernoulli(key, 0.5, (len(mask), 1, 1))
        mirrored = jnp.where(down, _mirrored(mirrored, axis=-2), mirrored)
    kspace = forward(image, mirrored, measurement.coil_maps)
    return measurement._replace(kspace=kspace, mask=mirrored)


def _mirrored(mask: Bool[Array, "b #h w"], *, axis: int) -> Bool[Array, "b #h w"]:
    """Exchange positive and negative frequencies of an axis; of an even one, the most negative stays."""
    return jnp.roll(jnp.flip(mask, axis), 1 - mask.shape[axis] % 2, axis)


def _restricted(measurement: Measurement, mask: Bool[Array, "b #h w"]) -> Measurement:
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

    l2 = jnp.sqrt(jnp.maximum(squares(error), tiny)) / jnp.sqrt(jnp.maximum(squares(measured), tiny))
    return l2 + _l1(error) / jnp.maximum(_l1(measured), tiny)


def _l1(x: Complex[Array, "b *c"]) -> Float[Array, " b"]:
    """Return each example's sum of absolute values; the gradient is 0 where a value is."""
    square = jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x))
    size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return size.sum(tuple(range(1, x.ndim)))
