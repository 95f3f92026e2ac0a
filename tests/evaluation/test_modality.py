"""The changes of the CT, and what is measured with them, on networks whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Reconstruction
from atlf_jax.evaluation import changes, modality
from atlf_jax.evaluation.scoring import evaluate, leading, reported
from atlf_jax.evaluation.trial import ZERO_FILLED, EvaluationConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.metrics import METRICS
from atlf_jax.ops import adjoint

from .tiny_slices import SIZE, Slices, trial

MASK = MaskConfig("random", 2.0, 0.25)
GAINS = leading(METRICS)


def trial_of(models, source=None):
    return trial(models, source or Slices(), (MASK,), config=EvaluationConfig(batch_size=5))


def trusting(measurement):
    """Return the CT, in units of the measurement's scale."""
    return Reconstruction(measurement.ct.astype(jnp.complex64))


def careful(measurement):
    """Return what was measured; no CT."""
    return Reconstruction(adjoint(measurement.kspace, measurement.mask))


def test_ablations_exchange_the_ct_and_nothing_else():
    source = Slices()
    for name, change in changes.ABLATIONS.items():
        for index in range(len(source)):
            before, after = source[index], change(source, index)
            assert (after.name, after.subject) == (before.name, before.subject)
            np.testing.assert_array_equal(after.target, before.target)
            owner = [i for i in range(len(source)) if (source[i].ct == after.ct).all()]
            if name == "CT zero":
                assert not after.ct.any()
            elif name == "CT of another subject":
                assert source[owner[0]].subject != before.subject
            else:
                assert source[owner[0]].subject == before.subject and owner[0] != index


def test_one_subject_has_no_other():
    with pytest.raises(ValueError, match="the split holds only one; choose another split"):
        changes.of_another_subject(Slices(names=("n1", "n2")), 0)
    rows = modality.ablate_ct(trial_of({"careful": careful}, Slices(names=("n1", "n2"))))
    assert {row.method for row in rows} == {"careful, CT zero", "careful, CT of another slice"}
    with pytest.raises(ValueError, match="subject north has only one slice"):
        changes.of_another_slice(Slices(names=("n1", "s1")), 0)


def test_only_who_sees_the_ct_changes_with_it():
    rows = modality.ablate_ct(trial_of({"trusting": trusting, "careful": careful}))
    psnr = {(row.method, row.name): row.values["psnr"] for row in rows}
    assert ZERO_FILLED not in {row.method for row in rows} and len(rows) == 2 * 3 * 5
    for name in Slices().names:
        assert psnr["careful, CT zero", name] == psnr["careful, CT of another slice", name]
        assert psnr["trusting, CT zero", name] != psnr["trusting, CT of another slice", name]


def test_a_sweep_starts_at_the_untouched_ct_and_a_careful_method_stays():
    models = {"trusting": trusting, "careful": careful}
    points = modality.sweep(trial_of(models), {"CT shift [px]": (0.0, 3.0)})
    psnr = {(point.method, point.amount): point.values["psnr"] for point in points}
    assert psnr["careful", 0.0] == psnr["careful", 3.0] == psnr[ZERO_FILLED, 3.0]
    assert psnr["trusting", 0.0] != psnr["trusting", 3.0]
    noisy = modality.sweep(trial_of({}), {"noise [of the peak]": (0.0, 0.2)})
    for metric in GAINS:
        assert noisy[0].values[metric] > noisy[1].values[metric]


def test_a_lesion_in_the_ct_shows_in_who_trusts_it_alone():
    models = {"trusting": trusting, "careful": careful}
    found = modality.hallucination(trial_of(models), [changes.Lesion("ct", 0.1), changes.Lesion("mr", 0.1)])
    shown = {}
    for item in found:
        shown.setdefault((item.method, item.lesion.painted), []).append(item.shown)
    assert np.allclose(shown["careful", "ct"], 0, atol=1e-6)  # measured: 0
    assert min(shown["trusting", "ct"]) > 0.3
    assert min(shown["careful", "mr"]) > 0.2


def test_a_lesion_lies_in_the_body():
    example = Slices()[0]
    body = np.zeros((SIZE, SIZE), bool)
    body[4:12, 4:20] = True
    mark = changes.lesion_mark(example._replace(target=np.where(body, 1, 0).astype(np.complex64)), radius=0.02)
    assert mark.max() == 1 and body[np.unravel_index(mark.argmax(), mark.shape)]
    assert mark[~body].max() < 0.01


def test_the_error_of_the_zero_filled_image_lies_in_the_null_space():
    shares = modality.null_space_share(trial_of({"blank": lambda m: Reconstruction(0 * careful(m).image)}), MASK)
    assert 0 < shares["blank"] < shares[ZERO_FILLED] <= 1


def test_the_section_tells_everything():
    section = modality.ct_section(trial_of({"trusting": trusting}))
    assert {fact["method"] for fact in section.table} == {ZERO_FILLED, "trusting"}
    assert {point["sweep"] for point in section.numbers["sweeps"]} == modality.SWEEPS.keys()
    axes = {axis.get_xlabel(): axis for axis in section.figure(False).axes}
    assert len(axes) == len(modality.SWEEPS) * len(GAINS)
    ylims = {name: axis.get_ylim() for name, axis in axes.items() if name.endswith(": SSIM, body")}
    assert len(ylims) == len(modality.SWEEPS) and len(set(ylims.values())) == 1  # one scale for each score


def test_what_the_ct_brings_is_told_by_all_metrics_whole_and_in_the_body():
    models = {"trusting": trusting, "careful": careful}
    tried = trial_of(models)
    section = modality.ct_gains(evaluate(tried) + modality.ablate_ct(tried))
    assert list(section.table[0]) == ["over", "method", "PSNR [dB]", "SSIM", "PSNR [dB], body", "SSIM, body"]
    assert len(section.table) == 2 * 3 and {item["metric"] for item in section.numbers} == set(reported(tuple(METRICS)))
    careful_row = next(fact for fact in section.table if fact["method"] == "careful")
    assert {careful_row[name] for name in ("PSNR [dB]", "PSNR [dB], body")} == {"+0.00 (0/5)"}
    item = next(
        i
        for i in section.numbers
        if (i["first"], i["second"], i["metric"]) == ("trusting", "trusting, CT zero", "psnr")
    )
    fact = next(f for f in section.table if f["method"] == "trusting" and "CT zero" in f["over"])
    assert fact["PSNR [dB]"] == f"{item['difference']:+.2f} ({item['better_slices']}/5)".replace("-", "−")


def test_lesions_lie_where_they_are_asked_for_and_are_never_darker_than_black():
    y, x = np.ogrid[:64, :64]
    head = (np.hypot(y - 32, x - 32) < 28).astype(np.float32)
    example = Slices()[0]._replace(target=(0.2 * head + 0.8 * (x == 32)).astype(np.complex64))
    depths = {}
    for place, (least, most) in changes.PLACES.items():
        mark = changes.lesion_mark(example, place=place)
        row, column = np.unravel_index(mark.argmax(), mark.shape)
        depths[place] = 28 - np.hypot(row - 32, column - 32)
        assert least * 28 - 1.5 <= depths[place] <= most * 28 + 1.5  # a pixel of the grid, half of the border's
    assert depths["edge"] < depths["cortex"] < depths["deep"]
    dark = changes.painter(changes.Lesion(contrast=-0.9, radius=0.05))([example], 0)
    magnitude, before = np.abs(dark.target), np.abs(example.target)
    assert (magnitude <= before + 1e-6).all() and magnitude.min() >= 0 and (magnitude < 0.5 * before).any()
    assert changes.lesion_mark(example, radius=0.05).sum() > 5 * changes.lesion_mark(example, radius=0.02).sum()


def test_the_atlas_is_the_mean_of_others_at_the_same_height():
    source = Slices()
    atlas = Slices(names=("s1", "s2", "n1", "n2", "n3"))
    for index, (south, north) in enumerate((("s1", "n1"), ("s1", "n2"), ("s2", "n3"))):  # of the first subject's three
        wanted = np.mean([Slices(names=(name,))[0].ct for name in (south, north)], axis=0)
        np.testing.assert_allclose(changes.atlas_mean(atlas)(source, index).ct, wanted, atol=1e-6)
