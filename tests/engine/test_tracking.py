"""Lines of metrics, what trackers get, and what stops them before anything is loaded."""

import json
import logging
import math
import sys
import time

import pytest
from accelerate import Accelerator

from gapless.config import TrackingConfig
from gapless.engine import tracking
from gapless.engine.tracking import Tracker, check_trackers, flatten_for_trackers, start_trackers
from gapless.errors import ConfigError, DataError


class Recorder:
    """As an accelerator looks from here."""

    def __init__(self, main=True):
        self.is_main_process, self.logged, self.started = main, [], []

    def log(self, values, step):
        self.logged.append((values, step))

    def init_trackers(self, *arguments, **options):
        self.started.append((arguments, options))


def test_a_line_says_where_it_is_and_is_strict_json(tmp_path, monkeypatch):
    now = [50.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    recorder = Recorder()
    tracker = Tracker(tmp_path, recorder)
    now[0] = 52.34567
    tracker.log(7, 2 / 3, 96, {"a": 0.5, "b": math.nan, "c": -math.inf})
    tracker.log(8, 1, 97, {"a": 1.5})
    one, other = (tmp_path / "metrics.jsonl").read_text().splitlines()
    expected = {"step": 7, "epoch": 0.666667, "samples": 96, "time": 2.346, "a": 0.5, "b": None, "c": None}
    assert json.loads(one) == expected
    assert list(json.loads(one)) == list(expected)
    assert json.loads(other)["a"] == 1.5
    values, step = recorder.logged[0]
    assert (values["a"], math.isnan(values["b"]), values["epoch"], values["samples"], step) == (0.5, True, 2 / 3, 96, 7)
    assert tracker.flush() == len(one) + len(other) + 2


def test_other_processes_write_nothing(tmp_path):
    recorder = Recorder(main=False)
    tracker = Tracker(tmp_path, recorder)
    tracker.log(1, 1, 1, {"a": 1.0})
    assert tracker.flush() == 0
    start_trackers(recorder, TrackingConfig(to=["wandb"]), {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert recorder.logged == recorder.started == []


def test_lines_are_flushed_before_a_checkpoint_counts_them(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(tracking, "flush", flushed.append)
    tracker = Tracker(tmp_path, Recorder())
    tracker.log(1, 1, 1, {})
    tracker.flush()
    assert flushed == [tmp_path / "metrics.jsonl"]


@pytest.mark.parametrize(
    ("offset", "kept", "warned"), [(8, 2, False), (9, 2, True), (4, 1, False), (0, 0, False), (100, 3, True)]
)
def test_lines_are_cut_back_to_whole_ones(tmp_path, caplog, offset, kept, warned):
    path = tmp_path / "metrics.jsonl"
    path.write_text("one\ntwo\nthree\n")
    Tracker(tmp_path, Recorder()).cut_back(offset)
    assert path.read_text() == "".join(["one\n", "two\n", "three\n"][:kept])
    there = len(path.read_text())
    output = f"{path} was cut since the checkpoint: {there} of its {offset} bytes are there"
    assert caplog.messages == ([output] if warned else [])


def test_a_line_that_cannot_be_written_names_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be written"):
        Tracker(tmp_path, Recorder()).log(1, 1, 1, {})


def test_trackers_begin_with_the_runs_name_and_go_on_under_its_id(tmp_path):
    folder = tmp_path / "my-run"
    recorder, wanted = Recorder(), TrackingConfig(to=["wandb"], project="p", tags=["a", "b"])
    for _ in range(2):
        start_trackers(recorder, wanted, {"seed": 1, "optim": {"betas": [0.1, 0.2], "x": None}}, folder)
    (arguments, options), again = recorder.started
    assert arguments == ("p",)
    name = (folder / "wandb_id").read_text()
    assert len(name) == 8
    assert options == {
        "config": {"seed": 1, "optim.betas": "[0.1, 0.2]", "optim.x": "None"},
        "init_kwargs": {
            "wandb": {"id": name, "name": "my-run", "resume": "allow", "tags": ["a", "b"], "dir": str(folder)}
        },
    }
    assert again == (arguments, options)
    start_trackers(recorder, TrackingConfig(), {}, folder)
    assert len(recorder.started) == 2


def test_trackers_take_numbers_and_texts_alone():
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": True, "e": 0.5, "f": "x", "g": None}
    flat = {"a.b": 1, "a.c": "[1, 2]", "d": True, "e": 0.5, "f": "x", "g": "None"}
    assert flatten_for_trackers(tree) == flat


def test_what_is_tracked_and_what_cannot_be(monkeypatch):
    assert check_trackers(TrackingConfig()) == "metrics.jsonl alone"
    assert check_trackers(TrackingConfig(to=["tensorboard"])) == "metrics.jsonl, tensorboard"
    monkeypatch.setattr(tracking, "_wandb_mode", lambda: "offline")
    both = TrackingConfig(to=["wandb", "tensorboard"])
    assert check_trackers(both) == "metrics.jsonl, wandb (offline), tensorboard"
    for project in ("", " . ", "x" * 129, "a/b", "a%b", "a:b", "a?b", "a#b", "a\\b"):
        with pytest.raises(ConfigError) as error:
            check_trackers(TrackingConfig(to=["tensorboard"], project=project))
        output = f"tracking.project: {project!r} does not work, it must be a name without / \\ # ? % :"
        assert str(error.value) == output
        assert check_trackers(TrackingConfig(project=project)) == "metrics.jsonl alone"
    check_trackers(TrackingConfig(to=["tensorboard"], project="x" * 128))
    for tags in ([""], ["a", "x" * 65]):
        with pytest.raises(ConfigError) as error:
            check_trackers(TrackingConfig(to=["tensorboard"], tags=tags))
        assert str(error.value) == f"tracking.tags: {tags} do not work, each must have 1 to 64 characters"
    check_trackers(TrackingConfig(to=["tensorboard"], tags=["x", "x" * 64]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        check_trackers(TrackingConfig(to=["tensorboard"]))
    assert str(error.value) == "tracking.to: tensorboard is not installed (pip install tensorboard)"


@pytest.mark.parametrize(
    ("mode", "key", "outcome"), [("offline", False, "offline"), ("online", True, "online"), ("online", False, None)]
)
def test_wandb_needs_a_key_unless_it_is_offline(monkeypatch, mode, key, outcome):
    asked = []

    class Wandb:
        class settings:  # noqa: N801
            pass

        @staticmethod
        def setup():
            Wandb.settings.mode = mode  # as wandb has it: settings of its own and of the environment
            return Wandb

        @staticmethod
        def login(**options):
            asked.append(options)
            return key

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    wanted = TrackingConfig(to=["wandb"])
    if outcome:
        assert check_trackers(wanted) == f"metrics.jsonl, wandb ({outcome})"
    else:
        with pytest.raises(ConfigError, match="wandb has no key; run wandb login, or set WANDB_MODE=offline"):
            check_trackers(wanted)
    assert asked == ([{"prompt": False, "verify": False}] if mode == "online" else [])
    Wandb.setup = staticmethod(lambda: 1 / 0)
    with pytest.raises(ConfigError, match=r"tracking\.to: wandb does not start \(division by zero\)"):
        check_trackers(wanted)


def test_accelerates_own_trackers_get_the_lines(tmp_path, caplog):
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path))
    start_trackers(accelerator, TrackingConfig(to=["tensorboard"], project="p"), {"seed": 1}, tmp_path)
    with caplog.at_level(logging.INFO):
        Tracker(tmp_path, accelerator).log(1, 1, 1, {"a": 1.0})
    accelerator.end_training()
    assert list((tmp_path / "p").glob("events*"))
