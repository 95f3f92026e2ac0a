"""Warnings about a reconstruction: a CT that is not aligned, and data that the network was not trained for."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Bool, Float, jaxtyped

from atlf_jax.masks import LINE_MASKS, MASKS, PLANE_MASKS, MaskConfig, make_mask
from atlf_jax.models import sees_ct
from atlf_jax.models.atlf.objectives import ADAPTERS

if TYPE_CHECKING:
    from atlf_jax.config import Config
    from atlf_jax.data import DataConfig

__all__ = [
    "GuardWarning",
    "Placement",
    "TrainedFor",
    "unseen_scan_kind",
    "mutual_information_by_move",
    "unseen_dataset",
    "unseen_windows",
    "trained_for",
    "unseen_sampling",
]

GREY_LEVELS = 32  # side of the joint histogram
SHIFTS = (1 / 64, 1 / 32, 1 / 16)  # of the longer side: 4, 8 and 16 pixels of 256
SMALLEST_SLICE = 64  # pixels of the shorter side: smaller slices have too few pixels for the histogram
MARGIN = 0.07  # relative gain in mutual information above which a moved copy counts as better: see margin
FEW_LINES, FEW_LINES_MARGIN = 6.0, 0.12  # margin of line masks above this acceleration
VOLUME_SLICES, VOLUME_MARGIN = 5, 0.03  # margin of volumes with at least so many slices
TOLERANCE = 0.1  # relative distance that an acceleration may have from the trained range
PICTURES = {"aanlib": "pictures of a teaching atlas (AANLIB)", "phantom": "generated heads"}
MASK_DRAWS = 64  # masks drawn to find the range of a family whose number of samples hardly varies
TAIL = 1e-4  # share of the masks of a family that may lie outside its range, at either end


@beartype
def margin(mask: Bool[np.ndarray, "*b #h w"] | None = None, slices: int = 1) -> float:
    """Return the relative gain above which a moved copy of the CT counts as better than the CT in place.

    Args:
        mask: that the MR was measured under; None: as at 4x.
        slices: number of slices of the volume that were compared: their mean varies less.

    Source: ours, from 149 pairs of eight subjects (``studies/guards.py``). Of pairs in place the best moved copy is
    better by .053 at most at 4x lines and .058 under masks of points, by .104 at 8x and 10x lines, and by .007 over the
    slices of a volume.
    """
    if slices >= VOLUME_SLICES:
        return VOLUME_MARGIN
    few_lines = mask is not None and mask.shape[-2] == 1 and mask.size > FEW_LINES * mask.sum()
    return FEW_LINES_MARGIN if few_lines else MARGIN


class GuardWarning(UserWarning):
    """The image may be wrong although it looks plausible."""


class TrainedFor(NamedTuple):
    """What a network was trained for."""

    masks: tuple[MaskConfig, ...]
    sizes: tuple[tuple[int, int], ...] = ()  # of the images; empty: several, not known
    dataset: str = ""
    contrast: str = ""  # empty: not known
    phase: float = 0.0
    noise: float = 0.0
    windows: tuple[str, ...] = ()  # of the CT; empty: one, not known
    with_and_without_ct: bool = False
    several_coils: bool = False
    coil_maps: str = ""  # how they were estimated in training; empty: given, estimated by the network, or no coils
    real_image: bool = False  # the image has no imaginary part, so that the phase must be removed before


@jaxtyped(typechecker=beartype)
def mutual_information_by_move(
    ct: Float[np.ndarray, "h w"], image: Float[np.ndarray, "h w"]
) -> dict[str, float] | None:
    """Return the mutual information in nats of a slice's CT and MR, and of the MR with moved copies of the CT.

    Args:
        ct: [h, w], zeros if there is none.
        image: magnitude of the zero-filled MR, [h, w].

    Returns:
        By name, ``in place`` first: copies moved by each of ``SHIFTS`` in eight directions, and mirrored ones. None
        where the CT is of one value (there is none), or the slice is smaller than ``SMALLEST_SLICE``.

    Example:
        >>> image = np.random.default_rng(0).random((64, 64))
        >>> information = mutual_information_by_move(image, image)
        >>> max(information, key=information.get)
        'in place'
    """
    h, w = ct.shape
    if min(h, w) < SMALLEST_SLICE or ct.min() == ct.max() or image.min() == image.max():
        return None
    ct_levels, mr_levels = _levels(ct), _levels(image)
    shifts = [round(part * max(h, w)) for part in SHIFTS]
    edge = max(shifts)
    inner = mr_levels[edge : h - edge, edge : w - edge].ravel() * GREY_LEVELS  # the same pixels for every copy

    def information(copy: np.ndarray, down: int = 0, right: int = 0) -> float:
        moved = copy[edge - down : h - edge - down, edge - right : w - edge - right]
        return _mutual_information(inner + moved.ravel())

    values = {"in place": information(ct_levels)}
    for shift in shifts:
        for down in (-shift, 0, shift):
            for right in (-shift, 0, shift):
                if down or right:
                    values[f"moved by {down:+d} rows and {right:+d} columns"] = information(ct_levels, down, right)
    values["mirrored left to right"] = information(ct_levels[:, ::-1])
    values["mirrored top to bottom"] = information(ct_levels[::-1])
    values["turned by 180 degrees"] = information(ct_levels[::-1, ::-1])
    return values


class Placement:
    """Whether CT and MR of one volume are aligned; slices are added one by one."""

    def __init__(self, mask: Bool[np.ndarray, "*b #h w"] | None = None) -> None:
        self._mask, self._slices = mask, 0
        self._sums: dict[str, float] = {}

    def add(self, ct: Float[np.ndarray, "h w"], image: Any) -> None:
        """Add a slice: its CT and its zero-filled image, complex or magnitude."""
        values = mutual_information_by_move(ct, np.abs(image))
        if values is not None:
            self._slices += 1
            self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}

    @property
    def gain(self) -> tuple[float, str]:
        """The relative gain of the best moved copy over the CT in place, and the name of that copy."""
        if not self._sums:
            return -1.0, ""
        in_place = self._sums["in place"]
        name = max((name for name in self._sums if name != "in place"), key=lambda name: self._sums[name])
        return self._sums[name] / max(in_place, np.finfo(float).tiny) - 1, name

    def warnings(self) -> list[str]:
        """Return a warning if CT and MR are not aligned; none if they are, or if there is no CT."""
        gain, name = self.gain
        if gain <= margin(self._mask, self._slices):
            return []
        return [
            f"CT and MR do not match in place: the CT {name} tells {gain:.0%} more of the zero-filled MR than as it "
            "is; register it to the MR, or leave it out"
        ]


def trained_for(config: "Config") -> TrainedFor:
    """Return what a network was trained for, from the configuration in its checkpoint."""
    data, crop = config.data, config.augment.crop
    size = getattr(data.source, "image_size", (0, 0))
    cut = (crop[0] or size[0], crop[1] or size[1])
    return TrainedFor(
        masks=config.masks,
        sizes=tuple(dict.fromkeys((size, cut))) if all(size) else (),  # validation is on whole images
        dataset=data.dataset,
        contrast=_contrast(data),
        phase=data.acquisition.phase,
        noise=data.acquisition.noise,
        windows=data.ct_windows,
        with_and_without_ct=_with_and_without_ct(config),
        several_coils=data.acquisition.coils[1] > 1 or getattr(data.source, "measured", False),
        coil_maps=_coil_maps(config),
        real_image=not getattr(config.model, "complex", True),
    )


def _with_and_without_ct(config: "Config") -> bool:
    """Return whether a network was trained both with and without a CT.

    It was if the CT was left out at random (dropout), or if only adapters were trained with it, beside a frozen network
    that sees no CT.
    """
    model = config.model
    if not sees_ct(model):
        return False
    with_ct = [stage for stage in config.train.stages if stage.steps and getattr(stage.objective, "adapters", True)]
    adapters_only = bool(with_ct) and all(stage.trains == ADAPTERS for stage in with_ct)
    return config.augment.ct_dropout > 0 or (adapters_only and not sees_ct(getattr(model, "unadapted", model)))


def _coil_maps(config: "Config") -> str:
    """Return how the coil maps were estimated that the network was trained with."""
    acquisition = config.data.acquisition
    several = acquisition.coils[1] > 1 or getattr(config.data.source, "measured", False)
    own = getattr(config.model, "sensitivity", None) is not None  # a network of its own estimates them
    return acquisition.maps if several and not own and acquisition.maps != "given" else ""


@beartype
def unseen_sampling(
    trained: TrainedFor,
    mask: Bool[np.ndarray, "*b #h w"],
    *,
    shape: tuple[int, int],
    coils: int = 0,
    coil_maps: str = "",
) -> list[str]:
    """Return what of a measurement was not part of the training: kind of mask, acceleration, image size, coils.

    Args:
        trained: of the network.
        mask: True = acquired, [1|h, w] or several.
        shape: of the image, (h, w).
        coils: number of coils, 0 without a coil axis.
        coil_maps: how their maps are estimated; empty: they are given.

    Returns:
        One sentence for each difference. The acceleration of several masks is that of all their samples together.

    Example:
        >>> trained = TrainedFor((MaskConfig("equispaced", 4.0),), sizes=((64, 64),))
        >>> mask = make_mask(MaskConfig("equispaced", 4.0), (64, 64), seed=0).samples
        >>> unseen_sampling(trained, mask, shape=(64, 64)), unseen_sampling(trained, mask, shape=(64, 64), coils=8)
        ([], ['k-space has 8 coils, and the network was trained with one'])
    """
    sentences = []
    if coils > 1 and not trained.several_coils:
        sentences.append(f"k-space has {coils} coils, and the network was trained with one")
    if coils > 1 and coil_maps and trained.coil_maps and coil_maps != trained.coil_maps:
        # the phase of the image is relative to its maps, and these methods give it another one
        sentences.append(f"coil maps by {coil_maps} were not trained (trained: {trained.coil_maps})")
    if trained.sizes and shape not in trained.sizes:
        sizes = " and ".join(map(_size, trained.sizes))
        sentences.append(f"image size {_size(shape)} was not trained (trained: {sizes})")
    effective = mask.size / max(mask.sum(), 1)
    low, high = _accelerations(trained.masks, shape)
    if not low / (1 + TOLERANCE) <= effective <= high * (1 + TOLERANCE):
        sentences.append(f"{effective:.2f}x acceleration was not trained (trained: {low:.2f}x to {high:.2f}x)")
    families = {_family(_is_of_lines(config, shape)) for config in trained.masks}
    family = _family(bool((mask == mask[..., :1, :]).all()))
    if family not in families and not mask.all():
        sentences.append(f"a mask of {family} was not trained (trained: {' and '.join(sorted(families))})")
    return sentences


@beartype
def unseen_scan_kind(trained: TrainedFor, *, raw: bool, contrast: str = "") -> list[str]:
    """Return a sentence if the network was not trained on this kind of scan.

    Args:
        trained: of the network.
        raw: the scan is a fastMRI file.
        contrast: from the file's header; empty if it has none.

    Example:
        >>> unseen_scan_kind(TrainedFor((), dataset="phantom"), raw=True)
        ['the network was never trained on scans, only on generated heads']
    """
    if trained.dataset in PICTURES:
        return [f"the network was never trained on scans, only on {PICTURES[trained.dataset]}"]
    if trained.dataset == "fastmri" and not raw:
        return ["the network was trained on raw k-space of fastMRI files, never on such data"]
    if trained.contrast and contrast and trained.contrast != contrast:
        return [f"the contrast {contrast} was never trained, {trained.contrast} was"]
    return []


@beartype
def unseen_windows(trained: TrainedFor, windows: tuple[str, ...]) -> list[str]:
    """Return a sentence if the CT windows, or their order, are not those of the training.

    Args:
        trained: of the network.
        windows: names; ("none",) for a CT that is already scaled to [0, 1], whose window is not known.

    Example:
        >>> unseen_windows(TrainedFor((), windows=("brain",)), ("bone",))
        ['CT windows bone were never trained, brain were']
    """
    if windows in (("none",), trained.windows) or not trained.windows:
        return []
    return [f"CT windows {', '.join(windows)} were never trained, {', '.join(trained.windows)} were"]


def unseen_dataset(trained: TrainedFor, data: "DataConfig") -> list[str]:
    """Return how the data of an evaluation differ from those of the training, by their configurations.

    Args:
        trained: of the network.
        data: of the evaluation.
    """
    sentences = []
    if trained.dataset != data.dataset:
        sentences.append(f"the dataset {data.dataset} was never trained, {trained.dataset} was")
    elif trained.contrast and trained.contrast != _contrast(data):
        sentences.append(f"the contrast {_contrast(data) or 'of all files'} was never trained, {trained.contrast} was")
    for name in ("phase", "noise"):
        now, before = getattr(data.acquisition, name), getattr(trained, name)
        if now != before:
            sentences.append(f"a simulated {name} of {now:g} was never trained, {before:g} was")
    return sentences


def _contrast(data: "DataConfig") -> str:
    contrast = getattr(data.source, "contrast", "")
    return "" if contrast == "random" else contrast


@lru_cache(64)
def _accelerations(masks: tuple[MaskConfig, ...], shape: tuple[int, int]) -> tuple[float, float]:
    """Return the lowest and the highest effective acceleration of the masks at a size."""
    drawn = [config.acceleration for config in masks]
    for config in masks:
        if config.kind == "random":  # the number of lines beside the centre is binomial
            drawn += _random_accelerations(config, shape[1])
            continue
        draws = 1 if config.kind in PLANE_MASKS else MASK_DRAWS
        drawn += [make_mask(config, shape, seed=seed).effective for seed in range(draws)]
    return min(drawn), max(drawn)


def _random_accelerations(config: MaskConfig, width: int) -> tuple[float, float]:
    """Return the lowest and highest acceleration of all but ``TAIL`` of the masks ``random`` at each end."""
    center = round(width * config.center_fraction) if config.center_lines is None else config.center_lines
    others = width - center
    probability = min(max((width / config.acceleration - center) / max(others, 1), 0), 1)
    fewest, most = scipy.stats.binom.ppf((TAIL, 1 - TAIL), others, probability)
    return width / (center + most), width / max(center + fewest, 1)


def _is_of_lines(config: MaskConfig, shape: tuple[int, int]) -> bool:
    if config.kind in MASKS:
        return config.kind in LINE_MASKS
    return len(make_mask(config, shape, seed=0).samples) == 1  # of the user's own


def _family(lines: bool) -> str:
    return "lines" if lines else "points"


def _size(shape: tuple[int, int]) -> str:
    return "x".join(map(str, shape))


def _levels(image: np.ndarray) -> np.ndarray:
    """Sort values into ``GREY_LEVELS`` equal steps from the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(image, (0.5, 99.5))
    if high == low:
        low, high = image.min(), image.max()
    return np.clip((image - low) * (GREY_LEVELS / (high - low)), 0, GREY_LEVELS - 1).astype(np.int64)


def _mutual_information(pairs: np.ndarray) -> float:
    """Return the mutual information of two images of levels, given as ``first * GREY_LEVELS + second``."""
    joint = np.bincount(pairs, minlength=GREY_LEVELS * GREY_LEVELS).reshape(GREY_LEVELS, GREY_LEVELS) / pairs.size
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())
