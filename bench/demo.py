"""Seconds and peak memory of the demo (installation aside).

python bench/demo.py
"""

import tempfile

from measure import measure, save

SETUP = "from pathlib import Path\nfrom gapless.reproduce.demo import run_demo"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        save("demo", measure(SETUP, f"run_demo(Path({folder!r}) / 'demo')", repeats=1))
