"""The door for arrays: everyday slips are accepted with the right number, or answered in one short sentence."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.data.transforms import fft2c_numpy
from atlf_jax.trained.guards import TrainedFor
from tests.networks import network_of

H, W, C = 32, 24, 4
Y, X = np.ogrid[:H, :W]
OBJECT = (((Y - 16) ** 2 + (X - 11) ** 2 < 60) * (1 + 0.3 * np.cos(X / 2.0)) * np.exp(1j * X / 9)).astype(np.complex64)
KSPACE = fft2c_numpy(OBJECT)
LINES = np.zeros(W, bool)
LINES[8:16] = LINES[::3] = True
MASK = LINES[None]
MAPS = np.asarray(atlf.birdcage_maps((H, W), C))
COILS = fft2c_numpy(MAPS * OBJECT)
WIDE = (((Y - 16) / 15) ** 2 + ((X - 11) / 11) ** 2 < 1).astype(np.complex64)
FULL_COILS = fft2c_numpy(MAPS * WIDE)
DRAWN = atlf.make_mask(atlf.MaskConfig("equispaced", 3.0, 0.3), (H, W), seed=1)
RIGHT = np.asarray(atlf.ops.adjoint(KSPACE, MASK))
CT = np.abs(OBJECT).real / 2


def plain(measurement):
    return Reconstruction(atlf.ops.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps))


NETWORK = network_of(plain, TrainedFor((atlf.MaskConfig("equispaced", 3.0, 0.3),), sizes=((H, W),), dataset="prepared"))
BATCH = Measurement(KSPACE[None], MASK[None], np.zeros((1, H, W), np.float32))


def spoilt(array, value=np.nan):
    array = np.array(array)
    array.flat[3] = value
    return array


class Slip(NamedTuple):
    what: str
    call: object
    says: str | None = None  # None: accepted


def rec(kspace=KSPACE, mask=MASK, **options):
    return lambda: atlf.reconstruct(kspace, mask, **options)


TWO = np.stack([KSPACE.real, KSPACE.imag])
ACCEPTED = [
    Slip("complex128", rec(KSPACE.astype(np.complex128))),
    Slip("big-endian", rec(KSPACE.astype(">c8"))),
    Slip("strides", rec(np.asfortranarray(np.repeat(KSPACE, 2, 0))[::2])),
    Slip("JAX array", rec(jnp.asarray(KSPACE))),
    Slip("nested list", rec(KSPACE.tolist())),
    Slip("mask [w]", rec(mask=LINES)),
    Slip("mask of integers", rec(mask=LINES.astype(int))),
    Slip("mask of floats", rec(mask=LINES.astype(np.float32))),
    Slip("mask [h, w]", rec(mask=np.broadcast_to(MASK, (H, W)))),
    Slip("mask of a list", rec(mask=LINES.tolist())),
    Slip("mask of JAX", rec(mask=jnp.asarray(LINES))),
    Slip("batch size of numpy", rec(batch_size=np.int64(2))),
    Slip("adjoint with [w]", lambda: atlf.adjoint(KSPACE, LINES)),
    Slip("adjoint of a list", lambda: atlf.adjoint(KSPACE.tolist(), LINES.tolist())),
    Slip("a network of a batch in numpy", lambda: NETWORK(BATCH).image[0]),
    Slip("a CT of one in double precision", rec(ct=CT.astype(np.float64), model=NETWORK)),
]
REFUSED = [
    Slip("[2, h, w] real", rec(TWO), "k[0] + 1j * k[1]"),
    Slip("[h, w, 2] real", rec(np.moveaxis(TWO, 0, -1)), "k[..., 0] + 1j * k[..., 1]"),
    Slip("[slices, 2, h, w] real", rec(TWO[None], coils="espirit"), "k[:, 0] + 1j * k[:, 1]"),
    Slip("[h, w] real", rec(np.abs(KSPACE)), "wanted complex numbers"),
    Slip("nan in k-space", rec(spoilt(KSPACE)), "not finite"),
    Slip("huge k-space", rec(KSPACE * np.float32(1e36)), "too large"),
    Slip("a word", rec("scan.npy"), "array"),
    Slip("None", rec(None), "None"),
    Slip("empty k-space", rec(np.zeros((0, W), np.complex64)), "at least two axes"),
    Slip("one axis", rec(KSPACE[0]), "at least two axes"),
    Slip("probabilities", rec(mask=np.full((1, W), 0.25)), "sampling probabilities"),
    Slip("nan in the mask", rec(mask=np.full((1, W), np.nan)), "nan"),
    Slip("line numbers", rec(mask=np.arange(W)), "np.isin"),
    Slip("no sample", rec(mask=np.zeros(W, bool)), "no sample"),
    Slip("mask of another width", rec(mask=np.ones(W + 1, bool)), "wanted [24], [1, 24] or [32, 24]"),
    Slip("transposed mask", rec(mask=LINES[:, None]), "mask has shape"),
    Slip("coils without a word", rec(FULL_COILS, np.ones(W, bool)), "coils of one slice"),
    Slip("coils of several slices", rec(np.stack([COILS, COILS])), "has coils"),
    Slip("maps of fewer coils", rec(COILS, coil_maps=MAPS[:3]), "coil_maps have shape"),
    Slip("real maps", rec(COILS, coil_maps=np.abs(MAPS)), "wanted complex"),
    Slip("coils misspelt", rec(COILS, coils="esprit"), "wanted 'espirit'"),
    Slip("CT of 0 to 255", rec(ct=255 * CT), "divide an 8-bit picture by 255"),
    Slip("CT in Hounsfield units", rec(ct=2000 * CT - 1000), "ct_window"),
    Slip("CT in [0, 1] said to be Hounsfield units", rec(ct=CT, ct_window="brain"), "leave ct_window out"),
    Slip("unknown window", rec(ct=2000 * CT - 1000, ct_window="head"), "brain, soft_tissue"),
    Slip("complex CT", rec(ct=OBJECT), "wanted a real image"),
    Slip("CT of another size", rec(ct=CT[:-1]), "resample"),
    Slip("nan in the CT", rec(ct=spoilt(CT)), "not finite"),
    Slip("no batch", rec(batch_size=0), "whole number of 1 or more"),
    Slip("half a batch", rec(batch_size=1.5), "whole number"),
    Slip("uncalibrated uncertainty", rec(model=NETWORK, uncertainty=True), "calibrated"),
    Slip("check_ct without a CT", rec(model=NETWORK, check_ct=True), "there is no CT"),
    Slip("a weight without a CT", rec(model=NETWORK, ct_weight="withheld"), "no CT to weigh"),
    Slip("a weight above 1", rec(model=NETWORK, ct=CT, ct_weight=2.0), "from 0 (no CT) to 1"),
    Slip("a weight for what needs a CT", rec(model=NETWORK, ct=CT, ct_weight=0.5), "ct_weight compares a network"),
    Slip("forward of nan", lambda: atlf.forward(spoilt(OBJECT), MASK), "not finite"),
    Slip("forward of words", lambda: atlf.forward(np.array([["a"]]), MASK), "array of numbers"),
    Slip("adjoint of a picture", lambda: atlf.adjoint(CT, MASK), "wanted complex"),
    Slip("a network of plain k-space", lambda: NETWORK(KSPACE), "atlf.reconstruct"),
    Slip("a network of one image", lambda: NETWORK(BATCH._replace(kspace=KSPACE)), "[b, h, w]"),
    Slip("cg_sense without maps", lambda: atlf.cg_sense(COILS, MASK, None), "coil_maps is None"),
    Slip("negative regularisation", lambda: atlf.cg_sense(COILS, MASK, MAPS, regularisation=-1), "0 or more"),
    Slip(
        "regularisation of many", lambda: atlf.total_variation(KSPACE, MASK, regularisation=[1, 2]), "one real number"
    ),
]


@pytest.mark.parametrize("slip", ACCEPTED, ids=lambda slip: slip.what)
def test_what_is_meant_is_accepted_with_the_right_number(slip):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", atlf.GuardWarning)
        got = slip.call()
    assert got.dtype == np.complex64
    np.testing.assert_allclose(got, RIGHT, atol=2e-6)  # float32 of images up to 1.3: measured 3e-7


@pytest.mark.parametrize("slip", REFUSED, ids=lambda slip: slip.what)
def test_what_cannot_be_meant_is_refused_in_one_sentence(slip):
    with pytest.raises(ValueError) as refused:
        slip.call()
    message = str(refused.value)
    assert slip.says in message and len(message) <= 250 and "\n" not in message


def test_a_picture_is_an_image_without_phase():
    np.testing.assert_array_equal(atlf.forward(CT, DRAWN), atlf.ops.forward(CT.astype(np.complex64), DRAWN.mask))
    stack = np.stack([CT, 2 * CT])
    assert atlf.forward(stack, LINES).shape == (2, H, W)
    np.testing.assert_allclose(atlf.normal(CT, LINES), atlf.adjoint(atlf.forward(CT, LINES), LINES), atol=1e-6)


def test_masks_and_their_arrays_are_the_same():
    np.testing.assert_array_equal(atlf.reconstruct(KSPACE, DRAWN), atlf.reconstruct(KSPACE, DRAWN.mask))


def test_the_interface_can_be_compiled_and_differentiated():
    def energy(image):
        return jnp.sum(jnp.abs(atlf.forward(image, LINES)) ** 2)

    got = jax.jit(jax.grad(energy))(jnp.asarray(CT))
    wanted = 2 * np.asarray(atlf.normal(CT, LINES)).real
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_hounsfield_units_are_windowed():
    seen = []

    def looking(measurement):
        seen.append(np.asarray(measurement.ct))
        return plain(measurement)

    hounsfield = np.linspace(-1000, 1000, H * W).reshape(H, W)
    atlf.reconstruct(KSPACE, LINES, ct=hounsfield, ct_window="brain", model=looking)
    np.testing.assert_allclose(seen[0][0], np.clip(hounsfield / 80, 0, 1), atol=1e-6)
    atlf.reconstruct(KSPACE, LINES, ct=hounsfield, ct_window=("brain", "bone"), model=looking)
    assert seen[-1].shape == (1, 2, H, W)


def test_slices_pass_as_slices_and_coils_are_asked_for():
    slices = np.stack([fft2c_numpy(OBJECT * (1 + 0.3 * k * np.cos(Y / (2.0 + k)))) for k in range(4)]).astype(
        np.complex64
    )
    assert atlf.reconstruct(slices, MASK, first_axis="slices").shape == (4, H, W)
    assert atlf.reconstruct(COILS, MASK, first_axis="slices").shape == (C, H, W)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", atlf.GuardWarning)
        assert atlf.reconstruct(COILS, MASK, coils="low_resolution").shape == (H, W)
