import pytest

from gapless.errors import ConfigError
from gapless.sweep import load_sweep
from tests.sweep.trees import sweep_of

UNIFORM = {"min": 1, "max": 2.5}


def test_every_key_that_is_honoured(tmp_path):
    sweep = sweep_of(
        tmp_path,
        method="bayes",
        name="mine",
        description="of mine",
        apiVersion="1",
        kind="sweep",
        project="p",
        entity="e",
        program="gapless",
        controller={"type": "local"},
        run_cap=1,
        metric={"name": "a/b", "goal": "maximize", "target": 1, "impute": "best", "impute_while_running": False},
        command=["gapless", "train", "${args}"],
    )
    assert (sweep.title, sweep.project, sweep.entity, sweep.run_cap) == ("mine", "p", "e", 1)
    assert sweep.metric.target == 1
    assert sweep_of(tmp_path).title == "file"
    assert sweep_of(tmp_path, controller={"type": "cloud"}).method == "grid"
    assert sweep_of(tmp_path, metric={"name": "a/b"}).metric.goal == "minimize"


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        ({"value": None}, "constant"),
        ({"values": [1, "a", None, [1]]}, "categorical"),
        ({"values": [1, 2], "probabilities": [0.25, 0.75]}, "categorical_w_probabilities"),
        ({"min": 1, "max": 2}, "int_uniform"),
        (UNIFORM, "uniform"),
        ({"min": 1, "max": 2, "distribution": "uniform"}, "uniform"),
        ({"distribution": "q_beta", "a": 2}, "q_beta"),
        ({"distribution": "normal"}, "normal"),
    ],
)
def test_distributions_are_told_by_wandbs_rule(tmp_path, knobs, kind):
    (parameter,) = sweep_of(tmp_path, method="random", parameters={"a": knobs}).parameters
    assert parameter.distribution == kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "guess"}, "method: 'guess' does not work, it must be one of grid, random, bayes"),
        ({"method": "custom"}, "method: 'custom'"),
        ({"method": "bayes"}, "metric: missing"),
        ({"metods": 1}, "metods: unknown key, did you mean method?"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}}, "early_terminate: not supported"),
        ({"scheduler": {"engine": "wandb"}}, "scheduler: not supported"),
        ({"metrics": []}, "metrics: not supported"),
        ({"job": "x"}, "job: not supported"),
        ({"image_uri": "x"}, "image_uri: not supported"),
        ({"kind": "run"}, "kind: 'run'"),
        ({"controller": {"type": "mine"}}, "controller: "),
        ({"run_cap": 0}, "run_cap: '0'"),
        ({"run_cap": True}, "run_cap: 'True'"),
        ({"name": 3}, "name: '3'"),
        ({"program": "train.py"}, "command: missing, and program 'train.py' is not gapless"),
        ({"command": "gapless train"}, "command: 'gapless train' does not work, it must be a list of words"),
        ({"command": []}, "command: "),
        ({"command": [{"a": 1}]}, "command: "),
        ({"metric": "loss"}, "metric: 'loss'"),
        ({"metric": {"goal": "minimize"}}, "metric.name: missing"),
        ({"metric": {"name": "a", "goal": "min"}}, "metric.goal: 'min'"),
        ({"metric": {"name": "a", "target": "low"}}, "metric.target: 'low'"),
        ({"metric": {"name": "a", "target": 10**400}}, "metric.target: "),
        ({"metric": {"name": "a", "impute": "mean"}}, "metric.impute: 'mean'"),
        ({"metric": {"name": "a", "impute_while_running": "best"}}, "metric.impute_while_running: 'best'"),
        ({"metric": {"name": "a", "gaol": "minimize"}}, "metric.gaol: unknown key, did you mean metric.goal?"),
        ({"parameters": {}}, "parameters: "),
        ({"parameters": None}, "parameters: "),
    ],
)
def test_keys_that_are_refused_are_named_in_one_line(tmp_path, changes, message):
    check(tmp_path, message, **changes)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({}, ": it must have value, values"),
        (3, ": '3' does not work"),
        ({"values": []}, ".values: "),
        ({"values": 3}, ".values: "),
        ({"values": [1], "distribution": "uniform"}, ".values: unknown key, distribution uniform takes min, max"),
        ({"value": 1, "distribution": "wave"}, ".distribution: 'wave'"),
        ({"min": 1}, ".max: missing"),
        ({"min": 2, "max": 1}, ".min: '2' does not work, it must be less than max, 1"),
        ({"min": "1e-3", "max": 1}, ".min: '1e-3' does not work, it must be a finite number (YAML reads"),
        ({"min": 0.0, "max": float("inf")}, ".max: 'inf'"),
        ({"min": 0.0, "max": True}, ".max: 'True'"),
        ({"min": 0.0, "max": 1.0, "q": 0}, ".q: unknown key"),
        ({"min": 0.5, "max": 2, "distribution": "int_uniform"}, ".min: '0.5'"),
        ({"min": 0, "max": 2**60}, ".min: "),
        ({"min": -1e308, "max": 1e308}, ": "),
        ({"min": 0, "max": 1, "distribution": "log_uniform"}, ".distribution: log_uniform has exponents of e"),
        ({"min": 0, "max": 1, "distribution": "q_log_uniform"}, ".distribution: q_log_uniform has exponents of e"),
        ({"min": 0, "max": 1, "distribution": "inv_log_uniform"}, ".distribution: inv_log_uniform has exponents"),
        ({"min": 0, "max": 1, "distribution": "log_uniform_values"}, ".min: '0' does not work, it must be positive"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, ".q: '0' does not work, it must be positive"),
        ({"distribution": "normal", "sigma": 0}, ".sigma: '0'"),
        ({"distribution": "log_normal", "mu": 1000}, ": "),
        ({"distribution": "beta", "a": -1}, ".a: '-1'"),
        ({"values": [1, 2], "probabilities": [0.5]}, ".probabilities: "),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, ".probabilities: "),
        ({"values": [1, 2], "probabilities": [1.5, -0.5]}, ".probabilities: "),
        ({"parameters": {"lr": {"min": 1}}}, ".lr.max: missing"),
        ({"parameters": {}}, ".parameters: "),
        ({"parameters": {"lr": {"value": 1}}, "value": 2}, ": "),
        ({"values": ["a\0b"]}, ".values: "),
    ],
)
def test_parameters_that_are_refused_are_named_in_one_line(tmp_path, knobs, message):
    check(tmp_path, f"parameters.optim{message}", method="random", parameters={"optim": knobs})


def test_grids_are_countable_and_not_endless(tmp_path):
    check(tmp_path, "parameters.a: method grid takes values", parameters={"a": UNIFORM})
    check(tmp_path, "parameters.a b: ", parameters={"a b": {"value": 1}})
    check(tmp_path, "parameters.a.b: ", parameters={"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty and no sweep"),
        ("- 1", "it is a list and no sweep"),
        ("a: [", "it cannot be read"),
        ("day: 2001-99-99", "it cannot be read"),
        (f"run_cap: {'1' * 5000}", "it cannot be read"),
        ("&a [*a]", "it is a list"),
        ("{method: grid, parameters: {a: {values: &a [*a]}}}", "parameters.a.values: "),
        ("{method: grid, parameters: {a: {value: 2024-01-01}}}", "parameters.a.value: "),
        ("{method: grid, parameters: {1: {value: 1}}}", "parameters.1: "),
        (b"\xff\xfe\xfa", "it cannot be read"),
        (None, "it cannot be read (No such file"),
    ],
)
def test_files_that_are_none_are_one_line(tmp_path, text, message):
    path = tmp_path / "file.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_sweep(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def check(tmp_path, output, **changes):
    with pytest.raises(ConfigError) as error:
        sweep_of(tmp_path, **changes)
    assert f"file.yaml: {output}" in str(error.value)
    assert "\n" not in str(error.value)
