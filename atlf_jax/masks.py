"""Sampling masks for Cartesian k-space, in numpy: every kind in one table, every mask reproducible by its seed.

A mask is data: ``[1, w]`` when whole phase-encoding lines are acquired (they run along the last axis), else
``[h, w]``; True = acquired; the zero frequency, always acquired, lies at index ``n // 2``.

``random``, ``equispaced``, ``equispaced_fraction``, ``magic`` and ``magic_fraction`` equal the masks of the same
names in fastMRI (``fastmri/data/subsample.py``) bit for bit, generator and order of draws included.
"""

import difflib
import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from jaxtyping import Bool, Float, jaxtyped

__all__ = ["MASKS", "Mask", "MaskConfig", "make_mask", "seed_from_name", "stored_mask"]

Seed = int | tuple[int, ...] | np.random.RandomState
Kind = Literal[
    "random",
    "equispaced",
    "equispaced_fraction",
    "magic",
    "magic_fraction",
    "random_exact",
    "gaussian_1d",
    "partial_fourier",
    "variable_density_2d",
    "gaussian_2d",
    "poisson_disc",
    "radial",
]

GOLDEN_ANGLE = math.radians(111.24611797)
POISSON_TOLERANCE = 0.01  # of the number of samples


@dataclass(frozen=True)
class MaskConfig:
    """Which samples are acquired. Lengths in k-space are fractions of the image side, for any image size."""

    kind: Kind = "random"
    """Name of the mask, a key of MASKS. random draws each line by itself, as fastMRI does, so that at 4x of 256 lines
    the acceleration is 3.1 to 5.6; random_exact draws as many lines as asked for."""
    acceleration: float | tuple[float, ...] = 4.0
    """Nominal acceleration R; several values, with as many center fractions, are drawn from by the seed."""
    center_fraction: float | tuple[float, ...] = 0.08
    """Part of the lines that is fully sampled in the centre (masks of lines only)."""
    center_lines: int | None = None
    """Number of fully sampled central lines, instead of center_fraction (masks of lines only)."""
    center_radius: float = 17 / 256
    """Radius of the fully sampled central disc (variable_density_2d, gaussian_2d and poisson_disc)."""
    decay: float = 32 / 256
    """Length over which the density of variable_density_2d falls by a factor e."""
    sigma: float | None = None
    """Standard deviation of the density of gaussian_1d (default 1/6) and gaussian_2d (default 40/256)."""

    def __post_init__(self) -> None:
        if self.kind not in MASKS:
            nearest = difflib.get_close_matches(str(self.kind), MASKS, n=1, cutoff=0.0)[0]
            kinds = ", ".join(MASKS)
            raise ValueError(f"unknown mask kind {self.kind!r}: did you mean {nearest!r}? The kinds are {kinds}")
        for field in fields(self):
            value = getattr(self, field.name)
            hint: Any = field.type
            if not is_bearable(value, hint, conf=BeartypeConf(is_pep484_tower=True)):
                raise ValueError(f"got {field.name} {value!r}, want {hint}")
        if isinstance(self.acceleration, tuple) != isinstance(self.center_fraction, tuple) or len(
            _as_tuple(self.acceleration)
        ) != len(_as_tuple(self.center_fraction)):
            raise ValueError(
                f"got acceleration {self.acceleration} and center_fraction {self.center_fraction}, "
                "want two single numbers or two tuples of one length"
            )
        if not self.pairs:
            raise ValueError("acceleration and center_fraction are empty, want at least one number each")
        for acceleration, center_fraction in self.pairs:
            if not acceleration >= 1:
                raise ValueError(f"got acceleration {acceleration}, want at least 1")
            if not 0 <= center_fraction <= 1:
                raise ValueError(f"got center_fraction {center_fraction}, want a number from 0 to 1")
        if self.center_lines is not None and self.kind not in LINE_MASKS:
            raise ValueError(f"{self.kind!r} is not made of lines: set center_radius instead of center_lines")
        if self.center_lines is not None and self.center_lines < 0:
            raise ValueError(f"got center_lines {self.center_lines}, want 0 or more")
        for name in ("center_radius", "decay", "sigma"):
            length = getattr(self, name)
            if length is not None and not length > 0:
                raise ValueError(f"got {name} {length}, want a number above 0")

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """The (acceleration, center_fraction) pairs that the seed draws from."""
        return tuple(zip(_as_tuple(self.acceleration), _as_tuple(self.center_fraction), strict=True))


class Mask(NamedTuple):
    """A mask with what a report says about it."""

    mask: Bool[np.ndarray, "#h w"]
    acs: Bool[np.ndarray, "#h w"]  # the fully sampled centre
    nominal: float  # acceleration asked for
    effective: float  # number of points / number of acquired points
    coverage: float  # part of k-space known for a real image, where k and -k are conjugates
    hash: str  # 8 hexadecimal digits of the packed bits and the shape


@jaxtyped(typechecker=beartype)
def make_mask(config: MaskConfig, shape: tuple[int, int], *, seed: Seed) -> Mask:
    """Draw a mask.

    Args:
        config: what to draw.
        shape: of the image, ``(h, w)``.
        seed: a number, a tuple of numbers (see ``seed_from_name``), or a generator to draw from.

    Returns:
        The mask, ``[1, w]`` for masks of lines and ``[h, w]`` for the others. The same seed gives the same mask.

    Raises:
        ValueError: when the fully sampled centre alone exceeds ``1 / acceleration`` of k-space.

    Example:
        >>> mask = make_mask(MaskConfig("equispaced"), (32, 32), seed=123)
        >>> np.flatnonzero(mask.mask).tolist()
        [2, 6, 10, 14, 15, 16, 17, 18, 22, 26, 30]
        >>> round(mask.effective, 3)
        2.909
    """
    h, w = shape
    rng = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed)
    pairs = config.pairs
    acceleration, center_fraction = pairs[rng.randint(len(pairs))] if len(pairs) > 1 else pairs[0]
    if config.kind in LINE_MASKS:
        center = round(w * center_fraction) if config.center_lines is None else config.center_lines
        if center > w:
            raise ValueError(f"got center_lines {center} for an image {w} wide")
        lines = LINE_MASKS[config.kind](rng, w, acceleration, center, config)
        acs = np.zeros(w, bool)
        start = (w - center + 1) // 2
        acs[start : start + center] = True
        mask, acs = (lines | acs)[None, :], acs[None, :]  # [w] -> [1 w]
    else:
        mask, acs = PLANE_MASKS[config.kind](rng, _radius(shape), acceleration, config)
    mask[mask.shape[0] // 2, w // 2] = True
    return _describe(mask, acs, acceleration)


@jaxtyped(typechecker=beartype)
def stored_mask(array: np.ndarray, *, layout: Literal["centered", "corner"]) -> Mask:
    """Take a mask from a file.

    Args:
        array: ``[w]``, ``[1, w]`` or ``[h, w]``, bool or zeros and ones.
        layout: where the zero frequency lies: at index ``n // 2`` (fastMRI, BART) or at index 0 (ISTA-Net, DC-CNN).

    Returns:
        The mask in the centred layout. Nominal and effective acceleration are equal; the ACS is the largest centred
        block or disc that is fully sampled.

    Raises:
        ValueError: for other shapes or values, and when the zero frequency is not acquired.
    """
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"got a mask of shape {array.shape}, want [w], [1, w] or [h, w]")
    if not np.isin(array, (0, 1)).all():
        raise ValueError("got a mask with values other than 0 and 1")
    mask = np.atleast_2d(array).astype(bool)
    if layout == "corner":
        mask = np.fft.fftshift(mask)
    h, w = mask.shape
    if not mask[h // 2, w // 2]:
        other = "centered" if layout == "corner" else "corner"
        raise ValueError(f"the zero frequency is not acquired: is the mask's layout {other!r} rather than {layout!r}?")
    return _describe(mask, _full_center(mask, _radius((h, w))), mask.size / mask.sum())


def seed_from_name(name: str) -> tuple[int, ...]:
    """Turn a record's name into a seed, as fastMRI does, so that its evaluation mask is always the same.

    Example:
        >>> seed_from_name("file1")
        (102, 105, 108, 101, 49)
    """
    if not name:
        raise ValueError("got an empty name, want a record's name to seed its mask")
    return tuple(map(ord, name))


# Masks of lines: (generator, width, acceleration, number of central lines, config) -> lines [w] beside the centre.


def random(
    rng: np.random.RandomState, width: int, acceleration: float, center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep each line with one probability, so that on average ``w / R`` lines are kept with the centre."""
    _check_center(center, width, acceleration)
    probability = (width / acceleration - center) / max(width - center, 1)
    return rng.uniform(size=width) < probability


def equispaced(
    rng: np.random.RandomState, width: int, acceleration: float, _center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep every R-th line from a random offset; with the centre the mask is denser than 1 / R."""
    return _comb(width, rng.randint(0, round(acceleration)), _whole(acceleration, "equispaced"))


def equispaced_fraction(
    rng: np.random.RandomState, width: int, acceleration: float, center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep lines at a spacing widened so that about ``w / R`` lines are kept with the centre."""
    _check_center(center, width, acceleration)
    lines = np.zeros(width, bool)
    if center * acceleration < width:
        spacing = acceleration * (center - width) / (center * acceleration - width)
        offset = rng.randint(0, round(spacing))
        lines[np.around(np.arange(offset, width - 1, spacing)).astype(int)] = True
    return lines


def magic(
    rng: np.random.RandomState, width: int, acceleration: float, _center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep equispaced lines, offset between the halves of k-space so that conjugate lines are not sampled twice."""
    return _magic_lines(rng, width, _whole(acceleration, "magic"))


def magic_fraction(
    rng: np.random.RandomState, width: int, acceleration: float, center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep ``magic`` lines at a spacing widened so that about ``w / R`` lines are kept with the centre."""
    _check_center(center, width, acceleration)
    beside = round(width / acceleration) - max(center, 1)
    return _magic_lines(rng, width, round(width / beside)) if beside > 0 else np.zeros(width, bool)


def random_exact(
    rng: np.random.RandomState, width: int, acceleration: float, center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep exactly ``round(w / R)`` lines, the centre among them, the others drawn evenly."""
    return _draw_lines(rng, np.ones(width), acceleration, center)


def gaussian_1d(
    rng: np.random.RandomState, width: int, acceleration: float, center: int, config: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep exactly ``round(w / R)`` lines, the centre among them, the others drawn by a Gaussian density."""
    sigma = (config.sigma or 1 / 6) * width
    return _draw_lines(rng, np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * sigma**2)), acceleration, center)


def partial_fourier(
    _rng: np.random.RandomState, width: int, acceleration: float, center: int, _: MaskConfig
) -> Bool[np.ndarray, " w"]:
    """Keep the last ``round(w / R)`` lines: one half of k-space and the centre, so R is below 2."""
    kept = round(width / acceleration)
    if width - kept > (width - center + 1) // 2:
        most = width / (width - (width - center + 1) // 2)
        raise ValueError(
            f"partial_fourier at acceleration {acceleration} keeps {kept} of {width} lines and cuts into the {center} "
            f"central ones: want an acceleration of at most {most:.3g}, or fewer central lines"
        )
    return np.arange(width) >= width - kept


# Masks of points: (generator, radius [h, w], acceleration, config) -> mask and fully sampled centre, both [h, w].

Plane = tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]


def variable_density_2d(
    rng: np.random.RandomState, radius: Float[np.ndarray, "h w"], acceleration: float, config: MaskConfig
) -> Plane:
    """Keep points with a probability that falls exponentially with ``|k|`` outside a full disc.

    Source: the density was measured on the zero-filled pictures of CIPM-Net (disc 17, decay 32 at 256 x 256).
    """
    return _draw_points(rng, radius, np.exp(-radius / config.decay), acceleration, config)


def gaussian_2d(
    rng: np.random.RandomState, radius: Float[np.ndarray, "h w"], acceleration: float, config: MaskConfig
) -> Plane:
    """Keep points with a probability that falls as a Gaussian of ``|k|`` outside a full disc."""
    sigma = config.sigma or 40 / 256
    return _draw_points(rng, radius, np.exp(-(radius**2) / (2 * sigma**2)), acceleration, config)


def poisson_disc(
    rng: np.random.RandomState, radius: Float[np.ndarray, "h w"], acceleration: float, config: MaskConfig
) -> Plane:
    """Keep points no closer to each other than a distance that grows linearly with ``|k|``, and a full disc.

    The distance is ``max(1, s |k|)`` with s found so that ``1 / R`` of the points are kept, within
    ``POISSON_TOLERANCE`` (or one point on tiny grids where the count jumps).
    """
    acs = _disc(radius, acceleration, config)
    target = radius.size / acceleration
    order = rng.permutation(radius.size)
    low, high = 0.0, float(max(radius.shape)) / radius.max()
    best = np.ones(radius.shape, bool)
    for _ in range(20):
        middle = (low + high) / 2
        mask = acs | _throw_darts(order, np.maximum(middle * radius, 1))
        surplus = mask.sum() - target
        if abs(surplus) < abs(best.sum() - target):
            best = mask
        if abs(best.sum() - target) <= POISSON_TOLERANCE * target:
            break
        low, high = (middle, high) if surplus > 0 else (low, middle)
    return best, acs


def radial(rng: np.random.RandomState, radius: Float[np.ndarray, "h w"], acceleration: float, _: MaskConfig) -> Plane:
    """Keep the grid points nearest to spokes at golden-angle steps from a random first angle (pseudo-radial).

    As many spokes as bring the mask nearest to ``1 / R``; point-symmetric about the zero frequency.
    """
    h, w = radius.shape
    target = radius.size / acceleration
    first = rng.uniform(0, math.pi)
    steps = np.linspace(-0.5, 0.5, 2 * max(h, w) + 1) * math.sqrt(2)
    mask = np.zeros((h, w), bool)
    for spoke in itertools.count():
        angle = first + spoke * GOLDEN_ANGLE
        y, x = np.rint(steps * h * math.sin(angle)).astype(int), np.rint(steps * w * math.cos(angle)).astype(int)
        # The outermost row and column of even grids have no mirror image: they stay empty, for symmetry.
        inside = (abs(y) <= (h - 1) // 2) & (abs(x) <= (w - 1) // 2)
        more = mask.copy()
        more[y[inside] + h // 2, x[inside] + w // 2] = True
        enough = more.sum() >= target or spoke > 4 * (h + w)
        if enough and more.sum() - target > target - mask.sum():
            break
        mask = more
        if enough:
            break
    return mask, _full_center(mask, radius)


LINE_MASKS: dict[str, Callable[..., Bool[np.ndarray, " w"]]] = {
    "random": random,
    "equispaced": equispaced,
    "equispaced_fraction": equispaced_fraction,
    "magic": magic,
    "magic_fraction": magic_fraction,
    "random_exact": random_exact,
    "gaussian_1d": gaussian_1d,
    "partial_fourier": partial_fourier,
}
PLANE_MASKS: dict[str, Callable[..., Plane]] = {
    "variable_density_2d": variable_density_2d,
    "gaussian_2d": gaussian_2d,
    "poisson_disc": poisson_disc,
    "radial": radial,
}
MASKS = LINE_MASKS | PLANE_MASKS


def _as_tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check_center(center: int, width: int, acceleration: float) -> None:
    if center > math.ceil(width / acceleration):
        raise ValueError(
            f"{center} central lines of {width} are more than 1 / {acceleration} of k-space: "
            f"want a center_fraction of at most {1 / acceleration:.3g}, or a lower acceleration"
        )


def _whole(acceleration: float, kind: str) -> int:
    if acceleration != round(acceleration):
        raise ValueError(f"{kind} wants a whole acceleration, got {acceleration}: use {kind}_fraction")
    return round(acceleration)


def _comb(width: int, offset: int, stride: int) -> Bool[np.ndarray, " w"]:
    lines = np.zeros(width, bool)
    lines[offset::stride] = True
    return lines


def _magic_lines(rng: np.random.RandomState, width: int, stride: int) -> Bool[np.ndarray, " w"]:
    offset = rng.randint(0, stride)
    positive, negative = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    half = (width + 1) // 2
    lines = np.concatenate([_comb(half, positive, stride), _comb(width - half, negative, stride)[::-1]])
    return np.fft.fftshift(lines)


def _draw_lines(
    rng: np.random.RandomState, density: Float[np.ndarray, " w"], acceleration: float, center: int
) -> Bool[np.ndarray, " w"]:
    """Draw lines outside the centre, without repetition, until ``round(w / R)`` are kept with the centre."""
    width = density.size
    _check_center(center, width, acceleration)
    start = (width - center + 1) // 2
    outside = np.delete(np.arange(width), slice(start, start + center))
    count = max(round(width / acceleration) - max(center, 1), 0)
    if center == 0:  # the zero frequency is counted in
        outside = np.delete(outside, width // 2)
    lines = np.zeros(width, bool)
    lines[rng.choice(outside, count, replace=False, p=density[outside] / density[outside].sum())] = True
    return lines


def _radius(shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Distance from the zero frequency, each axis in units of its own length."""
    h, w = shape
    y, x = np.ogrid[:h, :w]
    return np.hypot((y - h // 2) / h, (x - w // 2) / w)


def _disc(radius: Float[np.ndarray, "h w"], acceleration: float, config: MaskConfig) -> Bool[np.ndarray, "h w"]:
    disc = radius < config.center_radius
    if disc.mean() > 1 / acceleration:
        raise ValueError(
            f"the fully sampled disc of center_radius {config.center_radius:.3g} covers {disc.mean():.3g} of k-space, "
            f"more than 1 / {acceleration}: want a smaller center_radius or a lower acceleration"
        )
    return disc


def _draw_points(
    rng: np.random.RandomState,
    radius: Float[np.ndarray, "h w"],
    profile: Float[np.ndarray, "h w"],
    acceleration: float,
    config: MaskConfig,
) -> Plane:
    """Keep points with probability ``min(1, a profile)`` outside the disc, a found so that the mean is ``1 / R``."""
    acs = _disc(radius, acceleration, config)
    low, high = 0.0, 1 / profile.min()
    for _ in range(50):
        middle = (low + high) / 2
        mean = np.where(acs, 1, np.minimum(middle * profile, 1)).mean()
        low, high = (middle, high) if mean < 1 / acceleration else (low, middle)
    return acs | (rng.uniform(size=radius.shape) < high * profile), acs


def _throw_darts(order: np.ndarray, distance: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Keep points in the given order, each unless it lies closer to a kept one than that one's distance."""
    h, w = distance.shape
    reach = math.ceil(distance.max())
    free = np.ones((h + 2 * reach, w + 2 * reach), bool)
    kept = distance <= 1
    squared = np.ceil(distance**2).astype(int)
    discs: dict[int, tuple[int, np.ndarray]] = {}  # by squared distance: half-size and what a kept point leaves free
    order = order[~kept.ravel()[order]]
    rows, columns = np.divmod(order, w)
    for y, x, key in zip(rows.tolist(), columns.tolist(), squared.ravel()[order].tolist(), strict=True):
        if not free[y + reach, x + reach]:
            continue
        kept[y, x] = True
        if key not in discs:
            half = math.isqrt(key - 1)
            dy, dx = np.ogrid[-half : half + 1, -half : half + 1]
            discs[key] = half, dy**2 + dx**2 >= key
        half, outside = discs[key]
        free[y + reach - half : y + reach + half + 1, x + reach - half : x + reach + half + 1] &= outside
    return kept


def _full_center(mask: Bool[np.ndarray, "#h w"], radius: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Find the largest fully sampled block (lines) or disc (points) about the zero frequency."""
    return radius < radius[~mask].min(initial=np.inf)


def _describe(mask: Bool[np.ndarray, "#h w"], acs: Bool[np.ndarray, "#h w"], nominal: float) -> Mask:
    packed = repr(mask.shape).encode() + np.packbits(mask).tobytes()
    # The index of -k is 2 (n // 2) - i: a flip, and for even n a shift by one.
    mirrored = np.roll(mask[::-1, ::-1], [1 - n % 2 for n in mask.shape], axis=(0, 1))
    return Mask(
        mask=mask,
        acs=acs,
        nominal=float(nominal),
        effective=float(mask.size / mask.sum()),
        coverage=float((mask | mirrored).mean()),
        hash=hashlib.sha256(packed).hexdigest()[:8],
    )
