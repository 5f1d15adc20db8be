"""What a person watches."""

import io
import re

import pytest
from rich.console import Console

from gapless.engine import meters
from gapless.engine.meters import Clock, progress_bar


def test_rates_are_of_all_samples_and_of_the_waits_of_a_step(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(meters.time, "monotonic", lambda: now[0])

    def batches():
        for k in range(3):
            now[0] += 0.25 * (k + 1)
            yield k

    clock, drawn = Clock(), batches()
    assert clock.rates() == {"train/samples_per_second": 0.0, "train/data_time": 0.0}
    assert [clock.waiting(drawn) for _ in range(3)] == [0, 1, 2]
    now[0] += 2.5
    clock.samples += 31
    assert clock.rates() == {"train/samples_per_second": 7.75, "train/data_time": 0.5}


@pytest.mark.parametrize(
    ("terminal", "shown", "visible"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_bar_is_for_terminals_and_for_the_main_process(monkeypatch, terminal, shown, visible):
    out = io.StringIO()
    made = []

    def console(stderr):
        made.append(stderr)
        return Console(file=out, force_terminal=terminal, width=120)

    monkeypatch.setattr(meters, "Console", console)
    with progress_bar(9, 2, shown) as advance:
        advance(5, 2, 1.23456)
    assert made == [True]
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert ("epoch 2 loss 1.2346" in text and "5/9" in text) is (terminal and shown)
    if terminal and shown:
        assert out.getvalue().endswith("\x1b[2K")  # it goes when the work is done
        assert re.search(r"(^|[\r\n])epoch 2 loss 1\.2346 .*\b5/9", text)
