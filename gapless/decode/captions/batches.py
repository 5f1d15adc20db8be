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
from gapless.data.pairs import digest_of
from gapless.data.samples import BadSample
from gapless.decode.captions.captioner import IGNORED
from gapless.decode.store import FeatureStore
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
    first_cut: str = ""

    @property
    def rows(self) -> int:
        """n."""
        return len(self.tokens)


@dataclass(frozen=True)
class CaptionedEmbeddings:
    """Embeddings of one modality, and their captions."""

    modality: str
    embedding: Tensor
    """unit-norm (M, D)."""
    row_of_caption: Tensor
    """int64: the embedding of each caption."""
    captions: list[str]

    def fingerprint(self) -> str:
        """By what they are known wherever they lie."""
        embedded = hashlib.blake2b(self.embedding.numpy().tobytes(), digest_size=8).hexdigest()
        return digest_of([self.modality, embedded, *self.row_of_caption.tolist(), *self.captions])


class CaptionData:
    """Captions and their prepared embeddings, in batches that depend on seed and step alone.

    Args:
        captioned: embeddings and captions.
        tokens: of each caption.
        prepare: of embeddings, their modality and standard normal noise; a Preparation.
        batch_size: captions in a global batch.
        seed: of order and noise.
        place: this process.
    """

    def __init__(
        self,
        captioned: CaptionedEmbeddings,
        tokens: Sequence[Tensor],
        prepare: Callable[[Tensor, str, Tensor], Tensor],
        batch_size: int,
        seed: int,
        place: Place,
    ) -> None:
        self.captioned, self.tokens, self.prepare = captioned, tokens, prepare
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
            noise = torch.randn(len(batch), self.captioned.embedding.shape[1], generator=generator)
            mine = self.place.chunk(len(batch))
            chosen = batch[mine]
            rows = self.captioned.embedding[self.captioned.row_of_caption[chosen]]
            prepared = self.prepare(rows, self.captioned.modality, noise[mine])
            yield CaptionBatch(prepared, padded([self.tokens[i] for i in chosen.tolist()]))


def padded(tokens: Sequence[Tensor]) -> Tensor:
    """int64 (n, L), filled up with IGNORED."""
    if not tokens:
        return torch.zeros((0, 1), dtype=torch.long)
    return pad_sequence(list(tokens), batch_first=True, padding_value=IGNORED)


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def load_captioned(
    store: FeatureStore, modality: str, split: str, fraction: float = 1.0, seed: int = 0
) -> CaptionedEmbeddings:
    """The embeddings of a split with their captions: their own, or those of their ids.

    Args:
        store: of embeddings.
        modality: of the embeddings.
        split: of the store.
        fraction: share of the ids that is used.
        seed: of that choice.

    Raises:
        DataError: there are no captions.
    """
    features = store.load(modality, split)
    if any(features.captions):
        pairs = [(k, caption) for k, caption in enumerate(features.captions) if caption.strip()]
    else:
        known = store.captions(split)
        pairs = [(k, caption) for k, name in enumerate(features.keys) for caption in known.get(name, ())]
    if not pairs:
        raise DataError(f"{store.folder}: no id of {modality}_{split} has a caption, {features.keys[0]!r} for one")
    silent = len(features) - len({k for k, _ in pairs})
    if silent and PartialState().is_main_process:
        logger.warning("%s_%s: %d rows have no caption and are left out", modality, split, silent)
    if fraction < 1:
        names = list(dict.fromkeys(features.keys[k] for k, _ in pairs))
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        kept = {names[i] for i in order[: max(1, round(fraction * len(names)))].tolist()}
        pairs = [(k, caption) for k, caption in pairs if features.keys[k] in kept]
    rows = torch.tensor([k for k, _ in pairs])
    return CaptionedEmbeddings(modality, features.embedding, rows, [caption for _, caption in pairs])
