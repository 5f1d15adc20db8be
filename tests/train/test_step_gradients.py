"""Gradients of the training step: over processes and in parts they are those of one batch on one process."""

import copy
import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gapless.config import ModelConfig, OptimConfig
from gapless.data import Batch
from gapless.engine.checkpoint import Checkpoints, Progress, full
from gapless.engine.optim import WeightAverage, build_optimizer
from gapless.engine.processes import Processes, exchange, gather_rows
from gapless.engine.resume import load_optimizer
from gapless.losses import Objective
from gapless.models import build_model, load_export, save_export
from gapless.train.step import ContrastiveStep
from tests.processes import run_processes
from tests.runs import TINY

TERMS = ("clip", "uniform", "cross_uniform", "align", "siglip")
SIZES = (5, 4, 2)


def whole_batch(n=11):
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 49000, (n, 9), generator=generator)
    tokens[:, -1] = 49407
    return images, tokens


def part(first, count):
    images, tokens = whole_batch()
    rows = slice(first, first + count)
    return Batch(
        images[rows],
        tokens[rows],
        torch.arange(count),
        [],
        {},
        torch.arange(2 * first, 2 * (first + count)).view(-1, 2),
    )


@cache
def built(initial_bias, dropout):
    """A model, of which copies are used."""
    architecture = TINY | {"vision_cfg": TINY["vision_cfg"] | {"patch_dropout": dropout}}
    return build_model(ModelConfig(name="custom", architecture=architecture), seed=1, initial_bias=initial_bias)[0]


def gradients(objective, batch, sizes, micro_batch_size=None, dropout=0.0):
    """Losses and all gradients of a step on this process, by name."""
    model = copy.deepcopy(built(objective.initial_bias, dropout))
    model.clip.logit_scale.requires_grad_(objective.uses_temperature)
    accelerator = Accelerator()
    prepared = accelerator.prepare(model)
    torch.manual_seed(9)
    losses = ContrastiveStep(prepared, objective, accelerator, micro_batch_size)(batch, sizes)
    found = {n: p.grad.double() for n, p in model.clip.named_parameters() if p.grad is not None}
    return found | {f"loss/{n}": v.double() for n, v in losses.items()}


def of_every_term(sizes):
    """In one of the processes: gradients of each term from this process's rows."""
    rank = torch.distributed.get_rank()
    batch = part(sum(sizes[:rank]), sizes[rank])
    found = (gradients(Objective({t: 1.0}, implementation="tiled", team=Processes()), batch, sizes) for t in TERMS)
    return [{n: v.tolist() for n, v in each.items()} for each in found]


def assert_same(found, expected, rtol=2e-4):
    assert found.keys() == expected.keys()
    scale = max(v.abs().max().item() for n, v in expected.items() if not n.startswith("loss/"))
    for name, value in expected.items():
        other = torch.as_tensor(found[name], dtype=torch.float64)
        if name.startswith("loss/"):
            torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-7)
        else:
            torch.testing.assert_close(other, value, rtol=rtol, atol=2e-6 * max(scale, 1))


@pytest.mark.parametrize("sizes", [(6, 5), (11, 0), SIZES])
def test_processes_give_the_gradients_of_one(sizes):
    results = run_processes(len(sizes), of_every_term, sizes)
    for k, term in enumerate(TERMS):
        alone = gradients(Objective({term: 1.0}, implementation="plain"), part(0, 11), [11])
        assert ("logit_scale" in alone) == (term in ("clip", "siglip"))
        for result in results:
            assert_same(result[k], alone)


@pytest.mark.parametrize("terms", [{"clip": 1.0, "uniform": 1.0, "align": 1.0, "cross_uniform": 1.0}, {"siglip": 1.0}])
@pytest.mark.parametrize("micro_batch_size", [1, 4, 10])
def test_parts_give_the_gradients_of_the_whole(terms, micro_batch_size):
    whole = gradients(Objective(terms), part(0, 11), [11])
    assert "logit_scale" in whole
    assert_same(gradients(Objective(terms), part(0, 11), [11], micro_batch_size), whole)


def test_parts_replay_the_same_random_numbers():
    # With patch dropout the second forward pass must drop what the first one dropped: the gradient then is that of
    # the loss which was reported, and a finite difference along it confirms so.
    objective = Objective({"clip": 1.0})
    found = gradients(objective, part(0, 8), [8], micro_batch_size=3, dropout=0.5)
    architecture = TINY | {"vision_cfg": TINY["vision_cfg"] | {"patch_dropout": 0.5}}
    model, _ = build_model(ModelConfig(name="custom", architecture=architecture), seed=1)
    direction = found["visual.proj"].float() / found["visual.proj"].norm().float()

    def loss(distance):
        with torch.no_grad():
            model.clip.visual.proj += distance * direction
            torch.manual_seed(9)
            batch = part(0, 8)
            parts = zip(batch.first.tensor_split(3), batch.second.tensor_split(3), strict=True)
            outputs = [model(*p) for p in parts]
            x, y = (torch.cat([o[n] for o in outputs]) for n in ("image_features", "text_features"))
            value = objective(x, y, outputs[0]["logit_scale"])["loss"].item()
            model.clip.visual.proj -= distance * direction
        return value

    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    assert slope == pytest.approx(found["visual.proj"].norm().item(), rel=1e-2)


def in_parts(sizes):
    """In one of the processes: gradients of this process's rows in parts of two."""
    rank = torch.distributed.get_rank()
    batch = part(sum(sizes[:rank]), sizes[rank])
    found = gradients(Objective({"clip": 1.0, "uniform": 0.5}), batch, sizes, micro_batch_size=2)
    return [(n, v.tolist()) for n, v in found.items()]


def test_parts_on_processes_give_the_gradients_of_one():
    alone = gradients(Objective({"clip": 1.0, "uniform": 0.5}), part(0, 11), [11])
    for result in run_processes(2, in_parts, (7, 4)):
        assert_same(dict(result), alone)


def gathered():
    rank = torch.distributed.get_rank()
    rows = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    result = gather_rows(rows, [1, 2, 3])
    (result * torch.arange(6.0).unsqueeze(1)).sum().backward()
    said = exchange([rank, 10 * rank], torch.device("cpu"))
    return [result.tolist(), rows.grad.tolist(), said]


def test_gather_keeps_the_order_and_sums_the_gradients():
    for rank, (rows, gradient, said) in enumerate(run_processes(3, gathered)):
        assert [row[0] for row in rows] == [0, 1, 1, 2, 2, 2]
        # Row i of the whole is weighted with i, on three processes.
        own = {0: [0], 1: [1, 2], 2: [3, 4, 5]}[rank]
        assert [row[0] for row in gradient] == [3.0 * i for i in own]
        assert said == [[0, 0], [1, 10], [2, 20]]


def sharded():
    """In one of two processes: a step, an optimiser step and a checkpoint of a model sharded by FSDP2."""
    accelerator = Accelerator()
    rank = torch.distributed.get_rank()
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=TINY), seed=1)
    model.reshape_scalars()
    mesh = init_device_mesh("cpu", (2,))
    for block in (*model.clip.visual.transformer.resblocks, *model.clip.transformer.resblocks, model):
        fully_shard(block, mesh=mesh)
    optimizer = build_optimizer(model, OptimConfig(lr=0.01))
    average = WeightAverage(model.clip.named_parameters(), decay=0.5)
    step = ContrastiveStep(model, Objective({"clip": 1.0, "uniform": 0.5}), accelerator)
    losses = step(part((0, 7)[rank], (7, 4)[rank]), (7, 4))
    found = {n: full(p.grad) for n, p in model.clip.named_parameters()}
    found["logit_scale"] = found["logit_scale"].squeeze()
    found |= {f"loss/{n}": v for n, v in losses.items()}
    optimizer.step()
    average.update(0)
    folder = Path(tempfile.gettempdir()) / f"sharded_{os.getppid()}"
    checkpoints = Checkpoints(folder, accelerator, 1, model.clip, partial(save_export, model, tokenizer))
    checkpoints.save(Progress(step=1), optimizer, average)
    # The moments come back to where they were, each process its part.
    kept = {n: full(optimizer.state[p]["exp_avg"]) for n, p in model.clip.named_parameters()}
    kept |= {f"{n} itself": full(p) for n, p in model.clip.named_parameters()}
    for p in model.parameters():
        optimizer.state[p]["exp_avg"].zero_()
        p.detach().zero_()
    load_optimizer(folder / "latest", accelerator, model.clip, optimizer)
    back = {n: full(optimizer.state[p]["exp_avg"]) for n, p in model.clip.named_parameters()}
    back |= {f"{n} itself": full(p) for n, p in model.clip.named_parameters()}
    same = all(torch.equal(kept[n], back[n]) for n in kept)
    exported, _ = load_export(folder / "latest")
    # The model's file holds the weights that an evaluation would have measured.
    measured = {n: full(t) for n, t in average.averages.items()}
    loaded = all(torch.equal(measured[n].reshape(p.shape), p) for n, p in exported.clip.named_parameters())
    accelerator.wait_for_everyone()
    shutil.rmtree(folder, ignore_errors=True)
    return [(n, v.tolist()) for n, v in found.items()], same, loaded


def test_sharded_parameters_give_the_gradients_of_one_process_and_come_back():
    alone = gradients(Objective({"clip": 1.0, "uniform": 0.5}), part(0, 11), [11])
    for found, same, loaded in run_processes(2, sharded):
        assert_same(dict(found), alone)
        assert same
        assert loaded
