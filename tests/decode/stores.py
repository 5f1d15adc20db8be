"""A small space in which texts have an image each: sums of random directions of their words, apart by a gap."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gapless.decode import save_features, save_means

COLOURS = ("red", "blue", "green", "black", "white")
THINGS = ("car", "dog", "house", "flag", "tree", "cup")
PLACES = ("", " by night", " at sea", " in snow")
D = 16
SPLITS = {"train": [k for k in range(120) if k % 5 < 3], "val": range(3, 120, 5), "test": range(4, 120, 5)}


def captions() -> list[str]:
    return [f"a {c} {t}{p}" for c in COLOURS for t in THINGS for p in PLACES]


def write_store(folder: Path, gap: float = 1.0, noise: float = 0.1, means: bool = True) -> Path:
    """Texts and images of three splits; every third text occurs twice."""
    generator = torch.Generator().manual_seed(0)
    words = {w: torch.randn(D, generator=generator) for text in captions() for w in text.split()}
    apart = torch.zeros(D)
    apart[-1] = 1.0
    for split, chosen in SPLITS.items():
        said = [captions()[k] for k in chosen]
        meant = F.normalize(torch.stack([sum(words[w] for w in text.split()) for text in said]), dim=1)
        image = meant + gap * apart + noise * torch.randn(meant.shape, generator=generator) / D**0.5
        ids = [str(k) for k in chosen]
        twice = [k for k in range(len(ids)) for _ in range(2 if k % 3 == 0 else 1)]
        save_features(folder, "image", split, ids, image)
        text = F.normalize(meant, dim=1)[twice]
        save_features(folder, "text", split, [ids[k] for k in twice], text, [said[k] for k in twice])
        if split == "train" and means:
            save_means(folder, {"image": F.normalize(image, dim=1).mean(dim=0), "text": text.mean(dim=0)})
    return folder


def tree(store: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A captioner of seconds; ``train__epochs=3`` changes train.epochs."""
    found: dict[str, Any] = {
        "name": "tiny",
        "output": str(output),
        "seed": 3,
        "features": {"path": str(store), "batch_size": 16, "max_tokens": 12},
        "prepare": {"noise": 0.05},
        "decoder": {"architecture": {"n_layer": 1, "n_head": 2, "n_embd": 32}, "vocab_size": 300, "prefix_length": 2},
        "optim": {"lr": 5.0e-3, "schedule": "constant"},
        "train": {"epochs": 2, "log_every": 1},
        "checkpoint": {"every_minutes": None, "every_steps": 2},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return found
