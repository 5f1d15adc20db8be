"""Members of a grid: what runs, what failed, on which device, and which results are theirs."""

import json
import logging
import os
import queue
import signal
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest

from gapless.config import Config, EvalPlan, with_changes
from gapless.errors import DataError, NonFiniteError, StoppedError
from gapless.eval.results import Result, load_result, save_result
from gapless.reproduce import grid
from gapless.reproduce.grid import Member, run_member, run_members, vouched
from gapless.reproduce.scored import scores
from gapless.run_folder import EVALUATED_FILE


def member(name, plan=None, **labels):
    return Member(with_changes(Config(), name=name, output="runs"), plan, labels)


def test_a_member_lies_where_its_run_lies():
    assert (member("a").name, member("a").folder) == ("a", Path("runs/a"))


def test_members_run_one_after_the_other_and_failures_are_collected(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(
        grid, "run_member", lambda m: asked.append(m.name) or ({m.name: "why"} if m.name != "b" else {})
    )
    with caplog.at_level(logging.INFO):
        failures = run_members([member(name) for name in "abc"], 1)
    assert (asked, failures) == (["a", "b", "c"], {"a": "why", "c": "why"})
    assert [r.message for r in caplog.records] == ["run 1 of 3: a", "run 2 of 3: b", "run 3 of 3: c"]


@pytest.mark.parametrize(
    ("jobs", "gpus", "world", "parallel"),
    [
        *((None, 0, None, None), (None, 1, None, None), (None, 4, None, 4), (3, 0, None, 3), (1, 4, None, None)),
        *((2, 0, "2", None), (2, 0, "1", 2)),
    ],
)
def test_how_many_run_at_a_time(monkeypatch, jobs, gpus, world, parallel):
    asked = []
    monkeypatch.setattr(grid.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(grid, "run_member", lambda m: asked.append(None) or {})
    monkeypatch.setattr(grid, "_run_parallel", lambda members, jobs: asked.append(jobs) or {})
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    run_members([member("a")], jobs)
    assert asked == [parallel]


def test_errors_of_a_member_are_words_and_signals_are_not(monkeypatch, caplog):
    def fail(error):
        def train(config):
            raise error

        monkeypatch.setattr(grid, "run_training", train)

    fail(DataError("no data"))
    assert run_member(member("a")) == {"a": "no data"}
    assert "a failed: no data" in caplog.text
    fail(NonFiniteError("loss is nan"))
    assert run_member(member("a")) == {"a": "loss is nan"}
    fail(StoppedError("stopped"))
    with pytest.raises(StoppedError):
        run_member(member("a"))


def test_of_strict_members_the_first_that_fails_ends_all(monkeypatch, caplog):
    asked = []

    def train(config):
        asked.append(config.name)
        if config.name == "b":
            raise NonFiniteError("loss is nan")
        return Path("folder")

    monkeypatch.setattr(grid, "run_training", train)
    monkeypatch.setattr(grid.torch.cuda, "device_count", lambda: 4)
    with caplog.at_level(logging.INFO), pytest.raises(NonFiniteError, match="loss is nan"):
        run_members([member(name) for name in "abc"], strict=True)
    assert asked == ["a", "b"]
    assert caplog.messages == ["run 1 of 3: a", "run 2 of 3: b"]
    assert run_members([member("a"), member("c")], 4, strict=True) == {}


def test_a_member_without_a_plan_is_trained_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(grid, "run_training", lambda config: asked.append(config.name) or Path("folder"))
    monkeypatch.setattr(grid, "_score", lambda m, folder: asked.append((m.name, folder)) or {"x": "y"})
    assert run_member(member("a")) == {}
    assert run_member(member("b", EvalPlan(["emoji"]))) == {"x": "y"}
    assert asked == ["a", "b", ("b", Path("folder"))]


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """Evaluations that cost nothing: the results of the data sets that were asked for."""
    asked = []

    def evaluate(loaded, plan, cache, folder, keep):
        (dataset,) = plan.datasets
        asked.append((loaded, dataset, plan.tasks, cache, folder))
        if dataset == "broken":
            raise DataError("not there")
        for task in plan.tasks:
            keep(Result(dataset, task, {"acc1": 0.5 if task == "gap" else 0.25}, "m", "p", num_samples=5))

    monkeypatch.setattr(grid, "run_training", lambda config: tmp_path)
    monkeypatch.setattr(grid, "evaluate", evaluate)
    monkeypatch.setattr(grid, "load_model", lambda path: f"model of {path}")
    return asked


def test_every_data_set_of_a_plan_is_scored_once(scored, tmp_path):
    m = member("a", EvalPlan(["emoji", "pets"], ["gap", "retrieval"]))
    assert run_member(m) == {}
    tasks = ["gap", "retrieval"]
    assert scored == [(f"model of {tmp_path}", name, tasks, None, tmp_path) for name in ("emoji", "pets")]
    record = json.loads((tmp_path / EVALUATED_FILE).read_text())
    assert (record["format"], record["complete"], record["plan"]["datasets"]) == (1, True, ["emoji", "pets"])
    assert sorted(record["results"]) == sorted(p.name for p in (tmp_path / "results").glob("*.json"))
    assert sorted((r.dataset, r.task) for r in vouched(tmp_path)) == [
        (name, task) for name in ("emoji", "pets") for task in tasks
    ]
    assert run_member(m) == {}
    assert len(scored) == 2
    # Another plan is another question.
    assert run_member(member("a", EvalPlan(["emoji"], ["gap"]))) == {}
    assert scored[2:] == [(f"model of {tmp_path}", "emoji", ["gap"], None, tmp_path)]
    assert [(r.dataset, r.task) for r in vouched(tmp_path)] == [("emoji", "gap")]
    # So is the same one where a result is gone.
    next((tmp_path / "results").glob("emoji*gap.json")).unlink()
    assert vouched(tmp_path) == []
    run_member(member("a", EvalPlan(["emoji"], ["gap"])))
    assert len(scored) == 4


def test_a_data_set_that_fails_is_named_and_tried_again(scored, tmp_path, caplog):
    m = member("a", EvalPlan(["broken", "emoji"], ["gap"]))
    assert run_member(m) == {"a on broken": "not there"}
    assert "a on broken failed: not there" in caplog.text
    assert [r.dataset for r in vouched(tmp_path)] == ["emoji"]
    assert json.loads((tmp_path / EVALUATED_FILE).read_text())["complete"] is False
    assert run_member(m) == {"a on broken": "not there"}
    assert [s[1] for s in scored] == ["broken", "emoji"] * 2


def test_other_processes_write_nothing(scored, tmp_path, monkeypatch):
    class Second:
        is_main_process = False

    monkeypatch.setattr(grid, "PartialState", Second)
    assert run_member(member("a", EvalPlan(["emoji"], ["gap"]))) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"format": 1, "plan": {}, "results": {}}', '{"datasets": []}', "null"]
)
def test_records_that_vouch_for_nothing(tmp_path, text):
    save_result(Result("emoji", "gap", {"acc1": 0.5}, "m", "p"), tmp_path / "results")
    assert vouched(tmp_path) == []
    (tmp_path / EVALUATED_FILE).write_text(text)
    assert vouched(tmp_path) == []


def vouch(folder, *results):
    """Results of a run, all of its own plan."""
    paths = [save_result(result, folder / "results") for result in results]
    record = {"format": 1, "plan": {}, "complete": True}
    numbers = {path.name: grid._numbers(load_result(path)) for path in paths}
    (folder / EVALUATED_FILE).write_text(json.dumps(record | {"results": numbers}))


def test_scores_have_short_names_and_means_over_zero_shot_sets(tmp_path):
    zero_shot = "zeroshot_classification"
    vouch(
        tmp_path,
        Result("coco", "gap", {"centroid_distance": 0.75, "num_images": 9.0}, "m", "p"),
        Result("coco", "zeroshot_retrieval", {"image_retrieval_recall@1": 0.5}, "m", "p"),
        Result("simat_dev", "embedding_arithmetic", {"simat_score@1": 42.0, "simat_score@2": 1.0}, "m", "p"),
        Result(
            "pets", zero_shot, {"acc1": 0.5, "acc5": 0.75, "centroid_distance": 1.0, "uniformity_image": -1.0}, "m", "p"
        ),
        Result("dtd", zero_shot, {"acc1": 0.25, "centroid_distance": 0.5}, "m", "p"),
        Result("cars", "linear_probe", {"acc1": 1.0}, "m", "p"),
    )
    assert scores(tmp_path, "coco").numbers == {
        "centroid_distance": 0.75,
        "num_images": 9.0,
        "image_retrieval_recall@1": 0.5,
        "simat": 42.0,
        "simat_dev/simat_score@1": 42.0,
        "simat_dev/simat_score@2": 1.0,
        "pets/acc1": 0.5,
        "pets/acc5": 0.75,
        "pets/centroid_distance": 1.0,
        "pets/uniformity_image": -1.0,
        "dtd/acc1": 0.25,
        "dtd/centroid_distance": 0.5,
        "zero_shot/acc1": 0.375,
        "zero_shot/centroid_distance": 0.75,
        "zero_shot/uniformity_image": -1.0,
    }
    # Numbers of another evaluation under the same name are not of the plan.
    save_result(Result("simat_dev", "embedding_arithmetic", {"simat_score@1": 43.0}, "m", "p"), tmp_path / "results")
    assert "simat" not in scores(tmp_path, "coco").numbers


class Pool:
    """Runs what is submitted at once, in this process."""

    def __init__(self, jobs, context, initializer, initargs):
        self.made = (jobs, context.get_start_method(), initializer, initargs[1:], initargs[0])
        self.closed = []
        Pool.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def shutdown(self, **options):
        self.closed.append(options)

    def submit(self, function, argument):
        from concurrent.futures import Future

        future = Future()
        try:
            future.set_result(function(argument))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_a_pool_has_a_place_for_each_job(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(grid, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(grid, "run_member", lambda m: {m.name: "why"} if m.name == "b" else {})
    members = [Member(with_changes(Config(), name=name, output=str(tmp_path / "runs"))) for name in "abc"]
    with caplog.at_level(logging.INFO):
        assert grid._run_parallel(members, 2) == {"b": "why"}
    *made, places = Pool.last.made
    assert made == [2, "spawn", grid._take_place, (2, tmp_path / "runs")]
    assert [places.get(timeout=5) for _ in range(2)] == [0, 1]
    assert (tmp_path / "runs").is_dir()
    assert sorted(r.message.split(": ")[1] for r in caplog.records) == ["a", "b", "c"]
    assert [r.message.split(" ended")[0] for r in caplog.records] == ["run 1 of 3", "run 2 of 3", "run 3 of 3"]


@pytest.mark.parametrize("error", [StoppedError("x"), BrokenProcessPool("x")])
def test_a_pool_that_a_signal_stopped_waits_for_what_runs(monkeypatch, tmp_path, error):
    begun = []

    def stop(m):
        begun.append(m)
        raise error

    monkeypatch.setattr(grid, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(grid, "run_member", stop)
    monkeypatch.setattr(grid, "_stopped", threading.Event())
    members = [Member(with_changes(Config(), name=name, output=str(tmp_path))) for name in "ab"]
    with pytest.raises(StoppedError, match="stopped by a signal; the same command goes on"):
        grid._run_parallel(members, 2)
    assert Pool.last.closed == [{"wait": True, "cancel_futures": True}]
    # What the pool had handed out before is not begun any more in the process that was stopped.
    assert begun == (members[:1] if isinstance(error, StoppedError) else members)


@pytest.fixture
def process(monkeypatch):
    """What a process of the pool does to itself, without doing it: streams, threads and logging."""
    done = []
    system = SimpleNamespace(environ={}, dup2=lambda _, target: done.append(target), cpu_count=lambda: 7)
    monkeypatch.setattr(grid, "os", system)
    monkeypatch.setattr(grid.torch, "set_num_threads", lambda n: done.append(f"{n} threads"))
    monkeypatch.setattr(grid.logging, "basicConfig", lambda **options: done.append(options))
    level = logging.getLogger("gapless").level
    yield system, done
    logging.getLogger("gapless").setLevel(level)


STREAMS = [{"level": logging.ERROR, "format": "%(message)s"}]


@pytest.mark.parametrize(
    ("k", "gpus", "visible", "device"),
    [(0, 2, None, "0"), (3, 2, None, "1"), (1, 2, "5,7", "7"), (2, 2, "5,7", "5"), (1, 3, "", "1")],
)
def test_each_process_of_a_pool_has_a_gpu_and_a_log_of_its_own(
    process, monkeypatch, tmp_path, k, gpus, visible, device
):
    system, done = process
    monkeypatch.setattr(grid.torch.cuda, "device_count", lambda: gpus)
    if visible is not None:
        system.environ["CUDA_VISIBLE_DEVICES"] = visible
    places = queue.SimpleQueue()
    places.put(k)
    grid._take_place(places, 4, tmp_path)
    assert system.environ == {"CUDA_VISIBLE_DEVICES": device}
    assert done == [sys.stdout.fileno(), sys.stderr.fileno(), *STREAMS]
    assert (tmp_path / f"job-{k}.log").is_file()
    assert logging.getLogger("gapless").level == logging.INFO


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(8, 2, 4), (2, 8, 1), (None, 1, 1), (7, 2, 3)])
def test_without_gpus_processes_share_the_cores(process, monkeypatch, tmp_path, cores, jobs, threads):
    system, done = process
    system.cpu_count = lambda: cores
    monkeypatch.setattr(grid.torch.cuda, "device_count", lambda: 0)
    places = queue.SimpleQueue()
    places.put(0)
    grid._take_place(places, jobs, tmp_path)
    assert done[2:] == [*STREAMS, f"{threads} threads"]
    assert system.environ == {}


def test_a_signal_reaches_the_processes_of_the_pool(monkeypatch):
    class Child:
        stopped = False

        def terminate(self):
            self.stopped = True

    child = Child()
    monkeypatch.setattr(grid.multiprocessing, "active_children", lambda: [child])
    before = signal.getsignal(signal.SIGTERM)
    with grid._passing_sigterm_on():
        os.kill(os.getpid(), signal.SIGTERM)
    assert child.stopped
    assert signal.getsignal(signal.SIGTERM) is before
