"""The record that every data source returns, and its validation."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Complex64, Float32

__all__ = ["MIN_SIDE", "Dataset", "Example", "Source", "Split", "validate_example"]

Split = Literal["train", "valid", "test", "inner_train", "inner_valid", "all"]

MIN_SIDE = 16  # smallest image side in pixels: the attention keys lie on a 16x16 grid


class Example(NamedTuple):
    """One paired slice before any acquisition is simulated."""

    name: str  # unique in its dataset; evaluation masks are seeded from it
    subject: str  # a subject belongs to one split only
    ct: Float32[np.ndarray, "*k h w"]  # windowed to [0, 1], on the MR grid; [h, w] of one window
    target: Complex64[np.ndarray, "h w"]  # fully sampled MR image, whose volume has the maximum 1
    coil_maps: Complex64[np.ndarray, "c h w"] | None = None  # if they are known; otherwise simulated or estimated
    kspace: Complex64[np.ndarray, "c h w"] | None = (
        None  # of the coils as measured, fully sampled, in the target's units
    )
    acquired: Bool[np.ndarray, "#h w"] | None = None  # samples of kspace that were measured, all of them by default


@runtime_checkable
class Source(Protocol):
    """An opened dataset: random access to its examples.

    Optional attributes: ``subjects`` (a set of names) and ``digest`` (a text that identifies the files), both known
    without reading the examples. Training uses them to find subjects in two splits, and changed data of a resumed run.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Dataset(Protocol):
    """The settings of a dataset: a frozen dataclass that opens the records of its ``split``.

    Optional attributes, stored with a network that is trained on it: ``ct_windows`` (names), ``image_size`` (h, w),
    ``contrast`` (a text), ``measured`` (True: k-space of several coils). Further ones: ``names_are_private`` (True:
    reports show codes in place of the names of slices) and ``root`` (the folder that is read).
    """

    @property
    def split(self) -> Split: ...

    def open(self) -> Source: ...


def validate_example(example: Example) -> Example:
    """Return the example unchanged, or raise ``ValueError`` if it is invalid.

    Args:
        example: any record.

    Returns:
        The same record: ct float32 in [0, 1] and target complex64, both finite, of one shape [h, w] with sides of
        at least ``MIN_SIDE`` pixels; the ct of several windows [k, h, w]. Coil maps and k-space, if there are any,
        complex64 [c, h, w] of the same size, finite, of as many coils.

    Raises:
        ValueError: naming the record, what was found and what was wanted.
    """
    name, subject, ct, target, *_ = example

    def refuse(found: str, wanted: str) -> None:
        raise ValueError(f"record {name!r}: {found}; wanted {wanted}")

    if not (isinstance(name, str) and name and isinstance(subject, str) and subject):
        refuse(f"name {name!r} of subject {subject!r}", "two non-empty strings")
    for label, image, dtype in (("ct", ct, np.float32), ("target", target, np.complex64)):
        if not isinstance(image, np.ndarray) or image.dtype != dtype:
            refuse(f"{label} is {getattr(image, 'dtype', type(image).__name__)}", f"a numpy {dtype.__name__} array")
        several = label == "ct" and image.ndim == 3 and len(image) > 1
        if not (image.ndim == 2 or several) or min(image.shape[-2:]) < MIN_SIDE:
            refuse(f"{label} has shape {image.shape}", f"[h, w] with at least {MIN_SIDE} pixels a side")
        if not np.isfinite(image).all():
            refuse(f"{label} holds {np.count_nonzero(~np.isfinite(image))} non-finite values", "finite values only")
    if ct.shape[-2:] != target.shape:
        refuse(f"ct {ct.shape} and target {target.shape} differ in shape", "the CT on the MR grid")
    if ct.min() < 0 or ct.max() > 1:
        refuse(f"ct spans [{ct.min():g}, {ct.max():g}]", "values in [0, 1] (window Hounsfield units with window_ct)")
    for label, coils in (("coil_maps", example.coil_maps), ("kspace", example.kspace)):
        if coils is None:
            continue
        if not isinstance(coils, np.ndarray) or coils.dtype != np.complex64 or coils.shape[1:] != target.shape:
            refuse(
                f"{label} is {getattr(coils, 'dtype', type(coils).__name__)} of shape {np.shape(coils)}",
                f"complex64 [c, h, w] with the target's {target.shape}",
            )
        if not np.isfinite(coils).all():
            refuse(f"{label} holds {np.count_nonzero(~np.isfinite(coils))} non-finite values", "finite values only")
    if example.coil_maps is not None and example.kspace is not None and len(example.coil_maps) != len(example.kspace):
        refuse(f"{len(example.coil_maps)} coil maps for k-space of {len(example.kspace)} coils", "one for each coil")
    if example.acquired is not None and (
        example.acquired.dtype != bool or example.acquired.shape not in (target.shape, (1, target.shape[1]))
    ):
        refuse(f"acquired has shape {example.acquired.shape}", f"booleans {(1, target.shape[1])} or {target.shape}")
    return example
