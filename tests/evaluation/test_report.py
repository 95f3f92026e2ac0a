import base64
import csv
import dataclasses
import html
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from atlf_jax.evaluation import report
from atlf_jax.evaluation.data_audit import audit
from atlf_jax.evaluation.headline import headline
from atlf_jax.evaluation.pictures import error_limits
from atlf_jax.evaluation.scoring import Score, leading, reported
from atlf_jax.evaluation.statistics import summarise
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig, stored_mask
from atlf_jax.metrics import METRICS

REPORTED = reported(list(METRICS))


class Page(HTMLParser):
    """Collect what a page would load, and what it says."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.words, self.tags, self.hidden = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.hidden += tag in ("style", "script")
        self.loads += [
            value for name, value in attributes if name in ("src", "srcset", "href", "data", "action", "poster")
        ]

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "made" / "here"
    facts, page = report.write(folder, study)
    assert page == folder / "report.html"
    return folder, facts


def words(page):
    return " ".join("".join(page.words).split())


def test_the_page_loads_nothing_from_outside(written):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads and all(address.startswith("data:image/png;base64,") for address in page.loads)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|fetch\(", re.sub(r"base64,[^\"]*", "", text))


def test_the_page_says_every_number_of_the_summary(written):
    said = words(Page((written[0] / "report.html").read_text(encoding="utf-8")))
    facts = written[1]
    for result in facts["results"]:
        metric = result["metric"]
        for value in (result["mean"], result["deviation"], result["slice_mean"], result["worst"], *result["interval"]):
            assert report.number(value, metric) in said
        assert all(report.number(value, metric) in said for value in result["subjects"].values())
        assert result["worst_name"] in said
    for mask in facts["protocol"]["masks"]:
        for number in (f"{mask['nominal']:g}", f"{mask['effective']:.2f}", f"{mask['coverage']:.3f}", mask["hash"]):
            assert number in said
    for item in facts["comparisons"]:
        if item["metric"] in leading(METRICS):
            assert report.number(item["difference"], item["metric"], signed=True) in said
            assert f"{item['slice_p']:.2g}" in said
    assert all(remark in said for remark in facts["remarks"])
    assert "12,345" in said and "runs/half" in said and "half<way>" in said and "profile picture" in said
    assert "north (3), south (2)" in said and f"jax {facts['environment']['jax']}" in said


def test_the_page_begins_with_what_was_found(written):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    parts = [text.index(part) for part in ('class="headline"', "<h2>Pictures", "<h2>Results", "<h2>Protocol")]
    assert parts == sorted(parts)
    assert text.count("[95 % interval]") == len(REPORTED)
    assert not re.search(r"<tr><th></th>", text)  # each row of each table has its label
    assert '<div class="cell truth">' in text and re.search(r"PSNR [\d.∞]+ dB · SSIM", text)


def test_the_headline_names_the_best_method_and_the_zero_filled_image(written):
    facts = written[1]
    means = {
        (item["mask"], item["method"]): report.number(item["mean"], "psnr")
        for item in facts["results"]
        if item["metric"] == "psnr"
    }
    masks = [mask["label"] for mask in facts["protocol"]["masks"]]
    low, high = sorted(means[mask, "zero-filled"] for mask in masks)
    said = headline(facts)  # half of the zero-filled image is worse than all of it
    assert said.startswith("zero-filled has the highest mean PSNR under 2 of 2 masks. Over the masks, zero-filled: ")
    assert f"zero-filled: {low} to {high} dB; half<way>: " in said
    one = headline(facts | {"protocol": facts["protocol"] | {"masks": facts["protocol"]["masks"][:1]}})
    assert (
        f"reaches a PSNR of {means[masks[0], 'zero-filled']} dB under {masks[0]} (95 % interval over 2 subjects" in one
    )
    assert one.endswith(f"half<way>: {means[masks[0], 'half<way>']} dB.")
    nothing = [item | {"mean": math.nan} for item in facts["results"]]
    assert headline(facts | {"results": nothing}) == "No PSNR is defined: see the remarks."


def test_the_best_mean_of_each_column_is_marked(written):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    marked = re.findall(r'<td class="best">(.*?)<small>', text)
    expected = []
    for part, mask in itertools.product(("", "_body"), written[1]["protocol"]["masks"]):
        for method in written[1]["methods"]:
            for name, choose in {"psnr": max, "ssim": max, "nmse": min, "hfen": min}.items():
                metric = name + part
                column = [r for r in written[1]["results"] if (r["mask"], r["metric"]) == (mask["label"], metric)]
                best = choose(column, key=lambda result: result["mean"])
                expected += [report.spread(best)] if best["method"] == method else []
    assert marked == expected


def test_every_cell_has_a_heading(written):
    """Each row of a table is as wide as its head, so that no number stands under none."""
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    tables = re.findall(r"<table>(.*?)</table>", text, re.DOTALL)
    assert len(tables) > 6
    for table in tables:
        head, *rows = re.findall(r"<tr.*?>(.*?)</tr>", table, re.DOTALL)
        rows = [row for row in rows if "colspan" not in row]
        assert {len(re.findall(r"<t[hd]\b", row)) for row in rows} <= {len(re.findall(r"<t[hd]\b", head))}, head


def test_the_page_shows_each_panel(written, study):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    figures = re.findall(r'<figure class="panel".*?</figure>', text, re.DOTALL)
    assert len(figures) == len(study.panels) == 6
    for figure, panel in zip(figures, study.panels, strict=True):
        titles = [html.unescape(title) for title in re.findall(r'<div class="title".*?>(.*?)</div>', figure)]
        assert titles == [
            "CT", "mask", "fused, half<way>", "zero-filled", "error", "half<way>", "error",
            "truth", "error scale",
        ]  # fmt: skip
        limit = error_limits(study.panels)[panel.mask]
        assert f"0 to {limit:g}" in figure
        assert panel.sampling.hash in figure and panel.name in figure
    assert "worst of 5" in figures[0] and "3. from the worst of 5" in figures[1] and "best of 5" in figures[2]


def test_a_study_without_panels_has_a_report(study, tmp_path):
    _, page = report.write(tmp_path, dataclasses.replace(study, panels=()))
    assert 'class="panel"' not in page.read_text(encoding="utf-8")
    assert not (tmp_path / "panels.png").exists()


def test_the_csv_has_a_line_for_each_row(written, study):
    with (written[0] / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [*(name for name in Score._fields if name != "values"), *REPORTED]
    assert len(lines) == len(study.rows) == 2 * 2 * 5
    for line, row in zip(lines, study.rows, strict=True):
        assert (line["mask"], line["method"], line["name"], line["mask_hash"]) == (
            row[0],
            row[1],
            row.name,
            row.mask_hash,
        )
        assert {metric: float(line[metric]) for metric in REPORTED} == row.values


def test_the_json_holds_the_summary(written, study):
    facts = json.loads((written[0] / "summary.json").read_text())
    assert set(facts) == {
        "protocol",
        "environment",
        "methods",
        "results",
        "comparisons",
        "undefined",
        "left_out",
        "audit",
        "uncertainty",
        "remarks",
    }
    assert facts["protocol"]["subjects"] == {"north": 3, "south": 2}
    assert facts["protocol"]["profile"] == "picture" and facts["protocol"]["slices"] == 5
    assert facts["methods"]["half<way>"]["config"] == {"name": "half"}
    assert facts["methods"]["zero-filled"]["parameters"] == 0
    expected = summarise(study.rows, samples=100)
    assert [item["mean"] for item in facts["results"]] == [item.mean for item in expected]
    assert len(facts["results"]) == 2 * 2 * len(REPORTED) and len(facts["comparisons"]) == 2 * len(REPORTED)
    assert facts["undefined"] == facts["left_out"] == []


def test_infinite_scores_stay_readable(study, tmp_path):
    rows = [
        row._replace(values=row.values | {"psnr": math.inf}) if row.method != "zero-filled" else row
        for row in study.rows
    ]
    facts, page = report.write(tmp_path, dataclasses.replace(study, rows=rows))
    loaded = json.loads((tmp_path / "summary.json").read_text())
    perfect = [item for item in loaded["results"] if item["method"] == "half<way>" and item["metric"] == "psnr"]
    assert all(item["mean"] == "inf" and item["deviation"] is None for item in perfect)
    assert "∞" in page.read_text(encoding="utf-8")
    assert report.number(-math.inf, "psnr") == "−∞" and report.number(math.nan, "psnr") == "–"


def test_masks_of_all_slices_have_one_hash_that_tells_their_order(study):
    mask = report.summary(study)["protocol"]["masks"][1]  # of points: five different ones
    assert mask["distinct"] == 5
    effective = [row.effective for row in study.rows if row.mask == mask["label"] and row.method == "zero-filled"]
    assert mask["effective"] == pytest.approx(sum(effective) / 5)
    assert mask["effective_range"] == [min(effective), max(effective)]
    assert (
        report.summary(dataclasses.replace(study, rows=study.rows[::-1]))["protocol"]["masks"][0]["hash"]
        != mask["hash"]
    )
    same = [row._replace(mask_hash="abcdef01") for row in study.rows]
    assert report.summary(dataclasses.replace(study, rows=same))["protocol"]["masks"][1]["hash"] == "abcdef01"


def test_cautions_follow_the_data(study):
    assert report.summary(study)["remarks"][1:] == [
        report.DATASET_REMARKS["aanlib"],
        report.CLINICAL_REMARK,
    ]
    other = dataclasses.replace(study, dataset="mine")
    assert report.summary(other)["remarks"][1:] == [report.CLINICAL_REMARK]
    unpaired = dataclasses.replace(other, dataset="prepared, unpaired")  # as evaluate.py names it
    assert "different people (unpaired)" in report.summary(unpaired)["remarks"][1]
    mixed = dataclasses.replace(other, dataset="prepared, mixed")
    assert "some subjects are of different people (unpaired)" in report.summary(mixed)["remarks"][1]
    warned = dataclasses.replace(other, warnings=["half: 9x was never trained."])
    assert report.summary(warned)["remarks"][1:] == ["half: 9x was never trained.", report.CLINICAL_REMARK]


def test_what_flatters_is_told(study, slices, tmp_path):
    found = audit(Trial(slices, (MaskConfig("random", 2.0, 0.25),)))
    assert found[0].found and not all(item.found for item in found)
    facts, page = report.write(tmp_path, dataclasses.replace(study, audit=found))
    loaded = json.loads((tmp_path / "summary.json").read_text())["audit"]
    assert loaded == facts["audit"] == [item._asdict() for item in found]
    said = words(Page(page.read_text(encoding="utf-8")))
    assert "What flatters these numbers" in said and "random 2x, centre 0.25: 0." in said
    assert all(item.sentence in said and f"{item.evidence:.3g} {item.unit}" in said for item in found)
    assert "What flatters" not in report.render(study, report.summary(study))


def test_tables_fit_a_narrow_terminal(study):
    facts = report.summary(study)
    console = Console(width=80)
    with console.capture() as capture:
        for table in report.tables(facts):
            console.print(table)
    text = capture.get()
    assert "…" not in text and "PSNR [dB] ↑" in text
    assert "SSIM, body ↑" in text
    for result in facts["results"]:
        assert report.number(result["mean"], result["metric"]) in text
        assert report.interval(result) in text
    for mask in facts["protocol"]["masks"]:
        assert mask["hash"] in text and f"nominal {mask['nominal']:g}x" in text
    assert "profile picture" in " ".join(text.split()) and "12,345" in text


def test_numbers_are_written_with_the_digits_of_their_metric():
    assert report.number(31.256, "psnr") == "31.26" and report.number(0.51234, "ssim") == "0.5123"
    assert report.number(-1.5, "psnr", signed=True) == "−1.50" and report.number(1.5, "psnr", signed=True) == "+1.50"
    assert report.number(None, "psnr") == "–"
    assert report.spread({"metric": "psnr", "mean": 30.0, "deviation": None}) == "30.00"
    assert report.interval({"metric": "psnr", "interval": None}) == ""


def runs_of(line):
    """How many runs of white a row of pixels has."""
    white = np.concatenate([[False], np.asarray(line, bool)])
    return int((white[1:] & ~white[:-1]).sum())


def test_a_mask_of_many_lines_is_shown_line_by_line(study):
    """54 lines in 29 runs, as a radiologist would count them on the page, with five methods beside it."""
    lines = np.zeros(256, bool)
    lines[116:142] = True
    lines[np.arange(2, 114, 8)] = lines[np.arange(144, 256, 8)] = True
    assert (lines.sum(), runs_of(lines)) == (54, 29)
    picture = np.zeros((256, 256), np.float32)
    picture[64:192, 64:192] = 1
    methods = [f"guided_total_variation {number}" for number in range(5)]
    panel = study.panels[0]._replace(
        sampling=stored_mask(lines[None], layout="centered"),
        ct=picture,
        target=picture,
        images=dict.fromkeys(["zero-filled", *methods], picture),
        fused={},
    )
    rows = [study.rows[0]._replace(method=method, record=panel.record) for method in panel.images]
    wide = dataclasses.replace(study, methods=dict.fromkeys(methods, report.Method()), rows=rows, panels=[panel])
    page = report.render(wide, report.summary(wide))
    tag = next(tag for tag in re.findall(r"<img[^>]*>", page) if 'alt="mask"' in tag)
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", tag)[1])))
    assert f'width="{shown.width}" height="{shown.height}"' in tag and shown.width % 256 == 0
    assert runs_of(np.asarray(shown)[0]) == 29
    styles = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert re.findall(r"\S+ img \{ image-rendering: pixelated; \}", styles) == [
        "dialog.pixels img { image-rendering: pixelated; }"
    ]
    assert "showModal" in page  # a click enlarges


def test_undefined_scores_are_named_on_every_page(study, tmp_path):
    nothing = dict.fromkeys(REPORTED, math.nan)
    rows = [
        row._replace(values=nothing) if (row.method, row.name) == ("half<way>", "n2") else row for row in study.rows
    ]
    panels = [
        panel._replace(images=panel.images | {"half<way>": panel.target * np.nan}) if panel.name == "n2" else panel
        for panel in study.panels
    ]
    told = dataclasses.replace(study, rows=rows, panels=panels, left_out=["n9"])
    facts, page = report.write(tmp_path, told)
    loaded = json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert {(item["method"], *item["names"]) for item in loaded["undefined"]} == {("half<way>", "n2")}
    assert loaded["left_out"] == ["n9"] and all(item["left_out"] == ["n2"] for item in loaded["results"])
    said = words(Page(page.read_text(encoding="utf-8")))
    assert "the MR is black and there is nothing to reconstruct: n9." in said
    assert "Not defined (nan), half<way>," in said and "of n2; this slice counts for no method there." in said
    everything = [row._replace(values=nothing) if row.method == "half<way>" else row for row in study.rows]
    facts = report.summary(dataclasses.replace(study, rows=everything))
    best = report.render(dataclasses.replace(study, rows=everything), facts)
    assert len(re.findall(r'<td class="best">', best)) == 2 * len(REPORTED)  # of the zero-filled image
    assert report.tables(facts)


def test_a_spreadsheet_takes_no_name_for_a_formula(study):
    named = ["=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", "<b>x</b>", "a,b"]
    rows = [row._replace(method=name) for name, row in zip(named, study.rows, strict=False)]
    rows = [row._replace(values=row.values | {"hfen": -1.5}) for row in rows]
    text = report._scores_table(rows)
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [line["method"] for line in lines] == ["'=cmd()", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "<b>x</b>", "a,b"]
    assert {line["hfen"] for line in lines} == {"-1.5"}  # a number stays one


def test_a_report_is_written_whole_or_not_at_all(study, tmp_path, monkeypatch):
    before = {}
    report.write(tmp_path, study)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    opened = Path.open

    def full(path, *arguments, **options):
        if path.name.startswith(".report.html"):
            raise OSError(28, "No space left on device")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    changed = dataclasses.replace(study, split="test")
    with pytest.raises(ValueError, match=r"report.html cannot be written \(No space left on device\)"):
        report.write(tmp_path, changed)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="No space left"):
        report.write(tmp_path / "new", changed)
    assert not (tmp_path / "new").exists()


def test_the_folder_is_checked_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    report.check_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    for folder, why in (
        ("file", "is no folder"),
        ("file/in", "is no folder"),
        ("link", "is no folder"),
        ("taken", "report.html is a folder"),
    ):
        with pytest.raises(ValueError, match=f"{why}.* with --out"):
            report.check_folder(tmp_path / folder)

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\); make room, or choose"):
        report.check_folder(tmp_path / "new")


def test_names_of_methods_are_not_parted(study):
    rows = [row._replace(method="guided_total_variation") if row.method != "zero-filled" else row for row in study.rows]
    named = dataclasses.replace(study, rows=rows, methods={"guided_total_variation": report.Method()})
    gains = report.Section(
        "gains",
        "gains",
        [],
        [
            {
                "over": "m",
                "method": "guided_total_variation",
                "PSNR [dB]": "+0.10 (36/36)",
                "SSIM": "+0.1000 (36/36)",
                "PSNR [dB], body": "+0.10 (36/36)",
                "SSIM, body": "+0.1000 (36/36)",
            }
        ],
        group="over",
    )
    console = Console(width=80)
    with console.capture() as capture:
        for table in report.tables(report.summary(named), [gains]):
            console.print(table)
    assert capture.get().count("guided_total_variation") == 2 * len(REPORTED) + 2


def test_panels_of_an_earlier_report_do_not_stay(study, tmp_path):
    report.write(tmp_path, study)
    report.write(tmp_path, dataclasses.replace(study, panels=()))
    assert not (tmp_path / "panels.png").exists()
