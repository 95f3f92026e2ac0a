"""Each example runs from end to end as a person runs it, and draws its pictures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURES = {
    "does_the_ct_help": ["does_the_ct_help", "does_the_ct_help_errors"],
    "learn_parameter": ["learn_parameter", "learn_parameter_images"],
    "masks": ["masks", "masks_zero_filled"],
    "own_kspace": ["own_kspace"],
    "own_network": ["own_network", "own_network_loss"],
    "own_scans": ["own_scans"],
    "two_devices": ["two_devices"],
    "uncertainty": ["uncertainty", "uncertainty_groups"],
}


def decibels(printed: str, pattern: str) -> list[float]:
    """Return the numbers of the first line that a pattern matches."""
    found = re.search(pattern, printed)
    assert found, f"{pattern} is not in: {printed}"
    return [float(number) for number in found.groups()]


def learned_more(printed: str) -> bool:
    """On a head that it was not learned from, the learned parameter is better than the guess."""
    guess, learned = decibels(printed, r"head 20: guessed ([\d.]+) dB, learned ([\d.]+) dB")
    return learned > guess + 1


def points_beat_lines(printed: str) -> bool:
    """At one acceleration, total variation does better with points than with lines."""
    (lines,) = decibels(printed, r"random_exact .* ([\d.]+) dB\n")
    (points,) = decibels(printed, r"poisson_disc .* ([\d.]+) dB\n")
    return points > lines + 5


def methods_beat_zero_filling(printed: str) -> bool:
    """Every method is better than the zero-filled image."""
    (least,) = decibels(printed, r"zero-filled +([\d.]+) dB")
    names = ("CG-SENSE", "total variation", "wavelets", "network")
    return all(decibels(printed, rf"{name} +([\d.]+) dB")[0] > least + 1.5 for name in names)


def network_learned(printed: str) -> bool:
    """On unseen heads, the trained network is far better than the zero-filled image."""
    low, high = decibels(printed, r"zero-filled ([\d.]+) dB, own network ([\d.]+) dB")
    return high > low + 4


def right_ct_helps(printed: str) -> bool:
    """The right CT helps, one that is moved does not, and withheld samples tell both."""
    own = decibels(printed, r"its own CT +([+-][\d.]+) dB +([+-][\d.]+) dB")
    moved = decibels(printed, r"one moved by 6 pixels +([+-][\d.]+) dB +([+-][\d.]+) dB")
    return min(own) > 0.3 and max(moved) < 0


def same_on_two(printed: str) -> bool:
    """Two devices hold half a batch each, and the losses are those of one."""
    (difference,) = decibels(printed, r"difference of the losses: ([\d.e+-]+)")
    return printed.count("slice(0, 4, None)") == printed.count("slice(4, 8, None)") == 1 and difference < 1e-3


def errors_expected(printed: str) -> bool:
    """On another head the expected error is of the size of the true one."""
    expected, true = decibels(printed, r"expected ([\d.]+), true ([\d.]+)")
    return 0.5 < expected / true < 2


def scan_written(printed: str) -> bool:
    """The pair is registered, and the image lies on the grid of the MR."""
    (dice,) = decibels(printed, r"body dice ([\d.]+)")
    return dice > 0.95 and "image (64, 64, 8) voxels of [ 3.6  3.6 12. ] mm" in printed


RESULTS = {
    "does_the_ct_help": right_ct_helps,
    "learn_parameter": learned_more,
    "masks": points_beat_lines,
    "own_kspace": methods_beat_zero_filling,
    "own_network": network_learned,
    "own_scans": scan_written,
    "two_devices": same_on_two,
    "uncertainty": errors_expected,
}


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"pictures"} == set(PICTURES) == set(RESULTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RESULTS))
def test_example_runs(name, settings, tmp_path):
    """In a process of its own, with warnings of other libraries shown and those of deprecation fatal."""
    environment = settings["env"] | {"ATLF_EXAMPLES": str(tmp_path), "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "error::DeprecationWarning", str(EXAMPLES / f"{name}.py")]
    environment["PYTHONPATH"] = str(EXAMPLES.parent)
    done = subprocess.run(command, **settings | {"env": environment}, capture_output=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert RESULTS[name](done.stdout), done.stdout
    for picture in PICTURES[name]:
        with Image.open(tmp_path / f"{picture}.png") as drawn:
            colours = drawn.convert("RGB").getcolors(drawn.width * drawn.height)
            assert min(drawn.size) > 200 and len(colours) > 20  # something is drawn
