"""Captions to token ids."""

from collections.abc import Callable

from torch import Tensor


class CaptionTokenizer:
    """Tokenise captions to a context length and, where that is exact, cut the batch to its longest caption.

    A causal text tower that reads out at the end-of-text token cannot see what follows it, so the padding behind
    the longest caption of a batch changes nothing and costs time.

    Args:
        tokenizer: open_clip's, list of strings to int64 (N, context length).
        trim: cut to the longest caption; only for towers where that is exact.
    """

    def __init__(self, tokenizer: Callable[[list[str]], Tensor], trim: bool) -> None:
        self.tokenizer, self.trim = tokenizer, trim

    def __call__(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions)
        if not self.trim:
            return tokens
        # The end-of-text id is the largest, as in the tower's own pooling.
        return tokens[:, : int(tokens.argmax(dim=1).max()) + 1].clone()
