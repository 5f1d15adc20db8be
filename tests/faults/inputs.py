"""The small inputs of bad_input.txt, drawn once: good pictures and embeddings, and files that are no such thing."""

import csv
import pickle
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.decode.stores import write_store
from tests.runs import TINY

OWN_TERMS = {
    "syntax": "def term(x, y, scale:",
    "import": "raise RuntimeError('no licence')",
    "number": "term = 3",
    "vector": "def term(x, y, scale): return (x * y).sum(1)",
    "float": "def term(x, y, scale): return 1.0",
    "none": "def term(x, y, scale): pass",
    "raises": "def term(x, y, scale): raise KeyError('captions')",
    "signature": "def term(x): return x.sum()",
}
YAML = {
    "empty": b"",
    "list": b"- 1\n- 2\n",
    "text": b"just words\n",
    "latin": "name: été\n".encode("latin-1"),
    "utf16": "name: a\n".encode("utf-16"),
    "open": b"data: [1, 2\n",
    "binary": bytes(range(256)),
    "tag": b"name: !!python/object/apply:os.system ['touch PWNED']\n",
    "tabs": b"data:\n\tbatch_size: 8\n",
    "deep": b"model: " + b"{a: " * 5000 + b"}" * 5000,
    "twice": b"seed: 1\nname: a\nseed: 2\n",
    "unknown": b"data: {batchsize: 8}\n",
    "unknown_group": b"dta: {batch_size: 8}\n",
    "number_for_group": b"data: 3\n",
    "dotted": b"model.architecture.embed_dim: 3\n",
    "variable": b"output: ${NOT_SET_ANYWHERE}/runs\n",
}
METRICS = {
    "text": b'{"step": 1, "epoch": 1, "val/loss": "low"}\n',
    "list": b"[1, 2]\n",
    "words": b"step 1\n",
    "epoch": b'{"step": 1, "epoch": "first", "val/loss": 1.0}\n',
    "null": b'{"step": 1, "epoch": null, "val/loss": 1.0}\n',
    "latin": '{"step": 1, "epoch": 1, "été": 1.0}\n'.encode("latin-1"),
    "digits": b'{"step": 1, "epoch": 1, "val/loss": ' + b"9" * 5000 + b"}\n",
    "deep": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
}
"""The second line of metrics.jsonl of runs."""
PICKLES = {
    "nothing": [],
    "words": {"clip_embedding": ["a"], "captions": [{"caption": "a"}]},
    "number": 3,
    "missing": {"captions": [{"caption": "a"}]},
}


def draw_inputs(folder: Path) -> None:
    """Write them into an empty folder."""
    tiny = {
        "name": "t",
        "data": {"batch_size": 4, "workers": 0, "train_samples": 8, "val_samples": 8},
        "model": {"name": "custom", "architecture": TINY},
        "train": {"epochs": 1, "log_every": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    for name in ("yaml", "sweeps", "good", "empty", "runs"):
        (folder / name).mkdir()
    for name, content in YAML.items():
        (folder / "yaml" / f"{name}.yaml").write_bytes(content)
    for name in ("empty", "list", "latin", "deep"):
        (folder / "sweeps" / f"{name}.yaml").write_bytes(YAML[name])
    good = {"program": "gapless", "method": "grid", "parameters": {"seed": {"values": [1, 2]}}}
    (folder / "sweeps" / "good.yaml").write_text(yaml.safe_dump(good))
    for name, code in OWN_TERMS.items():
        (folder / f"own_{name}.py").write_text(code)
    rows = []
    for k in range(8):
        Image.new("RGB", (32, 32), (30 * k, 90, 200 - 20 * k)).save(folder / "good" / f"{k}.png")
        (folder / "good" / f"{k}.txt").write_text(f"colour number {k}")
        rows.append((f"good/{k}.png", f"colour number {k}"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filepath", "title"), *rows])
    (folder / "noise.pt").write_bytes(b"\x80\x02" + bytes(range(200)))
    _draw_embeddings(folder)
    write_store(folder / "store")
    (folder / "folder.safetensors").mkdir()
    for name, line in METRICS.items():
        (folder / f"run_{name}").mkdir()
        (folder / f"run_{name}" / "config.yaml").write_text(yaml.safe_dump(tiny))
        (folder / f"run_{name}" / "metrics.jsonl").write_bytes(b'{"step": 0, "epoch": 0, "val/loss": 1.0}\n' + line)
    for name, tree in PICKLES.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(tree))


def _draw_embeddings(folder: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(24, 6)).astype(np.float32) for _ in range(2))
    for name, array in {
        "x": x,
        "y": y,
        "nan": np.where(np.arange(24)[:, None] == 3, np.nan, x),
        "zeros": np.zeros_like(x),
        "narrow": x[:, :3],
        "text": np.array([["a"] * 6] * 24),
    }.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}] * 24, dtype=object), allow_pickle=True)
    whole = (folder / "x.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-100])
    (folder / "negative.npy").write_bytes(whole.replace(b"(24, 6)", b"(-4, 6)"))
