"""Each detector on images that have the flaw and on images that do not."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from atlf_jax.commands import audit as audit_command
from atlf_jax.data import AcquisitionConfig, PhantomConfig, PhantomSource
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy
from atlf_jax.evaluation import audit
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig

SIZE = 128


class Changed:
    """Heads with a phase, each changed by a function; counts how often a record is read."""

    def __init__(self, change):
        self.heads = PhantomSource(PhantomConfig(size=SIZE, subjects=4, slices=4, phase=0.785, split="valid"))
        self.change, self.read = change, []

    def __len__(self):
        return len(self.heads)

    def __getitem__(self, index):
        self.read.append(index)
        example = self.heads[index]
        return example._replace(target=self.change(example.target).astype(np.complex64))


def found(change, **options):
    return {item.name: item for item in audit.audit(Trial(Changed(change), **options))}


def names(results):
    return {name for name, item in results.items() if item.found}


def filtered(image, window):
    return ifft2c_numpy((fft2c_numpy(image) * window).astype(np.complex64))


def padded(rows, columns):
    """Keep as many samples about the centre."""
    window = np.zeros((SIZE, SIZE))
    top, left = (SIZE - rows) // 2, (SIZE - columns) // 2
    window[top : top + rows, left : left + columns] = 1
    return lambda image: filtered(image, window)


def gaussian(sigma):
    """Weigh k-space by a Gaussian; sigma in parts of the way to the edge."""
    place = (np.arange(SIZE) - SIZE // 2) / (SIZE // 2)
    line = np.exp(-(place**2) / (2 * sigma**2))
    return lambda image: filtered(image, np.outer(line, line))


def rounded(image, levels=255):
    return np.rint(levels * np.abs(image) / np.abs(image).max()) / levels


def jpeg(quality, shift=(0, 0)):
    def change(image):
        file = io.BytesIO()
        Image.fromarray((255 * rounded(image)).astype(np.uint8)).save(file, "JPEG", quality=quality)
        return np.roll(np.asarray(Image.open(file)) / 255, shift, (0, 1))

    return change


def test_clean_heads_have_no_flaw():
    results = found(lambda image: image)
    assert names(results) == set() and len(results) == 7
    assert results["magnitude only"].evidence > 1e-2
    assert not any(word in item.sentence for item in results.values() for word in ("JPEG", "interpolated", "Rounding"))


def test_magnitudes():
    results = found(
        np.abs, masks=(MaskConfig("random", 4.0, 0.08), MaskConfig("random", 8.0, 0.04), MaskConfig("radial", 4.0))
    )
    assert names(results) == {"magnitude only"}
    words = results["magnitude only"].sentence
    assert "random 4x, centre 0.08: 0.2" in words and "random 8x" in words and "radial 4x: 0.2" in words
    sampled, known = (float(part.split()[0]) for part in words.split("random 4x, centre 0.08: ")[1].split(", ")[:2])
    assert sampled < known < 2 * sampled
    assert "magnitude only" in names(found(lambda image: np.abs(image) * np.exp(0.7j)))  # a constant phase is none
    simulated = found(np.abs, acquisition=AcquisitionConfig(phase=0.785))["magnitude only"]
    assert not simulated.found and "0.785 rad" in simulated.sentence


def test_grey_levels():
    assert names(found(rounded)) == {"magnitude only", "8 bit"}
    assert "8 bit" in names(found(lambda image: rounded(image) * np.exp(1j * np.angle(image)) * 0.37))
    assert "8 bit" not in names(found(lambda image: rounded(image, levels=4095)))  # as scanners store them


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (128, 96), (96, 128)])
@pytest.mark.parametrize("change", [lambda image: image, np.abs, rounded], ids=["complex", "magnitude", "8 bit"])
def test_zero_padding(rows, columns, change):
    pad = padded(rows, columns)
    item = found(lambda image: change(pad(image)))["zero-padded k-space"]
    assert item.found and item.evidence > 5  # measured 6 to 72 dB
    for axis, filled in (("rows", rows / SIZE), ("columns", columns / SIZE)):
        told = [float(word.split("%")[0]) for word in item.sentence.split("to ", 1)[1].split(" and ") if axis in word]
        assert (filled == 1 and not told) or told[0] / 100 == pytest.approx(filled, abs=2 / 64)  # bins are 1 / 64


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("shift", [(0, 0), (3, 5)])
def test_jpeg(quality, shift):
    results = found(jpeg(quality, shift))
    assert results["lossy compression"].found and results["lossy compression"].evidence > 1.15  # measured 1.29 and more
    assert "zero-padded k-space" not in names(results)


def test_filters():
    for sigma in (0.33, 0.5):
        results = found(gaussian(sigma))
        assert names(results) == {"filtered"} and results["filtered"].evidence > 9  # measured 12 and more
    assert "filtered" not in names(found(gaussian(3.0)))
    assert "filtered" not in names(found(padded(128, 96)))  # inside its filled part k-space is as it was


def test_clipping_and_empty_air():
    def clipped(image):
        magnitude = np.abs(image)
        return np.minimum(magnitude, np.percentile(magnitude, 99)) * np.exp(1j * np.angle(image))

    assert "clipped" in names(found(clipped))
    item = found(lambda image: np.where(np.abs(image) > 0.05 * np.abs(image).max(), image, 0))["empty background"]
    assert item.found and 0.1 < item.evidence < 0.9


def test_records_are_read_once_and_empty_ones_left_out():
    source = Changed(lambda image: image)
    audit.audit(Trial(source))
    assert source.read == list(range(4))
    assert audit.image_traits(np.zeros((32, 32), np.complex64)) is None
    with pytest.raises(ValueError, match="none of the 4 records holds an image"):
        audit.audit(Trial(Changed(lambda image: 0 * image)))


def test_sizes_may_differ_and_be_odd():
    rng = np.random.default_rng(0)
    measured = [audit.image_traits(rng.standard_normal(shape).astype(np.complex64)) for shape in ((17, 40), (33, 16))]
    assert len(audit.findings(measured)) == 7


def test_the_command(tmp_path, capsys):
    audit_command.main(["--dataset", "phantom", "--split", "inner_valid", "--json", str(tmp_path / "audit.json")])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and "magnitude" in said and "yes" in said
    told = json.loads((tmp_path / "audit.json").read_text())
    assert told[0]["name"] == "magnitude only" and told[0]["found"] and "random 4x" in told[0]["sentence"]
    for dataset, words in (("phantom", "not read from a folder"), ("aanlib", "holds neither")):
        with pytest.raises(SystemExit) as ended:
            audit_command.main(["--dataset", dataset, "--data.root", str(tmp_path)])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.startswith("atlf audit: ") and words in said and said.count("\n") == 1


def test_the_table_fits_80_columns():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(audit.table(audit.audit(Trial(Changed(rounded)))))
    assert "…" not in capture.get() and "zero-padded" in capture.get()


@pytest.mark.data
def test_the_atlas(data_dir):
    from atlf_jax.data import AANLIBConfig

    results = {item.name: item for item in audit.audit(Trial(AANLIBConfig(split="valid").open()))}
    assert names(results) == {
        "magnitude only", "8 bit", "zero-padded k-space", "filtered", "clipped", "empty background"
    }  # fmt: skip
    assert results["8 bit"].evidence == 72  # distinct grey levels: fewer than 8 bit hold
    assert "73% of the way to the edge along the columns" in results["zero-padded k-space"].sentence
