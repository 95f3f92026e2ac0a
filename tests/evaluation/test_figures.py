import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from atlf_jax.evaluation import figures

from .tiny_slices import SIZE


def test_grey_runs_from_black_at_zero_to_white():
    shown = np.asarray(figures.picture(np.array([[0.0, 0.5, 2.0], [1.0, -1.0, 4.0]]), white=2.0))
    np.testing.assert_array_equal(shown, [[0, 64, 255], [128, 0, 255]])


def test_lines_are_drawn_over_all_rows():
    shown = np.asarray(figures.mask_picture(np.array([[True, False, True]]), (4, 3)))
    np.testing.assert_array_equal(shown, np.tile([True, False, True], (4, 1)))


def test_error_maps_use_the_colours_of_the_bar():
    bar = np.asarray(figures.colour_bar())[0]
    shown = np.asarray(figures.error_picture(np.array([[0.0, 0.1], [0.2, 9.0]]), limit=0.2).convert("RGB"))
    np.testing.assert_array_equal(shown.reshape(4, 3), bar[[0, 128, 255, 255]])
    assert np.all(np.diff(bar.astype(int) @ [299, 587, 114]) >= -2000)  # ever lighter, to two grey levels of 255


def test_the_error_scale_is_shared_and_round(study):
    panels = study.panels
    errors = [np.abs(image - panel.target) for panel in panels for image in panel.images.values()]
    limit = figures.error_limit(panels)
    assert np.percentile(errors, 99.5) <= limit <= 2 * np.percentile(errors, 99.5)
    assert f"{limit:g}".strip("0.").isdigit() and len(f"{limit:g}".strip("0.")) == 1
    perfect = [panel._replace(images={"a": panel.target}) for panel in panels]
    assert figures.error_limit(perfect) == 1.0


def test_an_address_holds_its_picture():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    head, body = figures.data_uri(Image.fromarray(pixels)).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


def test_the_comparison_has_one_scale_for_all_errors(study):
    figure = figures.comparison_figure(study.panels, study.rows)
    titles = [axis.get_title() for axis in figure.axes[:7]]
    assert titles == [
        "CT", "fused (half<way>)", "zero-filled", "half<way>", "truth", "error, zero-filled", "error, half<way>"
    ]  # fmt: skip
    images = [axis.get_images()[0] for axis in figure.axes[:-1]]
    assert len(images) == 7 * len(study.panels)
    errors = [image for index, image in enumerate(images) if index % 7 >= 5]
    assert {image.get_clim() for image in errors} == {(0, figures.error_limit(study.panels))}
    np.testing.assert_allclose(
        errors[0].get_array(), np.abs(study.panels[0].images["zero-filled"] - study.panels[0].target)
    )
    grey = [image.get_clim()[1] for index, image in enumerate(images) if index % 7 in (2, 3, 4)]
    assert grey == [pytest.approx(panel.target.max()) for panel in study.panels for _ in range(3)]
    values = {(row.mask, row.method, row.name): row.values for row in study.rows}
    first = study.panels[0]
    assert figure.axes[2].get_xlabel().startswith(f"{values[first.mask, 'zero-filled', first.name]['psnr']:.2f} dB")
    assert len(figures.comparison_figure(study.panels[:1], study.rows, show_fused=False).axes) == 6 + 1
    assert Image.open(io.BytesIO(figures.png(figure, dpi=40))).size[0] > 3 * SIZE


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
