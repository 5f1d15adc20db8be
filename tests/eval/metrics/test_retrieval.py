import pytest
import torch
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from sklearn.metrics import balanced_accuracy_score

from gapless.eval import retrieval_recall, zero_shot_accuracy
from gapless.eval.metrics.retrieval import recall_at, retrieval_ranks


def test_hand_made_ranks():
    # Row i holds the scores of text i with all images; text 0 likes image 1 better than its own.
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.8, 0.3], [0.6, 0.7, 0.4]])
    image_ranks, text_ranks = retrieval_ranks(torch.eye(3), scores)
    assert image_ranks.tolist() == [1, 0, 2]
    assert text_ranks.tolist() == [1, 1, 0]
    found = recall_at(image_ranks, text_ranks, (1, 2))
    assert found["image_retrieval_recall@1"] == pytest.approx(1 / 3)
    assert found["text_retrieval_recall@2"] == 1
    assert found["image_retrieval_mean_rank"] == 2
    assert found["text_retrieval_median_rank"] == 2


def test_hand_made_ranks_with_several_captions():
    # Texts 0 and 3 belong to image 1, 1 and 2 to image 0; image 0's best is text 2, and only text 0 beats it.
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    image_ranks, text_ranks = retrieval_ranks(torch.eye(2), scores, torch.tensor([1, 0, 0, 1]))
    assert image_ranks.tolist() == [1, 1, 0, 0]
    assert text_ranks.tolist() == [1, 1]


def several_captions(unit, n=40, d=8):
    """Images with one to five captions, in no order."""
    generator = torch.Generator().manual_seed(7)
    counts = torch.randint(1, 6, (n,), generator=generator)
    owner = torch.arange(n).repeat_interleave(counts)[torch.randperm(int(counts.sum()), generator=generator)]
    images = unit(n, d)
    texts = torch.nn.functional.normalize(images[owner] + 0.7 * unit(len(owner), d, 1), dim=1)
    return images, texts, owner


def test_clip_benchmark_agrees_on_several_captions(unit):
    images, texts, owner = several_captions(unit)
    scores, own = texts @ images.T, owner[:, None] == torch.arange(40)
    found = retrieval_recall(images, texts, image_of_text=owner)
    for k in (1, 5, 10):
        # Their recall is the share of an image's captions that are found; it counts if any is.
        expected = [(recall_at_k(s, o, k) > 0).double().mean().item() for s, o in ((scores, own), (scores.T, own.T))]
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(expected[0], abs=1e-9)
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(expected[1], abs=1e-9)
    assert 0.1 < found["text_retrieval_recall@1"] < 0.95


def test_ranks_are_those_of_sorting(unit):
    images, texts, owner = several_captions(unit)
    image_ranks, text_ranks = retrieval_ranks(images, texts, owner)
    scores = texts @ images.T
    for j, row in enumerate(scores):
        assert image_ranks[j] == row.argsort(descending=True).tolist().index(owner[j])
    for i, column in enumerate(scores.T):
        order = column.argsort(descending=True)
        assert text_ranks[i] == min(order.tolist().index(j) for j in range(len(texts)) if owner[j] == i)


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
    arguments = several_captions(unit)
    whole = retrieval_ranks(*arguments)
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 3 * len(arguments[1]))
    for found, expected in zip(retrieval_ranks(*arguments), whole, strict=True):
        assert torch.equal(found, expected)


def test_collapsed_features_do_not_win(unit):
    same = unit(1, 4).repeat(50, 1)
    scores = retrieval_recall(same, same)
    assert scores["image_retrieval_recall@1"] == scores["text_retrieval_recall@1"] == pytest.approx(1 / 50)
    assert scores["image_retrieval_recall@10"] == scores["text_retrieval_recall@10"] == pytest.approx(10 / 50)


def test_equal_texts_rank_by_position_and_the_first_of_an_images_own_counts():
    # Images are the axes. Texts 1 and 2 are image 0's and equal, text 0 of image 1 equals them.
    texts = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    image_ranks, text_ranks = retrieval_ranks(torch.eye(2), texts, torch.tensor([1, 0, 0, 1]))
    # Texts are counted by their image: those of image 0 come first, and no other text scores higher than they.
    assert text_ranks.tolist() == [0, 0]
    assert image_ranks.tolist() == [1, 0, 0, 0]
    image_ranks, text_ranks = retrieval_ranks(torch.eye(2), texts, torch.tensor([0, 1, 1, 0]))
    assert text_ranks.tolist() == [0, 2]  # behind text 0, which equals it and is earlier, and behind text 3
    assert image_ranks.tolist() == [0, 1, 1, 1]


def test_recall_is_asked_at_the_cut_offs_alone(unit):
    x, y = unit(30, 4), unit(30, 4, 1)
    scores = retrieval_recall(x, y, (2, 7))
    assert set(scores) == {f"{name}_retrieval_recall@{k}" for name in ("image", "text") for k in (2, 7)}
    ranks = retrieval_ranks(x, y)
    assert scores["image_retrieval_recall@7"] == float((ranks[0] < 7).double().mean())
    assert scores["text_retrieval_recall@2"] == float((ranks[1] < 2).double().mean())


def test_zero_shot_accuracy(unit):
    directions = torch.eye(6)
    images = torch.nn.functional.normalize(torch.eye(6)[[0, 1, 2]] + 2 * torch.eye(6)[[0, 5, 2]], dim=1)
    assert zero_shot_accuracy(images, directions, torch.tensor([0, 1, 3])) == pytest.approx(
        {"acc1": 1 / 3, "acc5": 1.0, "mean_per_class_recall": 1 / 3}
    )
    assert "acc5" not in zero_shot_accuracy(images[:, :3], directions[:3, :3], torch.tensor([0, 1, 2]))


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_mean_per_class_recall_is_sklearns(unit):
    images, directions = unit(200, 5), unit(7, 5, 1)
    labels = torch.randint(0, 6, (200,))  # one class has no image
    found = zero_shot_accuracy(images, directions, labels)["mean_per_class_recall"]
    assert found == pytest.approx(balanced_accuracy_score(labels, (images @ directions.T).argmax(dim=1)))
