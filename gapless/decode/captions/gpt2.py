"""GPT-2 for captioners: from scratch with tokens learned from captions, or of Hugging Face."""

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gapless.errors import ConfigError, DataError

END = "<|endoftext|>"
SIZES = {"n_layer", "n_head", "n_embd", "n_inner", "attn_pdrop", "embd_pdrop", "resid_pdrop"}
"""Settings of a GPT-2 from scratch."""
HEAD = "lm_head.weight"
"""The same tensor as the token embeddings; not stored."""


def new_decoder(
    captions: Iterable[str], architecture: Mapping[str, float], vocab_size: int, positions: int
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """GPT-2 from scratch, with byte-pair tokens learned from captions.

    Args:
        captions: of the training split.
        architecture: n_layer, n_head, n_embd ...
        vocab_size: most tokens.
        positions: n_positions.

    Raises:
        ConfigError: an architecture that GPT-2 does not have.
    """
    learned = ByteLevelBPETokenizer(add_prefix_space=False)
    learned.train_from_iterator(captions, vocab_size, show_progress=False, special_tokens=[END])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned._tokenizer, eos_token=END, pad_token=END)
    end = tokenizer.convert_tokens_to_ids(END)
    whole = [architecture.get(name, 1) for name in ("n_layer", "n_head", "n_embd", "n_inner")]
    odd = set(architecture) - SIZES or any(size < 1 or size != int(size) for size in whole)
    if odd or architecture.get("n_embd", 768) % architecture.get("n_head", 12):
        raise ConfigError(
            f"decoder.architecture: {dict(architecture)} does not work, "
            f"it has {', '.join(sorted(SIZES))}, and n_head divides n_embd"
        )
    sizes: dict[str, Any] = dict(architecture)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=positions, bos_token_id=end, eos_token_id=end, **sizes)
    return GPT2LMHeadModel(config), tokenizer


def pretrained_decoder(name: str) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """GPT-2 of Hugging Face.

    Args:
        name: such as gpt2, or a folder that save_pretrained wrote.

    Raises:
        DataError: weights or tokens that are not there, or are not GPT-2's.
    """
    try:
        decoder, loading = GPT2LMHeadModel.from_pretrained(name, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"decoder.name: {name!r} cannot be loaded ({' '.join(str(error).split())[:160]})") from None
    lacking = sorted(set(loading["missing_keys"]) - {HEAD})
    if lacking:  # transformers would draw them at random
        raise DataError(f"decoder.name: the weights of {name!r} are no GPT-2's, they lack {lacking[0]}")
    if tokenizer.eos_token_id is None:
        raise DataError(f"decoder.name: the tokens of {name!r} have no end of text")
    return decoder, tokenizer
