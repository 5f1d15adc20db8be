"""Counts what the faults tests went through; ``make faults`` keeps the counts in bench/results/faults.json."""

import datetime
import json
import os
from collections import Counter
from pathlib import Path

import pytest

COUNTS: Counter[str] = Counter()


@pytest.fixture
def counted():
    """Call it with the kind of a case that ended as it must."""

    def count(kind: str) -> None:
        COUNTS[kind] += 1

    return count


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Count rows of tables, and the examples that hypothesis drew."""
    report = (yield).get_result()
    if report.when == "call" and report.passed and "test_crashes" not in item.nodeid:
        drawn = getattr(item.function, "_hypothesis_internal_use_settings", None)
        cases = drawn.max_examples if drawn else int(hasattr(item, "callspec"))  # rows of a table
        COUNTS[item.path.stem.removeprefix("test_")] += cases


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts, if somebody asked for them."""
    path = os.environ.get("GAPLESS_FAULTS_COUNTS")
    if path:
        tree = {
            "date": datetime.date.today().isoformat(),
            "failed tests": session.testsfailed,
            "ended as they must": dict(sorted(COUNTS.items())),
        }
        Path(path).write_text(json.dumps(tree, indent=2) + "\n")
