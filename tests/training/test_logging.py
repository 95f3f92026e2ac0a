"""What a run tells."""

import io
import json
import math
import resource
import signal
import struct
import time

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from atlf_jax.training.logging import RunLog, panel


def read(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def log(workdir, *, start: int = 0, total: int = 10, every: int = 2) -> RunLog:
    return RunLog(workdir, start=start, total=total, batch_size=4, every=every)


def test_lines_hold_the_means_since_the_last(tmp_path, capsys) -> None:
    with log(tmp_path) as run:
        for step, loss in enumerate([1.0, 3.0, 5.0, 9.0], start=1):
            run.train(step, "joint", {"loss": loss, "psnr": 30.0})
    assert [(line["step"], line["loss"], line["stage"]) for line in read(tmp_path)] == [
        (2, 2.0, "joint"),
        (4, 7.0, "joint"),
    ]
    assert {"kind", "psnr", "images_per_second", "elapsed_seconds", "cpu_seconds"} <= read(tmp_path)[0].keys()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith("joint 2/10  loss 3  psnr 30.00 dB") and printed[0].endswith("s left")
    assert "images/s" in printed[0] and "\x1b" not in "".join(printed)


def test_a_line_leaves_out_infinity_and_shows_what_is_undefined(tmp_path) -> None:
    with log(tmp_path) as run:
        for step, psnr in enumerate([30.0, math.inf, math.inf, math.inf], start=1):
            run.train(step, "joint", {"loss": 1.0, "psnr": psnr})
    first, second = read(tmp_path)
    assert first["psnr"] == 30.0
    assert "psnr" not in second and second["loss"] == 1.0
    with log(tmp_path / "undefined") as run:
        for step, psnr in enumerate([30.0, math.nan], start=1):
            run.train(step, "joint", {"loss": 1.0, "psnr": psnr})
    assert math.isnan(read(tmp_path / "undefined")[0]["psnr"])


def test_a_restarted_clock_forgets_time_but_not_metrics(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with log(tmp_path) as run:
        now[0] = 1.0
        run.train(1, "joint", {"loss": 1.0})
        now[0] = 100.0
        run.restart_clock()
        now[0] = 102.0
        run.train(2, "joint", {"loss": 3.0})
    (line,) = read(tmp_path)
    assert line["loss"] == 2.0 and line["images_per_second"] == 2.0 and line["elapsed_seconds"] == 102.0


def test_time_left_does_not_count_compilation(tmp_path, monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with log(tmp_path, total=1000, every=1) as run:
        for step, (stage, end) in enumerate([("joint", 300.0), ("joint", 301.0), ("adapters", 500.0)], start=1):
            now[0] = end
            run.train(step, stage, {"loss": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        "joint 1/1000  loss 1",
        "joint 2/1000  loss 1  4 images/s  17 min left",
        "adapters 3/1000  loss 1",
    ]


def test_a_line_may_span_two_stages(tmp_path) -> None:
    with log(tmp_path) as run:
        run.train(1, "fusion", {"loss": 1.0, "loss/fusion": 1.0})
        run.train(2, "joint", {"loss": 3.0, "loss/mse": 3.0})
    (line,) = read(tmp_path)
    assert (line["stage"], line["loss"], line["loss/mse"]) == ("joint", 2.0, 3.0) and "loss/fusion" not in line


def test_the_last_step_is_always_logged(tmp_path) -> None:
    with log(tmp_path, total=3, every=2) as run:
        for step in (1, 2, 3):
            run.train(step, "joint", {"loss": 1.0})
    assert [line["step"] for line in read(tmp_path)] == [2, 3]


def test_a_resumed_log_drops_what_will_be_done_again(tmp_path) -> None:
    with log(tmp_path) as run:
        for step in range(1, 7):
            run.train(step, "joint", {"loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    before = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["elapsed_seconds"]
    with log(tmp_path, start=4) as run:
        for step in (5, 6):
            run.train(step, "fusion", {"loss": 2.0})
    assert [(line["step"], line["stage"]) for line in read(tmp_path)] == [(2, "joint"), (4, "joint"), (6, "fusion")]
    assert read(tmp_path)[-1]["elapsed_seconds"] > before


def test_a_terminal_gets_lines_and_a_progress_bar(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with log(tmp_path) as run:
        for step, loss in enumerate([0.5, 0.25, 0.125, 0.0625], start=1):
            run.train(step, "joint", {"loss": loss, "psnr": 30.0 + step})
    printed = capsys.readouterr().out
    assert "loss 0.0625" in printed and "psnr 34.00 dB" in printed and "images/s" in printed and "4/10" in printed
    assert "joint 2/10  loss 0.25" in printed  # a line of the history


def events(workdir) -> list:
    """Read an event file: records of length (8 bytes), checksum (4), content, checksum (4)."""
    found = []
    for file in sorted((workdir / "tensorboard").glob("events.out.tfevents.*")):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_scalars_and_pictures_reach_tensorboard(tmp_path) -> None:
    with log(tmp_path, every=1) as run:
        run.train(1, "joint", {"loss": 0.5})
        run.evaluation(1, "joint", {"loss": 0.4, "psnr": 30.0})
        run.picture(1, {"ct": np.zeros((2, 3)), "error": np.ones((2, 3))})
    with log(tmp_path, start=1):
        pass
    every = events(tmp_path)
    values = {(value.tag, event.step): value for event in every for value in event.summary.value}
    assert values["train/loss", 1].simple_value == 0.5 and values["valid/psnr", 1].simple_value == 30.0
    (picture,) = (value.image for (tag, _), value in values.items() if tag.startswith("validation/ct"))
    assert (picture.height, picture.width) == (2, 6)
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("L"))
    np.testing.assert_array_equal(pixels, [[0, 0, 0, 255, 255, 255]] * 2)
    starts = [event.step for event in every if event.session_log.status == SessionLog.START]
    assert starts == [1, 2]  # TensorBoard leaves out what an earlier file holds from there on


def test_panel_clips_and_joins() -> None:
    got = panel([np.array([[-1.0, 0.5]]), np.array([[1.0, 7.0]])])
    np.testing.assert_array_equal(got, [[0, 128, 255, 255]])
    assert got.dtype == np.uint8


@pytest.mark.parametrize("line", ["null", "[1]", '{"step": "x"}', "{", b"\xff\xfe".decode("latin-1")])
def test_a_log_that_no_run_has_written_is_refused_and_kept(tmp_path, line) -> None:
    with log(tmp_path, every=1) as run:
        run.train(1, "joint", {"loss": 1.0})
    whole = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(f"{line}\n{whole}", encoding="latin-1")
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"^line 1 of .*log\.jsonl is not what a run writes; mend or delete it"):
        log(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_warning_heads_every_line(tmp_path, capsys) -> None:
    with RunLog(tmp_path, start=0, total=2, batch_size=4, every=1, warning="take care") as run:
        run.train(1, "joint", {"loss": 0.5})
        run.evaluation(1, "joint", {"loss": 0.4})
    assert all(line.startswith("[take care] joint 1/2") for line in capsys.readouterr().out.splitlines())
    assert [line["warning"] for line in read(tmp_path)] == ["take care"] * 2


def test_a_disk_that_is_full_is_named(tmp_path) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    message = rf"^the log in {tmp_path} cannot be written \(File too large\); make room there or mend the folder"
    try:
        with pytest.raises(OSError, match=message), log(tmp_path, every=1) as run:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))  # no file grows beyond 50 bytes
            run.train(1, "joint", {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
