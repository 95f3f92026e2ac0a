import math

import numpy as np
import pytest
import scipy

from atlf_jax.evaluation.scoring import Score, reported
from atlf_jax.evaluation.statistics import (
    bootstrap_interval,
    compare,
    crossed_interval,
    holm,
    rank_biserial,
    remark,
    subject_means,
    summarise,
    undefined,
    undefined_remarks,
    wilcoxon,
)


def row(method, subject, name, psnr, *, mask="m", nmse=0.5):
    values = {"psnr": psnr, "ssim": psnr / 100, "nmse": nmse, "hfen": 1.0}
    values |= {f"{metric}_body": value / 2 for metric, value in values.items()}
    return Score(mask, method, subject, name, 0, 4.0, 3.9, 0.4, "0" * 8, True, 0.1, values)


def unbalanced(method="net", *, shift=0.0):
    """Three slices of a (means 30) and one of b (20)."""
    scores = [("a", "a1", 29.0), ("a", "a2", 30.0), ("a", "a3", 31.0), ("b", "b1", 20.0)]
    return [row(method, subject, name, psnr + shift, nmse=1 / psnr) for subject, name, psnr in scores]


def test_subjects_come_first():
    psnr = summarise(unbalanced(), samples=100)[0]
    assert (psnr.mask, psnr.method, psnr.metric) == ("m", "net", "psnr")
    assert psnr.subjects == {"a": 30.0, "b": 20.0}
    assert psnr.mean == 25.0
    assert psnr.slice_mean == 27.5  # every slice alike: another number
    assert psnr.deviation == pytest.approx(math.sqrt(50))  # of 30 and 20, by n - 1
    assert psnr.interval == (20.0, 30.0)  # two values: a quarter of the resamples is twice the same one
    assert (psnr.worst, psnr.worst_name) == (20.0, "b1")


def test_the_worst_error_is_the_largest():
    nmse = summarise(unbalanced(), samples=10)[2]
    assert (nmse.metric, nmse.worst, nmse.worst_name) == ("nmse", 1 / 20, "b1")


def test_masks_and_methods_are_summed_apart():
    rows = unbalanced() + unbalanced("other", shift=5) + [row("net", "a", "a1", 10.0, mask="n")]
    means = {(s.mask, s.method): s.mean for s in summarise(rows, samples=10) if s.metric == "psnr"}
    assert means == {("m", "net"): 25.0, ("m", "other"): 30.0, ("n", "net"): 10.0}


def test_one_subject_has_neither_deviation_nor_interval():
    psnr = summarise(unbalanced()[:3], samples=10)[0]
    assert (psnr.mean, psnr.deviation, psnr.interval) == (30.0, None, None)


def test_infinite_scores_are_carried_and_not_resampled():
    psnr = summarise([row("net", "a", "a1", math.inf), row("net", "b", "b1", 20.0)], samples=10)[0]
    assert (psnr.mean, psnr.deviation, psnr.interval) == (math.inf, None, None)
    assert psnr.worst == 20.0


def test_bootstrap_is_that_of_the_mean_and_repeats():
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    low, high = bootstrap_interval(values, confidence=0.9, samples=2000)
    half = 1.645 * np.std(values) / math.sqrt(400)  # normal approximation
    assert low == pytest.approx(np.mean(values) - half, abs=0.02)
    assert high == pytest.approx(np.mean(values) + half, abs=0.02)
    assert bootstrap_interval(values, confidence=0.9, samples=2000) == (low, high)
    narrow = bootstrap_interval(values, confidence=0.5, samples=2000)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval([3.0, 3.0, 3.0], samples=10) == (3.0, 3.0)
    assert bootstrap_interval([3.0]) is None


def test_wilcoxon_by_hand():
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)  # one of 2^5 signs on either side
    assert wilcoxon([-1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(4 / 32)  # rank sums 0 and 1 on either side
    assert wilcoxon([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)  # zeros are dropped
    assert wilcoxon([0.0, 0.0]) == 1.0


def test_pairs_are_compared_on_the_same_slices():
    rows = unbalanced("zero-filled") + unbalanced("net", shift=2) + unbalanced("other", shift=1)
    rows[5] = rows[5]._replace(values=rows[5].values | {"psnr": 34.0})  # a2 of net: + 4 instead of + 2
    psnr = [item for item in compare(rows) if item.metric == "psnr"]
    assert [(item.first, item.second) for item in psnr] == [
        ("net", "zero-filled"),
        ("other", "zero-filled"),
        ("net", "other"),
    ]
    assert psnr[0].subjects == {"a": pytest.approx(8 / 3), "b": 2.0}
    assert psnr[0].difference == pytest.approx((8 / 3 + 2) / 2)
    assert (psnr[0].slices, psnr[0].better_slices) == (4, 4)
    assert psnr[0].slice_p == pytest.approx(2 / 16)
    assert psnr[0].subject_p is None
    nmse = next(item for item in compare(rows) if item.metric == "nmse")
    assert (nmse.difference, nmse.better_slices, nmse.slice_p) == (0, 0, 1)


def test_smaller_errors_are_better():
    rows = [row("a", "s", "1", 1.0, nmse=0.2), row("b", "s", "1", 1.0, nmse=0.1)]
    nmse = next(item for item in compare(rows) if item.metric == "nmse")
    assert (nmse.first, nmse.second, nmse.difference, nmse.better_slices) == ("a", "b", 0.1, 0)
    rows[0] = row("a", "s", "1", 1.0, nmse=0.05)
    assert next(item for item in compare(rows) if item.metric == "nmse").better_slices == 1


def test_six_subjects_are_enough_to_test_over_subjects():
    rows = [row(method, str(s), f"{s}", 20 + s + gain) for method, gain in (("a", 1.0), ("b", 0.0)) for s in range(6)]
    assert compare(rows)[0].subject_p == pytest.approx(2 / 64)


def test_two_perfect_slices_do_not_differ():
    rows = [row("a", "s", "1", math.inf), row("b", "s", "1", math.inf)]
    assert (compare(rows)[0].difference, compare(rows)[0].slice_p) == (0, 1)


def test_other_slices_are_refused():
    with pytest.raises(ValueError, match="scored on different slices under m"):
        compare(unbalanced("a") + unbalanced("b")[:3])
    with pytest.raises(ValueError, match="zip"):
        subject_means([1.0], ["a", "b"])


def test_few_subjects_are_told_in_words():
    assert "One subject" in remark(1)
    assert "Only 2 subjects" in remark(2) and "No subject-level significance exists" in remark(2)
    assert "below 0.5," in remark(2) and "below 0.25," in remark(3)
    assert "No subject-level" not in remark(6) and "6 subjects" in remark(6)


def three_methods():
    """Four slices by three methods; b of slice a2 is no number, and nothing of c is."""
    rows = unbalanced("a") + unbalanced("b", shift=1) + unbalanced("c")
    rows[5] = rows[5]._replace(values=rows[5].values | {"psnr": math.nan})
    rows[8:] = [row._replace(values=dict.fromkeys(row.values, math.nan)) for row in rows[8:]]
    return rows


def test_an_undefined_score_leaves_its_slice_out_for_all_methods():
    found = {(item.method, item.metric): item for item in summarise(three_methods(), samples=10)}
    assert found["a", "psnr"].subjects == {"a": 30.0, "b": 20.0}  # of 29 and 31: without a2, as b
    assert found["a", "psnr"].slice_mean == pytest.approx((29 + 31 + 20) / 3)
    assert found["b", "psnr"].mean == found["a", "psnr"].mean + 1
    assert found["a", "psnr"].left_out == found["b", "psnr"].left_out == ["a2"]
    assert found["a", "ssim"].left_out == [] and found["a", "ssim"].slice_mean == pytest.approx(0.275)
    nothing = found["c", "psnr"]
    assert (
        math.isnan(nothing.mean) and math.isnan(nothing.worst) and nothing.worst_name == "" and nothing.subjects == {}
    )
    assert (nothing.deviation, nothing.interval) == (None, None)


def test_the_worst_slice_is_one_that_has_a_score():
    rows = unbalanced("a")
    rows[0] = rows[0]._replace(values=dict.fromkeys(rows[0].values, math.nan))
    assert [(item.worst_name, item.left_out) for item in summarise(rows, samples=10)][:1] == [("b1", ["a1"])]


def test_pairs_leave_out_what_is_undefined_for_any_method():
    pairs = {(item.first, item.second, item.metric): item for item in compare(three_methods())}
    item = pairs["a", "b", "psnr"]
    assert (item.slices, item.better_slices, item.left_out) == (3, 0, ["a2"])
    assert item.subjects == {"a": -1.0, "b": -1.0} and item.slice_p == pytest.approx(2 / 8)
    item = pairs["a", "c", "psnr"]
    assert item.slices == 0 and math.isnan(item.difference) and math.isnan(item.slice_p)
    assert sorted(item.left_out) == ["a1", "a2", "a3", "b1"]
    assert {metric for _, _, metric in pairs} == set(reported(["psnr", "ssim", "nmse", "hfen"]))  # inside the body too


def test_undefined_scores_are_named_in_words():
    found = undefined(three_methods())
    assert (found[0].method, found[0].metric, found[0].names, found[0].slices) == ("b", "psnr", ["a2"], 4)
    words = undefined_remarks(three_methods())
    assert words[0] == "Not defined (nan), b, m: PSNR of a2; this slice counts for no method there."
    assert words[1] == "Not defined (nan), c, m: every score of a1, a2, a3, b1; it has no mean."
    assert len(words) == 2 and undefined(unbalanced()) == []


def test_no_difference_has_no_p():
    assert math.isnan(wilcoxon([])) and math.isnan(wilcoxon([1.0, math.nan]))


def test_rank_biserial_is_one_minus_the_share_of_wilcoxons_statistic():
    values = np.random.default_rng(3).normal(0.3, 1, 20)
    least = scipy.stats.wilcoxon(values).statistic  # the smaller of both sums of ranks
    assert abs(rank_biserial(values.tolist())) == pytest.approx(1 - 2 * least / (20 * 21 / 2))
    assert rank_biserial([-1.0, -2.0]) == -1 and rank_biserial([0.0, 0.0]) == 0 and math.isnan(rank_biserial([]))


def test_holm_decides_as_its_definition_at_every_level():
    """Step down: the smallest p against level / m, the next against level / (m - 1), until one is not below."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.round(rng.random(6) ** 3, 3).tolist()
        corrected = holm(values)
        for level in (0.01, 0.05, 0.2, 0.5):
            rejected = set()
            for rank, index in enumerate(np.argsort(values, kind="stable")):
                if values[index] > level / (6 - rank):
                    break
                rejected.add(int(index))
            assert {index for index, p in enumerate(corrected) if p <= level} == rejected
    assert holm([0.02, None, math.nan, 0.5])[0] == pytest.approx(0.04) and holm([]) == []


def test_an_interval_over_seeds_and_subjects_is_wider_than_over_either():
    table = np.add.outer([0.0, 1.0, 2.0], [0.0, 10.0]).tolist()  # seeds down, subjects across
    low, high = crossed_interval(table)
    # both subjects low and all seeds 0 have a chance of 1 / 108, with one seed of 1 another 3 / 108: 2.5 % lie between
    assert (low, high) == pytest.approx((1 / 3, 11 + 2 / 3))
    assert crossed_interval([[1.0, 2.0]]) is None and crossed_interval([[1.0, math.nan], [1.0, 2.0]]) is None
