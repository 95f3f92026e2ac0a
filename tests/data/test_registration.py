import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from atlf_jax.data import PhantomConfig, PhantomSource
from atlf_jax.data.registration import (
    RegistrationConfig,
    apply,
    body_mask,
    edge_overlap,
    mutual_information,
    register,
)
from atlf_jax.data.volume import Volume

pytest.importorskip("SimpleITK", exc_type=ImportError)
DEFAULT = RegistrationConfig()


def head(subject=0, *, size=96):
    """Return CT and MR of the middle slice of a generated head, 230 mm wide."""
    source = PhantomSource(PhantomConfig(size=size, ct_window="wide", split="all", bias=0.1))
    example = source[subject * 8 + 4]
    affine = np.diag([230 / size, 230 / size, 1.0, 1.0])
    ct = example.ct * 3000 - 1000  # HU
    return (Volume(image[..., None].astype(np.float32), affine) for image in (ct, np.abs(example.target)))


def block(size=48, slices=24):
    """Return CT and MR of a small generated volume, 230 x 230 x 90 mm."""
    source = PhantomSource(PhantomConfig(size=size, slices=slices, ct_window="wide", split="all", bias=0.1))
    examples = [source[index] for index in range(slices)]
    affine = np.diag([-230 / size, -230 / size, 96 / slices, 1.0])  # LPS, as most scanners' files are
    affine[:3, 3] = 100, 120, -30
    ct = np.stack([example.ct * 3000 - 1000 for example in examples], axis=-1)
    mr = np.stack([np.abs(example.target) for example in examples], axis=-1)
    return (Volume(data.astype(np.float32), affine) for data in (ct, mr))


def moved(volume, rotation, shift, *, axis=(0, 0, 1)):
    """Return the volume turned (degrees, about its middle) and shifted (mm), and the move."""
    middle = (volume.affine @ [*((np.array(volume.data.shape) - 1) / 2), 1])[:3]
    move = np.eye(4)
    move[:3, :3] = Rotation.from_rotvec(np.radians(rotation) * np.array(axis)).as_matrix()
    move[:3, 3] = middle - move[:3, :3] @ middle + shift
    return Volume(volume.data, move @ volume.affine, volume.codes), move


def corner_error(found, known, mr):
    sides = [(0, n - 1) for n in mr.data.shape]
    corners = np.array(np.meshgrid(*sides, [1])).reshape(4, -1)
    return np.linalg.norm(((found - known) @ mr.affine @ corners)[:3], axis=0).max()


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_slice_is_found_again(kind):
    ct, mr = head()
    away, move = moved(ct, 8.0, (9, -6, 4.0))
    found = register(away, mr, dataclasses.replace(DEFAULT, kind=kind))
    assert found.transform.dtype == np.float64
    assert corner_error(found.transform, move, mr) < (2.4 if kind == "rigid" else 4.8)  # pixels of 2.4 mm
    assert found.good
    for name in ("mutual_information", "body_dice"):
        assert found.quality[name] > found.quality[f"{name}_before"]
    back = apply(found, away, mr)
    assert back.data.shape == mr.data.shape
    np.testing.assert_array_equal(back.affine, mr.affine)


def test_a_slice_keeps_its_size():
    """CT and MR do not see the borders of bone in one place: with these sampled, fits were 1.4 % too large."""
    ct, mr = head(size=128)
    found = register(ct, mr)
    assert abs(np.sqrt(abs(np.linalg.det(found.transform[:2, :2]))) - 1) < 0.003
    assert corner_error(found.transform, np.eye(4), mr) < 0.9  # half a pixel


@pytest.mark.slow
def test_a_volume_is_found_again():
    ct, mr = block()
    away, move = moved(ct, 12.0, (12, -8, 6), axis=(0.48, 0.6, 0.64))
    found = register(away, mr, dataclasses.replace(DEFAULT, kind="rigid", starts=(-25.0, 25.0)))
    assert corner_error(found.transform, move, mr) < 4.0  # mm; voxels of 4.8 mm
    assert found.good


@pytest.mark.parametrize("subject", [0, 4])
def test_a_slab_of_few_thick_slices_stays_where_it_overlaps(subject):
    """Little overlap can look like much information: both left the CT by 64 mm before that was weighed."""
    source = PhantomSource(PhantomConfig(size=96, slices=6, split="all"))  # a narrow window: bone and air are flat
    examples = [source[6 * subject + index] for index in range(6)]
    affine, move = np.diag([-2.0, -2.0, 6.0, 1.0]), np.eye(4)
    move[:3, 3] = 3, -2, 0
    ct = np.stack([2000 * example.ct.T - 1000 for example in examples], -1).astype(np.float32)
    mr = Volume(np.stack([abs(example.target).T for example in examples], -1).astype(np.float32), affine)
    found = register(Volume(ct, move @ affine), mr, dataclasses.replace(DEFAULT, kind="rigid"))
    assert corner_error(found.transform, move, mr) < 2.0  # voxels of 2 x 2 x 6 mm
    assert found.good


def test_a_large_rotation_needs_starts():
    ct, mr = head()
    away, move = moved(ct, 62.0, (15, 10, 0))
    config = dataclasses.replace(DEFAULT, kind="rigid")
    assert corner_error(register(away, mr, config).transform, move, mr) < 3.0


def test_the_same_numbers_twice():
    ct, mr = head()
    away, _ = moved(ct, 8.0, (9, -6, 0))
    config = RegistrationConfig()
    first, second = register(away, mr, config), register(away, mr, config)
    np.testing.assert_array_equal(first.transform, second.transform)
    assert first.quality == second.quality


def test_quality_falls_for_a_wrong_pair():
    ct, mr = head()
    other, _ = head(3)
    right, wrong = (register(volume, mr, dataclasses.replace(DEFAULT, kind="rigid")) for volume in (ct, other))
    for name in ("mutual_information", "body_dice"):
        assert wrong.quality[name] < right.quality[name]


def test_a_pair_under_the_threshold_is_flagged():
    ct, mr = head()
    config = dataclasses.replace(DEFAULT, kind="none")
    assert register(ct, mr, config).good
    away, _ = moved(ct, 0.0, (60, 0, 0))
    flagged = register(away, mr, config)
    assert not flagged.good
    np.testing.assert_array_equal(flagged.transform, np.eye(4))
    assert flagged.quality["body_dice"] < 0.85
    assert register(away, mr, dataclasses.replace(config, threshold=0.0)).good


def test_none_needs_no_simpleitk(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    ct, mr = head()
    assert register(ct, mr, RegistrationConfig(kind="none")).good
    with pytest.raises(ImportError, match=r"^registration needs SimpleITK: pip install 'atlf-jax\[registration\]'$"):
        register(ct, mr)


def test_a_spline_adds_information():
    ct, mr = head()
    found = {kind: register(ct, mr, dataclasses.replace(DEFAULT, kind=kind)) for kind in ("affine", "bspline")}
    field = found["bspline"].displacement
    assert field.shape == (96, 96, 1, 3) and field.dtype == np.float32
    assert np.abs(field[..., 2]).max() == 0  # in the plane
    assert found["bspline"].quality["mutual_information"] > found["affine"].quality["mutual_information"]
    small = Volume(mr.data[:50], mr.affine)
    with pytest.raises(ValueError, match="the displacement has 96x96x1 voxels and the MR 50x96x1"):
        apply(found["bspline"], ct, small)


def test_a_displacement_of_zero_changes_nothing():
    ct, mr = head()
    away, move = moved(ct, 8.0, (9, -6, 0))
    plain = dataclasses.replace(register(ct, mr, RegistrationConfig(kind="none")), transform=move)
    zero = dataclasses.replace(plain, displacement=np.zeros((*mr.data.shape, 3), np.float32))
    np.testing.assert_allclose(apply(zero, away, mr).data, apply(plain, away, mr).data, atol=0.5)  # HU
    np.testing.assert_allclose(apply(plain, away, mr).data, ct.data, atol=0.5)


def test_the_table_is_not_body():
    ct, _ = head()
    with_table = ct.data.copy()
    with_table[4:92, 90:91] = 300.0  # a plate 2.4 mm thick below the head
    mask, clean = body_mask(Volume(with_table, ct.affine)), body_mask(ct)
    assert not mask[4:12, 90:91].any()
    assert (mask ^ clean).sum() < 0.01 * clean.sum()
    assert clean[48, 48, 0] and not clean[0, 0, 0]


def test_refusals():
    ct, mr = head()
    flat = Volume(np.full_like(ct.data, 3.0), ct.affine)
    with pytest.raises(ValueError, match="the CT has the one value 3 everywhere"):
        register(flat, mr)
    with pytest.raises(
        ValueError, match="96x96x1 voxels and the MR 48x48x24; only a slice can be registered to a slice"
    ):
        register(ct, next(iter([*block()][1:])))
    tilted, _ = moved(ct, 30.0, (0, 0, 0), axis=(1, 0, 0))
    with pytest.raises(ValueError, match="not parallel"):
        register(tilted, mr)
    for wrong in ({"bins": 4}, {"sampling": 0.0}, {"threads": 0}, {"threshold": 2.0}, {"control_spacing": 0.0}):
        with pytest.raises(ValueError, match=f"registration.{next(iter(wrong))} is"):
            RegistrationConfig(**wrong)


def test_measures():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal((40, 40, 1)), (2, 2, 0))
    where = np.ones(image.shape, bool)
    noise = rng.standard_normal(image.shape)
    same = mutual_information(image, -image, where, bins=16)
    assert same > 2.0 and same > 5 * mutual_information(image, noise, where, bins=16)
    assert edge_overlap(image, -image, where) == 1.0
    assert edge_overlap(image, noise, where) < 0.8
    nowhere = np.zeros(image.shape, bool)
    assert mutual_information(image, noise, nowhere) == edge_overlap(image, noise, nowhere) == 0.0


@pytest.mark.data
def test_a_move_of_a_real_slice_is_found_again(data_dir):
    folder = Path(data_dir) / "registration" / "aanlib_simulated_affine"
    moved_ct, still, mr = (picture(folder / f"20015_{kind}.png") for kind in ("CT_moved", "CT", "MRI"))
    known = np.eye(4)  # row 20015 of transforms.csv: still[known p] = moved[p]
    known[:2, :2] = [[0.9995377028, 0.0189055705], [-0.0189055705, 0.9995377028]]
    known[:2, 3] = 4.18194, -7.96565
    found, unmoved = register(moved_ct, mr), register(still, mr)
    assert corner_error(known @ found.transform, unmoved.transform, mr) < 2.5
    assert found.good and found.quality["mutual_information"] > found.quality["mutual_information_before"]


def picture(file):
    return Volume((np.asarray(Image.open(file).convert("L"), np.float32) / 255)[..., None], np.eye(4))
