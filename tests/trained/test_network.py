"""A trained network as one object: what it reconstructs, tells and warns of."""

import jax.numpy as jnp
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.config import Config, to_dict
from atlf_jax.data import AugmentConfig
from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.models import build
from atlf_jax.ops import MIRRORS, mirror
from atlf_jax.trained import TrainedFor
from atlf_jax.trained.uncertainty import Calibration, mirror_measurement, spread
from atlf_jax.training.checkpoint import CHECKSUMS, Checkpoints, Snapshot
from atlf_jax.training.step import TrainState
from tests.models.conftest import BASELINES, measure, random_variables
from tests.networks import network_of


def tilted(measurement):
    """A network whose mirror copies differ."""
    image = atlf.ops.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return atlf.Reconstruction(image * jnp.linspace(1, 2, image.shape[-1])[None, None])


def trusting(measurement):
    """A network that takes the CT for the image, where there is one."""
    there = (measurement.ct.max((-2, -1)) > 0)[:, None, None]
    image = atlf.ops.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return atlf.Reconstruction(jnp.where(there, measurement.ct.astype(jnp.complex64), image))


def test_the_expected_error_is_the_spread_by_the_calibration():
    measurement, _ = measure()
    want = 2.5 * spread(lambda each: jnp.abs(tilted(each).image), measurement)
    np.testing.assert_array_equal(
        network_of(tilted, calibration=Calibration(2.5, 2.1)).expected_error(measurement), want
    )
    assert want.min() > 0
    plain = network_of(tilted)
    del vars(plain)["calibration"]  # of the facts, as in a network that was loaded
    found = plain.calibrated(Calibration(2.5, 2.1), subjects=["41"])
    assert found.facts == {"step": 1, "uncertainty": {"scale": 2.5, "bound": 2.1, "subjects": ["41"]}}
    np.testing.assert_array_equal(found.expected_error(measurement), want)
    with pytest.raises(ValueError, match="uncertainty wants a calibrated network"):
        network_of(tilted).expected_error(measurement)


def test_the_average_over_mirror_images():
    """The mean magnitude of the four images mirrored back, with the phase of their mean; itself symmetric."""
    measurement, _ = measure(coils=3, h=10, w=13)
    config = Config(model=BASELINES["unet"])
    model = build(config.model)
    once = atlf.trained.Network(config, random_variables(model, measurement), {"step": 1})
    network = once.averaging_mirrors()
    assert network.mirror_average and network.facts == {"step": 1, "mirror_average": True}
    assert network.averaging_mirrors(False) is once is once.averaging_mirrors(False)
    copies = [mirror(once(mirror_measurement(measurement, axes)).image, axes) for axes in MIRRORS]
    found, mean = network(measurement).image, np.mean(copies, axis=0)
    np.testing.assert_allclose(np.abs(found), np.mean(np.abs(copies), axis=0), atol=1e-5)
    np.testing.assert_allclose(np.angle(found * mean.conj()), 0, atol=1e-3)
    assert np.abs(found - copies[0]).max() > 1e-3
    turned = network(mirror_measurement(measurement, (-1,))).image
    np.testing.assert_allclose(mirror(turned, (-1,)), found, atol=1e-5)
    with pytest.raises(ValueError, match="uncertainty is how far mirror images differ, and mirror_average averages"):
        network.calibrated(Calibration(2.5, 2.1)).expected_error(measurement)


def test_the_check_of_a_ct_wants_a_network_that_can_do_without():
    image = np.zeros((1, 64, 64), np.float32)
    image[:, 16:48, 20:44] = np.random.default_rng(0).random((1, 32, 24)) + 1
    mask = jnp.asarray(make_mask(MaskConfig("random", 2.0, 0.1), (64, 64), seed=1).samples)[None]
    kspace = atlf.ops.forward(jnp.asarray(image, jnp.complex64), mask)
    without_and_with = network_of(trusting, config=Config(augment=AugmentConfig(ct_dropout=0.2)))
    assert without_and_with.check_ct(atlf.Measurement(kspace, mask, 0.9 * image)).gain > 10
    assert without_and_with.check_ct(atlf.Measurement(kspace, mask, image[:, ::-1, ::-1])).gain < 0
    with pytest.raises(ValueError, match="was not trained for both"):
        network_of(trusting).check_ct(atlf.Measurement(kspace, mask, image))


def test_what_was_never_trained_is_told_of_a_measurement():
    trained = TrainedFor((MaskConfig("random", 4.0, 0.08),), sizes=((64, 64),))
    measurement, _ = measure(coils=3, full=True)
    told = network_of(tilted, trained).never_trained(measurement)
    assert [words.split()[0] for words in told] == ["k-space", "image", "1.00x"]


def test_what_is_wrong_with_a_measurement_is_said_by_all_that_take_one():
    network = network_of(
        tilted, calibration=Calibration(2.5, 2.1), config=Config(augment=AugmentConfig(ct_dropout=0.2))
    )
    for asked in (network, network.expected_error, network.check_ct, network.never_trained):
        with pytest.raises(ValueError, match="a network takes an atlf.Measurement of batches, got ndarray"):
            asked(np.zeros((4, 4)))


def test_a_run_of_an_earlier_version_is_loaded(tmp_path):
    """Its configuration has fewer fields, and its files no checksums; what it lacks has today's default."""
    config = Config(name="old", model=BASELINES["dc_cnn"], masks=(MaskConfig("radial", 6.0),))
    variables = random_variables(build(config.model), measure()[0])
    record = to_dict(config)
    del record["augment"]
    (record["mask"],) = record.pop("masks")
    del record["data"]["acquisition"]
    state = TrainState(jnp.int32(7), {}, variables["params"], {}, ())
    with Checkpoints(tmp_path / "run", record) as checkpoints:
        checkpoints.save_best(Snapshot(state, 7, "joint"), psnr=20.5)
    (best,) = (tmp_path / "run" / "checkpoints" / "best").iterdir()
    (best / CHECKSUMS).unlink()
    found = atlf.load(tmp_path / "run")
    assert found.config == config and found.facts == {"step": 7, "stage": "joint", "psnr": 20.5}
    assert found.trained_for.masks == (MaskConfig("radial", 6.0),) and not found.trained_for.with_and_without_ct
    measurement, _ = measure()
    assert found(measurement).image.shape == measurement.kspace.shape
    found.save(tmp_path / "packed.safetensors")
    again = atlf.load(tmp_path / "packed.safetensors")
    assert again.config == config and again.facts == found.facts
