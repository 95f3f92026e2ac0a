"""Registration of a CT to the MR of the same person by SimpleITK: rigid, affine, optionally B-spline.

Mattes mutual information is climbed over a pyramid, after several starting rotations at its coarsest level. Table and
head holder are taken out of the CT, and the MR is sampled in its body and a margin around it; where sizes are fitted,
at last only in soft tissue away from bone and skin if the CT is in Hounsfield units. A single slice is registered in
its plane. Seed, samples and number of threads are fixed: the same pair gives the same numbers.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Bool, Float32, Float64, Real, jaxtyped

from atlf_jax.data.volume import Volume, resample

__all__ = [
    "AIR",
    "Registration",
    "RegistrationConfig",
    "apply",
    "body_mask",
    "edge_overlap",
    "mutual_information",
    "register",
]

AIR = -1000.0  # HU
SOFT = (-200.0, 300.0)  # HU: clips the CT, so that bins tell soft tissues apart
# Factor of each level (its voxels, in smallest spacings of the MR), and the margin around the body, in voxels
# of the level, that is sampled too: wide at first to be caught, none at last, since scalps differ between the two.
PYRAMID_MARGINS = {8: 2.5, 4: 2.5, 2: 1.0, 1: 0.0}
BLUR = 3  # voxels of a level, in standard deviations of the blur before it
LEAST_BINS = 20  # four of them pad the histogram
LEAST_SIDE = 16  # voxels: no level has fewer along an axis, unless the volume has: a slab of few slices keeps them
STARTS_KEPT = 8  # start positions that are refined on the next level after the coarsest
WHOLE = 60_000  # voxels: smaller levels are sampled whole
THIN = 3.0  # mm: what is less than twice this thick is table and head holder
LEAST_CORE = 0.25  # part of the body that soft tissue away from bone and skin must have, to be sampled alone
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # SimpleITK's coordinates of the patient to RAS+, and back


@beartype
@dataclass(frozen=True)
class RegistrationConfig:
    """How the CT is brought onto the MR."""

    kind: Literal["none", "rigid", "affine", "bspline"] = "affine"
    """Last transform fitted; each starts from the one before. none: only the quality of the headers is measured."""
    bins: int = 50
    """Bins of the joint histogram, a side; coarse levels have fewer."""
    sampling: float = 0.03
    """Part of the voxels of a level that is sampled; at least 60,000 of them, or all."""
    iterations: int = 100
    """Most steps of a level."""
    starts: tuple[float, ...] = (-12.0, 12.0, -25.0, 25.0, -50.0, 50.0)
    """Rotations in degrees, about each axis, that are tried beside none at the coarsest level."""
    control_spacing: float = 40.0
    """Distance of the B-spline's control points, in mm."""
    threshold: float = 0.85
    """Least body-mask Dice of a good registration."""
    seed: int = 0
    """Seed of the samples."""
    threads: int = 1
    """Threads; with more than one, sums differ in their last digits from run to run."""

    def __post_init__(self) -> None:
        for name, least in (("bins", 8), ("iterations", 1), ("seed", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"registration.{name} is {getattr(self, name)}; wanted at least {least}")
        if not 0 < self.sampling <= 1:
            raise ValueError(
                f"registration.sampling is {self.sampling}; wanted a part of the voxels, over 0 and up to 1"
            )
        if self.control_spacing <= 0:
            raise ValueError(f"registration.control_spacing is {self.control_spacing}; wanted mm, over 0")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"registration.threshold is {self.threshold}; wanted a Dice, from 0 to 1")


@dataclass(frozen=True)
class Registration:
    """Where a point of the MR lies in the CT, and how well the two agree there.

    Attributes:
        transform: RAS+ mm of the MR to RAS+ mm of the CT, ``[4, 4]``.
        quality: ``mutual_information`` (nats), ``body_dice`` and ``edge_overlap`` (0 to 1), each on the MR's grid where
            the CT reaches, and each also with ``_before``: by the headers alone.
        good: whether the body masks agree to the threshold, and mutual information did not fall.
        displacement: what a B-spline adds after the transform, RAS+ mm, ``[i, j, k, 3]`` on the MR's grid, or None.
    """

    transform: Float64[np.ndarray, "4 4"]
    quality: dict[str, float]
    good: bool
    displacement: Float32[np.ndarray, "i j k 3"] | None = None


@beartype
def register(ct: Volume, mr: Volume, config: RegistrationConfig = RegistrationConfig()) -> Registration:
    """Find the place in the CT of every point of the MR.

    Args:
        ct: in Hounsfield units, or windowed; a volume, or one slice ``[h, w, 1]``.
        mr: of the same person; a slice where the CT is one.
        config: transforms, samples and starts.

    Raises:
        ImportError: SimpleITK is not installed.
        ValueError: a slice meets a volume, or a slice that is not parallel to it; or one of the two is of one value.

    Source: Mattes et al., IEEE Transactions on Medical Imaging 2003; ITK Software Guide, chapter 3. Departures from
    its examples: starts, masks, soft tissue alone at last, and samples of a fixed least number.
    """
    for name, volume in (("CT", ct), ("MR", mr)):
        if np.ptp(volume.data) == 0:
            raise ValueError(
                f"the {name} has the one value {volume.data.flat[0]:g} everywhere; there is nothing to register"
            )
    pair = _Pair(ct, mr, body_mask(ct), body_mask(mr))
    before = Registration(np.eye(4), {}, good=False)
    found = before if config.kind == "none" else _search(pair, config)
    start, end = _quality(before, pair, config), _quality(found, pair, config)
    quality = end | {f"{name}_before": value for name, value in start.items()}
    good = end["body_dice"] >= config.threshold and end["mutual_information"] >= start["mutual_information"]
    return Registration(found.transform, quality, good, found.displacement)


@beartype
def apply(registration: Registration, ct: Volume, mr: Volume, *, order: int = 1, outside: float = AIR) -> Volume:
    """Bring the CT onto the MR's grid in one interpolation.

    Args:
        registration: of this pair.
        ct: the volume to bring; or labels of it, with ``order=0, outside=0``.
        mr: the volume whose grid and codes are taken.
        order: 0 nearest, 1 linear, 3 cubic.
        outside: value beyond the CT.

    Raises:
        ValueError: the displacement is of another grid.
    """
    displacement = registration.displacement
    if displacement is None:
        return resample(ct, mr, transform=registration.transform, order=order, outside=outside)
    if displacement.shape[:3] != mr.data.shape:
        raise ValueError(
            f"the displacement has {_size(displacement.shape[:3])} voxels and the MR {_size(mr.data.shape)}; "
            "give the MR that was registered"
        )
    inverse = np.linalg.inv(ct.affine)
    to_index = inverse @ registration.transform @ mr.affine
    place = np.moveaxis(displacement @ inverse[:3, :3].T, -1, 0).copy()  # [3 i j k], in voxels of the CT
    for axis in range(3):
        place[axis] += to_index[axis, 3]
        for line, steps in zip(to_index[axis, :3], np.ix_(*map(np.arange, mr.data.shape)), strict=True):
            place[axis] += line * steps
    moved = scipy.ndimage.map_coordinates(ct.data, place, order=order, mode="nearest")
    for axis, side in enumerate(ct.data.shape):  # a voxel reaches half its size beyond its centre, as in resample
        moved[(place[axis] < -0.5 - 1e-5) | (place[axis] > side - 0.5 + 1e-5)] = outside
    return Volume(moved, mr.affine, mr.codes, mr.through)


@beartype
def body_mask(volume: Volume) -> Bool[np.ndarray, "i j k"]:
    """Find the body: the largest bright component, freed of thin structures, with its holes filled.

    The threshold is -300 HU where there are Hounsfield units (values under -500), and otherwise Otsu's on square roots,
    which lie less far apart than intensities of MR.

    Args:
        volume: CT or MR.

    Raises:
        ValueError: nothing is left.

    Source: Otsu, IEEE Transactions on Systems, Man, and Cybernetics 1979.
    """
    data = volume.data
    if _has_hu(volume):
        bright = data > -300
    else:
        root = np.sqrt(np.clip(data, 0, np.percentile(data, 99.5)))
        bright = root > _otsu(root)
    bright = _fill(bright)
    labels, count = scipy.ndimage.label(_erode(bright, THIN, volume))
    if count == 0:
        raise ValueError(f"no body found: nothing thicker than {2 * THIN:g} mm is brighter than its surroundings")
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return bright & _dilate(largest, 1.5 * THIN, volume)


@jaxtyped(typechecker=beartype)
def mutual_information(
    a: Real[np.ndarray, "*n"], b: Real[np.ndarray, "*n"], where: Bool[np.ndarray, "*n"], *, bins: int = 50
) -> float:
    """Measure what the values of one image tell of the other's, in nats.

    ``sum p(a, b) log(p(a, b) / (p(a) p(b)))``

    Args:
        a: values of one image.
        b: values of the other at the same places.
        where: places that count.
        bins: of the joint histogram, a side; each from the 0.5th to the 99.5th percentile.

    Example:
        >>> ramp = np.linspace(0, 1, 1000)
        >>> round(mutual_information(ramp, -ramp, ramp >= 0, bins=10), 2)
        2.3
    """
    if not where.any():
        return 0.0
    lines = []
    for image in (a, b):
        values = image[where].astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        lines.append(np.clip((values - low) / ((high - low) or 1.0) * bins, 0, bins - 1).astype(np.int64))
    joint = np.bincount(lines[0] * bins + lines[1], minlength=bins * bins).reshape(bins, bins) / lines[0].size
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


@jaxtyped(typechecker=beartype)
def edge_overlap(
    a: Real[np.ndarray, "i j k"], b: Real[np.ndarray, "i j k"], where: Bool[np.ndarray, "i j k"], *, part: float = 0.15
) -> float:
    """Measure how many of one image's strongest edges lie within a voxel of the other's, averaged over both, 0 to 1.

    Args:
        a: one image.
        b: the other on the same grid.
        where: voxels that count.
        part: of these voxels, those whose gradients are largest beside those around them are edges.
    """
    if not where.any():
        return 0.0
    a, b, where = (image[..., 0] if image.shape[2] == 1 else image for image in (a, b, where))
    edges = []
    for image in (a, b):
        gradient = scipy.ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 1.0)
        # against its surroundings, since the strongest edges of CT (bone) are not those of MR
        gradient /= scipy.ndimage.gaussian_filter(gradient, 5.0) + 1e-3 * gradient.max() + 1e-12
        edges.append(where & (gradient > np.quantile(gradient[where], 1 - part)))
    near = [scipy.ndimage.binary_dilation(edge, np.ones([3] * edge.ndim)) for edge in edges]
    hits = [(edges[0] & near[1]).sum() / max(edges[0].sum(), 1), (edges[1] & near[0]).sum() / max(edges[1].sum(), 1)]
    return float(np.mean(hits))


class _Pair(NamedTuple):
    """What is registered, with the bodies found in it."""

    ct: Volume
    mr: Volume
    ct_body: np.ndarray
    mr_body: np.ndarray


class _Frame(NamedTuple):
    """The coordinates that SimpleITK works in: LPS for volumes, those of the MR's plane for slices."""

    to_ras: np.ndarray  # [4, 4]
    dimensions: int
    depth: float  # mm from the MR's plane to the CT's

    def image(self, sitk: ModuleType, data: np.ndarray, affine: np.ndarray) -> Any:
        """Hand over values [i, j, k] with their place."""
        n = self.dimensions
        place = np.linalg.inv(self.to_ras) @ affine
        spacing = np.linalg.norm(place[:n, :n], axis=0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(data[..., 0].T if n == 2 else data.T))  # [k] j i
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(place[:n, 3].tolist())
        image.SetDirection((place[:n, :n] / spacing).ravel().tolist())
        return image

    def matrix(self, transform: Any) -> np.ndarray:
        """Write an affine transform of SimpleITK, MR to CT, as a matrix of RAS+ mm, [4, 4]."""
        n = self.dimensions
        result = np.eye(4)
        result[2, 3] = self.depth
        result[:n, 3] = transform.TransformPoint([0.0] * n)
        for axis, unit in enumerate(np.eye(n)):
            result[:n, axis] = np.subtract(transform.TransformPoint(unit.tolist()), result[:n, 3])
        return self.to_ras @ result @ np.linalg.inv(self.to_ras)


class _Level(NamedTuple):
    """One level of the pyramid, as SimpleITK's images."""

    ct: Any
    mr: Any
    around: Any  # where the MR is sampled
    step: float  # mm, the longest of the optimiser
    sampling: float  # part of the voxels
    bins: int


def _frame(ct: Volume, mr: Volume) -> _Frame:
    flat = [volume.data.shape[2] == 1 for volume in (ct, mr)]
    if flat == [False, False]:
        return _Frame(LPS, 3, 0.0)
    if flat != [True, True]:
        raise ValueError(
            f"the CT has {_size(ct.data.shape)} voxels and the MR {_size(mr.data.shape)}; only a slice can be "
            "registered to a slice"
        )
    to_ras = mr.affine @ np.diag([*(1 / mr.spacing), 1])
    place = np.linalg.inv(to_ras) @ ct.affine
    if np.abs(place[2, :2]).max() > 1e-3 * ct.spacing.max():
        raise ValueError("the slices of CT and MR are not parallel; give volumes, or slices of one orientation")
    return _Frame(to_ras, 2, float(place[2, 3]))


def _search(pair: _Pair, config: RegistrationConfig) -> Registration:
    """Fit rigid, affine and B-spline transforms in turn."""
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise ImportError("registration needs SimpleITK: pip install 'atlf-jax[registration]'") from error
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(config.threads)  # the method's own does not reach all its parts
    try:
        return _fit(sitk, pair, config)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _fit(sitk: ModuleType, pair: _Pair, config: RegistrationConfig) -> Registration:
    frame = _frame(pair.ct, pair.mr)
    coarsest, coarse, *fine = [_level(sitk, frame, pair, factor, config) for factor in PYRAMID_MARGINS]
    n = frame.dimensions
    starts = [_optimise(sitk, start, [coarsest], config) for start in _starts(sitk, frame, pair, config)]
    kept = [start for _, start in sorted(starts, key=_value)[:STARTS_KEPT]]
    if config.kind != "rigid":  # heads of two sizes may overlap best where one is turned: let them grow before choosing
        similarity = sitk.Similarity3DTransform if n == 3 else sitk.Similarity2DTransform
        kept = [_widen(similarity(), start) for start in kept]
    kept = [_optimise(sitk, start, [coarse], config) for start in kept]
    transform = _overlapping(_optimise(sitk, _overlapping(min(kept, key=_value)), fine, config))
    if config.kind == "rigid":
        return Registration(frame.matrix(transform), {}, good=False)
    last = fine[-1]
    if _has_hu(pair.ct):  # pictures have too few grey values in soft tissue
        core = _core(sitk, frame, pair, last, transform, config)
        transform = _overlapping(_optimise(sitk, transform, [core], config))
        last = _core(sitk, frame, pair, last, transform, config)
    transform = _overlapping(_optimise(sitk, _widen(sitk.AffineTransform(n), transform), [last], config))
    matrix = frame.matrix(transform)
    if config.kind == "affine":
        return Registration(matrix, {}, good=False)
    control = [max(2, round(length / config.control_spacing)) for length in _extent(pair.mr)[:n]]
    grid = frame.image(sitk, pair.mr.data, pair.mr.affine)
    spline = sitk.BSplineTransformInitializer(grid, control)
    for level in fine[-1:]:
        method = _method(sitk, level, config)
        method.SetOptimizerAsLBFGSB(numberOfIterations=30, maximumNumberOfFunctionEvaluations=60)
        method.SetMovingInitialTransform(transform)
        method.SetInitialTransform(spline, inPlace=True)
        method.Execute(level.mr, level.ct)
    field = sitk.GetArrayFromImage(
        sitk.TransformToDisplacementField(
            spline, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
        )
    )  # [(k) j i n]
    field = np.moveaxis(field, range(n), range(n)[::-1]).reshape(*pair.mr.data.shape, n)
    # SimpleITK moves points before the affine transform; here the displacement comes after it.
    turned = (matrix[:3, :3] @ frame.to_ras[:3, :n]).astype(np.float32)
    return Registration(matrix, {}, good=False, displacement=field @ turned.T)


def _core(
    sitk: ModuleType, frame: _Frame, pair: _Pair, level: _Level, transform: Any, config: RegistrationConfig
) -> _Level:
    """Return the level restricted to soft tissue away from bone and skin, with histogram bins over its own values.

    CT and MR show the borders of bone and skin at slightly different places, and these borders dominate the mutual
    information: fits that sample them are one per cent too large or too small.

    Args:
        pair: its CT in Hounsfield units.
        level: the finest.
        transform: fitted on it; it moves the CT's bone and skin to the MR.
    """
    core = _erode(pair.ct_body & (pair.ct.data < SOFT[1]), THIN, pair.ct)
    ct_core = Volume(core.astype(np.float32), pair.ct.affine)
    mr_core = resample(ct_core, pair.mr, transform=frame.matrix(transform), order=0, outside=0.0).data > 0.5
    mr_core &= pair.mr_body
    if mr_core.sum() < LEAST_CORE * pair.mr_body.sum():
        return level
    ct, mr = (
        sitk.Clamp(image, lowerBound=float(bottom), upperBound=float(top))
        for image, (bottom, top) in (
            (level.ct, np.percentile(pair.ct.data[core], (0.5, 99.5))),
            (level.mr, np.percentile(pair.mr.data[mr_core], (0.5, 99.5))),
        )
    )
    around = frame.image(sitk, mr_core.astype(np.uint8), pair.mr.affine)
    return level._replace(ct=ct, mr=mr, around=around, bins=_bins(level.sampling * mr_core.sum(), config))


def _bins(samples: float, config: RegistrationConfig) -> int:
    """Return the number of histogram bins for a number of samples: too many bins find information in noise."""
    return min(config.bins, max(LEAST_BINS, round(math.sqrt(samples) / 4)))


def _widen(wide: Any, narrow: Any) -> Any:
    """Copy a fitted transform into one with more parameters."""
    wide.SetCenter(narrow.GetCenter())
    wide.SetMatrix(narrow.GetMatrix())
    wide.SetTranslation(narrow.GetTranslation())
    return wide


def _extent(volume: Volume) -> np.ndarray:
    return volume.spacing * volume.data.shape


def _level(sitk: ModuleType, frame: _Frame, pair: _Pair, factor: int, config: RegistrationConfig) -> _Level:
    voxel = factor * float(pair.mr.spacing[: frame.dimensions].min())
    around = _dilate(pair.mr_body, PYRAMID_MARGINS[factor] * voxel, pair.mr)
    cleaned = np.where(
        pair.ct_body, np.clip(pair.ct.data, *_range(pair.ct)), max(pair.ct.data.min(), _range(pair.ct)[0])
    )
    bright = np.percentile(pair.mr.data[pair.mr_body], 99.5)
    ct, mr = (
        frame.image(sitk, *_shrink(data.astype(np.float32), volume, voxel))
        for data, volume in ((cleaned, pair.ct), (np.minimum(pair.mr.data, bright), pair.mr))
    )
    mask, affine = _shrink(around.astype(np.float32), pair.mr, voxel)
    inside = frame.image(sitk, (mask > 0.5).astype(np.uint8), affine)
    sampling = min(1.0, max(config.sampling, WHOLE / mask.size))
    bins = _bins(sampling * (mask > 0.5).sum(), config)
    step = min(voxel, _extent(pair.mr)[: frame.dimensions].min() / 8)  # of a thin slab, a voxel would be half way out
    return _Level(ct, mr, inside, float(step), sampling, bins)


def _shrink(data: np.ndarray, volume: Volume, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    """Blur and subsample to voxels of about this size in mm; return the values and their affine."""
    factors = np.maximum(1, np.rint(voxel / volume.spacing)).astype(int)
    factors = np.minimum(factors, np.maximum(1, np.array(data.shape) // LEAST_SIDE))
    first = (factors - 1) // 2
    data = scipy.ndimage.gaussian_filter(data, np.where(factors > 1, factors / BLUR, 0))
    thin = data[tuple(slice(start, None, step) for start, step in zip(first, factors, strict=True))]
    place = np.diag([*factors, 1.0])
    place[:3, 3] = first
    return thin, volume.affine @ place


def _starts(sitk: ModuleType, frame: _Frame, pair: _Pair, config: RegistrationConfig) -> list[Any]:
    """Return the start positions: that of the headers, and each rotation with the centres of the bodies aligned."""
    n = frame.dimensions
    mr_centre, ct_centre = (
        (np.linalg.inv(frame.to_ras) @ volume.affine @ [*scipy.ndimage.center_of_mass(body), 1])[:n]
        for volume, body in ((pair.mr, pair.mr_body), (pair.ct, pair.ct_body))
    )
    still = np.zeros(3 if n == 3 else 1)  # angles
    turns = [still, *(math.radians(angle) * axis for axis in np.eye(still.size) for angle in config.starts)]
    starts = []
    for shift, turn in [(np.zeros(n), still), *((ct_centre - mr_centre, turn) for turn in turns)]:
        start = sitk.Euler3DTransform() if n == 3 else sitk.Euler2DTransform()
        start.SetCenter(mr_centre.tolist())
        start.SetParameters([*turn.tolist(), *shift.tolist()])
        starts.append(start)
    return starts


def _overlapping(fitted: tuple[float, Any]) -> Any:
    """Return the transform of a fit that ended where CT and MR overlap."""
    if fitted[0] == math.inf:
        raise ValueError("CT and MR were not brought to overlap; check that they show the same region of one person")
    return fitted[1]


def _value(fitted: tuple[float, Any]) -> float:
    return fitted[0]


def _optimise(sitk: ModuleType, transform: Any, levels: list[_Level], config: RegistrationConfig) -> tuple[float, Any]:
    """Climb level after level; return minus the mutual information of the last one, and the transform.

    The information is that of all samples together: one that only counts the samples that meet the CT is largest
    where next to nothing does.
    """
    information = math.inf
    for level in levels:
        method = _method(sitk, level, config)
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(level.mr, level.ct)
        except RuntimeError as error:
            if "sufficiently overlap" not in str(error):
                raise
            return math.inf, transform  # this start has left the CT; another may not
        information = method.GetMetricValue() * method.GetMetricNumberOfValidPoints()
    return information, transform


def _method(sitk: ModuleType, level: _Level, config: RegistrationConfig) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(config.threads)
    method.SetMetricAsMattesMutualInformation(level.bins)
    method.SetMetricFixedMask(level.around)
    if level.sampling < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(level.sampling, config.seed + 1)  # 0 would be drawn from the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.MetricUseMovingImageGradientFilterOff()  # it blurs once more; central differences follow the metric
    # By itself the step has no unit, and one along an angle would be a radian: it is held to about a voxel each time.
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-4,
        numberOfIterations=config.iterations,
        relaxationFactor=0.8,
        gradientMagnitudeTolerance=1e-6,
        estimateLearningRate=method.EachIteration,
        maximumStepSizeInPhysicalUnits=level.step,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _quality(registration: Registration, pair: _Pair, config: RegistrationConfig) -> dict[str, float]:
    ct, mr = pair.ct, pair.mr
    air = np.float32(max(ct.data.min(), _range(ct)[0]))
    moved = apply(registration, Volume(np.clip(ct.data, *_range(ct)), ct.affine), mr, outside=np.nan).data
    reached = ~np.isnan(moved)
    body = apply(registration, Volume(pair.ct_body.astype(np.float32), ct.affine), mr, order=0, outside=0.0).data > 0.5
    either = (body | pair.mr_body) & reached
    both = (body & pair.mr_body).sum()
    moved = np.where(reached, moved, air)
    return {
        "mutual_information": mutual_information(moved, mr.data, either, bins=config.bins),
        "body_dice": float(2 * both / max(body.sum() + (pair.mr_body & reached).sum(), 1)),
        "edge_overlap": edge_overlap(moved, mr.data, either),
    }


def _range(ct: Volume) -> tuple[float, float]:
    """Return the values that the CT is clipped to: SOFT where there are Hounsfield units, and otherwise all of them."""
    return SOFT if _has_hu(ct) else (float(ct.data.min()), float(ct.data.max()))


def _has_hu(ct: Volume) -> bool:
    return bool(ct.data.min() < -500)


def _otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values in two classes of least variance."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(middles[np.nanargmax(between)])


def _fill(mask: np.ndarray) -> np.ndarray:
    """Fill holes in every slice along each axis, so that a body cut by the field of view is closed too."""
    filled = mask.copy()
    for axis in range(3):
        if min(n for a, n in enumerate(mask.shape) if a != axis) > 1:
            for index in range(mask.shape[axis]):
                place = (slice(None),) * axis + (index,)
                filled[place] |= scipy.ndimage.binary_fill_holes(mask[place])
    return filled


def _erode(mask: np.ndarray, radius: float, volume: Volume) -> np.ndarray:
    return np.asarray(scipy.ndimage.distance_transform_edt(mask, volume.spacing)) > radius


def _dilate(mask: np.ndarray, radius: float, volume: Volume) -> np.ndarray:
    return np.asarray(scipy.ndimage.distance_transform_edt(~mask, volume.spacing)) <= radius


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
