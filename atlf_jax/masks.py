"""Sampling masks for Cartesian k-space, in numpy: all kinds are in one table, and a seed reproduces a mask.

A mask is an array: ``[1, w]`` if whole lines are acquired (phase encoding is the last axis), else ``[h, w]``. True is
acquired. The zero frequency is at index ``n // 2`` and always acquired.

``random``, ``equispaced``, ``equispaced_fraction``, ``magic`` and ``magic_fraction`` equal the masks of the same
names in fastMRI (``fastmri/data/subsample.py``) bit for bit, generator and order of draws included.
"""

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

from atlf_jax import own_code

__all__ = ["MASKS", "Mask", "MaskConfig", "make_mask", "mask_label", "seed_from_name", "stored_mask"]

Seed = int | tuple[int, ...] | np.random.RandomState
Lines = Bool[np.ndarray, " w"]
Points = Bool[np.ndarray, "h w"]

GOLDEN_ANGLE = math.radians(111.24611797)
POISSON_TOLERANCE = 0.01  # of the number of samples
DARTS = 512  # candidate points of a Poisson-disc mask that are processed together


@dataclass(frozen=True)
class MaskConfig:
    """Settings of a mask. Lengths in k-space are fractions of the image side, so that they fit any image size."""

    kind: str = "random"
    """A key of MASKS, or FILE.py:NAME of a function of your own. random draws each line by itself, as fastMRI does, so
    that at 4x of 256 lines the acceleration is 3.1 to 5.6; random_exact draws as many lines as asked for."""
    acceleration: float = 4.0
    """Nominal acceleration R."""
    center_fraction: float = 0.08
    """Fraction of the lines that is fully sampled in the centre (masks of lines only)."""
    center_lines: int | None = None
    """Number of fully sampled central lines, instead of center_fraction (masks of lines only)."""
    center_radius: float = 17 / 256
    """Radius of the fully sampled central disc (variable_density_2d, gaussian_2d and poisson_disc)."""
    decay: float = 32 / 256
    """Length over which the density of variable_density_2d falls by a factor e."""
    sigma: float | None = None
    """Standard deviation of the density of gaussian_1d (default 1/6) and gaussian_2d (default 40/256)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            hint: Any = field.type
            if isinstance(value, tuple):
                raise ValueError(
                    f"got {field.name} {value}, wanted one value; give several settings, each with its own, as masks="
                )
            if not is_bearable(value, hint, conf=BeartypeConf(is_pep484_tower=True)):
                raise ValueError(f"got {field.name} {value!r}, wanted {getattr(hint, '__name__', hint)}")
        _function(self)
        if not self.acceleration >= 1:
            raise ValueError(f"got acceleration {self.acceleration}, wanted at least 1")
        if not 0 <= self.center_fraction <= 1:
            raise ValueError(f"got center_fraction {self.center_fraction}, wanted a number from 0 to 1")
        if self.center_lines is not None and self.kind in PLANE_MASKS:
            raise ValueError(f"got center_lines for {self.kind}, which is not made of lines; wanted center_radius")
        if self.center_lines is not None and self.center_lines < 0:
            raise ValueError(f"got center_lines {self.center_lines}, wanted 0 or more")
        for name in ("center_radius", "decay", "sigma"):
            length = getattr(self, name)
            if length is not None and not length > 0:
                raise ValueError(f"got {name} {length}, wanted a number above 0")


class Mask(NamedTuple):
    """A mask and its statistics. It can be passed to numpy and to this package in place of its ``samples``."""

    samples: Bool[np.ndarray, "#h w"]  # True = acquired
    acs: Bool[np.ndarray, "#h w"]  # the fully sampled centre
    nominal: float  # acceleration asked for
    effective: float  # number of points / number of acquired points
    coverage: float  # share of k-space that is known for a real image, where k and -k are conjugates
    hash: str  # 8 hexadecimal digits of the packed bits and the shape

    @property
    def mask(self) -> Bool[np.ndarray, "#h w"]:
        """The name of ``samples`` in earlier versions."""
        return self.samples

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.samples, dtype, copy=bool(copy) or None)


@jaxtyped(typechecker=beartype)
def make_mask(config: MaskConfig, shape: tuple[int, int], *, seed: Seed) -> Mask:
    """Draw a mask.

    Args:
        config: kind and acceleration.
        shape: of the image, ``(h, w)``.
        seed: a number, a tuple of numbers (see ``seed_from_name``), or a generator to draw from.

    Returns:
        The mask, ``[1, w]`` for masks of lines and ``[h, w]`` for the others. The same seed gives the same mask.

    Raises:
        ValueError: when the fully sampled centre alone exceeds ``1 / acceleration`` of k-space, or a function of your
            own gives no mask.

    Example:
        >>> mask = make_mask(MaskConfig("equispaced"), (32, 32), seed=123)
        >>> np.flatnonzero(mask).tolist()
        [2, 6, 10, 14, 15, 16, 17, 18, 22, 26, 30]
        >>> round(mask.effective, 3)
        2.909
    """
    h, w = shape
    rng = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed)
    drawn = np.asarray(_function(config)(rng, shape, config))
    if drawn.shape not in ((w,), (1, w), (h, w)) or not np.isin(drawn, (0, 1)).all():
        raise ValueError(
            f"got {drawn.dtype} of shape {drawn.shape} from mask {config.kind}, wanted zeros and ones [{w}] (lines) or "
            f"[{h}, {w}] (points)"
        )
    samples = np.atleast_2d(drawn.astype(bool))
    if drawn.ndim == 1:
        acs = _middle(w, _center(config, w))[None]
        samples |= acs
        samples[0, w // 2] = True
    else:
        samples[len(samples) // 2, w // 2] = True
        acs = _full_center(samples)
    return _describe(samples, acs, config.acceleration)


@jaxtyped(typechecker=beartype)
def stored_mask(array: np.ndarray, *, layout: Literal["centered", "corner"]) -> Mask:
    """Return the mask that an array from a file holds.

    Args:
        array: ``[w]``, ``[1, w]`` or ``[h, w]``, bool or zeros and ones.
        layout: where the zero frequency lies: at index ``n // 2`` (fastMRI, BART) or at index 0 (ISTA-Net, DC-CNN).

    Returns:
        The mask in the centred layout. Nominal and effective acceleration are equal; the ACS is the largest centred
        block or disc that is fully sampled.

    Raises:
        ValueError: for other shapes or values, and when the zero frequency is not acquired.

    Example:
        >>> mask = stored_mask(np.array([1, 1, 0, 0, 0, 1]), layout="corner")
        >>> np.flatnonzero(mask).tolist(), float(mask.effective)
        ([2, 3, 4], 2.0)
    """
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"got a mask of shape {array.shape}, wanted [w], [1, w] or [h, w]")
    if not np.isin(array, (0, 1)).all():
        raise ValueError("got a mask with values other than 0 and 1, wanted zeros and ones")
    mask = np.atleast_2d(array).astype(bool)
    if layout == "corner":
        mask = np.fft.fftshift(mask)
    h, w = mask.shape
    if not mask[h // 2, w // 2]:
        other = "centered" if layout == "corner" else "corner"
        raise ValueError(
            f"got a mask in whose layout {layout!r} the zero frequency is not acquired, wanted one in which it is; "
            f"is the mask's layout {other!r}?"
        )
    return _describe(mask, _full_center(mask), mask.size / mask.sum())


def seed_from_name(name: str) -> tuple[int, ...]:
    """Turn a record's name into a seed, as fastMRI does, so that its evaluation mask is always the same.

    Example:
        >>> seed_from_name("file1")
        (102, 105, 108, 101, 49)
    """
    if not name:
        raise ValueError("got an empty name, wanted a record's name to seed its mask")
    return tuple(map(ord, name))


@beartype
def mask_label(mask: MaskConfig) -> str:
    """Return the name of a mask setting in tables.

    Example:
        >>> mask_label(MaskConfig("random", 4.0, 0.08)), mask_label(MaskConfig("variable_density_2d", 10.0))
        ('random 4x, centre 0.08', 'variable_density_2d 10x')
    """
    label = f"{mask.kind.rpartition(':')[2]} {mask.acceleration:g}x"
    if mask.kind in PLANE_MASKS:
        return label
    center = f"centre {mask.center_fraction:g}" if mask.center_lines is None else f"{mask.center_lines} lines"
    return f"{label}, {center}"


# A kind of mask is a function (generator, shape of the image, config) -> samples. It returns lines [w], to which
# ``make_mask`` adds the fully sampled centre, or points [h, w].


def random(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep each line with one probability, so that on average ``w / R`` lines are kept with the centre."""
    width, center = shape[1], _checked_center(config, shape[1])
    probability = (width / config.acceleration - center) / max(width - center, 1)
    return rng.uniform(size=width) < probability


def equispaced(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep every R-th line from a random offset; with the centre the mask is denser than 1 / R."""
    return _comb(shape[1], rng.randint(0, round(config.acceleration)), _whole_acceleration(config))


def equispaced_fraction(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep lines at a spacing widened so that about ``w / R`` lines are kept with the centre."""
    width, center, acceleration = shape[1], _checked_center(config, shape[1]), config.acceleration
    lines = np.zeros(width, bool)
    if center * acceleration < width:
        spacing = acceleration * (center - width) / (center * acceleration - width)
        offset = rng.randint(0, round(spacing))
        lines[np.around(np.arange(offset, width - 1, spacing)).astype(int)] = True
    return lines


def magic(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep equispaced lines, offset between the halves of k-space so that conjugate lines are not sampled twice."""
    return _magic_lines(rng, shape[1], _whole_acceleration(config))


def magic_fraction(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep ``magic`` lines at a spacing widened so that about ``w / R`` lines are kept with the centre."""
    width, center = shape[1], _checked_center(config, shape[1])
    beside = round(width / config.acceleration) - max(center, 1)
    return _magic_lines(rng, width, round(width / beside)) if beside > 0 else np.zeros(width, bool)


def random_exact(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep exactly ``round(w / R)`` lines, the centre among them, the others drawn evenly."""
    return _draw_lines(rng, np.ones(shape[1]), config)


def gaussian_1d(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep exactly ``round(w / R)`` lines, the centre among them, the others drawn by a Gaussian density."""
    width = shape[1]
    sigma = (config.sigma or 1 / 6) * width
    return _draw_lines(rng, np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * sigma**2)), config)


def partial_fourier(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Lines:
    """Keep the last ``round(w / R)`` lines: one half of k-space and the centre, so R is below 2."""
    del rng
    width, center = shape[1], _center(config, shape[1])
    kept = round(width / config.acceleration)
    if width - kept > (width - center + 1) // 2:
        most = width / (width - (width - center + 1) // 2)
        raise ValueError(
            f"got acceleration {config.acceleration} for partial_fourier, which keeps {kept} of {width} lines and cuts "
            f"into the {center} central ones; wanted at most {most:.3g}, or fewer central lines"
        )
    return np.arange(width) >= width - kept


def variable_density_2d(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Points:
    """Keep points with a probability that falls exponentially with ``|k|`` outside a full disc.

    Source: the density was measured on the zero-filled pictures of CIPM-Net (disc 17, decay 32 at 256 x 256).
    """
    return _draw_points(rng, np.exp(-_radius(shape) / config.decay), config)


def gaussian_2d(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Points:
    """Keep points with a probability that falls as a Gaussian of ``|k|`` outside a full disc."""
    sigma = config.sigma or 40 / 256
    return _draw_points(rng, np.exp(-(_radius(shape) ** 2) / (2 * sigma**2)), config)


def poisson_disc(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Points:
    """Keep points no closer to each other than a distance that grows linearly with ``|k|``, and a full disc.

    The distance is ``max(1, s |k|)`` with s found so that ``1 / R`` of the points are kept, within
    ``POISSON_TOLERANCE`` (or one point on tiny grids where the count jumps).
    """
    radius, disc = _radius(shape), _disc(shape, config)
    target = radius.size / config.acceleration
    order = rng.permutation(radius.size)
    low, high = 0.0, float(max(shape)) / radius.max()
    best, gap = np.ones(shape, bool), radius.size - target
    for _ in range(20):
        middle = (low + high) / 2
        points, surplus = _throw_darts(order, np.maximum(middle * radius, 1), disc, target=target, most=gap)
        if abs(surplus) < gap:
            best, gap = points, abs(surplus)
        if gap <= POISSON_TOLERANCE * target:
            break
        low, high = (middle, high) if surplus > 0 else (low, middle)
    return best


def radial(rng: np.random.RandomState, shape: tuple[int, int], config: MaskConfig) -> Points:
    """Keep the grid points nearest to spokes at golden-angle steps from a random first angle (pseudo-radial).

    As many spokes as bring the mask nearest to ``1 / R``; point-symmetric about the zero frequency.
    """
    h, w = shape
    target = h * w / config.acceleration
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
    return mask


LINE_MASKS: dict[str, Callable[[np.random.RandomState, tuple[int, int], MaskConfig], Lines]] = {
    "random": random,
    "equispaced": equispaced,
    "equispaced_fraction": equispaced_fraction,
    "magic": magic,
    "magic_fraction": magic_fraction,
    "random_exact": random_exact,
    "gaussian_1d": gaussian_1d,
    "partial_fourier": partial_fourier,
}
PLANE_MASKS: dict[str, Callable[[np.random.RandomState, tuple[int, int], MaskConfig], Points]] = {
    "variable_density_2d": variable_density_2d,
    "gaussian_2d": gaussian_2d,
    "poisson_disc": poisson_disc,
    "radial": radial,
}
MASKS = LINE_MASKS | PLANE_MASKS


def _function(config: MaskConfig) -> Callable[[np.random.RandomState, tuple[int, int], MaskConfig], np.ndarray]:
    """Return the function that draws this kind of mask, from the package or from a user's file."""
    return own_code.find(config.kind, MASKS, what="mask")


def _center(config: MaskConfig, width: int) -> int:
    """Return the number of fully sampled central lines."""
    center = round(width * config.center_fraction) if config.center_lines is None else config.center_lines
    if center > width:
        raise ValueError(f"got center_lines {center} for an image {width} wide, wanted at most {width}")
    return center


def _checked_center(config: MaskConfig, width: int) -> int:
    """Return the number of central lines; raise ValueError if they alone exceed 1 / acceleration."""
    center = _center(config, width)
    if center > math.ceil(width / config.acceleration):
        raise ValueError(
            f"got {center} central lines of {width}, more than 1 / {config.acceleration} of k-space; wanted a "
            f"center_fraction of at most {1 / config.acceleration:.3g}, or a lower acceleration"
        )
    return center


def _middle(width: int, center: int) -> Lines:
    """Mark the central lines."""
    start = (width - center + 1) // 2
    return (np.arange(width) >= start) & (np.arange(width) < start + center)


def _whole_acceleration(config: MaskConfig) -> int:
    if config.acceleration != round(config.acceleration):
        raise ValueError(
            f"got acceleration {config.acceleration} for {config.kind}, wanted a whole number; "
            f"use {config.kind}_fraction"
        )
    return round(config.acceleration)


def _comb(width: int, offset: int, stride: int) -> Lines:
    lines = np.zeros(width, bool)
    lines[offset::stride] = True
    return lines


def _magic_lines(rng: np.random.RandomState, width: int, stride: int) -> Lines:
    offset = rng.randint(0, stride)
    positive, negative = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    half = (width + 1) // 2
    lines = np.concatenate([_comb(half, positive, stride), _comb(width - half, negative, stride)[::-1]])
    return np.fft.fftshift(lines)


def _draw_lines(rng: np.random.RandomState, density: Float[np.ndarray, " w"], config: MaskConfig) -> Lines:
    """Draw lines outside the centre, without repetition, until ``round(w / R)`` are kept with the centre."""
    width = density.size
    center = _checked_center(config, width)
    outside = np.flatnonzero(~_middle(width, center))
    count = max(round(width / config.acceleration) - max(center, 1), 0)
    if center == 0:  # the zero frequency is counted in
        outside = np.delete(outside, width // 2)
    lines = np.zeros(width, bool)
    if outside.size:
        lines[rng.choice(outside, count, replace=False, p=density[outside] / density[outside].sum())] = True
    return lines


def _radius(shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Distance from the zero frequency, each axis in units of its own length."""
    h, w = shape
    y, x = np.ogrid[:h, :w]
    return np.hypot((y - h // 2) / h, (x - w // 2) / w)


def _disc(shape: tuple[int, int], config: MaskConfig) -> Points:
    """Return the fully sampled disc; raise ValueError if it alone exceeds 1 / acceleration."""
    disc = _radius(shape) < config.center_radius
    if disc.mean() > 1 / config.acceleration:
        raise ValueError(
            f"got a fully sampled disc of center_radius {config.center_radius:.3g}, {disc.mean():.3g} of k-space and "
            f"more than 1 / {config.acceleration}; wanted a smaller center_radius or a lower acceleration"
        )
    return disc


def _draw_points(rng: np.random.RandomState, profile: Float[np.ndarray, "h w"], config: MaskConfig) -> Points:
    """Keep points outside the disc with probability ``min(1, a profile)``; ``a`` is such that the mean is ``1 / R``."""
    disc = _disc(profile.shape, config)
    low, high = 0.0, 1 / profile.min()
    for _ in range(50):
        middle = (low + high) / 2
        mean = np.where(disc, 1, np.minimum(middle * profile, 1)).mean()
        low, high = (middle, high) if mean < 1 / config.acceleration else (low, middle)
    return disc | (rng.uniform(size=profile.shape) < high * profile)


def _throw_darts(
    order: np.ndarray, distance: Float[np.ndarray, "h w"], disc: Points, *, target: float, most: float
) -> tuple[Points, float]:
    """Keep points in the given order, each unless it lies closer to a kept one than that one's distance.

    Args:
        order: of all points.
        distance: of each, in pixels.
        disc: points that are always kept, and do not exclude others.
        target: wanted number of points.
        most: surplus at which the throw has failed and stops.

    Returns:
        The points with the disc, and their surplus over ``target``; for a failed throw at least ``most``.
    """
    h, w = distance.shape
    reach = math.ceil(distance.max())
    free = np.ones((h + 2 * reach, w + 2 * reach), bool)
    kept = distance <= 1
    squared = np.ceil(distance**2).astype(int)
    order = order[~kept.ravel()[order]]
    rows, columns = np.divmod(order, w)
    keys = squared.ravel()[order]
    rows += reach
    columns += reach
    new = (~(kept | disc)).ravel()[order]
    surplus = float((kept | disc).sum() - target)
    discs: dict[int, tuple[int, np.ndarray]] = {}  # by squared distance: half-size and what a kept point leaves free
    for start in range(0, len(order), DARTS):
        part = slice(start, start + DARTS)
        still = free[rows[part], columns[part]]  # of most darts this is all that is asked
        left = (values[part][still].tolist() for values in (rows, columns, keys, new))
        for y, x, key, counts in zip(*left, strict=True):
            if not free[y, x]:
                continue
            kept[y - reach, x - reach] = True
            surplus += counts
            if key not in discs:
                half = math.isqrt(key - 1)
                dy, dx = np.ogrid[-half : half + 1, -half : half + 1]
                discs[key] = half, dy**2 + dx**2 >= key
            half, outside = discs[key]
            free[y - half : y + half + 1, x - half : x + half + 1] &= outside
        if surplus >= most and surplus > 0:
            break
    return kept | disc, surplus


def _full_center(mask: Bool[np.ndarray, "#h w"]) -> Bool[np.ndarray, "#h w"]:
    """Find the largest fully sampled block (lines) or disc (points) about the zero frequency."""
    h, w = mask.shape
    radius = _radius((h, w))
    return radius < radius[~mask].min(initial=np.inf)


def _describe(mask: Bool[np.ndarray, "#h w"], acs: Bool[np.ndarray, "#h w"], nominal: float) -> Mask:
    packed = repr(mask.shape).encode() + np.packbits(mask).tobytes()
    # The index of -k is 2 (n // 2) - i: a flip, and for even n a shift by one.
    mirrored = np.roll(mask[::-1, ::-1], [1 - n % 2 for n in mask.shape], axis=(0, 1))
    return Mask(
        samples=mask,
        acs=acs,
        nominal=float(nominal),
        effective=float(mask.size / mask.sum()),
        coverage=float((mask | mirrored).mean()),
        hash=hashlib.sha256(packed).hexdigest()[:8],
    )
