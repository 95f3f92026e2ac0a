"""What the page shows, without a browser: one slice, undersampled, reconstructed in several ways, scored."""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Float32
from PIL.Image import Image

from atlf_jax.array_types import Measurement
from atlf_jax.data import PhantomConfig, PhantomSource
from atlf_jax.evaluation.pictures import data_uri, error_picture, mask_picture, picture
from atlf_jax.interface import adjoint, forward
from atlf_jax.masks import LINE_MASKS, Mask, MaskConfig, make_mask
from atlf_jax.metrics import psnr, ssim
from atlf_jax.models import sees_ct
from atlf_jax.reconstruct import reconstruct
from atlf_jax.solvers import SOLVERS
from atlf_jax.trained import GuardWarning, Network, load
from atlf_jax.trained.files import shipped
from atlf_jax.trained.guards import PICTURES
from atlf_jax.trained.uncertainty import spread

__all__ = [
    "HEADS",
    "SIZE",
    "Choice",
    "Superseded",
    "Trial",
    "as_page",
    "error_as_page",
    "expected_error",
    "run",
]

SIZE = 256
HEADS = PhantomSource(PhantomConfig(size=SIZE, noise=0.002))
SLICES = PhantomConfig().slices  # of a head: as many further on is the same place in another
MAX_CACHED = 32  # heads, and images that another CT leaves as they are, kept in memory
CENTRE = 0.32  # of the acquired lines, in the centre: 0.08 at 4x and 0.04 at 8x, as usual

CTChoice = Literal["own", "none", "moved", "turned", "another"]
CT_NAMES: dict[str, str] = {
    "own": "its own CT",
    "none": "no CT",
    "moved": "a CT moved by {move:g} pixels",
    "turned": "a CT turned by {turn:g} degrees",
    "another": "another head's CT",
}
SolverChoice = Literal["total_variation", "l1_wavelet", "guided_total_variation"]
SOLVER_NAMES = {
    "total_variation": "Total variation",
    "l1_wavelet": "Wavelets",
    "guided_total_variation": "CT-guided total variation",
}


@beartype
@dataclass(frozen=True)
class Choice:
    """What a visitor of the page has chosen."""

    head: int = 4
    """Number of a generated head's slice; own pictures take its place."""
    mask: str = "random_exact"
    """Family of masks."""
    acceleration: float = 4.0
    """Nominal acceleration."""
    mask_seed: int = 1
    """Which mask of the family."""
    noise: float = 0.0
    """Noise of a sample relative to the brightest pixel."""
    ct: CTChoice = "own"
    """Which CT the network is given."""
    move: float = 6.0
    """By how many pixels to the right a moved CT is off."""
    turn: float = 5.0
    """By how many degrees a turned CT is off."""
    solver: SolverChoice = "total_variation"
    """The classical method to compare with."""
    network: str = "aanlib-best"
    """Name of shipped weights."""

    def __post_init__(self) -> None:
        if not 1 <= self.acceleration <= 16:
            raise ValueError(f"acceleration is {self.acceleration:g}; wanted 1 to 16")
        if not 0 <= self.noise <= 0.2:
            raise ValueError(f"noise is {self.noise:g}; wanted 0 to 0.2")
        if not 0 <= self.head < len(HEADS) or not 0 <= self.mask_seed < 2**31:
            raise ValueError(
                f"head is {self.head} and mask_seed {self.mask_seed}; wanted 0 to {len(HEADS) - 1}, and 0 up"
            )
        if abs(self.move) > SIZE or abs(self.turn) > 180:
            raise ValueError(
                f"the CT is moved by {self.move:g} and turned by {self.turn:g}; wanted 256 and 180 at most"
            )
        if self.network not in shipped():
            raise ValueError(f"there are no weights {self.network!r}; there are {', '.join(shipped())}")


class Superseded(ValueError):
    """Another choice was made before the answer to this one was there."""


class Method(NamedTuple):
    """One reconstruction and its scores."""

    name: str
    image: Float32[np.ndarray, "h w"]
    psnr: float  # dB
    ssim: float


class Trial(NamedTuple):
    """All that one choice leads to."""

    headline: str
    methods: tuple[Method, ...]
    truth: Float32[np.ndarray, "h w"]
    ct: Float32[np.ndarray, "h w"]
    ct_name: str
    mask: Mask
    warnings: tuple[str, ...]
    seconds: float


_images: OrderedDict[Any, Any] = OrderedDict()  # of solvers and of networks without a CT, by what they depend on
_network: Callable[[str], Network] = cache(load)
_head = lru_cache(MAX_CACHED)(HEADS.__getitem__)


@beartype
def run(
    choice: Choice,
    *,
    mr: Float32[np.ndarray, "h w"] | None = None,
    ct: Float32[np.ndarray, "h w"] | None = None,
) -> Trial:
    """Undersample, reconstruct without CT and with it, and score against the picture itself.

    Args:
        choice: of the visitor.
        mr: a picture of one's own in [0, 1], SIZE x SIZE; None = the generated head.
        ct: its CT in [0, 1]; None = that of the generated head, and none for a picture of one's own.
    """
    start = time.perf_counter()
    truth, shown_ct, mask, kspace = _scan(choice, mr, ct)
    network = _network(choice.network)
    zero_filled = np.abs(np.asarray(adjoint(kspace, mask)))
    peak = float(zero_filled.max()) or 1.0
    measurement = _measurement(kspace, mask, shown_ct, peak)
    blank = measurement._replace(ct=jnp.zeros_like(measurement.ct))
    scan = (
        choice.head if mr is None else mr.tobytes(),
        *(choice.mask, choice.acceleration, choice.mask_seed, choice.noise),
    )
    guide = (choice.head, choice.ct, choice.move, choice.turn, None if ct is None else ct.tobytes())
    given = shown_ct if shown_ct.any() and sees_ct(network.config.model) else None
    solver = _kept(
        (choice.solver, *scan, *(guide if choice.solver == "guided_total_variation" else ())),
        lambda: SOLVERS[choice.solver](measurement).image,
    )
    begun = {SOLVER_NAMES[choice.solver]: solver}
    if given is not None:
        begun["Network without CT"] = _kept((choice.network, *scan), lambda: network.function(blank).image)
    with warnings.catch_warnings():  # they are in the record
        warnings.simplefilter("ignore", GuardWarning)
        image, record = reconstruct(kspace, mask, ct=given, model=network, return_record=True, force=True)
    images = {"Zero-filled": zero_filled}
    for name, computed in begun.items():
        images[name] = np.abs(np.asarray(computed[0])) * peak
    images["Network without CT" if given is None else "Network with CT"] = np.abs(image)
    methods = _scored(images, truth)
    name = CT_NAMES[choice.ct].format(move=choice.move, turn=choice.turn) if given is not None else CT_NAMES["none"]
    return Trial(
        _headline(methods, name),
        methods,
        truth,
        shown_ct,
        name,
        mask,
        (*_findings(record), *_foreign(network, own=mr is not None)),
        time.perf_counter() - start,
    )


@beartype
def expected_error(
    choice: Choice,
    *,
    mr: Float32[np.ndarray, "h w"] | None = None,
    ct: Float32[np.ndarray, "h w"] | None = None,
    superseded: Callable[[], bool] = lambda: False,
) -> tuple[Float32[np.ndarray, "h w"], bool]:
    """Return how far the network's image may be off at every pixel, by its mirror copies, and whether that is scaled.

    Args:
        choice: as for ``run``.
        mr: as for ``run``.
        ct: as for ``run``.
        superseded: says whether nobody waits for the answer any more; asked before each of four reconstructions.

    Raises:
        Superseded: it said so.

    Returns:
        The expected error in units of the picture where the network is calibrated; else a spread that shows where
        errors are and not how large.
    """
    _, shown_ct, mask, kspace = _scan(choice, mr, ct)
    network = _network(choice.network)
    peak = float(np.abs(np.asarray(adjoint(kspace, mask))).max()) or 1.0
    measurement = _measurement(kspace, mask, shown_ct, peak)

    def magnitude(each: Measurement) -> Any:
        if superseded():
            raise Superseded("another choice was made meanwhile")
        return jnp.abs(network.without_mirrors.function(each).image).block_until_ready()

    found = spread(magnitude, measurement)[0] * peak
    calibration = network.calibration
    return np.asarray(found if calibration is None else found * calibration.scale, np.float32), calibration is not None


def as_page(trial: Trial) -> dict[str, Any]:
    """Return a trial as the page takes it: plain text, and pictures as addresses that hold them."""
    white = float(trial.truth.max()) or 1.0
    errors = [np.abs(method.image - trial.truth) for method in trial.methods]
    limit = max(0.05 * white, float(np.percentile(errors[-1], 99.8)) * 1.5)
    shown = [
        {
            "name": method.name,
            "psnr": f"{method.psnr:.1f} dB",
            "ssim": f"{method.ssim:.3f}",
            "image": _shown(picture(method.image, white=white)),
            "error": _shown(error_picture(error, limit=limit)),
        }
        for method, error in zip(trial.methods, errors, strict=True)
    ]
    sampled = f"{trial.mask.effective:.2f}x: {100 / trial.mask.effective:.0f} % of the samples are measured"
    return {
        "headline": trial.headline,
        "methods": shown,
        "truth": _shown(picture(trial.truth, white=white)),
        "ct": _shown(picture(trial.ct)),
        "ct_name": trial.ct_name,
        "mask": _shown(mask_picture(np.asarray(trial.mask.samples), trial.truth.shape)),
        "mask_name": sampled,
        "limit": f"{100 * limit / white:.0f} %",
        "warnings": list(trial.warnings),
        "seconds": f"{trial.seconds:.1f}",
    }


def error_as_page(error: np.ndarray, calibrated: bool) -> dict[str, str]:
    """Return an expected error as the page takes it."""
    limit = float(np.percentile(error, 99.8)) or 1.0
    note = f"mean {error.mean():.4f}" if calibrated else "shows where, not how much: this network is not calibrated"
    return {"image": _shown(error_picture(error, limit=limit)), "note": note}


def _shown(image: Image) -> str:
    return data_uri(image, small=False)  # to this computer alone: packing it well takes longer than sending it


def _scan(
    choice: Choice, mr: np.ndarray | None, ct: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Mask, np.ndarray]:
    """Return truth, CT as it is given to the network, mask and k-space."""
    head = _head(choice.head)
    truth = np.abs(head.target).astype(np.float32) if mr is None else mr
    own = head.ct if mr is None else np.zeros_like(truth)
    own = own if ct is None else ct
    match choice.ct:
        case "none":
            shown = np.zeros_like(truth)
        case "another":
            shown = _head((choice.head + SLICES) % len(HEADS)).ct
        case "moved":
            shown = scipy.ndimage.shift(own, (0, choice.move), order=1)
        case "turned":
            shown = scipy.ndimage.rotate(own, choice.turn, reshape=False, order=1)
        case _:
            shown = own
    settings: dict[str, Any] = {}
    if choice.mask in LINE_MASKS:
        settings["center_fraction"] = min(CENTRE / choice.acceleration, 1.0)
    mask = make_mask(
        MaskConfig(kind=choice.mask, acceleration=choice.acceleration, **settings), (SIZE, SIZE), seed=choice.mask_seed
    )
    rng = np.random.default_rng(choice.mask_seed)
    noise = rng.standard_normal((SIZE, SIZE)) + 1j * rng.standard_normal((SIZE, SIZE))
    kspace = np.asarray(forward(truth, mask)) + choice.noise * float(truth.max()) * noise
    kspace = np.where(np.asarray(mask.samples), kspace, 0).astype(np.complex64)
    return truth, np.clip(shown, 0, 1).astype(np.float32), mask, kspace


def _scored(images: dict[str, np.ndarray], truth: np.ndarray) -> tuple[Method, ...]:
    stack = np.stack(list(images.values())).astype(np.float32)
    truths, peak = np.broadcast_to(truth, stack.shape), float(truth.max())
    decibels, similar = np.asarray(psnr(stack, truths, peak=peak)), np.asarray(ssim(stack, truths, data_range=peak))
    return tuple(map(Method, images, stack, map(float, decibels), map(float, similar)))


def _kept(key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """Return what was computed for a key before, or begin to compute it; JAX goes on while others are begun."""
    if key not in _images:
        _images[key] = compute()
        while len(_images) > MAX_CACHED:
            _images.popitem(last=False)
    return _images[key]


def _measurement(kspace: np.ndarray, mask: Mask, ct: np.ndarray, peak: float) -> Measurement:
    whole = np.broadcast_to(np.asarray(mask.samples), kspace.shape)
    return Measurement(*map(jnp.asarray, (kspace[None] / np.float32(peak), whole[None], ct[None])))


def _headline(methods: tuple[Method, ...], ct_name: str) -> str:
    """Say in one sentence what the CT brings."""
    found = {method.name: method.psnr for method in methods}
    without = found["Network without CT"]
    start = found["Zero-filled"]
    if "Network with CT" not in found:
        return f"Network without a CT: {without:.1f} dB; zero-filled: {start:.1f} dB."
    gain = found["Network with CT"] - without
    verdict = "the CT helps" if gain > 0.1 else "the CT harms" if gain < -0.1 else "the CT makes no difference"
    return f"With {ct_name}: {found['Network with CT']:.1f} dB, without: {without:.1f} dB ({gain:+.1f} dB: {verdict})."


def _findings(record: dict[str, Any]) -> list[str]:
    return [
        f"{'Refused' if finding['level'] == 'refused' else 'Doubtful'}: {finding['reason']}"
        + (f". To do: {finding['remedy']}" if finding["remedy"] else "")
        for finding in record["judgement"]["findings"]
    ]


def _foreign(network: Network, *, own: bool) -> list[str]:
    trained = network.trained_for.dataset
    if trained in PICTURES and (own or trained != "phantom"):
        origin = "a picture of your own" if own else "a generated head"
        return [f"The network was trained on {PICTURES[trained]}, and this is {origin}: take the result as a sketch."]
    return []
