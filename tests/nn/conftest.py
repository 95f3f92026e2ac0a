"""Random arrays without compilation; the reference arrays in tests/golden and the comparison with them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


class ReferenceCase:
    """One case of a reference file; ``case["out/y"]`` is a numpy array of the dtype under test."""

    def __init__(self, file: str, case: str, dtype: str):
        with np.load(GOLDEN / file) as arrays:
            self.arrays = {k.removeprefix(f"{case}/"): arrays[k] for k in arrays.files if k.startswith(f"{case}/")}
        self.dtype = dtype

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name].astype(self.dtype)

    def image(self, name: str) -> np.ndarray:
        """Return an N, C, H, W map as [b, h, w, f]."""
        return self[name].transpose(0, 2, 3, 1)

    def pointwise(self, name: str) -> np.ndarray:
        """Return a 1x1 kernel [out, in, 1, 1] as [in, out]."""
        return self[name][:, :, 0, 0].T

    def depthwise(self, name: str) -> np.ndarray:
        """Return a depthwise kernel [f, 1, 3, 3] as [3, 3, 1, f]."""
        return self[name].transpose(2, 3, 1, 0)

    def check(self, ours, theirs, tolerance: float) -> None:
        """Compare two trees of the same structure: max|a - b| / max(max|b|, 1e-3 of the tree's largest entry)."""
        floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))

        def error(a: jax.Array, b: np.ndarray) -> float:
            assert a.shape == b.shape
            assert a.dtype == b.dtype == self.dtype
            return np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), floor)

        errors = jax.tree.map(error, ours, theirs)
        wrong = {
            jax.tree_util.keystr(k): e for k, e in jax.tree_util.tree_leaves_with_path(errors) if not e <= tolerance
        }
        assert not wrong


@pytest.fixture
def normal():
    """Return a function: shape -> standard normal array, a new one at each call (numpy: JAX compiles its generator)."""
    generator = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(generator.standard_normal(shape))


@pytest.fixture
def variables_of():
    """Return a function: (module, *inputs) -> variables with the shapes of its ``init`` and random positive vectors
    (scales, variances, biases) and normal kernels of variance 1 / (number of inputs)."""
    generator = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if len(leaf.shape) < 2:
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        kernel = generator.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(kernel, leaf.dtype)

    return lambda module, *inputs: jax.tree.map(draw, jax.eval_shape(module.init, jax.random.key(0), *inputs))


@pytest.fixture(params=["float64", "float32"])
def reference(request):
    """Return a reader (file, case) -> ReferenceCase, in float64 and then in float32."""
    if request.param == "float64":
        request.getfixturevalue("x64")
    return lambda file, case: ReferenceCase(file, case, request.param)
