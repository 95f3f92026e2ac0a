"""Seconds and peak memory of multi-coil volumes: ``python -m benchmarks.volume --checkpoint=NAME --out=runs/volume``.

A fastMRI file of a Shepp-Logan phantom seen by birdcage coils, random lines at 4x, is reconstructed by ``atlf
reconstruct`` with a network (coil maps estimated) and by sigpy's L1 wavelets, slice by slice, with the true maps given.
Each is a process of its own, from the start of Python to the written file; the peak is that of the process. Times leave
nothing out: several numbers of slices show what is the start, and whether memory grows. Needs the extra ``bench``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import busy_cores, machine, markdown

SIGPY = """
import sys
import h5py
import numpy as np
from sigpy.mri.app import L1WaveletRecon

maps = np.load(sys.argv[2])
with h5py.File(sys.argv[1]) as file, h5py.File(sys.argv[3], "w") as out:
    slices, _, h, w = file["kspace"].shape
    images = out.create_dataset("reconstruction", (slices, h, w), np.float32)
    for number in range(slices):
        kspace = file["kspace"][number]
        scale = abs(kspace).max()
        weights = np.broadcast_to(file["mask"][:].astype(np.float32), kspace.shape)
        app = L1WaveletRecon(kspace / scale, maps, 3e-3, weights=weights, max_iter=int(sys.argv[4]), show_pbar=False)
        images[number] = abs(app.run()) * scale
"""

POLL = 0.05  # seconds between two looks at the memory


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.volume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", nargs="+", required=True, help="trained networks: folders, packed files or names")
    add("--slices", nargs="+", type=int, default=[20, 80])
    add("--coils", type=int, default=8)
    add("--size", type=int, default=256, help="height and width")
    add("--iterations", type=int, default=100, help="of sigpy's L1 wavelets; 0 leaves sigpy out")
    add("--out", type=Path, required=True, help="folder for table.md and results.json")
    arguments = parser.parse_args(argv)
    if min([*arguments.slices, arguments.coils, arguments.size]) < 1 or arguments.iterations < 0:
        parser.error("slices, coils and size must be at least 1, iterations at least 0")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; write and print the table."""
    arguments = parse(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    about = machine() | {"busy_cores": busy_cores()}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for slices in arguments.slices:
            scan = write_scan(folder, slices, arguments.coils, arguments.size)
            out = folder / "out.h5"
            commands = {
                checkpoint: [
                    "-m",
                    "atlf_jax.reconstruct",
                    scan,
                    out,
                    "--checkpoint",
                    checkpoint,
                    "--overwrite",
                    "--force",
                ]
                for checkpoint in arguments.checkpoint
            }
            if arguments.iterations:
                commands["sigpy L1 wavelets"] = ["-c", SIGPY, scan, folder / "maps.npy", out, arguments.iterations]
            for method, command in commands.items():
                rows.append({"method": method, "slices": slices} | measured([sys.executable, *map(str, command)]))
                print(rows[-1], flush=True)
    (arguments.out / "results.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    text = "\n\n".join([", ".join(f"{key} {value}" for key, value in about.items() if value != ""), markdown(rows)])
    (arguments.out / "table.md").write_text(text + "\n")
    print(text)


def write_scan(folder: Path, slices: int, coils: int, size: int) -> Path:
    """Write k-space of so many slices, and the maps; return the file of k-space."""
    from sigpy import shepp_logan

    from atlf_jax.data.fastmri import write_kspace
    from atlf_jax.data.transforms import fft2c_numpy
    from atlf_jax.masks import MaskConfig, make_mask
    from atlf_jax.ops import birdcage_maps

    maps = np.asarray(birdcage_maps((size, size), coils))
    mask = make_mask(MaskConfig("random_exact", 4.0, 0.08), (size, size), seed=0).samples[0]
    rng = np.random.default_rng(0)
    full = fft2c_numpy((maps * shepp_logan((size, size))).astype(np.complex64))
    noise = rng.standard_normal((2, *full.shape), dtype=np.float32) * np.float32(0.005)
    kspace = np.where(mask, full + noise[0] + 1j * noise[1], 0).astype(np.complex64)
    np.save(folder / "maps.npy", maps)
    path = folder / f"scan_{slices}.h5"
    write_kspace(path, np.broadcast_to(kspace, (slices, *kspace.shape)), mask=mask)
    return path


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; return its wall and CPU seconds and its peak memory."""
    with tempfile.TemporaryFile() as message:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=message)
        peak = ended = 0
        while not ended:
            peak = max(peak, peak_memory(process.pid))
            ended, code, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0 if ended else POLL)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            message.seek(0)
            said = message.read().decode()[-1000:]
            raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}: {said}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_gib": peak / 2**20}


def peak_memory(pid: int) -> int:
    """Return the most KiB that a running child of ours has held; 0 of one that has just ended.

    From /proc while it runs: ``ru_maxrss`` counts what the parent held as well.
    """
    lines = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) if lines else 0


if __name__ == "__main__":
    main()
