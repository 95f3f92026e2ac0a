"""Networks as users call them: one example after the other on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.ops import adjoint
from atlf_jax.trained import inference


@pytest.mark.parametrize("masks", [1, 3])
@pytest.mark.parametrize("coils", [False, True])
@pytest.mark.parametrize("accelerator", [False, True])
def test_examples_come_in_turn_and_leave_as_a_batch(monkeypatch, accelerator, coils, masks) -> None:
    monkeypatch.setattr(inference, "accelerated", lambda: accelerator)
    rng = np.random.default_rng(0)
    shape = (3, 2, 8, 6) if coils else (3, 8, 6)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    maps = np.full(shape, 0.5**0.5, np.complex64) if coils else None
    measurement = Measurement(kspace, rng.random((masks, 1, 6)) > 0.3, rng.random((3, 8, 6), np.float32), maps)
    seen = []

    def model(measurement: Measurement) -> Reconstruction:
        seen.append(jax.tree.map(jnp.shape, measurement))
        image = adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
        return Reconstruction(image, fused=measurement.ct, extras=abs(image).sum((-2, -1)))

    got, want = inference.in_turn(model, measurement), model(measurement)
    assert seen[0].kspace == (shape if accelerator else (1, *shape[1:]))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), got, want)
