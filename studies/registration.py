"""Accuracy and time of registration on known transforms: ``python studies/registration.py [--only ...]``.

Generates heads, reads ``registration/`` in ``$ATLF_DATA_DIR`` and prints tables; an error is the distance, at the
corners of the MR, between where a transform sends them and where the known one does. Beside ``register`` stands
SimpleITK as its examples have it: the same metric and bins, no masks, and one start, the pictures' own place.
"""

import argparse
import csv
import itertools
import os
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from scipy.spatial.transform import Rotation

from atlf_jax.data import PhantomConfig, PhantomSource
from atlf_jax.data.registration import RegistrationConfig, register
from atlf_jax.data.volume import Volume, read_nifti, resample

ROWS = ("register, affine", "register, rigid", "SimpleITK, affine", "SimpleITK, rigid")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("heads", "slices", "atlas", "volume", "time"))
    only = parser.parse_args().only
    if only in (None, "heads"):
        heads()
    if only == "heads":
        return
    if "ATLF_DATA_DIR" not in os.environ:
        raise SystemExit("set ATLF_DATA_DIR to the folder that holds registration/")
    data = Path(os.environ["ATLF_DATA_DIR"])
    folder = data / "registration"
    if only in (None, "slices"):
        slices(folder / "aanlib_simulated_affine")
    if only in (None, "atlas"):
        atlas(data / "aanlib_ct_mri")
    if only in (None, "volume"):
        volume(folder / "clinical_toolbox")
    if only in (None, "time"):
        large(folder / "clinical_toolbox")


def heads() -> None:
    """Register generated heads, which lie on each other: slices alone, and slabs of six thick slices after a shift."""
    print("| generated heads | before, mean | after, mean | worst | scale |\n| --- | --- | --- | --- | --- |")
    source = PhantomSource(PhantomConfig(size=128, subjects=8, slices=6, ct_window="wide", split="all"))
    subjects = [[source[6 * i + k] for k in range(6)] for i in range(8)]
    affine = np.diag([-1.6, -1.6, 6.0, 1.0])
    known = np.eye(4)
    known[:3, 3] = 3.0, -2.0, 0.0
    for kind, depth, shift in (("rigid", 6, known), ("affine", 6, known), ("affine", 1, np.eye(4))):
        after, scales = [], []
        for examples in subjects:
            chosen = examples if depth == 6 else examples[2:3]
            ct = np.stack([3000 * example.ct.T - 1000 for example in chosen], -1).astype(np.float32)
            mr = Volume(np.stack([abs(example.target).T for example in chosen], -1).astype(np.float32), affine)
            found = register(Volume(ct, shift @ affine), mr, RegistrationConfig(kind=kind)).transform
            after.append(distance(found, shift, mr))
            scales.append(abs(np.linalg.det(found[:2, :2])) ** 0.5)
        name = f"{kind}, {'one slice' if depth == 1 else 'six slices of 6 mm'} [mm]"
        before = distance(np.eye(4), shift, mr)
        print(f"| {name} | {before:.2f} | {np.mean(after):.2f} | {max(after):.2f} | {np.mean(scales):.4f} |")


def slices(folder: Path) -> None:
    """Bring eight moved CT pictures back to their MR; and compare with where the unmoved ones come to lie."""
    print("| pixels | absolute, mean | worst | of the move alone, mean | worst |\n| --- | --- | --- | --- | --- |")
    pairs = []
    for row in csv.DictReader((folder / "transforms.csv").open()):
        known = np.eye(4)
        known[:2, :2] = [[float(row["m00"]), float(row["m01"])], [float(row["m10"]), float(row["m11"])]]
        known[:2, 3] = float(row["off_row"]), float(row["off_col"])
        pairs.append((known, *(picture(folder / f"{row['name']}_{kind}.png") for kind in ("CT_moved", "CT", "MRI"))))
    for name in ROWS:
        absolute, alone = [], []
        for known, moved, still, mr in pairs:
            found, unmoved = fit(name, moved, mr), fit(name, still, mr)
            absolute.append(distance(known @ found, np.eye(4), mr))
            alone.append(distance(known @ found, unmoved, mr))
        print(f"| {name} | {np.mean(absolute):.2f} | {max(absolute):.2f} | {np.mean(alone):.2f} | {max(alone):.2f} |")


def atlas(folder: Path) -> None:
    """Compare the atlas's own alignment with what its slices say: whether one move is missing in all of a subject.

    Pictures as they lie in the atlas, slices 9, 11 .. 17 of each subject; a mean over slices and their deviation.
    """
    print("\n| case, slices | down, px | right, px | rotation, degrees | scale, % | corners of the mean move, px |")
    print("| --- | --- | --- | --- | --- | --- |")
    names = sorted((file.stem for file in (folder / "CT").glob("*.png")), key=int)
    names = [name for name in names if int(name[-3:]) in range(9, 18, 2)]
    for case, group in itertools.groupby(names, key=lambda name: name[:-3]):
        moves = []
        for name in group:
            ct, mr = (picture(folder / kind / f"{name}.png") for kind in ("CT", "MRI"))
            found = register(ct, mr).transform
            middle = np.array([*((np.array(mr.data.shape) - 1) / 2), 1])
            angle = np.degrees(np.arctan2(found[1, 0] - found[0, 1], found[0, 0] + found[1, 1]))
            moves.append([*(found @ middle - middle)[:2], angle, 100 * (abs(np.linalg.det(found)) ** 0.5 - 1)])
        cells = zip(np.mean(moves, 0), np.std(moves, 0), strict=True)
        mean = np.eye(4)
        turn, size = np.radians(np.mean(moves, 0)[2]), 1 + np.mean(moves, 0)[3] / 100
        mean[:2, :2] = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        mean[:2, 3] = (middle - mean @ middle)[:2] + np.mean(moves, 0)[:2]
        text = " | ".join(f"{value:+.1f} ({spread:.1f})" for value, spread in cells)
        print(f"| {case}, {len(moves)} | {text} | {distance(mean, np.eye(4), mr):.1f} |", flush=True)


def volume(folder: Path) -> None:
    """Find a known affine again, between a CT and an MR-like image of it: reversed contrast, bias and noise."""
    print("\n| mm | before | after |\n| --- | --- | --- |")
    ct = read_nifti(folder / "scct.nii.gz")
    mr = pretend(ct)
    for degrees, shift, scale in ((8.0, 10.0, 1.03), (-12.0, 20.0, 0.97), (35.0, 25.0, 1.0)):
        known = np.eye(4)
        known[:3, :3] = scale * Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
        known[:3, 3] = shift * np.array([0.6, -0.64, 0.48])
        moved = Volume(ct.data, known @ ct.affine)
        found = register(moved, mr).transform
        print(
            f"| {degrees:g} degrees, {shift:g} mm, scale {scale:g} | {distance(np.eye(4), known, mr):.1f} | "
            f"{distance(found, known, mr):.2f} |"
        )


def large(folder: Path) -> None:
    """Time one pair of 256 x 256 x 80."""
    source = read_nifti(folder / "scct.nii.gz")
    grid = Volume(np.zeros((256, 256, 80), np.float32), np.diag([0.9, 0.9, 2.2, 1.0]))
    grid.affine[:3, 3] = (source.affine @ [*(np.array(source.data.shape) / 2), 1])[:3] - [115, 115, 88]
    ct = resample(source, grid, outside=float(source.data.min()))
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.radians([0, 0, 6.0])).as_matrix()
    mr = Volume(pretend(ct).data, turn @ grid.affine)
    start, cpu = time.perf_counter(), time.process_time()
    register(ct, mr)
    print(
        f"\n256 x 256 x 80: {time.perf_counter() - start:.0f} s, {time.process_time() - cpu:.0f} s of CPU time, "
        f"{RegistrationConfig().threads} threads"
    )


def fit(name: str, ct: Volume, mr: Volume) -> np.ndarray:
    """Return the transform of the MR's points to the CT's that a row of the table finds."""
    if name.startswith("register"):
        return register(ct, mr, RegistrationConfig(kind="rigid" if "rigid" in name else "affine")).transform
    fixed, moving = (sitk.GetImageFromArray(volume.data[..., 0].T) for volume in (mr, ct))
    transform = sitk.Euler2DTransform() if "rigid" in name else sitk.AffineTransform(2)
    transform.SetCenter([(n - 1) / 2 for n in mr.data.shape[:2]])  # the pictures' geometry is the same: one start
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    result = np.eye(4)
    result[:2, 3] = transform.TransformPoint((0.0, 0.0))
    for axis, unit in enumerate(np.eye(2)):
        result[:2, axis] = np.subtract(transform.TransformPoint(unit.tolist()), result[:2, 3])
    return result


def pretend(ct: Volume) -> Volume:
    """Give a CT the look of an MR: bright soft tissue, dark bone and air, uneven and noisy."""
    low, high = np.percentile(ct.data[ct.data > ct.data.min()], (5, 99))
    value = np.clip((ct.data - low) / (high - low), 0, 1)
    ramp = np.linspace(0.8, 1.2, ct.data.shape[0])[:, None, None]
    signal = np.sin(np.pi * value**0.7) * ramp + 0.02 * np.random.default_rng(0).standard_normal(value.shape)
    return Volume(np.abs(signal).astype(np.float32), ct.affine)


def distance(found: np.ndarray, known: np.ndarray, mr: Volume) -> float:
    """Return the mean distance in mm, over the corners of the MR."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in mr.data.shape), (1,)))).T
    return float(np.linalg.norm(((found - known) @ mr.affine @ corners)[:3], axis=0).mean())


def picture(file: Path) -> Volume:
    """Read a picture as a slice of 1 mm pixels."""
    return Volume((np.asarray(Image.open(file).convert("L"), np.float32) / 255)[..., None], np.eye(4))


if __name__ == "__main__":
    main()
