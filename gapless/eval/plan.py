"""Whether what a plan asks for can work."""

from gapless.config import Config, EvalPlan, check_types
from gapless.config.rules import Rule, check_config
from gapless.data.labelled import PAPER_SETS
from gapless.errors import ConfigError
from gapless.eval.datasets import find_dataset


def check_plan(plan: EvalPlan) -> None:
    """Raise ConfigError with the first key whose value cannot work, before any data or weights are read."""
    check_types(plan)
    rules: list[Rule] = [
        ("datasets", bool(plan.datasets), "a list of data sets"),
        ("tasks", bool(plan.tasks), "a list of tasks"),
        ("lambdas", bool(plan.lambdas), "a list of numbers"),
    ]
    for key, holds, needed in rules:
        if not holds:
            raise ConfigError(f"{key}: {getattr(plan, key)!r} does not work, it must be {needed}")
    for name in plan.datasets:
        splits = find_dataset(name).splits
        if plan.split and splits is not None and plan.split not in splits:
            known = f"the splits {' and '.join(splits)}" if splits else "one split only"
            raise ConfigError(f"split: {name} has {known}, not {plan.split!r}")
    if plan.heads is not None and "simat" not in plan.datasets:
        raise ConfigError(f"heads: {plan.heads} is for simat only, which is not among the datasets")
    if "pairs" in plan.datasets:
        check_config(Config(data=plan.data))


def dataset_names(plan: EvalPlan) -> list[str]:
    """The data sets of a plan, each once, with those that a name stands for."""
    names = (PAPER_SETS if name == "paper" else (name,) for name in plan.datasets)
    return list(dict.fromkeys(name for group in names for name in group))
