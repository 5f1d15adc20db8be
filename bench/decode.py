"""Captioning 1,000 images: batches with cached keys and values, beside one at a time with everything computed anew.

python bench/decode.py RUN FEATURES     # of gapless caption train and embed, or of gapless reproduce
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import save

from gapless.decode import Captioner, Decoding, FeatureStore, load_captioner

IMAGES, SLOW, REPEATS = 1000, 100, 3
"""The slow way is timed on a part of the images."""
TOKENS = 20


def one_at_a_time(captioner: Captioner, embedding: torch.Tensor) -> list[str]:
    """transformers' greedy search of a single image, without a cache."""
    found, end = [], captioner.tokenizer.eos_token_id
    for row in embedding:
        with torch.no_grad():
            prefix = captioner.mapper(captioner.preparation(row[None], "image"))
            tokens = captioner.decoder.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
                max_new_tokens=TOKENS,
                do_sample=False,
                use_cache=False,
                eos_token_id=end,
                pad_token_id=end,
            )
        found.append(captioner.tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    return found


def timed(function: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Median seconds, and the captions."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        captions = function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), captions


if __name__ == "__main__":
    captioner = load_captioner(Path(sys.argv[1])).eval()
    embedding = FeatureStore(Path(sys.argv[2])).load("image", "train").embedding[:IMAGES]
    captioner.generate(embedding[:10], "image")  # what is loaded at the first call
    fast, captions = timed(lambda: captioner.generate(embedding, "image", Decoding(max_tokens=TOKENS)))
    slow, alone = timed(lambda: one_at_a_time(captioner, embedding[:SLOW]))
    results = {
        "images": len(embedding),
        "seconds_in_batches": round(fast, 3),
        "seconds_one_at_a_time": round(slow * len(embedding) / SLOW, 2),
        "ratio": round(slow * len(embedding) / SLOW / fast, 1),
        "same_text": sum(a == b for a, b in zip(captions, alone, strict=False)) / SLOW,
        "parameters": sum(p.numel() for p in captioner.parameters()),
    }
    save("decode", results)
