"""Time to open the report of ten runs in headless Chromium, and to write it.

python bench/report.py RUN [RUN ...]     # folders of real runs; they are taken in turn until there are ten
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measure import save
from playwright.sync_api import sync_playwright

from gapless.report import load_run, write_report

RUNS, ROUNDS = 10, 5
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--disable-background-networking"]


def opening_seconds(page: Path) -> float:
    """Median seconds from the address to the page drawn and ready, each in a browser window of its own."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    times = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        for _ in range(ROUNDS):
            window = browser.new_page()
            started = time.perf_counter()
            window.goto(page.as_uri())
            window.wait_for_selector("html[data-ready=true]")
            times.append(time.perf_counter() - started)
            window.close()
        browser.close()
    return statistics.median(times)


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as name:
        chosen = []
        for k in range(RUNS):
            run = load_run(folders[k % len(folders)])
            run.name = f"{k + 1}-{run.name}"
            chosen.append(run)
        page = Path(name) / "report.html"
        started = time.perf_counter()
        write_report(chosen, page)
        writing = time.perf_counter() - started
        result = {
            "runs": RUNS,
            "with_embeddings": sum(bool(run.embeddings) for run in chosen),
            "opening_seconds": round(opening_seconds(page), 2),
            "writing_seconds": round(writing, 2),
            "megabytes": round(page.stat().st_size / 1e6, 1),
        }
    save("report", result)
