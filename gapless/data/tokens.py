"""Captions to token ids."""

import logging
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)


class CaptionTokenizer:
    """Tokenise captions to a context length and, where that is exact, cut the batch to its longest caption.

    A causal text tower that reads out at the end-of-text token cannot see what follows it, so the padding behind
    the longest caption of a batch changes nothing and costs time.

    Args:
        tokenizer: open_clip's, list of strings to int64 (N, context length).
        trim: cut to the longest caption; only for towers where that is exact.
    """

    def __init__(self, tokenizer: Callable[..., Tensor], trim: bool) -> None:
        self.tokenizer, self.trim = tokenizer, trim

    def __call__(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions)
        if not self.trim:
            return tokens
        # The end-of-text id is the largest, as in the tower's own pooling.
        return tokens[:, : int(tokens.argmax(dim=1).max()) + 1].clone()

    @cached_property
    def context_length(self) -> int:
        """Tokens of a caption that the model can see."""
        return self.tokenizer([""]).shape[1]

    @cached_property
    def padding(self) -> int:
        """The id behind the end of a short caption."""
        return int(self.tokenizer([""], context_length=self.context_length + 8)[0, -1])

    def too_long(self, captions: list[str], tokens: Tensor) -> list[str]:
        """Which captions are longer than the context, so that the model sees only their beginning.

        Args:
            captions: n of them.
            tokens: int64 (n, L), what calling this gave for them.
        """
        if tokens.shape[1] < self.context_length:
            return []
        full = [caption for caption, last in zip(captions, tokens[:, -1].tolist(), strict=True) if last != self.padding]
        if not full:
            return []
        longer = self.tokenizer(full, context_length=self.context_length + 1)  # a caption that just fits leaves it free
        return [caption for caption, last in zip(full, longer[:, -1].tolist(), strict=True) if last != self.padding]


def too_long(tokenize: Any, captions: list[str], tokens: Tensor) -> list[str]:
    """Which captions a tokenizer cut; of other functions than CaptionTokenizer that is unknown."""
    return tokenize.too_long(captions, tokens) if isinstance(tokenize, CaptionTokenizer) else []


@cache
def tell_cut(number: int, total: int, first: str) -> None:
    """Say once in the log that captions are cut."""
    logger.warning("%d of %d captions are longer than the model's context and are cut, first: %s", number, total, first)
