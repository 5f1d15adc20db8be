"""Time and peak memory of a piece of Python in a process of its own, and where results are kept."""

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

WRAPPER = """
import time
def peak():
    # Not getrusage: what the starting process had at its peak is counted there, too.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
{setup}
before = peak()
started = time.perf_counter()
{code}
print("MEASURED", time.perf_counter() - started, peak(), before)
"""


def measure(setup: str, code: str, repeats: int = 3) -> dict[str, float]:
    """Medians over fresh processes: seconds of ``code``, peak MiB of the process, MiB above what setup had reached."""
    rows = []
    for _ in range(repeats):
        command = [sys.executable, "-c", WRAPPER.format(setup=setup, code=code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
        seconds, peak, before = map(float, line.split()[1:])
        rows.append((seconds, peak / 1024, (peak - before) / 1024))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    return dict(zip(("seconds", "peak_mib", "extra_mib"), (round(m, 2) for m in medians), strict=True))


def save(name: str, results: dict[str, Any], show: bool = True) -> None:
    """Write results with their date and machine, and print them unless told otherwise."""
    import torch

    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    tree = {"date": date.today().isoformat(), **machine, **results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(tree, indent=2) + "\n")
    if show:
        print(json.dumps(tree, indent=2))
