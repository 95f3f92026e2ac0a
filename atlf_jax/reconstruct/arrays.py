"""Reconstruct numpy arrays, with the same scaling and the same network as in training and evaluation."""

import warnings
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Complex64, Float32

from atlf_jax.array_types import Reconstructor
from atlf_jax.data.transforms import CT_WINDOWS, CTWindows, ct_shape, window_ct
from atlf_jax.inputs import as_coil_maps, as_ct, as_kspace, as_mask, as_whole_number, is_lazy
from atlf_jax.ops import whitening_matrix
from atlf_jax.reconstruct.ct_weight import CTWeight, check_ct_weight, choose_ct_weight
from atlf_jax.reconstruct.examine import check_for_ct_check, examine, judge_images, measured_numbers, probe_indices
from atlf_jax.reconstruct.judgement import Finding, Judgement, looks_like_coils
from atlf_jax.reconstruct.methods import Method, Regularisation, Solver, choose_regularisation, solver_of
from atlf_jax.reconstruct.slices import (
    SMALLEST_CENTRE,
    CoilMaps,
    Record,
    Settings,
    calibration_sides,
    reconstruct_records,
    too_small_a_centre,
)
from atlf_jax.trained.guards import GuardWarning, Placement, unseen_sampling
from atlf_jax.trained.network import Network, check_takes_ct, check_windows, error_scale, load, windows_of

__all__ = ["reconstruct"]

RANGE_TOLERANCE = 1e-3  # by which an interpolated CT may leave [0, 1]


def reconstruct(
    kspace: Any,
    mask: Any,
    *,
    ct: Any = None,
    ct_window: CTWindows | None = None,
    ct_weight: CTWeight = 1.0,
    coil_maps: Any = None,
    model: Reconstructor | str | Path | None = None,
    method: Method | None = None,
    regularisation: Regularisation = "withheld",
    coils: CoilMaps | None = None,
    first_axis: Literal["slices", "coils"] | None = None,
    noise_covariance: Any = None,
    virtual_coils: int | None = None,
    mirror_average: bool | None = None,
    hard_consistency: bool = False,
    uncertainty: bool = False,
    check_ct: bool = False,
    return_record: bool = False,
    force: bool = False,
    batch_size: int = 1,
) -> Any:
    """Reconstruct images from undersampled k-space.

    ``y`` is divided by ``max|A^H y|`` before the network, and the image is multiplied by it, so that units are kept.
    Slices are read one by one: k-space, CT and maps may be open HDF5 datasets or memory maps, and the device holds one
    batch at a time. A network of real images gets the smooth phase of the centre of k-space, so that it can reconstruct
    images with phase.

    The result is judged (docs/trust.md, "Levels of judgement"): a ``GuardWarning`` lists reasons to doubt it, and an
    image that is very likely wrong is refused.

    Args:
        kspace: complex ``[h, w]`` or ``[slices, h, w]``, centred; with coils one axis more, ``[*slices, c, h, w]``.
        mask: a ``Mask``, or bool ``[w]``, ``[1|h, w]`` or ``[slices, 1|h, w]``, True = acquired.
        ct: ``[h, w]`` or ``[slices, h, w]``, in [0, 1] on the MR grid; with several windows ``[*slices, k, h, w]``;
            None = no CT (zeros).
        ct_window: for a CT in Hounsfield units, the window to apply: one or several names in
            ``data.transforms.CT_WINDOWS``.
        ct_weight: 1 = the image of the network with the CT, 0 = without, numbers between mix the two; "withheld" = the
            weight with which withheld samples of all slices are predicted best: two reconstructions more, and three
            with the mixing. The network must have been trained both with and without a CT.
        coil_maps: complex ``[c, h, w]`` or ``[slices, c, h, w]``, normalised.
        model: a network from ``load``, or any function ``Measurement -> Reconstruction``; a path or name is loaded, and
            compiled anew in each call. None = ``method``.
        method: without a model, the name of a classical solver, or "zero_filled"; None = "zero_filled".
        regularisation: of a solver, for images with ``max|A^H y| = 1``; or the rule that chooses it, "withheld" or
            "discrepancy" (see ``choose_regularisation``).
        coils: how to estimate coil maps from the fully sampled centre, "espirit" or "low_resolution", if k-space has
            several coils and no maps are given; None: as in the training of the network.
        first_axis: meaning of the first of three axes, if neither ``coils`` nor ``coil_maps`` is given; None: decided
            from the data, with an error if it looks like coils.
        noise_covariance: ``[c, c]``; coils (and maps) are whitened with it. If maps are estimated, images are then in
            units of the noise's standard deviation.
        virtual_coils: number of coils to compress to, slice by slice.
        mirror_average: average over what the network makes of the scan and of its three mirror images: a smaller error,
            in four times the time; None = as the network was packed.
        hard_consistency: restore the measured samples after the network (exact with one coil).
        uncertainty: also return the expected absolute error of every pixel; the network must be calibrated.
        check_ct: also measure whether the CT helps to predict withheld samples; the network must have been trained both
            with and without a CT.
        return_record: also return a dictionary with the judgement, the residual, and the gain by the CT.
        force: return the image even if it is refused.
        batch_size: slices on the device at a time; the last batch is padded, so that nothing is compiled again.

    Returns:
        Complex64 images: ``[slices, h, w]``, or ``[h, w]`` if k-space has no slice axis. With ``uncertainty`` or
        ``return_record`` a tuple: images, float32 errors of the same shape, record.

    Raises:
        ValueError: an argument is invalid: real k-space, shapes that do not fit, a mask with other values than 0 and 1,
            a CT outside [0, 1], values that are not finite.
        ReconstructionRefused: (a ValueError) the image would very likely be wrong, and ``force`` is not set.

    Example:
        >>> mask = np.ones((1, 8), bool)
        >>> kspace = np.exp(1j * np.arange(64).reshape(8, 8) ** 2)
        >>> image = reconstruct(kspace, mask)
        >>> image.shape, image.dtype
        ((8, 8), dtype('complex64'))
    """
    _check_choices(model, method, coils, first_axis)
    model = _as_asked(model, mirror_average)
    batch_size = as_whole_number(batch_size, "batch_size")
    virtual_coils = None if virtual_coils is None else as_whole_number(virtual_coils, "virtual_coils")
    kspace = kspace if is_lazy(kspace) else np.asarray(as_kspace(kspace))
    if kspace.dtype.kind != "c":
        raise ValueError(f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}, wanted complex numbers")
    maps_given = coil_maps is not None
    of_training = _maps_of_training(model) if isinstance(model, Network) else None
    if not maps_given and (first_axis == "coils" or kspace.ndim == 4):
        coils = coils or of_training
    has_coils, findings = _has_coils(kspace, mask, coils, maps_given, first_axis, way=of_training or "espirit")
    single, shape = _shape_of_slices(kspace, has_coils, maps=bool(coils or maps_given))
    slices, (h, w) = shape[0], shape[-2:]

    mask = np.asarray(as_mask(mask, (slices, h, w)))
    mask = np.broadcast_to(mask, (slices, *mask.shape[1:]))
    ct, windows = _stack_of_ct(ct, ct_window, (slices, h, w), single=single, model=model)
    check_windows(model, windows)
    check_takes_ct(model, has_ct=ct is not None)
    coil_number = shape[1] if has_coils else 0
    if model is None and method is not None:
        model = solver_of(method, regularisation, coils=coil_number, has_ct=ct is not None)
    if maps_given:
        coil_maps = _checked_maps(coil_maps, shape)

    def read(index: int) -> Record:
        samples = kspace[()] if single else kspace[index]
        samples = np.asarray(as_kspace(samples, name=f"k-space of slice {index}"), np.complex64)
        no_ct = ct is None
        image = np.zeros(ct_shape(windows, (h, w)), np.float32) if no_ct else _windowed(ct[index], ct_window, index)
        return Record(samples, mask[index], image, _maps_of_slice(coil_maps, index) if maps_given else None)

    settings = Settings(
        coils=coils,
        calibration=calibration_sides(mask, (h, w)),
        whitening=_whitening(noise_covariance),
        virtual_coils=virtual_coils,
        hard_consistency=hard_consistency,
        batch_size=min(batch_size, slices),
        error_scale=error_scale(model) if uncertainty else None,
        check_ct=check_ct,
    )
    if check_ct:
        check_for_ct_check(model, has_ct=ct is not None)
    check_ct_weight(ct_weight, model, has_ct=ct is not None)
    if coils is not None and not maps_given and min(settings.calibration) < SMALLEST_CENTRE:
        raise ValueError(too_small_a_centre())
    examined = examine([read(index) for index in probe_indices(slices)], settings, model)
    examined.findings.extend(findings)
    if isinstance(model, Network):
        unseen = unseen_sampling(model.trained_for, mask, shape=(h, w), coils=coil_number, coil_maps=coils or "")
        examined.findings.extend(Finding("never trained", "doubtful", reason, "") for reason in unseen)
    Judgement(tuple(examined.findings)).raise_if_refused(force=force)

    def record(index: int) -> Record:
        one = read(index)
        return one if examined.mask is None else one._replace(mask=one.mask & examined.mask)

    chosen = {}
    if isinstance(model, Solver):
        model, chosen = choose_regularisation(
            model, [record(index) for index in probe_indices(slices)], examined.settings
        )
    elif model is not None and ct_weight != 1:
        model, chosen = choose_ct_weight(ct_weight, model, map(record, range(slices)), examined.settings)
    placement = Placement(mask)
    results = list(reconstruct_records(map(record, range(slices)), examined.settings, model, placement))
    judgement = judge_images(examined.findings, results, model, placement, check_ct=check_ct)
    judgement.raise_if_refused(force=force)
    if judgement.findings:
        warnings.warn("; ".join(map(str, judgement.findings)), GuardWarning, stacklevel=2)
    images = np.stack([result.image for result in results])
    returned = [images[0] if single else images]
    if uncertainty:
        errors = np.stack([result.error for result in results if result.error is not None])
        returned.append(errors[0] if single else errors)
    if return_record:
        returned.append({"judgement": judgement.record()} | chosen | measured_numbers(results, check_ct=check_ct))
    return returned[0] if len(returned) == 1 else tuple(returned)


def _check_choices(model: Any, method: str | None, coils: str | None, first_axis: str | None) -> None:
    """Refuse options that contradict each other or have unknown values."""
    if model is not None and method not in (None, "network"):
        raise ValueError(f"method is {method!r}, and a model is given; give one of the two")
    if model is None and method == "network":
        raise ValueError("method is 'network', and there is none; give it as model")
    if coils not in (None, "espirit", "low_resolution"):
        raise ValueError(f"coils is {coils!r}, wanted 'espirit', 'low_resolution' or None; maps go into coil_maps")
    if first_axis not in (None, "slices", "coils"):
        raise ValueError(f"first_axis is {first_axis!r}, wanted 'slices', 'coils' or None")


def _as_asked(model: Reconstructor | str | Path | None, mirror_average: bool | None) -> Reconstructor | None:
    """Load a model that is named, and switch the average over mirror images of a network on or off if asked.

    Raises:
        ValueError: it is asked of what is no network.
    """
    model = load(model) if isinstance(model, str | Path) else model
    if mirror_average is None:
        return model
    if not isinstance(model, Network):
        raise ValueError("mirror_average is for networks of atlf.load; give one as model, or leave it out")
    return model.averaging_mirrors(mirror_average)


def _maps_of_training(model: Network) -> CoilMaps | None:
    """Return how the coil maps were estimated that a network was trained with, if they were."""
    return cast("CoilMaps | None", model.trained_for.coil_maps or None)


def _shape_of_slices(kspace: Any, has_coils: bool, *, maps: bool) -> tuple[bool, tuple[int, ...]]:
    """Return whether k-space is of a single slice, and its shape with a slice axis, ``(slices, *c, h, w)``.

    Raises:
        ValueError: it has another number of axes, or coils without maps.
    """
    if has_coils and not maps:
        raise ValueError(
            f"k-space of shape {tuple(kspace.shape)} has coils, and there are no maps; give coils='espirit' to "
            "estimate them from the centre, or coil_maps"
        )
    axes = 3 if has_coils else 2
    if kspace.ndim not in (axes, axes + 1):
        wanted = "[c, h, w] or [slices, c, h, w] with coil maps" if has_coils else "[h, w] or [slices, h, w]"
        raise ValueError(f"k-space has shape {tuple(kspace.shape)}, wanted {wanted}")
    single = kspace.ndim == axes
    return single, (1, *kspace.shape) if single else tuple(kspace.shape)


def _checked_maps(coil_maps: Any, shape: tuple[int, ...]) -> Any:
    """Return coil maps that fit k-space of a shape; maps that are read by index are not read here."""
    if not is_lazy(coil_maps):
        return np.asarray(as_coil_maps(coil_maps, shape))
    if tuple(coil_maps.shape) not in (shape, shape[1:]):
        raise ValueError(f"coil_maps have shape {tuple(coil_maps.shape)}, wanted {shape[1:]} for each slice or all")
    return coil_maps


def _maps_of_slice(coil_maps: Any, index: int) -> Complex64[np.ndarray, "c h w"]:
    """Return the coil maps of a slice, which may be the same for all slices."""
    maps = coil_maps[index if len(coil_maps) > 1 else 0] if coil_maps.ndim == 4 else coil_maps[()]
    return np.asarray(as_kspace(maps, name=f"coil_maps of slice {index}"), np.complex64)


def _whitening(noise_covariance: Any) -> Complex64[np.ndarray, "c c"] | None:
    if noise_covariance is None:
        return None
    return whitening_matrix(np.asarray(noise_covariance, np.complex128)).astype(np.complex64)


def _has_coils(
    kspace: Any, mask: Any, coils: CoilMaps | None, maps_given: bool, first_axis: str | None, *, way: CoilMaps
) -> tuple[bool, list[Finding]]:
    """Return whether k-space has a coil axis, from the other arguments or else from the data; and findings if unsure.

    ``way`` of estimating coil maps is what messages propose.

    Raises:
        ValueError: it has coils, and there are no maps.
    """
    if coils is not None or maps_given or first_axis == "coils":
        if first_axis == "slices" and kspace.ndim == 3:
            raise ValueError(
                "first_axis is 'slices', and coils or coil_maps are given; k-space then is [slices, c, h, w]"
            )
        return True, []
    if kspace.ndim == 4:
        raise ValueError(
            f"k-space of shape {tuple(kspace.shape)} has coils; give coils={way!r} to estimate maps, or coil_maps"
        )
    if kspace.ndim != 3 or first_axis == "slices":
        return False, []
    of_all = np.asarray(as_mask(mask, tuple(kspace.shape)))
    shared = np.asarray(of_all.all(0) if len(of_all) > 1 else of_all[0])
    few = np.stack([np.asarray(kspace[index], np.complex64) for index in range(min(len(kspace), 8))])
    guess = looks_like_coils(np.where(shared, few, 0), shared) if shared.any() else None
    if guess is False:
        return False, []
    remedy = f"give coils={way!r} (or coil_maps) if it is coils, first_axis='slices' if it is slices"
    shape = f"k-space of shape {tuple(kspace.shape)}"
    if guess:
        raise ValueError(f"{shape} looks like {len(kspace)} coils of one slice; {remedy}")
    return False, [Finding("first axis", "doubtful", f"{shape} was taken as {len(kspace)} slices", remedy)]


def _stack_of_ct(
    ct: Any, window: CTWindows | None, shape: tuple[int, int, int], *, single: bool, model: Reconstructor | None
) -> tuple[Any, int]:
    """Return the CT as ``[slices, *k, h, w]``, and its number of windows."""
    if ct is None:
        if window is not None:
            raise ValueError(f"ct_window is {window!r}, and there is no CT to look at through it; give ct")
        return None, windows_of(model)
    ct = ct if is_lazy(ct) else np.asarray(as_ct(ct))
    if ct.dtype.kind == "c":
        raise ValueError(f"ct is {ct.dtype} of shape {tuple(ct.shape)}, wanted a real image")
    if window is not None:
        unknown = [name for name in (window if isinstance(window, tuple) else (window,)) if name not in CT_WINDOWS]
        if unknown:
            raise ValueError(f"ct_window is {window!r}, wanted names of: {', '.join(CT_WINDOWS)}")
    whole = ct[()] if ct.ndim == 2 or (single and ct.ndim == 3 and len(ct) > 1) else None
    ct = ct if whole is None else np.asarray(whole)[None]
    if ct.ndim not in (3, 4) or (ct.shape[0], *ct.shape[-2:]) != shape:
        wanted = f"{shape[1:]}" if single else f"{shape}"
        raise ValueError(f"ct has shape {tuple(ct.shape)}, wanted {wanted}: resample it to the MR grid")
    if window is None:
        return ct, 1 if ct.ndim == 3 else ct.shape[1]
    if ct.ndim == 4:
        raise ValueError(f"ct has shape {tuple(ct.shape)}, of several windows already; give no ct_window with it")
    return ct, len(window) if isinstance(window, tuple) else 1


def _windowed(ct: Any, window: CTWindows | None, index: int) -> Float32[np.ndarray, "*k h w"]:
    """Return one slice of the CT in [0, 1].

    Raises:
        ValueError: its values do not fit the units that ``window`` implies.
    """
    ct = np.asarray(as_ct(ct, name=f"ct of slice {index}"))
    low, high = float(ct.min()), float(ct.max())
    if window is None:
        if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
            raise ValueError(
                f"ct of slice {index} spans {low:g} to {high:g}, wanted [0, 1]; divide an 8-bit picture by 255, and "
                f"give Hounsfield units together with ct_window, one of {', '.join(CT_WINDOWS)}"
            )
        return np.clip(ct, 0, 1).astype(np.float32)
    if low >= 0 and 0 < high <= 1:
        raise ValueError(
            f"ct of slice {index} spans {low:g} to {high:g}, and ct_window says Hounsfield units (air -1000, water 0); "
            "leave ct_window out for a CT in [0, 1]"
        )
    return window_ct(ct.astype(np.float32), window)
