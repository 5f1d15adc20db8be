"""What a contrastive step hands to its model and its objective, seen with both made by hand."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from gapless.config import ModelConfig
from gapless.data import Batch
from gapless.models import build_model
from gapless.train.schedule import Schedule
from gapless.train.step import ContrastiveStep
from tests.runs import TINY


class Towers(nn.Module):
    """Image features are the pictures' first numbers times one weight, text features the tokens times another."""

    def __init__(self, bias=False, dtype=torch.float32):
        super().__init__()
        self.image, self.text = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))
        self.logit_scale = nn.Parameter(torch.tensor(0.5))
        self.bias = nn.Parameter(torch.tensor(-1.0)) if bias else None
        self.dtype, self.parts = dtype, []

    def forward(self, first, second):
        self.parts.append(len(first))
        output = {
            "image_features": (first.float() * self.image).to(self.dtype),
            "text_features": (second.float() * self.text).to(self.dtype),
            "logit_scale": self.logit_scale.to(self.dtype),
        }
        return output if self.bias is None else output | {"logit_bias": self.bias.to(self.dtype)}


class Recorder:
    """An objective whose gradients are known."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, y, scale, bias, groups, weights):
        self.calls.append((x.detach(), y.detach(), scale.detach(), bias, groups, dict(weights)))
        loss = x.sum() + 10 * y.sum() + 100 * scale
        if bias is not None:
            loss = loss + 1000 * bias
        return {"loss": loss, "term": x.sum()}


FIRST, SECOND = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[8.0], [16.0], [32.0]])
IDENTITIES = torch.tensor([[1, 10], [1, 11], [3, 12]])


def batch(rows=3):
    return Batch(FIRST[:rows], SECOND[:rows], torch.arange(rows), [], {}, IDENTITIES[:rows])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("micro", [None, 1, 2, 3])
def test_both_sides_the_temperature_and_the_bias_reach_the_objective_and_their_gradients_come_back(micro, dtype, bias):
    model, objective = Towers(bias, dtype), Recorder()
    losses = ContrastiveStep(model, objective, Accelerator(cpu=True), micro)(batch(), [3])
    ((x, y, scale, given, groups, weights),) = objective.calls
    assert (x.dtype, y.dtype, scale.dtype) == (torch.float32,) * 3
    assert torch.equal(x, 2 * FIRST)
    assert torch.equal(y, 3 * SECOND)
    assert scale.item() == 0.5
    assert (given is not None and given.dtype == torch.float32 and given.item() == -1.0) is bias
    assert groups is None
    assert weights == {}
    assert (model.image.grad.item(), model.text.grad.item(), model.logit_scale.grad.item()) == (7.0, 560.0, 100.0)
    if bias:
        assert model.bias.grad.item() == 1000.0
    # Two passes over each part if there are several.
    assert model.parts == {None: [3], 3: [3], 2: [2, 1] * 2, 1: [1, 1, 1] * 2}[micro]
    assert {n: v.item() for n, v in losses.items()} == {
        "loss": 14 + 1680 + 50 - 1000 * bias,
        "term": 14.0,
        "logit_scale": 0.5,
        "duplicate_images": 1.0,
        "duplicate_captions": 0.0,
    }
    assert not any(v.requires_grad for v in losses.values())


@pytest.mark.parametrize("micro", [None, 2])
def test_a_mask_of_duplicates_and_scheduled_weights_reach_the_objective(micro):
    objective, asked = Recorder(), []

    def schedule(step):
        asked.append(step)
        return {"term": 0.25}

    step = ContrastiveStep(Towers(), objective, Accelerator(cpu=True), micro, True, schedule)
    losses = step(batch(), [3], 7)
    assert asked == [7]
    assert torch.equal(objective.calls[0][4], IDENTITIES)
    assert objective.calls[0][5] == {"term": 0.25}
    assert losses["weight/term"].item() == 0.25
    step(batch(), [3])
    assert asked == [7, 0]


def test_a_temperature_that_is_fixed_gets_no_gradient():
    model = Towers()
    model.logit_scale.requires_grad_(False)
    ContrastiveStep(model, Recorder(), Accelerator(cpu=True), 2)(batch(), [3])
    assert model.logit_scale.grad is None
    assert model.image.grad.item() == 7.0


def test_parts_share_their_gradients_with_other_processes_once(monkeypatch):
    waited = []
    accelerator = Accelerator(cpu=True)
    plain = accelerator.no_sync
    monkeypatch.setattr(accelerator, "no_sync", lambda model: (waited.append(model), plain(model))[1])
    model = Towers()
    ContrastiveStep(model, Recorder(), accelerator, 1)(batch(), [3])
    assert waited == [model, model]  # all but the last of three parts


def test_all_processes_run_as_many_parts_as_the_longest_needs(monkeypatch):
    import gapless.train.step as room

    monkeypatch.setattr(
        room, "gather_rows", lambda rows, sizes: torch.cat([rows, rows.new_zeros(sizes[1], *rows.shape[1:])])
    )
    model = Towers()
    ContrastiveStep(model, Recorder(), Accelerator(cpu=True), 2)(batch(), [3, 5])
    assert model.parts == [1, 1, 1] * 2


class Drops(Towers):
    def forward(self, first, second):
        kept = torch.rand(len(first), 1)
        return super().forward(first * kept, second)


def test_parts_replay_their_random_numbers_and_go_on_after_them():
    model, objective = Drops(), Recorder()
    torch.manual_seed(1)
    ContrastiveStep(model, objective, Accelerator(cpu=True), 2)(batch(), [3])
    after = torch.rand(1)
    torch.manual_seed(1)
    kept = torch.cat([torch.rand(2, 1), torch.rand(1, 1)])
    torch.testing.assert_close(objective.calls[0][0], 2 * FIRST * kept)
    assert model.image.grad.item() == pytest.approx(float((FIRST * kept).sum()), rel=1e-6)
    assert torch.equal(torch.rand(1), after)


def test_a_schedule_sets_what_is_scheduled_before_each_step_and_nothing_else():
    model, _ = build_model(ModelConfig(name="custom", architecture=TINY, temperature=0.5), seed=1)
    weights = {"uniform": {"from": 0.0, "to": 8.0}, "align": 0.5}
    assert Schedule(weights, 0.07, model, 9).begin(3) == {"uniform": 3.0}
    assert Schedule(weights, None, model, 9).begin(8) == {"uniform": 8.0}
    assert model.clip.logit_scale.exp().item() == pytest.approx(2.0)
    assert Schedule({}, {"from": 0.1, "to": 0.5}, model, 5).begin(2) == {}
    assert model.clip.logit_scale.exp().item() == pytest.approx(1 / 0.3)
