"""Zero-shot evaluation beside clip_benchmark's: the same export, the same local webdataset, the same scores.

python bench/eval.py     # in an environment with numpy 2.3, as clip-benchmark 1.6.2 fails with 2.4

Both run as commands, from start to finish, in one environment and in fp32 (the CPU these numbers are from has no
bfloat16). Start-up: the help text, and all that is imported before a model is loaded.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import save
from PIL import Image

from gapless.config import ModelConfig
from gapless.models import build_model, save_export

ARCHITECTURE = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 256, "layers": 6},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 6},
}
TEMPLATES = 18
ROUNDS = 3
THEIRS = "from clip_benchmark.cli import main; main()"
PROMPTS = """
import sys, time
sys.path.insert(0, sys.argv[3])
import open_clip, torch
model = open_clip.create_model(f"local-dir:{sys.argv[1]}").eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{sys.argv[1]}")
names = open(f"{sys.argv[2]}/classnames.txt").read().splitlines()
templates = open(f"{sys.argv[2]}/zeroshot_classification_templates.txt").read().splitlines()
from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier
started = time.perf_counter()
zero_shot_classifier(model, tokenizer, names, templates, "cpu", amp=False)
print("SECONDS", time.perf_counter() - started)
"""
OURS = """
import sys, time
from pathlib import Path
from gapless.data.labelled import fill_templates
from gapless.eval.suite import Suite
from gapless.eval import embed_classes
from gapless.models import load_model
suite = Suite(load_model(sys.argv[1]))
names = open(f"{sys.argv[2]}/classnames.txt").read().splitlines()
templates = open(f"{sys.argv[2]}/zeroshot_classification_templates.txt").read().splitlines()
started = time.perf_counter()
embed_classes(suite.model, suite.tokenize, fill_templates(names, templates))
print("SECONDS", time.perf_counter() - started)
"""


def write_data(root: Path, num_classes: int, num_images: int) -> None:
    """Noise in clip_benchmark's layout, at the model's size."""
    (root / "test").mkdir(parents=True)
    random = np.random.default_rng(0)
    for shard in range(2):  # as many as loader processes, of which clip_benchmark lets none go without
        with tarfile.open(root / "test" / f"{shard}.tar", "w") as tar:
            for k in range(shard, num_images, 2):
                buffer = io.BytesIO()
                coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                coarse.resize((224, 224)).save(buffer, "JPEG")
                for suffix, data in (("jpg", buffer.getvalue()), ("cls", str(k % num_classes).encode())):
                    info = tarfile.TarInfo(f"s{k:05d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (root / "test" / "nshards.txt").write_text("2")
    (root / "classnames.txt").write_text("".join(f"class number {k}\n" for k in range(num_classes)))
    templates = "".join(f"a photo of a {{c}}, version {k}.\n" for k in range(TEMPLATES))
    (root / "zeroshot_classification_templates.txt").write_text(templates)


def seconds(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - started, done.stdout


def start_up() -> dict[str, float]:
    """Medians of both help texts and of both commands' imports."""
    imports = {"imports_ours": "import gapless.eval.run", "imports_theirs": "import clip_benchmark.cli, open_clip"}
    commands = {name: [sys.executable, "-c", code] for name, code in imports.items()}
    commands["help_ours"] = [sys.executable, "-m", "gapless", "eval", "--help"]
    commands["help_theirs"] = [sys.executable, "-c", THEIRS, "eval", "--help"]
    return {name: round(statistics.median(seconds(c)[0] for _ in range(ROUNDS)), 2) for name, c in commands.items()}


def compare(export: Path, root: Path, folder: Path) -> dict[str, object]:
    """Medians of both commands and of their prompts alone, and both scores."""
    theirs = [
        sys.executable, "-c", THEIRS, "eval", "--model", f"local-dir:{export}",
        "--pretrained", "", "--dataset", "wds/bench", "--dataset_root", str(root), "--no_amp",
        "--output", str(folder / "theirs.json"), "--batch_size", "64", "--num_workers", "2",
    ]  # fmt: skip
    ours = [
        sys.executable, "-m", "gapless", "eval", str(export), "--datasets=[wds/bench]", f"--root={root}",
        f"--output={folder / 'ours'}", "--no_cache", "--batch_size=64",
    ]  # fmt: skip
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        times.setdefault("whole_theirs", []).append(seconds(theirs)[0])
        times.setdefault("whole_ours", []).append(seconds(ours)[0])
        for name, code in (("prompts_theirs", PROMPTS), ("prompts_ours", OURS)):
            said = seconds([sys.executable, "-c", code, str(export), str(root), str(folder)])[1]
            times.setdefault(name, []).append(float(said.split("SECONDS")[1]))
    medians = {name: round(statistics.median(values), 2) for name, values in times.items()}
    found = json.loads(next((folder / "ours").glob("*.json")).read_text())["metrics"]
    expected = json.loads((folder / "theirs.json").read_text())["metrics"]
    scores = {name: [found[name], expected[name]] for name in ("acc1", "acc5", "mean_per_class_recall")}
    assert all(abs(one - other) < 1e-4 for one, other in scores.values()), scores
    ratios = {f"{k}_ratio": round(medians[f"{k}_theirs"] / medians[f"{k}_ours"], 2) for k in ("whole", "prompts")}
    return {"seconds": medians, **ratios, "scores_ours_theirs": scores}


if __name__ == "__main__":
    results: dict[str, object] = {"start_up_seconds": start_up()}
    with tempfile.TemporaryDirectory() as name:
        export = Path(name) / "export"
        save_export(*build_model(ModelConfig(name="custom", architecture=ARCHITECTURE), seed=1), export)
        for classes in (100, 10):
            root, folder = Path(name) / f"data{classes}", Path(name) / f"results{classes}"
            folder.mkdir()
            write_data(root, classes, 500)
            results[f"{classes}_classes"] = compare(export, root, folder)
    save("eval", {"images": 500, "templates": TEMPLATES, "precision": "fp32", **results})
