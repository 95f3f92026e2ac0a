"""Changes of the CT-MR pairs of a source: remove, exchange or move the CT, or add lesions.

Names, subjects, masks and noise stay the same, so that a changed source is compared with the original slice by slice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Float32

from atlf_jax.data import Example, Source
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy, move_ct
from atlf_jax.masks import seed_from_name

__all__ = [
    "ABLATIONS",
    "Change",
    "Changed",
    "Lesion",
    "atlas_mean",
    "has_ct",
    "cached",
    "lesion_mark",
    "mover",
    "of_another_slice",
    "of_another_subject",
    "painter",
    "possible_ablations",
    "zeros",
]

Change = Callable[[Source, int], Example]


@dataclass(frozen=True)
class Changed:
    """A source whose records are changed on reading."""

    source: Source
    change: Change  # (source, index) -> the changed record

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return self.change(self.source, index)


def zeros(source: Source, index: int) -> Example:
    """Remove the CT: it becomes zeros, which is how a network receives a scan without a CT.

    Example:
        >>> pair = Example("slice", "subject", np.ones((2, 2), np.float32), np.ones((2, 2), np.complex64))
        >>> bool(zeros([pair], 0).ct.any())
        False
    """
    example = source[index]
    return example._replace(ct=np.zeros_like(example.ct))


def of_another_subject(source: Source, index: int) -> Example:
    """Replace the CT by that of the next subject, at the same relative position in its volume.

    Example:
        >>> a = Example("a", "first", np.zeros((2, 2), np.float32), np.ones((2, 2), np.complex64))
        >>> b = Example("b", "second", np.ones((2, 2), np.float32), np.ones((2, 2), np.complex64))
        >>> changed = of_another_subject([a, b], 0)
        >>> changed.name, bool((changed.ct == b.ct).all())
        ('a', True)
    """
    volumes = _volumes(source)
    subjects = list(volumes)
    example = source[index]
    if len(subjects) < 2:
        raise ValueError("the CT of another subject was asked for, and the split holds only one; choose another split")
    own = volumes[example.subject]
    other = volumes[subjects[(subjects.index(example.subject) + 1) % len(subjects)]]
    height = own.index(index) / max(1, len(own) - 1)
    return _with_ct(example, source[other[round(height * (len(other) - 1))]])


def of_another_slice(source: Source, index: int) -> Example:
    """Replace the CT by that of the same subject, half a volume away.

    Example:
        >>> a = Example("a", "subject", np.zeros((2, 2), np.float32), np.ones((2, 2), np.complex64))
        >>> b = a._replace(name="b", ct=np.ones((2, 2), np.float32))
        >>> changed = of_another_slice([a, b], 0)
        >>> changed.name, bool((changed.ct == b.ct).all())
        ('a', True)
    """
    example = source[index]
    own = _volumes(source)[example.subject]
    if len(own) < 2:
        raise ValueError(f"the CT of another slice was asked for, and subject {example.subject} has only one slice")
    return _with_ct(example, source[own[(own.index(index) + len(own) // 2) % len(own)]])


@beartype
def atlas_mean(atlas: Source) -> Change:
    """Return the change to the mean CT of other subjects: at the same relative position in each of their volumes.

    It holds what heads have in common, and nothing of this person: what another CT brings beside it is this person's.

    Args:
        atlas: pairs of the other subjects, on the same grid. Nothing is registered.

    Example:
        >>> a, b = (Example(n, n, np.full((2, 2), v, "f4"), np.ones((2, 2), "c8")) for n, v in (("a", 0), ("b", 1)))
        >>> own = Example("own", "own", np.zeros((2, 2), np.float32), np.ones((2, 2), np.complex64))
        >>> float(atlas_mean([a, b])([own], 0).ct.mean())
        0.5
    """
    others = _volumes(atlas)

    def change(source: Source, index: int) -> Example:
        example = source[index]
        own = _volumes(source)[example.subject]
        height = own.index(index) / max(1, len(own) - 1)
        at_height = [atlas[slices[round(height * (len(slices) - 1))]] for slices in others.values()]
        cts = [_with_ct(example, other).ct for other in at_height]
        return example._replace(ct=np.mean(cts, axis=0, dtype=np.float32))

    return change


ABLATIONS: dict[str, Change] = {
    "CT zero": zeros,
    "CT of another subject": of_another_subject,
    "CT of another slice": of_another_slice,
}


@beartype
def has_ct(source: Source) -> bool:
    """Return whether any record has a CT that is not 0 everywhere; records are read up to the first that has."""
    return any(source[index].ct.any() for index in range(len(source)))


@beartype
def possible_ablations(source: Source) -> dict[str, Change]:
    """Return the rows of ``ABLATIONS`` that are possible for a source.

    With a single subject there is no CT of another subject; with a single slice there is no CT of another slice.

    Example:
        >>> pair = Example("slice", "subject", np.ones((2, 2), np.float32), np.ones((2, 2), np.complex64))
        >>> list(possible_ablations([pair]))  # one slice of one subject
        ['CT zero']
    """
    volumes = _volumes(source)
    impossible = {of_another_subject} if len(volumes) == 1 else set()
    impossible |= {of_another_slice} if min(map(len, volumes.values())) == 1 else set()
    return {name: change for name, change in ABLATIONS.items() if change not in impossible}


@beartype
def cached(source: Source, change: Change) -> Source:
    """Return a changed source that keeps its records in memory: each is read once for every mask."""
    return _Cached(Changed(source, change))


@beartype
def mover(name: str, amount: float) -> Change:
    """Return the change that moves the CT, each slice's in its own direction, drawn from its name.

    Args:
        name: a row of ``modality.SWEEPS`` about the CT.
        amount: in its unit.

    Example:
        >>> pair = Example("slice", "subject", np.pad(np.ones((8, 8), np.float32), 4), np.ones((16, 16), np.complex64))
        >>> changed = mover("CT shift [px]", 3.0)([pair], 0)
        >>> round(float(np.linalg.norm(np.array(scipy.ndimage.center_of_mass(changed.ct)) - 7.5)), 2)
        3.0
    """
    kind = name.split()[1]  # shift, rotation or elastic

    def change(source: Source, index: int) -> Example:
        example = source[index]
        rng = np.random.default_rng(seed_from_name(example.name))
        return example._replace(ct=move_ct(example.ct, rng, **{kind: amount}))

    return change


Place = Literal["deep", "cortex", "edge"]
PLACES: dict[Place, tuple[float, float]] = {  # distance from the outside of the head, as a part of the largest
    "deep": (0.5, 1.0),
    "cortex": (0.2, 0.35),  # where most slices have it
    "edge": (0.02, 0.12),  # scalp and skull
}


@beartype
@dataclass(frozen=True)
class Lesion:
    """A round lesion that is painted into the CT or the MR alone."""

    painted: Literal["ct", "mr"] = "mr"
    """Where."""
    contrast: float = 0.3
    """Height in units of the image's maximum; negative: darker than its surroundings, and 0 at most."""
    radius: float = 0.01
    """Standard deviation of the Gaussian, in image sides; .01 is smaller than what the centre of k-space resolves."""
    place: Place = "deep"
    """A row of ``PLACES``."""


@beartype
def painter(lesion: Lesion) -> Change:
    """Return the change that paints a lesion into the CT or the MR alone, at a place drawn from the slice's name.

    Example:
        >>> pair = Example("slice", "subject", np.zeros((32, 32), np.float32), np.ones((32, 32), np.complex64))
        >>> changed = painter(Lesion("ct", 0.5))([pair], 0)
        >>> float(changed.ct.max()), bool((changed.target == pair.target).all())
        (0.5, True)
    """

    def change(source: Source, index: int) -> Example:
        example = source[index]
        mark = lesion_mark(example, radius=lesion.radius, place=lesion.place)
        if lesion.painted == "ct":
            return example._replace(ct=np.clip(example.ct + lesion.contrast * mark, 0, 1))
        magnitude = np.abs(example.target)
        added = np.maximum(lesion.contrast * magnitude.max() * mark, -magnitude)
        phase = np.exp(1j * np.angle(example.target))
        if example.kspace is not None:  # the coils see it as strongly, against each other, as what lies there
            images = ifft2c_numpy(example.kspace)
            strength = np.maximum(np.linalg.norm(images, axis=0), np.finfo(np.float32).tiny)
            images = (images * (1 + added / strength)).astype(np.complex64)
            example = example._replace(kspace=fft2c_numpy(images))
        return example._replace(target=(example.target + added * phase).astype(np.complex64))

    return change


@beartype
def lesion_mark(example: Example, *, radius: float = 0.01, place: Place = "deep") -> Float32[np.ndarray, "h w"]:
    """Draw a round lesion of height 1 inside the body, at a place that follows from the record's name.

    Args:
        example: its MR says where the body is: above a tenth of the maximum, holes filled.
        radius: standard deviation of the Gaussian, in image sides.
        place: how deep in the body; the point is drawn among all that are so deep.

    Example:
        >>> pair = Example("slice", "subject", np.zeros((32, 32), np.float32), np.ones((32, 32), np.complex64))
        >>> mark = lesion_mark(pair)
        >>> float(mark.max()), bool((mark > 0.5).mean() < 0.01)
        (1.0, True)
    """
    magnitude = np.abs(example.target)
    h, w = magnitude.shape
    body = scipy.ndimage.binary_fill_holes(magnitude > 0.1 * magnitude.max())
    depth = np.asarray(scipy.ndimage.distance_transform_edt(np.pad(body, 1)))[1:-1, 1:-1]
    least, most = (part * depth.max() for part in PLACES[place])
    rows, columns = np.nonzero((depth >= least) & (depth <= most) & body)
    if not len(rows):  # a body of few pixels has no such depth: the pixel that is nearest to it
        row, column = np.unravel_index(np.argmin(np.where(body, np.abs(depth - least), np.inf)), (h, w))
        rows, columns = np.array([row]), np.array([column])
    drawn = np.random.default_rng(seed_from_name(example.name)).integers(len(rows))
    y, x = np.ogrid[:h, :w]
    square = (y - rows[drawn]) ** 2 + (x - columns[drawn]) ** 2
    return np.exp(-square / (2 * (radius * min(h, w)) ** 2)).astype(np.float32)


@dataclass(frozen=True)
class _Cached:
    """A source that keeps what it has read."""

    source: Source
    read: dict[int, Example] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        if index not in self.read:
            self.read[index] = self.source[index]
        return self.read[index]


def _volumes(source: Source) -> dict[str, list[int]]:
    """Return the records of each subject, in order."""
    volumes: dict[str, list[int]] = {}
    for index in range(len(source)):
        volumes.setdefault(source[index].subject, []).append(index)
    return volumes


def _with_ct(example: Example, other: Example) -> Example:
    if other.ct.shape != example.ct.shape:
        raise ValueError(
            f"{example.name} is {example.ct.shape} and {other.name}, whose CT it was to have, is {other.ct.shape}: "
            "exchange CTs only where all slices have one size"
        )
    return example._replace(ct=other.ct)
