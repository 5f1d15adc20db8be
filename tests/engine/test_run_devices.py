"""Devices, precision, processes and what they share; a model as it was left."""

import logging
from datetime import timedelta

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from safetensors.torch import save_file

from gapless.config import OptimConfig, TrackingConfig
from gapless.engine import run
from gapless.engine.checkpoint import Progress
from gapless.engine.run import build_accelerator, on_main, prepare
from gapless.errors import ConfigError, DataError
from tests.engine.tasks import Model, TaskConfig, interrupted, task

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_devices_are_as_the_configuration_says(tmp_path, monkeypatch):
    made = []

    class Recorded(Accelerator):
        def __init__(self, **options):
            made.append(options)
            super().__init__(**options | {"mixed_precision": "no", "log_with": None})

    monkeypatch.setattr(run, "Accelerator", Recorded)
    for precision, expected in (("auto", None), ("fp32", "no"), ("bf16", "bf16")):
        config = task(tmp_path, train__precision=precision, train__timeout=90.0).config
        build_accelerator(config, tmp_path / "x")
        options = made.pop()
        assert options.pop("mixed_precision") == expected
        ddp, group = options.pop("kwargs_handlers")
        assert isinstance(ddp, DistributedDataParallelKwargs)
        assert isinstance(group, InitProcessGroupKwargs)
        assert ddp.gradient_as_bucket_view
        assert group.timeout == timedelta(seconds=90)
        assert options == {"log_with": None, "project_dir": str(tmp_path / "x")}
    config = task(tmp_path, tracking=TrackingConfig(to=["tensorboard"])).config
    build_accelerator(config, tmp_path / "x")
    assert made.pop()["log_with"] == ["tensorboard"]
    config = task(tmp_path, tracking=TrackingConfig(to=["tensorboard"], project="a/b")).config
    with pytest.raises(ConfigError, match=r"tracking\.project"):
        build_accelerator(config, tmp_path / "x")
    monkeypatch.setenv("RANK", "1")
    build_accelerator(config, tmp_path / "x")  # the main process has refused it


@pytest.mark.parametrize(
    ("precision", "environment", "message"),
    [
        ("auto", {}, "1 process(es) on cpu, NO, precision fp32 (from accelerate)"),
        ("bf16", {}, "1 process(es) on cpu, NO, precision bf16 (from train.precision)"),
        ("auto", {"ACCELERATE_MIXED_PRECISION": "bf16"}, "precision bf16 (from accelerate)"),
        ("fp32", {"ACCELERATE_MIXED_PRECISION": "bf16"}, "precision fp32 (from train.precision)"),
        (
            "auto",
            {"ACCELERATE_DYNAMO_BACKEND": "aot_eager"},
            "precision fp32 (from accelerate), compiled by aot_eager (from accelerate)",
        ),
    ],
)
def test_the_log_says_who_chose_the_precision(tmp_path, caplog, monkeypatch, precision, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO, "gapless"):
        build_accelerator(task(tmp_path, train__precision=precision).config, tmp_path)
    assert caplog.messages == [message if message.startswith("1 ") else f"1 process(es) on cpu, NO, {message}"]


def test_the_processes_that_joined_are_counted_and_fsdp_is_looked_at(tmp_path, monkeypatch):
    joined, looked = [], []
    monkeypatch.setattr(run, "check_joined", joined.append)
    monkeypatch.setattr(run, "refuse_fsdp1", looked.append)
    accelerator = build_accelerator(task(tmp_path).config, tmp_path)
    assert joined == [1]
    assert looked == [accelerator]
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="ACCELERATE_USE_DEEPSPEED"):
        build_accelerator(task(tmp_path).config, tmp_path)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 does not work on a CPU"):
        build_accelerator(task(tmp_path, train__precision="fp16").config, tmp_path)


def test_what_the_main_process_finds_or_refuses_is_so_on_all(tmp_path, monkeypatch):
    accelerator = Accelerator(cpu=True)
    assert on_main(accelerator, lambda: 7) == 7
    with pytest.raises(DataError, match="^no$"):
        on_main(accelerator, lambda: _raise(DataError("no")))
    with pytest.raises(KeyError):  # a bug is none of the run's errors
        on_main(accelerator, lambda: _raise(KeyError("x")))

    class Other:
        is_main_process = False

    monkeypatch.setattr(run, "broadcast_object_list", lambda outcome: [8, None])
    assert on_main(Other, lambda: _raise(KeyError("never called"))) == 8
    monkeypatch.setattr(run, "broadcast_object_list", lambda outcome: [None, DataError("of the main process")])
    with pytest.raises(DataError, match="of the main process"):
        on_main(Other, lambda: 7)


def _raise(error):
    raise error


def test_random_numbers_differ_between_processes_and_follow_the_seed(tmp_path):
    def drawn(seed, rank):
        accelerator = Accelerator(cpu=True)
        accelerator.state._shared_state["process_index"] = rank
        assert accelerator.process_index == rank
        prepare(accelerator, Model(), TaskConfig(seed=seed), None, Progress(), lambda m: m)
        accelerator.state._shared_state["process_index"] = 0
        return torch.rand(1).item()

    assert drawn(5, 0) == torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
    assert drawn(5, 2) == drawn(7, 0) == torch.rand(1, generator=torch.Generator().manual_seed(7)).item()


class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Model()


def test_the_average_is_of_the_weights_that_are_saved(tmp_path):
    accelerator = Accelerator(cpu=True)
    config = TaskConfig(optim=OptimConfig(ema_decay=0.9, lr=0.7, betas=(0.1, 0.2), eps=0.3))
    model = Wrapped()
    prepared, optimizer, average = prepare(accelerator, model, config, None, Progress(), lambda m: m.inner)
    assert prepared is model
    assert sorted(average.averages) == ["logit_scale", "weight"]
    assert average.decay == 0.9
    groups = optimizer.param_groups
    assert {(g["lr"], g["betas"], g["eps"]) for g in groups} == {(0.7, (0.1, 0.2), 0.3)}
    config = TaskConfig(optim=OptimConfig(ema_decay=None))
    assert prepare(accelerator, model, config, None, Progress(), lambda m: m.inner)[2] is None


def test_the_scaler_goes_on_where_it_was(tmp_path):
    accelerator = Accelerator(cpu=True)
    loaded = []

    class Scaler:
        def load_state_dict(self, state):
            loaded.append(state)

    save_file({}, tmp_path / "optimizer.safetensors")
    save_file({"cpu": torch.get_rng_state()}, tmp_path / "rng_0.safetensors")
    accelerator.scaler = Scaler()
    for progress in (Progress(scaler={"scale": 4.0}), Progress()):
        prepare(accelerator, Model(), TaskConfig(), tmp_path, progress, lambda m: m)
    prepare(accelerator, Model(), TaskConfig(), None, Progress(scaler={"scale": 1.0}), lambda m: m)
    assert loaded == [{"scale": 4.0}]


def test_the_raw_weights_and_the_random_numbers_come_back(tmp_path):
    made = task(tmp_path, optim__ema_decay=0.6)
    interrupted(made, 2)
    raw, averages = made.weight, float(made.parts.average.averages["weight"][0, 0])
    assert raw != averages
    again = task(tmp_path, optim__ema_decay=0.6)
    seen = []
    again.with_parts = lambda parts: seen.append(
        (again.weight, float(parts.average.averages["weight"][0, 0]), len(parts.optimizer.state))
    )
    again.carry_out()
    assert seen == [(raw, averages, 2)]


def test_dropout_of_a_run_that_goes_on_is_what_it_would_have_been(tmp_path):
    def noisy(name):
        made, drawn = task(tmp_path, name=name), []
        made.with_parts = lambda parts: setattr(made.step, "before", lambda step: drawn.append(torch.rand(1).item()))
        return made, drawn

    made, whole = noisy("whole")
    made.carry_out()
    made, before = noisy("task")
    interrupted(made, 4)
    made, after = noisy("task")
    made.carry_out()
    assert (len(before), len(after)) == (4, 2)
    assert before + after == whole
