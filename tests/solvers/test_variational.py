"""Total variation, guided or not, and L1-wavelet: against sigpy, dense optima, and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement
from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.ops import adjoint, birdcage_maps, forward, fwt
from atlf_jax.solvers import SOLVERS, edge_field, guided_total_variation, l1_wavelet, total_variation

LAMBDA = 0.002


@pytest.fixture(scope="module")
def scan():
    """Return the Shepp-Logan image, 8 birdcage maps, equispaced 4x mask with 24 central lines, and its k-space."""
    sigpy = pytest.importorskip("sigpy")
    image = jnp.asarray(sigpy.shepp_logan((128, 128)), jnp.complex64)
    config = MaskConfig("equispaced", acceleration=4, center_lines=24)
    seed = next(s for s in range(20) if make_mask(config, (128, 128), seed=s).samples[0, 0])  # offset 0
    mask = jnp.asarray(make_mask(config, (128, 128), seed=seed).samples)
    maps = birdcage_maps((128, 128), 8)
    return image, maps, mask, forward(image, mask, maps)


@pytest.fixture
def draw():
    """Return a function that draws complex Gaussian arrays in float64."""
    rng = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def nrmse(image, target):
    return float(np.linalg.norm(np.abs(image) - np.abs(target)) / np.linalg.norm(target))


def distance(image, target):
    return float(np.linalg.norm(image - target) / np.linalg.norm(target))


def sigpy_app(name, scan, **settings):
    mri = pytest.importorskip("sigpy.mri")
    _, maps, _, kspace = scan
    return getattr(mri.app, name)(np.asarray(kspace), np.asarray(maps), LAMBDA, show_pbar=False, **settings)


def objective(app, image):
    app.x = np.array(image)
    return app.objective()


@pytest.mark.parity
def test_l1_wavelet_equals_sigpy(scan):
    image, maps, mask, kspace = scan
    app = sigpy_app("L1WaveletRecon", scan, max_iter=100)
    want = app.run().copy()
    got = l1_wavelet(kspace, mask, maps, regularisation=LAMBDA)
    assert nrmse(got, image) == pytest.approx(0.07183, abs=5e-6)  # measured .0718288
    assert distance(got, want) < 2e-4  # measured 2.3e-5
    assert objective(app, got) == pytest.approx(objective(app, want), rel=1e-6)  # measured 2e-8


@pytest.mark.parity
def test_total_variation_takes_sigpys_iterations(scan):
    """With its steps; by default sigpy estimates a longer tau from random numbers."""
    _, maps, mask, kspace = scan
    app = sigpy_app("TotalVariationRecon", scan, max_iter=60, tau=1 / 9, sigma=1)
    want = app.run().copy()
    got = total_variation(kspace, mask, maps, regularisation=LAMBDA, iterations=60, dual_step=1.0)
    assert distance(got, want) < 1e-4  # measured 2.3e-7


@pytest.mark.parity
def test_total_variation_is_lower_than_sigpy_after_as_many_iterations(scan):
    image, maps, mask, kspace = scan
    app = sigpy_app("TotalVariationRecon", scan)
    slow = total_variation(kspace, mask, maps, regularisation=LAMBDA, dual_step=1.0)
    fast = total_variation(kspace, mask, maps, regularisation=LAMBDA)
    assert nrmse(slow, image) == pytest.approx(0.196, abs=0.005)  # measured .1997; sigpy, longer steps, .1958
    assert nrmse(fast, image) < 0.01  # measured .0063
    assert objective(app, fast) < 0.71 * objective(app, slow)  # measured 1.59 and 2.30; sigpy 2.27


def problem(draw, h=6, w=7):
    """Three examples of a tiny multi-coil scan, in float64."""
    rng = np.random.default_rng(3)
    mask = jnp.asarray(rng.uniform(size=(3, h, w)) < 0.6)
    maps = draw(3, 2, h, w)
    return draw(3, 2, h, w), mask, maps


def dense(apply, h, w):
    """The matrix of a linear map of images ``[h, w]``."""
    basis = jnp.eye(h * w, dtype=complex).reshape(-1, h, w)
    return np.asarray(jax.jit(jax.vmap(lambda x: apply(x).ravel()))(basis)).T


def periodic_differences(h, w):
    """Matrices of the differences over h and over w, by index."""
    pixel = np.arange(h * w).reshape(h, w)
    eye = np.eye(h * w)
    return np.stack([eye - eye[np.roll(pixel, 1, axis).ravel()] for axis in (0, 1)])  # [2 n n]


def admm(system, right, field, weight, group):
    """Minimise ``||A x - y||^2 / 2 + weight sum |K x|`` by ADMM; ``group`` is the norm over the first axis of K x."""
    n = system.shape[1]
    flat = field.reshape(-1, n)
    rho = 1.0
    inverse = np.linalg.inv(system.conj().T @ system + rho * flat.conj().T @ flat + 1e-14 * np.eye(n))
    split = dual = np.zeros(field.shape[:2], complex)
    for _ in range(4000):
        x = inverse @ (system.conj().T @ right + rho * flat.conj().T @ (split - dual).ravel())
        image = (flat @ x).reshape(split.shape)
        sizes = group(image + dual)
        split = (image + dual) * np.maximum(1 - weight / rho / np.maximum(sizes, 1e-300), 0)
        dual = dual + image - split
    return x


def each(values):
    return np.abs(values)


def together(values):
    return np.linalg.norm(values, axis=0, keepdims=True)


@pytest.mark.parametrize("kind", ["anisotropic", "isotropic", "guided"])
def test_the_optimum_of_each_example(kind, x64, draw):
    """Against another method on dense matrices; examples end on their own, and do not see each other."""
    kspace, mask, maps = problem(draw)
    ct = jnp.asarray(np.random.default_rng(5).uniform(size=(3, 6, 7)))
    weight, eta = 0.3, 0.2
    settings = {"regularisation": weight, "iterations": 20_000, "tolerance": 1e-12}
    if kind == "guided":
        got = guided_total_variation(kspace, mask, maps, ct=ct, eta=eta, **settings)
    else:
        got = total_variation(kspace, mask, maps, isotropic=kind == "isotropic", **settings)
    for i in range(3):
        field = periodic_differences(6, 7)
        if kind == "guided":
            edge = field @ np.asarray(ct[i]).ravel()  # [2 n]
            edge = edge / np.sqrt((edge**2).sum(0) + eta**2)
            field = field - np.einsum("an,bn,bnm->anm", edge, edge, field)
        system = dense(lambda x, i=i: forward(x, mask[i], maps[i]), 6, 7)
        right = np.asarray(jnp.where(mask[i], kspace[i], 0)).ravel()
        want = admm(system, right, field, weight, each if kind == "anisotropic" else together)
        assert distance(np.asarray(got[i]).ravel(), want) < 1e-7


@pytest.mark.slow  # 5,000 iterations
def test_l1_wavelet_ends_at_its_fixed_point_and_close_to_the_optimum(x64, draw):
    """The proximal map is exact away from the border alone: the objective is this little above its minimum."""
    h = w = 16
    mask = jnp.asarray(np.random.default_rng(3).uniform(size=(h, w)) < 0.5).at[h // 2, w // 2].set(True)
    kspace = forward(jnp.zeros((h, w), complex).at[4:10, 5:12].set(1 + 0.5j), mask)
    weight = 0.05
    got = np.asarray(l1_wavelet(kspace, mask, regularisation=weight, iterations=5000, tolerance=1e-13)).ravel()
    transform = dense(lambda x: jnp.concatenate([bands.ravel() for bands in fwt(x)]), h, w)
    system = dense(lambda x: forward(x, mask), h, w)
    right = np.asarray(kspace).ravel()
    moved = transform @ (got - system.conj().T @ (system @ got - right))
    shrunk = moved * np.maximum(1 - weight / np.maximum(np.abs(moved), 1e-300), 0)
    assert distance(transform.conj().T @ shrunk, got) < 1e-9

    def value(x):
        return np.linalg.norm(system @ x - right) ** 2 / 2 + weight * np.abs(transform @ x).sum()

    best = value(admm(system, right, transform[None], weight, each))
    assert best <= value(got) < 1.01 * best


@pytest.mark.parametrize("solve", [total_variation, l1_wavelet])
def test_everything_measured_and_no_regularisation_gives_the_image(solve, x64, draw):
    image, mask = draw(2, 16, 15), jnp.ones((1, 1, 15), bool)
    got = solve(forward(image, mask), mask, regularisation=0.0, iterations=200)
    np.testing.assert_allclose(got, image, atol=1e-10)


def test_a_flat_ct_guides_nowhere(x64, draw):
    kspace, mask, maps = problem(draw)
    flat = jnp.full((3, 6, 7), 0.7)
    plain = total_variation(kspace, mask, maps, regularisation=0.1, isotropic=True)
    np.testing.assert_allclose(
        guided_total_variation(kspace, mask, maps, ct=flat, regularisation=0.1, eta=0.1), plain, atol=1e-12
    )


def test_an_edge_of_the_ct_is_free(x64):
    """With all of k-space, TV lowers a step that the CT knows by next to nothing, and one that it does not by much."""
    image = jnp.zeros((1, 12, 12), complex).at[:, :, 3:9].set(1.0)
    mask = jnp.ones((1, 1, 12), bool)
    ct = 1 - image.real  # inverted contrast: the direction counts, not the sign
    assert float(jnp.abs(edge_field(ct, 0.01)).max()) == pytest.approx(1, abs=1e-4)
    settings = {"regularisation": 0.3, "iterations": 2000}
    guided = guided_total_variation(forward(image, mask), mask, ct=ct, eta=0.01, **settings)
    plain = total_variation(forward(image, mask), mask, isotropic=True, **settings)
    assert distance(guided, image) < 1e-4  # the penalty of a step is eta^2 of what it is without the CT
    assert np.ptp(np.asarray(plain.real)) == pytest.approx(1 - 4 * 0.3 / 6, abs=1e-3)  # each side gives 2 lambda / 6


@pytest.mark.parametrize("solve", [total_variation, l1_wavelet])
def test_units_and_batches_do_not_matter(solve, x64, draw):
    kspace, mask = draw(2, 3, 16, 14), jnp.asarray(np.random.default_rng(1).uniform(size=(1, 1, 1, 14)) < 0.5)
    got = solve(kspace, mask, regularisation=0.1, iterations=20)
    alone = solve(kspace[1, 2], mask[0, 0], regularisation=0.1, iterations=20)
    np.testing.assert_allclose(got[1, 2], alone, atol=1e-12)
    scaled = solve(1e3 * kspace, mask, regularisation=1e2, iterations=20)
    np.testing.assert_allclose(scaled, 1e3 * got, rtol=1e-9)


@pytest.mark.parametrize("solve", [total_variation, l1_wavelet])
def test_nothing_measured_is_nothing(solve):
    empty = jnp.zeros((1, 2, 8, 8), jnp.complex64)
    maps = jnp.zeros((1, 2, 8, 8), jnp.complex64)
    np.testing.assert_array_equal(solve(empty, jnp.ones((1, 1, 8), bool), maps, regularisation=0.1), 0)


def test_sides_must_match():
    with pytest.raises(ValueError, match=r"mask has shape \(1, 1, 9\), wanted \[8\], \[1, 8\] or \[8, 8\]"):
        total_variation(jnp.zeros((2, 8, 8), jnp.complex64), jnp.ones((1, 9), bool), regularisation=0.1)


@pytest.mark.parametrize("solve", [partial(total_variation, isotropic=True), l1_wavelet])
def test_gradients_of_data_and_regularisation_are_those_of_finite_differences(solve, x64, draw):
    kspace, direction = draw(8, 8), draw(8, 8)
    mask = np.random.default_rng(1).uniform(size=8) < 0.6

    def loss(along, regularisation):
        image = solve(kspace + along * direction, mask, regularisation=regularisation, iterations=8)
        return jnp.sum(jnp.abs(image) ** 4)

    got = jax.grad(loss, argnums=(0, 1))(0.0, 0.05)
    step = 1e-6
    wanted = (
        (loss(step, 0.05) - loss(-step, 0.05)) / (2 * step),
        (loss(0.0, 0.05 + step) - loss(0.0, 0.05 - step)) / (2 * step),
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_row_reconstructs_a_measurement(name):
    """Every row beats zero-filled on blocks that its CT shows in another contrast; one looks at it."""
    image = jnp.zeros((1, 32, 32), jnp.complex64).at[:, 6:20, 8:26].set(0.8).at[:, 12:24, 14:20].set(0.3j)
    mask = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 1, 32)) < 0.5).at[..., 12:20].set(True)
    measurement = Measurement(forward(image, mask), mask, 1 - jnp.abs(image))
    got = SOLVERS[name](measurement).image
    assert nrmse(got, image) < nrmse(adjoint(measurement.kspace, mask), image)
    blind = SOLVERS[name](measurement._replace(ct=jnp.zeros((1, 32, 32)))).image
    assert (nrmse(blind, image) > 1.2 * nrmse(got, image)) == (name == "guided_total_variation")
    windows = jnp.stack([measurement.ct, measurement.ct], axis=1)  # their mean is seen
    np.testing.assert_array_equal(SOLVERS[name](measurement._replace(ct=windows)).image, got)


def test_the_total_variation_of_the_table_is_isotropic():
    image = jnp.asarray(np.random.default_rng(0).random((1, 16, 16)), jnp.complex64)
    mask = jnp.ones((1, 1, 16), bool).at[..., 1:5].set(False)
    measurement = Measurement(forward(image, mask), mask, jnp.zeros((1, 16, 16)))
    got = SOLVERS["total_variation"](measurement).image
    both = [
        total_variation(measurement.kspace, mask, regularisation=3e-3, isotropic=isotropic)
        for isotropic in (True, False)
    ]
    np.testing.assert_allclose(got, both[0], atol=1e-6)
    assert np.abs(got - both[1]).max() > 1e-3
