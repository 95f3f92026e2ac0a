"""Small measurements and networks for the model tests."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement
from atlf_jax.data.transforms import ct_shape
from atlf_jax.models import (
    ATLFConfig,
    DCCNNConfig,
    FusionConfig,
    MoDLConfig,
    MTransConfig,
    ReconstructionConfig,
    UNetConfig,
    VarNetConfig,
)
from atlf_jax.ops import birdcage_maps, forward

BASELINES = {  # at sizes that compile in a second or two
    "unet": UNetConfig(width=4, pools=1),
    "dc_cnn": DCCNNConfig(cascades=2, depth=2, width=4),
    "modl": MoDLConfig(iterations=2, depth=2, width=4),
    "varnet": VarNetConfig(cascades=2, width=2, pools=1),
    "mtrans": MTransConfig(width=4, embed=8, patch=4, ct_patch=8, layers=2, heads=2),
}


def small(**reconstruction) -> ATLFConfig:
    """Return a two-phase network of the whole method at widths that compile in seconds."""
    defaults = {"phases": 2, "width": 8, "heads": 2, "key_grid": 4}
    return ATLFConfig(
        fusion=FusionConfig(width=8, heads=2, encoder_blocks=1, decoder_blocks=1, lfab_layers=1),
        reconstruction=ReconstructionConfig(**defaults | reconstruction),
    )


def replace(config: ATLFConfig, *, fusion=None, **reconstruction) -> ATLFConfig:
    """Return the configuration with other fields of the fusion and of the reconstruction process."""
    return dataclasses.replace(
        config,
        fusion=dataclasses.replace(config.fusion, **fusion or {}),
        reconstruction=dataclasses.replace(config.reconstruction, **reconstruction),
    )


def measure(seed=0, *, batch=2, h=16, w=16, coils=0, windows=1, full=False) -> tuple[Measurement, jax.Array]:
    """Return a measurement of a random smooth image under a line mask, divided by its scale, and the image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    image = np.stack([np.exp(-((y - h / 2) ** 2 + (x - w / 2 - b) ** 2) / (h + 2 * b)) for b in range(batch)])
    image = image + 0.2 * rng.random((batch, h, w)) + 0.1j * rng.standard_normal((batch, h, w))
    image = jnp.asarray(image, jnp.complex64)
    lines = rng.random((batch, 1, w)) < 0.4
    lines[..., w // 2 - 2 : w // 2 + 2] = True
    mask = jnp.asarray(np.ones_like(lines) if full else lines)
    maps = jnp.broadcast_to(birdcage_maps((h, w), coils)[None], (batch, coils, h, w)) if coils else None
    ct = jnp.asarray(rng.random((batch, *ct_shape(windows, (h, w)))), jnp.float32)
    return Measurement(forward(image, mask, maps), mask, ct, maps), image


def variable_shapes(model, measurement):
    """Return the shapes of a network's variables; tracing is most of many a test's time, so each is traced once."""
    return _variable_shapes(model, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), measurement))


@functools.lru_cache
def _variable_shapes(model, measurement):
    return jax.eval_shape(model.init, jax.random.key(0), measurement)


def random_variables(model, measurement, *, seed=1, size=0.05):
    """Return random parameters about a start of the right order, so that nothing is blocked by a zero.

    Shapes alone are asked of the model: compiling its initialisation would take longer than the test.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(variable_shapes(model, measurement))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = int(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 1
        value = rng.standard_normal(leaf.shape) * (fan_in**-0.5 if fan_in > 1 else size)
        starts = {"scale": 1.0, "temperature": 1.0, "rho": 0.5, "dc": 0.5, "weights": 0.5}
        start = starts.get(path[-1].key, 0.0)
        if path[-1].key == "packed":  # triangular factors near the identity
            value = size * value
        return jnp.asarray(start + (size * value if start else value), leaf.dtype)

    return jax.tree.unflatten(tree, [draw(path, leaf) for path, leaf in leaves])


@pytest.fixture(scope="session")
def apply_of():
    """Return a cache of compiled networks: apply_of(model) -> jitted apply."""
    cache = {}

    def get(model):
        if model not in cache:
            cache[model] = jax.jit(model.apply)
        return cache[model]

    return get
