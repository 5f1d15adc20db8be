"""The paper's claims on scores by hand: which objectives, dimensions and seeds are compared, and what is decided."""

import json
import math

import pytest
import torch

from gapless.config import Config, with_changes
from gapless.reproduce.contrastive_gap.claims import CLAIMS, claim_tables
from gapless.reproduce.contrastive_gap.editions import Edition
from gapless.reproduce.grid import Member
from gapless.reproduce.scored import Scored

BARE = Edition("coco", [], [], [], [], ())
NOISE = (0.0, 0.01, -0.01, 0.005, -0.005)


def scored(lines, dimensions=(64, 128), metric="centroid_distance", **numbers):
    """Runs of objectives whose values are ``lines[objective]`` by dimension, with a little noise over five seeds."""
    return {
        (o, d, s): Scored({metric: value + (k + 1) * noise, **numbers}, {}, {}, {})
        for k, (o, values) in enumerate(lines.items())
        for d, value in zip(dimensions, values, strict=True)
        for s, noise in enumerate(NOISE)
    }


def rows(scores, grid=BARE):
    (table,) = claim_tables(grid, scores)
    return {(row[0].text, row[3].text): row for row in table.rows}, table


def verdicts_of(scores, metric):
    return {key[1]: row[1].text for key, row in rows(scores)[0].items() if key[1].startswith(f"{metric} of")}


def test_a_claim_holds_where_it_does_in_every_dimension():
    found = verdicts_of(scored({"clip": (0.5, 0.6), "cua": (0.2, 0.3), "cuaxu": (0.2, 0.9)}), "centroid_distance")
    assert found == {
        "centroid_distance of cua lower than clip": "holds",
        "centroid_distance of cuaxu lower than clip": "does not hold",
    }
    unsure = verdicts_of(scored({"clip": (0.5, 0.6), "cua": (0.2, 0.6)}), "centroid_distance")
    assert unsure["centroid_distance of cua lower than clip"] == "not decided"
    assert unsure["centroid_distance of cuaxu lower than clip"] == "not testable"


def test_a_constant_added_at_one_dimension_to_both_objectives_changes_no_interval():
    lines = {"clip": (0.5, 0.6), "cua": (0.2, 0.4)}
    key = ("The terms shrink the gap", "centroid_distance of cua lower than clip")
    before, after = (rows(scored(line))[0][key] for line in (lines, {o: (v[0] + 7, v[1]) for o, v in lines.items()}))
    assert [cell.text for cell in before] == [cell.text for cell in after]
    assert before[4].text == "-0.300 [-0.310, -0.290]"
    assert before[5].text == "-0.200 [-0.210, -0.190]"
    assert before[6].text == "-0.250 [-0.260, -0.240]"  # each seed's mean over the dimensions


def test_only_runs_of_one_seed_are_compared():
    scores = scored({"clip": (0.5, 0.6), "cua": (0.2, 0.4)})
    scores["cua", 128, 77] = Scored({"centroid_distance": 99.0}, {}, {}, {})
    row = rows(scores)[0]["The terms shrink the gap", "centroid_distance of cua lower than clip"]
    assert row[5].text == "-0.200 [-0.210, -0.190]"


@pytest.mark.parametrize(
    ("metric", "words", "verdict"),
    [
        ("linear_separability", "lower than", "does not hold"),
        ("uniformity", "lower than", "does not hold"),
        ("cross_uniformity", "lower than", "does not hold"),
        ("alignment", "lower than", "does not hold"),
        ("zero_shot/centroid_distance", "lower than", "does not hold"),
        ("zero_shot/uniformity_image", "lower than", "does not hold"),
        ("zero_shot/acc1", "higher than", "holds"),
        ("simat", "higher than", "holds"),
        ("text_retrieval_recall@1", "as", "does not hold"),
        ("image_retrieval_recall@10", "as", "does not hold"),
    ],
)
def test_every_metric_is_claimed_to_be_what_the_paper_says(metric, words, verdict):
    found = verdicts_of(scored({"clip": (0.5, 0.5), "cua": (0.75, 0.75), "cuaxu": (0.75, 0.75)}, metric=metric), metric)
    assert found[f"{metric} of cua {words} clip"] == verdict
    assert found[f"{metric} of cuaxu {words} clip"] == verdict


def test_cuaxu_is_compared_with_cua_too():
    lines = {"clip": (5.0, 5.0), "cua": (7.0, 7.0), "cuaxu": (9.0, 9.0)}
    for metric in ("effective_dim_image", "effective_dim_text", "zero_shot/acc1"):
        assert verdicts_of(scored(lines, metric=metric), metric)[f"{metric} of cuaxu higher than cua"] == "holds"


def test_equal_is_within_a_tenth_or_the_binomial_error():
    metric = "text_retrieval_recall@1"
    for n, clip, cua, verdict in (
        (10**9, 0.5, 0.52, "holds"),
        (10**9, 0.5, 0.58, "does not hold"),
        (400, 0.02, 0.022, "holds"),
    ):
        scores = {
            (o, 64, s): Scored({metric: v * (1 + noise / 100), "num_images": float(n)}, {}, {}, {})
            for o, v in (("clip", clip), ("cua", cua))
            for s, noise in enumerate(NOISE)
        }
        assert verdicts_of(scores, metric)[f"{metric} of cua as clip"] == verdict
    text = rows(scores)[0]["Retrieval stays as it is", f"{metric} of cua as clip"][4].text
    assert text.endswith(f"within {math.sqrt(0.02 * 0.98 / 400):.3f}")


def test_the_test_set_is_part_of_the_interval():
    def run(hits):
        numbers = {"simat": sum(hits) / len(hits)}
        return Scored(numbers, {"simat": torch.tensor(hits)}, {}, {})

    for n, verdict in ((1, "not decided"), (200, "holds")):
        hits = {"clip": [1.0, 0.0, 0.0, 0.0], "cua": [0.0, 1.0, 1.0, 0.0]}
        scores = {(o, 64, s): run(h * n) for o, h in hits.items() for s in range(5)}
        assert verdicts_of(scores, "simat")["simat of cua higher than clip"] == verdict


def test_the_gap_of_clip_grows_with_the_dimension():
    key = ("The gap of clip grows with the dimension", "centroid_distance, against the dimension before")

    def growing(*gaps):
        """Each dimension has another noise."""
        return {
            ("clip", d, s): Scored({"centroid_distance": gap + noise * d / 64}, {}, {}, {})
            for d, gap in zip((32, 64, 128), gaps, strict=True)
            for s, noise in enumerate(NOISE)
        }

    found = rows(growing(0.2, 0.5, 0.9))[0][key]
    assert [cell.text[:6] for cell in found[4:7]] == ["-", "+0.300", "+0.400"]
    assert found[1].text == "holds"
    assert rows(growing(0.2, 0.5, 0.3))[0][key][1].text == "does not hold"
    assert not [name for name, _ in rows(scored({"clip": (0.2,)}, (32,)))[0] if name == key[0]]


def test_eighteen_percent_is_of_clips_score():
    key = ("SIMAT's score grows by 18 %", "simat of cuaxu higher than 1.18 times clip")
    for cuaxu, verdict in (((12.5, 12.5), "holds"), ((11.0, 12.5), "does not hold"), ((11.8, 12.5), "not decided")):
        row = rows(scored({"clip": (10.0, 10.0), "cuaxu": cuaxu}, metric="simat"))[0][key]
        assert row[1].text == verdict
        assert row[4].text.startswith(f"{cuaxu[0] - 11.8:+.3f} [")
        assert row[6].text.startswith(f"{sum(cuaxu) / 2 - 11.8:+.3f} [")
    assert rows(scored({"clip": (0.5, 0.5)}))[0][key][1].text == "not testable"


def test_at_least_as_good_may_be_a_tenth_worse():
    for cuaxu, verdict in ((9.5, "holds"), (8.0, "does not hold"), (9.0, "not decided")):
        found = verdicts_of(scored({"cua": (10.0, 10.0), "cuaxu": (cuaxu, cuaxu)}, metric="simat"), "simat")
        assert found["simat of cuaxu at least as cua"] == verdict


def test_a_claim_of_which_a_dimension_is_missing_does_not_hold_yet():
    scores = scored({"clip": (0.5, 0.6), "cua": (0.2, 0.3), "cuaxu": (0.2, 0.9)})
    scores = {key: run for key, run in scores.items() if key[:2] not in (("cua", 64), ("cuaxu", 64))}
    found = verdicts_of(scores, "centroid_distance")
    assert found["centroid_distance of cua lower than clip"] == "not decided"
    assert found["centroid_distance of cuaxu lower than clip"] == "does not hold"


def test_single_runs_have_numbers_and_no_verdict(tmp_path):
    def member(name, **labels):
        (tmp_path / name).mkdir()
        lines = [
            {"epoch": e, "val/linear_separability": v, "val/centroid_distance": v} for e, v in ((0, 0.6), (9, 0.9))
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Member(with_changes(Config(), name=name, output=str(tmp_path)), labels=labels)

    grid = Edition("emoji", [], [member("twin", temperature="0.07")], [member("three")], [], ())
    found, table = rows(scored({"clip": (0.5, 0.6)}), grid)
    twin = found[
        "Identical encoders begin mixed and end apart (temperature 0.07)",
        "linear_separability 0.600 to 0.900; paper 0.50 to 1.00",
    ]
    assert twin[1].text == "not decided (one run)"
    assert ("In three dimensions clip closes the gap", "centroid_distance 0.600 to 0.900") in found
    assert found["ImageNet, CIFAR, DTD and Caltech101 each gain", "these data sets are part of the COCO edition"]
    assert all(len(row) == len(table.header) for row in table.rows)


def test_the_title_counts_and_the_note_says_how_sure_it_is():
    _, table = rows(scored({"clip": (0.5, 0.5), "cua": (0.2, 0.2), "cuaxu": (0.9, 0.9)}))
    assert table.title.startswith("The paper's claims: ")
    assert "1 holds" in table.title
    assert "1 does not hold" in table.title
    assert table.header == ["claim", "verdict", "where", "measured by", "d = 64", "d = 128", "mean over d"]
    assert "first look" not in table.note
    three = {key: run for key, run in scored({"clip": (0.5, 0.5), "cua": (0.2, 0.2)}).items() if key[2] < 3}
    assert "3 seeds are a first look" in rows(three)[1].note
    assert claim_tables(BARE, {}) == []
    assert len(rows(three)[0]) == len(CLAIMS) + 1
