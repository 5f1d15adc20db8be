"""The emoji edition of the contrastive-gap paper: every run's numbers, its claims, and how long it trained.

python bench/contrastive_gap.py [OUTPUT [DIMENSION ...]]     # runs what is not finished (runs/contrastive-gap)
"""

import json
import sys
from pathlib import Path

from measure import save

from gapless.reproduce.contrastive_gap.editions import DIMENSIONS
from gapless.reproduce.contrastive_gap.experiment import reproduce


def training_seconds(runs: Path) -> float:
    """By the runs' own clocks."""
    lines = [path.read_text().splitlines()[-1] for path in runs.glob("*/metrics.jsonl")]
    return sum(json.loads(line)["time"] for line in lines)


if __name__ == "__main__":
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/contrastive-gap")
    dimensions = tuple(map(int, sys.argv[2:])) or DIMENSIONS
    tables = {table.title.partition(":")[0]: table for table in reproduce(output, dimensions=dimensions)}
    rows = {title: [[cell.text for cell in row] for row in table.rows] for title, table in tables.items()}
    runs = json.loads((output / "results.json").read_text())
    save(
        "contrastive_gap",
        {
            "training_seconds": round(training_seconds(output / "runs")),
            "runs": {name: {m: float(f"{v:.5g}") for m, v in scores.items()} for name, scores in runs.items()},
            "identical": rows["Table 1"],
            "three_d": rows["Figure 1"],
            "claims": rows["The paper's claims"],
        },
    )
