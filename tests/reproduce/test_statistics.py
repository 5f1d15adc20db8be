import math

import pytest
from scipy.stats import ttest_rel

from gapless.reproduce.statistics import Estimate, compare, estimate

ONE, OTHER = [0.10, 0.12, 0.09, 0.11], [0.30, 0.26, 0.33, 0.29]


def test_mean_and_standard_error():
    mean, error = estimate([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert error == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2 / 3))
    assert estimate([2.0]) == Estimate(2.0, None)
    assert str(estimate([2.0])) == "2.000"


def test_the_interval_is_scipys_paired_one():
    found, expected = compare(ONE, OTHER, "low"), ttest_rel(ONE, OTHER).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 4


@pytest.mark.parametrize(
    ("one", "other", "claim", "verdict"),
    [
        (ONE, OTHER, "low", "holds"),
        (OTHER, ONE, "low", "does not hold"),
        (ONE, OTHER, "high", "does not hold"),
        (OTHER, ONE, "high", "holds"),
        (ONE, [0.11, 0.10, 0.10, 0.12], "low", "not decided"),
        (ONE, [0.101, 0.12, 0.091, 0.109], "equal", "holds"),
        (ONE, OTHER, "equal", "does not hold"),
        (ONE, [0.11, 0.14, 0.06, 0.12], "equal", "not decided"),
        (ONE[:1], OTHER[:1], "low", "not decided"),  # one pair decides nothing
        (ONE[:1], ONE[:1], "equal", "not decided"),
    ],
)
def test_verdicts(one, other, claim, verdict):
    assert compare(one, other, claim).verdict == verdict


def test_equal_is_within_the_margin_and_the_level_decides_how_wide_the_interval_is():
    values = [0.0, 0.01, 0.02, 0.03]
    zeros = [0.0] * 4
    wide, narrow = compare(values, zeros, "equal", margin=0.04), compare(values, zeros, "equal", 0.04, 0.5)
    assert (wide.difference, narrow.difference) == (pytest.approx(0.015), pytest.approx(0.015))
    assert (wide.low, wide.high) == pytest.approx((0.015 - 0.0205426, 0.015 + 0.0205426), abs=1e-6)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.7648923 * 0.0064549722, rel=1e-6)
    assert [compare(values, zeros, "equal", margin).verdict for margin in (0.04, 0.03, 0.005)] == [
        *("holds", "not decided", "not decided"),
    ]
    assert compare([-v for v in values], zeros, "equal", 0.04).verdict == "holds"
    assert compare([-0.5, -0.51], [0.0, 0.0], "equal").verdict == "does not hold"


def test_pairs_are_needed():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        compare([1.0, 2.0], [1.0], "low")
    with pytest.raises(ValueError, match="at least one data point"):
        compare([], [], "low")


def test_one_seed_has_no_error():
    assert str(Estimate(0.5, 0.25)) == "0.500 \u00b1 0.250"
    assert compare([1.0], [0.5], "high")[:4] == (0.5, -math.inf, math.inf, 1)
