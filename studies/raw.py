"""Score classical solvers and networks on real raw k-space: ``python -m studies.raw --out=runs/raw``.

Fully sampled raw scans (the folder ``raw`` of ATLF_DATA_DIR, those marked ``test``, and the single-coil ones in
``kspace``) are undersampled afterwards by lines and 2-D Poisson discs at 4x and 8x. The numbers are the NRMSE of the
magnitude, ``|| |x| - t || / || t ||``, t being the root of the sum of squares of the fully sampled coil images
(``--reference espirit``: those combined by ESPIRiT maps). Coil maps are estimated from the centre of what is
"acquired". Each solver has two columns: its best regularisation for that scan and mask, searched with the truth in
hand, and after the slash the one that the rule of withheld samples chooses without it. Networks are further columns.
``--keep_samples`` gives the solvers what ``SenseNet`` has by construction: the measured samples of every coil in
place of those of their image, and the root of the sum of squares (best regularisation alone).
``--pictures`` draws the images of the first mask: zero-filled, by total variation, of the first network, and the truth.
``--sigpy`` compares CG-SENSE and L1 wavelets with sigpy on the same data: the relative difference of the images.

Each score is kept in ``OUT/scores.json``, and an interrupted run goes on from there. Needs ``ATLF_DATA_DIR``.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import atlf_jax as atlf
from atlf_jax.data.files import write_file
from atlf_jax.data.kspace import read_kspace
from atlf_jax.data.lines import remove_oversampling
from atlf_jax.data.transforms import ifft2c_numpy
from atlf_jax.masks import MaskConfig, make_mask
from atlf_jax.reconstruct.methods import GRIDS, Solver, choose_regularisation
from atlf_jax.reconstruct.slices import (
    Measured,
    Record,
    Settings,
    calibration_sides,
    in_batches,
    kernel_side,
    prepare_batch,
)
from benchmarks.table import markdown

SOLVERS = ("zero_filled", "cg_sense", "total_variation", "l1_wavelet")


def _brain_8ch(folder: Path) -> np.ndarray:
    samples = read_kspace(folder / "raw/brain_8ch_320x256_small_fov_matlab_v5.mat", axes="hwc").samples
    return samples[..., 44:212]  # the columns that were measured; the rest is zeros


def _abdomen(folder: Path) -> np.ndarray:
    samples = read_kspace(folder / "raw/abdomen_4ch_137x376_oversampled.npy", axes="cwh").samples
    return remove_oversampling(samples, samples.shape[-2] // 2)


def _file(name: str, **settings: Any) -> Callable[[Path], np.ndarray]:
    return lambda folder: read_kspace(folder / name, **settings).samples


SETS: dict[str, Callable[[Path], np.ndarray]] = {
    "brain T1, 4 coils": _file("raw/brain_4ch_mprage_256.npy"),
    "brain T1, 8 coils, small field": _brain_8ch,
    "abdomen, 4 coils": _abdomen,
    "brain T2, 1 coil": _file("raw/brain_1ch_t2_256x340.npy"),
    "knee, 1 coil": _file("raw/knee_1ch_256_matlab_v5.mat"),
    "brain sagittal T1, 1 coil": _file("kspace/larson_brain_sag_t1_1ch_full_256x256.npy"),
    "knee 332x640, 1 coil": _file("kspace/larson_knee_1ch_full_332x640.npy"),
}
MASKS = {
    "lines 4x": MaskConfig("random_exact", 4.0, 0.08),
    "lines 8x": MaskConfig("random_exact", 8.0, 0.04),
    "Poisson 4x": MaskConfig("poisson_disc", 4.0),
    "Poisson 8x": MaskConfig("poisson_disc", 8.0),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.raw", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    add("--masks", nargs="+", default=list(MASKS), choices=list(MASKS))
    add("--solvers", nargs="*", default=list(SOLVERS), choices=[*SOLVERS, "grappa"])
    add("--checkpoint", nargs="*", default=[], help="trained networks: folders, packed files or names")
    add("--reference", default="rss", choices=["rss", "espirit"])
    add("--seed", type=int, default=0, help="of the masks")
    add(
        "--keep_samples", action="store_true", help="also score solvers with the measured samples of each coil put back"
    )
    add("--pictures", action="store_true", help="draw the images of the first mask")
    add("--sigpy", action="store_true", help="also compare with sigpy (extra bench)")
    add("--out", type=Path, required=True, help="folder for scores.json, table.md and pictures.jpg")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Score what is not scored yet; write and print the tables."""
    arguments = parse(argv)
    if not os.environ.get("ATLF_DATA_DIR"):
        raise SystemExit("ATLF_DATA_DIR is not set; set it to the folder that holds raw/")
    folder = Path(os.environ["ATLF_DATA_DIR"])
    kept = Scores(arguments.out / "scores.json")
    networks = dict.fromkeys(arguments.checkpoint)
    rows, differences, pictures = [], [], {}
    for set_name in arguments.sets:
        scan = Scan(SETS[set_name](folder), arguments.reference)
        for mask_name in arguments.masks:
            case = f"{set_name} | {mask_name} | {arguments.reference} | {arguments.seed}"
            mask = make_mask(MASKS[mask_name], scan.shape, seed=arguments.seed).mask
            row: dict[str, Any] = {"scan": set_name, "mask": mask_name}
            for solver in arguments.solvers:
                found = kept.get(f"{case} | {solver}", lambda s=solver, m=mask, scan=scan: solver_scores(scan, m, s))
                row[solver] = found if isinstance(found, str) else _cell(found)
                if arguments.keep_samples and solver in GRIDS:
                    name, applies = f"{solver}, samples kept", not isinstance(found, str)
                    score = partial(solver_scores_with_samples, scan, mask, solver)
                    row[name] = _cell(kept.get(f"{case} | {name}", score)) if applies else "-"
            for name in networks:

                def score(name: str = name, mask: np.ndarray = mask, scan: Scan = scan) -> dict[str, float]:
                    networks[name] = networks[name] or atlf.load(name)
                    return {"best": scan.error(scan.reconstruct(mask, model=networks[name], force=True))}

                row[name] = _cell(kept.get(f"{case} | network {name}", score))
            rows.append(row)
            if arguments.pictures and mask_name == arguments.masks[0]:
                model = atlf.load(arguments.checkpoint[0]) if arguments.checkpoint else None
                at = kept.get(f"{case} | total_variation", partial(solver_scores, scan, mask, "total_variation"))["at"]
                pictures[set_name] = pictures_of(scan, mask, at, model)
            print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if arguments.sigpy and scan.coils:
                found = kept.get(f"{case} | sigpy", lambda m=mask, scan=scan: sigpy_differences(scan, m))
                differences.append({"scan": set_name, "mask": mask_name} | found)
    text = markdown(rows)
    if differences:
        text += f"\n\nRelative difference to sigpy:\n\n{markdown(differences)}"
    write_file(arguments.out / "table.md", (text + "\n").encode())
    if pictures:
        draw(arguments.out / "pictures.jpg", pictures, arguments.masks[0])
    print(text)


class Scores:
    """Scores that are kept on disk by their name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scores: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, name: str, score: Callable[[], Any]) -> Any:
        """Return a score, computed where it is not there yet."""
        if name not in self._scores:
            self._scores[name] = score()
            write_file(self._path, json.dumps(self._scores, indent=1).encode())
        return self._scores[name]


class Scan:
    """Fully sampled k-space and its image."""

    def __init__(self, samples: np.ndarray, reference: str) -> None:
        samples = np.asarray(samples, np.complex64)
        self.kspace = samples[0] if samples.ndim == 3 and len(samples) == 1 else samples
        self.kspace = self.kspace / np.abs(self.kspace).max()
        self.shape = self.kspace.shape[-2:]
        self.coils = len(self.kspace) if self.kspace.ndim == 3 else 0
        self._measured: tuple[Record, Settings, Measured] | None = None
        images = ifft2c_numpy(self.kspace)
        if not self.coils:
            self.truth = np.abs(images)
        elif reference == "rss":
            self.truth = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
        else:
            maps = np.asarray(atlf.ops.espirit_maps(self.kspace, calibration=24))
            self.truth = np.abs(np.sum(maps.conj() * images, axis=0))

    def reconstruct(self, mask: np.ndarray, **settings: Any) -> Any:
        """Reconstruct what a mask leaves, a network with the coil maps that it was trained with."""
        trained = getattr(settings.get("model"), "trained_for", None)
        coils = {"coils": getattr(trained, "coil_maps", "") or "espirit"} if self.coils else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a judgement, which is not asked for here
            return atlf.reconstruct(np.where(mask, self.kspace, 0), mask, **coils, **settings)

    def measured(self, mask: np.ndarray) -> tuple[Record, Settings, Measured]:
        """Return what a mask leaves, as solvers take it; made once for each mask."""
        if self._measured is None or not np.array_equal(self._measured[0].mask, mask):
            samples = np.where(mask, self.kspace, 0).astype(np.complex64)
            record = Record(samples, mask, np.zeros(self.shape, np.float32))
            coils = "espirit" if self.coils else None
            settings = Settings(coils=coils, calibration=calibration_sides(mask, self.shape))
            _, fields = next(in_batches([record], settings))
            self._measured = (record, settings, prepare_batch(fields, settings))
        return self._measured

    def error(self, image: np.ndarray) -> float:
        """Return the NRMSE of an image's magnitude."""
        return float(np.linalg.norm(np.abs(image) - self.truth) / np.linalg.norm(self.truth))


def solver_scores(scan: Scan, mask: np.ndarray, method: str) -> dict[str, float] | str:
    """Return the NRMSE at the best regularisation and at the one that the rule chooses, and the two."""
    if method == "zero_filled":
        return {"best": scan.error(scan.reconstruct(mask))}
    if method in ("cg_sense", "grappa") and not scan.coils:
        return "-"
    grid = GRIDS[method]
    record, settings, found = scan.measured(mask)
    errors = []
    for value in grid:
        image = Solver(method, value)(found.measurement).image[0] * found.scale[0]
        errors.append(scan.error(np.asarray(image)))
    chosen = choose_regularisation(Solver(method, "withheld"), [record], settings).solver.regularisation
    best = int(np.argmin(errors))
    return {
        "best": errors[best],
        "at": grid[best],
        "rule": errors[grid.index(chosen)],
        "chosen": chosen,
    }


def solver_scores_with_samples(scan: Scan, mask: np.ndarray, method: str) -> dict[str, float]:
    """Return the least NRMSE of the root of the sum of squares of ``F^H (M y_c + (1 - M) F S_c x)``, and where."""
    _, _, found = scan.measured(mask)
    samples, sampled, _, maps = found.measurement
    if maps is None:
        samples, maps = samples[:, None], jnp.ones_like(samples[:, None])
    errors = []
    for value in GRIDS[method]:
        image = Solver(method, value)(found.measurement).image
        filled = jnp.where(sampled[:, None], samples, atlf.ops.fft2c(maps * image[:, None]))
        errors.append(scan.error(np.asarray(atlf.ops.rss(atlf.ops.ifft2c(filled))[0] * found.scale[0])))
    best = int(np.argmin(errors))
    return {"best": errors[best], "at": GRIDS[method][best]}


def pictures_of(scan: Scan, mask: np.ndarray, regularisation: float, model: Any) -> dict[str, np.ndarray]:
    """Return the magnitudes to draw by their titles, in units of the truth's largest value."""
    _, _, found = scan.measured(mask)
    solved = Solver("total_variation", regularisation)(found.measurement).image[0] * found.scale[0]
    images = {"zero-filled": scan.reconstruct(mask), "total variation": np.asarray(solved)}
    if model is not None:
        images["network"] = scan.reconstruct(mask, model=model, force=True)
    titled = {f"{name}, {scan.error(image):.3f}": np.abs(image) for name, image in images.items()}
    return {title: image / scan.truth.max() for title, image in (titled | {"all samples": scan.truth}).items()}


def draw(path: Path, pictures: dict[str, dict[str, np.ndarray]], mask: str) -> None:
    """Write a row of pictures for each scan."""
    import matplotlib.pyplot as plt

    columns = max(map(len, pictures.values()))
    figure, axes = plt.subplots(len(pictures), columns, figsize=(2.2 * columns, 2.3 * len(pictures)), squeeze=False)
    for row, (name, images) in zip(axes, pictures.items(), strict=True):
        for place, (title, image) in zip(row, images.items(), strict=True):
            place.imshow(image, cmap="gray", vmin=0, vmax=0.8)
            place.set_title(title, fontsize=7)
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=7)
    figure.suptitle(f"{mask}; NRMSE of the magnitude", fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 80})
    plt.close(figure)


def sigpy_differences(scan: Scan, mask: np.ndarray) -> dict[str, float]:
    """Return how far our images are from sigpy's, relative to theirs, with the same maps and regularisation."""
    from sigpy.mri import app

    samples = np.where(mask, scan.kspace, 0)
    sides = calibration_sides(mask, scan.shape)
    maps = np.asarray(atlf.ops.espirit_maps(samples, calibration=sides, kernel=kernel_side(sides)))
    scale = float(np.abs(np.asarray(atlf.adjoint(samples, mask, maps))).max())
    weights = np.broadcast_to(mask, samples.shape).astype(np.float32)
    theirs = app.SenseRecon(samples / scale, maps, lamda=0.01, weights=weights, max_iter=30, show_pbar=False).run()
    ours = np.asarray(atlf.cg_sense(samples / scale, mask, maps, regularisation=0.01, iterations=30))
    found = {"CG-SENSE": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))}
    theirs = app.L1WaveletRecon(samples / scale, maps, 3e-3, weights=weights, max_iter=100, show_pbar=False).run()
    ours = np.asarray(atlf.l1_wavelet(samples / scale, mask, maps, regularisation=3e-3, iterations=100))
    return found | {"L1 wavelet": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))}


def _cell(found: dict[str, float]) -> str:
    return f"{found['best']:.3f}" + (f" / {found['rule']:.3f}" if "rule" in found else "")


if __name__ == "__main__":
    main()
