"""Mirroring is exact, of images and of their k-space."""

import numpy as np
import pytest

from atlf_jax.ops import MIRRORS, fft2c, mirror

SHAPES = [(6, 8), (7, 5), (6, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", MIRRORS[1:], ids=str)
def test_an_image_and_its_kspace_are_mirrored_by_one_permutation(shape, axes):
    rng = np.random.default_rng(0)
    image = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    turned = np.asarray(mirror(image, axes))
    assert not np.array_equal(turned, image)
    np.testing.assert_array_equal(mirror(turned, axes), image)
    for axis, side in zip((-2, -1), shape, strict=True):
        centre = side // 2
        for step in range(1, (side + 1) // 2):  # about the centre
            there, here = np.take(turned, centre + step, axis), np.take(image, centre - step, axis)
            if axes == (axis,):
                np.testing.assert_array_equal(there, here)
    np.testing.assert_allclose(fft2c(turned), mirror(fft2c(image), axes), atol=5e-6)  # measured 5e-7


def test_a_real_picture_mirrored_both_ways_has_the_conjugate_kspace():
    kspace = np.asarray(fft2c(np.random.default_rng(0).random((6, 8)).astype(np.complex64)))
    np.testing.assert_allclose(mirror(kspace, (-2, -1)), kspace.conj(), atol=5e-6)  # measured 5e-7
