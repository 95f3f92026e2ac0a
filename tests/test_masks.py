"""Sampling masks: the printed fastMRI numbers bit for bit, statistics, and clear refusals."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlf_jax.masks import (
    LINE_MASKS,
    MASKS,
    PLANE_MASKS,
    POISSON_TOLERANCE,
    MaskConfig,
    make_mask,
    mask_label,
    seed_from_name,
    stored_mask,
)

PRINTED = {  # seed 123, R 4, cf .08: lines at w = 32, and their number at w = 256
    "random": ([13, 15, 16, 17, 30], 60),
    "equispaced": ([2, 6, 10, 14, 15, 16, 17, 18, 22, 26, 30], 79),
    "equispaced_fraction": ([5, 11, 15, 16, 17, 22, 28], 64),
    "magic": ([3, 7, 11, 15, 16, 17, 19, 23, 27, 31], 79),
    "magic_fraction": ([5, 11, 15, 16, 17, 23, 29], 60),
}


def lines(mask):
    return np.flatnonzero(mask).tolist()


def config_of(kind, acceleration=4.0, **settings):
    return MaskConfig(kind, acceleration=1.5 if kind == "partial_fourier" else acceleration, **settings)


class FixedOffset(np.random.RandomState):
    """Draws a given offset, to test the printed masks of one offset."""

    def __init__(self, offset):
        super().__init__(0)
        self.offset = offset

    def randint(self, low, high=None):
        return self.offset


@pytest.mark.parametrize("kind", PRINTED)
def test_printed_masks(kind):
    want, count = PRINTED[kind]
    assert lines(make_mask(MaskConfig(kind), (32, 32), seed=123).samples) == want
    assert make_mask(MaskConfig(kind), (256, 256), seed=123).samples.sum() == count


@pytest.mark.parametrize(
    ("kind", "offset", "want"),
    [
        ("equispaced", 0, [0, 4, 8, 12, 15, 16, 17, 20, 24, 28, 32]),
        ("equispaced_fraction", 0, [0, 6, 11, 15, 16, 17, 23, 29]),
        ("magic", 1, [3, 7, 11, 15, 16, 17, 19, 23, 27, 31]),
    ],
)
def test_printed_odd_width(kind, offset, want):
    assert lines(make_mask(MaskConfig(kind), (33, 33), seed=FixedOffset(offset)).samples) == want


@pytest.mark.parametrize(
    ("width", "first", "last"),
    [(24, 11, 12), (32, 15, 17), (64, 30, 34), (65, 30, 34), (320, 147, 172), (368, 170, 198)],
)
def test_printed_centre(width, first, last):
    for kind in LINE_MASKS:
        mask = make_mask(config_of(kind), (8, width), seed=0)
        assert lines(mask.acs) == list(range(first, last + 1))
        assert mask.samples[mask.acs].all()


def test_seeds_are_fastmri_seeds():
    assert seed_from_name("ab") == (97, 98)
    rng = np.random.RandomState()
    rng.seed((97, 98))
    want = rng.uniform(size=64) < (64 / 4 - 5) / (64 - 5)
    want[30:35] = True
    np.testing.assert_array_equal(make_mask(MaskConfig(), (8, 64), seed=seed_from_name("ab")).samples[0], want)
    with pytest.raises(ValueError, match="empty name"):
        seed_from_name("")


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", [(64, 64), (33, 21), (20, 45)])
def test_every_kind(kind, shape):
    """Shape, zero frequency, centre, determinism, freshness, and what is told about the mask."""
    config = config_of(kind)
    first, again = (make_mask(config, shape, seed=(1, 2)) for _ in range(2))
    mask = first.samples
    h, w = (1, shape[1]) if kind in LINE_MASKS else shape
    assert mask.shape == first.acs.shape == (h, w) and mask.dtype == bool
    assert mask[h // 2, w // 2] and mask[first.acs].all() and first.acs[h // 2, w // 2]
    np.testing.assert_array_equal(mask, again.samples)
    assert first[2:] == again[2:]
    masks = [make_mask(config, shape, seed=seed) for seed in range(8)]
    if kind != "partial_fourier":  # nothing is drawn
        assert len({m.hash for m in masks}) > 1
    rng = np.random.RandomState(3)
    one, two = make_mask(config, shape, seed=rng), make_mask(config, shape, seed=np.random.RandomState(3))
    np.testing.assert_array_equal(one.samples, two.samples)
    assert first.effective == mask.size / mask.sum()
    assert mask.mean() - 1e-9 <= first.coverage <= min(1, 2 * mask.mean()) + 1e-9


@pytest.mark.parametrize("kind", MASKS)
def test_zero_frequency_without_a_centre(kind):
    for seed in range(10):
        config = config_of(kind, center_fraction=0.0, center_radius=1e-6)
        mask = make_mask(config, (16, 18), seed=seed).samples
        assert mask[mask.shape[0] // 2, 9]


@given(kind=st.sampled_from(sorted(MASKS)), h=st.integers(12, 40), w=st.integers(12, 40), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_size(kind, h, w, seed):
    made = make_mask(config_of(kind, center_radius=0.02), (h, w), seed=seed)
    assert made.samples.any() and made.samples[made.samples.shape[0] // 2, w // 2]


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction", "magic_fraction"])
def test_mean_of_200_draws(kind):
    width, acceleration = 256, 4.0
    means = np.array([make_mask(MaskConfig(kind), (1, width), seed=seed).samples.mean() for seed in range(200)])
    if kind == "random":
        center = 20
        p = (width / acceleration - center) / (width - center)
        sigma = np.sqrt(p * (1 - p) * (width - center)) / width / np.sqrt(200)
        assert abs(means.mean() - 1 / acceleration) < 3 * sigma
    else:  # the spacing is deterministic: only the offset moves, by a line or two; magic rounds its spacing
        assert np.all(abs(means * width - width / acceleration) <= (3 if kind == "equispaced_fraction" else 6))


@pytest.mark.parametrize("kind", ["random_exact", "gaussian_1d"])
@pytest.mark.parametrize("width", [64, 65, 255])
def test_exact_counts(kind, width):
    for acceleration in (2.0, 4.0, 8.5):
        for settings_ in ({"center_fraction": 0.04}, {"center_lines": 0}, {"center_lines": 5}):
            config = MaskConfig(kind, acceleration=acceleration, **settings_)
            assert make_mask(config, (4, width), seed=7).samples.sum() == round(width / acceleration)


def test_gaussian_1d_density():
    config = MaskConfig("gaussian_1d", center_lines=0)
    density = np.mean([make_mask(config, (1, 96), seed=s).samples[0] for s in range(300)], axis=0)
    # With sigma = 16 lines: around k = 0, 1 to 1.5 sigma out, and beyond 2 sigma.
    assert density[40:57].mean() > 1.5 * density[24:32].mean() > 3 * density[:16].mean()
    wide = MaskConfig("gaussian_1d", center_lines=0, sigma=10.0)
    assert np.ptp(np.mean([make_mask(wide, (1, 96), seed=s).samples[0] for s in range(300)], axis=0)[:40]) < 0.2


def test_equispaced_keeps_every_line_of_the_comb():
    for seed in range(8):
        mask = make_mask(MaskConfig("equispaced", acceleration=5), (1, 64), seed=seed).samples[0]
        assert any(mask[offset::5].all() for offset in range(5))


def test_magic_avoids_conjugate_pairs():
    """Lines beside the centre of the two halves are not mirror images, so they cover twice as much for a real image."""
    mask = make_mask(MaskConfig("magic", center_lines=0), (1, 64), seed=0)
    comb = make_mask(MaskConfig("equispaced", center_lines=0), (1, 64), seed=123)  # offset 2, its own mirror image
    assert mask.coverage > 0.45 > comb.coverage


def test_magic_fraction_counts_the_zero_frequency():
    """Without a centre one line is set aside all the same: 7 of 8 lines at a spacing of round(32 / 7) = 5."""
    config = MaskConfig("magic_fraction", acceleration=4.0, center_fraction=0.0)
    spacing = np.diff(lines(make_mask(config, (1, 32), seed=1).samples[0, 17:]))
    np.testing.assert_array_equal(spacing, 5)


def test_magic_fraction_with_nothing_left_to_place():
    config = MaskConfig("magic_fraction", acceleration=4.0, center_fraction=0.25)
    made = make_mask(config, (1, 32), seed=0)
    np.testing.assert_array_equal(made.samples, made.acs)
    assert made.samples.sum() == 8


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction", "random_exact", "gaussian_1d"])
def test_centre_that_fills_the_budget_stands_alone(kind):
    made = make_mask(MaskConfig(kind, center_fraction=0.25), (1, 32), seed=0)
    np.testing.assert_array_equal(made.samples, made.acs)


@pytest.mark.parametrize("kind", [k for k in LINE_MASKS if k not in ("equispaced", "magic", "partial_fourier")])
def test_centre_beyond_the_budget_is_refused(kind):
    with pytest.raises(ValueError, match=r"got 10 central lines of 32, more than 1 / 4"):
        make_mask(MaskConfig(kind, center_fraction=0.3), (1, 32), seed=0)
    with pytest.raises(ValueError, match="center_fraction of at most 0.25"):
        make_mask(MaskConfig(kind, center_lines=9), (1, 32), seed=0)


@pytest.mark.parametrize("kind", ["variable_density_2d", "gaussian_2d", "poisson_disc"])
def test_disc_beyond_the_budget_is_refused(kind):
    with pytest.raises(ValueError, match="smaller center_radius or a lower acceleration"):
        make_mask(MaskConfig(kind, center_radius=0.4), (32, 32), seed=0)


def test_partial_fourier():
    made = make_mask(MaskConfig("partial_fourier", acceleration=1.6), (1, 64), seed=0)
    assert lines(made.samples) == list(range(24, 64))
    assert made.coverage == pytest.approx(63 / 64)  # line 0, k = -n/2, is its own conjugate
    with pytest.raises(ValueError, match="cuts into the 5 central ones; wanted at most 1.88"):
        make_mask(MaskConfig("partial_fourier", acceleration=2.0), (1, 64), seed=0)


@pytest.mark.parametrize("acceleration", [4.0, 8.0, 10.0])
def test_variable_density_statistics(acceleration):
    config = MaskConfig("variable_density_2d", acceleration=acceleration)
    means = [make_mask(config, (64, 64), seed=seed).samples.mean() for seed in range(200)]
    spread = np.sqrt(0.25 / 64**2 / 200)  # no Bernoulli draw varies more
    assert abs(np.mean(means) - 1 / acceleration) < 3 * spread


def test_variable_density_profile():
    """The density by radius of the pictures that this mask imitates (256 x 256, 10x)."""
    config = MaskConfig("variable_density_2d", acceleration=10.0)
    masks = [make_mask(config, (256, 256), seed=seed) for seed in range(12)]
    y, x = np.ogrid[-128:128, -128:128]
    radius = np.hypot(y, x)
    assert masks[0].acs.sum() == (radius < 17).sum()
    density = np.mean([m.samples for m in masks], axis=0)
    measured = {20: 0.61, 31: 0.41, 46: 0.25, 64: 0.16, 79: 0.10, 105: 0.05, 127: 0.02}
    for r, want in measured.items():
        assert density[abs(radius - r) < 1].mean() == pytest.approx(want, abs=0.06)
    for r, a in ((40, 1.05), (90, 1.05)):  # a of the mask's definition
        assert density[abs(radius - r) < 3].mean() == pytest.approx(a * np.exp(-r / 32), rel=0.08)


@pytest.mark.parametrize(("acceleration", "a"), [(4.0, 3.07), (8.0, 1.36), (10.0, 1.05)])
def test_variable_density_amplitude(acceleration, a):
    masks = [
        make_mask(MaskConfig("variable_density_2d", acceleration=acceleration), (256, 256), seed=s).samples
        for s in range(6)
    ]
    y, x = np.ogrid[-128:128, -128:128]
    ring = abs(np.hypot(y, x) - 70) < 10
    want = np.minimum(1, a * np.exp(-np.hypot(y, x)[ring] / 32)).mean()
    assert np.mean([m[ring] for m in masks]) == pytest.approx(want, rel=0.03)


def test_points_scale_with_the_image_side():
    config = MaskConfig("gaussian_2d", acceleration=6.0)
    density = np.mean([make_mask(config, (32, 64), seed=s).samples for s in range(100)], axis=0)
    rows, columns = density[:, 32], density[16]  # equal at equal parts of each side
    np.testing.assert_allclose(rows, columns[::2], atol=0.2)
    assert density[16, 32] == 1 and density[0, 0] < 0.1
    wide = MaskConfig("gaussian_2d", acceleration=6.0, sigma=0.4)
    assert np.mean([make_mask(wide, (32, 64), seed=s).samples[0, 0] for s in range(100)]) > density[0, 0] + 0.03


@pytest.mark.parametrize("acceleration", [2.0, 4.0, 10.0])
def test_poisson_disc(acceleration):
    start = time.process_time()
    made = make_mask(MaskConfig("poisson_disc", acceleration=acceleration), (256, 256), seed=1)
    assert time.process_time() - start < 2  # seconds of CPU; measured .3 to .5
    assert made.samples.mean() == pytest.approx(1 / acceleration, rel=POISSON_TOLERANCE)


def test_poisson_disc_keeps_its_distance():
    made = make_mask(MaskConfig("poisson_disc", acceleration=12.0), (64, 64), seed=1)
    points = np.argwhere(made.samples & ~made.acs) - 32
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(points))
    radius = np.hypot(*points.T)
    nearest = apart.min(axis=1)
    outer, inner = nearest[radius > 24], nearest[radius < 12]
    assert outer.min() >= 3 and outer.mean() > 1.5 * inner.mean()


@pytest.mark.parametrize("shape", [(64, 64), (33, 47)])
def test_radial_is_point_symmetric(shape):
    made = make_mask(MaskConfig("radial", acceleration=6.0), shape, seed=4)
    assert made.coverage == pytest.approx(made.samples.mean())
    spoke = max(shape)  # the count is settled to half a spoke
    assert abs(made.samples.sum() - made.samples.size / 6) <= spoke / 2 + 1
    assert made.acs.sum() > 9
    used = [np.flatnonzero(made.samples.any(axis=axis)) for axis in (1, 0)]
    assert [u[0] for u in used] == [1 - n % 2 for n in shape]  # all of odd axes; even ones lack k = -n/2
    assert [u[-1] for u in used] == [n - 1 for n in shape]


def test_radial_full_sampling_ends():
    assert make_mask(MaskConfig("radial", acceleration=1.0), (12, 12), seed=0).samples.mean() > 0.8


def test_coverage_of_a_random_mask():
    """A random mask of .23 of the lines covers .37 of the k-space of a real image."""
    masks = [make_mask(MaskConfig(acceleration=1 / 0.23), (1, 256), seed=s) for s in range(100)]
    assert np.mean([m.samples.mean() for m in masks]) == pytest.approx(0.23, abs=0.01)
    assert np.mean([m.coverage for m in masks]) == pytest.approx(0.37, abs=0.01)


@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (6, 9)])
def test_coverage_by_hand(shape):
    mask = np.random.default_rng(0).uniform(size=shape) < 0.3
    mask[shape[0] // 2, shape[1] // 2] = True
    h, w = shape
    want = np.zeros(shape, bool)
    for y in range(h):
        for x in range(w):
            want[y, x] = mask[y, x] or mask[(2 * (h // 2) - y) % h, (2 * (w // 2) - x) % w]
    assert stored_mask(mask, layout="centered").coverage == want.mean()


def test_hash_is_of_bits_and_shape():
    a, b = np.ones((1, 16)), np.ones((2, 8))
    assert stored_mask(a, layout="centered").hash != stored_mask(b, layout="centered").hash
    a[0, 0] = 0
    assert stored_mask(a, layout="centered").hash != stored_mask(np.ones((1, 16)), layout="centered").hash
    assert make_mask(MaskConfig(), (32, 32), seed=123).hash == "dd04d6bb"  # never changes between versions


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", [(16, 16), (15, 17)])
def test_stored_mask_round_trip(kind, shape):
    made = make_mask(config_of(kind, center_radius=0.1), shape, seed=2)
    corner = np.fft.ifftshift(made.samples)
    for array, layout in ((made.samples, "centered"), (corner, "corner"), (corner.astype(np.float32), "corner")):
        back = stored_mask(array, layout=layout)
        np.testing.assert_array_equal(back.samples, made.samples)
        assert back.hash == made.hash and back.nominal == back.effective == made.effective
        assert (back.acs | made.acs).sum() == back.acs.sum()  # never smaller than the designed centre
    np.testing.assert_array_equal(made.samples, make_mask(config_of(kind, center_radius=0.1), shape, seed=2).samples)


def test_stored_line_mask_of_a_test_file():
    back = stored_mask(np.array([0, 1, 0, 1, 1, 1, 0, 0]), layout="centered")
    assert back.samples.shape == (1, 8) and lines(back.acs) == [3, 4, 5]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4)), "got a mask of shape"),
        (np.zeros((0,)), "got a mask of shape"),
        (np.full((4, 4), 0.5), "other than 0 and 1"),
        (np.eye(5)[:1], "the zero frequency is not acquired, .* is the mask's layout 'corner'"),
    ],
)
def test_stored_mask_refusals(array, message):
    with pytest.raises(ValueError, match=message):
        stored_mask(array, layout="centered")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind": "randm"}, "did you mean 'random'"),
        ({"kind": "poison_disc"}, "did you mean 'poisson_disc'"),
        ({"acceleration": 0.5}, "got acceleration 0.5, wanted at least 1"),
        ({"acceleration": "4"}, "got acceleration '4', wanted float"),
        ({"acceleration": (4.0, 8.0)}, r"got acceleration \(4.0, 8.0\), wanted one value; give several settings"),
        ({"center_fraction": 1.5}, "from 0 to 1"),
        ({"center_lines": -1}, "0 or more"),
        ({"center_lines": 3, "kind": "radial"}, "not made of lines; wanted center_radius"),
        ({"decay": 0.0}, "got decay 0.0, wanted a number above 0"),
        ({"sigma": -1.0}, "got sigma -1.0"),
    ],
)
def test_config_refusals(settings_, message):
    with pytest.raises(ValueError, match=message):
        MaskConfig(**settings_)


def test_other_refusals():
    for kind in ("equispaced", "magic"):
        message = f"got acceleration 4.5 for {kind}, wanted a whole number; use {kind}_fraction"
        with pytest.raises(ValueError, match=message):
            make_mask(MaskConfig(kind, acceleration=4.5), (1, 32), seed=0)
    with pytest.raises(ValueError, match="got center_lines 40 for an image 32 wide"):
        make_mask(MaskConfig(center_lines=40, acceleration=1), (1, 32), seed=0)


def test_random_exact_takes_all_lines():
    for settings_ in ({"center_fraction": 1.0}, {"center_lines": 0}):
        assert make_mask(MaskConfig("random_exact", 1.0, **settings_), (4, 16), seed=0).samples.all()


def test_numpy_takes_a_mask_for_its_samples():
    mask = make_mask(MaskConfig(), (8, 32), seed=1)
    np.testing.assert_array_equal(np.where(mask, 1, 0), mask.samples)
    assert np.asarray(mask).dtype == bool and mask.mask is mask.samples  # by its name in earlier versions


OWN = """
import numpy as np


def checkerboard(rng, shape, config):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y + x) % round(config.acceleration) == 0


def every_other(rng, shape, config):
    return np.arange(shape[1]) % 2 == 0


def wrong(rng, shape, config):
    return np.zeros(3)
"""


def test_a_mask_of_the_user_s_own_file(tmp_path):
    file = tmp_path / "own_masks.py"
    file.write_text(OWN)
    points = make_mask(MaskConfig(f"{file}:checkerboard", 2.0), (16, 18), seed=0)
    assert points.samples.shape == (16, 18) and points.samples.sum() == 145  # every other one, and the middle
    drawn = make_mask(MaskConfig(f"{file}:every_other", 2.0, center_lines=4), (16, 18), seed=0)
    assert drawn.samples.shape == (1, 18) and drawn.acs.sum() == 4 and drawn.samples[drawn.acs].all()
    assert mask_label(MaskConfig(f"{file}:every_other", 2.0)) == "every_other 2x, centre 0.08"
    with pytest.raises(ValueError, match="did you mean every_other"):
        MaskConfig(f"{file}:every_othr")
    with pytest.raises(ValueError, match=r"got float64 of shape \(3,\) from mask .*wrong, wanted zeros and ones"):
        make_mask(MaskConfig(f"{file}:wrong"), (16, 18), seed=0)


def test_tables_are_whole():
    assert LINE_MASKS.keys() | PLANE_MASKS.keys() == MASKS.keys()


@pytest.mark.data
def test_stored_pseudo_radial_masks(data_dir):
    for percent, fraction in ((10, 0.102), (20, 0.202), (30, 0.302), (40, 0.401), (50, 0.500)):
        array = np.load(Path(data_dir) / "kspace" / "pseudo_radial_masks" / f"mask_{percent}pct_dc_corner_256.npy")
        made = stored_mask(array, layout="corner")
        assert made.samples.mean() == pytest.approx(fraction, abs=0.0006)
        assert made.coverage == pytest.approx(made.samples.mean(), abs=1e-9)  # point-symmetric
