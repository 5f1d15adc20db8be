import json
import sys
from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from gapless.errors import ConfigError
from gapless.sweep import command_of, config_of
from tests.sweep.trees import sweep_of

PARAMETERS = {
    "optim": {"lr": 1e-06, "betas": [0.8, 0.9], "grad_clip": None},
    "optim.ema_decay": None,
    "data.drop": True,
    "model.lock": False,
    "loss.preset": "cua",
}
JSON = Path("args.json")


@pytest.mark.parametrize(
    "macro",
    [
        *("args", "args_no_equals", "args_no_boolean_flags", "args_no_hyphens"),
        *("args_json", "args_append_hydra", "args_override_hydra"),
    ],
)
def test_macros_of_parameters_are_wandbs(tmp_path, macro):
    sweep = sweep_of(tmp_path, command=["a", f"${{{macro}}}", "z"])
    theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in PARAMETERS.items()}})
    assert command_of(sweep, PARAMETERS, JSON) == ["a", *theirs[macro], "z"]


def test_other_macros(tmp_path, monkeypatch):
    monkeypatch.setenv("SET", "value")
    monkeypatch.delenv("UNSET", raising=False)
    words = ["${env}", "${interpreter}", "-m", "${program}", "a-${envvar:SET}-${envvar:UNSET}", 3, "${args_json_file}"]
    sweep = sweep_of(tmp_path, program="mine", command=words)
    assert command_of(sweep, PARAMETERS, JSON) == [
        *("/usr/bin/env", sys.executable, "-m", "mine", "a-value-UNSET", "3", "args.json")
    ]
    assert create_sweep_command(["a-${envvar:SET}-${envvar:UNSET}"]) == ["a-value-UNSET"]
    assert command_of(sweep_of(tmp_path), {"seed": 3}, JSON) == [
        *("/usr/bin/env", "accelerate", "launch", "-m", "gapless", "train", "--seed=3")
    ]
    with pytest.raises(ConfigError, match=r"command: \$\{shell\} is not one of"):
        command_of(sweep_of(tmp_path, command=["${shell}", "train"]), {}, JSON)


def test_projects_go_to_the_run_unless_the_command_has_one(tmp_path):
    command = ["gapless", "train", "${args}"]
    words = command_of(sweep_of(tmp_path, project="mine", command=command), {"seed": 3}, JSON)
    assert words == ["gapless", "train", "--tracking.project=mine", "--seed=3"]
    own = command_of(sweep_of(tmp_path, project="mine", command=[*command, "--tracking.project=own"]), {}, JSON)
    assert config_of(own).tracking.project == "own"


@pytest.mark.parametrize("macro", ["args", "args_no_equals"])
def test_nested_parameters_change_what_they_name_alone(tmp_path, macro):
    parameters = {"optim": {"lr": 1e-06, "betas": [0.8, 0.9], "grad_clip": None}, "optim.ema_decay": None}
    sweep = sweep_of(tmp_path, command=["gapless", "train", "--optim.grad_clip=1", f"${{{macro}}}"])
    optim = config_of(command_of(sweep, parameters, JSON)).optim
    assert (optim.lr, optim.betas, optim.grad_clip, optim.schedule) == (1e-06, (0.8, 0.9), None, "cosine")


def test_a_file_of_parameters_is_a_configuration(tmp_path):
    file = tmp_path / "args.json"
    file.write_text(json.dumps({"optim": {"lr": 0.02}, "seed": 3}))
    config = config_of(["gapless", "train", "--config", str(file)])
    assert (config.optim.lr, config.seed, config.optim.schedule) == (0.02, 3, "cosine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["python", "mine.py"], "does not run gapless train"),
        (["gapless", "train", "--optim.learning=1"], "optim.learning: unknown key"),
        (["gapless", "train", "optim.lr=1"], "optim.lr=1"),
        (["gapless", "train", "--fresh"], "command: --fresh does not work"),
        (["gapless", "train", "--help"], "command: --help does not work"),
        (["gapless", "train", "--data.batch_size=1"], "data.batch_size"),
    ],
)
def test_commands_that_cannot_work_are_one_line(words, message):
    with pytest.raises(ConfigError) as error:
        config_of(words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
