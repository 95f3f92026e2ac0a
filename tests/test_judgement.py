"""What makes a reconstruction doubtful or refused: phase, coils, noise and misplaced centres, on simulated scans."""

import jax.numpy as jnp
import numpy as np
import pytest

import atlf_jax as atlf
from atlf_jax.array_types import Reconstruction
from atlf_jax.data import PhantomConfig, PhantomSource
from atlf_jax.data.transforms import fft2c_numpy, smooth_phase
from atlf_jax.masks import MaskConfig
from atlf_jax.reconstruct import ReconstructionRefused
from atlf_jax.reconstruct.judgement import RULES, centre_findings, looks_like_coils, noise_level
from atlf_jax.trained.guards import TrainedFor
from tests.networks import network_of

H, W = 64, 48
Y, X = np.ogrid[:H, :W]
RNG = np.random.default_rng(0)
MAGNITUDE = (((Y - 30) / 24) ** 2 + ((X - 23) / 17) ** 2 < 1) * (1 + 0.4 * np.cos(Y / 3.0) * np.cos(X / 4.0)) / 1.4
PHASE = smooth_phase((H, W), RNG, maximum=np.pi)
MASK = atlf.make_mask(MaskConfig("random", 3.0, 0.25), (H, W), seed=1).samples
TRAINED = TrainedFor(masks=(MaskConfig("random", 3.0, 0.25),), sizes=((H, W),), dataset="prepared", real_image=True)


def real_part(measurement):
    """A network with a real image that does nothing."""
    image = atlf.ops.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return Reconstruction(image.real.astype(image.dtype))


def knowing(measurement):
    """A network that knows the image."""
    scale = abs(atlf.ops.adjoint(KNOWN, MASK[None])).max()
    return Reconstruction((MAGNITUDE[None] / scale).astype(np.complex64))


KNOWN = fft2c_numpy(MAGNITUDE[None].astype(np.complex64))


def findings(kspace, model, mask=MASK, **options):
    with pytest.warns(atlf.GuardWarning):
        _, record = atlf.reconstruct(kspace, mask, model=model, return_record=True, force=True, **options)
    return {finding["rule"]: finding for finding in record["judgement"]["findings"]}, record


def with_noise(kspace, part):
    noise = RNG.standard_normal((*kspace.shape, 2)) @ [1, 1j] / np.sqrt(2)
    return (kspace + part * noise).astype(np.complex64)


@pytest.mark.parametrize(
    "trained",
    [TRAINED, TRAINED._replace(real_image=False, several_coils=True, coil_maps="low_resolution")],
    ids=["real images", "low-resolution maps"],
)
def test_a_network_that_never_saw_the_smooth_phase_is_not_shown_it(trained):
    """Without it the real part of the image is all that is left: 17 % of what was measured."""
    image = (MAGNITUDE * np.exp(1j * PHASE)).astype(np.complex64)
    network = network_of(real_part, trained)
    kspace = np.where(MASK, fft2c_numpy(image), 0)
    zero_filled = atlf.reconstruct(kspace, MASK)
    kept = zero_filled.real
    got, record = atlf.reconstruct(kspace, MASK, model=network, return_record=True)  # a warning is an error
    error = np.linalg.norm(got - zero_filled) / np.linalg.norm(zero_filled)
    alone = np.linalg.norm(kept - zero_filled) / np.linalg.norm(zero_filled)
    assert error < alone / 2  # real parts alone: .29; the phase of aliases is not smooth
    assert record["measured_energy_explained"] > 0.9


def test_phase_that_is_not_smooth_is_refused():
    rough = np.exp(2j * np.pi * RNG.random((H, W)))
    kspace = np.where(MASK, fft2c_numpy((MAGNITUDE * rough).astype(np.complex64)), 0)
    with pytest.raises(ReconstructionRefused, match="phase"):
        atlf.reconstruct(kspace, MASK, model=network_of(real_part, TRAINED))


def test_an_image_that_does_not_explain_the_measurement_is_refused_unless_forced():
    def nothing(measurement):
        return Reconstruction(0.1 * atlf.ops.adjoint(measurement.kspace, measurement.mask))

    with pytest.raises(ReconstructionRefused, match="the image explains 19 % of what was measured; do not use it"):
        atlf.reconstruct(KNOWN[0], MASK, model=nothing)
    with pytest.warns(atlf.GuardWarning, match="explains 19 %"):
        assert atlf.reconstruct(KNOWN[0], MASK, model=nothing, force=True).shape == (H, W)


def test_a_fine_reconstruction_says_nothing():
    network = network_of(knowing, TRAINED)
    image, record = atlf.reconstruct(KNOWN[0], MASK, model=network, return_record=True)  # a warning is an error
    np.testing.assert_allclose(np.abs(image), MAGNITUDE, atol=1e-5)
    assert record["judgement"] == {"level": "fine", "findings": []}
    assert record["measured_energy_explained"] == pytest.approx(1)


def test_noise_beyond_what_was_trained():
    y, x = np.ogrid[:128, :96]
    smooth = np.exp(-(((y - 64) / 30) ** 2) - ((x - 48) / 22) ** 2).astype(np.complex64)
    kspace, mask = fft2c_numpy(smooth), atlf.make_mask(MaskConfig("random", 3.0, 0.25), (128, 96), seed=1).samples
    assert noise_level(kspace, mask) < 1e-4
    noisy = with_noise(kspace, 0.07)
    assert noise_level(noisy, mask) == pytest.approx(0.07, rel=0.1)
    found, _ = findings(noisy, network_of(real_part, TRAINED), mask)
    assert found["noise"]["level"] == "refused" and "average" in found["noise"]["remedy"]
    assert "noise" not in findings(noisy, network_of(real_part, TRAINED._replace(noise=0.07)), mask)[0]


def test_withheld_samples_tell_a_network_that_makes_things_worse():
    """On data of another kind, a network must predict what it is not shown better than zeros do."""

    def inventing(measurement):
        image = atlf.ops.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
        return Reconstruction(image + 1.5 * jnp.roll(image, 9, axis=-1))

    maps = np.asarray(atlf.birdcage_maps((H, W), 4))
    kspace = fft2c_numpy((maps * MAGNITUDE).astype(np.complex64))
    found, _ = findings(kspace, network_of(inventing, TRAINED._replace(real_image=False)), coil_maps=maps)
    assert found["withheld samples"]["level"] == "refused" and "worse than zeros" in found["withheld samples"]["reason"]
    found, _ = findings(kspace, network_of(knowing, TRAINED), coil_maps=maps)
    assert "withheld samples" not in found and "4 coils" in found["never trained"]["reason"]


def test_a_zero_frequency_in_the_corner_is_said():
    corner = np.fft.ifftshift(MASK)
    assert "lies in the corner" in centre_findings(np.where(corner, KNOWN[0], 0), corner)[0].reason
    moved = np.fft.ifftshift(KNOWN[0])
    found = centre_findings(np.where(MASK, moved, 0), MASK)[0]
    assert found.level == "refused" and "fftshift" in found.remedy
    with pytest.warns(atlf.GuardWarning, match="k-space is largest at row 63, column 2"):
        atlf.reconstruct(np.where(MASK, moved, 0), MASK)  # without a network it is said, not refused
    with pytest.raises(ReconstructionRefused):
        atlf.reconstruct(moved, MASK, model=network_of(real_part, TRAINED))
    for shift in ((0, 0), (1, -2), (2, 1)):  # as on scanners
        assert centre_findings(np.where(MASK, np.roll(KNOWN[0], shift, (0, 1)), 0), MASK) == []
    assert centre_findings((RNG.standard_normal((H, W, 2)) @ [1, 1j]).astype(np.complex64), MASK) == []


def test_lines_of_zeros_were_not_acquired():
    lines = MASK[0].copy()
    kspace = np.where(lines, KNOWN[0], 0)
    kspace[5, 24] = 0  # one zero among samples is a sample
    atlf.reconstruct(kspace, MASK)  # a warning is an error
    with pytest.warns(atlf.GuardWarning, match=f"{(~lines).sum()} lines that hold nothing but zeros"):
        got = atlf.reconstruct(kspace, np.ones(W, bool))
    np.testing.assert_array_equal(got, atlf.reconstruct(kspace, MASK))


@pytest.mark.parametrize("lines", [4, 6, 8, 12, 16])
@pytest.mark.parametrize("kind", ["espirit", "low_resolution"])
def test_few_central_lines_do_not_lose_the_image(lines, kind):
    """ESPIRiT with kernels of 6 samples lost 6 to 100 % of the energy with 6 to 10 lines."""
    maps = np.asarray(atlf.birdcage_maps((H, W), 6))
    mask = np.zeros(W, bool)
    start = (W - lines + 1) // 2
    mask[start : start + lines] = mask[::8] = True
    kspace = np.where(mask, fft2c_numpy((maps * MAGNITUDE * np.exp(1j * PHASE)).astype(np.complex64)), 0)
    right = np.abs(atlf.adjoint(kspace, mask, maps))
    got = np.abs(atlf.reconstruct(kspace, mask, coils=kind))
    assert np.linalg.norm(got - right) / np.linalg.norm(right) < 0.1  # measured up to .06


def test_maps_that_lose_the_image_are_said():
    maps = np.asarray(atlf.birdcage_maps((H, W), 4))
    kspace = fft2c_numpy((maps * MAGNITUDE).astype(np.complex64))
    with pytest.warns(atlf.GuardWarning, match="lacks .* of the energy"):
        atlf.reconstruct(kspace, MASK, coil_maps=np.roll(maps, 1, 0))


def test_nothing_stands_where_no_coil_sees():
    """Coil maps of ESPIRiT are 0 outside the object: there a network's image answers to no sample."""

    def filling(measurement):
        image = atlf.ops.adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
        return Reconstruction(jnp.where((measurement.coil_maps != 0).any(axis=1), image, 0.5))

    inside = MAGNITUDE > 0
    maps = np.where(inside, np.asarray(atlf.birdcage_maps((H, W), 4)), 0)
    kspace = fft2c_numpy((maps * MAGNITUDE).astype(np.complex64))
    image = atlf.reconstruct(kspace, np.ones(W, bool), coil_maps=maps, model=filling, force=True)
    np.testing.assert_allclose(np.abs(image), MAGNITUDE, atol=1e-5)


def test_coils_are_told_from_slices():
    maps = np.asarray(atlf.birdcage_maps((H, W), 6))
    coils = with_noise(fft2c_numpy((maps * MAGNITUDE * np.exp(1j * PHASE)).astype(np.complex64)), 0.01)
    wide = atlf.make_mask(MaskConfig("random", 2.0, 0.4), (H, W), seed=1).samples
    assert looks_like_coils(np.where(wide, coils, 0), wide) is True
    heads = PhantomSource(PhantomConfig(size=64))
    slices = fft2c_numpy(np.stack([heads[index].target for index in range(6)]))
    wide = atlf.make_mask(MaskConfig("random", 2.0, 0.4), (64, 64), seed=1).samples
    assert looks_like_coils(np.where(wide, slices, 0), wide) is False
    assert looks_like_coils(np.stack([slices[0]] * 3), wide) is False  # copies
    assert looks_like_coils(slices, np.arange(64)[None] % 7 == 0) is None  # no centre


def test_an_image_that_is_not_finite_is_never_handed_out():
    def broken(measurement):
        return Reconstruction(np.nan * atlf.ops.adjoint(measurement.kspace, measurement.mask))

    with pytest.raises(ValueError, match="the image of slice 0 is not finite"):
        atlf.reconstruct(KNOWN[0], MASK, model=broken, force=True)


def test_every_rule_is_in_the_docs():
    from pathlib import Path

    page = (Path(__file__).parent.parent / "docs" / "trust.md").read_text()
    for name, rule in RULES.items():
        assert f"| {name} |" in page, name
        for limit in (rule.doubtful, rule.refused):
            assert limit is None or name in page
