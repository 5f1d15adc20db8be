import math

import pytest
import torch
import torch.nn.functional as F

from gapless.geometry import gap_verdict, whole_gap
from tests.geometry.test_whole import clouds

CLOSED = {
    "centroid_distance": 0.1,
    "linear_separability": 0.6,
    "mixing@10": 0.4,
    "effective_rank_image": 6.0,
    "effective_rank_text": 4.0,
    "cone_image": 0.9,
    "cone_text": 0.2,
}


@pytest.mark.parametrize(
    ("changes", "before", "verdict", "failed"),
    [
        ({}, None, "closed", []),
        ({"centroid_distance": 0.11}, None, "open", ["centroid_distance"]),
        ({"linear_separability": 0.61}, None, "open", ["linear_separability"]),
        ({"linear_separability": 0.39}, None, "open", ["linear_separability"]),
        ({"mixing@10": 0.61}, None, "open", ["mixing@10"]),
        ({"cone_image": 0.91}, None, "collapsed", ["effective_rank"]),
        ({"cone_text": 0.91, "mixing@10": 0.9}, None, "collapsed", ["mixing@10", "effective_rank"]),
        ({}, (5.5, 5.6), "closed", []),  # a mean of 5 is 0.901 of what it was
        ({}, (5.6, 5.6), "collapsed", ["effective_rank"]),
    ],
)
def test_the_verdict_and_its_checks(changes, before, verdict, failed):
    former = before and {"effective_rank_image": before[0], "effective_rank_text": before[1]}
    found, checks = gap_verdict(CLOSED | changes, former)
    assert found == verdict
    assert list(checks) == ["centroid_distance", "linear_separability", "mixing@10", "effective_rank"]
    assert [name for name, check in checks.items() if check.startswith("no: ")] == failed
    assert [name for name, check in checks.items() if not check.startswith(("yes: ", "no: "))] == []


def test_the_checks_in_words():
    _, checks = gap_verdict(CLOSED | {"cone_text": 0.95}, {"effective_rank_image": 4.0, "effective_rank_text": 4.5})
    assert checks == {
        "centroid_distance": "yes: 0.100, expected at most 0.1",
        "linear_separability": "yes: 0.600, expected 0.5 within 0.1",
        "mixing@10": "yes: 0.400, expected 0.5 within 0.1",
        "effective_rank": "no: 5.0, was 4.2; mean cosine within a modality 0.95",
    }
    _, checks = gap_verdict(CLOSED)
    assert checks["effective_rank"] == "yes: 5.0, nothing to compare with; mean cosine within a modality 0.90"


def test_a_small_centroid_distance_alone_is_no_closed_gap():
    x, y = clouds()
    mixed = whole_gap(x, y)
    assert gap_verdict(mixed)[0] == "closed"
    verdict, checks = gap_verdict(whole_gap(*clouds(offset=2.0)))
    assert verdict == "open"
    assert checks["centroid_distance"].startswith("no: ")
    # Equal centroids, but images and texts lie on different circles: nothing linear separates them, and none mix.
    angle = torch.linspace(0, 2 * math.pi, 401, dtype=torch.float64)[:-1]
    circle, zero = torch.stack([angle.cos(), angle.sin()], dim=1), torch.zeros(400, 2, dtype=torch.float64)
    rings = whole_gap(torch.cat([circle, zero], dim=1), torch.cat([zero, circle], dim=1))
    assert rings["centroid_distance"] < 1e-9
    assert gap_verdict(rings)[0] == "open"


def test_a_collapse_is_no_closed_gap():
    x, y = clouds()
    before = whole_gap(x, y)
    flat = torch.cat([torch.ones(12, 1), torch.zeros(12, 11)], dim=1).double()
    verdict, checks = gap_verdict(whole_gap(*(F.normalize(f @ flat + 1e-3 * f, dim=1) for f in (x, y))), before)
    assert verdict == "collapsed"
    assert "was" in checks["effective_rank"]
