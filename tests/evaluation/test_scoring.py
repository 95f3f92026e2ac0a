import dataclasses
import logging
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax import metrics
from atlf_jax.array_types import Reconstruction
from atlf_jax.data import AcquisitionConfig, evaluation_batches
from atlf_jax.evaluation.scoring import body, choose_panels, evaluate
from atlf_jax.evaluation.slices import reconstruct_slices
from atlf_jax.evaluation.statistics import summarise
from atlf_jax.evaluation.trial import EvaluationConfig, without_black
from atlf_jax.masks import MaskConfig, make_mask, mask_label, seed_from_name
from atlf_jax.models import ZeroFilled

from .tiny_slices import MASKS, SIZE, Slices, halfway, trial

LINES, POINTS = MASKS
BY_TWO = EvaluationConfig(batch_size=2)
BY_ONE = EvaluationConfig(batch_size=1)


def zero_filled(measurement):
    return ZeroFilled().apply({}, measurement)


def table(rows, metric="psnr"):
    return {(row.mask, row.method, row.name): row.values[metric] for row in rows}


def test_the_zero_filled_row_is_the_magnitude_of_the_adjoint_in_the_units_of_the_source():
    (row,) = evaluate(trial({}, Slices(("n1",), gain=7.0)))
    target = np.abs(Slices(("n1",), gain=7.0)[0].target).astype(float)
    sampled = make_mask(LINES, (SIZE, SIZE), seed=seed_from_name("n1")).mask
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(target), norm="ortho")) * sampled
    image = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace), norm="ortho")))
    error = np.mean((image - target) ** 2)
    assert row.values["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3)  # float32 against float64
    assert row.values["nmse"] == pytest.approx(error / np.mean(target**2), rel=1e-4)


class InAir(Slices):
    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example._replace(target=np.pad(example.target[6:-6, 6:-6], 6))


def test_scores_in_the_body_leave_out_what_is_wrong_outside():
    source = InAir(("n1",))
    ((batch, _),) = evaluation_batches(source, mask=LINES, batch_size=1)
    target = np.abs(batch.target[0]) * batch.scale[0]
    wrong = jnp.asarray(np.where(body(target), batch.target, batch.target + 0.5 / batch.scale[0]))
    rows = evaluate(trial({"wrong": lambda _: Reconstruction(wrong)}, source, config=BY_ONE))
    assert body(target).sum() == 12 * 12
    assert rows[1].values["psnr"] == pytest.approx(-10 * np.log10(0.25 * 0.75), abs=1e-3)
    assert rows[1].values["psnr_body"] > 100 and rows[1].values["nmse_body"] < 1e-10


def test_the_body_is_the_largest_part_with_its_holes():
    image = np.zeros((20, 20), np.float32)
    image[2:12, 2:12] = 1
    image[5:8, 5:8] = 0
    image[15:17, 15:17] = 3
    want = np.zeros((20, 20), bool)
    want[2:12, 2:12] = True
    np.testing.assert_array_equal(body(image), want)


def test_a_model_that_is_zero_filled_scores_the_same(slices):
    rows = evaluate(trial({"same": zero_filled}, slices, masks=MASKS, config=BY_TWO))
    pairs = {}
    for row in rows:
        pairs.setdefault((row.mask, row.name), []).append(row.values)
    assert len(pairs) == 2 * len(slices)
    assert all(first == second for first, second in pairs.values())


def test_a_perfect_reconstruction_scores_infinity_and_one():
    source = Slices(("n1",))
    ((batch, _),) = evaluation_batches(source, mask=LINES, batch_size=1)

    def oracle(_):
        return Reconstruction(jnp.asarray(batch.target))

    rows = evaluate(trial({"oracle": oracle}, source, config=EvaluationConfig(batch_size=1)))
    assert rows[1].method == "oracle"
    perfect = {"psnr": np.inf, "ssim": pytest.approx(1, abs=1e-6), "nmse": 0, "hfen": 0}
    assert rows[1].values == perfect | {f"{name}_body": value for name, value in perfect.items()}
    summaries = {(item.method, item.metric): item for item in summarise(rows, samples=10)}
    assert summaries["oracle", "psnr"].mean == np.inf


def test_rows_tell_the_mask_that_was_drawn(slices):
    rows = evaluate(trial({}, slices, masks=MASKS, config=BY_TWO))
    assert [row.name for row in rows] == 2 * ["n1", "n2", "n3", "s1", "s2"]
    assert [row.subject for row in rows] == 2 * (3 * ["north"] + 2 * ["south"])
    for row, mask in zip(rows, 5 * [LINES] + 5 * [POINTS], strict=True):
        drawn = make_mask(mask, (SIZE, SIZE), seed=seed_from_name(row.name))
        assert (row.mask, row.nominal) == (mask_label(mask), drawn.nominal)
        assert (row.effective, row.coverage, row.mask_hash) == (drawn.effective, drawn.coverage, drawn.hash)
        assert row.real and row.seconds > 0


def test_the_batch_size_changes_nothing(slices):
    three = table(evaluate(trial({"half": halfway}, slices, masks=MASKS, config=EvaluationConfig(batch_size=3))))
    one = table(evaluate(trial({"half": halfway}, slices, masks=MASKS, config=EvaluationConfig(batch_size=1))))
    assert list(three) == list(one)
    np.testing.assert_allclose(list(three.values()), list(one.values()), rtol=1e-5)


def test_a_model_is_traced_once_for_each_shape_of_mask(slices):
    traces = []

    def counted(measurement):
        traces.append(measurement.mask.shape)
        return zero_filled(measurement)

    masks = [LINES, MaskConfig("random", 3.0, 0.2), POINTS]
    evaluate(trial({"counted": counted}, slices, masks=masks, config=BY_TWO))
    assert traces == [(2, 1, SIZE), (2, SIZE, SIZE)]


def test_seconds_hold_no_compilation(slices):
    def slow_to_trace(measurement):
        time.sleep(1)
        return zero_filled(measurement)

    rows = evaluate(trial({"slow": slow_to_trace}, slices, config=BY_TWO))
    assert all(row.seconds < 0.4 for row in rows)  # a second for two slices otherwise


def test_phase_and_noise_reach_the_measurement(slices):
    clean, noisy = (evaluate(trial({}, slices, acquisition=AcquisitionConfig(noise=noise))) for noise in (0.0, 0.1))
    assert all(a.values["psnr"] > b.values["psnr"] for a, b in zip(clean, noisy, strict=True))
    assert not any(row.real for row in evaluate(trial({}, Slices(phase=0.5))))


def test_fastmri_gives_one_row_a_subject(slices):
    config = EvaluationConfig(profile="fastmri", batch_size=2)
    rows = evaluate(trial({"half": halfway}, slices, config=config))
    assert [(row.name, row.method) for row in rows] == [
        ("north", "zero-filled"),
        ("north", "half"),
        ("south", "zero-filled"),
        ("south", "half"),
    ]
    panels = list(reconstruct_slices(trial({"half": halfway}, slices, config=BY_TWO), LINES))
    south = [panel for panel in panels if panel.subject == "south"]
    images, target = (np.stack(x) for x in ([p.images["half"] for p in south], [p.target for p in south]))
    expected = metrics.score("fastmri", images, target)
    inside = metrics.score("fastmri", images, target, body=np.stack([body(image) for image in target]))
    expected |= {f"{name}_body": value for name, value in inside.items()}
    assert rows[3].values == {name: pytest.approx(float(value), rel=1e-5) for name, value in expected.items()}
    assert [panel.record for panel in choose_panels(trial({"half": halfway}, slices, config=config), rows)] in (
        [1, 4],
        [4, 1],
    )  # the middle slices


def test_panels_run_from_worst_to_best_and_are_what_was_scored(slices):
    config = EvaluationConfig(batch_size=2, panels=3)
    rows = evaluate(trial({"half": halfway}, slices, masks=MASKS, config=config))
    panels = choose_panels(trial({"half": halfway}, slices, MASKS, config=config), rows)
    for mask in map(mask_label, MASKS):
        ranked = sorted((r for r in rows if (r.mask, r.method) == (mask, "half")), key=lambda row: row.values["psnr"])
        shown = [panel for panel in panels if panel.mask == mask]
        assert [panel.name for panel in shown] == [ranked[rank].name for rank in (0, 2, 4)]
        assert [panel.record for panel in shown] == [ranked[rank].record for rank in (0, 2, 4)]
        for panel in shown:
            psnr = -10 * np.log10(np.mean((panel.images["half"] - panel.target) ** 2))
            assert psnr == pytest.approx(table(rows)[mask, "half", panel.name], rel=1e-5)
            assert set(panel.fused) == {"half"}
            assert panel.ct is not None and panel.sampling.samples.shape[-1] == SIZE


@pytest.mark.parametrize(("count", "ranks"), [(0, []), (1, [2]), (2, [0, 4]), (9, [0, 1, 2, 3, 4])])
def test_any_number_of_panels(slices, count, ranks):
    config = EvaluationConfig(batch_size=2, panels=count)
    rows = evaluate(trial({}, slices, config=config))
    ranked = sorted(rows, key=lambda row: row.values["psnr"])
    panels = choose_panels(trial({}, slices, config=config), rows)
    assert [panel.name for panel in panels] == [ranked[rank].name for rank in ranks]


def test_a_trial_names_its_masks(slices):
    masks = (MaskConfig("random", 2.0, 0.25), MaskConfig("random", 4.0, 0.1), POINTS)
    assert trial({}, slices, masks).labels == (
        "random 2x, centre 0.25",
        "random 4x, centre 0.1",
        "variable_density_2d 3x",
    )
    assert mask_label(MaskConfig("random", 2.0, center_lines=4)) == "random 2x, 4 lines"


def test_what_cannot_be_scored_is_refused(slices):
    with pytest.raises(ValueError, match="several masks are called 'variable_density_2d 3x'"):
        evaluate(trial({}, slices, masks=[POINTS, dataclasses.replace(POINTS, decay=0.2)]))
    with pytest.raises(ValueError, match="named 'zero-filled', the name of the baseline"):
        evaluate(trial({"zero-filled": halfway}, slices))
    with pytest.raises(ValueError, match="5 records and 0 masks, wanted at least one"):
        evaluate(trial({}, slices, ()))
    with pytest.raises(ValueError, match="0 records"):
        evaluate(trial({}, Slices(())))


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"bootstrap": 0}, {"panels": -1}, {"confidence": 1.0}, {"confidence": 0.0}]
)
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must be"):
        EvaluationConfig(**wrong)


OWN = """
import jax.numpy as jnp
from atlf_jax.metrics import Metric


def sharpness(prediction, target, peak, body):
    return jnp.abs(jnp.diff(prediction)).mean((-2, -1))


error = Metric(lambda p, t, peak, body: jnp.mean(abs(p - t), (-2, -1), where=body), lower_is_better=True, unit="AU")
"""


@pytest.mark.parametrize("profile", ["picture", "fastmri"])
def test_metrics_of_the_user_s_own_file(slices, tmp_path, profile):
    file = tmp_path / "own_metrics.py"
    file.write_text(OWN)
    names = (f"{file}:error", f"{file}:sharpness")
    tried = trial({"half": halfway}, slices, config=EvaluationConfig(profile=profile, metrics=names, panels=3))
    rows = evaluate(tried)
    assert set(rows[0].values) == {*names, *(f"{name}_body" for name in names)}
    half = [row for row in rows if row.method == "half"]
    worst = max(half, key=lambda row: row.values[names[0]])
    assert choose_panels(tried, rows)[0].record == worst.record  # the first is what slices are ranked by
    found = {(item.method, item.metric): item for item in summarise(rows, samples=10)}
    assert found["half", names[0]].worst == worst.values[names[0]]
    with pytest.raises(ValueError, match="defines no metric 'eror'; did you mean error"):
        EvaluationConfig(metrics=(f"{file}:eror",))
    with pytest.raises(ValueError, match="metrics are psnr, psnr; wanted at least one, each once"):
        EvaluationConfig(metrics=("psnr", "psnr"))


class Dark(Slices):
    """Slices of whom some have no signal."""

    def __init__(self, dark):
        super().__init__()
        self.dark = dark

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example._replace(target=example.target * (index not in self.dark))


def test_a_black_slice_is_left_out_and_named(slices, caplog):
    with caplog.at_level(logging.WARNING):
        rows = evaluate(trial({"half": halfway}, Dark({1}), config=BY_TWO))
    assert "MR is black and there is nothing to reconstruct: n2" in caplog.text
    whole = [row for row in evaluate(trial({"half": halfway}, slices, config=BY_TWO)) if row.name != "n2"]
    assert [(row.name, row.method, row.record) for row in rows] == [(row.name, row.method, row.record) for row in whole]
    assert [row.values["psnr"] for row in rows] == [pytest.approx(row.values["psnr"], rel=1e-5) for row in whole]
    source, names = without_black(Dark({1, 3}))
    assert names == ["n2", "s1"] and [source[index].name for index in range(len(source))] == ["n1", "n3", "s2"]
    assert without_black(slices) == (slices, [])


def test_of_volumes_only_black_ones_are_left_out():
    source, names = without_black(Dark({1, 3, 4}), profile="fastmri")
    assert names == ["s1", "s2"] and len(source) == 3
    rows = evaluate(trial({}, Dark({1, 3, 4}), config=EvaluationConfig(profile="fastmri")))
    assert [row.name for row in rows] == ["north"]


@pytest.mark.parametrize("unit", [1e-8, 300.0])
def test_targets_in_other_units_are_refused_where_the_peak_is_one(slices, unit):
    class Scaled(Slices):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return example._replace(target=(unit * example.target).astype(np.complex64))

    with pytest.raises(ValueError, match="brightest pixel of 5 slices is .* divide each volume by its maximum"):
        without_black(Scaled())
    assert without_black(Scaled(), profile="fastmri")[1] == []


def test_nothing_but_black_is_refused():
    with pytest.raises(ValueError, match="the MR of all 5 slices is black"):
        without_black(Dark({0, 1, 2, 3, 4}))
    with pytest.raises(ValueError, match="the MR of all 5 slices is black"):
        evaluate(trial({}, Dark({0, 1, 2, 3, 4})))


def broken(measurement):
    """No number wherever the measurement is the first of its batch."""
    result = zero_filled(measurement)
    return result._replace(image=result.image.at[0].multiply(jnp.nan))


def test_a_reconstruction_of_nan_has_no_score_and_is_shown_as_the_worst(slices):
    rows = evaluate(trial({"broken": broken}, slices, config=EvaluationConfig(batch_size=5, panels=1)))
    values = {(row.method, row.name): row.values for row in rows}
    assert all(math.isnan(value) for value in values["broken", "n1"].values())
    assert all(math.isfinite(value) for key, row in values.items() if key != ("broken", "n1") for value in row.values())
    means = {(item.method, item.metric): item for item in summarise(rows, samples=10)}
    assert means["broken", "psnr"].mean == means["zero-filled", "psnr"].mean  # both without n1
    config = EvaluationConfig(batch_size=5, panels=3)
    panels = choose_panels(trial({"broken": broken}, slices, config=config), rows)
    assert panels[0].name == "n1"


class Mixed(Slices):
    """Slices of two sizes that take turns."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example._replace(ct=example.ct[: SIZE - 4], target=example.target[: SIZE - 4]) if index % 2 else example


def test_slices_of_several_sizes_are_scored_together():
    rows = evaluate(trial({"half": halfway}, Mixed(), masks=MASKS, config=EvaluationConfig(batch_size=4)))
    one = evaluate(trial({"half": halfway}, Mixed(), masks=MASKS, config=BY_ONE))
    assert [(row.name, row.record, row.mask_hash) for row in rows] == [
        (row.name, row.record, row.mask_hash) for row in one
    ]
    assert [row.values["psnr"] for row in rows] == [pytest.approx(row.values["psnr"], rel=1e-5) for row in one]
    with pytest.raises(
        ValueError, match=r"subject north have sizes \[\(20, 24\), \(24, 24\)\].* by the profile picture"
    ):
        evaluate(trial({}, Mixed(), config=EvaluationConfig(profile="fastmri")))


def test_a_batch_is_no_larger_than_the_source():
    shapes = []

    def noted(measurement):
        shapes.append(measurement.kspace.shape)
        return zero_filled(measurement)

    evaluate(trial({"noted": noted}, Slices(("n1", "n2")), config=EvaluationConfig(batch_size=100_000)))
    assert shapes == [(2, SIZE, SIZE)]


def test_two_volumes_of_a_subject_are_scored_apart():
    class Files(Slices):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return example._replace(name=f"file{index // 2}_{index % 2:03d}", subject="one")

    rows = evaluate(trial({}, Files(), config=EvaluationConfig(profile="fastmri")))
    assert [(row.name, row.subject) for row in rows] == [("file0", "one"), ("file1", "one"), ("file2", "one")]
