"""What each loss term does to the geometry: short fine-tuning runs on the embedded emoji, and docs/terms.png.

python bench/terms.py            # 10 minutes on two cores; runs under runs/terms are not trained again
python bench/terms.py --figure   # draws docs/terms.png from the saved results
"""

import json
import sys
from pathlib import Path

from measure import RESULTS, save

from gapless.config import config_file, load_config, with_changes
from gapless.reproduce.demo import evaluate_export
from gapless.train import run_training

OUTPUT = Path("runs/terms")
WEIGHTS = {
    "uniform": 1.0,
    "cross_uniform": 1.0,
    "align": 1.0,
    "centroid": 1.0,
    "centroid_uniform": 1.0,
    "cross_attract": 1.0,
    "simclr": 1.0,
    "cyclip": 0.25,
    "koleo": 1.0,
}
SHOWN = ("centroid_distance", "uniformity", "alignment", "linear_separability", "image_retrieval_recall@1")


def run_all() -> dict[str, dict[str, float]]:
    start = with_changes(load_config(config_file("emoji/pretrain.yaml")), output=str(OUTPUT), name="pretrain")
    base = run_training(start) / "export"
    results = {}
    for name, terms in {"clip": {}, **{f"+ {term}": {term: weight} for term, weight in WEIGHTS.items()}}.items():
        config = with_changes(
            load_config(config_file("emoji/finetune.yaml")),
            output=str(OUTPUT),
            name=f"clip{name.removeprefix('clip').replace(' ', '')}",
            model={"name": f"local-dir:{base}"},
            loss={"preset": "clip", "terms": terms},
            train={"epochs": 2},
        )
        scores, _ = evaluate_export(run_training(config) / "export", start)
        results[name] = {key: round(scores[f"test/{key}"], 4) for key in SHOWN}
    return results


def draw(results: dict[str, dict[str, float]]) -> None:
    """A row for each term, in the order of the gap that it leaves; the line is CLIP's loss alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "centroid_distance": "centroid distance\n(low: no gap)",
        "uniformity": "uniformity\n(low: evenly spread)",
        "image_retrieval_recall@1": "text to image R@1\n(high: finds its image)",
    }
    names = sorted(results, key=lambda name: -results[name]["centroid_distance"])
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        values = [results[name][key] for name in names]
        axis.axvline(results["clip"][key], color="tab:red", linewidth=1)
        axis.scatter(
            values, range(len(names)), color=["tab:red" if n == "clip" else "tab:blue" for n in names], zorder=2
        )
        axis.set_xlabel(label, fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    figure.savefig("docs/terms.png", dpi=130)


if __name__ == "__main__":
    if "--figure" not in sys.argv:
        save("terms", {"pairs": 395, "epochs": 2, "rows": run_all()})
    draw(json.loads((RESULTS / "terms.json").read_text())["rows"])
