"""A trained network: it reconstructs, tells its uncertainty, checks a CT, and knows what it was trained for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.inputs import as_coil_maps, as_ct, as_kspace, as_mask
from atlf_jax.trained.guards import TrainedFor, trained_for, unseen_sampling
from atlf_jax.trained.inference import Model, as_function
from atlf_jax.trained.uncertainty import Calibration, spread
from atlf_jax.trained.withheld import WithheldErrors, withheld_errors

if TYPE_CHECKING:
    from atlf_jax.config import Config

__all__ = [
    "Network",
    "check_does_without_ct",
    "check_windows",
    "error_scale",
    "load",
    "load_model",
    "load_pretrained",
    "windows_of",
]


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Called with a ``Measurement`` it gives a ``Reconstruction``, for images of any size (see ``inference``);
    ``atlf.reconstruct`` takes plain arrays and a network.

    Attributes:
        config: the whole configuration that it was trained with.
        variables: parameters under "params", and further collections.
        facts: step and stage; psnr [dB] if the checkpoint was chosen by it; uncertainty if it is calibrated.

    Example:
        >>> network = load("aanlib-best")
        >>> network
        Network('benchmark/best', 363,080 parameters, step 1390)
        >>> network.trained_for.dataset, len(network.trained_for.masks), network.calibration
        ('aanlib', 12, None)
    """

    config: "Config"
    variables: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        step = f", step {self.facts['step']}" if "step" in self.facts else ""
        return f"Network({self.config.name!r}, {self.parameters:,} parameters{step})"

    @cached_property
    def function(self) -> Model:
        """The compiled function ``Measurement -> Reconstruction``, which checks nothing (see ``as_function``)."""
        return as_function(self.config.model, self.variables)

    @cached_property
    def trained_for(self) -> TrainedFor:
        """What it was trained for: masks, sizes, dataset, contrast, CT windows."""
        return trained_for(self.config)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What turns the spread of its mirror copies into an expected error, where that was fitted."""
        found = self.facts.get("uncertainty")
        return Calibration(found["scale"], found["bound"]) if found else None

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    def __call__(self, measurement: Measurement) -> Reconstruction:
        """Reconstruct a batch, in units in which ``max|A^H y|`` is 1.

        Raises:
            ValueError: it is no ``Measurement``, or its shapes do not fit together.
        """
        return self.function(_checked_measurement(measurement))

    def expected_error(self, measurement: Measurement) -> Float[jax.Array, "b h w"]:
        """Return the expected absolute error of every pixel, in the units of the image; four reconstructions.

        Raises:
            ValueError: the network is not calibrated, or as in a call.
        """
        scale = error_scale(self)
        return scale * spread(lambda each: jnp.abs(self.function(each).image), _checked_measurement(measurement))

    def check_ct(self, measurement: Measurement) -> WithheldErrors:
        """Measure by withheld samples whether the CT helps; ``gain`` of the result is in dB. Two reconstructions.

        Raises:
            ValueError: the network was not trained both with and without a CT, so that any CT would look well; or as
                in a call.
        """
        check_does_without_ct(self)
        return withheld_errors(self.function, _checked_measurement(measurement))

    def never_trained(self, measurement: Measurement) -> list[str]:
        """Say what of a measurement was never trained: its masks, acceleration, size and coils; a sentence for each."""
        measurement = _checked_measurement(measurement)
        maps, (h, w) = measurement.coil_maps, measurement.kspace.shape[-2:]
        return unseen_sampling(
            self.trained_for,
            np.asarray(measurement.mask),
            shape=(h, w),
            coils=0 if maps is None else maps.shape[1],
        )

    def calibrated(self, calibration: Calibration, **fitted_on: Any) -> "Network":
        """Return the network with a calibration.

        Args:
            calibration: what turns the spread of mirror copies into an expected error.
            fitted_on: dataset, split and subjects, kept beside it in packed files.
        """
        made = replace(self, facts={**self.facts, "uncertainty": calibration._asdict() | fitted_on})
        vars(made).update({name: value for name, value in vars(self).items() if name == "function"})  # compiled once
        return made

    def save(self, file: str | Path, *, overwrite: bool = False) -> None:
        """Pack the network into one file, whole or not at all; ``load`` reads it.

        Folders of data are left out of the configuration: they are of the machine that it was trained on.

        Args:
            file: its name ends in .safetensors.
            overwrite: replace a file that is there.

        Raises:
            ValueError: the name ends otherwise, the file is there already, or it cannot be written.
        """
        from atlf_jax.trained import files  # reads configurations, which take a second to import

        files.write(file, self.config, self.variables, self.facts, overwrite=overwrite)

    def export(
        self,
        folder: str | Path,
        *,
        shape: tuple[int, int] = (256, 256),
        coils: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write the network as a program for CPU and CUDA that needs neither this package nor Flax.

        The folder holds ``network.jax_export`` (StableHLO with the weights), ``card.json`` (what it takes and gives,
        what it was trained for, versions, SHA-256) and ``check.npz`` (arguments and the image that they must give). The
        program takes k-space, mask and CT of any number of images, and gives what ``atlf.reconstruct`` gives.

        Args:
            folder: where to write; it is made.
            shape: rows and columns of the images, which are fixed in the program.
            coils: take k-space ``[b, c, h, w]`` of any number of coils, and coil maps as one more argument.
            overwrite: replace the files of an earlier export.

        Returns:
            The folder.

        Raises:
            ValueError: the folder holds files already, or a side is not positive.
            ImportError: flatbuffers is not installed: ``pip install 'atlf-jax[export]'``.

        Example:
            >>> import tempfile
            >>> folder = load("aanlib-best").export(tempfile.mkdtemp(), shape=(32, 32))
            >>> sorted(file.name for file in folder.iterdir())
            ['card.json', 'check.npz', 'network.jax_export']
        """
        from atlf_jax.trained import export  # reads configurations, which take a second to import

        return export.write(
            folder, self.config, self.variables, self.facts, shape=shape, coils=coils, overwrite=overwrite
        )


@beartype
def load(
    place: str | Path,
    which: Literal["best", "latest"] = "best",
    *,
    code: str | Path | Sequence[str | Path] = (),
) -> Network:
    """Load a trained network.

    Args:
        place: a run's folder, a packed file, or the name of weights that come with the package, tried in this order;
            nothing else is needed. NAME.md beside shipped weights tells what they were trained on and what they must
            not be used for.
        which: checkpoint of a run; a packed file holds one.
        code: the file or files of your own that its network, objective, dataset or mask is defined in (FILE.py). A
            packed file never runs code that you did not name here or import before; a run's folder knows its files.

    Raises:
        ValueError: there is no such network, its file is damaged, or its code was not given.
    """
    from atlf_jax.trained import files  # reads configurations, which take a second to import

    paths = [code] if isinstance(code, str | Path) else code
    return Network(*files.read(place, which, [Path(path) for path in paths]))


# The names of ``load`` in earlier versions, which programs of users call: ``atlf.load_model`` and
# ``atlf.models.load_pretrained``.
load_model = load_pretrained = load


def check_windows(model: Model | None, windows: int) -> None:
    """Refuse a CT through another number of windows than the network's, where it is known (see ``Network``).

    Raises:
        ValueError: with the windows that were trained.
    """
    if isinstance(model, Network) and windows != windows_of(model):
        trained = f": {', '.join(model.trained_for.windows)}" if model.trained_for.windows else ""
        raise ValueError(
            f"the number of CT windows is {windows}, and the network was trained with {windows_of(model)}{trained}; "
            "give as many"
        )


def windows_of(model: Model | None) -> int:
    """Return the number of CT windows that a network takes; 1 where it is not known."""
    return len(model.trained_for.windows) or 1 if isinstance(model, Network) else 1


def error_scale(model: Model | None) -> float:
    """Return what turns the spread of a network's mirror copies into an expected error.

    Raises:
        ValueError: it is not calibrated.
    """
    if isinstance(model, Network) and model.calibration is not None:
        return model.calibration.scale
    raise ValueError(
        "uncertainty wants a calibrated network, and this one is not; fit it by evaluate.py --uncertainty and pack it "
        "by atlf pack --calibration"
    )


def check_does_without_ct(model: Model | None) -> None:
    """Refuse to ask a network what a CT brings that was not trained both with and without.

    Raises:
        ValueError: with what to do.
    """
    if not (isinstance(model, Network) and model.trained_for.with_and_without_ct):
        raise ValueError(
            "check_ct compares a network with itself without the CT, and this one was not trained for both; choose one "
            "that was (with augment.ct_dropout or train.adapters), such as aanlib-best"
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
