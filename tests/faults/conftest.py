"""Counts what the faults tests went through; ``make faults`` keeps the counts in bench/results/faults.json."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

COUNTS: Counter[str] = Counter()


@pytest.fixture
def counted():
    """Call it with the kind of a case that ended as it must, and how many there were."""

    def count(kind: str, number: int = 1) -> None:
        COUNTS[kind] += number

    return count


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts, if somebody asked for them."""
    path = os.environ.get("GAPLESS_FAULTS_COUNTS")
    if path:
        tree = {"failed": session.testsfailed, "ended as they must": dict(sorted(COUNTS.items()))}
        Path(path).write_text(json.dumps(tree, indent=2) + "\n")
