"""Generated heads: paired CT and MR slices of random subjects, made on the fly from a seed.

Each subject is a random head in millimetres, ``x`` to the image's right, ``y`` to the front, ``z`` to the vertex, and
a slice is drawn at one ``z`` by painting tissue over tissue, from the scalp inwards. Painting mixes Hounsfield units
in the CT and spin-echo signal in the MR by the same fraction of the pixel, so both share every boundary, partial
volume included. Cortex follows the zero lines of a random band-limited field, which fold as gyri do. The heads are
made to train and test reconstruction, not to teach anatomy.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import scipy
from beartype import beartype

from atlf_jax.data.example import MIN_SIDE, Example, Split, validate_example
from atlf_jax.data.transforms import CTWindows, smooth_phase, window_ct

__all__ = ["TISSUES", "PhantomConfig", "PhantomSource", "Tissue", "spin_echo"]

FIELD_OF_VIEW = 230.0  # mm
LOWEST, HIGHEST = -8.0, 88.0  # mm, the range of slices: from the eyes to just below the vertex


class Tissue(NamedTuple):
    """What the two scanners see of a tissue."""

    hounsfield: float
    density: float  # proton density relative to water
    t1: float  # ms
    t2: float  # ms


# T1, T2 and density at 1.5 T of brain, fluid, fat, muscle and lesion: BrainWeb's tissue table (Kwan, Evans and Pike,
# IEEE TMI 1999); the others are set beside these by hand. Hounsfield units: usual textbook values.
TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, 0.0, 1000, 1),
    "skin": Tissue(50, 0.85, 700, 42),
    "fat": Tissue(-95, 0.9, 350, 70),
    "muscle": Tissue(55, 0.9, 900, 47),
    "bone": Tissue(1500, 0.04, 900, 20),
    "marrow": Tissue(500, 0.55, 400, 60),
    "fluid": Tissue(8, 1.0, 2569, 329),
    "grey": Tissue(39, 0.86, 833, 83),
    "white": Tissue(29, 0.77, 500, 70),
    "deep_grey": Tissue(39, 0.82, 750, 76),
    "dura": Tissue(62, 0.4, 800, 40),
    "vitreous": Tissue(6, 1.0, 3200, 400),
    "lens": Tissue(80, 0.7, 900, 35),
    "mucosa": Tissue(40, 0.9, 1000, 110),
    "demyelination": Tissue(29, 0.76, 752, 237),
    "calcification": Tissue(260, 0.5, 700, 55),
    "tumour": Tissue(52, 0.9, 1200, 130),
    "oedema": Tissue(20, 0.9, 1100, 160),
    "infarct": Tissue(14, 0.92, 1500, 210),
    "haemorrhage": Tissue(68, 0.85, 450, 45),
}

SEQUENCES: dict[str, tuple[float, float]] = {  # repetition and echo time in ms
    "t1": (500.0, 15.0),
    "t2": (3500.0, 95.0),
    "pd": (2500.0, 20.0),
}


@beartype
@dataclass(frozen=True)
class PhantomConfig:
    """Generated heads; the same settings give the same pictures, in any order and any process."""

    seed: int = 0
    """Seed of the whole population."""
    subjects: int = 40
    """Subjects over all splits: a tenth each (at least one) for test, valid and inner_valid, the rest inner_train."""
    slices: int = 8
    """Slices a subject, evenly spaced from the eyes to the vertex."""
    size: int = 128
    """Side of the square slices in pixels, over a field of view of 230 mm."""
    split: Split = "train"
    """Subjects to make."""
    contrast: Literal["t1", "t2", "pd", "random"] = "t2"
    """MR contrast; random: one of the three for each subject, with jittered repetition and echo times."""
    ct_window: CTWindows = "brain"
    """Window from Hounsfield units to [0, 1]; several make the CT as many channels."""
    noise: float = 0.01
    """Standard deviation of the MR's own complex noise relative to its brightest pixel."""
    bias: float = 0.2
    """Largest relative intensity change by the smooth coil sensitivity (0.2: from 0.8 to 1.2)."""
    phase: float = 0.0
    """Largest magnitude in radians of a smooth random phase; 0 gives magnitude pictures."""
    lesions: bool = True
    """Give about two subjects in three lesions, seen in MR, in CT or in both."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("subjects", 4), ("slices", 1), ("size", MIN_SIDE)):
            if getattr(self, name) < least:
                raise ValueError(f"phantom.{name} is {getattr(self, name)}; wanted at least {least}")
        for name in ("noise", "bias", "phase"):
            if getattr(self, name) < 0:
                raise ValueError(f"phantom.{name} is {getattr(self, name)}; wanted 0 (off) or more")

    def open(self) -> "PhantomSource":
        """Open the slices of the split."""
        return PhantomSource(self)

    @property
    def ct_windows(self) -> tuple[str, ...]:
        """The windows that the CT is read through."""
        return self.ct_window if isinstance(self.ct_window, tuple) else (self.ct_window,)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of all slices."""
        return self.size, self.size


class PhantomSource:
    """The slices of one split, ordered by subject and height."""

    def __init__(self, config: PhantomConfig) -> None:
        self._config = config
        self._subjects = _subjects(config.subjects, config.split)
        self.subjects = frozenset(_name(subject) for subject in self._subjects)

    def __len__(self) -> int:
        return len(self._subjects) * self._config.slices

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        subject, number = divmod(index % len(self), self._config.slices)
        return _draw(self._config, self._subjects[subject], number)


def _name(subject: int) -> str:
    return f"{subject:04d}"


def _subjects(count: int, split: Split) -> range:
    """Return the subjects of a split: [inner_train | inner_valid | valid | test], train = the first two."""
    tenth = max(1, count // 10)
    test, valid, inner = count - tenth, count - 2 * tenth, count - 3 * tenth
    ranges = {
        "inner_train": range(inner),
        "inner_valid": range(inner, valid),
        "train": range(valid),
        "valid": range(valid, test),
        "test": range(test, count),
        "all": range(count),
    }
    return ranges[split]


def spin_echo(tissue: Tissue, *, repetition: float, echo: float) -> float:
    """Return the signal of a spin echo.

    ``density (1 - exp(-TR / T1)) exp(-TE / T2)``

    Args:
        tissue: density, T1 and T2 in ms.
        repetition: TR in ms.
        echo: TE in ms.

    Returns:
        Signal relative to fully relaxed water.

    Example:
        >>> csf, white = TISSUES["fluid"], TISSUES["white"]
        >>> spin_echo(csf, repetition=3500, echo=95) > spin_echo(white, repetition=3500, echo=95)
        True
        >>> spin_echo(csf, repetition=500, echo=15) > spin_echo(white, repetition=500, echo=15)
        False

    Source: Nishimura, Principles of Magnetic Resonance Imaging, 1996.
    """
    return tissue.density * (1 - math.exp(-repetition / tissue.t1)) * math.exp(-echo / tissue.t2)


@functools.lru_cache(maxsize=512)  # the default population, 100 MB; a slice takes 15 ms to draw
def _draw(config: PhantomConfig, subject: int, number: int) -> Example:
    # One generator is the same for all slices of a subject and draws the head; every slice consumes it alike.
    head = np.random.default_rng((config.seed, subject))
    scan = np.random.default_rng((config.seed, subject, number))
    z = LOWEST + (HIGHEST - LOWEST) * (number + 0.5) / config.slices
    canvas = _Canvas(config, z, head)
    below_skin, below_skull = _paint_scalp_and_skull(canvas)
    below_pia = _paint_brain(canvas, below_skull)
    _paint_deep_brain(canvas)
    _paint_hindbrain(canvas, below_skull, below_pia)
    _paint_skull_base(canvas, below_skin, below_skull)
    if config.lesions:
        _paint_lesions(canvas, below_pia)
    canvas.mr *= 1 + canvas.waves(9, 0.02) + canvas.waves(28, 0.025)  # no tissue is flat in a real scan
    canvas.ct += canvas.waves(12, 1.0)
    hounsfield = scipy.ndimage.gaussian_filter(canvas.ct, 0.5) + 2.5 * scan.standard_normal(canvas.ct.shape, np.float32)
    ct, target = window_ct(hounsfield, config.ct_window), _scan_mr(canvas.mr, config, head, scan)
    for image in (ct, target):
        image.flags.writeable = False  # it is handed out again
    name = f"phantom{_name(subject)}_{number:03d}"
    return validate_example(Example(name=name, subject=_name(subject), ct=ct, target=target))


def _scan_mr(
    signal: np.ndarray, config: PhantomConfig, head: np.random.Generator, scan: np.random.Generator
) -> np.ndarray:
    """Add bias field, phase and noise; without phase the picture is a magnitude, noise included."""
    image = signal * (1 + smooth_phase(signal.shape, head, maximum=config.bias))
    if config.phase:
        image = image * np.exp(1j * smooth_phase(signal.shape, head, maximum=config.phase))
    if config.noise:
        sigma = config.noise * np.abs(image).max() / np.sqrt(2)
        image = image + sigma * (scan.standard_normal(image.shape) + 1j * scan.standard_normal(image.shape))
    return (image if config.phase else np.abs(image)).astype(np.complex64)


class _Canvas:
    """One slice being painted: the two images, the coordinates of its pixels, and the subject's random draws."""

    def __init__(self, config: PhantomConfig, z: float, rng: np.random.Generator) -> None:
        self.z, self.rng = z, rng
        self.pixel = FIELD_OF_VIEW / config.size
        self._axis = ((np.arange(config.size) - (config.size - 1) / 2) * self.pixel).astype(np.float32)
        turn = math.radians(rng.normal(0, 3))
        shift = rng.normal(0, 2, size=2).tolist()
        x = self._axis[None, :] - shift[0] + self.waves(70, 1.5)  # [h w]
        y = -self._axis[:, None] - 6 - shift[1] + self.waves(70, 1.5)
        cos, sin = math.cos(turn), math.sin(turn)
        self.x, self.y = x * cos - y * sin, x * sin + y * cos
        self.midline = self.waves(70, 0.6)  # x of the plane between the hemispheres
        self.atrophy = rng.uniform(0, 1)  # 0: narrow sulci and ventricles, 1: wide
        self.ct = np.full(self.x.shape, TISSUES["air"].hounsfield, np.float32)
        self.mr = np.zeros(self.x.shape, np.float32)
        contrast = ("t1", "t2", "pd")[rng.integers(3)] if config.contrast == "random" else config.contrast
        jitter = rng.uniform(0.85, 1.15, size=2) if config.contrast == "random" else np.ones(2)
        repetition, echo = SEQUENCES[contrast] * jitter
        self._values = {}
        for name, tissue in TISSUES.items():  # subjects differ: T1 and T2 by 4 %, CT numbers a little
            t1, t2 = tissue.t1 * rng.normal(1, 0.04), tissue.t2 * rng.normal(1, 0.04)
            signal = spin_echo(tissue._replace(t1=t1, t2=t2), repetition=repetition, echo=echo)
            self._values[name] = np.float32(tissue.hounsfield + rng.normal(0, 1)), np.float32(signal)

    def waves(self, wavelength: float, amplitude: float, *, count: int = 24) -> np.ndarray:
        """Return a smooth random field [h, w] of one wavelength in mm and a standard deviation, continuous in z.

        A sum of plane waves; each is a sum of products of one factor in x and one in y.
        """
        direction = self.rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        frequency = 2 * np.pi / (wavelength * self.rng.uniform(0.8, 1.25, size=(count, 1))) * direction
        offset = frequency[:, 2] * self.z + self.rng.uniform(0, 2 * np.pi, size=count)
        rows = frequency[:, 1] * self._axis[:, None] + offset  # [h n]
        columns = frequency[:, 0] * self._axis[:, None]  # [w n]
        # cos(a + b) = cos a cos b - sin a sin b. einsum, since threads of a matrix product cost more than they save.
        rows = np.concatenate([np.cos(rows), -np.sin(rows)], axis=-1, dtype=np.float32)  # [h 2n]
        columns = np.concatenate([np.cos(columns), np.sin(columns)], axis=-1, dtype=np.float32)  # [w 2n]
        return np.float32(amplitude * math.sqrt(2 / count)) * np.einsum("hn,wn->hw", rows, columns)

    def ellipsoid(
        self, centre: tuple[float, float, float], radii: tuple[float, float, float], *, tilt: float = 0.0
    ) -> np.ndarray | float:
        """Return the depth in mm of each pixel below the surface of an ellipsoid (negative outside), a little jittered.

        ``tilt`` in degrees turns it in the plane, counter-clockwise. Where the slice misses it: -inf.
        """
        cx, cy, cz = (np.array(centre) + self.rng.normal(0, 0.8, size=3)).tolist()
        rx, ry, rz = (np.array(radii) * self.rng.normal(1, 0.05, size=3)).tolist()
        section = 1 - ((self.z - cz) / rz) ** 2
        if section <= 0:
            return -math.inf
        rx, ry = rx * math.sqrt(section), ry * math.sqrt(section)
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        x, y = self.x - cx, self.y - cy
        u, v = (x * cos + y * sin) / rx, (y * cos - x * sin) / ry
        level = _length(u, v)
        return level * (1 - level) / _length(u / rx, v / ry)

    def paint(self, tissue: str, depth: np.ndarray | float, *, opacity: np.ndarray | float = 1.0) -> None:
        """Cover what lies at positive depth with a tissue."""
        if np.isscalar(depth):  # an ellipsoid that the slice misses
            return
        part = opacity * np.clip(depth / self.pixel + 0.5, 0, 1)  # of each pixel, as its boundary cuts it
        hounsfield, signal = self._values[tissue]
        self.ct += part * (hounsfield - self.ct)
        self.mr += part * (signal - self.mr)


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the length of a vector (np.hypot takes five times as long), never quite zero."""
    return np.sqrt(x * x + y * y + 1e-12)


def _paint_scalp_and_skull(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Paint skin, fat, temporal muscle and the two tables with marrow; return the depths below skin and skull."""
    rng, z, x, y = canvas.rng, canvas.z, canvas.x, canvas.y
    half_width, half_length, top = rng.normal(75, 3), rng.normal(93, 3.5), rng.normal(103, 2)
    egg, squareness = rng.uniform(0.06, 0.14), rng.uniform(2.1, 2.4)
    widest = 38.0
    rise = max(z - widest, 0.0) / (top - widest)
    size = (1 - min(rise, 0.98) ** 2.4) ** (1 / 2.4) * (1 - 0.05 * (max(widest - z, 0.0) / 40) ** 2)
    # [h w] level of an egg-shaped superellipse: 1 on the skin, 0 in the centre
    narrow = 1 - egg * y / half_length
    level = (
        np.abs(x / (half_width * size * narrow)) ** squareness + np.abs(y / (half_length * size)) ** squareness
    ) ** (1 / squareness) + 1e-3
    # The dome meets the slice at a slant near the vertex, where a section shows each layer thicker.
    slant = 1 / math.sqrt(1 + (1.3 * rise**1.4 / size**1.4) ** 2)
    depth = _length(x, y) * (1 / level - 1) * slant
    nose = canvas.ellipsoid((0, half_length + 1, -8), (11, 14, 20))
    depth = np.maximum(depth, nose)
    skin = rng.uniform(1.5, 2.2)
    scalp = rng.uniform(4.5, 7) + canvas.waves(80, 0.5) - 1.5 * y / 90
    skull = rng.uniform(5.5, 7.5) + canvas.waves(50, 0.8)
    table = 0.3 * skull + canvas.waves(25, 0.25)
    side = np.abs(x) / (half_width * size)
    temporal = 9 * min(max((38 - z) / 30, 0.0), 1.0) * np.clip((side - 0.55) / 0.3, 0, 1)
    temporal = temporal * np.clip(1 - np.abs(y - 28) / 38, 0, 1)
    canvas.paint("skin", depth)
    canvas.paint("fat", depth - skin)
    canvas.paint("muscle", np.minimum(depth - skin - 2, temporal + scalp - depth), opacity=np.clip(temporal / 3, 0, 1))
    outer = depth - scalp - temporal
    canvas.paint("bone", outer)
    canvas.paint("marrow", np.minimum(outer - table, skull - table - outer), opacity=0.85)
    return depth, outer - skull


def _paint_brain(canvas: _Canvas, inside: np.ndarray) -> np.ndarray:
    """Paint fluid, folded cortex and white matter, and the great fissures; return the depth below the pia."""
    rng, z, x, y = canvas.rng, canvas.z, canvas.x, canvas.y
    atrophy = canvas.atrophy
    surface = inside - (1.2 + 1.6 * atrophy) - np.abs(canvas.waves(30, 0.9))
    folds = canvas.waves(rng.uniform(19, 23), 1, count=40)
    steep = _length(*np.gradient(folds, canvas.pixel))
    sulcus = np.abs(folds) / (steep + 0.02)  # distance in mm to the nearest zero line
    reach = rng.uniform(18, 24) + canvas.waves(40, 5)
    sulcus = sulcus + 0.4 * np.maximum(surface - reach, 0)
    gap = np.abs(x - canvas.midline)
    # The corpus callosum and what lies below bridges the hemispheres between `front` and `back`.
    bridge = min(max((78 - z) / 20, 0.0), 1.0)
    front, back = -10 + 48 * bridge, -10 - 34 * bridge
    fissure = gap + (0 if bridge == 0 else np.maximum(0, np.minimum(front - y, y - back)))
    sylvian = rng.uniform(0.8, 1.8)
    for side in (-1, 1):
        line = np.abs(y - 14 - 0.35 * (side * x - 45) - canvas.waves(40, 1.5))
        reach_in = np.maximum(38 - side * x, 0) + 3 * max(abs(z - 34) - 16, 0)
        fissure = np.minimum(fissure, line + reach_in - sylvian + 1)
    thick = rng.uniform(2.6, 3.4) + canvas.waves(20, 0.3)
    cortex = np.minimum(np.minimum(surface, sulcus), fissure)
    width = (0.25 + 0.6 * atrophy) * np.clip(1.2 - surface / 22, 0.2, 1.2)  # sulci open towards the surface
    fluid = np.maximum(width - sulcus, (0.6 + 0.7 * atrophy) - fissure)
    canvas.paint("fluid", inside)
    canvas.paint("grey", surface)
    canvas.paint("white", cortex - thick)
    canvas.paint("fluid", np.minimum(fluid, surface))
    canvas.paint("dura", np.minimum(0.5 - gap, np.minimum(inside, 0.3 * np.abs(y + 4) + z - 58)), opacity=0.8)
    return surface


def _paint_deep_brain(canvas: _Canvas) -> None:
    """Paint the deep grey nuclei, the ventricles and their calcified plexus."""
    wide = canvas.rng.uniform(0.75, 1.15) + 0.5 * canvas.atrophy
    fringe = canvas.waves(14, 0.4)
    for side in (-1, 1):
        canvas.paint("deep_grey", canvas.ellipsoid((side * 26, 12, 34), (6.5, 15, 13), tilt=side * 14) + fringe)
        canvas.paint("deep_grey", canvas.ellipsoid((side * 18, 13, 34), (4, 7, 12), tilt=side * 20), opacity=0.6)
        canvas.paint("deep_grey", canvas.ellipsoid((side * 11, -11, 36), (7.5, 13, 11), tilt=side * 25) + fringe)
        canvas.paint("deep_grey", canvas.ellipsoid((side * 14, 24, 42), (5.5, 9, 15), tilt=side * 12) + fringe)
        canvas.paint("grey", canvas.ellipsoid((side * 39, 8, 34), (2.2, 18, 14), tilt=side * 6), opacity=0.9)
    for side in (-1, 1):
        canvas.paint("fluid", canvas.ellipsoid((side * 9, 28, 42), (3.6 * wide, 12, 13), tilt=side * 24))
        canvas.paint("fluid", canvas.ellipsoid((side * 9, 2, 53), (4.6 * wide, 30, 9), tilt=-side * 7))
        canvas.paint("fluid", canvas.ellipsoid((side * 25, -36, 40), (5 * wide, 17, 14), tilt=side * 24))
        canvas.paint("fluid", canvas.ellipsoid((side * 33, -10, 16), (2.2 * wide, 12, 6), tilt=side * 10))
        plexus = canvas.ellipsoid((side * 23, -32, 41), (2.2, 3.4, 5))
        canvas.paint("grey", plexus + 1)
        canvas.paint("calcification", plexus, opacity=canvas.rng.uniform(0, 0.8))
    canvas.paint("fluid", canvas.ellipsoid((0, -6, 31), (1.7 * wide, 13, 11)))
    canvas.paint("calcification", canvas.ellipsoid((0, -27, 36), (2, 2.4, 3)), opacity=canvas.rng.uniform(0, 0.9))


def _paint_hindbrain(canvas: _Canvas, below_skull: np.ndarray, below_pia: np.ndarray) -> None:
    """Paint brain stem, cerebellum with its folia, the fourth ventricle and the cisterns around them."""
    cisterns = canvas.ellipsoid((0, 7, 17), (12, 10, 9))
    canvas.paint("fluid", np.minimum(cisterns, below_pia))
    tent = canvas.ellipsoid((0, -44, -6), (57, 40, 34))
    canvas.paint("fluid", np.minimum(tent + 1.5, below_skull))
    folia = canvas.waves(9, 1) + np.sin(0.9 * _length(canvas.x, 1.3 * (canvas.y + 25)))
    cerebellum = np.minimum(tent, below_pia + 1)
    canvas.paint("grey", cerebellum)
    canvas.paint("fluid", np.minimum(cerebellum, 9 - cerebellum), opacity=np.clip(0.35 * folia, 0, 0.45))
    for side in (-1, 1):
        core = canvas.ellipsoid((side * 21, -38, -6), (17, 15, 18), tilt=-side * 20)
        canvas.paint("white", np.minimum(core + 2.5 * folia, cerebellum))
        canvas.paint("deep_grey", canvas.ellipsoid((side * 15, -38, -6), (4, 7, 7), tilt=-side * 30), opacity=0.6)
    canvas.paint("grey", np.minimum(canvas.ellipsoid((0, -48, -4), (6, 20, 26)) + folia, cerebellum))
    stem = canvas.ellipsoid((0, -9, -2), (16, 14, 30))
    canvas.paint("fluid", stem + 2.5)
    canvas.paint("white", stem)
    canvas.paint("deep_grey", canvas.ellipsoid((0, -11, 2), (9, 8, 20)), opacity=0.35)
    canvas.paint("fluid", canvas.ellipsoid((0, -27, -4), (6, 4.5, 14)))
    canvas.paint("fluid", canvas.ellipsoid((0, -21, 14), (1.6, 2, 12)))


def _paint_skull_base(canvas: _Canvas, skin: np.ndarray, below_skull: np.ndarray) -> None:
    """Paint what replaces the brain in low slices: petrous bone, sella, orbits with eyes, and the air cavities."""
    rng, z, x, y = canvas.rng, canvas.z, canvas.x, canvas.y
    cells = canvas.waves(9, 1)
    # Petrous ridges, with air cells in the mastoid.
    for side in (-1, 1):
        ridge = canvas.ellipsoid((side * 42, -15, -4), (31, 8, 13), tilt=side * -28)
        ridge = np.minimum(ridge, below_skull + 8) + canvas.waves(15, 1)
        canvas.paint("bone", ridge)
        mastoid = np.minimum(canvas.ellipsoid((side * 58, -30, -3), (13, 14, 15)), below_skull + 9)
        canvas.paint("bone", mastoid)
        canvas.paint("air", np.minimum(mastoid - 2, 1.6 * cells + 0.6))
        canvas.paint("air", canvas.ellipsoid((side * 68, -12, -8), (8, 2.5, 10)))
    # The floor of the anterior fossa rises to the front: below it lie the orbits and the nose.
    floor = 17 + canvas.waves(40, 1.5) - z
    face = np.minimum(np.minimum(floor, y - 30 - 0.008 * x**2), skin - 4)
    canvas.paint("bone", face)
    canvas.paint("muscle", np.minimum(face - 3, skin - 7))
    for side in (-1, 1):
        orbit = canvas.ellipsoid((side * 32, 62, 2), (18, 26, 17), tilt=side * -18)
        orbit = np.minimum(orbit, skin - 1.5)
        canvas.paint("bone", np.minimum(orbit + 2.5, skin - 3))
        canvas.paint("fat", orbit)
        for tilt, shift in ((-4, 10.5), (-34, -9.5)):
            rectus = canvas.ellipsoid((side * (28 + shift), 54, 2), (2, 19, 5), tilt=side * tilt)
            canvas.paint("muscle", np.minimum(rectus, orbit))
        nerve = canvas.ellipsoid((side * 24, 48, 3), (2, 20, 3), tilt=side * -22)
        canvas.paint("white", np.minimum(nerve, orbit))
        globe = canvas.ellipsoid((side * 33, 70, 2), (12.5, 12.5, 12.5))
        canvas.paint("muscle", globe)
        canvas.paint("vitreous", globe - 1.3)
        canvas.paint("lens", canvas.ellipsoid((side * 33.5, 79, 2), (4.5, 2.2, 4.5)))
    nose = np.minimum(canvas.ellipsoid((0, 62, -2), (14, 27, 18)), skin - 3)
    canvas.paint("bone", nose + 2)
    canvas.paint("mucosa", nose)
    canvas.paint("air", np.minimum(nose - 0.8, 3.2 * np.abs(cells) - 0.8))
    canvas.paint("bone", canvas.ellipsoid((0, 27, 0), (17, 13, 12)))
    canvas.paint("marrow", canvas.ellipsoid((0, 17, -4), (12, 8, 8)))
    canvas.paint("air", np.minimum(canvas.ellipsoid((0, 29, 0), (13, 9, 9)), np.abs(x - canvas.midline) - 0.7))
    # Frontal sinus, inside the thickened frontal bone.
    for side in (-1, 1):
        sinus = canvas.ellipsoid((side * 10, 82, 18), (rng.uniform(6, 11), 4, rng.uniform(6, 16)), tilt=side * -14)
        sinus = np.minimum(sinus, skin - 7)
        canvas.paint("bone", sinus + 2.5)
        canvas.paint("air", sinus)


def _paint_lesions(canvas: _Canvas, below_pia: np.ndarray) -> None:
    """Paint up to three lesions: white matter spots seen in MR, calcifications in CT, and larger ones in both."""
    rng = canvas.rng
    kinds = rng.choice(["spots", "calcification", "tumour", "infarct", "haemorrhage"], size=3, replace=False)
    count = int(rng.integers(4)) if rng.random() < 0.9 else 0
    ragged = canvas.waves(12, 1)
    for number, kind in enumerate(kinds):
        angle, radius, height = rng.uniform(0, 2 * np.pi), rng.uniform(18, 46), rng.uniform(25, 72)
        centre = (radius * np.cos(angle), 1.25 * radius * np.sin(angle) - 5, height)
        size = rng.uniform(6, 13)
        depths = [canvas.ellipsoid(centre, (size, size, size)) + 1.5 * ragged]
        for _ in range(5):
            place = rng.normal(0, (24, 24, 8)) + (0, -5, 55)
            depths.append(canvas.ellipsoid(tuple(place), tuple(rng.uniform(2, 5, size=3))) + 0.4 * ragged)
        if number >= count:
            continue
        main = np.minimum(depths[0], below_pia)
        if kind == "spots":
            for spot in depths[1:]:
                canvas.paint("demyelination", np.minimum(spot, below_pia - 4))
        elif kind == "calcification":
            canvas.paint("calcification", main - 0.6 * size)
        elif kind == "infarct":
            canvas.paint("infarct", main, opacity=0.85)
        else:
            canvas.paint("oedema", np.minimum(main + 5 + ragged, below_pia - 2), opacity=0.8)
            canvas.paint(kind, main)
            if kind == "tumour":
                canvas.paint("fluid", main - 0.55 * size)
