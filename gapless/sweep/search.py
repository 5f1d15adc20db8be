"""Which parameters the next run of a sweep gets: wandb's grid in its order, and optuna's draws for random and bayes."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from gapless.sweep.file import Metric, Sweep
from gapless.sweep.parameters import EDGE, Parameter, canonical, position

Values = dict[str, Any]
"""Parameters of a run by name, nested as in the file."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(eq=False)
class Trial:
    """One run of a sweep."""

    parameters: Values
    state: str = "pending"
    """pending, running, finished or failed."""
    folder: str = ""
    value: float | None = None
    """The sweep's metric at the end."""


def next_parameters(sweep: Sweep, trials: Sequence[Trial], seed: int) -> Values | None:
    """What comes after the trials so far; None at the end of a grid.

    The same sweep, trials and seed give the same parameters: a sweep that is begun again goes on as it would have.
    """
    if sweep.method == "grid":
        drawn = {canonical(trial.parameters) for trial in trials}
        return next((point for point in grid(sweep) if canonical(point) not in drawn), None)
    return _draw(sweep, trials, seed)


def grid(sweep: Sweep) -> Iterator[Values]:
    """All points in wandb's order: the parameter whose name comes last varies fastest."""
    for point in itertools.product(*(parameter.choices for parameter in sweep.parameters)):
        yield nested(sweep.parameters, point)


def each_value_once(sweep: Sweep) -> Iterator[Values]:
    """Points of a grid that have every value of every parameter among them."""
    choices = [parameter.choices for parameter in sweep.parameters]
    first = [values[0] for values in choices]
    yield nested(sweep.parameters, first)
    for k, values in enumerate(choices):
        for value in values[1:]:
            yield nested(sweep.parameters, [*first[:k], value, *first[k + 1 :]])


def _draw(sweep: Sweep, trials: Sequence[Trial], seed: int) -> Values:
    searched = [parameter for parameter in sweep.parameters if parameter.distribution != "constant"]
    space = {parameter.name: _space(parameter) for parameter in searched}
    # A seed of its own for each draw: it needs no state but the trials, which the record remembers.
    state = int(np.random.SeedSequence([seed, len(trials)]).generate_state(1)[0])
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=state)
    if sweep.method == "bayes":
        sampler = optuna.samplers.TPESampler(seed=state, constant_liar=True)
    maximise = sweep.metric is not None and sweep.metric.goal == "maximize"
    study = optuna.create_study(sampler=sampler, direction="maximize" if maximise else "minimize")
    if sweep.method == "bayes" and sweep.metric is not None:
        for trial in trials:
            _tell(study, sweep.metric, trial, trials, searched, space)
    drawn = study.ask(space).params if space else {}
    values = [
        parameter.knobs["value"] if parameter.distribution == "constant" else _value(parameter, drawn[parameter.name])
        for parameter in sweep.parameters
    ]
    return nested(sweep.parameters, values)


def _tell(
    study: optuna.Study,
    metric: Metric,
    trial: Trial,
    trials: Sequence[Trial],
    searched: Sequence[Parameter],
    space: dict[str, BaseDistribution],
) -> None:
    """Add a trial to a search, unless it has values that the file does not give."""
    drawn = {p.name: _drawn(p, value_of(p, trial.parameters)) for p in searched}
    if any(value is None for value in drawn.values()):
        return
    value, state = trial.value, TrialState.COMPLETE
    if trial.state == "failed":
        value = _imputed(metric, trial, trials)
    if trial.state in ("pending", "running"):
        value, state = None, TrialState.RUNNING
    if value is not None or state == TrialState.RUNNING:
        study.add_trial(create_trial(params=drawn, distributions=space, value=value, state=state))


def _imputed(metric: Metric, trial: Trial, trials: Sequence[Trial]) -> float | None:
    """The value that a failed run counts with, None as long as there is none."""
    known = [other.value for other in trials if other.state == "finished" and other.value is not None]
    if metric.impute == "latest":
        return trial.value
    pick = max if (metric.impute == "best") == (metric.sign > 0) else min
    return pick(known, default=None)


def _space(parameter: Parameter) -> BaseDistribution:
    """Places of choices, whole numbers, and for everything else quantiles, in which wandb searches as well."""
    if parameter.distribution == "categorical":
        return CategoricalDistribution(range(len(parameter.knobs["values"])))
    if parameter.distribution == "int_uniform":
        return IntDistribution(parameter.knobs["min"], parameter.knobs["max"])
    return FloatDistribution(EDGE, 1 - EDGE)


def _value(parameter: Parameter, drawn: Any) -> Any:
    if parameter.distribution == "categorical":
        return parameter.knobs["values"][drawn]
    return int(drawn) if parameter.distribution == "int_uniform" else parameter.value_at(drawn)


def _drawn(parameter: Parameter, value: Any) -> Any:
    """The inverse; None for a value that the parameter cannot have."""
    if parameter.distribution == "constant":
        return 0 if canonical(value) == canonical(parameter.knobs["value"]) else None
    if parameter.distribution == "categorical":
        return position(value, parameter.knobs["values"])
    if parameter.distribution == "int_uniform":
        inside = type(value) is int and parameter.knobs["min"] <= value <= parameter.knobs["max"]
        return value if inside else None
    return parameter.quantile_of(value)


def can_draw(sweep: Sweep, values: Values) -> bool:
    """Whether a run of the sweep can have these parameters, and no others."""
    paths = [parameter.path for parameter in sweep.parameters]
    own = [value_of(parameter, values) for parameter in sweep.parameters]
    if canonical(nested(sweep.parameters, own)) != canonical(values) or len(set(paths)) < len(paths):
        return False
    if sweep.method == "grid":
        return all(position(v, p.choices) is not None for p, v in zip(sweep.parameters, own, strict=True))
    return all(_drawn(p, v) is not None for p, v in zip(sweep.parameters, own, strict=True))


def nested(parameters: Sequence[Parameter], values: Sequence[Any]) -> Values:
    """Values by name, nested as their parameters are."""
    tree: Values = {}
    for parameter, value in zip(parameters, values, strict=True):
        node = tree
        for key in parameter.path[:-1]:
            node = node.setdefault(key, {})
        node[parameter.path[-1]] = value
    return tree


def value_of(parameter: Parameter, values: Values) -> Any:
    """A parameter's value in a run; None where it has none."""
    node: Any = values
    for key in parameter.path:
        node = node.get(key) if isinstance(node, dict) else None
    return node
