"""Every model with several coils: given maps, maps by a network, coils of zeros; and fastMRI's variational network."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from atlf_jax.array_types import Reconstruction
from atlf_jax.models import E2EVarNetConfig, build
from atlf_jax.models.e2e_varnet import from_fastmri
from atlf_jax.ops import fft2c, ifft2c, rss
from atlf_jax.trained.withheld import withheld_energy_and_error

from .conftest import BASELINES, measure, random_variables, small

E2E = E2EVarNetConfig(cascades=2, width=2, pools=1, sensitivity=(2, 1))
ATLF = dataclasses.replace(small(phases=1, avat=False, adain="none"), use_fusion=False)
MODELS = {"atlf": ATLF, **BASELINES, "e2e_varnet": E2E}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in ("atlf", "modl")]


@pytest.mark.parametrize("name", ["atlf", "modl", *SLOW])
def test_maps_by_a_network(name):
    measurement, image = measure(coils=3)
    config = dataclasses.replace(MODELS[name], sensitivity=(2, 1))
    model = build(config)
    variables = random_variables(model, measurement, size=0.2)

    @jax.jit
    def run(variables, measurement):
        def loss(variables):
            result = model.apply(variables, measurement)
            return jnp.square(jnp.abs(result.image - image)).mean(), result

        gradient, result = jax.grad(loss, has_aux=True)(variables)
        return result, gradient["params"]["sensitivity"]

    result, gradient = run(variables, measurement)
    assert result.image.shape == image.shape and np.isfinite(result.image).all()
    np.testing.assert_allclose((np.abs(result.coil_maps) ** 2).sum(1), 1, atol=1e-4)
    blind, _ = run(variables, measurement._replace(coil_maps=jnp.ones_like(measurement.coil_maps)))
    np.testing.assert_array_equal(blind.image, result.image)  # the given maps are not looked at
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient) if leaf.ndim > 1)


def test_given_maps_are_the_default_and_one_coil_needs_none():
    measurement, _ = measure()
    model = build(dataclasses.replace(BASELINES["varnet"], sensitivity=(2, 1)))
    variables = random_variables(model, measurement)
    assert "sensitivity" not in variables["params"]
    assert jax.jit(model.apply)(variables, measurement).coil_maps is None


def test_the_published_size():
    measurement, _ = measure(batch=1, coils=2)
    shapes = jax.eval_shape(build(E2EVarNetConfig()).init, jax.random.key(0), measurement)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 29_936_966


def test_of_nothing_but_means_the_network_keeps_the_samples():
    """U-Nets without weights give back the mean of the combined image; its k-space is one sample."""
    measurement, _ = measure(coils=3, full=True)
    model = build(dataclasses.replace(E2E, cascades=1, sensitivity=None))
    variables = random_variables(model, measurement)
    variables["params"]["unet_0"] = jax.tree.map(jnp.zeros_like, variables["params"]["unet_0"])
    image = jax.jit(model.apply)(variables, measurement).image
    maps, coil_images = measurement.coil_maps, ifft2c(measurement.kspace)
    mean = jnp.sum(maps.conj() * coil_images, axis=1).mean((1, 2))[:, None, None, None]
    want = coil_images - maps * mean
    np.testing.assert_allclose(np.abs(image), rss(want), atol=1e-5)
    combined = dataclasses.replace(model.config, output="combined")
    image = jax.jit(build(combined).apply)(variables, measurement).image
    np.testing.assert_allclose(image, jnp.sum(maps.conj() * want, axis=1), atol=1e-5)


def test_withheld_samples_are_predicted_by_the_maps_that_the_network_estimated():
    measurement, _ = measure(coils=2)
    estimated = measurement.coil_maps * jnp.exp(0.5j)

    def model(fewer):
        return Reconstruction(jnp.ones_like(fewer.kspace[:, 0]), coil_maps=estimated)

    def given(fewer):
        return Reconstruction(jnp.exp(0.5j) * jnp.ones_like(fewer.kspace[:, 0]))

    pairs = zip(
        withheld_energy_and_error(model, measurement), withheld_energy_and_error(given, measurement), strict=True
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_kspace_of_coils_without_maps_is_refused():
    measurement, _ = measure(coils=3)
    with pytest.raises(ValueError, match="k-space has 3 coils and no maps; give coil maps, or set sensitivity"):
        build(dataclasses.replace(E2E, sensitivity=None)).init(jax.random.key(0), measurement._replace(coil_maps=None))
    with pytest.raises(ValueError, match="complex is off"):
        dataclasses.replace(E2E, complex=False)


class Peer:
    """fastMRI's ``VarNet`` in NCHW, operation by operation as its PyTorch code has them, from its named arrays."""

    def __init__(self, cascades, width, pools, sensitivity, *, seed=0):
        self.cascades, self.pools, self.sensitivity_pools = cascades, pools, sensitivity[1]
        self.rng, self.state = np.random.default_rng(seed), {}
        self._unet("sens_net.norm_unet.unet", sensitivity[0], sensitivity[1])
        for t in range(cascades):
            self._unet(f"cascades.{t}.model.unet", width, pools)
            self._draw(f"cascades.{t}.dc_weight", 1)
            self.state[f"cascades.{t}.zero"] = np.zeros((1, 1, 1, 1, 1), np.float32)

    def _draw(self, name, *shape):
        fan_in = int(np.prod(shape[1:])) or 1
        self.state[name] = (self.rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    def _block(self, name, inputs, outputs):
        self._draw(f"{name}.layers.0.weight", outputs, inputs, 3, 3)
        self._draw(f"{name}.layers.4.weight", outputs, outputs, 3, 3)

    def _unet(self, name, width, pools):
        for i in range(pools):
            self._block(f"{name}.down_sample_layers.{i}", width * 2 ** (i - 1) if i else 2, width * 2**i)
        self._block(f"{name}.conv", width * 2 ** (pools - 1), width * 2**pools)
        for i in range(pools):
            features = width * 2 ** (pools - 1 - i)
            self._draw(f"{name}.up_transpose_conv.{i}.layers.0.weight", 2 * features, features, 2, 2)
            self._block(f"{name}.up_conv.{i}" + ".0" * (i == pools - 1), 2 * features, features)
        self._draw(f"{name}.up_conv.{pools - 1}.1.weight", 2, width, 1, 1)
        self._draw(f"{name}.up_conv.{pools - 1}.1.bias", 2)

    def _norm(self, x):
        x = x - x.mean((2, 3), keepdims=True)
        x = x / jnp.sqrt((x**2).mean((2, 3), keepdims=True) + 1e-5)
        return jnp.where(x > 0, x, 0.2 * x)

    def _conv(self, x, name):
        for layer in (0, 4):
            kernel = self.state[f"{name}.layers.{layer}.weight"]
            x = self._norm(lax.conv(x, jnp.asarray(kernel), (1, 1), "SAME"))
        return x

    def _run_unet(self, x, name, pools):
        stack = []
        for i in range(pools):
            x = self._conv(x, f"{name}.down_sample_layers.{i}")
            stack.append(x)
            x = lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4
        x = self._conv(x, f"{name}.conv")
        for i in range(pools):
            kernel = self.state[f"{name}.up_transpose_conv.{i}.layers.0.weight"]
            b, _, h, w = x.shape
            x = jnp.einsum("bfhw,fkij->bkhiwj", x, kernel).reshape(b, -1, 2 * h, 2 * w)
            x = jnp.concatenate([self._norm(x), stack.pop()], axis=1)
            x = self._conv(x, f"{name}.up_conv.{i}" + ".0" * (i == pools - 1))
        last = f"{name}.up_conv.{pools - 1}.1"
        return (
            lax.conv(x, jnp.asarray(self.state[f"{last}.weight"]), (1, 1), "SAME")
            + self.state[f"{last}.bias"][None, :, None, None]
        )

    def _norm_unet(self, x, name, pools):
        x = jnp.stack([x.real, x.imag], 1)  # [b 2 h w]
        mean, deviation = x.mean((2, 3), keepdims=True), x.std((2, 3), ddof=1, keepdims=True)
        h, w = x.shape[2:]
        height, width = ((h - 1) | 15) + 1, ((w - 1) | 15) + 1
        top, left = (height - h) // 2, (width - w) // 2
        around = ((0, 0), (0, 0), (top, height - h - top), (left, width - w - left))
        y = self._run_unet(jnp.pad((x - mean) / deviation, around), name, pools)
        y = y[:, :, top : top + h, left : left + w] * deviation + mean
        return y[:, 0] + 1j * y[:, 1]

    def __call__(self, kspace, mask):
        coils, w = kspace.shape[1], kspace.shape[-1]
        lines, left, right = mask[0, 0], w // 2, w // 2
        while lines[right]:
            right += 1
        while lines[left]:
            left -= 1
        count = right - left - 1
        pad = (w - count + 1) // 2
        centre = jnp.zeros_like(kspace).at[..., pad : pad + count].set(kspace[..., pad : pad + count])
        images = ifft2c(centre)
        maps = self._norm_unet(images.reshape(-1, *images.shape[2:]), "sens_net.norm_unet.unet", self.sensitivity_pools)
        maps = maps.reshape(images.shape)
        maps = maps / jnp.sqrt((jnp.abs(maps) ** 2).sum(1, keepdims=True))
        k = kspace
        for t in range(self.cascades):
            x = (maps.conj() * ifft2c(k)).sum(1)
            refined = fft2c(maps * self._norm_unet(x, f"cascades.{t}.model.unet", self.pools)[:, None])
            soft = jnp.where(mask[:, None], k - kspace, 0) * self.state[f"cascades.{t}.dc_weight"][0]
            k = k - soft - refined
        assert k.shape[1] == coils
        return jnp.sqrt((jnp.abs(ifft2c(k)) ** 2).sum(1))


def test_fastmri_s_weights_give_its_images():
    """At a size that is no multiple of 16, of which the published code pads either side."""
    measurement, _ = measure(batch=1, coils=3, h=18, w=22)
    sizes = {"cascades": 2, "width": 3, "pools": 2, "sensitivity": (2, 2)}
    peer = Peer(**sizes)
    want = jax.jit(partial(peer, mask=np.asarray(measurement.mask)))(measurement.kspace)
    model = build(E2EVarNetConfig(**sizes))
    prefixed = {f"varnet.{name}": array for name, array in peer.state.items()}  # as in a checkpoint of its training
    for state in (peer.state, prefixed):
        variables = from_fastmri(state)
    image = jax.jit(model.apply)(variables, measurement).image
    np.testing.assert_allclose(np.abs(image), want, atol=1e-5 * np.abs(want).max())
    shapes = jax.eval_shape(model.init, jax.random.key(0), measurement)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    del peer.state["cascades.1.dc_weight"]
    with pytest.raises(ValueError, match="no array cascades.1.dc_weight.*; wanted the state_dict of fastMRI's VarNet"):
        from_fastmri(peer.state)
