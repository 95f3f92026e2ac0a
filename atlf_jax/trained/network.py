"""A trained network: it reconstructs, estimates its errors, checks a CT, and knows what it was trained for."""

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

from atlf_jax.array_types import Measurement, Reconstruction, Reconstructor
from atlf_jax.inputs import as_coil_maps, as_ct, as_kspace, as_mask
from atlf_jax.models import sees_ct
from atlf_jax.trained.guards import TrainedFor, trained_for, unseen_sampling
from atlf_jax.trained.inference import as_function, mirror_average
from atlf_jax.trained.uncertainty import Calibration, spread
from atlf_jax.trained.withheld import WithheldErrors, withheld_errors

if TYPE_CHECKING:
    from atlf_jax.config import Config

__all__ = [
    "Network",
    "check_does_without_ct",
    "check_takes_ct",
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

    Call it with a ``Measurement`` to get a ``Reconstruction``; images may have any size (see ``inference``). For plain
    arrays use ``atlf.reconstruct``.

    Attributes:
        config: the complete configuration of its training.
        variables: parameters under "params", and further collections.
        facts: step and stage of the checkpoint; psnr [dB] on validation, if it was chosen by that; uncertainty, if the
            network is calibrated.

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
    def function(self) -> Reconstructor:
        """The compiled function ``Measurement -> Reconstruction``, without checks of its argument."""
        if self.mirror_average:
            return jax.jit(mirror_average(self.without_mirrors.function))
        return as_function(self.config.model, self.variables)

    @property
    def mirror_average(self) -> bool:
        """Whether it averages over mirror images (``inference.mirror_average``)."""
        return bool(self.facts.get("mirror_average", False))

    @cached_property
    def without_mirrors(self) -> "Network":
        """The network without the average over mirror images; itself where there is none."""
        return self.averaging_mirrors(False) if self.mirror_average else self

    @cached_property
    def trained_for(self) -> TrainedFor:
        """What it was trained for: masks, sizes, dataset, contrast, CT windows."""
        return trained_for(self.config)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The factor from the spread of mirror copies to an expected error; None if it was not fitted."""
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
        """Return the expected absolute error of every pixel, in the units of the image; it takes four reconstructions.

        Raises:
            ValueError: the network is not calibrated, or as in a call.
        """
        scale = error_scale(self)
        return scale * spread(lambda each: jnp.abs(self.function(each).image), _checked_measurement(measurement))

    def check_ct(self, measurement: Measurement) -> WithheldErrors:
        """Measure whether the CT helps to predict withheld samples; ``gain`` of the result is in dB.

        It takes two reconstructions.

        Raises:
            ValueError: the network was not trained both with and without a CT, so that any CT would seem to help; or as
                in a call.
        """
        check_does_without_ct(self)
        return withheld_errors(self.function, _checked_measurement(measurement))

    def never_trained(self, measurement: Measurement) -> list[str]:
        """Return one sentence for each property of a measurement (mask, size, coils) that was not part of training."""
        measurement = _checked_measurement(measurement)
        maps, (h, w) = measurement.coil_maps, measurement.kspace.shape[-2:]
        return unseen_sampling(
            self.trained_for,
            np.asarray(measurement.mask),
            shape=(h, w),
            coils=0 if maps is None else maps.shape[1],
        )

    def averaging_mirrors(self, average: bool = True) -> "Network":
        """Return the network with or without the average over mirror images, in four times the time.

        Example:
            >>> network = load("aanlib-best")
            >>> network.mirror_average, network.averaging_mirrors().mirror_average
            (False, True)
        """
        if average == self.mirror_average:
            return self
        if not average and "without_mirrors" in vars(self):
            return self.without_mirrors
        made = replace(self, facts={**self.facts, "mirror_average": average})
        if average:
            vars(made)["without_mirrors"] = self  # compiled once
        return made

    def calibrated(self, calibration: Calibration, **fitted_on: Any) -> "Network":
        """Return the network with a calibration.

        Args:
            calibration: the fitted factors.
            fitted_on: dataset, split and subjects of the fit; they are stored with it in packed files.
        """
        made = replace(self, facts={**self.facts, "uncertainty": calibration._asdict() | fitted_on})
        vars(made).update({name: value for name, value in vars(self).items() if name == "function"})  # compiled once
        return made

    def save(self, file: str | Path, *, overwrite: bool = False) -> None:
        """Pack the network into one file, which ``load`` reads. If writing fails, no partial file is left.

        Paths of data folders are removed from the configuration, since they belong to the training machine.

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
        """Export the network as a program for CPU and CUDA that needs neither this package nor Flax.

        The folder holds ``network.jax_export`` (StableHLO with the weights), ``card.json`` (what it takes and gives,
        what it was trained for, versions, SHA-256) and ``check.npz`` (arguments and the image that they must give). The
        program takes k-space, mask and CT of any number of images, and gives what ``atlf.reconstruct`` gives.

        Args:
            folder: where to write; it is created.
            shape: rows and columns of the images, which the program fixes.
            coils: take k-space ``[b, c, h, w]`` of any number of coils, with coil maps as a further argument.
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
        place: a run's folder, a packed file, or the name of weights that come with the package, tried in this order.
            The card NAME.md beside shipped weights says what they were trained on and what they must not be used for.
        which: checkpoint of a run; a packed file holds one.
        code: your own Python file or files that define its network, objective, dataset or mask. A packed file never
            runs code that you did not name here or import before; a run's folder stores the paths of its files.

    Raises:
        ValueError: there is no such network, its file is damaged, or its code was not given.
    """
    from atlf_jax.trained import files  # reads configurations, which take a second to import

    paths = [code] if isinstance(code, str | Path) else code
    return Network(*files.read(place, which, [Path(path) for path in paths]))


# Names of ``load`` in earlier versions, still used by users' programs: ``atlf.load_model`` and
# ``atlf.models.load_pretrained``.
load_model = load_pretrained = load


def check_windows(model: Reconstructor | None, windows: int) -> None:
    """Check that the CT has as many windows as the network was trained with, if ``model`` is a ``Network``.

    Raises:
        ValueError: it has not; the message names the trained windows.
    """
    if isinstance(model, Network) and windows != windows_of(model):
        trained = f": {', '.join(model.trained_for.windows)}" if model.trained_for.windows else ""
        raise ValueError(
            f"the number of CT windows is {windows}, and the network was trained with {windows_of(model)}{trained}; "
            "give as many"
        )


def check_takes_ct(model: Reconstructor | None, *, has_ct: bool) -> None:
    """Check that a CT, where there is one, is not given to a network that cannot see it.

    Raises:
        ValueError: it is.
    """
    if has_ct and isinstance(model, Network) and not sees_ct(model.config.model):
        raise ValueError(
            "a CT is given, and this network takes none, so that it would change nothing; leave it out, or choose a "
            "network that takes one, such as aanlib-best"
        )


def windows_of(model: Reconstructor | None) -> int:
    """Return the number of CT windows that a network takes; 1 where it is not known."""
    return len(model.trained_for.windows) or 1 if isinstance(model, Network) else 1


def error_scale(model: Reconstructor | None) -> float:
    """Return the factor from the spread of a network's mirror copies to an expected error.

    Raises:
        ValueError: the network is not calibrated, or averages over mirror images.
    """
    if isinstance(model, Network) and model.mirror_average:
        raise ValueError(
            "uncertainty is how far mirror images differ, and mirror_average averages over them; choose one of the two"
        )
    if isinstance(model, Network) and model.calibration is not None:
        return model.calibration.scale
    raise ValueError(
        "uncertainty wants a calibrated network, and this one is not; fit it by evaluate.py --uncertainty and pack it "
        "by atlf pack --calibration"
    )


def check_does_without_ct(model: Reconstructor | None, asked: str = "check_ct") -> None:
    """Check that a network was trained both with and without a CT, for the argument that asks for it.

    Raises:
        ValueError: it was not; the message says what to do.
    """
    if not (isinstance(model, Network) and model.trained_for.with_and_without_ct):
        raise ValueError(
            f"{asked} compares a network with itself without the CT, and this one was not trained for both; choose one "
            "that was (with augment.ct_dropout or train.adapters), such as aanlib-best"
        )


def _checked_measurement(measurement: Any) -> Measurement:
    """Return a checked batch of measurements; refuse anything else."""
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
