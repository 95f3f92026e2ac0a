"""A trained network as users hold it: a function of a measurement that knows what it was trained for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.inputs import as_coil_maps, as_ct, as_kspace, as_mask
from atlf_jax.models.inference import Model, as_function
from atlf_jax.models.uncertainty import Calibration
from atlf_jax.reconstruct.guards import TrainedFor, trained_for

__all__ = ["Model", "Network", "check_windows", "error_scale", "load_model", "load_pretrained", "windows_of"]


@dataclass(frozen=True)
class Network:
    """A trained network: a function of a measurement that knows what it was trained for."""

    apply: Model
    trained: TrainedFor
    calibration: Calibration | None = None  # turns the spread of mirror copies into an expected error

    def __call__(self, measurement: Measurement) -> Reconstruction:
        """Reconstruct a batch, in units in which ``max|A^H y|`` is 1; ``atlf.reconstruct`` takes plain arrays.

        Raises:
            ValueError: it is no ``Measurement``, or its shapes do not fit together.
        """
        return self.apply(_checked_measurement(measurement))


def load_model(checkpoint: str | Path, *, which: Literal["best", "latest"] = "best") -> Network:
    """Load a trained network as a function of a measurement.

    Args:
        checkpoint: a run's folder, a packed file, or the name of weights that come with the package; nothing else is
            needed.
        which: of a run, "best" or "latest".

    Returns:
        A compiled function ``Measurement -> Reconstruction``, batched, for images of any size (see ``for_any_size``);
        its ``trained`` says what for.

    Raises:
        ValueError: there is no such network, or its file is damaged.
    """
    from atlf_jax.models.pretrained import load  # Orbax takes a second to import

    network = load(checkpoint, which)
    apply = as_function(network.config.model, network.variables)
    return Network(apply, trained_for(network.config), network.calibration)


def load_pretrained(name: str) -> Network:
    """Load weights that come with the package, as ``load_model`` does.

    Args:
        name: such as "aanlib-4x-compact"; ``models.pretrained.shipped()`` has them all, and NAME.md beside each file
            tells what it was trained on and what it must not be used for.

    Raises:
        ValueError: there are no such weights.
    """
    from atlf_jax.models.pretrained import names, shipped

    if name not in shipped():
        raise ValueError(f"no weights are named {name!r}; there are {names()}")
    return load_model(shipped()[name])


def check_windows(model: Model | None, windows: int) -> None:
    """Refuse a CT through another number of windows than the network's, where it is known (see ``Network``).

    Raises:
        ValueError: with the windows that were trained.
    """
    if isinstance(model, Network) and windows != windows_of(model):
        told = f": {', '.join(model.trained.windows)}" if model.trained.windows else ""
        raise ValueError(
            f"the number of CT windows is {windows}, and the network was trained with {windows_of(model)}{told}; give "
            "as many"
        )


def windows_of(model: Model | None) -> int:
    return len(model.trained.windows) or 1 if isinstance(model, Network) else 1


def error_scale(model: Model | None) -> float:
    if isinstance(model, Network) and model.calibration is not None:
        return model.calibration.scale
    raise ValueError(
        "uncertainty wants a calibrated network, and this one is not; fit it by evaluate.py --uncertainty and pack it "
        "by python -m atlf_jax.models.pretrained pack --calibration"
    )


def _checked_measurement(measurement: Any) -> Measurement:
    """Refuse what is no batch of measurements."""
    if not isinstance(measurement, Measurement):
        raise ValueError(
            f"a network takes an atlf.Measurement of batches, got {type(measurement).__name__}; for plain arrays call "
            "atlf.reconstruct(kspace, mask, ct=ct, model=network)"
        )
    kspace = as_kspace(measurement.kspace)
    maps = measurement.coil_maps
    axes = 3 if maps is None else 4
    if kspace.ndim != axes:
        wanted = "[b, h, w]" if maps is None else "[b, c, h, w] with coil maps"
        raise ValueError(f"k-space of the measurement has shape {kspace.shape}, wanted {wanted}; add axes of length 1")
    batch, (h, w) = kspace.shape[0], kspace.shape[-2:]
    mask = as_mask(measurement.mask, (batch, h, w))
    ct = as_ct(measurement.ct)
    if ct.ndim not in (3, 4) or ct.shape[0] not in (1, batch) or ct.shape[-2:] != (h, w):
        raise ValueError(
            f"ct of the measurement has shape {ct.shape}, wanted {(batch, h, w)}; zeros where there is none"
        )
    maps = None if maps is None else as_coil_maps(maps, kspace.shape).astype(kspace.dtype)
    return Measurement(kspace, mask, jnp.asarray(ct, kspace.real.dtype), maps)
