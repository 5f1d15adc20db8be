"""A captioner's step and evaluation, with a model whose loss is known."""

import pytest
import torch
from accelerate import Accelerator

from gapless.data import Place
from gapless.decode.captions import training as room
from gapless.decode.captions.captioner import IGNORED
from gapless.decode.captions.training import CaptionEvaluation, CaptionStep


class Counted(torch.nn.Module):
    """A loss of a known gradient: the weight times the sum of what is shown, for each token that counts."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.tensor(2.0)), []

    def forward(self, prepared, tokens):
        self.seen.append((self.training, prepared.tolist(), tokens.tolist()))
        return self.weight * (prepared.sum(dim=1) * (tokens != IGNORED).sum(dim=1)).sum()


BATCH = room.CaptionBatch(
    torch.tensor([[1.0], [2.0], [4.0]]),
    torch.tensor([[5, IGNORED, IGNORED], [5, 6, IGNORED], [5, 6, 7]]),
)


@pytest.mark.parametrize(("micro", "parts"), [(None, 1), (3, 1), (2, 2), (1, 3)])
def test_a_step_is_the_mean_over_all_tokens_in_parts_or_not(micro, parts):
    model = Counted()
    losses = CaptionStep(model, Accelerator(cpu=True), micro)(BATCH, [3], 7)
    assert list(losses) == ["loss"]
    assert losses["loss"].item() == pytest.approx(2 * (1 + 4 + 12) / 6)
    assert model.weight.grad.item() == pytest.approx((1 + 4 + 12) / 6)
    assert len(model.seen) == parts
    assert [row for _, shown, _ in model.seen for row in shown] == BATCH.prepared.tolist()
    assert not losses["loss"].requires_grad


def test_a_step_shares_its_sum_with_other_processes(monkeypatch):
    """As on the first of two processes; the second has ten tokens."""
    exchanged = []
    monkeypatch.setattr(room, "exchange", lambda own, device: (exchanged.append(own), [own, [10]])[1])
    accelerator, model, waited = Accelerator(cpu=True), Counted(), []
    plain = accelerator.no_sync
    monkeypatch.setattr(accelerator, "no_sync", lambda model: (waited.append(model), plain(model))[1])
    monkeypatch.setattr(accelerator, "reduce", lambda total, how: total + 100 if how == "sum" else None)
    losses = CaptionStep(model, accelerator, 2)(BATCH, [3, 5])
    assert exchanged == [[6]]
    assert losses["loss"].item() == pytest.approx(2 * 17 / 16 + 100)
    assert model.weight.grad.item() == pytest.approx(2 * 17 / 16)  # DDP halves it
    assert waited == [model, model]  # all but the last of three parts, which the other process needs


def test_an_evaluation_is_the_mean_over_all_tokens_without_dropout_or_noise():
    rows = torch.tensor([2, 0, 0, 1])
    said = room.CaptionedEmbeddings("text", torch.tensor([[1.0], [2.0], [4.0]]), rows, list("abcd"))
    tokens = [torch.tensor(t) for t in ([5, 6], [5], [5, 6, 7], [6])]
    prepared = []

    def preparation(embedding, modality, noise=None):
        prepared.append((modality, noise))
        return embedding * 10

    for size in (1, 3, 9):
        model = Counted().train()
        polled, entered = [], []

        class Autocast:
            def __enter__(self, entered=entered):
                entered.append(1)

            def __exit__(self, *_):
                pass

        evaluation = CaptionEvaluation(said, tokens, preparation, size, Accelerator(cpu=True))
        values = evaluation.run(model, Autocast, lambda polled=polled: polled.append(1))
        total = 2 * (40 * 2 + 10 * 1 + 10 * 3 + 20 * 1)
        assert values["val/loss"] == pytest.approx(total / 7)
        assert values["val/num_captions"] == 4.0
        assert set(values) == {"val/loss", "val/perplexity", "val/num_captions"}
        assert len(polled) == len(entered) == -(-4 // size) == len(model.seen)
        assert not any(training for training, _, _ in model.seen)
        assert model.training
        assert [row for _, shown, _ in model.seen for row in shown] == [[40.0], [10.0], [10.0], [20.0]]
    assert prepared == [("text", None)] * 3
    model = Counted().eval()
    with torch.no_grad():
        model.weight.fill_(0.01)
    values = evaluation.run(model)
    assert values["val/perplexity"] == pytest.approx(2.718281828 ** values["val/loss"])
    assert not model.training


def test_processes_share_an_evaluation_and_those_without_captions_go_along(monkeypatch):
    said = room.CaptionedEmbeddings("text", torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 2]), list("abc"))
    tokens = [torch.tensor([5]), torch.tensor([5, 6]), torch.tensor([5, 6, 7])]
    seen = []
    for rank in (0, 1, 2, 3):
        monkeypatch.setattr(Place, "here", classmethod(lambda cls, rank=rank: cls(rank, 4)))
        monkeypatch.setattr(Accelerator, "reduce", lambda self, total, how: total + torch.tensor([0.0, 10.0]))
        monkeypatch.setattr(room, "together", lambda items, blank: [*items, blank()])  # another has one more
        model = Counted()
        values = CaptionEvaluation(said, tokens, lambda e, _: e, 2, Accelerator(cpu=True)).run(model)
        mine = range(3 * rank // 4, 3 * (rank + 1) // 4)
        expected = sum(2.0 * float(said.embedding[k]) * (k + 1) for k in mine)
        assert values["val/loss"] == pytest.approx(expected / (10 + sum(k + 1 for k in mine)))
        seen.append([shown for _, shown, _ in model.seen])
    # A blank is the first caption, which counts for nothing.
    assert seen == [[[[1.0]]], [[[1.0]], [[1.0]]], [[[2.0]], [[1.0]]], [[[4.0]], [[1.0]]]]
