"""What runs scored, by short names, and what another test set would change."""

import math

import pytest
import torch

from gapless.eval.results import Result
from gapless.reproduce import scored
from gapless.reproduce.scored import Scored, compare_runs, sampling_error, scores


def test_names_and_means(monkeypatch, tmp_path):
    results = [
        Result("emoji", "gap", {"centroid_distance": 0.5}, samples={"centroid_distance": torch.arange(3.0)}),
        Result("emoji", "zeroshot_retrieval_first_caption", {"text_retrieval_recall@1": 0.25}),
        Result("a", "zeroshot_classification", {"acc1": 0.5, "uniformity_image": -1}, groups={"acc1": torch.zeros(2)}),
        Result("b", "zeroshot_classification", {"acc1": 0.25, "centroid_distance": 0.7}),
        Result("x_test", "embedding_arithmetic", {"simat_score@1": 10.0, "num_edits": 4}),
        Result("y_test", "embedding_arithmetic", {"simat_score@1": 30.0}),
        Result("other", "gap", {"centroid_distance": 9}),
    ]
    monkeypatch.setattr(scored, "vouched", lambda folder: results if folder == tmp_path else [])
    found = scores(tmp_path, "emoji")
    assert found.numbers == {
        "centroid_distance": 0.5,
        "text_retrieval_recall@1": 0.25,
        "a/acc1": 0.5,
        "a/uniformity_image": -1,
        "b/acc1": 0.25,
        "b/centroid_distance": 0.7,
        "x_test/simat_score@1": 10.0,
        "x_test/num_edits": 4,
        "y_test/simat_score@1": 30.0,
        "zero_shot/acc1": 0.375,
        "zero_shot/uniformity_image": -1,
        "zero_shot/centroid_distance": 0.7,
        "simat": 20.0,
    }
    assert found.samples["centroid_distance"].tolist() == [0, 1, 2]
    assert found.groups["a/acc1"].tolist() == [0, 0]
    assert found.means["simat"] == ["x_test/simat_score@1", "y_test/simat_score@1"]
    assert scores(tmp_path / "none", "emoji").numbers == {}


def run(hits, groups=None, **numbers):
    samples = {"r": torch.tensor(hits, dtype=torch.float32)}
    return Scored({"r": float(samples["r"].mean()), **numbers}, samples, {} if groups is None else {"r": groups}, {})


def test_the_error_of_a_share_is_the_binomial_one():
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(400, generator=generator) < 0.3).float().tolist()
    variance, freedom = sampling_error([run(hits)], [run([0.0] * 400)], "r")
    share = sum(hits) / 400
    assert math.sqrt(variance) == pytest.approx(math.sqrt(share * (1 - share) / 400), rel=0.05)
    assert freedom == 399


def test_samples_of_a_group_count_as_one():
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(100, generator=generator) < 0.5).float().repeat_interleave(4)
    groups = torch.arange(100).repeat_interleave(4)
    alone, freedom = sampling_error([run(hits.tolist())], [run([0.0] * 400)], "r")
    together, fewer = sampling_error([run(hits.tolist(), groups)], [run([0.0] * 400)], "r")
    assert math.sqrt(together / alone) == pytest.approx(2, rel=0.1)
    assert (freedom, fewer) == (399, 99)


def test_seeds_share_their_test_set_and_their_differences_are_averaged_first():
    one = [run([1.0, 0.0] * 50), run([0.0, 1.0] * 50)]
    none = [run([0.0] * 100)] * 2
    assert sampling_error(one, none, "r")[0] == 0  # every picture is found by one seed of the two
    assert sampling_error(one[:1], none[:1], "r")[0] == pytest.approx(0.25 / 100, rel=0.1)


def test_a_mean_over_data_sets_has_the_mean_of_their_errors():
    hits = torch.tensor([1.0, 0.0] * 50)
    both = Scored({}, {"a": hits, "b": hits}, {}, {"m": ["a", "b"]})
    none = Scored({}, {"a": 0 * hits, "b": 0 * hits}, {}, {"m": ["a", "b"]})
    variance, freedom = sampling_error([both], [none], "m")
    assert (math.sqrt(variance), freedom) == (pytest.approx(0.05 / math.sqrt(2), rel=0.1), 99)


def test_without_samples_there_is_no_error_of_the_test_set():
    bare = Scored({"x": 1.0}, {}, {}, {})
    assert sampling_error([bare], [bare], "x") == (0.0, math.inf)
    assert sampling_error([run([1.0, 0.0])], [run([1.0])], "r") == (0.0, math.inf)  # of other samples
    alone = torch.zeros(2, dtype=torch.long)  # one group, which says nothing about others
    assert sampling_error([run([1.0, 0.0], alone)], [run([0.0, 0.0], alone)], "r") == (0.0, math.inf)


def test_runs_are_compared_seed_by_seed_with_both_errors():
    ones, others = [run([1, 1, 0, 0] * 20), run([1, 1, 1, 0] * 20)], [run([1, 0, 0, 0] * 20), run([0, 0, 1, 0] * 20)]
    found = compare_runs(dict(enumerate(ones)), dict(enumerate([*others, run([1.0])])), "r", "high")
    assert (found.difference, found.n) == (pytest.approx(0.375), 2)
    seeds = 0.125  # standard error of 0.25 and 0.5
    variance, freedom = sampling_error(ones, others, "r")
    assert found.error == pytest.approx(math.sqrt(seeds**2 + variance))
    assert variance > 0
    assert freedom == 79
    assert compare_runs({1: ones[0]}, {2: others[0]}, "r", "high") is None
    assert compare_runs({1: ones[0]}, {1: others[0]}, "x", "high") is None
