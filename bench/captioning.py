"""connect-collapse-corrupt's captioning on emoji: its tables, its claims, and how long it trained.

python bench/captioning.py [OUTPUT]     # runs what is not finished under OUTPUT (runs/connect-collapse-corrupt)
"""

import json
import sys
from pathlib import Path

from measure import save

from gapless.reproduce.connect_collapse_corrupt.experiment import reproduce_captioning

if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/connect-collapse-corrupt")
    tables = reproduce_captioning(output)
    lines = [path.read_text().splitlines()[-1] for path in (output / "runs").glob("*/metrics.jsonl")]
    seconds = [json.loads(line)["time"] for line in lines]  # by the runs' own clocks
    found = {t.title: [list(t.header), *([cell.text for cell in row] for row in t.rows)] for t in tables}
    save("captioning", {"runs": len(seconds), "training_seconds": round(sum(seconds), 1), "tables": found}, show=False)
