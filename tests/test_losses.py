"""Losses: parity with CDDFuse and kornia in float64, identities, and one value an example."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax import losses
from atlf_jax.array_types import FusionFeatures

GOLDEN = np.load(Path(__file__).parent / "golden" / "cddfuse_losses.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def golden(case, group):
    """Return {name: array} of a case's group, images [n, h, w] and features [1, h, w, n * f].

    CDDFuse averages its correlation over examples and channels alike, and forms the ratio afterwards: examples
    become channels of one example here.
    """
    found = {}
    for key in GOLDEN:
        if key.startswith(f"{case}/{group}/"):
            array, name = GOLDEN[key], key.rsplit("/", 1)[1]
            if array.ndim == 4 and case.startswith("dec"):
                n, f, h, w = array.shape
                array = np.moveaxis(array.reshape(n * f, h, w), 0, -1)[None]  # [n f h w] -> [1 h w n*f]
            elif array.ndim == 4:
                array = array[:, 0]
            found[name] = jnp.asarray(array)
    return found


def cddfuse_decomposition(B1, B2, D1, D2):  # noqa: N803 the names of the reference
    features = FusionFeatures(global_ct=B1, global_mr=B2, local_ct=D1, local_mr=D2)
    return {
        "cc_B": losses.correlation(B1, B2),
        "cc_D": losses.correlation(D1, D2),
        "L_dec": losses.decomposition(features),
    }


def cddfuse_fusion(image_vis, image_ir, generate_img):
    return {
        "loss_in": losses.intensity(generate_img, image_ir, image_vis),
        "loss_grad": losses.gradient(generate_img, image_ir, image_vis),
        "loss_total": losses.fusion(generate_img, image_ir, image_vis, gap_weight=0.0),
        "sobel_vis": losses.sobel(image_vis),
        "sobel_gen": losses.sobel(generate_img),
    }


def cddfuse_phase_1(data, data_hat):
    return {
        "ssim_loss": losses.ssim(data_hat, data),
        "mse": losses.mse(data_hat.astype(complex), data.astype(complex)),
        "grad_l1": losses.edge(data_hat, data),
        "phase1_one_modality": losses.reproduction(data_hat, data),
    }


LAYERS = {"dec": cddfuse_decomposition, "fusion": cddfuse_fusion, "phase1": cddfuse_phase_1}


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_public_losses(case, x64):
    layer = LAYERS[case.split("_")[0]]
    wanted, cotangents = golden(case, "out"), golden(case, "cot")

    def scalar(inputs):
        out = layer(**inputs)
        out = {name: jnp.mean(value) if wanted[name].ndim == 0 else value for name, value in out.items()}
        return sum((jnp.sum(out[name] * cotangents[name]) for name in cotangents), 0.0), out

    gradients, out = jax.jit(jax.grad(scalar, has_aux=True))(golden(case, "in"))
    assert out.keys() == wanted.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(out[name], want, rtol=1e-9, atol=1e-9 * float(jnp.abs(want).max()))
    wanted_gradients = golden(case, "grad/in")
    assert bool(wanted_gradients) != case.endswith("nograd")
    for name, want in wanted_gradients.items():
        np.testing.assert_allclose(gradients[name], want, rtol=0, atol=1e-9 * float(jnp.abs(want).max()), err_msg=name)


@pytest.fixture
def features():
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 7, 3)), jnp.float32)


@pytest.fixture
def images():
    """Return (ct, mr, fused), [2, 12, 14] each."""
    return jnp.asarray(np.random.default_rng(0).uniform(size=(3, 2, 12, 14)), jnp.float32)


def test_correlation_range_and_invariance(features):
    other = jnp.roll(features, 1, axis=1)
    cc = losses.correlation(features, other)
    assert cc.shape == (2,) and np.all(np.abs(cc) <= 1)
    np.testing.assert_allclose(losses.correlation(features, features), 1, atol=1e-5)
    np.testing.assert_allclose(losses.correlation(features, -features), -1, atol=1e-5)
    np.testing.assert_allclose(losses.correlation(3 * features + 1, 0.5 * other - 2), cc, atol=1e-5)
    np.testing.assert_allclose(losses.correlation(features, jnp.ones_like(features)), 0, atol=1e-6)


def test_correlation_gradient_of_constant_features_is_finite(features):
    gradient = jax.jit(jax.grad(lambda a: losses.correlation(a, features).sum()))(jnp.ones_like(features))
    assert np.isfinite(gradient).all()


def test_decomposition_at_one_and_range(features):
    same = FusionFeatures(features, features, features, features)
    np.testing.assert_allclose(losses.decomposition(same), 1 / 2.01, rtol=1e-5)
    worst = FusionFeatures(features, -features, features, features)
    np.testing.assert_allclose(losses.decomposition(worst), 100, rtol=1e-3)  # 1.01 - 1 loses digits in float32
    other = features[:, ::-1]
    best = FusionFeatures(features, features, features, other - losses.correlation(features, other).mean() * features)
    assert np.all(losses.decomposition(best) < 0.1)


def test_sobel_of_a_ramp(x64):
    ramp = jnp.arange(8.0)[None, None, :] * jnp.ones((1, 6, 1))
    np.testing.assert_allclose(losses.sobel(ramp)[:, 1:-1, 1:-1], 8, atol=1e-12)
    np.testing.assert_allclose(losses.sobel(jnp.swapaxes(ramp, 1, 2))[:, 1:-1, 1:-1], 8, atol=1e-12)
    assert losses.sobel(jnp.ones((1, 4, 4)))[0, 0, 0] == 6  # the border is zero


def test_intensity_is_zero_at_the_maximum_only(images):
    ct, mr, fused = images
    np.testing.assert_array_equal(losses.intensity(jnp.maximum(ct, mr), ct, mr), 0)
    assert np.all(losses.intensity(fused, ct, mr) > 0)
    np.testing.assert_array_equal(losses.gradient(mr, 0 * ct, mr), 0)
    np.testing.assert_array_equal(losses.gap(mr, mr), 0)


def test_fusion_is_its_parts(images, features):
    ct, mr, fused = images
    parts = losses.intensity(fused, ct, mr) + 10 * losses.gradient(fused, ct, mr)
    groups = FusionFeatures(features, features[::-1], features[:, ::-1], features)
    np.testing.assert_allclose(losses.fusion(fused, ct, mr, gap_weight=0.0), parts, rtol=1e-6)
    np.testing.assert_allclose(losses.fusion(fused, ct, mr), parts + losses.gap(fused, mr), rtol=1e-6)
    want = parts + 0.5 * losses.gap(fused, mr) + 2 * losses.decomposition(groups)
    np.testing.assert_allclose(losses.fusion(fused, ct, mr, groups, gap_weight=0.5), want, rtol=1e-6)


def test_autoencode_is_its_parts(images, features):
    ct, mr, other = images
    groups = FusionFeatures(features, features[::-1], features[:, ::-1], features)
    got = losses.autoencode(other, ct, 0.5 * other, mr, groups)
    want = (
        losses.reproduction(other, ct)
        + losses.reproduction(0.5 * other, mr)
        + 2 * losses.decomposition(groups)
        + 5 * losses.edge(0.5 * other, mr)
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(losses.autoencode(ct, ct, mr, mr, groups), 2 * losses.decomposition(groups), atol=1e-5)


def test_ssim_range():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 16, 16)), jnp.float32)
    np.testing.assert_allclose(losses.ssim(image, image), 0, atol=1e-6)
    assert losses.ssim(1 - image, image)[0] > 0.5  # anticorrelated: SSIM below 0
    scaled = losses.ssim(7 * image**2, 7 * image, data_range=7.0)
    np.testing.assert_allclose(scaled, losses.ssim(image**2, image), rtol=1e-4)


@pytest.mark.parametrize("name", losses.RECONSTRUCTION_LOSSES)
def test_reconstruction_losses(name):
    """One value an example, near 0 at the truth, finite gradients there and at 0, jit."""
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2, 2, 12, 14)) + 1j * rng.standard_normal((2, 2, 12, 14))
    prediction, target = jnp.asarray(draws, jnp.complex64)
    loss = losses.RECONSTRUCTION_LOSSES[name]
    got = loss(prediction, target)
    assert got.shape == (2,) and np.all(got > 0.1)
    np.testing.assert_allclose(loss(prediction[:1], target[:1]), got[:1], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(prediction, target), got, rtol=1e-5)
    np.testing.assert_allclose(loss(target, target), 1e-3 if name == "charbonnier" else 0, atol=1e-6)

    @jax.jit
    def real(channels):  # [2 b h w], differentiated as the networks are: through real channels
        return jnp.sum(loss(jax.lax.complex(channels[0], channels[1]), target))

    for at in (prediction, target, 0 * target):
        gradient = jax.grad(real)(jnp.stack([at.real, at.imag]))
        assert np.isfinite(gradient).all()
    downhill = jnp.stack([prediction.real, prediction.imag])
    assert real(downhill - 1e-2 * jax.grad(real)(downhill)) < real(downhill)


def test_reconstruction_losses_by_hand():
    target = jnp.zeros((1, 2, 2), jnp.complex64)
    prediction = target.at[0, 0, 0].set(3 + 4j)
    np.testing.assert_allclose(losses.mse(prediction, target), [25 / 4])
    np.testing.assert_allclose(losses.l1(prediction, target), [5 / 4])
    np.testing.assert_allclose(losses.charbonnier(prediction, target, epsilon=0.0), [5 / 4])
    np.testing.assert_allclose(losses.charbonnier(prediction, target, epsilon=1.0), [(np.sqrt(26) + 3) / 4], rtol=1e-6)
