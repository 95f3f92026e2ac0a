"""From numpy arrays to a reconstruction: the same scaling and the same network as in training and evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.models import build
from atlf_jax.ops import adjoint

__all__ = ["load_model", "reconstruct"]

Model = Callable[[Measurement], Reconstruction]


def load_model(checkpoint: str | Path, *, which: Literal["best", "latest"] = "best") -> Model:
    """Load a trained network as a function of a measurement.

    Args:
        checkpoint: the run's folder; nothing else is needed.
        which: "best" or "latest".

    Returns:
        A compiled function ``Measurement -> Reconstruction``, batched.
    """
    from atlf_jax.config import Config, from_dict
    from atlf_jax.training.checkpoint import load  # Orbax takes a second to import

    config, variables = load(checkpoint, which)
    model = build(from_dict(Config, config).model)
    return jax.jit(jax.tree_util.Partial(model.apply, variables))


def reconstruct(
    kspace: Any, mask: Any, *, ct: Any = None, coil_maps: Any = None, model: Model | None = None
) -> np.ndarray:
    """Reconstruct images from undersampled k-space.

    ``y`` is divided by ``max|A^H y|`` before the network and the result multiplied by it, so that units are kept.

    Args:
        kspace: complex ``[h, w]`` or ``[slices, h, w]``, centred; with coil maps one axis more, ``[*slices, c, h, w]``.
        mask: bool ``[w]``, ``[1|h, w]`` or ``[slices, 1|h, w]``, True = acquired.
        ct: ``[h, w]`` or ``[slices, h, w]``, windowed to [0, 1] on the MR grid; None = no CT (zeros).
        coil_maps: complex ``[c, h, w]`` or ``[slices, c, h, w]``, normalised.
        model: from ``load_model``; None = the zero-filled reconstruction.

    Returns:
        Complex64 images, ``[h, w]`` or ``[slices, h, w]`` as k-space has slices.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Example:
        >>> mask = np.ones((1, 8), bool)
        >>> image = reconstruct(np.eye(8, dtype=np.complex64), mask)
        >>> image.shape, image.dtype
        ((8, 8), dtype('complex64'))
    """
    kspace = np.asarray(kspace, np.complex64)
    axes = 2 if coil_maps is None else 3
    single = kspace.ndim == axes
    if kspace.ndim not in (axes, axes + 1):
        wanted = "[h, w] or [slices, h, w]" if coil_maps is None else "[c, h, w] or [slices, c, h, w] with coil maps"
        raise ValueError(f"k-space has shape {kspace.shape}, wanted {wanted}")
    if not np.isfinite(kspace).all():
        raise ValueError("k-space holds values that are not finite; remove or zero them first")
    kspace = kspace[None] if single else kspace
    slices, (h, w) = kspace.shape[0], kspace.shape[-2:]

    mask = np.asarray(mask, bool)
    mask = mask.reshape((1,) * (3 - mask.ndim) + mask.shape)
    if mask.ndim != 3 or mask.shape[0] not in (1, slices) or mask.shape[1] not in (1, h) or mask.shape[2] != w:
        raise ValueError(f"mask has shape {mask.shape}, wanted [{w}], [1|{h}, {w}] or [{slices}, 1|{h}, {w}]")
    mask = np.broadcast_to(mask, (slices, *mask.shape[1:]))
    ct = np.zeros((slices, h, w), np.float32) if ct is None else np.asarray(ct, np.float32)
    ct = ct[None] if ct.ndim == 2 else ct
    if ct.shape != (slices, h, w):
        raise ValueError(f"CT has shape {ct.shape}, wanted {(slices, h, w)}: resample it to the MR grid")
    if coil_maps is not None:
        coil_maps = np.asarray(coil_maps, np.complex64)
        coil_maps = np.broadcast_to(coil_maps, kspace.shape)

    images = []
    for i in range(slices):
        maps = None if coil_maps is None else jnp.asarray(coil_maps[i : i + 1])
        y, m = jnp.asarray(kspace[i : i + 1]), jnp.asarray(mask[i : i + 1])
        start = adjoint(y, m, maps)
        if model is None:
            images.append(np.asarray(start)[0])
            continue
        scale = float(jnp.abs(start).max()) or 1.0
        measurement = Measurement(y / scale, m, jnp.asarray(ct[i : i + 1]), maps)
        images.append(np.asarray(model(measurement).image)[0] * scale)
    return images[0] if single else np.stack(images)
