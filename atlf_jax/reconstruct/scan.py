"""What the reconstruction reads: the settings of an input, and ``Scan``, which every opened input is."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from beartype import beartype
from jaxtyping import Complex, Complex64, Float32

from atlf_jax.data.inputs import FileError, load_npy
from atlf_jax.data.transforms import CTWindows, window_ct
from atlf_jax.masks import Mask, MaskConfig, make_mask, seed_from_name, stored_mask
from atlf_jax.reconstruct.slices import Record

__all__ = [
    "HDF5",
    "NIFTI",
    "CTConfig",
    "KSpaceConfig",
    "SamplingConfig",
    "Scan",
    "known_mask",
    "windowed",
]

NIFTI, HDF5 = (".nii", ".nii.gz"), (".h5", ".hdf5")


@beartype
@dataclass(frozen=True)
class CTConfig:
    """The CT that the reconstruction uses."""

    path: str = ""
    """NIfTI file or DICOM folder, in Hounsfield units; for k-space without a place in the patient also .npy, on its
    grid. Empty: no CT (zeros)."""
    window: CTWindows | Literal["none"] = "soft_tissue"
    """Window or windows that map Hounsfield units to [0, 1]. Use those of the network's training, which are the default
    if the checkpoint stores them. none: the CT is already scaled to [0, 1]."""
    register: Literal["none", "rigid", "affine", "bspline"] = "none"
    """How the CT is registered to the MR; none relies on the headers. Needs SimpleITK."""
    keep_flagged: bool = False
    """Continue although the registration is poor."""
    clean: bool = True
    """Replace table, head holder and everything else outside the body by air."""

    @property
    def windows(self) -> int:
        """Return the number of windows."""
        return len(self.window) if isinstance(self.window, tuple) else 1


@beartype
@dataclass(frozen=True)
class SamplingConfig:
    """Which samples are known: those in the scan's own mask and in a mask file, if both are given. Without either, a
    mask is drawn. Empty lines of k-space count as not acquired, whatever a mask says.
    """

    file: str = ""
    """.npy with the acquired lines or samples, [w], [1, w] or [h, w] of zeros and ones."""
    layout: Literal["centered", "corner"] = "centered"
    """Where the zero frequency lies in that file: at index n // 2, or at 0."""
    retrospective: bool = False
    """The k-space is fully sampled: undersample it with a mask that is drawn, --masks."""
    seed: int | None = None
    """Seed of a drawn mask; None: derived from the name of the input, as in evaluation."""


@beartype
@dataclass(frozen=True)
class KSpaceConfig:
    """How raw k-space is read."""

    first_axis: Literal["auto", "slices", "coils"] = "auto"
    """Meaning of the first of three axes of an array; with coil maps it is coils. auto: slices, but data that look like
    coils are refused."""
    axes: str = ""
    """All axes of an array in their order: s slices, c coils, h readout (rows), w lines (columns); such as hwc for
    (y, x, coil) of MATLAB. Empty: [*slices, *c, h, w]."""
    name: str = ""
    """Name of the array in a file of several (.npz, .mat, HDF5)."""
    repetition: int | None = None
    """Which repetition of a file of acquisitions (ISMRMRD, twix, BART)."""
    contrast: int | None = None
    """Which contrast or echo of it."""
    phase: int | None = None
    """Which cardiac phase of it."""
    set: int | None = None
    """Which set of it."""
    coil_maps: str = ""
    """.npy, [c, h, w] or [slices, c, h, w]; empty: maps are estimated where there are coils."""


@runtime_checkable
class Scan(Protocol):
    """An opened input: what the reconstruction reads from it, and how images are written."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        ...

    @property
    def coils(self) -> int:
        """0 without a coil axis."""
        ...

    @property
    def mask(self) -> Mask:
        """Samples that were acquired."""
        ...

    @property
    def has_ct(self) -> bool:
        """Whether there is a CT."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the record, without names of files or people."""
        ...

    @property
    def contrast(self) -> str:
        """The contrast in the file's header; empty if it has none."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the input."""
        ...

    @property
    def noise_covariance(self) -> Complex[np.ndarray, "c c"] | None:
        """Noise covariance of a sample, if the file has a noise scan."""
        ...

    @property
    def maps_from(self) -> str:
        """Origin of the coil maps that come with the scan; empty if there are none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def truth(self, index: int) -> Float32[np.ndarray, "h w"] | None:
        """Return the fully sampled image, if it is known."""

    def finish(self, image: Complex64[np.ndarray, "h w"]) -> Float32[np.ndarray, "y x"]:
        """Return the values of an image that are written: a magnitude or real part, cropped."""

    def finish_complex(self, image: Complex64[np.ndarray, "h w"]) -> Complex64[np.ndarray, "y x"]:
        """Return the complex values of an image that are written, cropped."""

    def write(self, path: Path, images: Iterable[np.ndarray], *, note: str = "") -> None:
        """Write finished images, completely or not at all. ``note`` goes into the header of a DICOM series."""


def known_mask(
    shape: tuple[int, int], config: MaskConfig, sampling: SamplingConfig, path: Path
) -> tuple[Mask, dict[str, Any]]:
    """Read the mask file or draw a mask.

    Args:
        shape: of k-space, (h, w).
        config: of the mask that is drawn without a file.
        sampling: names the file.
        path: of the scan, whose name gives the seed of a drawn mask.

    Returns:
        the mask, and facts about its origin.

    Raises:
        FileError: the mask file does not fit k-space.
    """
    h, w = shape
    if not sampling.file:
        seed = seed_from_name(path.name) if sampling.seed is None else sampling.seed
        return make_mask(config, (h, w), seed=seed), {
            "kind": config.kind,
            "seed": "name of the input" if sampling.seed is None else seed,
        }
    array = load_npy(Path(sampling.file))
    if array.shape not in ((w,), (1, w), (h, w)):
        raise FileError(
            sampling.file,
            f"has shape {array.shape} and k-space {h} rows and {w} columns",
            f"wanted a mask [{w}], [1, {w}] or [{h}, {w}]",
        )
    try:
        return stored_mask(array, layout=sampling.layout), {"kind": "of a file"}
    except ValueError as error:
        raise FileError(f"{sampling.file}:", str(error), "give the mask of this scan") from error


def windowed(stack: Float32[np.ndarray, "s h w"], config: CTConfig) -> Float32[np.ndarray, "s *k h w"]:
    """Map a CT to [0, 1] by the window or windows of its settings.

    Raises:
        ValueError: the CT is said to be scaled already and is not.
    """
    if config.window != "none":
        return window_ct(stack, config.window)
    if stack.min() < 0 or stack.max() > 1:
        raise ValueError(
            f"{config.path} spans [{stack.min():g}, {stack.max():g}]; wanted [0, 1], or a window with --ct.window"
        )
    return stack
