"""Classical solvers in place of a network, and the rules that choose their regularisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Bool, jaxtyped

from atlf_jax.array_types import Array, Measurement, Reconstruction
from atlf_jax.ops import forward
from atlf_jax.reconstruct.slices import Record, Settings, in_batches, prepare_batch
from atlf_jax.solvers import COIL_SOLVERS, SOLVERS

__all__ = ["METHODS", "Method", "Regularisation", "Solver", "choose_regularisation", "solver_of", "withhold"]

Method = Literal[
    "network", "zero_filled", "cg_sense", "total_variation", "l1_wavelet", "guided_total_variation", "grappa"
]
Rule = Literal["withheld", "discrepancy"]
Regularisation = float | Rule
METHODS: tuple[Method, ...] = get_args(Method)
_ALL = SOLVERS | COIL_SOLVERS
_FINE = tuple(10.0 ** (exponent / 2) for exponent in range(-8, -1))  # 1e-4, 3.2e-4, ... .1
GRIDS: dict[str, tuple[float, ...]] = {
    "cg_sense": tuple(10.0 ** (exponent / 2) for exponent in range(-6, 1)),  # 1e-3, 3.2e-3, ... 1
    "total_variation": _FINE,
    "l1_wavelet": _FINE,
    "guided_total_variation": _FINE,
    "grappa": tuple(10.0**exponent for exponent in range(-4, 0)),  # its fit is slow
}
CROSS_VALIDATION_SHARE = 1 / 16  # share of the measured samples outside the centre that is withheld
CROSS_VALIDATION_DRAWS = 4  # number of draws, over all slices used


@dataclass(frozen=True)
class Solver:
    """A classical solver with its regularisation, called with a measurement like a network.

    The measurement has ``max|A^H y| = 1``, so that one regularisation fits data in any units.
    """

    method: str
    regularisation: Any

    def __call__(self, measurement: Measurement) -> Reconstruction:
        """Reconstruct a batch."""
        return _ALL[self.method](measurement, regularisation=self.regularisation)


class Chosen(NamedTuple):
    """A solver whose regularisation is a number, and facts on how it was chosen."""

    solver: Solver
    facts: dict[str, Any]


@beartype
def solver_of(method: str, regularisation: Regularisation, *, coils: int, has_ct: bool) -> Solver | None:
    """Return the solver of a method, or None for the zero-filled image.

    Args:
        method: one of ``METHODS``, except "network".
        regularisation: a number, or the rule that chooses it.
        coils: number of coils; 0 without a coil axis.
        has_ct: whether there is a CT.

    Raises:
        ValueError: the method is unknown, or needs several coils or a CT.
    """
    if method == "zero_filled":
        return None
    if method not in _ALL:
        raise ValueError(f"method is {method!r}, wanted one of {', '.join(METHODS)}")
    if method in COIL_SOLVERS and coils < 2:
        raise ValueError(f"{method} needs several coils, and k-space has one; take total_variation or l1_wavelet")
    if method == "guided_total_variation" and not has_ct:
        raise ValueError("guided_total_variation needs a CT, and there is none; give one, or take total_variation")
    if not isinstance(regularisation, str) and not (np.isfinite(regularisation) and regularisation >= 0):
        raise ValueError(f"regularisation is {regularisation}, wanted a number >= 0, 'withheld' or 'discrepancy'")
    return Solver(method, regularisation)


def choose_regularisation(solver: Solver, records: Sequence[Record], settings: Settings) -> Chosen:
    """Choose the regularisation of a solver on a few slices, by its rule; a solver that has a number keeps it.

    "withheld": a sixteenth of the measured lines (or points) outside the calibration centre is withheld, the solver
    reconstructs from the others, and the value of a short grid is chosen whose images predict the withheld samples
    best, over four draws.
    "discrepancy": the largest value of the grid whose image differs from the measured samples by no more than their
    noise, which must be known (whitened coils); if there is none, the smallest value.

    Args:
        solver: its regularisation is a number or a rule.
        records: a few slices.
        settings: of the reconstruction.

    Raises:
        ValueError: the rule is "discrepancy", and the noise is not known.

    Source: cross-validation; Morozov 1966 for the discrepancy principle.
    """
    rule = solver.regularisation
    if not isinstance(rule, str):
        return Chosen(solver, {"regularisation": float(rule), "regularisation_rule": "given"})
    if rule == "discrepancy" and settings.whitening is None:
        raise ValueError(
            "the discrepancy rule needs the noise, and it is not known; give a noise covariance, or take the rule "
            "withheld"
        )
    grid = GRIDS[solver.method]
    errors = np.zeros(len(grid))
    samples = energy = 0.0
    for _, fields in in_batches(records, replaced(settings, batch_size=1)):
        found = prepare_batch(fields, settings)
        whole, unit = found.measurement, float(np.asarray(found.scale).ravel()[0]) ** 2
        masks = [np.asarray(whole.mask)]
        if rule == "withheld":
            masks = [
                withhold(masks[0], settings.calibration, fold=fold)
                for fold in range(-(-CROSS_VALIDATION_DRAWS // len(records)))
            ]
        for asked in masks:
            given = _without(whole, asked) if rule == "withheld" else whole
            wanted = _at(asked, whole.kspace)
            samples += float(np.sum(np.broadcast_to(_lifted(asked, whole.kspace), whole.kspace.shape)))
            energy += float(jnp.sum(jnp.abs(wanted) ** 2)) * unit
            for place, value in enumerate(grid):
                image = replaced(solver, regularisation=value)(given).image
                error = forward(image, asked, whole.coil_maps) - wanted
                errors[place] += float(jnp.sum(jnp.abs(error) ** 2)) * unit
    if rule == "withheld":
        best = int(np.argmin(errors))
    else:
        below = np.flatnonzero(errors <= samples)  # the noise of a whitened sample has variance 1
        best = int(below[-1]) if below.size else 0
    chosen = grid[best]
    relative = np.sqrt(errors / energy) if energy else errors
    facts = {
        "regularisation": chosen,
        "regularisation_rule": rule,
        "regularisation_grid": list(grid),
        "regularisation_errors": [round(float(error), 6) for error in relative],
    }
    return Chosen(replaced(solver, regularisation=chosen), facts)


@jaxtyped(typechecker=beartype)
def withhold(mask: Bool[np.ndarray, "b #h w"], centre: tuple[int, int], *, fold: int = 0) -> Bool[np.ndarray, "b #h w"]:
    """Draw the samples to withhold, none of them in the calibration centre: whole lines if the mask consists of lines.

    Args:
        mask: True = acquired.
        centre: rows and columns of the calibration centre.
        fold: number of the draw; draws are disjoint until all samples are used.

    Returns:
        True = withheld; shaped as ``mask``. Single samples of a line would be easy to predict from their neighbours.

    Example:
        >>> out = withhold(np.ones((1, 1, 64), bool), (64, 8))
        >>> int(out.sum()), int(out[..., 28:36].sum())
        (4, 0)
    """
    sides = mask.shape[-2:]
    rows, columns = (
        np.ones(side, bool) if side == 1 else np.abs(np.arange(side) - side // 2 + 0.5) <= part / 2
        for side, part in zip(sides, centre, strict=True)
    )
    out = np.zeros_like(mask)
    for each, of_one in zip(out, mask & ~(rows[:, None] & columns), strict=True):
        places = np.random.default_rng(0).permutation(np.flatnonzero(of_one))
        count = max(1, round(CROSS_VALIDATION_SHARE * len(places)))
        each.flat[np.roll(places, -fold * count)[:count]] = True
    return out


def _lifted(mask: Any, kspace: Array) -> Array:
    """Return a mask with a coil axis, if k-space has one."""
    return jnp.asarray(mask)[:, None] if kspace.ndim == 4 else jnp.asarray(mask)


def _at(mask: Any, kspace: Array) -> Array:
    return jnp.where(_lifted(mask, kspace), kspace, 0)


def _without(measurement: Measurement, out: np.ndarray) -> Measurement:
    """Return the measurement without some samples."""
    mask = jnp.asarray(measurement.mask & ~out)
    return measurement._replace(kspace=_at(mask, measurement.kspace), mask=mask)
