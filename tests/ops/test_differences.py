"""Differences and the gradient of guided total variation, against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.ops.differences import across_edges, differences, edge_field, total_variation_gradient


def smoothed(image, edges, smoothing):
    """The functional itself: sum of sqrt(|P D x|^2 + smoothing^2)."""
    field = differences(image)
    edges = edges.astype(field.dtype)
    field = field - edges * (edges * field).sum(-3, keepdims=True)
    return jnp.sqrt((field.real**2 + field.imag**2).sum(-3) + smoothing**2).sum()


@pytest.fixture
def pair(x64):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((2, 8, 9))), jnp.asarray(rng.random((2, 8, 9)))


def test_it_is_the_gradient_of_guided_total_variation(pair):
    image, ct = pair
    edges = edge_field(ct, 0.1)
    found = total_variation_gradient(image, edges, smoothing=0.02)
    np.testing.assert_allclose(found, jax.grad(smoothed)(image, edges, 0.02), atol=1e-12)
    turned = image.astype(complex) * np.exp(
        0.3j
    )  # a phase goes through; JAX's gradient of a real function is the conjugate
    found = total_variation_gradient(turned, edges, smoothing=0.02)
    np.testing.assert_allclose(found, jax.grad(smoothed)(turned, edges, 0.02).conj(), atol=1e-12)


def test_without_edges_it_is_that_of_total_variation(pair):
    image, ct = pair
    none = jnp.zeros_like(edge_field(ct, 0.1))
    found = total_variation_gradient(image, none, smoothing=0.02)
    np.testing.assert_allclose(found, jax.grad(smoothed)(image, none, 0.02), atol=1e-12)


def test_an_edge_that_the_guide_shares_counts_little(x64):
    image = jnp.zeros((1, 8, 8)).at[:, :, 2:6].set(1.0)
    alone = total_variation_gradient(image, edge_field(jnp.zeros_like(image), 0.01), smoothing=0.02)
    shared = total_variation_gradient(image, edge_field(image, 0.01), smoothing=0.02)
    inverted = total_variation_gradient(image, edge_field(1 - image, 0.01), smoothing=0.02)
    assert float(jnp.abs(alone).max()) == pytest.approx(1, abs=1e-3)
    assert float(jnp.abs(shared).max()) < 1e-5  # eta^2 is left of the difference, 1e-4, and of it again
    np.testing.assert_array_equal(shared, inverted)  # the direction counts, not the sign


def test_what_is_taken_out_lies_along_the_edges(pair):
    image, ct = pair
    edges, field = edge_field(ct, 1e-9), differences(image)
    np.testing.assert_allclose((edges * across_edges(field, edges)).sum(-3), 0, atol=1e-6)
