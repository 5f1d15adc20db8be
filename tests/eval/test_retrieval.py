import pytest
import torch
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k

from gapless.eval import retrieval_recall, zero_shot_accuracy
from gapless.eval.retrieval import ranks


def test_hand_made_ranks():
    # Query 0 likes candidate 1 better than its own; query 1 likes its own best; query 2 likes both others better.
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.8, 0.3], [0.6, 0.7, 0.4]])
    assert ranks(scores, torch.eye(3)).tolist() == [1, 0, 2]


def test_clip_benchmark_agrees(unit):
    x = unit(60, 8)
    y = torch.nn.functional.normalize(x + 0.6 * unit(60, 8, 1), dim=1)
    scores = retrieval_recall(x, y)
    own = torch.eye(60, dtype=torch.bool)
    for k in (1, 5, 10):
        theirs = (recall_at_k(s, own, k).double().mean().item() for s in (y @ x.T, x @ y.T))
        assert scores[f"image_retrieval_recall@{k}"] == pytest.approx(next(theirs), abs=1e-9)
        assert scores[f"text_retrieval_recall@{k}"] == pytest.approx(next(theirs), abs=1e-9)
    assert 0.2 < scores["image_retrieval_recall@1"] < 0.95


def test_strips_change_nothing(unit, monkeypatch):
    x, y = unit(31, 4), unit(31, 4, 1)
    whole = ranks(x, y)
    monkeypatch.setattr("gapless.eval.retrieval.STRIP_ELEMENTS", 3 * 31)
    assert torch.equal(ranks(x, y), whole)


def test_collapsed_features_do_not_win(unit):
    same = unit(1, 4).repeat(50, 1)
    assert retrieval_recall(same, same)["image_retrieval_recall@1"] == pytest.approx(1 / 50)


def test_zero_shot_accuracy(unit):
    directions = torch.eye(6)
    images = torch.nn.functional.normalize(torch.eye(6)[[0, 1, 2]] + 2 * torch.eye(6)[[0, 5, 2]], dim=1)
    assert zero_shot_accuracy(images, directions, torch.tensor([0, 1, 3])) == pytest.approx(
        {"acc1": 1 / 3, "acc5": 1.0}
    )
    assert set(zero_shot_accuracy(images[:, :3], directions[:3, :3], torch.tensor([0, 1, 2]))) == {"acc1"}
