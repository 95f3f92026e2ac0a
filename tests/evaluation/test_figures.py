import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from atlf_jax.evaluation import figures, pictures

from .tiny_slices import SIZE


def test_grey_runs_from_black_at_zero_to_white():
    shown = np.asarray(pictures.picture(np.array([[0.0, 0.5, 2.0], [1.0, -1.0, 4.0]]), white=2.0))
    np.testing.assert_array_equal(shown, [[0, 64, 255], [128, 0, 255]])


def test_lines_are_drawn_over_all_rows():
    shown = np.asarray(pictures.mask_picture(np.array([[True, False, True]]), (4, 3)))
    np.testing.assert_array_equal(shown, np.tile([True, False, True], (4, 1)))


def test_error_maps_use_the_colours_of_the_bar():
    bar = np.asarray(pictures.colour_bar())[0]
    shown = np.asarray(pictures.error_picture(np.array([[0.0, 0.1], [0.2, 9.0]]), limit=0.2).convert("RGB"))
    np.testing.assert_array_equal(shown.reshape(4, 3), bar[[0, 128, 255, 255]])
    assert np.all(np.diff(bar.astype(int) @ [299, 587, 114]) >= -2000)  # ever lighter, to two grey levels of 255


def test_the_error_scale_is_shared_and_round(study):
    panels = study.panels
    errors = [np.abs(image - panel.target) for panel in panels for image in panel.images.values()]
    limit = pictures.error_limit(panels)
    assert np.percentile(errors, 99.5) <= limit <= 2 * np.percentile(errors, 99.5)
    assert f"{limit:g}".strip("0.").isdigit() and len(f"{limit:g}".strip("0.")) == 1
    perfect = [panel._replace(images={"a": panel.target}) for panel in panels]
    assert pictures.error_limit(perfect) == 1.0


def test_an_address_holds_its_picture():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    head, body = pictures.data_uri(Image.fromarray(pixels)).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


def test_each_mask_has_its_own_error_scale(study):
    limits = pictures.error_limits(study.panels)
    assert list(limits) == list(dict.fromkeys(panel.mask for panel in study.panels)) and len(limits) == 2
    for mask, limit in limits.items():
        assert limit == pictures.error_limit([panel for panel in study.panels if panel.mask == mask])


def test_pictures_are_enlarged_by_whole_pixels():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    shown = np.asarray(pictures.enlarged(Image.fromarray(pixels)))
    np.testing.assert_array_equal(shown, pixels.repeat(85, 0).repeat(85, 1))
    assert pictures.enlarged(Image.new("L", (256, 200))).size == (256, 200)
    assert pictures.enlarged(Image.new("L", (900, 700))).size == (900, 700)  # never smaller


def test_what_is_no_number_is_shown(study):
    shown = np.asarray(pictures.picture(np.array([[np.nan, np.inf], [-np.inf, 0.5]])))
    np.testing.assert_array_equal(shown, [[0, 255], [0, 128]])
    worst = pictures.error_picture(np.array([[np.nan, 0.0]]), limit=0.1)
    np.testing.assert_array_equal(np.asarray(worst), [[255, 0]])
    panel = study.panels[0]
    nothing = panel._replace(images={"a": panel.target * np.nan})
    assert pictures.error_limit([nothing]) == 1.0
    assert pictures.error_limit([nothing, panel]) == pictures.error_limit([panel])
    scores = {"a": {"psnr": np.nan, "ssim": np.nan}}
    assert pictures.cards(nothing, scores, limit=1.0)[-2][0].caption == "not defined (nan)"


def test_a_sheet_shows_every_picture_unchanged_and_in_its_column(study):
    """Five methods and one fused image, which has nothing below it: eight cards, five to a line."""
    panel = study.panels[0]
    methods = [f"guided_total_variation, CT of another subject {number}" for number in range(5)]
    images = {method: panel.images["half<way>"] * (1 - number / 8) for number, method in enumerate(methods)}
    panel = panel._replace(images=images)
    rows = [study.rows[0]._replace(mask=panel.mask, method=method, record=panel.record) for method in methods]
    pixels = np.asarray(pictures.comparison_sheet([panel], rows))
    side = 11 * SIZE
    assert pixels.shape[1] == 2 * pictures.MARGIN + pictures.ACROSS * (side + pictures.GAP) - pictures.GAP
    cards = pictures.cards(panel, {row.method: row.values for row in rows}, limit=pictures.error_limit([panel]))
    assert [len(card) for card in cards] == [2, 1, 2, 2, 2, 2, 2, 2]
    for number, card in enumerate(cards):
        left = pictures.MARGIN + number % pictures.ACROSS * (side + pictures.GAP)
        column = pixels[:, left : left + side]
        for cell in card:
            wanted = np.asarray(cell.picture.convert("RGB"))
            starts = np.flatnonzero((column == wanted[0]).all(axis=(1, 2)))
            assert any(np.array_equal(column[top : top + len(wanted)], wanted) for top in starts), cell.title
    # A title of two lines stands above the pictures, not on them.
    assert pictures._text_block(methods[0], side, pictures.FONT).height > pictures.LINE + 2


def test_names_are_drawn_letter_by_letter(study):
    rows = [row._replace(method={"zero-filled": "$5$ net", "half<way>": "_net"}[row.method]) for row in study.rows]
    figure = figures.metric_figure(rows)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"\$5\$ net", " _net"]
    assert figures.png(figure, dpi=30).startswith(b"\x89PNG")


@pytest.mark.parametrize("dark", [False, True])
def test_every_slice_has_its_mark(study, dark):
    rows = [*study.rows[:-1], study.rows[-1]._replace(values=study.rows[-1].values | {"psnr": math.inf})]
    figure = figures.metric_figure(rows, dark=dark)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        group = [row for row in rows if row.mask == axis.get_title(loc="left")]
        for line in axis.get_lines()[:2]:
            values = np.array([row.values["psnr"] for row in group if row.method == line.get_label()])
            np.testing.assert_array_equal(line.get_ydata(), np.where(np.isinf(values), np.nan, values))
        assert [label.get_text() for label in axis.get_xticklabels()] == ["subject north", "subject south"]
        np.testing.assert_allclose(axis.get_xticks(), [1, 3.5])
    assert figures.png(figure, dpi=30).startswith(b"\x89PNG")


def test_the_baseline_is_grey_and_methods_differ():
    colours = figures.method_colours(["zero-filled", "a", "b"])
    assert colours["zero-filled"] == "#8c8c8c" and len(set(colours.values())) == 3
