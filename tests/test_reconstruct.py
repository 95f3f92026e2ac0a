"""The numpy entry: shapes, units and errors."""

import jax.numpy as jnp
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Reconstruction
from atlf_jax.data.transforms import fft2c_numpy


def sample(slices=3, h=12, w=16):
    rng = np.random.default_rng(0)
    image = (rng.random((slices, h, w)) * np.exp(0.3j * rng.random((slices, h, w)))).astype(np.complex64) * 40
    return image, fft2c_numpy(image)


def test_full_sampling_returns_the_image_in_its_own_units():
    image, kspace = sample()
    full = np.ones(16, bool)
    np.testing.assert_allclose(atlf.reconstruct(kspace, full), image, atol=40 * 1e-6)
    np.testing.assert_allclose(atlf.reconstruct(kspace[0], full), image[0], atol=40 * 1e-6)
    assert np.abs(atlf.reconstruct(kspace, np.arange(16) % 2 == 0) - image).max() > 1


def test_the_model_sees_scaled_data_and_the_result_is_scaled_back():
    image, kspace = sample()
    seen = []

    def model(measurement):
        seen.append(measurement)
        return Reconstruction(atlf.adjoint(measurement.kspace, measurement.mask))

    ct = np.full((3, 12, 16), 0.25, np.float32)
    out = atlf.reconstruct(kspace, np.ones(16, bool), ct=ct, model=model)
    np.testing.assert_allclose(out, image, atol=40 * 1e-6)
    assert len(seen) == 3 and float(jnp.abs(atlf.ifft2c(seen[1].kspace)).max()) == pytest.approx(1, abs=1e-5)
    assert float(seen[0].ct.mean()) == 0.25


def test_coils():
    image, _ = sample()
    maps = np.asarray(atlf.birdcage_maps((12, 16), 4))
    kspace = fft2c_numpy(maps[None] * image[:, None])
    np.testing.assert_allclose(atlf.reconstruct(kspace, np.ones(16, bool), coil_maps=maps), image, atol=40 * 2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kspace": np.zeros(5)}, r"k-space has shape \(5,\), wanted \[h, w\]"),
        ({"mask": np.ones(9, bool)}, r"mask has shape \(1, 1, 9\), wanted \[16\]"),
        ({"ct": np.zeros((12, 12))}, r"CT has shape \(1, 12, 12\), wanted \(3, 12, 16\)"),
        ({"kspace": np.full((3, 12, 16), np.nan)}, "not finite"),
    ],
)
def test_wrong_input_is_told(change, message):
    arguments = {"kspace": sample()[1], "mask": np.ones(16, bool)} | change
    with pytest.raises(ValueError, match=message):
        atlf.reconstruct(arguments.pop("kspace"), arguments.pop("mask"), **arguments)
