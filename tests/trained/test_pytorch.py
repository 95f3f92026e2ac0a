"""Weights of published PyTorch code: the published sizes, and the images of the published arithmetic."""

import numpy as np
import pytest
import scipy

import atlf_jax as atlf
from atlf_jax.array_types import Measurement
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy
from tests.models.test_coils import Peer

MASKS = (atlf.MaskConfig(kind="random", acceleration=4.0),)


def draw(rng, *shape):
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


def istanet_plus(phases=9, width=32):
    rng = np.random.default_rng(0)
    state = {}
    for k in range(phases):
        layers = {"conv_D": (width, 1, 3, 3), "conv_G": (1, width, 3, 3)}
        layers |= {f"conv{n}_{way}": (width, width, 3, 3) for n in (1, 2) for way in ("forward", "backward")}
        state |= {f"module.fcs.{k}.{name}": draw(rng, *shape) for name, shape in layers.items()}
        state[f"module.fcs.{k}.lambda_step"] = np.float32([0.3 + 0.1 * k])
        state[f"module.fcs.{k}.soft_thr"] = np.float32([0.02])
    return state


def fastmri_unet(width=32, pools=4):
    """The names of fastMRI's ``Unet`` for one channel; ``Peer`` draws those for two."""
    peer = Peer(cascades=1, width=width, pools=pools, sensitivity=(2, 1))
    prefix = "cascades.0.model.unet."
    peer.state = {name.removeprefix(prefix): array for name, array in peer.state.items() if name.startswith(prefix)}
    peer._block("down_sample_layers.0", 1, width)
    peer._draw(f"up_conv.{pools - 1}.1.weight", 1, width, 1, 1)
    peer._draw(f"up_conv.{pools - 1}.1.bias", 1)
    peer.state |= {f".{name}": array for name, array in peer.state.items()}  # ``_run_unet`` puts a dot before names
    return peer


def named(peer, prefix=""):
    return {prefix + name: array for name, array in peer.state.items() if not name.startswith(".")}


def scan(h=32, w=48):
    rng = np.random.default_rng(1)
    image = np.zeros((1, h, w), np.float32)
    image[:, 8:-8, 8:-8] = 0.5 + rng.random((1, h - 16, w - 16))
    mask = np.broadcast_to((np.arange(w) % 3 == 0) | (abs(np.arange(w) - w // 2) < 4), (1, h, w))
    kspace = np.where(mask, fft2c_numpy(image.astype(np.complex64)), 0)
    kspace = (kspace / abs(ifft2c_numpy(kspace)).max()).astype(np.complex64)
    return Measurement(kspace, mask, np.zeros_like(image))


def test_published_sizes() -> None:
    """336,978 of ISTA-Net+ (its code), 7,756,097 of the U-Net and 29,936,966 of E2E-VarNet (fastMRI's papers)."""
    varnet = Peer(cascades=12, width=18, pools=4, sensitivity=(8, 4)).state
    for state, count in ((istanet_plus(), 336_978), (named(fastmri_unet()), 7_756_097), (varnet, 29_936_966)):
        network = atlf.from_torch(state, masks=MASKS)
        assert network.parameters == count and network.trained_for.masks == MASKS
    assert network.trained_for.several_coils and network.trained_for.dataset == "fastmri"


def test_istanet_plus_gives_the_published_arithmetic(tmp_path) -> None:
    state = istanet_plus(phases=2, width=4)
    measurement = scan()
    mask = np.fft.ifftshift(np.asarray(measurement.mask)[0])  # zero frequency at index 0, as in the published code

    def convolve(x, kernel):
        return np.stack([sum(scipy.ndimage.correlate(a, k, mode="constant") for a, k in zip(x, of, strict=True))
                         for of in kernel.astype(np.float64)])  # fmt: skip

    def back_and_forth(x):
        return np.fft.ifft2(np.fft.fft2(x) * mask).real

    start = ifft2c_numpy(np.asarray(measurement.kspace)).real[0].astype(np.float64)
    x = start
    for k in range(2):
        layer = {name.rpartition(".")[2]: array for name, array in state.items() if f"fcs.{k}." in name}
        r = x - layer["lambda_step"] * back_and_forth(x) + layer["lambda_step"] * start
        u = convolve(np.maximum(convolve(convolve(r[None], layer["conv_D"]), layer["conv1_forward"]), 0),
                     layer["conv2_forward"])  # fmt: skip
        u = np.sign(u) * np.maximum(abs(u) - layer["soft_thr"], 0)
        u = convolve(np.maximum(convolve(u, layer["conv1_backward"]), 0), layer["conv2_backward"])
        x = r + convolve(u, layer["conv_G"])[0]
    network = atlf.from_torch(state, masks=MASKS)
    image = np.asarray(network(measurement).image)[0]
    np.testing.assert_allclose(image, x, atol=1e-5 * abs(x).max())  # measured 6e-7
    network.save(tmp_path / "istanet.safetensors")
    again = atlf.load(tmp_path / "istanet.safetensors")
    np.testing.assert_array_equal(np.asarray(again(measurement).image)[0], image)


def test_the_unet_of_fastmri_gives_its_magnitude() -> None:
    peer = fastmri_unet(width=3, pools=2)
    measurement = scan()
    size = abs(ifft2c_numpy(np.asarray(measurement.kspace)))[:, None]
    mean, deviation = size.mean(), size.std(ddof=1)
    normalised = np.clip((size - mean) / (deviation + 1e-11), -6, 6).astype(np.float32)
    want = np.asarray(peer._run_unet(normalised, "", 2)[0, 0] * deviation + mean)
    network = atlf.from_torch(named(peer, "unet."), masks=MASKS)
    image = np.asarray(network(measurement).image)[0]
    np.testing.assert_allclose(abs(image), abs(want), atol=1e-5 * abs(want).max())
    angle = np.angle(image * ifft2c_numpy(np.asarray(measurement.kspace))[0].conj())
    assert np.median(abs(angle[want > 0.1])) < 1e-5
    with pytest.warns(atlf.GuardWarning, match="the image explains"):  # random weights
        whole = atlf.reconstruct(*(np.asarray(part)[0] for part in measurement[:2]), model=network, force=True)
    np.testing.assert_allclose(whole, image, atol=1e-5 * abs(image).max())


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the 1 arrays \(a, \.\.\.\) are of no network that is known here"):
        atlf.from_torch({"a": np.zeros(3)}, masks=MASKS)
    state = istanet_plus(phases=1, width=4)
    with pytest.raises(ValueError, match="masks is empty"):
        atlf.from_torch(state, masks=())
    with pytest.raises(ValueError, match="3 of .* numbers belong to no layer of istanet_plus"):
        atlf.from_torch(state | {"more": np.zeros(3)}, masks=MASKS)
    with pytest.raises(ValueError, match=r"phase_0/conv_D/kernel of istanet_plus has shape \(3, 3, 2, 4\), wanted"):
        atlf.from_torch(state | {"module.fcs.0.conv_D": np.zeros((4, 2, 3, 3))}, masks=MASKS)
    del state["module.fcs.0.conv_G"]
    with pytest.raises(ValueError, match=r"no array fcs\.0\.conv_G among 7; wanted the whole state_dict"):
        atlf.from_torch({"state_dict": state}, masks=MASKS)


def test_a_file_of_torch(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    state = istanet_plus(phases=1, width=4)
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, tmp_path / "net_params_200.pkl")
    network = atlf.from_torch(tmp_path / "net_params_200.pkl", masks=MASKS)
    assert network.parameters == atlf.from_torch(state, masks=MASKS).parameters
