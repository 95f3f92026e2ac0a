"""Whether a reconstruction can be trusted: what was found, how serious it is, and what to do.

A judgement has one of three levels. "fine": nothing was found. "doubtful": the image may be wrong and look right.
"refused": it is very likely wrong, and is returned only with ``force``. Without a network nothing can be invented, so a
zero-filled image is never refused. The limits were set on raw scans; docs/trust.md has the table.
"""

from typing import Literal, NamedTuple

import numpy as np
from beartype import beartype
from jaxtyping import Bool, Complex, jaxtyped

__all__ = [
    "RULES",
    "Finding",
    "Judgement",
    "ReconstructionRefused",
    "Rule",
    "centre_findings",
    "graded",
    "looks_like_coils",
    "noise_level",
]

Level = Literal["fine", "doubtful", "refused"]
LEVEL_ORDER: tuple[Level, ...] = ("fine", "doubtful", "refused")


class Rule(NamedTuple):
    """What a finding is based on, and the limits above which it is doubtful or refused."""

    looks_at: str
    doubtful: float | None = None
    refused: float | None = None


RULES: dict[str, Rule] = {
    "first axis": Rule("whether the first of three axes of k-space is of slices or of coils"),
    "k-space centre": Rule("distance of the largest sample from index n // 2, as a part of the side", 1 / 16, 1 / 6),
    "empty lines": Rule("samples that the mask acquires and that were not measured: whole lines or areas of zeros"),
    "phase": Rule("energy of the phase that a real-valued network cannot hold, as a part of the image's", 0.1, 0.25),
    "noise": Rule("noise of a sample, as a part of the brightest pixel, beyond what was trained", 0.02, 0.042),
    "coil maps": Rule("part of the centre's energy that the combined image lacks", 0.1, 0.5),
    "never trained": Rule("coils, matrix, acceleration, family of masks, kind of scan, contrast or CT windows"),
    "withheld samples": Rule("how much worse than nothing withheld samples are predicted, in dB", -0.5, 0.0),
    "measured energy": Rule("part of the measured energy that the image does not explain", 0.05, 0.08),
    "CT alignment": Rule("a moved or mirrored CT matches the MR better"),
    "CT benefit": Rule("with the CT, withheld samples are predicted worse than without"),
}

PROMINENT = 10.0  # times the energy about the centre: of random numbers the largest sample lies anywhere
NOISE_RADIUS = 0.4  # distance from the centre, in units of the sides, beyond which samples may be only noise
FLAT_SPECTRUM = 1.3  # largest ratio of two outer bands that is noise: five raw scans 1.01 to 1.17, images 1.4 to 3
SMALLEST_MATRIX = 96  # samples a side: in smaller ones edges fill k-space to its rim, as noise does
MIN_NOISE_SAMPLES = 64  # fewest samples from which the noise is estimated
NOISE_QUANTILE = 0.1  # quantile of their energies that gives the noise
COILS_BELOW, SLICES_ABOVE = 0.17, 0.22  # see looks_like_coils
SURE_CENTRE = 8  # side of the centre in samples; with less, slices cannot be told from coils for sure
MIN_CENTRE_LINES = 4  # lines of the centre that tell coils from slices


class ReconstructionRefused(ValueError):
    """The image would very likely be wrong; with ``force`` it is returned anyway."""


class Finding(NamedTuple):
    """One reason to doubt a reconstruction."""

    rule: str  # a key of RULES
    level: Level
    reason: str  # one sentence without its full stop
    remedy: str  # what to do; empty if there is nothing

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class Judgement(NamedTuple):
    """All findings about one reconstruction."""

    findings: tuple[Finding, ...] = ()

    @property
    def level(self) -> Level:
        """The worst level of all findings."""
        return LEVEL_ORDER[max((LEVEL_ORDER.index(finding.level) for finding in self.findings), default=0)]

    def refusals(self) -> list[Finding]:
        """Return the findings for which the image is refused."""
        return [finding for finding in self.findings if finding.level == "refused"]

    def raise_if_refused(self, *, force: bool) -> None:
        """Refuse the reconstruction, unless it is forced.

        Raises:
            ReconstructionRefused: with the reasons and remedies.
        """
        refusals = self.refusals()
        if refusals and not force:
            raise ReconstructionRefused("refused: " + "; ".join(map(str, refusals)))

    def record(self) -> dict:
        """Return the judgement as plain values, for the record of a reconstruction."""
        return {"level": self.level, "findings": [finding._asdict() for finding in self.findings]}


@beartype
def graded(rule: str, value: float, reason: str, remedy: str) -> list[Finding]:
    """Return a list of one finding if a value exceeds a limit of its rule, else an empty list.

    Args:
        rule: a key of ``RULES`` with limits.
        value: larger is worse.
        reason: one sentence without its full stop.
        remedy: what to do.

    Example:
        >>> graded("measured energy", 0.5, "the image explains 50 % of what was measured", "do not use it")[0].level
        'refused'
    """
    _, doubtful, refused = RULES[rule]
    if doubtful is None or refused is None:
        raise ValueError(f"the rule {rule!r} has no limits; wanted one that has")
    level: Level = "refused" if value > refused else "doubtful" if value > doubtful else "fine"
    return [] if level == "fine" else [Finding(rule, level, reason, remedy)]


@jaxtyped(typechecker=beartype)
def centre_findings(kspace: Complex[np.ndarray, "*c h w"], mask: Bool[np.ndarray, "#h w"]) -> list[Finding]:
    """Return a finding if the zero frequency is not at index ``n // 2`` of k-space and of the mask.

    Args:
        kspace: measured samples of one slice, zero where not acquired.
        mask: True = acquired.
    """
    h, w = kspace.shape[-2:]
    energy = (np.abs(kspace).astype(float) ** 2).reshape(-1, h, w).sum(0)
    whole = np.broadcast_to(mask, (h, w))
    corner = _full_run(np.fft.fftshift(whole)) if not mask.all() else 0
    if corner > max(2, 2 * _full_run(whole)):
        return [
            Finding(
                "k-space centre",
                "refused",
                f"the mask is fully sampled about index 0 ({corner} lines or more) and not about the centre {h // 2}, "
                f"{w // 2}: its zero frequency lies in the corner",
                "give numpy.fft.fftshift(mask)",
            )
        ]
    peak = np.unravel_index(int(energy.argmax()), (h, w))
    limits = RULES["k-space centre"]
    away = max(
        abs(int(index) - side // 2) / side if abs(int(index) - side // 2) > 2 else 0.0
        for index, side in zip(peak, (h, w), strict=True)
    )
    near = [max(2, round(side * limits.doubtful)) for side in (h, w)]
    middle = energy[
        max(h // 2 - near[0], 0) : h // 2 + near[0] + 1, max(w // 2 - near[1], 0) : w // 2 + near[1] + 1
    ].max()
    if energy[peak] <= PROMINENT * middle:
        return []
    return graded(
        "k-space centre",
        away,
        f"k-space is largest at row {peak[0]}, column {peak[1]}, and the centre is {h // 2}, {w // 2}",
        "shift it there with numpy.fft.fftshift(kspace, axes=(-2, -1)), or pad an asymmetric echo with zeros",
    )


@jaxtyped(typechecker=beartype)
def noise_level(kspace: Complex[np.ndarray, "*c h w"], mask: Bool[np.ndarray, "#h w"]) -> float:
    """Estimate the standard deviation of a complex sample's noise from the outermost samples.

    ``sigma^2 = q / -log(1 - p)`` with the p-th quantile q of the outer samples' ``|y|^2``, since ``|noise|^2`` is
    exponentially distributed. p is low, since remaining signal of the image makes high quantiles larger. Noise has the
    same power everywhere: if the power still falls with distance, it is signal and the noise is not known. And noise is
    not conjugate at k and -k: for an image without phase, ``(y(k) - conj(y(-k))) / sqrt(2)`` holds only noise.

    Args:
        kspace: measured samples of one slice.
        mask: True = acquired.

    Returns:
        In units of k-space, which are also those of the image; 0 if it is not known.
    """
    h, w = kspace.shape[-2:]
    if min(h, w) < SMALLEST_MATRIX:
        return 0.0
    y, x = np.ogrid[:h, :w]
    radius = np.hypot((y - h // 2) / h, (x - w // 2) / w)
    energy = np.abs(kspace.reshape(-1, h, w)).astype(float) ** 2
    measured = mask & (energy > 0).any(0)

    def deviation(energies: np.ndarray) -> float:
        return float(np.sqrt(np.quantile(energies, NOISE_QUANTILE) / -np.log(1 - NOISE_QUANTILE)))

    def level(inner: float, outer: float) -> float:
        band = measured & (radius > inner) & (radius <= outer)
        if band.sum() < MIN_NOISE_SAMPLES:
            return 0.0
        return deviation(energy[:, band])

    nearer, farther = level(NOISE_RADIUS - 0.1, NOISE_RADIUS), level(NOISE_RADIUS, NOISE_RADIUS + 0.1)
    if not 0 < nearer < FLAT_SPECTRUM * farther:
        return 0.0
    flat = kspace.reshape(-1, h, w)
    rows, columns = (-np.arange(side) + 2 * (side // 2) for side in (h, w))  # of -k; the first of an even side has none
    opposite = flat[:, rows % h][:, :, columns % w]
    pairs = (
        measured & measured[rows % h][:, columns % w] & (radius > NOISE_RADIUS) & (rows < h)[:, None] & (columns < w)
    )
    if pairs.sum() < MIN_NOISE_SAMPLES:
        return level(NOISE_RADIUS, 1.0)
    differing = np.abs(flat[:, pairs] - opposite[:, pairs].conj()) ** 2 / 2
    return min(level(NOISE_RADIUS, 1.0), deviation(differing))


@jaxtyped(typechecker=beartype)
def looks_like_coils(kspace: Complex[np.ndarray, "n h w"], mask: Bool[np.ndarray, "#h w"]) -> bool | None:
    """Return whether the first axis of k-space holds coils (True) or slices (False).

    Coil images are one image times smooth maps: within a small window they are multiples of each other, but over the
    whole image they are not. Slices of a volume differ also within small windows.

    Args:
        kspace: ``[n, h, w]`` with a fully sampled centre.
        mask: True = acquired.

    Returns:
        True, False, or None if it cannot be decided: fewer than four central lines, or a ratio between the limits.

    The ratio compares the variation within windows of 5 x 5 with that over the whole image, measured as 1 minus the
    largest eigenvalue of the covariance over its trace. With 8 central lines or more, it was .03 to .14 for six raw
    scans of 4 to 16 coils and simulated birdcage coils, and .24 to .51 for eight stacks of slices.
    """
    import scipy

    n, h, w = kspace.shape
    whole = np.broadcast_to(mask, (h, w))
    columns = min(_full_run(whole), 24, w)
    rows = min(_full_run(whole.T) if mask.shape[0] > 1 else h, 24, h)
    if n < 2 or min(rows, columns) < MIN_CENTRE_LINES:
        return None if n > 1 else False
    top, left = h // 2 - rows // 2, w // 2 - columns // 2
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    centre = np.zeros((n, 2 * rows, 2 * columns), complex)
    centre[:, rows // 2 : rows // 2 + rows, columns // 2 : columns // 2 + columns] = (
        kspace[:, top : top + rows, left : left + columns] * window
    )
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(centre, axes=(-2, -1))), axes=(-2, -1))
    covariance = np.einsum("chw,dhw->hwcd", images, images.conj())
    size = (5, 5, 1, 1)
    windows = scipy.ndimage.uniform_filter(covariance.real, size) + 1j * scipy.ndimage.uniform_filter(
        covariance.imag, size
    )
    local, over_all = (_largest_share(matrices) for matrices in (windows, covariance.sum((0, 1))))
    if over_all > 1 - 1e-6:  # copies of one image
        return False
    ratio = (1 - local) / (1 - over_all)
    if ratio < COILS_BELOW:
        return True
    return False if ratio > SLICES_ABOVE and min(rows, columns) >= SURE_CENTRE else None


def _largest_share(matrices: np.ndarray) -> float:
    """Return the sum of the largest eigenvalues over that of all."""
    values = np.linalg.eigvalsh(matrices)
    return float(values[..., -1].sum() / max(values.sum(), np.finfo(float).tiny))


def _full_run(whole: np.ndarray) -> int:
    """Return the number of neighbouring lines about the centre that are sampled in the middle row."""
    h, w = whole.shape
    row = whole[h // 2]
    right = int(np.argmin(np.append(row[w // 2 :], False)))
    left = int(np.argmin(np.append(row[: w // 2][::-1], False)))
    return left + right if right else 0
