"""What closing the gap buys: recall of a run's embeddings as float32, int8 and binary codes, and robustness to noise.

python bench/closing.py RUN     # for recall, maps are fitted on one half of its pairs and scored on the other
"""

import sys
from functools import partial
from pathlib import Path

import torch
from measure import save

from gapless.eval import load_pairs, retrieval_recall
from gapless.geometry import close_gap, quantisation_robustness, robustness
from gapless.geometry.files import kept_embeddings
from gapless.geometry.robustness import quantise, quantise_binary, quantise_int8

METHODS = {
    "open": None,
    "mean": {"method": "mean"},
    "translate": {"method": "translate"},
    "approximate": {"method": "approximate", "epsilon": 0.05},
    "standardise": {"method": "standardise"},
}
SPLITS = 20


def recall(x: torch.Tensor, y: torch.Tensor) -> float:
    """Image to text R@1 by Euclidean distance: inner product with a dimension for the norm."""
    queries = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    candidates = torch.cat([y, -y.square().sum(dim=1, keepdim=True) / 2], dim=1)
    return retrieval_recall(queries, candidates)["text_retrieval_recall@1"]


if __name__ == "__main__":
    features, _ = load_pairs(kept_embeddings(Path(sys.argv[1])))
    n = len(features.image)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(SPLITS):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        fit, score = order[: n // 2], order[n // 2 :]
        for name, settings in METHODS.items():
            x, y = features.image[score], features.text[score]
            if settings:
                transform = close_gap(features.image[fit], features.text[fit], **settings)
                x, y = transform.image(x), transform.text(y)
            scale = float(torch.cat([x, y]).abs().max())
            row = found.setdefault(name, {})
            row.setdefault("float32", []).append(recall(x, y))
            row.setdefault("int8", []).append(recall(quantise_int8(x, scale), quantise_int8(y, scale)))
            row.setdefault("binary", []).append(recall(quantise_binary(x), quantise_binary(y)))
    shift = close_gap(features.image, features.text, "approximate").text_shift
    both, labels = (features.image, features.text, shift), torch.arange(n)
    curves = {f"gaussian {s:g}": robustness(*both, (0.0, 1.0), s, 100, labels=labels) for s in (0.025, 0.05)}
    for levels in (64, 128, 256):
        quantiser = partial(quantise, levels=levels)
        curves[f"{levels} levels"] = quantisation_robustness(*both, quantiser, (0.0, 1.0), labels)
    noise = {name: {"robustness": c.robustness, "accuracy": c.accuracy} for name, c in curves.items()}
    means = {m: {c: round(sum(v) / SPLITS, 4) for c, v in codes.items()} for m, codes in found.items()}
    told = {"run": Path(sys.argv[1]).name, "pairs": n, "pairs_scored": n - n // 2, "splits": SPLITS}
    save("closing", {**told, "recall@1": means, "open_and_closed": noise})
