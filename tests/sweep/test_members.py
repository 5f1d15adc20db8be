"""The runs of a sweep without processes: which folder, which value, what is remembered and what comes next."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from gapless.errors import ConfigError, DataError, StoppedError
from gapless.sweep import members as members_module
from gapless.sweep import run as run_module
from gapless.sweep.members import Members
from gapless.sweep.run import _look_after, _run_all, _table, run_sweep
from gapless.sweep.search import Trial, each_value_once, nested, value_of
from tests.sweep.trees import sweep_of

METRIC = {"name": "val/score", "goal": "maximize"}


class Child:
    """A process that ends with a code when it is asked for it."""

    started: list

    def __init__(self, command, log, environment):
        self.command, self.log, self.environment = command, log, environment
        self.code, self.stopped, self.killed = None, 0, False
        Child.started.append(self)

    def exit_code(self):
        return self.code

    def stop(self):
        self.stopped += 1

    def kill(self):
        self.killed = True


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    Child.started = []
    monkeypatch.setattr(members_module, "Child", Child)
    monkeypatch.setattr(run_module, "POLL_SECONDS", 0)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def make(tmp_path):
    """Members of a sweep over seeds or what else is given."""

    def members(count=None, allow_missing=False, seed=0, record="record.json", **tree):
        command = ["gapless", "train", f"--output={tmp_path / 'runs'}", "${args}"]
        parameters = {"name": {"values": ["a", "b"]}, "seed": {"value": 3}}
        sweep = sweep_of(tmp_path, **({"command": command, "metric": METRIC, "parameters": parameters} | tree))
        return Members(sweep, tmp_path / record, count, allow_missing, seed)

    return members


def log_scores(folder, *scores, name="val/score"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"epoch": k, name: score}) for k, score in enumerate(scores)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_run_is_started_remembered_and_read(make, tmp_path, caplog):
    members = make(project="mine", entity="us")
    child, trial = members.start_next(quiet=True)
    folder = tmp_path / "runs" / "a"
    words = ["gapless", "train", "--tracking.project=mine", f"--output={tmp_path / 'runs'}", "--name=a", "--seed=3"]
    assert child.command == words
    assert child.log == tmp_path / "record.logs" / "a.log"
    assert child.environment == {"WANDB_MODE": "offline", "WANDB_ENTITY": "us"}
    assert (trial.parameters, trial.state, trial.folder, trial.value) == (
        *({"name": "a", "seed": 3}, "running", str(folder), None),
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record == [
        {"parameters": {"name": "a", "seed": 3}, "state": "running", "folder": str(folder), "value": None}
    ]
    log_scores(folder, 0.25, 0.75, 0.5)
    with caplog.at_level(logging.INFO):
        members.end(trial, 0)
    assert (trial.state, trial.value) == ("finished", 0.5)  # the last one
    assert f"finished: {folder}" in caplog.messages
    assert json.loads((tmp_path / "record.json").read_text())[0]["value"] == 0.5
    child, trial = members.start_next(quiet=False)
    assert (child.log, trial.parameters["name"]) == (None, "b")
    assert members.start_next(quiet=False) is None


def test_the_mode_of_wandb_is_the_users(make, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    child, _ = make().start_next(True)
    assert child.environment == {"WANDB_MODE": "online"}


def test_a_file_of_arguments_lies_with_the_logs(make, tmp_path):
    command = ["gapless", "train", f"--output={tmp_path / 'runs'}", "--config", "${args_json_file}"]
    child, _ = make(command=command).start_next(True)
    assert child.command[-1] == str(tmp_path / "record.logs" / "a.json")
    assert json.loads((tmp_path / "record.logs" / "a.json").read_text()) == {"name": "a", "seed": 3}
    Child.started.clear()
    child, _ = make(record="other.json").start_next(True)
    assert not (tmp_path / "other.logs").exists()


def remember(tmp_path, *trials):
    rows = [{"parameters": p, "state": state, "folder": folder, "value": v} for p, state, folder, v in trials]
    (tmp_path / "record.json").write_text(json.dumps(rows))


def test_a_record_is_gone_on_with(make, tmp_path):
    runs = tmp_path / "runs"
    log_scores(runs / "b", 0.125)
    remember(
        tmp_path,
        ({"name": "a", "seed": 3}, "running", str(runs / "a"), 0.9),
        ({"name": "gone", "seed": 3}, "finished", str(runs / "gone"), 0.9),
        ({"name": "b", "seed": 3}, "finished", str(runs / "b"), 0.9),
    )
    members = make()
    assert [(t.parameters["name"], t.state, t.value) for t in members.trials] == [
        *(("a", "pending", None), ("b", "finished", 0.125)),  # as the run has it now
    ]
    _, trial = members.start_next(True)
    assert (trial is members.trials[0], trial.state) == (True, "running")
    assert members.start_next(True) is None


def test_a_finished_run_of_another_folder_is_run_again(make, tmp_path):
    remember(tmp_path, ({"name": "a", "seed": 3}, "finished", str(tmp_path / "elsewhere" / "a"), 0.9))
    members = make()
    assert [(t.state, t.value) for t in members.trials] == [("pending", None)]


def test_a_run_that_has_finished_needs_no_process(make, tmp_path, monkeypatch):
    log_scores(tmp_path / "runs" / "a", 0.75)
    places = []
    monkeypatch.setattr(members_module, "find_checkpoint", lambda place: places.append(place) or place)
    monkeypatch.setattr(members_module, "load_progress", lambda checkpoint: SimpleNamespace(finished=True))
    child, trial = make().start_next(True)
    assert (child, trial.state, trial.value) == (None, "finished", 0.75)
    assert places == [tmp_path / "runs" / "a" / "checkpoints"]
    assert Child.started == []
    monkeypatch.setattr(members_module, "load_progress", lambda checkpoint: SimpleNamespace(finished=False))
    child, _ = make(record="other.json").start_next(True)
    assert child is Child.started[0]


def test_a_run_of_the_same_folder_waits(make, tmp_path):
    members = make(parameters={"name": {"value": "a"}, "seed": {"values": [3, 3.0]}})
    members.trials = [Trial({"name": "a", "seed": 3}, "running", str(tmp_path / "runs" / "a"))]
    members._waiting = [Trial({"name": "a", "seed": 3})]
    assert members.start_next(True) is None
    assert len(members._waiting) == 1
    members.trials[0].state = "finished"
    assert members.start_next(True)[1].state == "running"
    assert members._waiting == []


def test_codes_decide_what_became_of_a_run(make, tmp_path):
    members = make()
    _, trial = members.start_next(True)
    members.end(trial, 1)
    assert (trial.state, trial.value) == ("failed", None)
    log_scores(tmp_path / "runs" / "b", 0.5)
    _, trial = members.start_next(True)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/runs/b was refused, as its own last line says$"):
        members.end(trial, 2)
    assert [t.parameters["name"] for t in members.trials] == ["a"]
    assert len(json.loads((tmp_path / "record.json").read_text())) == 1
    (tmp_path / "record.logs").mkdir()
    (tmp_path / "record.logs" / "b.log").write_text(
        "gapless: error: old\ntext\n gapless: error: no\ngapless: error: new \nend\n"
    )
    _, trial = members.start_next(True)
    with pytest.raises(ConfigError, match="as its own last line says: gapless: error: new$"):
        members.end(trial, 2)
    allowed = make(allow_missing=True, record="other.json")
    _, trial = allowed.start_next(True)
    allowed.end(trial, 2)
    assert trial.state == "failed"


def test_the_last_refused_run_leaves_no_record(make, tmp_path):
    members = make()
    _, trial = members.start_next(True)
    with pytest.raises(ConfigError):
        members.end(trial, 2)
    assert not (tmp_path / "record.json").exists()
    members.save()  # nothing to remove


def test_a_metric_that_is_not_logged_is_named_with_those_that_are(make, tmp_path):
    members = make()
    _, trial = members.start_next(True)
    log_scores(tmp_path / "runs" / "a", 0.5, name="val/other")
    with pytest.raises(ConfigError) as error:
        members.end(trial, 0)
    assert str(error.value) == f"metric.name: val/score is not logged; {tmp_path / 'runs' / 'a'} has val/other"
    assert (trial.state, trial.value) == ("finished", None)
    log_scores(tmp_path / "runs" / "b", None)  # logged, never with a value
    _, trial = members.start_next(True)
    members.end(trial, 0)
    assert (trial.state, trial.value) == ("finished", None)


def test_without_metric_or_log_nothing_is_read(make, tmp_path):
    members = make(metric=METRIC)
    _, trial = members.start_next(True)
    members.end(trial, 0)  # it has no metrics.jsonl
    assert trial.state == "finished"


@pytest.mark.parametrize(
    ("goal", "target", "values", "reached"),
    [
        *(("maximize", 0.5, v, r) for v, r in (((0.25,), False), ((0.25, 0.5), True), ((0.75,), True))),
        *(("minimize", 0.5, v, r) for v, r in (((0.75,), False), ((0.75, 0.5), True), ((0.25,), True))),
        ("maximize", None, (0.75,), False),
    ],
)
def test_a_target_is_reached_in_the_direction_of_the_goal(make, goal, target, values, reached):
    metric = METRIC | {"goal": goal} | ({} if target is None else {"target": target})
    members = make(metric=metric, method="random")
    members.trials = [Trial({}, "finished", "", value) for value in values] + [Trial({}, "failed", "", target)]
    assert members._has_reached_target() is reached
    assert make(metric=metric, method="random")._has_reached_target() is False


def test_a_search_ends_at_its_count(make):
    members = make(count=1)
    assert members.start_next(True) is not None
    assert members.start_next(True) is None


def test_draws_depend_on_the_seed(make):
    tree = {"method": "random", "parameters": {"name": {"min": 0, "max": 10**9}}}
    first = make(count=3, **tree)._draw().parameters
    assert first == make(count=3, **tree)._draw().parameters
    assert first != make(count=3, seed=1, **tree)._draw().parameters


def test_a_refused_run_is_an_error_or_a_failed_one(make, tmp_path, caplog):
    tree = {"method": "random", "parameters": {"optim.lr": {"distribution": "q_uniform", "min": -3, "max": -1, "q": 1}}}
    with pytest.raises(ConfigError, match=r"optim\.lr: .* does not work.* \(of the run with \{'optim.lr': -\d\}\)"):
        make(count=1, **tree).start_next(True)
    members = make(count=1, allow_missing=True, **tree)
    child, trial = members.start_next(True)
    assert (child, trial.state, trial.folder) == (None, "failed", "")
    assert "does not work" in caplog.text
    assert json.loads((tmp_path / "record.json").read_text())[0]["state"] == "failed"


def test_two_runs_share_no_folder(make, tmp_path):
    with pytest.raises(ConfigError) as error:
        make(parameters={"name": {"value": "a"}, "seed": {"values": [3, 4]}})
    assert str(error.value) == (
        f"name: two runs would share {tmp_path / 'runs' / 'a'}; put {{hash}} into the name in the command"
    )


def test_a_program_that_cannot_be_started_is_forgotten(make, tmp_path, monkeypatch):
    def fail(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(members_module, "Child", fail)
    members = make()
    with pytest.raises(ConfigError, match=r"^command: gapless cannot be started \(No such file or directory\)$"):
        members.start_next(True)
    assert members.trials == []
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "argument after"),
        ('[{"parameters": {}, "folder": 3}]', "a run without parameters"),
        ('[{"parameters": 3}]', "a run without parameters"),
        ("{", "Expecting"),
    ],
)
def test_records_that_are_none(make, tmp_path, text, reason):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(
        DataError, match=rf"record.json is no record of a sweep \(.*{reason}.*; delete it to begin anew"
    ):
        make()


def test_the_table_marks_the_best_in_the_direction_of_the_goal(make, tmp_path):
    parameters = {
        "optim.lr": {"min": 0.0, "max": 1.0},
        "loss.preset": {"values": ["cua", "clip"]},
        "seed": {"value": 3},
    }
    for goal, best in (("maximize", 1), ("minimize", 0)):
        members = make(method="random", parameters=parameters, metric=METRIC | {"goal": goal}, name="mine")
        members.trials = [
            Trial({"optim.lr": 0.123456, "loss.preset": "cua"}, "finished", "runs/one", 0.25),
            Trial({"optim.lr": 0.5, "loss.preset": "clip"}, "finished", "runs/two", 0.75),
            Trial({"optim.lr": 0.5, "loss.preset": "clip"}, "failed", "runs/three"),
        ]
        table = _table(members)
        assert table.title == "Sweep mine"
        assert table.header == ["run", "loss.preset", "optim.lr", "val/score"]
        assert [[cell.text for cell in row] for row in table.rows] == [
            ["one", "cua", "0.1235", "0.2500"],
            ["two", "clip", "0.5", "0.7500"],
            ["three", "clip", "0.5", "failed"],
        ]
        assert [k for k, row in enumerate(table.rows) if row[-1].best] == [best]
        assert not any(cell.best for row in table.rows for cell in row[:-1])


def test_without_a_metric_there_are_states_and_none_is_best(tmp_path):
    members = Members(sweep_of(tmp_path, method="random"), tmp_path / "r.json", None, False, 0)
    members.trials = [Trial({"seed": 1}, "finished", "runs/one"), Trial({"seed": 2}, "running", "runs/two")]
    table = _table(members)
    assert table.header == ["run", "seed", "state"]
    assert [[cell.text for cell in row] for row in table.rows] == [["one", "1", "finished"], ["two", "2", "running"]]
    assert not any(cell.best for row in table.rows for cell in row)


class Scripted:
    """Members that begin what they are given and remember how it ended."""

    def __init__(self, *begun):
        self.begun, self.quiet, self.ended = list(begun), [], []

    def start_next(self, quiet):
        self.quiet.append(quiet)
        item = self.begun.pop(0) if self.begun else None
        if isinstance(item, Exception):
            raise item
        return item

    def end(self, trial, code):
        self.ended.append((trial, code))
        if code == 2:
            raise ConfigError("refused")


def child(code):
    made = Child([], None, {})
    made.code = code
    return made


def flag(value=False):
    return SimpleNamespace(is_set=value)


def test_so_many_runs_at_a_time(monkeypatch):
    first, second, third = child(None), child(0), child(0)
    members = Scripted((first, "a"), (second, "b"), (third, "c"))
    seen = []

    def sleep(seconds):
        seen.append((seconds, len(members.begun)))
        first.code = 0 if len(seen) == 2 else None

    monkeypatch.setattr(run_module.time, "sleep", sleep)
    _run_all(members, 2, flag())
    assert members.ended == [("b", 0), ("a", 0), ("c", 0)]
    assert seen[0][1] == 1
    assert set(members.quiet) == {True}
    members = Scripted((child(0), "a"), (None, "finished"), (child(1), "b"))
    _run_all(members, 1, flag())
    assert members.ended == [("a", 0), ("b", 1)]
    assert set(members.quiet) == {False}


def test_after_a_refusal_no_new_run_begins_and_those_that_run_are_waited_for():
    running = child(0)
    members = Scripted((running, "a"), ConfigError("first"), (child(0), "never"))
    with pytest.raises(ConfigError, match="first"):
        _run_all(members, 3, flag())
    assert members.ended == [("a", 0)]
    assert not running.killed
    members = Scripted((child(2), "a"), (child(0), "never"))
    with pytest.raises(ConfigError, match="refused"):
        _run_all(members, 1, flag())
    assert len(members.begun) == 1


def test_a_signal_begins_nothing_and_stops_what_runs():
    members = Scripted((child(0), "a"))
    with pytest.raises(StoppedError, match="the sweep was stopped, its runs have saved; the same command goes on"):
        _run_all(members, 1, flag(True))
    assert members.begun


@pytest.mark.parametrize(
    ("code", "stopped"), [(75, True), (-2, True), (-15, True), (1, False), (0, False), (-9, False)]
)
def test_a_run_that_was_stopped_by_itself_stops_all(code, stopped):
    members, stop = Scripted(), flag()
    running = {child(code): "a", child(None): "b"}
    _look_after(members, running, stop)
    assert stop.is_set is stopped
    assert members.ended == ([] if stopped else [("a", code)])
    assert list(running.values()) == ["b"]
    assert [c.stopped for c in running] == [int(stopped)]


def test_while_a_signal_is_passed_on_failures_are_not_noted_but_ends_are():
    members, stop = Scripted(), flag(True)
    running = {child(1): "a", child(0): "b", child(None): "c"}
    _look_after(members, running, stop)
    assert members.ended == [("b", 0)]
    assert [c.stopped for c in Child.started] == [1, 1, 1]


def test_an_error_of_another_kind_kills_what_runs(monkeypatch):
    running = child(None)
    monkeypatch.setattr(run_module, "_look_after", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _run_all(Scripted((running, "a")), 1, flag())
    assert running.killed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jobs": 0}, "jobs: 0 does not work, it must be at least 1"),
        ({"count": 0}, "count: 0 does not work, it must be at least 1"),
        ({"seed": -1}, "seed: -1 does not work, it must be at least 0"),
    ],
)
def test_numbers_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ConfigError) as error:
        run_sweep(tmp_path / "none.yaml", **arguments)
    assert str(error.value) == message


def test_a_sweep_from_its_arguments_to_its_table(tmp_path, monkeypatch):
    made, ran = [], []

    class Fake:
        def __init__(self, *arguments):
            made.append(arguments)
            self.sweep = arguments[0]
            self.trials = [Trial({"seed": 1}, "failed", "runs/x"), Trial({"seed": 2}, "finished", "runs/y")]

    monkeypatch.setattr(run_module, "Members", Fake)
    monkeypatch.setattr(run_module, "_run_all", lambda members, jobs, stop: ran.append((jobs, stop.is_set)))
    sweep_of(tmp_path, run_cap=7)
    path = tmp_path / "file.yaml"
    with pytest.raises(DataError) as error:
        run_sweep(path, jobs=3)
    assert str(error.value) == (
        "1 of 2 runs failed, first runs/x; the same command tries them again (allow_missing takes the rest)"
    )
    assert made[0][1:] == (Path("runs/file.sweep.json"), 7, False, 0)
    assert ran == [(3, False)]
    table = run_sweep(path, count=2, record=tmp_path / "r.json", allow_missing=True, seed=5)
    assert made[1][1:] == (tmp_path / "r.json", 2, True, 5)
    assert ran[1] == (1, False)
    assert [row[0].text for row in table.rows] == ["x", "y"]
    sweep_of(tmp_path, method="random", parameters={"seed": {"min": 1, "max": 2}})
    with pytest.raises(
        ConfigError, match=r"^count: missing, or run_cap in .*file.yaml: method random searches without"
    ):
        run_sweep(path)
    sweep_of(tmp_path)
    run_sweep(path, allow_missing=True)
    assert made[-1][2] is None


def test_every_value_is_there_once(tmp_path):
    parameters = {"a": {"values": [1, 2, 3]}, "b": {"parameters": {"c": {"values": ["x", "y"]}}}}
    assert list(each_value_once(sweep_of(tmp_path, parameters=parameters))) == [
        *({"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": "x"}}, {"a": 3, "b": {"c": "x"}}, {"a": 1, "b": {"c": "y"}})
    ]


def test_values_are_nested_and_found_again(tmp_path):
    parameters = {"a": {"parameters": {"b": {"value": 1}, "c": {"value": 2}}}, "d": {"value": 3}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    tree = nested(sweep.parameters, [5, 6, 7])
    assert tree == {"a": {"b": 5, "c": 6}, "d": 7}
    assert [value_of(p, tree) for p in sweep.parameters] == [5, 6, 7]
    assert [value_of(p, {"a": 3, "d": None}) for p in sweep.parameters] == [None, None, None]
