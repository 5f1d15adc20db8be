"""FSDP2 on two gloo processes: the numbers of one process, whatever is left over."""

from dataclasses import dataclass

import pytest
import torch
from accelerate import Accelerator, PartialState
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gapless.config import ModelConfig, OptimConfig
from gapless.data import Batch
from gapless.decode.captions.batches import CaptionedEmbeddings
from gapless.decode.captions.training import CaptionEvaluation
from gapless.engine.loop import averaged
from gapless.engine.optim import WeightAverage, build_optimizer
from gapless.engine.run import refuse_fsdp1
from gapless.errors import ConfigError
from gapless.eval.features import embed_images, embed_pairs, embed_texts
from gapless.losses import Objective
from gapless.models import build_model
from gapless.train.step import ContrastiveStep
from tests.processes import run_processes
from tests.runs import TINY
from tests.train.test_step_gradients import part


def small_model():
    """A model, and its tokenizer; its parameters are shared out where there are processes to share with."""
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=TINY), seed=1)
    world = PartialState().num_processes
    if world > 1:
        model.reshape_scalars()
        mesh = init_device_mesh("cpu", (world,))
        for block in (*model.clip.visual.transformer.resblocks, *model.clip.transformer.resblocks, model):
            fully_shard(block, mesh=mesh)
    return model, tokenizer


@dataclass
class Few:
    """So many batches of two pairs for each process, as a stream deals them."""

    counts: tuple[int, ...]
    num_samples: int = -1

    def batches(self):
        rank = PartialState().process_index
        first = sum(self.counts[:rank])
        return (part(2 * k, 2) for k in range(first, first + self.counts[rank]))

    def blank(self) -> Batch:
        return part(0, 0)

    def key(self, index: int) -> str:
        return str(index)


def losses_with_averages():
    """Losses of seven steps with an evaluation of the averaged weights after the second and the fourth."""
    accelerator = Accelerator(cpu=True)
    rank, sizes = (accelerator.process_index, (7, 4)) if accelerator.num_processes > 1 else (0, (11,))
    batch = part((0, 7)[rank], sizes[rank])
    model, _ = small_model()
    optimizer = build_optimizer(model, OptimConfig(lr=0.01))
    average = WeightAverage(model.clip.named_parameters(), 0.5, model.modules())
    step = ContrastiveStep(model, Objective({"clip": 1.0, "uniform": 0.5}), accelerator)
    found = []
    for number in range(7):
        optimizer.zero_grad()
        found.append(float(step(batch, sizes)["loss"]))
        optimizer.step()
        average.update(number)
        if number in (1, 3):
            with averaged(average):
                features = embed_pairs(model, Few((2, 1)[: len(sizes)]))
            found.append(float((features.image * features.text)[:4].sum()))
    return found


def leftovers():
    """What is embedded and scored when processes have unequally much to do, or nothing."""
    accelerator = Accelerator(cpu=True)
    model, tokenizer = small_model()
    found = [embed_texts(model, tokenizer, words, 4).sum().item() for words in (list("abcdefghi"), ["a photo"])]
    found.append(embed_images(model, Pictures(), quadrupled, 4, 0).image.sum().item())
    scored = nn.Linear(3, 1, bias=False)
    nn.init.ones_(scored.weight)
    if accelerator.num_processes > 1:
        fully_shard(scored, mesh=init_device_mesh("cpu", (accelerator.num_processes,)))
    said = CaptionedEmbeddings("text", torch.arange(27.0).reshape(9, 3), torch.arange(9), [""] * 9)
    tokens = [torch.ones(k + 1, dtype=torch.long) for k in range(9)]
    evaluation = CaptionEvaluation(said, tokens, lambda embedding, _: embedding, 4, accelerator)
    found.append(evaluation.run(Summed(scored))["val/loss"])
    return found


class Pictures:
    """A single one."""

    def __len__(self):
        return 1

    def load(self, index):
        return part(0, 1).first[0], 7

    def key(self, index):
        return str(index)


def quadrupled(image):
    return image.repeat(1, 4, 4)[:, :32, :32]


class Summed(nn.Module):
    def __init__(self, scored):
        super().__init__()
        self.scored = scored

    def forward(self, prepared, tokens):
        return self.scored(prepared).sum()


@pytest.mark.parametrize("numbers", [losses_with_averages, leftovers])
def test_sharded_numbers_are_those_of_one_process(numbers):
    together = run_processes(2, numbers)
    alone = numbers()
    for found in together:
        assert found == pytest.approx(alone, abs=1e-5, rel=1e-5)


def test_fsdp_1_is_refused_with_the_option_that_works(monkeypatch):
    class State:
        class fsdp_plugin:  # noqa: N801
            fsdp_version = 1

    class Fake:
        distributed_type, state = "FSDP", State

    with pytest.raises(ConfigError, match="fsdp_version: 1.* set it to 2"):
        refuse_fsdp1(Fake)
    State.fsdp_plugin.fsdp_version = 2
    refuse_fsdp1(Fake)
