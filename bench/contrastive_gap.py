"""The emoji edition of the contrastive-gap paper: its tables' means, its claims, and how long it trained.

python bench/contrastive_gap.py [OUTPUT]     # runs what is not finished under OUTPUT (runs/contrastive-gap)
"""

import json
import statistics
import sys
from pathlib import Path

from measure import save

from gapless.reproduce.contrastive_gap.experiment import reproduce

METRICS = (
    "centroid_distance",
    "linear_separability",
    "uniformity",
    "text_retrieval_recall@1",
    "zero_shot/acc1",
    "simat",
)


def training_seconds(runs: Path) -> float:
    """By the runs' own clocks."""
    lines = [path.read_text().splitlines()[-1] for path in runs.glob("*/metrics.jsonl")]
    return sum(json.loads(line)["time"] for line in lines)


if __name__ == "__main__":
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/contrastive-gap")
    tables = {table.title: table for table in reproduce(output)}
    results = json.loads((output / "results.json").read_text())
    groups: dict[str, list[dict[str, float]]] = {}
    for name, scores in results.items():
        groups.setdefault(name.rpartition("-")[0], []).append(scores)
    rows = {title: [[cell.text for cell in row] for row in table.rows] for title, table in tables.items()}
    save(
        "contrastive_gap",
        {
            "training_seconds": round(training_seconds(output / "runs")),
            "means": {
                g: {m: round(statistics.fmean(s[m] for s in each), 4) for m in METRICS} for g, each in groups.items()
            },
            "identical": rows["Table 1: identical encoders"],
            "three_d": rows["Figure 1: CLIP in three dimensions"],
            "claims": rows["The paper's claims"],
        },
    )
