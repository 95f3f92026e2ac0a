"""GRAPPA: against dense least squares, another implementation, and the truth."""

import numpy as np
import pytest

from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.ops import birdcage_maps
from atlf_jax.ops.fourier import fft2c
from atlf_jax.solvers.grappa import grappa

SHAPE = (32, 36)


@pytest.fixture
def coils():
    """k-space of six coils, fully sampled, complex128."""
    rng = np.random.default_rng(0)
    image = np.zeros(SHAPE, complex)
    image[6:26, 8:30] = 1 + rng.random((20, 22))
    return np.asarray(fft2c((np.asarray(birdcage_maps(SHAPE, 6)) * image).astype(np.complex64)), np.complex128)


def masks():
    lines = np.arange(36) % 3 == 0
    lines[12:24] = True
    yield "lines", np.broadcast_to(lines, SHAPE).copy()
    irregular = make_mask(MaskConfig("random_exact", 2, center_lines=12), SHAPE, seed=1).mask
    yield "irregular lines", np.broadcast_to(irregular, SHAPE).copy()
    points = np.random.default_rng(2).random(SHAPE) < 0.3
    points[8:24, 10:26] = True
    yield "points", points


MASKS = dict(masks())


@pytest.mark.parametrize("kind", MASKS)
def test_every_sample_solves_its_own_least_squares_problem(coils, kind):
    mask, lam, (rows, columns) = MASKS[kind], 1e-3, (3, 5)
    centre = (16, 12)
    kspace = coils * mask
    filled = grappa(kspace, mask, neighbourhood=(rows, columns), calibration=centre, regularisation=lam)
    np.testing.assert_array_equal(filled[:, mask], kspace[:, mask])
    top, left = SHAPE[0] // 2 - 8, SHAPE[1] // 2 - 6
    acs = kspace[:, top : top + 16, left : left + 12]
    known, padded = np.pad(mask, ((1, 1), (2, 2))), np.pad(kspace, ((0, 0), (1, 1), (2, 2)))
    chosen = np.argwhere(~mask)[:: max(1, (~mask).sum() // 12)]
    for i, j in chosen:
        near = known[i : i + rows, j : j + columns]
        if not near.any():
            np.testing.assert_array_equal(filled[:, i, j], 0)
            continue
        sources = np.array(
            [acs[:, a : a + rows, b : b + columns][:, near].ravel() for a in range(14) for b in range(8)]
        )
        targets = np.array([acs[:, a + 1, b + 2] for a in range(14) for b in range(8)])
        strength = np.sqrt(lam * np.linalg.norm(sources.conj().T @ sources) / sources.shape[1])
        system = np.vstack([sources, strength * np.eye(sources.shape[1])])
        weights = np.linalg.lstsq(system, np.vstack([targets, np.zeros((sources.shape[1], 6))]), rcond=None)[0]
        want = padded[:, i : i + rows, j : j + columns][:, near].ravel() @ weights
        np.testing.assert_allclose(filled[:, i, j], want, atol=1e-8 * np.abs(coils).max())  # measured 1e-12


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MASKS)
def test_equals_pygrappa(coils, kind):
    pygrappa = pytest.importorskip("pygrappa")
    top, left = SHAPE[0] // 2 - 8, SHAPE[1] // 2 - 6
    inner = np.zeros(SHAPE, bool)
    inner[top : top + 16, left : left + 12] = True
    centre = np.zeros(SHAPE, bool)
    centre[top - 2 : top + 18, left - 2 : left + 14] = True
    # It pads the centre with zeros and fits to these windows too; so here there are zeros about it that were measured.
    mask = MASKS[kind] | centre
    kspace = np.where(centre & ~inner, 1e-30, coils) * mask
    theirs = pygrappa.grappa(
        kspace, kspace[:, top : top + 16, left : left + 12], kernel_size=(5, 5), coil_axis=0, lamda=0.01
    )
    ours = grappa(kspace, mask, neighbourhood=(5, 5), calibration=(20, 16), regularisation=0.01)
    assert np.linalg.norm(ours - theirs) < 1e-10 * np.linalg.norm(theirs)


def test_missing_lines_are_found(coils):
    mask = MASKS["lines"]
    filled = grappa((coils * mask).astype(np.complex64), mask, regularisation=1e-6)
    assert filled.dtype == np.complex64
    assert np.linalg.norm(filled - coils) < 0.2 * np.linalg.norm(coils * ~mask)  # measured 0.15


def test_what_cannot_be_is_refused(coils):
    with pytest.raises(ValueError, match="GRAPPA needs several"):
        grappa(coils[0], MASKS["lines"])
    with pytest.raises(ValueError, match="smaller than the neighbourhood of 5 x 15"):
        grappa(coils * MASKS["lines"], MASKS["lines"], neighbourhood=(5, 15))
    with pytest.raises(ValueError, match="two odd numbers"):
        grappa(coils, MASKS["lines"], neighbourhood=(4, 5))
