import contextlib
import os
import signal
import sys
import time

import pytest

from gapless.cli.verbs import VERBS, Verb, parser_of
from gapless.errors import LostProcessError, lost_process, waiting_for
from gapless.run_folder import write_whole
from gapless.signals import StopFlag
from tests.runs import run


@pytest.fixture
def verb(monkeypatch):
    """Makes a verb of a function."""

    def make(function, continues=False):
        monkeypatch.setitem(VERBS, "report", Verb("a verb", lambda parser: None, lambda _: function(), continues))
        parser_of.cache_clear()

    yield make
    parser_of.cache_clear()


@pytest.mark.parametrize(
    ("continues", "number", "code"), [(False, 15, 143), (False, 2, 130), (True, 15, 75), (True, 2, 75)]
)
def test_a_signal_ends_a_verb_and_leaves_what_was_there(tmp_path, verb, continues, number, code):
    (tmp_path / "result").write_text("old")

    def write():
        with write_whole(tmp_path / "result") as path:
            path.write_text("half")
            os.kill(os.getpid(), number)
            path.write_text("new")

    verb(write, continues)
    before = signal.getsignal(number)
    said = run("report", code=code)
    assert ("the same command begins again" in said) == continues
    assert "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result").read_text() == "old"
    assert signal.getsignal(number) == before


def test_a_signal_waits_until_a_module_is_whole(tmp_path, monkeypatch, verb):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhole = True\n"
    (tmp_path / "half_a_module.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))

    def load():
        import half_a_module  # noqa: F401

        time.sleep(10)

    verb(load)
    run("report", code=143)
    assert sys.modules.pop("half_a_module").whole


def test_a_signal_that_was_passed_over_still_stops_the_training(verb):
    flags = []

    def swallow():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        with StopFlag() as stop:
            flags.append(stop.is_set)
        raise AttributeError("of something that was interrupted")

    verb(swallow, continues=True)
    assert "Traceback" not in run("report", code=75)
    assert flags == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[/a/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:7", "died: Connection closed"),
        ("Timed out waiting 5000ms for recv operation to complete", "did not answer within the time limit"),
        ("DataLoader worker (pid 31) is killed by signal: Killed. ", "loader process was lost (killed by signal: Kill"),
    ],
)
def test_what_libraries_say_of_lost_processes(verb, text, message):
    def fail():
        with waiting_for("step 7"):
            raise RuntimeError(text)

    verb(fail)
    said = run("report", code=5)
    assert "step 7: " in said
    assert message in said
    assert "Traceback" not in said
    assert lost_process(RuntimeError("shape mismatch")) is None
    with pytest.raises(RuntimeError, match="shape") as raised, waiting_for("step 7"):
        raise RuntimeError("shape mismatch")
    assert not isinstance(raised.value, LostProcessError)
