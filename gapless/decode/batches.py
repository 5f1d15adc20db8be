"""Embeddings and captions as training batches.

Axis letters: n captions of this process, M embeddings, D dimensions, L tokens.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gapless.data import Place
from gapless.data.loader import epoch_order
from gapless.data.samples import BadSample
from gapless.decode.captioner import IGNORED
from gapless.decode.store import Features, FeatureStore
from gapless.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionBatch:
    """One process's part of a global batch."""

    prepared: Tensor
    """(n, D)."""
    tokens: Tensor
    """int64 (n, L), filled up with IGNORED."""
    bad: list[BadSample] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """n."""
        return len(self.tokens)


class CaptionData:
    """Embeddings and what is to be said of them, as batches that depend on seed and step alone.

    Args:
        embedding: (M, D).
        rows: of the embedding, one for each caption.
        tokens: of each caption.
        prepare: of embeddings and standard normal noise.
        batch_size: captions in a global batch.
        seed: of order and noise.
        place: this process.
    """

    def __init__(
        self,
        embedding: Tensor,
        rows: Tensor,
        tokens: Sequence[Tensor],
        prepare: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        seed: int,
        place: Place,
    ) -> None:
        self.embedding, self.rows, self.tokens, self.prepare = embedding, rows, tokens, prepare
        self.batch_size, self.seed, self.place = batch_size, seed, place
        self.num_samples = len(tokens)
        self.steps_per_epoch = -(-self.num_samples // batch_size)

    def batches(self, start: int, stop: int) -> Iterator[CaptionBatch]:
        """This process's part of global batches start to stop - 1."""
        current, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(start, stop):
            epoch, k = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, order = epoch, torch.tensor(epoch_order([0] * self.num_samples, self.seed, epoch, 1))
            batch = order[k * self.batch_size : (k + 1) * self.batch_size]
            # Noise of the whole batch, whatever number of processes share it.
            generator = torch.Generator().manual_seed(_number(f"{self.seed}-noise-{step}"))
            noise = torch.randn(len(batch), self.embedding.shape[1], generator=generator)
            mine = self.place.chunk(len(batch))
            chosen = batch[mine]
            prepared = self.prepare(self.embedding[self.rows[chosen]], noise[mine])
            yield CaptionBatch(prepared, padded([self.tokens[i] for i in chosen.tolist()]))


def padded(tokens: Sequence[Tensor]) -> Tensor:
    """int64 (n, L), filled up with IGNORED."""
    if not tokens:
        return torch.zeros((0, 1), dtype=torch.long)
    return pad_sequence(list(tokens), batch_first=True, padding_value=IGNORED)


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def what_to_say(
    store: FeatureStore, features: Features, split: str, fraction: float = 1.0, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """Rows of the features, and a caption of each: their own, or those of their ids.

    Args:
        store: where captions of ids are looked up.
        features: of one modality.
        split: of the store.
        fraction: share of the ids that is used.
        seed: of that choice.

    Raises:
        DataError: there are no captions.
    """
    if any(features.captions):
        pairs = [(k, caption) for k, caption in enumerate(features.captions) if caption.strip()]
        empty = len(features) - len(pairs)
    else:
        said = store.captions(split)
        pairs = [(k, caption) for k, name in enumerate(features.ids) for caption in said.get(name, ())]
        empty = sum(name not in said for name in features.ids)
        if not pairs:
            raise DataError(
                f"{store.folder}: no id of {features.modality}_{split} is one of text_{split}, not {features.ids[0]!r}"
            )
    if not pairs:
        raise DataError(f"{store.folder}: {features.modality}_{split} has no captions")
    if empty and PartialState().is_main_process:
        logger.warning("%s_%s: %d rows have no caption and are left out", features.modality, split, empty)
    if fraction < 1:
        names = list(dict.fromkeys(features.ids[k] for k, _ in pairs))
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        kept = {names[i] for i in order[: max(1, round(fraction * len(names)))].tolist()}
        pairs = [(k, caption) for k, caption in pairs if features.ids[k] in kept]
    return torch.tensor([k for k, _ in pairs]), [caption for _, caption in pairs]
