"""Features of a whole data set, embedded on all processes, exactly one row for each pair."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from gapless.data.loader import EvalData
from gapless.data.pairs import BadSample
from gapless.errors import DataError
from gapless.models import Tokenizer

Autocast = Callable[[], AbstractContextManager[None]]


@dataclass
class PairFeatures:
    """Unit-norm float32 features on the CPU, row i of both from one pair."""

    image: Tensor
    """(N, D)."""
    text: Tensor
    """(N, D)."""
    indices: Tensor
    """int64 (N,): positions in the data set (-1 for streams)."""
    bad: list[BadSample]
    """Samples that could not be embedded."""


def _nothing() -> None:
    return None


@torch.no_grad()
def embed_pairs(
    model: nn.Module, data: EvalData, autocast: Autocast = nullcontext, poll: Callable[[], None] = _nothing
) -> PairFeatures:
    """Embed every pair of a data set, sharded over the processes and gathered on each.

    Args:
        model: a ClipModel, or a wrapper around it with the same forward.
        data: batches of this process.
        autocast: context of the forward pass.
        poll: called after each batch, at the same time on all processes; may raise to stop them.

    Raises:
        DataError: rows lost or doubled, or no usable pair.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    images, texts, indices, bad = [], [], [], []
    console = Console(stderr=True)
    quiet = not (PartialState().is_main_process and console.is_terminal)
    for batch in track(data.batches(), "embedding", console=console, transient=True, disable=quiet):
        with autocast():
            output = model(batch.images.to(device, non_blocking=True), batch.tokens.to(device, non_blocking=True))
        images.append(output["image_features"].cpu())
        texts.append(output["text_features"].cpu())
        indices.append(batch.indices)
        bad += batch.bad
        if data.equal_batches:
            poll()
    model.train(training)
    if not images:  # a stream may have nothing for this process
        images, texts, indices = [torch.empty(0, 0)], [torch.empty(0, 0)], [torch.empty(0, dtype=torch.long)]
    parts = gather_object([(torch.cat(images), torch.cat(texts), torch.cat(indices), bad)])
    filled = [p for p in parts if len(p[0])]
    if not filled:
        raise DataError(f"evaluation: no usable pair ({len(parts[0][3])} bad samples)")
    features = PairFeatures(
        torch.cat([p[0] for p in filled]),
        torch.cat([p[1] for p in filled]),
        torch.cat([p[2] for p in filled]),
        [sample for p in parts for sample in p[3]],
    )
    n = len(features.image)
    if data.num_samples >= 0 and n + len(features.bad) != data.num_samples:
        raise DataError(f"evaluation saw {n} + {len(features.bad)} bad samples of {data.num_samples}")
    return features


@torch.no_grad()
def embed_classes(
    model: nn.Module, tokenizer: Tokenizer, prompts: Mapping[str, Sequence[str]], autocast: Autocast = nullcontext
) -> Tensor:
    """One direction for each class: the mean of its prompts' unit-norm features, normalised again.

    Args:
        model: a ClipModel, or a wrapper around it with the same forward.
        tokenizer: the model's.
        prompts: the prompts of each class, by class name.

    Returns:
        unit-norm (C, D) float32 on the CPU.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with autocast():
        features = model(tokens=tokenizer([p for texts in prompts.values() for p in texts]).to(device))["text_features"]
    model.train(training)
    means = [part.mean(dim=0) for part in features.cpu().split([len(texts) for texts in prompts.values()])]
    return F.normalize(torch.stack(means), dim=-1)
