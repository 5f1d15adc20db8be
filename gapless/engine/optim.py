"""AdamW with its parameter groups, and the learning rate as a function of the step alone."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from gapless.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; those of at most one dimension are not decayed unless ``decay_all``."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            decay = config.weight_decay if config.decay_all or p.ndim > 1 else 0.0
            factor = config.temperature_lr if name.rpartition(".")[2] == "logit_scale" else 1.0
            groups.setdefault((decay, factor), []).append(p)
    return torch.optim.AdamW(
        [{"params": ps, "weight_decay": decay, "lr_factor": factor} for (decay, factor), ps in groups.items()],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then constant, or cosine or linear to zero.

    A function of the optimiser step alone, so it cannot run faster on more processes.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * (1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no number is NaN or infinite, by one fused norm; of shards over all processes, which all must call it."""
    largest = torch.nn.utils.get_total_norm(tensors, norm_type=math.inf)
    return math.isfinite(float(largest.full_tensor() if isinstance(largest, DTensor) else largest))


class WeightAverage:
    """Exponential moving average of trainable parameters, with a warm-up so that early steps count.

    Args:
        parameters: name and parameter, of the prepared model.
        decay: weight of the past; min(decay, (1 + step) / (10 + step)) is used.
        modules: of the prepared model; those that FSDP shards may hold whole copies of parameters.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, Tensor]], decay: float, modules: Iterable[nn.Module] = ()
    ) -> None:
        self.decay = decay
        self.sharded = [module for module in modules if isinstance(module, FSDPModule)]
        self.parameters = {name: p for name, p in parameters if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self.parameters.values()], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and parameters; a second call undoes it."""
        for module in self.sharded:
            module.reshard()  # the next forward pass gathers what is there then
        for name, p in self.parameters.items():
            held = p.detach().clone()
            p.copy_(self.averages[name])
            self.averages[name].copy_(held)
