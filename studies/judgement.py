"""How well a judgement without the truth agrees with the truth: a network on raw scans, undersampled afterwards.

    ATLF_DATA_DIR=... python studies/judgement.py [aanlib-best] [--scans raw/brain_7ch_256x216.npy ...]

For each fully sampled scan and mask: the error of the magnitude against the root sum of squares of all samples, after
the best scale, of the zero-filled image and of the network's (forced); the gain in dB; what the judgement says.
"""

import argparse
import os
import warnings
from pathlib import Path

import numpy as np

import atlf_jax as atlf

SCANS = (
    "kspace/larson_brain_sag_t1_1ch_full_256x256.npy",
    "kspace/larson_knee_1ch_full_332x640.npy",
    "raw/brain_1ch_t2_256x340.npy",
    "raw/brain_4ch_mprage_256.npy",
    "raw/brain_7ch_256x216.npy",
    "raw/brain_16ch_64.npy",
    "raw/complex_images.npz",
)
MASKS = (("equispaced", 4.0, 0.08), ("random", 8.0, 0.04), ("variable_density_2d", 8.0, 0.04))


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the fully sampled k-space of a file, by name."""
    if path.suffix == ".npz":
        with np.load(path) as images:
            return {name: np.asarray(atlf.fft2c(image)) for name, image in images.items() if image.ndim == 2}
    kspace = np.load(path).astype(np.complex64)
    kspace = kspace[0] if kspace.ndim == 3 and len(kspace) == 1 else kspace
    return {path.stem: kspace / np.abs(kspace).max()}


def error(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the NRMSE of a magnitude after the best scale."""
    image = np.abs(image)
    image = image * (image * truth).sum() / (image * image).sum()
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def main() -> None:
    """Print one line for each scan and mask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="aanlib-best")
    parser.add_argument("--scans", nargs="+", default=SCANS, help="files in ATLF_DATA_DIR")
    arguments = parser.parse_args()
    network = atlf.load_model(arguments.checkpoint)
    print("scan, mask | zero-filled, network NRMSE | gain dB | level: reasons")
    for file in arguments.scans:
        for name, kspace in read(Path(os.environ["ATLF_DATA_DIR"], file)).items():
            coils = {"coils": "espirit"} if kspace.ndim == 3 else {}
            truth = np.abs(atlf.ifft2c(kspace))
            truth = np.sqrt((truth**2).sum(0)) if coils else truth
            for kind, acceleration, centre in MASKS:
                mask = atlf.make_mask(atlf.MaskConfig(kind, acceleration, centre), kspace.shape[-2:], seed=1)
                measured = np.where(mask.samples, kspace, 0)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", atlf.GuardWarning)
                        plain = error(atlf.reconstruct(measured, mask, **coils), truth)
                        image, record = atlf.reconstruct(
                            measured, mask, model=network, force=True, return_record=True, **coils
                        )
                except ValueError as refusal:
                    print(f"{name}, {kind} {acceleration:g}x | {refusal}", flush=True)
                    continue
                found = error(image, truth)
                gain = 20 * np.log10(plain / found)
                said = "; ".join(item["reason"] for item in record["judgement"]["findings"])
                print(
                    f"{name}, {kind} {acceleration:g}x | {plain:.3f}, {found:.3f} | {gain:+.2f} | "
                    f"{record['judgement']['level']}: {said}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
