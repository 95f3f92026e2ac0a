"""Find properties of a dataset that make reconstruction scores too good: ``atlf audit --dataset aanlib``.

Images that were processed before they became "fully sampled data" make reconstruction easier than it is on a scanner.
Every record is read once; each property is measured on the images, pooled over the slices and compared with a
threshold. Each threshold lies between the values measured on images without the flaw and on the same images with it
(the values are in the comments).

Source: implicit data crimes, Shimron et al., PNAS 2022 (zero padding, JPEG); the detectors are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from beartype import beartype
from jaxtyping import Complex, Float, jaxtyped
from rich import box
from rich.table import Table

from atlf_jax.data import AcquisitionConfig, Example
from atlf_jax.data.coils import compress_coils
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import Mask, make_mask, seed_from_name

__all__ = ["DataProperty", "Traits", "audit", "findings", "image_traits", "table"]

REAL = 1e-6  # part of the energy; real images have 1e-16, a phase of 0.1 rad 3e-3
GREY_LEVELS = 256  # of an 8-bit image
STEP = 3.0  # dB; without padding up to 2.5 (one slice) and 1.1 (six), padded and made 8 bit from 6.0 on
FALL = 6.0  # dB; -3 to 4.7 of unfiltered images, from 6.6 on after a Gaussian that is .14 at the edge
BLOCKS = 1.06  # up to 1.03 without JPEG from 128 x 128 on; JPEG 75: 1.50, JPEG 95: 1.07 (AANLIB), 1.28 (phantom)
SATURATED = 1e-3  # part of the pixels that are not 0; up to 8e-4 in unclipped 8-bit pictures
EMPTY = 0.05  # part of the pixels; noise in air leaves up to .03 in 8-bit magnitude pictures

RADIAL_BINS = 64  # of |k| along an axis, from the zero frequency to the edge
INNER, OUTER = 0.4, 0.9  # where a step is looked for, in parts of that


class DataProperty(NamedTuple):
    """One property of the data, present or not."""

    name: str
    found: bool
    evidence: float
    relation: Literal["at most", "at least"]  # of evidence to threshold, if the property is present
    threshold: float
    unit: str
    sentence: str


class Traits(NamedTuple):
    """The measured properties of one image."""

    phase: float  # 1 - |sum x^2| / sum |x|^2: 0 for a real image times a constant phase
    levels: int  # magnitudes that differ by more than a millionth of the largest
    pixels: int
    empty: float  # part of the pixels that are exactly 0
    saturated: float  # part of the others that share the largest magnitude
    profiles: Float[np.ndarray, "2 bins"]  # power of k-space along rows and columns by |k|, in dB
    blocks: Float[np.ndarray, "2 8"]  # how often neighbouring pixels differ most, by the place modulo 8


@jaxtyped(typechecker=beartype)
def image_traits(image: Complex[np.ndarray, "h w"]) -> Traits | None:
    """Measure one fully sampled image; None where it is zero everywhere.

    Args:
        image: [h, w], any units.
    """
    image = image.astype(np.complex128)
    magnitude = np.abs(image)
    peak = magnitude.max()
    if peak == 0:
        return None
    filled = magnitude > 0
    return Traits(
        phase=float(1 - np.abs((image**2).sum()) / (magnitude**2).sum()),
        levels=1 + int((np.diff(np.sort(magnitude, axis=None)) > 1e-6 * peak).sum()),
        pixels=magnitude.size,
        empty=float(1 - filled.mean()),
        saturated=float(((magnitude >= peak * (1 - 1e-6)).sum() - 1) / filled.sum()),
        profiles=_profiles(image),
        blocks=_blocks(magnitude),
    )


@beartype
def audit(trial: Trial) -> list[DataProperty]:
    """Read every record of a trial once, and return the properties that make its scores too good.

    Args:
        trial: its models are not used. For images without phase, the coverage of k-space by its masks is added.

    Raises:
        ValueError: the source holds no image, or none that is not zero everywhere.
    """
    measured = []
    drawn: dict[str, list[Mask]] = {label: [] for label in trial.labels}
    for index in range(len(trial.source)):
        example = trial.source[index]
        if (traits := image_traits(_scanned(example))) is not None:
            measured.append(traits)
        for mask, label in zip(trial.masks, trial.labels, strict=True):
            drawn[label].append(make_mask(mask, example.target.shape, seed=seed_from_name(example.name)))
    if not measured:
        raise ValueError(f"none of the {len(trial.source)} records holds an image that is not zero everywhere")
    found = findings(measured, acquisition=trial.acquisition)
    if drawn and found[0].found:
        found[0] = found[0]._replace(sentence=f"{found[0].sentence} {_coverage_sentence(drawn)}")
    return found


def _scanned(example: Example) -> Complex[np.ndarray, "h w"]:
    """Return the image whose k-space is undersampled; measured coils are combined into their strongest virtual coil."""
    if example.kspace is None:
        return example.target
    matrix = compress_coils(example.kspace, 1)  # [1 c]
    return ifft2c_numpy(np.einsum("vc,chw->vhw", matrix, example.kspace))[0]


@beartype
def findings(measured: Sequence[Traits], *, acquisition: AcquisitionConfig = AcquisitionConfig()) -> list[DataProperty]:
    """Pool what was measured on the slices, compare it with the thresholds and describe each result in a sentence.

    Args:
        measured: what ``image_traits`` returned, at least once.
        acquisition: phase and noise that are simulated before the k-space is made.
    """
    profiles = np.mean([traits.profiles for traits in measured], axis=0)
    steps = [_step(profile) for profile in profiles]
    filled = [place if size >= STEP else 1.0 for size, place in steps]
    fall = float(np.mean([_fall(profile, end) for profile, end in zip(profiles, filled, strict=True)]))
    return [
        _magnitude_only(max(traits.phase for traits in measured), acquisition),
        _eight_bit(measured),
        _zero_padded(max(size for size, _ in steps), filled),
        _compressed(np.mean([traits.blocks for traits in measured], axis=0)),
        _filtered(fall),
        _clipped(float(np.mean([traits.saturated for traits in measured]))),
        _empty(float(np.mean([traits.empty for traits in measured]))),
    ]


@beartype
def table(found: Sequence[DataProperty]) -> Table:
    """Return the properties as a table for a terminal of 80 columns."""
    built = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    built.add_column("what", max_width=12)
    built.add_column("found")
    built.add_column("measured", justify="right", max_width=12)
    built.add_column("threshold", justify="right", max_width=10)
    built.add_column("in words")
    for item in found:
        limit = f"{item.relation} {item.threshold:g}"
        built.add_row(
            item.name, "yes" if item.found else "no", f"{item.evidence:.3g} {item.unit}", limit, item.sentence
        )
        built.add_section()
    return built


def _coverage_sentence(drawn: Mapping[str, Sequence[Mask]]) -> str:
    """Return a sentence on how much of a real image's k-space is known under each mask."""
    return "; ".join(
        f"{label}: {np.mean([1 / mask.effective for mask in masks]):.3f} sampled, "
        f"{np.mean([mask.coverage for mask in masks]):.3f} known"
        for label, masks in drawn.items()
    )


def _magnitude_only(phase: float, acquisition: AcquisitionConfig) -> DataProperty:
    real = phase <= REAL
    if real and acquisition.phase:
        sentence = f"The images have no phase; each is given a smooth one of up to {acquisition.phase:g} rad."
    elif real:
        sentence = (
            "The images have no phase, so their k-space is Hermitian: each sample also tells its mirror image, and a "
            "mask gives away more than it samples (Shimron et al., PNAS 2022)."
        )
    else:
        sentence = "The images have a phase."
    found = real and not acquisition.phase
    return DataProperty("magnitude only", found, phase, "at most", REAL, "of the energy", sentence)


def _eight_bit(measured: Sequence[Traits]) -> DataProperty:
    levels = max(traits.levels for traits in measured)
    limit = min(GREY_LEVELS, min(traits.pixels for traits in measured) // 4)  # tiny images cannot hold more
    sentence = f"A slice has up to {levels} distinct magnitudes."
    if levels <= limit:
        sentence += " Rounding to grey levels took small structure and most of the noise away."
    return DataProperty("8 bit", levels <= limit, float(levels), "at most", float(limit), "levels", sentence)


def _zero_padded(step: float, filled: Sequence[float]) -> DataProperty:
    ends = [
        f"{end:.0%} of the way to the edge along the {axis}"
        for axis, end in zip(("rows", "columns"), filled, strict=True)
        if end < 1
    ]
    sentence = "The power of k-space falls without a step."
    if ends:
        sentence = (
            f"K-space is filled to {' and '.join(ends)}, then its power drops: the images were interpolated from a "
            "smaller k-space, and masks leave out samples that held little."
        )
    return DataProperty("zero-padded k-space", bool(ends), step, "at least", STEP, "dB", sentence)


def _compressed(blocks: Float[np.ndarray, "2 8"]) -> DataProperty:
    ordered = np.sort(blocks, axis=1)
    ratio = float((ordered[:, -1] / np.maximum(ordered[:, -2], np.finfo(float).tiny)).min())
    sentence = "Pixels differ no more often at one place modulo 8 than at others."
    if ratio >= BLOCKS:
        sentence = (
            "Pixels differ most often at the borders of blocks of 8 x 8: the images were JPEG files, whose fine detail "
            "is simpler than a scan's."
        )
    return DataProperty("lossy compression", ratio >= BLOCKS, ratio, "at least", BLOCKS, "times", sentence)


def _filtered(fall: float) -> DataProperty:
    sentence = "Power falls to the edge of k-space no faster than a power law."
    if fall >= FALL:
        sentence = (
            f"Towards the edge of k-space power lies {fall:.1f} dB below the power law of its middle: the images were "
            "filtered, interpolated or smoothed, and there is less detail to recover."
        )
    return DataProperty("filtered", fall >= FALL, fall, "at least", FALL, "dB", sentence)


def _clipped(share: float) -> DataProperty:
    sentence = "Few pixels share the largest value of their slice."
    if share >= SATURATED:
        sentence = f"{share:.1%} of the pixels that are not 0 share their slice's largest value: bright detail is gone."
    return DataProperty("clipped", share >= SATURATED, share, "at least", SATURATED, "of the body", sentence)


def _empty(share: float) -> DataProperty:
    sentence = f"{share:.1%} of the pixels are exactly 0."
    if share >= EMPTY:
        sentence += (
            " Air without noise, or removed tissue, is easily reproduced and lifts means over the whole picture."
        )
    return DataProperty("empty background", share >= EMPTY, share, "at least", EMPTY, "of the image", sentence)


def _profiles(image: np.ndarray) -> np.ndarray:
    """Return the mean power of k-space by |k| along rows and along columns, in dB, on ``RADIAL_BINS`` points."""
    power = np.abs(fft2c_numpy(image)) ** 2
    lines = []
    for axis, side in enumerate(image.shape):
        line = power.mean(axis=1 - axis)
        centre, reach = side // 2, (side - 1) // 2
        both = (line[centre + 1 : centre + reach + 1] + line[centre - reach : centre][::-1]) / 2  # |k| = 1 ... reach
        decibel = 10 * np.log10(np.maximum(both, 1e-12 * line.max()))  # single precision leaves 1e-14
        lines.append(
            np.interp((np.arange(RADIAL_BINS) + 0.5) / RADIAL_BINS, np.arange(1, reach + 1) / (side / 2), decibel)
        )
    return np.array(lines)


def _step(profile: np.ndarray) -> tuple[float, float]:
    """Return the largest sudden drop of power in dB, and where it is: two straight lines that miss each other."""
    width = RADIAL_BINS // 8
    inside, outside = np.arange(width) - width + 0.5, np.arange(width) + 0.5
    drops = {}
    for place in range(round(INNER * RADIAL_BINS), round(OUTER * RADIAL_BINS)):
        before, after = profile[place - width : place], profile[place : place + width]
        ends = [np.polyfit(at[: len(line)], line, 1)[1] for at, line in ((inside, before), (outside, after))]
        drops[place / RADIAL_BINS] = float(ends[0] - ends[1])
    where = max(drops, key=lambda place: drops[place])
    return drops[where], where


def _fall(profile: np.ndarray, filled: float) -> float:
    """Return how far in dB the outer power lies below a power law fitted to the middle, inside the filled part."""
    place = (np.arange(RADIAL_BINS) + 0.5) / RADIAL_BINS / filled
    middle, edge = (place > 0.1) & (place < 0.5), (place > 0.85) & (place < 0.97)
    law = np.polyfit(np.log10(place[middle]), profile[middle], 1)
    return float((np.polyval(law, np.log10(place[edge])) - profile[edge]).mean())


def _blocks(magnitude: np.ndarray) -> np.ndarray:
    """Return how often the difference across a border of pixels exceeds those beside it, by place modulo 8.

    Differences are of both axes at once, ``|x(i, j) - x(i + 1, j) - x(i, j + 1) + x(i + 1, j + 1)|``: outlines along an
    axis cancel, corners of blocks do not. Counting, not adding, keeps few strong edges from deciding.
    """
    rows = magnitude[:-1] - magnitude[1:]
    cross = np.abs(rows[:, :-1] - rows[:, 1:])
    shares = []
    for lines in (cross, cross.T):
        peaks = lines[1:-1] > np.maximum(lines[:-2], lines[2:])
        shares.append([peaks[start::8].mean() for start in range(8)])
    return np.array(shares)


if __name__ == "__main__":
    from atlf_jax.commands import run

    run("audit", program="python -m atlf_jax.evaluation.audit")
