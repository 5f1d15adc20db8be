import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gapless.errors import ConfigError
from gapless.sweep import load_sweep
from gapless.sweep.search import Trial, can_draw, next_parameters
from tests.sweep.trees import sweep_of

SWEEPS = Path(__file__).parents[2] / "configs" / "sweeps"
METRIC = {"name": "a/b", "goal": "maximize"}


def points(sweep):
    trials = []
    while (parameters := next_parameters(sweep, trials, 0)) is not None:
        trials.append(Trial(parameters))
    return [trial.parameters for trial in trials]


def test_our_grids_are_drawn_in_wandbs_order():
    # As the package of wandb's server drew them (sweeps 0.3.0): names sorted, the last one fastest.
    emoji = [
        (p["loss.preset"], p["model.architecture.embed_dim"]) for p in points(load_sweep(SWEEPS / "emoji-grid.yaml"))
    ]
    assert emoji == [(preset, width) for preset in ("clip", "cua", "cuaxu") for width in (32, 64, 128)]
    paper = [tuple(p.values()) for p in points(load_sweep(SWEEPS / "paper-grid.yaml"))]
    assert paper == [(p, d, s) for p in ("clip", "cua", "cuaxu") for d in (32, 64, 128) for s in (42, 24, 44)]


def test_grids_with_nested_parameters_ranges_and_equal_values(tmp_path):
    parameters = {
        "z": {"values": [1, 1.0, True]},
        "a": {"parameters": {"y": {"values": ["u", "v"]}, "b": {"value": None}}},
        "m": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.5},
        "k": {"min": 3, "max": 4},
    }
    drawn = points(sweep_of(tmp_path, parameters=parameters))
    assert len(drawn) == 2 * 2 * 2 * 2  # 1.0 is 1 to wandb, and true is not
    assert drawn[0] == {"a": {"b": None, "y": "u"}, "k": 3, "m": 0.0, "z": 1}
    assert [p["z"] for p in drawn[:2]] == [1, True]
    assert [p["m"] for p in drawn[:4:2]] == [0.0, 0.5]
    assert points(sweep_of(tmp_path, parameters={"a": {"value": 1}})) == [{"a": 1}]


def test_endless_grids_are_refused(tmp_path):
    for parameters in (
        {"a": {"min": 0, "max": 10**12}},
        {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-300}},
        {name: {"values": list(range(20))} for name in "abcd"},
    ):
        with pytest.raises(ConfigError, match=r"file\.yaml: parameters: the grid has more than 100000 points"):
            sweep_of(tmp_path, parameters=parameters)


DRAWN = {
    "a": ({"min": 1.0, "max": 3.0}, stats.uniform(1, 2)),
    "b": ({"distribution": "log_uniform_values", "min": 0.001, "max": 10}, stats.loguniform(0.001, 10)),
    "c": ({"distribution": "inv_log_uniform_values", "min": 0.1, "max": 10}, stats.loguniform(0.1, 10)),
    "d": ({"distribution": "normal", "mu": 3, "sigma": 2}, stats.norm(3, 2)),
    "e": ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(s=0.5, scale=math.e)),
    "f": ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
}


def test_random_draws_have_their_distributions(tmp_path):
    parameters = {name: knobs for name, (knobs, _) in DRAWN.items()} | {
        "i": {"min": 1, "max": 4},
        "p": {"values": ["x", "y"], "probabilities": [0.2, 0.8]},
        "q": {"distribution": "q_normal", "sigma": 10, "q": 2},
        "r": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25},
    }
    sweep = sweep_of(tmp_path, method="random", parameters=parameters)
    drawn = [next_parameters(sweep, [Trial({})] * k, 0) for k in range(150)]
    for name, (_, distribution) in DRAWN.items():
        assert stats.kstest([p[name] for p in drawn], distribution.cdf).pvalue > 0.001, name
    assert {p["i"] for p in drawn} == {1, 2, 3, 4}
    assert np.mean([p["p"] == "y" for p in drawn]) == pytest.approx(0.8, abs=0.08)
    assert all(type(p["q"]) is int and p["q"] % 2 == 0 for p in drawn)
    assert {p["r"] for p in drawn} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert all(can_draw(sweep, p) for p in drawn)


def test_bayes_finds_what_random_misses(tmp_path):
    parameters = {"x": {"min": 0.0, "max": 1.0}, "y": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}}

    def search(method, number, goal="maximize"):
        sweep = sweep_of(tmp_path, method=method, parameters=parameters, metric=METRIC | {"goal": goal})
        trials = []
        for _ in range(number):
            p = next_parameters(sweep, trials, 0)
            distance = (p["x"] - 0.3) ** 2 + (math.log10(p["y"]) + 3) ** 2
            trials.append(Trial(p, "finished", "", -distance if goal == "maximize" else distance))
        return trials

    best = {method: max(t.value for t in search(method, 30)) for method in ("random", "bayes")}
    assert best["bayes"] > best["random"]
    maximised, minimised = search("bayes", 13), search("bayes", 13, "minimize")
    assert [t.parameters for t in maximised] == [t.parameters for t in minimised]


def test_a_search_depends_on_its_trials_alone(tmp_path):
    sweep = sweep_of(tmp_path, method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}}, metric=METRIC)
    low = [Trial({"x": k / 20}, "finished", "", -k / 20) for k in range(20)]
    high = [Trial({"x": k / 20}, "finished", "", k / 20) for k in range(20)]
    drawn = [next_parameters(sweep, trials, 0)["x"] for trials in (low, high, low)]
    assert drawn[0] == drawn[2]
    assert drawn[0] < 0.3 < 0.7 < drawn[1]
    # A run that failed counts with the worst value, one of another file not at all, one that runs keeps others away.
    failed = [Trial(t.parameters, "failed") if t.value > 0.6 else t for t in high]
    best = sweep_of(
        tmp_path, method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}}, metric=METRIC | {"impute": "best"}
    )
    assert next_parameters(sweep, failed, 0)["x"] < next_parameters(best, failed, 0)["x"]
    foreign = [Trial({"y": 1}, "finished", "", 9.0), Trial({"x": 7.0}, "finished", "", 9.0)]
    assert next_parameters(sweep, high[:-2] + foreign, 0)["x"] > 0.7


def test_what_a_file_can_draw(tmp_path):
    parameters = {"a": {"parameters": {"b": {"min": 0.0, "max": 1.0}}}, "c": {"values": [1, [2]]}, "d": {"value": 3}}
    sweep = sweep_of(tmp_path, method="random", parameters=parameters)
    assert can_draw(sweep, {"a": {"b": 0.5}, "c": [2], "d": 3.0})
    for other in ({}, {"a": {"b": 2.0}, "c": 1, "d": 3}, {"a": {"b": 0.5}, "c": 7, "d": 3}, {"a": 1, "c": 1, "d": 3}):
        assert not can_draw(sweep, other)
    assert not can_draw(sweep, {"a": {"b": 0.5}, "c": 1, "d": 4})
    assert not can_draw(sweep, {"a": {"b": 0.5}, "c": 1, "d": 3, "e": 1})
