"""What the page computes, without a browser; and the server's answers, without a socket."""

import gzip
import io
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import atlf_jax as atlf
from atlf_jax.config import Config
from atlf_jax.data.picture import read_slice
from atlf_jax.demo import trial
from atlf_jax.demo.trial import Choice, Superseded, as_page, expected_error, run
from atlf_jax.models import UNetConfig, build
from atlf_jax.trained import Network
from tests.models.conftest import measure, random_variables

PAGE = Path(trial.__file__).with_name("page.html")


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> None:
    """A network that compiles in a second stands in for the shipped ones, on pictures of 64 x 64."""
    model = UNetConfig(width=2, pools=1, dc="hard")
    network = Network(Config(name="tiny", model=model), random_variables(build(model), measure()[0]), {"step": 1})
    monkeypatch.setattr(trial, "_network", lambda name: network)
    monkeypatch.setattr(trial, "_images", type(trial._images)())
    monkeypatch.setattr(trial, "SIZE", 64)
    heads = atlf.data.PhantomSource(atlf.data.PhantomConfig(size=64))
    monkeypatch.setattr(trial, "_head", heads.__getitem__)


def test_each_choice_reaches_the_image() -> None:
    first = run(Choice())
    names = ["Zero-filled", "Total variation", "Network without CT", "Network with CT"]
    assert [method.name for method in first.methods] == names
    psnr = {method.name: method.psnr for method in first.methods}
    assert first.headline.startswith(f"With its own CT: {psnr['Network with CT']:.1f} dB, without: ")
    start = np.abs(np.asarray(atlf.adjoint(atlf.forward(first.truth, first.mask), first.mask)))
    np.testing.assert_allclose(first.methods[0].image, start, atol=1e-5)
    for change in ({"ct": "moved"}, {"ct": "turned"}, {"ct": "another"}, {"noise": 0.05}, {"mask_seed": 2},
                   {"acceleration": 8.0}, {"head": 12}, {"mask": "variable_density_2d"}):  # fmt: skip
        other = run(Choice(**change))
        assert not np.array_equal(other.methods[-1].image, first.methods[-1].image), change
        same = np.array_equal(other.methods[2].image, first.methods[2].image)
        assert same == ("ct" in change), change  # without a CT, the choice of the CT changes nothing
    assert run(Choice(solver="l1_wavelet")).methods[1].name == "Wavelets"
    none = run(Choice(ct="none"))
    assert none.headline.startswith("Network without a CT: ") and len(none.methods) == 3 and not none.ct.any()


def test_a_moved_ct_is_warned_of() -> None:
    assert any("CT and MR do not match in place" in words for words in run(Choice(ct="moved", move=8.0)).warnings)


def test_a_picture_of_ones_own_is_the_truth() -> None:
    mr = read_slice(png(np.tile(np.arange(1, 65, dtype=np.uint8) * 3, (64, 1))), size=64)
    found = run(Choice(), mr=mr)
    assert found.truth is mr and not found.ct.any() and found.ct_name == "no CT"
    np.testing.assert_array_equal(run(Choice(), mr=mr, ct=mr).ct, mr)


def test_the_expected_error_gives_way_to_a_new_choice() -> None:
    error, calibrated = expected_error(Choice())
    assert error.shape == (64, 64) and error.max() > 0 and not calibrated
    with pytest.raises(Superseded):
        expected_error(Choice(), superseded=lambda: True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"acceleration": 40.0}, "acceleration is 40; wanted 1 to 16"),
        ({"noise": -1.0}, "noise is -1; wanted 0 to 0.2"),
        ({"head": 10_000}, "head is 10000"),
        ({"network": "../../x"}, r"no weights '../../x'; there are aanlib-10x-compact, "),
    ],
)
def test_what_cannot_be_chosen_is_refused(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        Choice(**change)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_files_are_read_from_memory() -> None:
    volume = np.zeros((40, 20, 5), np.float32)
    volume[10:30, 5:15, 2] = 100.0
    packed = nib.Nifti1Image(volume, np.eye(4)).to_bytes()
    for content in (packed, gzip.compress(packed)):
        image = read_slice(content, size=64)
        assert image.shape == (64, 64) and image.dtype == np.float32 and image.max() == 1
        assert 0.1 < image.mean() < 0.15  # 200 of 1,600 pixels of the square
    with pytest.raises(ValueError, match="is empty or too small; choose another"):
        read_slice(packed, size=64, place=0.0)
    hounsfield = nib.Nifti1Image(np.where(volume > 0, 40.0, -1000.0).astype(np.float32), np.eye(4)).to_bytes()
    assert 0.3 < read_slice(hounsfield, size=64, ct=True).max() < 0.7  # 40 HU in the brain window of 80 HU
    for broken in (b"", b"hello", b"\x1f\x8bhello", png(np.ones((30, 30), np.uint8))[:60]):
        with pytest.raises(ValueError, match=r"no PNG, JPEG or NIfTI file|packed file is damaged"):
            read_slice(broken)


def test_the_page_asks_nobody_else() -> None:
    html = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"https?:|[\"'(]//", html)


def test_the_server_answers_and_refuses() -> None:
    pytest.importorskip("starlette", reason="the page is of the extra [demo]")
    pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")
    from starlette.testclient import TestClient

    from atlf_jax.demo.server import application

    client = TestClient(application(), base_url="http://127.0.0.1")
    home = client.get("/")
    assert '"aanlib-best"' in home.text and "default-src 'none'" in home.headers["Content-Security-Policy"]
    picture = png(np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1)))
    found = client.post("/picture?kind=mr", content=picture).json()
    assert found == {"id": "1"}
    answer = client.post("/run", json={"head": 4, "acceleration": 4}).json()
    assert answer["headline"].startswith("With its own CT") and len(answer["methods"]) == 4
    assert client.post("/error", json={"head": 4}).json()["note"].startswith("shows where, not how much")
    for asked, words in (({"mr": "7"}, "no longer in memory"), ({"heads": 1}, "no field 'heads'"), ([], "")):
        refused = client.post("/run", json=asked)
        assert refused.status_code == 400 and words in refused.json()["refused"]
    assert client.post("/picture", content=b"hello").status_code == 400
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_all_pictures_of_a_page_are_in_it() -> None:
    page = as_page(run(Choice()))
    images = [page["truth"], page["ct"], page["mask"]]
    images += [each[kind] for each in page["methods"] for kind in ("image", "error")]
    assert len(images) == 11 and all(image.startswith("data:image/png;base64,") for image in images)


def test_a_network_that_takes_no_ct_is_tried_without_one(monkeypatch) -> None:
    model = UNetConfig(width=4, pools=1, use_ct=False)
    network = Network(Config(name="blind", model=model), random_variables(build(model), measure()[0]), {"step": 1})
    monkeypatch.setattr(trial, "_network", lambda name: network)
    tried = run(Choice())
    assert tried.headline.startswith("Network without a CT: ")
    assert [method.name for method in tried.methods][-1] == "Network without CT"
