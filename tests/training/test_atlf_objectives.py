"""From a batch to a loss by ATLF-Net's objectives: each term, the draw of mu, what the fusion losses look at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax import losses, metrics
from atlf_jax.models.atlf.objectives import Fuse, Reconstruct
from atlf_jax.objectives import Model, zero_filled
from tests.training.conftest import STAGES


@pytest.fixture
def batch(batch):
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture
def variables(tiny, batch):
    return tiny().init(jax.random.key(0), batch.measurement)


def outcome(stage, model, variables, batch, *, key=None, **weights):
    return dataclasses.replace(STAGES[stage][0], **weights)(model, variables, batch, key=key)


def test_the_models_meet_the_protocol(tiny) -> None:
    assert isinstance(tiny(), Model)
    assert not isinstance(object(), Model)


def test_reconstruction_terms_are_the_weighted_losses(tiny, variables, batch) -> None:
    model = tiny()
    result = model.apply(variables, batch.measurement)
    target = jnp.asarray(batch.target)
    weights = {"mse": 2.0, "l1": 3.0, "charbonnier": 0.1, "ssim": 0.5, "gamma_symmetry": 0.2}
    got = outcome("reconstruction", model, variables, batch, **weights)
    expected = {
        "mse": 2 * losses.mse(result.image, target),
        "l1": 3 * losses.l1(result.image, target),
        "charbonnier": 0.1 * losses.charbonnier(result.image, target),
        "ssim": 0.5 * losses.ssim_magnitude(result.image, target),
        "symmetry": 0.2 * result.extras.symmetry,
    }
    assert got.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert got.terms[name].shape == (4,)
        np.testing.assert_allclose(got.terms[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(got.loss, sum(value.mean() for value in expected.values()), rtol=1e-6)


def test_the_loss_is_mse_alone_when_all_else_is_off(tiny, variables, batch) -> None:
    model = tiny(mu_values=())
    got = outcome("joint", model, variables, batch, gamma_symmetry=0.0, beta_fusion=0.0, key=jax.random.key(0))
    assert set(got.terms) == {"mse"}


def test_relative_losses_divide_the_gradient_by_the_loss(tiny, variables, batch) -> None:
    """log(1 + loss / floor) of each example: below the floor the loss itself, far above it d loss / loss."""
    model, settings = tiny(), {"mse": 0.0, "l1": 0.3, "gamma_symmetry": 0.0}

    def term(**more: float) -> np.ndarray:
        return np.asarray(
            outcome("reconstruction", model, variables, batch, **settings, **more).terms["l1"], np.float64
        )

    plain = term()
    np.testing.assert_allclose(term(relative=1e-3), 0.3 * np.log1p(plain / 0.3 / 1e-3), rtol=1e-5)
    np.testing.assert_allclose(term(relative=1e4) * 1e4, plain, rtol=1e-4)

    def gradient(example: int, **more: float) -> np.ndarray:
        def loss(scale: jax.Array) -> jax.Array:
            scaled = jax.tree.map(lambda leaf: scale * leaf, variables)
            return outcome("reconstruction", model, scaled, batch, **settings, **more).terms["l1"][example]

        return np.asarray(jax.grad(loss)(1.0))

    for example in range(2):
        ratio = gradient(example, relative=1e-6) / gradient(example)
        np.testing.assert_allclose(ratio, 0.3 / plain[example], rtol=1e-3)


def test_psnr_is_of_magnitudes_in_the_units_of_the_source(tiny, variables, batch) -> None:
    image = np.abs(tiny().apply(variables, batch.measurement).image)
    scale = batch.scale[:, None, None]
    expected = metrics.psnr(image * scale, np.abs(batch.target) * scale, peak=1.0)
    got = outcome("reconstruction", tiny(), variables, batch).scores["psnr"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert not np.allclose(batch.scale, 1)


def test_mu_is_drawn_for_each_example_and_multiplies_the_cost(tiny, variables, batch) -> None:
    many = jax.tree.map(lambda leaf: jnp.tile(leaf, (40,) + (1,) * (leaf.ndim - 1)), batch)

    def costs(*mu_values: float) -> np.ndarray:
        got = outcome("reconstruction", tiny(mu_values=mu_values), variables, many, key=jax.random.key(0))
        return np.asarray(got.terms["path_cost"])

    np.testing.assert_allclose(costs(0.5, 0.25), 0.5)  # tiny's cost is 1 + index: 0.5 * 1 and 0.25 * 2
    values, counts = np.unique(costs(0.5, 0.5), return_counts=True)
    assert values.tolist() == [0.5, 1.0]
    assert abs(counts[0] - 80) < 3 * np.sqrt(160 / 4)  # three standard deviations of 160 fair draws


def test_joint_adds_beta_times_the_fusion_loss(tiny, variables, batch) -> None:
    fusion = outcome("fusion", tiny(), variables, batch, eta_gap=0.7).terms["fusion"]
    joint = outcome("joint", tiny(), variables, batch, eta_gap=0.7, beta_fusion=0.3)
    np.testing.assert_allclose(joint.terms["fusion"], 0.3 * fusion, rtol=1e-5)
    assert "fusion" not in outcome("reconstruction", tiny(), variables, batch).terms


@pytest.mark.parametrize("kind", ["full", "zero_filled"])
def test_the_fusion_losses_look_at_the_chosen_mr(tiny, variables, batch, kind) -> None:
    model = tiny()
    fused, features = model.apply(variables, batch.measurement, method="fuse")
    mr = {"full": jnp.minimum(jnp.abs(batch.target), 1), "zero_filled": jnp.abs(zero_filled(batch.measurement))}[kind]
    ct = jnp.asarray(batch.measurement.ct)
    expected = losses.fusion(fused, ct, mr, features, gap_weight=0.4)
    got = outcome("fusion", model, variables, batch, fusion_target=kind, eta_gap=0.4)
    np.testing.assert_allclose(got.terms["fusion"], expected, rtol=1e-5)

    start = jnp.abs(zero_filled(batch.measurement))
    ct_hat, mr_hat, features = model.apply(variables, ct, start, method="autoencode")
    expected = losses.autoencode(ct_hat, ct, mr_hat, mr, features)
    got = outcome("autoencode", model, variables, batch, fusion_target=kind)
    np.testing.assert_allclose(got.terms["autoencode"], expected, rtol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_pictures_are_one_row_of_the_batch(tiny, variables, batch, stage) -> None:
    pictures = outcome(stage, tiny(), variables, batch).pictures
    assert list(pictures)[0] == "ct" and "zero-filled" in pictures
    assert {picture.shape for picture in pictures.values()} == {batch.target.shape}
    if stage in ("reconstruction", "adapters", "joint"):
        assert list(pictures) == ["ct", "zero-filled", "fused", "reconstruction", "target", "error"]
        np.testing.assert_allclose(pictures["error"], abs(pictures["reconstruction"] - pictures["target"]), atol=1e-7)


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="loss weights must be >= 0, got .*'l1': -1.0"):
        Reconstruct(l1=-1.0)
    with pytest.raises(ValueError, match="one of the loss weights .*ssim.* must be above 0"):
        Reconstruct(mse=0.0)
    with pytest.raises(ValueError, match="eta_gap must be >= 0, got -1.0"):
        Fuse(eta_gap=-1.0)
