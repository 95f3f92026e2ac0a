"""Reliability of expected errors, against errors that are known."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Reconstruction
from atlf_jax.evaluation import report
from atlf_jax.evaluation.calibration import _reliability, measure_reliability
from atlf_jax.evaluation.scoring import body
from atlf_jax.evaluation.slices import reconstruct_slices
from atlf_jax.evaluation.trial import EvaluationConfig
from atlf_jax.ops import adjoint
from atlf_jax.trained.uncertainty import Calibration

from .tiny_slices import MASKS, SIZE, Slices, trial

BY_TWO = EvaluationConfig(batch_size=2)


def lopsided(measurement):
    """Err to the right, so that mirror copies differ."""
    image = adjoint(measurement.kspace, measurement.mask)
    return Reconstruction(image * (1 - jnp.linspace(0, 0.5, SIZE))[None, None])


def drawn(scale, slices=6, pixels=4000):
    rng = np.random.default_rng(0)
    spreads = [rng.uniform(0.01, 0.1, pixels) for _ in range(slices)]
    return [np.stack([s, scale * s * np.abs(rng.standard_normal(pixels)) * np.sqrt(np.pi / 2)]) for s in spreads]


def test_normal_errors_are_calibrated():
    found = _reliability("mask", "net", drawn(2.5), None)
    assert not found.calibrated and found.scale == pytest.approx(2.5, rel=0.02)  # measured 0.4 %
    assert found.bound == pytest.approx(1.645 * np.sqrt(np.pi / 2), rel=0.02)  # of a half-normal; measured 0.6 %
    assert found.coverage == pytest.approx(0.9, abs=1e-3) and found.fitted == Calibration(found.scale, found.bound)
    assert found.calibration_error < 0.02 * found.error  # measured 0.9 %
    expected, true = np.array(found.curve).T
    assert len(expected) == 12 and (np.diff(expected) > 0).all()
    np.testing.assert_allclose(true, expected, rtol=0.05)  # measured 2.3 %


def test_a_wrong_calibration_is_told():
    found = _reliability("mask", "net", drawn(2.5), Calibration(1.25, 2.0))
    assert found.calibrated and (found.scale, found.bound) == (1.25, 2.0)
    assert found.calibration_error == pytest.approx(found.error / 2, rel=0.02)  # half of every error is not foretold
    assert found.coverage < 0.7 and found.fitted.scale == pytest.approx(2.5, rel=0.02)
    right = _reliability("mask", "net", drawn(2.5), None)
    assert (found.pearson, found.spearman) == (right.pearson, right.spearman) and 0.3 < found.pearson < 1


def test_no_spread_foretells_nothing():
    found = _reliability("mask", "net", [np.stack([np.zeros(50), np.linspace(0, 1, 50)])], None)
    assert found.pearson == found.spearman == found.scale == 0 and found.coverage == 0.02  # the one without error


def test_slices_are_measured_in_units_of_their_maximum():
    """South is fainter than north; what a source is multiplied by does not count."""
    one, seven = (
        measure_reliability(trial({"net": lopsided}, Slices(gain=gain), masks=MASKS[:1], config=BY_TWO))[0]
        for gain in (1.0, 7.0)
    )
    assert one.mask == "random 2x, centre 0.25" and one.scale > 0 and one.pearson > 0
    np.testing.assert_allclose(one.curve, seven.curve, rtol=1e-4)
    panels = list(reconstruct_slices(trial({"net": lopsided}, Slices(), config=BY_TWO), MASKS[0], with_spread=True))
    assert [panel.spreads.keys() for panel in panels] == [{"net"}] * 5
    inside = [body(panel.target) for panel in panels]
    errors = [np.abs(p.images["net"] - p.target)[b] / p.target.max() for p, b in zip(panels, inside, strict=True)]
    assert one.error == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="every picture of the source is black"):
        measure_reliability(trial({"net": lopsided}, Slices(gain=0.0), masks=MASKS[:1], config=BY_TWO))


def test_the_report_shows_them(study, slices, tmp_path):
    found = measure_reliability(trial({"half<way>": lopsided}, slices, masks=MASKS, config=BY_TWO))
    facts, page = report.write(tmp_path, dataclasses.replace(study, panels=(), reliability=found))
    told = json.loads((tmp_path / "summary.json").read_text())["uncertainty"]
    assert [item["mask"] for item in told] == [mask["label"] for mask in facts["protocol"]["masks"]]
    assert told[0]["fitted"] == found[0].fitted._asdict() and len(told[0]["curve"]) == 12
    text = page.read_text(encoding="utf-8")
    assert "Expected errors" in text and text.count("<small>of these slices</small>") == 2
    for item in found:
        assert f"{item.calibration_error:.4f}" in text and f"{item.scale:.3f}" in text
    assert len(report.tables(facts)) == 4
    assert "Expected errors" not in report.render(study, report.summary(study))


def test_errors_that_are_no_number_are_left_out_and_named(study, slices, tmp_path):
    def broken(measurement):
        image = lopsided(measurement).image
        return Reconstruction(image.at[0].multiply(jnp.nan))

    def nothing(measurement):
        return Reconstruction(lopsided(measurement).image * jnp.nan)

    config = EvaluationConfig(batch_size=5)
    found = measure_reliability(trial({"broken": broken, "nothing": nothing}, slices, masks=MASKS[:1], config=config))
    rest = measure_reliability(
        trial({"broken": lopsided}, Slices(("n2", "n3", "s1", "s2")), masks=MASKS[:1], config=config)
    )
    assert found[0].left_out == ["n1"] and found[0].error == pytest.approx(rest[0].error, rel=1e-5)
    assert len(found[1].left_out) == 5 and np.isnan(found[1].error) and found[1].curve == []
    found = [item._replace(method=name) for name, item in zip(("half<way>", "zero-filled"), found, strict=True)]
    facts, _ = report.write(tmp_path, dataclasses.replace(study, reliability=found))
    assert json.loads((tmp_path / "summary.json").read_text())["uncertainty"][1]["error"] is None
    assert "Expected errors of half<way>, random 2x, centre 0.25: without n1 (nan)." in facts["remarks"]
    assert report.tables(facts)
