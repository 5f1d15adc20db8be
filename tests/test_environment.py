import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from gapless.environment import (
    LAUNCHERS,
    REFUSED,
    TORCHRUN,
    check_accelerate,
    check_joined,
    join_processes,
    read_processes,
)
from gapless.errors import ConfigError
from tests.runs import metrics, run, tiny_config, write_config

SIZES = [TORCHRUN[0], *(names[0] for names in LAUNCHERS.values())]


@pytest.fixture(autouse=True)
def alone():
    """An environment in which nothing was launched."""
    with mock.patch.dict(os.environ):
        for name in (*TORCHRUN, "MASTER_ADDR", "MASTER_PORT", *(n for names in LAUNCHERS.values() for n in names)):
            os.environ.pop(name, None)
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]
        yield


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_is_joined_by_torchruns_names(launcher):
    os.environ.update(dict(zip(LAUNCHERS[launcher], ("4", "2", "2", "4"), strict=True)))
    read_processes()
    assert [os.environ[name] for name in TORCHRUN] == ["4", "2", "2", "4"]
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("127.0.0.1", "29500")
    assert torch.accelerator.is_available() or os.environ["ACCELERATE_USE_CPU"] == "true"


def test_one_process_is_left_alone():
    before = dict(os.environ)
    read_processes()
    os.environ["SLURM_STEP_NUM_TASKS"] = "1"
    read_processes()
    assert os.environ == before | {"SLURM_STEP_NUM_TASKS": "1"}


def test_torchrun_inside_of_a_job_step_decides():
    os.environ.update(dict(zip(LAUNCHERS["srun"], ("2", "1", "0", "1(x2)"), strict=True)))
    os.environ.update(WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    read_processes()
    assert os.environ["WORLD_SIZE"] == "1"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK: not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: '0'"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK: '2' does not work, it must be 0 or more, below 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "LOCAL_RANK: not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, "MASTER_ADDR: not set"),
        (dict(zip(LAUNCHERS["srun"], ("2", "1", "0", "1(x2)"), strict=True)), "MASTER_ADDR: not set"),
    ],
)
def test_processes_that_cannot_find_each_other_are_refused(variables, message):
    os.environ.update(variables)
    with pytest.raises(ConfigError, match="^" + message.replace("(", r"\(")):
        read_processes()


def test_a_process_that_joined_fewer_than_were_started_is_refused():
    check_joined(1)
    os.environ["WORLD_SIZE"] = "2"
    check_joined(2)
    with pytest.raises(ConfigError, match="WORLD_SIZE: 2 processes were started, and accelerate joined 1"):
        check_joined(1)


@pytest.mark.parametrize("name", REFUSED)
def test_settings_of_accelerate_that_would_be_ignored_are_refused(name):
    os.environ[name] = "2" if name.endswith("STEPS") else "true"
    with pytest.raises(ConfigError, match=f"^{name}: "):
        check_accelerate("auto")
    os.environ[name] = "1" if name.endswith("STEPS") else "none" if name.endswith("CLIPPING") else "false"
    check_accelerate("auto")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of CPUs")
@pytest.mark.parametrize(
    ("variables", "precision", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "auto", "ACCELERATE_MIXED_PRECISION: 'fp8'"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "auto", "ACCELERATE_MIXED_PRECISION: fp16 does not work on a CPU"),
        ({}, "fp16", "train.precision: fp16 does not work on a CPU"),
        ({"ACCELERATE_USE_FSDP": "true"}, "auto", "ACCELERATE_USE_FSDP: FSDP does not work on CPUs"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(variables, precision, message):
    os.environ.update(variables)
    with pytest.raises(ConfigError, match=message):
        check_accelerate(precision)
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    check_accelerate("bf16")  # the run's own precision stands against accelerate's


def test_work_in_full_precision_does_not_mind_that_of_training():
    os.environ["ACCELERATE_MIXED_PRECISION"] = "fp8"
    with (
        mock.patch.dict(PartialState._shared_state, clear=True),
        mock.patch.dict(AcceleratorState._shared_state, clear=True),
    ):
        join_processes()
        assert AcceleratorState().mixed_precision == "no"
        join_processes()
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        with pytest.raises(ConfigError, match="^ACCELERATE_USE_DEEPSPEED: "):
            join_processes()


def test_found_out_before_anything_is_loaded_by_train_and_doctor(tmp_path):
    path = write_config(tiny_config(tmp_path / "runs", model__pretrained="/nowhere.pt"), tmp_path / "base.yaml")
    for variables, output in (
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED: 'true'"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "ACCELERATE_MIXED_PRECISION: 'fp8'"),
    ):
        said = run("train", f"--config={path}", code=2, **variables)
        assert said.startswith(f"gapless: error: {output}")
        assert said.count("\n") == 1
        assert output in " ".join(run("doctor", f"--config={path}", code=2, **variables).split())
    keyless = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "NETRC": str(tmp_path / "none"), "HOME": str(tmp_path)}
    for verb in ("train", "doctor"):
        said = run(verb, f"--config={path}", "--tracking.to=[wandb]", code=2, **keyless)
        assert "tracking.to: wandb has no key; run wandb login" in " ".join(said.split())
    for key, value in (("project", "../up"), ("project", ""), ("tags", '["",a]')):
        said = run("train", f"--config={path}", "--tracking.to=[wandb]", f"--tracking.{key}={value}", code=2)
        assert said.startswith(f"gapless: error: tracking.{key}: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of CPUs")
def test_torchrun_without_a_gpu_trains_one_run(tmp_path):
    path = write_config(tiny_config(tmp_path / "runs", train__epochs=1), tmp_path / "base.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "gapless"]
    done = subprocess.run(
        [*command, "train", f"--config={path}"], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 process(es) on cpu:0, MULTI_CPU" in done.stderr
    steps = [line["step"] for line in metrics(tmp_path / "runs" / "tiny")]
    assert steps == [*range(7), 6]  # and the evaluation
