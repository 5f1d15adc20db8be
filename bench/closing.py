"""What closing the gap buys: recall of a run's embeddings in faiss indexes of fewer bits, and robustness to noise.

pip install "gapless[index]"
python bench/closing.py RUN     # for recall, maps are fitted on one half of its pairs and scored on the other
"""

import sys
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from measure import save

from gapless.eval import load_pairs
from gapless.geometry import close_gap, quantisation_robustness, robustness
from gapless.geometry.files import kept_embeddings
from gapless.geometry.robustness import quantise

METHODS = {
    "open": None,
    "mean": {"method": "mean"},
    "translate": {"method": "translate"},
    "approximate": {"method": "approximate", "epsilon": 0.05},
    "standardise": {"method": "standardise"},
}
SPLITS = 20


def indexes(d: int) -> dict[str, faiss.Index]:
    """Indexes by what they store of a vector."""
    return {
        "float32": faiss.IndexFlatL2(d),
        "int8": faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2),
        "int4": faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_L2),
    }


def recall(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Image to text R@1 by index; binary codes are signs, compared by Hamming distance."""
    queries, candidates, own = x.numpy(), y.numpy(), np.arange(len(x))
    found = {}
    for name, index in indexes(x.shape[1]).items():
        index.train(candidates)
        index.add(candidates)
        found[name] = float((index.search(queries, 1)[1][:, 0] == own).mean())
    binary = faiss.IndexBinaryFlat(x.shape[1])
    binary.add(np.packbits(candidates >= 0, axis=1))
    found["binary"] = float((binary.search(np.packbits(queries >= 0, axis=1), 1)[1][:, 0] == own).mean())
    return found


if __name__ == "__main__":
    features = load_pairs(kept_embeddings(Path(sys.argv[1])))
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
            for code, value in recall(x.contiguous(), y.contiguous()).items():
                found.setdefault(name, {}).setdefault(code, []).append(value)
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
