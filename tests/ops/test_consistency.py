"""Data consistency: identities in float64, and parity with the public DC-CNN and DuDoRNet layers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.ops import (
    adjoint,
    consistency,
    fft2c,
    forward,
    from_channels,
    ifft2c,
    normal,
    normalise_maps,
    solve_hermitian,
    to_channels,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "data_consistency.npz")
TOLERANCE = 1e-12  # float64, values of order 1
SOLVED = 40  # iterations after which rounding is all that is left

conjugate_gradient = jax.jit(consistency.conjugate_gradient, static_argnames="iterations")


def close(got, want, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, float(np.abs(want).max())))


@pytest.fixture
def problem(x64, draw):
    """Return (z, y, mask) for one coil, with noise in y so that z and y disagree."""
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 1, 7)) < 0.5)
    return draw(2, 6, 7), jnp.where(mask, draw(2, 6, 7), 0), mask


@pytest.fixture
def sense(x64, draw):
    """Return (z, y, mask, maps) for four coils with normalised maps."""
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 1, 6)) < 0.5)
    return draw(2, 6, 6), jnp.where(mask[:, None], draw(2, 4, 6, 6), 0), mask, normalise_maps(draw(2, 4, 6, 6))


def stationarity(x, z, y, mask, v, maps=None):
    """Half the gradient of ||x - z||^2 + v ||A x - y||^2."""
    return (x - z) + v * adjoint(forward(x, mask, maps) - y, mask, maps)


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0, 20.0])
def test_weighted_minimises(problem, v):
    z, y, mask = problem
    close(stationarity(consistency.weighted(z, y, mask, v), z, y, mask, v), np.zeros(z.shape))


def test_weight_zero_is_the_identity(problem):
    z, y, mask = problem
    close(consistency.weighted(z, y, mask, 0.0), z)
    close(consistency.gradient(z, y, mask, 0.0), z)


def test_hard_returns_the_samples_and_leaves_the_rest(problem):
    z, y, mask = problem
    x = consistency.hard(z, y, mask)
    close(forward(x, mask), y)
    close(jnp.where(mask, 0, fft2c(x)), jnp.where(mask, 0, fft2c(z)))
    close(consistency.hard(x, y, mask), x)
    close(consistency.weighted(z, y, mask, 1e12), x, 1e-11)
    np.testing.assert_array_equal(consistency.weighted(z, y, mask, jnp.full((2, 1, 1), jnp.inf)), x)


def test_weighted_leaves_unsampled_k_untouched(problem):
    z, y, mask = problem
    close(jnp.where(mask, 0, fft2c(consistency.weighted(z, y, mask, 0.7))), jnp.where(mask, 0, fft2c(z)))


def test_composition_law(problem):
    z, y, mask = problem
    twice = consistency.weighted(consistency.weighted(z, y, mask, 0.7), y, mask, 0.7)
    close(twice, consistency.weighted(z, y, mask, 1.7**2 - 1))


def test_firmly_non_expansive(problem, draw):
    z, y, mask = problem
    other = draw(*z.shape)
    moved = consistency.weighted(z, y, mask, 2.0) - consistency.weighted(other, y, mask, 2.0)
    apart = z - other
    assert jnp.linalg.norm(moved) < jnp.linalg.norm(apart)
    assert jnp.linalg.norm(moved) ** 2 <= jnp.vdot(moved, apart).real + TOLERANCE


def test_consistent_images_are_fixed(problem):
    z, _, mask = problem
    y = forward(z, mask)
    for x in (
        consistency.hard(z, y, mask),
        consistency.weighted(z, y, mask, 3.0),
        consistency.gradient(z, y, mask, 1.7),
        conjugate_gradient(z, y, mask, 3.0, None, iterations=SOLVED),
    ):
        close(x, z)


def test_gradient_step_equals_weighted_below_step_one(problem):
    z, y, mask = problem
    close(consistency.gradient(z, y, mask, 3 / 4), consistency.weighted(z, y, mask, 3.0))
    beyond = consistency.gradient(z, y, mask, 2.0)  # reflects: residuals change sign
    close(forward(beyond, mask) - y, y - forward(z, mask))


def test_skip_before_consistency_keeps_the_samples(problem):
    """DC_inf(x_u + r) = x_u + F^H (1 - M) F r; adding x_u after DC measures 2 y instead."""
    r, y, mask = problem
    zero_filled = adjoint(y, mask)
    x = consistency.hard(zero_filled + r, y, mask)
    close(x, zero_filled + ifft2c(jnp.where(mask, 0, fft2c(r))))
    wrong = forward(consistency.hard(r, y, mask) + zero_filled, mask) - y
    np.testing.assert_allclose(jnp.linalg.norm(wrong) / jnp.linalg.norm(y), 1, rtol=1e-12)


def test_real_image_model_is_the_real_part(problem):
    """For a real z and a mask without symmetry Re o DC does not return the samples: use two channels there."""
    z, _, mask = problem
    truth = z.real.astype(complex)
    y = forward(truth, mask)
    x = consistency.hard(0 * truth, y, mask).real.astype(complex)
    close(x, normal(truth, mask).real.astype(complex))
    assert jnp.linalg.norm(forward(x, mask) - y) > 0.1 * jnp.linalg.norm(y)


@pytest.mark.parametrize("v", [0.0, 0.5, 4.0])
def test_gradient_in_the_weight(problem, v):
    z, y, mask = problem
    cotangent = jnp.cos(jnp.arange(z.size)).reshape(z.shape)

    @jax.jit
    def f(v):
        return jnp.sum(cotangent * consistency.weighted(z, y, mask, v).real)

    step = 1e-5
    want = (f(v + step) - f(v - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(f)(v), want, rtol=1e-8)
    assert abs(want) > 1e-3


def test_weight_gradient_is_finite_when_hard(problem):
    z, y, mask = problem
    assert jax.grad(lambda v: jnp.sum(consistency.weighted(z, y, mask, v).real))(jnp.inf) == 0


@pytest.mark.parametrize("form", ["weighted", "gradient", "coilwise", "varnet", "conjugate_gradient"])
def test_one_weight_per_example(sense, form):
    z, y, mask, maps = sense
    calls = {
        "weighted": lambda s, v: consistency.weighted(z[s], y[s, 0], mask[s], v),
        "gradient": lambda s, v: consistency.gradient(z[s], y[s], mask[s], v, maps[s]),
        "coilwise": lambda s, v: consistency.coilwise(z[s], y[s], mask[s], v, maps[s]),
        "varnet": lambda s, v: consistency.varnet(fft2c(maps[s] * z[s, None]), y[s], mask[s], v),
        "conjugate_gradient": lambda s, v: conjugate_gradient(z[s], y[s], mask[s], v, maps[s]),
    }
    both = calls[form](slice(None), jnp.array([0.2, 3.0]).reshape(2, 1, 1))
    close(both[:1], calls[form](slice(0, 1), 0.2))
    close(both[1:], calls[form](slice(1, 2), jnp.asarray(3.0)))


def test_sense_conjugate_gradient_converges(sense):
    z, y, mask, maps = sense
    x = conjugate_gradient(z, y, mask, 2.0, maps, iterations=SOLVED)
    assert jnp.linalg.norm(stationarity(x, z, y, mask, 2.0, maps)) < 1e-10


def test_sense_conjugate_gradient_equals_dense_solve(sense):
    z, y, mask, maps = sense
    basis = jnp.eye(36, dtype=complex).reshape(36, 6, 6)
    got = conjugate_gradient(z, y, mask, 2.0, maps, iterations=SOLVED)
    for b in range(2):
        columns = jax.vmap(lambda x, b=b: normal(x, mask[b], maps[b]).ravel())(basis)  # row j = A^H A e_j
        system = np.eye(36) + 2.0 * np.asarray(columns).T
        right = (z[b] + 2.0 * adjoint(y[b], mask[b], maps[b])).ravel()
        close(got[b].ravel(), np.linalg.solve(system, right), 1e-10)


def test_eight_iterations_reach_a_millionth_at_weight_one(sense):
    z, y, mask, maps = sense
    exact = conjugate_gradient(z, y, mask, 1.0, maps, iterations=SOLVED)
    default = conjugate_gradient(z, y, mask, 1.0, maps)
    assert 1e-12 < jnp.abs(default - exact).max() < 3e-6
    close(consistency.weighted(z, y, mask, 1.0, maps), default)


def test_one_coil_with_flat_map_equals_closed_form(problem):
    z, y, mask = problem
    maps = jnp.ones((2, 1, 6, 7), complex)
    want = consistency.weighted(z, y, mask, 1.5)
    close(conjugate_gradient(z, y[:, None], mask, 1.5, maps), want)
    close(consistency.coilwise(z, y[:, None], mask, 1.5, maps), want)
    close(consistency.hard(z, y[:, None], mask, maps), consistency.hard(z, y, mask))


def test_coilwise_is_exact_for_a_full_mask_only(sense):
    z, y, mask, maps = sense
    full = jnp.ones_like(mask)
    exact = conjugate_gradient(z, y, full, 1.5, maps, iterations=SOLVED)
    close(consistency.coilwise(z, y, full, 1.5, maps), exact, 1e-10)
    exact = conjugate_gradient(z, y, mask, 1.5, maps, iterations=SOLVED)
    assert jnp.abs(consistency.coilwise(z, y, mask, 1.5, maps) - exact).max() > 1e-2


def test_implicit_gradients_against_finite_differences(sense, draw):
    z, y, mask, maps = sense
    cotangent, dz, dy, dmaps = draw(*z.shape), draw(*z.shape), draw(*y.shape), draw(*maps.shape)

    @jax.jit
    def f(at):
        v, (t, s, u) = at[0], at[1:].astype(complex)
        x = conjugate_gradient(z + t * dz, y + s * dy, mask, v, maps + u * dmaps, iterations=SOLVED)
        return jnp.vdot(cotangent, x).real

    at, step = jnp.array([1.3, 0.0, 0.0, 0.0]), 1e-5
    want = [(f(at + direction) - f(at - direction)) / (2 * step) for direction in step * jnp.eye(4)]
    np.testing.assert_allclose(jax.grad(f)(at), want, rtol=1e-7)


def test_conjugate_gradient_keeps_examples_apart(sense):
    """A neighbour's size must not change an example's steps, forward or backward."""
    z, y, mask, maps = sense

    def f(z, y):
        return conjugate_gradient(z, y, mask, 1.0, maps)

    scaled = jnp.array([1.0, 1e3]).reshape(2, 1, 1).astype(complex)
    alone, beside = f(z, y), f(z * scaled, y * scaled[..., None])
    np.testing.assert_array_equal(alone[0], beside[0])
    close(beside[1] / 1e3, alone[1])


def test_conjugate_gradient_stays_finite_once_solved(sense):
    z, y, mask, maps = sense

    def total(v):
        return jnp.sum(conjugate_gradient(0 * z, 0 * y, mask, v, maps).real)

    assert jax.value_and_grad(total)(1.0) == (0, 0)


def test_hermitian_solve_transposes_complex_operators(x64, draw):
    """The transpose of a Hermitian matrix is its conjugate: reusing the operator itself would fail here."""
    root = draw(9, 9)
    matrix = root @ root.conj().T + 5 * jnp.eye(9, dtype=complex)

    def matvec(x):
        return (matrix @ x.reshape(9)).reshape(3, 3)

    right, cotangent = draw(3, 3), draw(3, 3)
    (got,) = jax.linear_transpose(lambda b: solve_hermitian(matvec, b, iterations=SOLVED), right)(cotangent)
    close(got.ravel(), np.linalg.solve(matrix.T, cotangent.ravel()), 1e-10)


def test_varnet(sense, draw):
    _, y, mask, _ = sense
    k = draw(*y.shape)
    close(consistency.varnet(k, y, mask, 1.0), jnp.where(mask[:, None], y, k))
    close(consistency.varnet(k[:, 0], y[:, 0], mask, 0.3), k[:, 0] - 0.3 * jnp.where(mask, k[:, 0] - y[:, 0], 0))


def test_ranks_must_match(problem):
    z, y, mask = problem
    for call in (consistency.weighted, consistency.gradient):
        with pytest.raises(ValueError, match="got a mask of shape"):
            call(z, y, mask[0], 1.0)
    with pytest.raises(ValueError, match="got a mask of shape"):
        consistency.varnet(y[None], y[None], mask[0], 1.0)


def test_jit_equals_eager(sense):
    z, y, mask, maps = sense
    for form in (consistency.conjugate_gradient, consistency.coilwise, consistency.gradient):
        close(jax.jit(form)(z, y, mask, 1.0, maps), form(z, y, mask, 1.0, maps))


# Parity. The state is [n, 2, h, w] in (re, im); js3611 works uncentred, which is our convention after shifting both
# domains; DuDoRNet is centred with an unnormalised forward transform.


def images(channels):  # [n 2 h w] -> [n h w]
    return from_channels(jnp.moveaxis(channels, 1, -1))


def channels(image):  # [n h w] -> [n 2 h w]
    return jnp.moveaxis(to_channels(image), -1, 1)


def shift(x):
    return jnp.fft.fftshift(x, axes=(-2, -1))


def js3611(x, k0, mask, v):
    out = consistency.weighted(shift(images(x)), shift(images(k0)), shift(mask[:, 0]) > 0, v)
    return {"x": channels(jnp.fft.ifftshift(out, axes=(-2, -1)))}


def dudornet_image(x, k0, mask, v):
    root = np.sqrt(x.shape[-1] * x.shape[-2]).astype(complex)
    out = consistency.weighted(images(x), from_channels(k0) / root, mask[..., 0] > 0, v)
    return {"x": channels(out), "k": to_channels(fft2c(out) * root)}


def dudornet_kspace(k, k0, mask, v):
    root = np.sqrt(k.shape[-1] * k.shape[-2]).astype(complex)
    out = consistency.varnet(images(k), from_channels(k0), mask[..., 0] > 0, 1 - 1 / (1 + v))
    return {"x": channels(ifft2c(out) / root), "k": to_channels(out)}


LAYERS = {"js3611": js3611, "dudornet_I": dudornet_image, "dudornet_K": dudornet_kspace}
CASES = sorted({key.split("/")[0] for key in GOLDEN})


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_public_layers(case, x64):
    layer = next(function for name, function in LAYERS.items() if case.startswith(name))
    state = "k" if case.startswith("dudornet_K") else "x"
    mask = jnp.asarray(GOLDEN[f"{case}/in/mask"])
    nu = GOLDEN.get(f"{case}/in/nu")
    arguments = {
        "state": jnp.asarray(GOLDEN[f"{case}/in/{state}"]),
        "k0": jnp.asarray(GOLDEN[f"{case}/in/k0"]),
        "nu": jnp.asarray(jnp.inf if nu is None else nu),
    }

    def scalar(arguments):
        out = layer(arguments["state"], arguments["k0"], mask, arguments["nu"])
        return sum(jnp.sum(out[name] * GOLDEN[f"{case}/cot/{name}"]) for name in out), out

    (_, out), gradient = jax.jit(jax.value_and_grad(scalar, has_aux=True))(arguments)
    for name, value in out.items():
        close(value, GOLDEN[f"{case}/out/{name}"], 1e-9)
    close(gradient["state"], GOLDEN[f"{case}/grad/in/{state}"], 1e-9)
    close(gradient["k0"], GOLDEN[f"{case}/grad/in/k0"], 1e-9)
    if nu is not None:
        close(gradient["nu"], GOLDEN[f"{case}/grad/in/nu"], 1e-9)
