import dataclasses

import numpy as np
import pytest

from atlf_jax.data import PhantomConfig, PhantomSource
from atlf_jax.data.phantom import TISSUES, spin_echo

QUIET = PhantomConfig(subjects=4, slices=4, size=64, noise=0.0, bias=0.0, lesions=False, split="all")


def draw(index=2, **changes):
    return PhantomSource(dataclasses.replace(QUIET, **changes))[index]


def test_seed_subject_and_slice_each_change_the_picture():
    source = PhantomSource(QUIET)
    pictures = [source[0], source[1], source[4], draw(0, seed=1)]
    for n, a in enumerate(pictures):
        for b in pictures[:n]:
            assert np.abs(a.target - b.target).mean() > 0.01


def test_drawing_order_does_not_matter():
    config = dataclasses.replace(QUIET, seed=5, noise=0.02)
    backwards = [PhantomSource(config)[index] for index in (3, 0)]
    # Another split is another key of the cache: these are drawn anew.
    forwards = [PhantomSource(dataclasses.replace(config, split="train"))[index] for index in (0, 3)]
    for a, b in zip(backwards[::-1], forwards, strict=True):
        np.testing.assert_array_equal(a.ct, b.ct)
        np.testing.assert_array_equal(a.target, b.target)


def test_it_is_a_head_in_ct():
    ct = draw(ct_window="wide", size=96).ct * 3000 - 1000  # Hounsfield units
    assert np.median(ct[:6]) < -900  # air around
    middle = ct[40:56, 40:56]
    assert 0 < np.median(middle) < 60  # brain inside
    for ray in (ct[48], ct[48, ::-1], ct[:, 48], ct[::-1, 48]):  # bone between, on every side
        inside = np.argmax(ray > 600)
        assert ray[:inside].min() < -800
        assert ray.max() > 900


@pytest.mark.parametrize("contrast", ["t1", "t2", "pd"])
def test_contrast_follows_the_signal_equation(contrast):
    repetition, echo = {"t1": (500, 15), "t2": (3500, 95), "pd": (2500, 20)}[contrast]
    grey, white, fluid = (
        spin_echo(TISSUES[name], repetition=repetition, echo=echo) for name in ("grey", "white", "fluid")
    )
    expected = {"t1": white > grey > fluid, "t2": fluid > grey > white, "pd": grey > white}
    assert expected[contrast]


def test_contrasts_show_one_head_and_differ():
    t1, t2 = draw(contrast="t1"), draw(contrast="t2")
    np.testing.assert_array_equal(t1.ct, t2.ct)
    brain = (t1.ct > 0.2) & (t1.ct < 0.8)
    assert np.corrcoef(np.abs(t1.target)[brain], np.abs(t2.target)[brain])[0, 1] < -0.3  # fluid dark against bright


def test_random_contrast_differs_between_subjects_and_not_within():
    source = PhantomSource(PhantomConfig(subjects=12, slices=2, size=32, split="all", contrast="random", noise=0.0))
    # Fluid against white matter tells the weighting: the brightest part of the middle slices.
    level = [np.percentile(np.abs(source[2 * subject + 1].target), 99) for subject in range(12)]
    assert np.ptp(level) > 0.15


def test_bone_is_bright_in_ct_and_dark_in_mr():
    example = draw(ct_window="wide", size=128)
    bone = example.ct > 0.65  # above 950 HU
    tissue = (example.ct > 0.33) & (example.ct < 0.36)  # 0 to 80 HU
    assert bone.sum() > 200
    assert np.abs(example.target)[bone].mean() < 0.35 * np.abs(example.target)[tissue].mean()


def test_eyes_and_air_cells_lie_in_the_low_slices():
    low, high = draw(0, ct_window="wide", size=128), draw(3, ct_window="wide", size=128)

    def enclosed_air(example):
        rows, columns = np.nonzero(example.ct > 0.6)
        box = example.ct[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8]
        return (box[len(box) // 4 : -len(box) // 4] < 0.1).sum(), (box < 0.1).sum()

    assert enclosed_air(low)[1] > 40
    assert enclosed_air(high)[0] == 0


def test_ventricles_lie_in_the_middle_of_the_middle_slices():
    for subject in range(4):
        example = draw(4 * subject + 2, size=96)
        centre = np.s_[32:64, 36:60]  # 77 by 58 mm: deep brain, inside the cortex
        fluid = np.abs(example.target[centre]) > 0.5  # T2-weighted: white .2, grey .27, fluid .56
        assert 20 < fluid.sum() < 0.3 * fluid.size
        assert example.ct[centre][fluid].mean() < 0.7 * example.ct[centre][~fluid].mean()


def test_lesions_are_seen_in_mr_or_ct_or_both():
    with_lesions, without = (
        PhantomSource(PhantomConfig(subjects=10, slices=4, size=48, split="all", noise=0.0, lesions=lesions))
        for lesions in (True, False)
    )
    seen = set()
    for a, b in zip(with_lesions, without, strict=True):
        # In the brain window CT noise is .03 and a lesion changes at least 10 pixels by three times that.
        ct = np.count_nonzero(np.abs(a.ct - b.ct) > 0.1) > 10
        mr = np.count_nonzero(np.abs(a.target - b.target) > 0.06) > 10
        seen.add((ct, mr))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_noise_bias_and_phase():
    quiet = draw()
    assert not quiet.target.imag.any()
    noisy = draw(noise=0.05)
    corner = np.abs(noisy.target[:8, :8])  # air: a Rayleigh distribution, mean sigma sqrt(pi / 4) for CN(0, sigma^2)
    assert corner.mean() == pytest.approx(0.05 * np.abs(quiet.target).max() * np.sqrt(np.pi) / 2, rel=0.1)
    biased = draw(bias=0.3)
    ratio = np.abs(biased.target[16:-16, 16:-16]) / np.maximum(np.abs(quiet.target[16:-16, 16:-16]), 1e-6)
    assert 0.05 < np.ptp(ratio[np.abs(quiet.target[16:-16, 16:-16]) > 0.05]) <= 0.6 + 1e-4
    phased = draw(phase=0.7)
    np.testing.assert_allclose(np.abs(phased.target), np.abs(quiet.target), atol=1e-6)
    body = np.abs(quiet.target) > 0.05
    assert 0.1 < np.abs(np.angle(phased.target[body])).max() <= 0.7 + 1e-4


def test_windows_show_the_same_head():
    brain, wide = draw(ct_window="brain").ct, draw(ct_window="wide").ct
    np.testing.assert_allclose(brain, np.clip((wide * 3000 - 1000) / 80, 0, 1), atol=1e-4)


def test_slices_of_a_subject_change_gradually():
    source = PhantomSource(dataclasses.replace(QUIET, slices=24))
    near = np.abs(source[12].target - source[13].target).mean()
    far = np.abs(source[12].target - source[22].target).mean()
    assert near < 0.6 * far


@pytest.mark.parametrize("size", [16, 33])
def test_small_and_odd_sizes(size):
    assert draw(size=size).ct.shape == (size, size)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", -1), ("subjects", 3), ("slices", 0), ("size", 15), ("noise", -0.1), ("bias", -0.1), ("phase", -1.0)],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"phantom.{field} is {value}"):
        PhantomConfig(**{field: value})
