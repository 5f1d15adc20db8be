"""One contrastive step: forward, loss over the global batch, backward.

Axis letters: n pairs of this process, D dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gapless.data import Batch
from gapless.engine.processes import gather_rows
from gapless.losses import Objective
from gapless.losses.pairs import num_duplicates

Output = dict[str, Tensor]


class ContrastiveStep:
    """Computes all loss terms of a global batch and leaves their gradients in the parameters.

    With a micro-batch size, features are computed in parts without gradients, the loss and its gradients with respect
    to features and temperature follow from the whole batch, and each part is then run again with gradients and the
    same random numbers (GradCache, Gao et al. 2021). So the contrastive batch stays whole, and the temperature, which
    every part sees, gets its gradient once.

    Args:
        model: prepared by accelerate.
        objective: the loss.
        accelerator: for mixed precision and gradient synchronisation.
        micro_batch_size: pairs of one forward pass; None for all at once.
        mask_duplicates: whether pairs with the same image or caption do not repel each other.
        schedule: prepares a step and gives the weights that differ from the objective's own.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        accelerator: Accelerator,
        micro_batch_size: int | None = None,
        mask_duplicates: bool = False,
        schedule: Callable[[int], Mapping[str, float]] = lambda step: {},
    ) -> None:
        self.model, self.objective, self.accelerator = model, objective, accelerator
        self.micro_batch_size, self.mask_duplicates = micro_batch_size, mask_duplicates
        self.schedule = schedule

    def __call__(self, batch: Batch, sizes: Sequence[int], step: int = 0) -> Output:
        """Unweighted terms, ``loss`` and ``logit_scale``, detached and the same on every process.

        With them the scheduled weights, and how many pairs have an image or a caption that came before in the batch.

        Args:
            batch: this process's part of the global batch, n pairs.
            sizes: pairs of each process in this batch.
            step: of the run, counted from 0.
        """
        weights = self.schedule(step)
        device = self.accelerator.device
        first, second = (side.to(device, non_blocking=True) for side in (batch.first, batch.second))
        identities = gather_rows(batch.identities.to(device), sizes)
        loss = partial(self._losses, sizes, identities if self.mask_duplicates else None, weights)
        # All processes run equally many parts, which sharded parameters need.
        parts = -(-max(sizes) // (self.micro_batch_size or max(sizes)))
        if parts == 1:
            output = self.model(first, second)
            losses = loss(output)
            self.accelerator.backward(losses["loss"])
        else:
            losses = self._in_parts(first.tensor_split(parts), second.tensor_split(parts), loss)
        counts = dict(zip(("duplicate_images", "duplicate_captions"), num_duplicates(identities), strict=True))
        used = {f"weight/{name}": torch.tensor(weight, device=device) for name, weight in weights.items()}
        return {name: value.detach() for name, value in (losses | used | counts).items()}

    def _losses(
        self, sizes: Sequence[int], groups: Tensor | None, weights: Mapping[str, float], output: Output
    ) -> Output:
        both = torch.cat([output["image_features"].float(), output["text_features"].float()], dim=1)
        x, y = gather_rows(both, sizes).chunk(2, dim=1)
        scale, bias = output["logit_scale"].float(), output.get("logit_bias")
        losses = self.objective(x, y, scale, None if bias is None else bias.float(), groups, weights)
        return losses | {"logit_scale": scale}

    def _in_parts(self, first: Sequence[Tensor], second: Sequence[Tensor], loss: Callable[[Output], Output]) -> Output:
        states, outputs = [], []
        for part in zip(first, second, strict=True):
            states.append(_rng_state(self.accelerator.device))
            with torch.no_grad():
                outputs.append(self.model(*part))
        leaves = {name: _joined(name, outputs).requires_grad_() for name in outputs[0]}
        losses = loss(leaves)
        gradients = torch.autograd.grad(losses["loss"], list(leaves.values()), allow_unused=True)
        by_name = dict(zip(leaves, gradients, strict=True))
        lengths = [len(part) for part in first]
        rows = {n: by_name[n].split(lengths) for n in ("image_features", "text_features")}
        for i, part in enumerate(zip(first, second, strict=True)):
            last = i == len(first) - 1
            _set_rng_state(self.accelerator.device, states[i])
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                output = self.model(*part)
                surrogate = sum((output[n].float() * rows[n][i]).sum() for n in rows)
                for name in ("logit_scale", "logit_bias"):
                    # Every part sees the temperature, but its gradient is that of the whole batch: it counts once.
                    if last and by_name.get(name) is not None and output[name].requires_grad:
                        surrogate = surrogate + output[name] * by_name[name]
                self.accelerator.backward(surrogate)
        return losses


def _joined(name: str, outputs: Sequence[Output]) -> Tensor:
    """Features of all parts; the temperature, which is the same in each, once."""
    if name.endswith("_features"):
        return torch.cat([output[name] for output in outputs]).detach()
    return outputs[0][name].detach().clone()


def _rng_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type != "cuda" else [*states, torch.cuda.get_rng_state(device)]


def _set_rng_state(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
