"""What comparisons over seeds decide, against scipy, statsmodels and procedures written out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel
from statsmodels.stats.weightstats import ttost_paired

from gapless.reproduce.statistics import Comparison, Estimate, better, compare, estimate, verdicts

ONE, OTHER = [0.10, 0.12, 0.09, 0.11], [0.30, 0.26, 0.33, 0.29]


def test_mean_and_standard_error():
    mean, error = estimate([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert error == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2 / 3))
    assert estimate([2.0]) == Estimate(2.0, None)
    assert str(estimate([2.0])) == "2.000"
    assert str(Estimate(0.5, 0.25)) == "0.500 \u00b1 0.250"


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_without_an_error_of_the_test_set_the_interval_is_scipys_paired_one(level):
    expected = ttest_rel(ONE, OTHER).confidence_interval(level)
    found = compare(ONE, OTHER, "low")
    assert found.interval(level) == pytest.approx((expected.low, expected.high))
    assert found.n == 4


def test_the_evidence_is_that_of_a_paired_t_test_on_either_side():
    p = ttest_rel(ONE, OTHER).pvalue
    assert compare(ONE, OTHER, "low").evidence == pytest.approx((p, 1.0))
    assert compare(ONE, OTHER, "high").evidence == pytest.approx((1.0, p))
    assert compare(OTHER, ONE, "high").evidence == pytest.approx((p, 1.0))


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.1])
def test_equal_is_two_one_sided_tests_and_the_interval_of_90_percent_says_the_same(margin):
    one, other = [0.11, 0.13, 0.10, 0.12], [0.10, 0.125, 0.105, 0.11]
    found = compare(one, other, "equal", margin)
    expected = ttost_paired(np.array(one), np.array(other), -margin, margin)[0]
    assert found.evidence[0] == pytest.approx(float(expected))
    low, high = found.interval(0.9)
    assert (found.evidence[0] < 0.05) == (-margin < low and high < margin)


def test_equal_fails_where_the_difference_is_beyond_the_margin():
    found = compare([0.2, 0.21, 0.19], [0.1, 0.1, 0.1], "equal", 0.05)
    expected = 2 * student.sf((0.1 - 0.05) / (0.01 / math.sqrt(3)), 2)
    assert found.evidence[1] == pytest.approx(expected)
    assert found.evidence[0] > 0.99
    mirrored = compare([0.1, 0.1, 0.1], [0.2, 0.21, 0.19], "equal", 0.05)
    assert mirrored.evidence == pytest.approx(found.evidence)


def test_the_error_of_the_test_set_is_added_with_welchs_freedom():
    error = estimate([a - b for a, b in zip(ONE, OTHER, strict=True)]).error
    assert error is not None
    found = compare(ONE, OTHER, "low", sampling=(0.03**2, 150))
    assert found.error == pytest.approx(math.hypot(error, 0.03))
    assert found.freedom == pytest.approx((error**2 + 0.03**2) ** 2 / (error**4 / 3 + 0.03**4 / 150))
    # All seeds alike: what is left is the test set.
    alike = compare([0.5, 0.75], [0.25, 0.5], "high", sampling=(0.0625**2, 40))
    assert (alike.error, alike.freedom) == (pytest.approx(0.0625), pytest.approx(40))


def test_no_worse_is_tested_from_the_margin():
    low, shifted = compare(ONE, OTHER, "low", 0.05), compare([v - 0.05 for v in ONE], OTHER, "low")
    assert low.evidence == pytest.approx(shifted.evidence)
    high, moved = compare(ONE, OTHER, "high", 0.05), compare([v + 0.05 for v in ONE], OTHER, "high")
    assert high.evidence == pytest.approx(moved.evidence)
    assert low.interval() == compare(ONE, OTHER, "low").interval()


def test_one_seed_decides_nothing():
    found = compare([1.0], [0.5], "high", sampling=(0.01, 50))
    assert (found.difference, found.n, found.interval()) == (0.5, 1, (-math.inf, math.inf))
    assert found.evidence == (1.0, 1.0)
    assert verdicts([[found]]) == ["not decided"]


def test_whole_numbers_that_agree_over_the_seeds_decide_nothing():
    found = compare([7.0, 9.0], [1.0, 3.0], "high")
    assert (found.interval(), found.evidence) == ((6.0, 6.0), (1.0, 1.0))
    assert compare([1.0, 2.0], [1.0, 2.0], "equal", 0.1).evidence == (1.0, 1.0)


def test_pairs_are_needed():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        compare([1.0, 2.0], [1.0], "low")
    with pytest.raises(ValueError, match="at least one data point"):
        compare([], [], "low")
    with pytest.raises(ValueError, match="no direction"):
        better("num_samples")


def of_evidence(p, holds=True):
    """A comparison with a p-value."""
    distance = float(student.isf(p / 2, 4))
    return Comparison(distance if holds else -distance, 1.0, 4.0, 5, "high")


def holm(tests, level=0.05):
    """The step-down procedure, written out."""
    order, decided = sorted(range(len(tests)), key=lambda k: tests[k]), [False] * len(tests)
    for step, k in enumerate(order):
        if tests[k] > level / (len(tests) - step):
            break
        decided[k] = True
    return decided


def test_verdicts_are_holms():
    tests = [0.001, 0.02, 0.012, 0.04, 0.6, 0.0130]
    decided = holm(tests)
    assert decided == [True, False, False, False, False, False]
    assert [v == "holds" for v in verdicts([[of_evidence(p)] for p in tests])] == decided
    few = [0.001, 0.02, 0.012]
    assert holm(few) == [True, True, True]
    assert verdicts([[of_evidence(p)] for p in few]) == ["holds"] * 3
    assert verdicts([[of_evidence(p, holds=False)] for p in few]) == ["does not hold"] * 3
    assert verdicts([[of_evidence(0.03)]], level=0.02) == ["not decided"]


def test_a_claim_holds_if_it_does_in_every_setting_and_fails_if_its_opposite_does_in_one():
    sure, unsure, against = of_evidence(1e-4), of_evidence(0.5), of_evidence(1e-4, holds=False)
    assert verdicts([[sure, sure], [sure, unsure], [unsure, against], [sure, against], [], [unsure]]) == [
        *("holds", "not decided", "does not hold", "does not hold", "not decided", "not decided")
    ]
    assert verdicts([]) == []
