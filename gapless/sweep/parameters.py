"""The parameters of a sweep file: wandb's distributions, flat and nested."""

import difflib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from gapless.errors import ConfigError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
BOUNDS: dict[str, float | None] = {"min": None, "max": None}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": BOUNDS,
    "uniform": BOUNDS,
    "log_uniform_values": BOUNDS,
    "inv_log_uniform_values": BOUNDS,
    "normal": {"mu": 0.0, "sigma": 1.0},
    "log_normal": {"mu": 0.0, "sigma": 1.0},
    "beta": {"a": 1.0, "b": 1.0},
}
"""What each takes, with the value where the file has none; None must be given."""
DISTRIBUTIONS |= {
    f"q_{name}": DISTRIBUTIONS[name] | {"q": 1.0}
    for name in ("uniform", "log_uniform_values", "normal", "log_normal", "beta")
}
EXPONENTS = ("log_uniform", "inv_log_uniform", "q_log_uniform")
"""wandb's older names, whose bounds are exponents of e: mostly written by mistake, and deprecated by wandb."""
GRID = ("constant", "categorical", "int_uniform", "q_uniform")
MAX_GRID = 100_000
LARGEST = 2**53
"""Whole numbers up to here are exact as floats."""
EDGE = 2.0**-32
"""Quantiles are drawn between this and 1 minus this, since those of 0 and 1 may be infinite."""


@dataclass(frozen=True)
class Parameter:
    """One value that every run gets."""

    path: tuple[str, ...]
    """Its key, and those of the parameters around it."""
    distribution: str
    knobs: Mapping[str, Any]
    """Of the distribution, all of them."""

    @property
    def name(self) -> str:
        """As tables and errors name it."""
        return ".".join(self.path)

    @property
    def choices(self) -> list[Any]:
        """All values of a grid."""
        if self.distribution == "constant":
            return [self.knobs["value"]]
        if self.distribution == "int_uniform":
            return list(range(self.knobs["min"], self.knobs["max"] + 1))
        if self.distribution == "q_uniform":  # without its end, as wandb has it
            values: list[Any] = np.arange(self.knobs["min"], self.knobs["max"], self.knobs["q"]).tolist()
            return values
        return list(self.knobs["values"])

    @property
    def _continuous(self) -> tuple[Any, dict[str, float]]:
        """scipy's distribution before it is rounded to multiples of q, and its arguments."""
        knobs, kind = self.knobs, self.distribution.removeprefix("q_").removeprefix("inv_")
        if kind == "uniform":
            return stats.uniform, {"loc": knobs["min"], "scale": knobs["max"] - knobs["min"]}
        if kind == "log_uniform_values":
            return stats.loguniform, {"a": knobs["min"], "b": knobs["max"]}
        if kind == "normal":
            return stats.norm, {"loc": knobs["mu"], "scale": knobs["sigma"]}
        if kind == "log_normal":
            return stats.lognorm, {"s": knobs["sigma"], "scale": float(np.exp(knobs["mu"]))}
        return stats.beta, {"a": knobs["a"], "b": knobs["b"]}

    def value_at(self, quantile: float) -> Any:
        """The value below which the share ``quantile`` of the distribution lies."""
        if "probabilities" in self.knobs:
            place = np.searchsorted(np.cumsum(self.knobs["probabilities"]), quantile, side="right")
            return self.knobs["values"][min(int(place), len(self.knobs["values"]) - 1)]
        with _quiet():
            distribution, arguments = self._continuous
            value = float(distribution.ppf(quantile, **arguments))
            if "q" in self.knobs:
                q = self.knobs["q"]
                value = float(np.round(value / q) * q)
        # Multiples of a whole number stay whole: --train.epochs=3.0 would be refused.
        return int(value) if float(self.knobs.get("q", 0.5)).is_integer() and math.isfinite(value) else value

    def quantile_of(self, value: Any) -> float | None:
        """The quantile of a value, None where the distribution does not give it."""
        if "probabilities" in self.knobs:
            place = position(value, self.knobs["values"])
            return (
                None
                if place is None
                else float(np.cumsum([0.0, *self.knobs["probabilities"]])[place : place + 2].mean())
            )
        if type(value) not in (int, float):
            return None
        slack = self.knobs.get("q", 0.0) / 2
        low, high = self.knobs.get("min", -math.inf) - slack, self.knobs.get("max", math.inf) + slack
        if not low <= value <= high:
            return None
        with _quiet():
            distribution, arguments = self._continuous
            return float(np.clip(distribution.cdf(value, **arguments), EDGE, 1 - EDGE))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of quantiles near 0 and 1; whether they are finite is checked when the file is read."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_parameters(tree: Mapping[Any, Any], grid: bool) -> tuple[Parameter, ...]:
    """The parameters of a file in wandb's order.

    Args:
        tree: what stands under ``parameters``.
        grid: whether all values of each must be countable.

    Raises:
        ConfigError: names the parameter and its key.
    """
    parameters = tuple(_walk(tree, ()))
    names = [parameter.name for parameter in parameters]
    for parameter in parameters:
        refuse(names.count(parameter.name) == 1, f"parameters.{parameter.name}", "...", "there once, nested or not")
        if grid and parameter.distribution not in GRID:
            raise ConfigError(
                f"parameters.{parameter.name}: method grid takes values, whole numbers from min to max, "
                f"or q_uniform, not {parameter.distribution}"
            )
    if grid and math.prod(map(_grid_size, parameters)) > MAX_GRID:
        raise ConfigError(f"parameters: the grid has more than {MAX_GRID} points; take method random, or fewer values")
    return parameters


def _grid_size(parameter: Parameter) -> float:
    """Without making the list, which may be endless."""
    knobs, kind = parameter.knobs, parameter.distribution
    if kind in ("int_uniform", "q_uniform"):
        return math.ceil(min((knobs["max"] - knobs["min"]) / knobs.get("q", 1), MAX_GRID + 1)) + (kind == "int_uniform")
    return len(parameter.choices)


def _walk(tree: Mapping[Any, Any], above: tuple[str, ...]) -> Iterator[Parameter]:
    for key in tree:
        where = ".".join(("parameters", *above, str(key)))
        refuse(isinstance(key, str) and NAME.fullmatch(key) is not None, where, key, "a name of letters, digits, _ . -")
        refuse(isinstance(tree[key], dict), where, tree[key], "a mapping with value, values, min and max ...")
        refuse(len(above) < 20, where, "...", "nested at most 20 times")
    for key in sorted(tree):
        knobs, path = tree[key], (*above, key)
        if "parameters" not in knobs:
            yield _parameter(path, knobs)
            continue
        where = ".".join(("parameters", *path))
        refuse(set(knobs) == {"parameters"}, where, sorted(map(str, knobs)), "parameters alone, or without them")
        inner = knobs["parameters"]
        refuse(isinstance(inner, dict) and bool(inner), f"{where}.parameters", inner, "a mapping of parameters")
        yield from _walk(inner, path)


def _parameter(path: tuple[str, ...], knobs: Mapping[Any, Any]) -> Parameter:
    where = ".".join(("parameters", *path))
    kind = knobs.get("distribution", _kind(knobs))
    if kind in EXPONENTS:
        raise ConfigError(
            f"{where}.distribution: {kind} has exponents of e as bounds; use {kind}_values and the values"
        )
    if kind is None:
        raise ConfigError(f"{where}: it must have value, values, min and max, a distribution, or parameters")
    refuse(
        isinstance(kind, str) and kind in DISTRIBUTIONS,
        f"{where}.distribution",
        kind,
        f"one of {', '.join(DISTRIBUTIONS)}",
    )
    known = DISTRIBUTIONS[kind]
    for key in knobs:
        if key != "distribution" and key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"distribution {kind} takes {', '.join(known)}"
            raise ConfigError(f"{where}.{key}: unknown key, {hint}")
    for key, default in known.items():
        if key not in knobs and default is None:
            raise ConfigError(f"{where}.{key}: missing, distribution {kind} takes {', '.join(known)}")
    filled = known | {key: value for key, value in knobs.items() if key != "distribution"}
    _check_knobs(where, kind, filled)
    return Parameter(path, kind, filled)


def _kind(knobs: Mapping[Any, Any]) -> str | None:
    """wandb's rule for a parameter without a distribution."""
    if "value" in knobs:
        return "constant"
    if "values" in knobs:
        return "categorical_w_probabilities" if "probabilities" in knobs else "categorical"
    if "min" in knobs or "max" in knobs:
        whole = type(knobs.get("min")) is int and type(knobs.get("max")) is int
        return "int_uniform" if whole else "uniform"
    return None


def _check_knobs(where: str, kind: str, knobs: Mapping[str, Any]) -> None:
    if "values" in knobs:
        values = knobs["values"]
        refuse(isinstance(values, list) and bool(values), f"{where}.values", values, "a list of at least one value")
    for key in sorted({"value", "values"} & set(knobs)):
        refuse(
            is_plain(knobs[key]), f"{where}.{key}", knobs[key], "numbers, texts, true, false, null, lists or mappings"
        )
    if "probabilities" in knobs:
        shares = knobs["probabilities"]
        holds = isinstance(shares, list) and len(shares) == len(knobs["values"]) and all(map(_is_number, shares))
        holds = holds and min(shares) >= 0 and math.isclose(sum(shares), 1, rel_tol=1e-5)
        refuse(holds, f"{where}.probabilities", shares, "as many numbers as values, 0 or more, with sum 1")
    for key in sorted({"min", "max", "mu", "sigma", "a", "b", "q"} & set(knobs)):
        value = knobs[key]
        hint = " (YAML reads 1e-3 as text, 1.0e-3 as a number)" if isinstance(value, str) else ""
        refuse(_is_number(value), f"{where}.{key}", value, f"a finite number{hint}")
        refuse(key not in ("sigma", "a", "b", "q") or value > 0, f"{where}.{key}", value, "positive")
    if "min" in knobs:
        low, high = knobs["min"], knobs["max"]
        refuse(low < high, f"{where}.min", low, f"less than max, {high!r}")
        refuse("log" not in kind or low > 0, f"{where}.min", low, f"positive for {kind}")
        if kind == "int_uniform":
            whole = type(low) is int and type(high) is int and low >= -LARGEST and high <= LARGEST
            refuse(whole, f"{where}.min", low, "a whole number, and max too, of at most 2 to the 53")
    if kind not in ("constant", "categorical", "categorical_w_probabilities", "int_uniform"):
        made = Parameter((where,), kind, knobs)
        finite = all(math.isfinite(made.value_at(quantile)) for quantile in (EDGE, 0.5, 1 - EDGE))
        refuse(finite, where, dict(knobs), "a distribution of finite values")


def refuse(holds: bool, key: str, value: Any, rule: str) -> None:
    """Raise ConfigError that names the key, unless its value holds."""
    if not holds:
        raise ConfigError(f"{key}: {str(value)[:80]!r} does not work, it must be {rule}")


def position(value: Any, values: list[Any]) -> int | None:
    """Where a value stands, 3.0 being 3 and true not 1, as wandb compares them; None if it is not there."""
    return next((k for k, other in enumerate(values) if same(value, other)), None)


def same(a: Any, b: Any) -> bool:
    """Whether two values are one to wandb."""
    return canonical(a) == canonical(b)


def canonical(value: Any) -> str:
    """A text that two values share if they are one to wandb."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict):
        return repr(sorted((canonical(k), canonical(v)) for k, v in value.items()))
    return repr([canonical(v) for v in value]) if isinstance(value, list) else repr(value)


def is_plain(value: Any) -> bool:
    """Whether a value comes back the same from JSON, and can be part of a command line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        return "\\u0000" not in text and bool(text.encode()) and json.loads(text) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond floats
        return False
