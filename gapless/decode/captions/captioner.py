"""A decoder from embeddings to captions: a mapper makes a prefix of them, GPT-2 goes on from it (ClipCap).

Axis letters: N captions, D dimensions of the shared space, K prefix positions, L tokens, H width of GPT-2.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from gapless.config.arguments import FractionAboveZero, PositiveInteger
from gapless.decode.captions.gpt2 import HEAD
from gapless.decode.transforms import Preparation
from gapless.errors import DataError
from gapless.models.export import with_old_averages
from gapless.run_folder import (
    CAPTIONER_CONFIG,
    CAPTIONER_WEIGHTS,
    MEANS_FILE,
    export_of,
    remove,
    write_text,
    write_whole,
    written_into,
)

IGNORED = -100
"""Label of positions that no loss is taken at."""
TIED = f"decoder.{HEAD}"

Mapper = Literal["mlp", "transformer"]
Strategy = Literal["greedy", "beam", "nucleus"]


@dataclass(frozen=True)
class Decoding:
    """How captions are searched for."""

    strategy: Strategy = "greedy"
    """Search for a caption: greedy takes the likeliest token each time, beam the likeliest of several captions, nucleus
    draws tokens at random."""
    beams: PositiveInteger = 5
    """Captions that the strategy beam follows at once."""
    top_p: FractionAboveZero = 0.9
    """Probability that the likeliest tokens hold together, from which the strategy nucleus draws."""
    max_tokens: PositiveInteger = 40
    """Largest number of tokens of a caption."""
    batch_size: PositiveInteger = 256
    """Captions that are decoded at once."""


class Captioner(nn.Module):
    """Mapper, GPT-2, its tokens, and how embeddings are prepared.

    Args:
        decoder: GPT-2.
        tokenizer: its tokens; its end-of-text token ends a caption.
        embed_dim: D.
        preparation: of embeddings.
        mapper: mlp (one hidden layer) or transformer (8 layers over K learned positions).
        prefix_length: K.
    """

    def __init__(
        self,
        decoder: GPT2LMHeadModel,
        tokenizer: PreTrainedTokenizerBase,
        embed_dim: int,
        preparation: Preparation,
        mapper: Mapper = "mlp",
        prefix_length: int = 10,
    ) -> None:
        super().__init__()
        self.tokenizer, self.preparation = tokenizer, preparation
        self.embed_dim, self.mapper_kind, self.prefix_length = embed_dim, mapper, prefix_length
        width = decoder.config.n_embd
        make = {"mlp": _MlpMapper, "transformer": _TransformerMapper}[mapper]
        self.mapper = make(embed_dim, prefix_length, width)
        self.decoder = decoder
        self.space = ""
        """Hash of the model whose embeddings were learned from; empty if it is not known."""

    @property
    def context_length(self) -> int:
        """Tokens that fit behind the prefix."""
        return int(self.decoder.config.n_positions) - self.prefix_length

    def forward(self, prepared: Tensor, tokens: Tensor) -> Tensor:
        """Summed cross-entropy of captions.

        Args:
            prepared: (N, D), see :class:`Preparation`.
            tokens: int64 (N, L), each ended by the end-of-text token, then IGNORED; N may be 0.
        """
        if not len(prepared):  # every process must take part in every backward pass
            prepared = prepared.new_zeros(1, self.embed_dim)
            tokens = torch.full((1, 1), IGNORED, device=prepared.device)
        given = self.decoder.transformer.wte(tokens[:, :-1].clamp(min=0))
        # Causal attention never looks at what follows, so that padding behind a caption needs no mask.
        states = self.decoder.transformer(inputs_embeds=torch.cat([self.mapper(prepared), given], dim=1))
        logits = self.decoder.lm_head(states.last_hidden_state[:, self.prefix_length - 1 :])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), ignore_index=IGNORED, reduction="sum")

    def tokenize(self, captions: Sequence[str], max_tokens: int) -> tuple[list[Tensor], int]:
        """Tokens of captions, each with its end, and how many captions were cut.

        Args:
            captions: texts.
            max_tokens: longest result, its end included.
        """
        tokens, cut = [], 0
        for ids in self.tokenizer(list(captions), add_special_tokens=False)["input_ids"] if captions else []:
            cut += len(ids) > max_tokens - 1
            tokens.append(torch.tensor([*ids[: max_tokens - 1], self.tokenizer.eos_token_id]))
        return tokens, cut

    @torch.no_grad()
    def generate(
        self,
        embedding: Tensor,
        modality: str,
        decoding: Decoding | None = None,
        shift: Tensor | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Captions of embeddings, in batches and with cached keys and values.

        Args:
            embedding: (N, D).
            modality: of the embeddings, whose mean is subtracted.
            decoding: the search; nucleus draws from torch's global generator.
            shift: (D,), added to what was prepared.
            progress: called after each batch with the number of captions.

        Raises:
            DataError: another dimension than the mapper's, or no mean of the modality.
        """
        if embedding.shape[1] != self.embed_dim:
            raise DataError(f"embeddings have {embedding.shape[1]} dimensions, this captioner takes {self.embed_dim}")
        decoding = decoding or Decoding()
        how: dict[str, dict[str, Any]] = {
            "greedy": {"do_sample": False},
            "beam": {"do_sample": False, "num_beams": decoding.beams},
            "nucleus": {"do_sample": True, "top_p": decoding.top_p, "top_k": 0},
        }
        captions: list[str] = []
        device = next(self.parameters()).device
        for rows in torch.split(embedding, decoding.batch_size):
            prepared = self.preparation(rows.to(device), modality)
            prefix = self.mapper(prepared if shift is None else prepared + shift.to(prepared))
            tokens = self.decoder.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=device),
                max_new_tokens=min(decoding.max_tokens, self.context_length),
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.eos_token_id,
                **how[decoding.strategy],
            )
            captions += [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
            progress(len(captions))
        return captions


class _MlpMapper(nn.Sequential):
    """(N, D) to (N, K, H) through one hidden layer of half the size of the prefix."""

    def __init__(self, embed_dim: int, length: int, width: int) -> None:
        size = length * width
        super().__init__(nn.Linear(embed_dim, size // 2), nn.Tanh(), nn.Linear(size // 2, size))
        self.shape = (length, width)

    def forward(self, embedding: Tensor) -> Tensor:
        prefix = embedding
        for layer in self:
            prefix = layer(prefix)
        return torch.unflatten(prefix, 1, self.shape)


class _TransformerMapper(nn.Module):
    """(N, D) to (N, K, H): the embedding as K tokens before K learned ones, of which the latter are read."""

    def __init__(self, embed_dim: int, length: int, width: int, layers: int = 8) -> None:
        super().__init__()
        self.length, self.shape = length, (length, width)
        self.spread = nn.Linear(embed_dim, length * width)
        self.learned = nn.Parameter(torch.randn(length, width) / math.sqrt(width))
        heads = max(h for h in (8, 4, 2, 1) if width % h == 0)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, embedding: Tensor) -> Tensor:
        given = torch.unflatten(self.spread(embedding), 1, self.shape)
        states: Tensor = self.layers(torch.cat([given, self.learned.expand(len(given), -1, -1)], dim=1))
        return states[:, self.length :]


def save_captioner(captioner: Captioner, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write captioner.json, captioner.safetensors (last), means.safetensors and the tokenizer's files.

    Args:
        captioner: whose settings are stored.
        folder: made if missing.
        state: weights to store; None for the current ones.

    Raises:
        DataError: a file cannot be written.
    """
    preparation = captioner.preparation
    tree = {
        "embed_dim": captioner.embed_dim,
        "mapper": captioner.mapper_kind,
        "prefix_length": captioner.prefix_length,
        "space": captioner.space,
        "prepare": {k: v for k, v in asdict(preparation).items() if k != "means"},
        "gpt2": captioner.decoder.config.to_dict(),
    }
    weights = captioner.state_dict() if state is None else state
    tensors = {n: t.detach().cpu().contiguous() for n, t in weights.items() if n != TIED}
    remove(folder / CAPTIONER_WEIGHTS)  # first away and last back: an interrupted folder is no mix of two captioners
    write_text(folder / CAPTIONER_CONFIG, json.dumps(tree, indent=2) + "\n")
    with write_whole(folder / MEANS_FILE) as temporary:
        save_file({n: m.contiguous() for n, m in preparation.means.items()}, temporary)
    with written_into(folder) as temporary:
        captioner.tokenizer.save_pretrained(temporary)
    with write_whole(folder / CAPTIONER_WEIGHTS) as temporary:
        save_file(tensors, temporary)


def load_captioner(folder: Path) -> Captioner:
    """Load what :func:`save_captioner` wrote: an export, a checkpoint, or a run (its export).

    Raises:
        DataError: files missing or not matching each other.
    """
    place = export_of(folder, CAPTIONER_CONFIG)
    if not (place / CAPTIONER_CONFIG).is_file():
        raise DataError(
            f"{folder} has no {CAPTIONER_CONFIG}: name a run of gapless caption train, its export or a checkpoint"
        )
    try:
        tree = json.loads((place / CAPTIONER_CONFIG).read_text())
        prepare = tree["prepare"]
        span = tuple(prepare.pop("span_of") or ()) or None
        preparation = Preparation(**prepare, span_of=span, means=load_file(place / MEANS_FILE))
        decoder = GPT2LMHeadModel(GPT2Config.from_dict(tree["gpt2"]))
        tokenizer = AutoTokenizer.from_pretrained(place)
        captioner = Captioner(decoder, tokenizer, tree["embed_dim"], preparation, tree["mapper"], tree["prefix_length"])
        captioner.space = tree.get("space", "")
        missing, unexpected = captioner.load_state_dict(
            with_old_averages(place, load_file(place / CAPTIONER_WEIGHTS)), strict=False
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{place} cannot be loaded: {' '.join(str(error).split())[:160]}") from None
    odd = [name for name in (*missing, *unexpected) if name != TIED]
    if odd:
        raise DataError(f"{place}/{CAPTIONER_WEIGHTS} does not fit {CAPTIONER_CONFIG}: {odd[0]}")
    return captioner
