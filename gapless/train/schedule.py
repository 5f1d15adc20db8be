"""Weights and temperatures that change in the course of a run."""

import math
from collections.abc import Mapping

from gapless.config import Ramp
from gapless.models import ClipModel


class Schedule:
    """Sets what is scheduled before each step.

    Args:
        weights: by term; numbers stay as they are.
        temperature: of the model, if it is a ramp.
        model: whose temperature is set.
        total: steps of the whole run.
    """

    def __init__(
        self, weights: Mapping[str, float | Ramp], temperature: float | Ramp | None, model: ClipModel, total: int
    ) -> None:
        self.weights = {name: weight for name, weight in weights.items() if isinstance(weight, dict)}
        self.temperature = temperature if isinstance(temperature, dict) else None
        self.model, self.total = model, total

    def begin(self, step: int) -> dict[str, float]:
        """Set the temperature of a step, counted from 0; returns the scheduled weights."""
        if self.temperature is not None:
            self.model.set_temperature(scheduled(self.temperature, step, self.total))
        return {name: scheduled(weight, step, self.total) for name, weight in self.weights.items()}


def scheduled(value: float | Ramp, step: int, total: int) -> float:
    """The value at a step, counted from 0: a number as it is, a ramp as far as it has come.

    Args:
        value: a number, or from, to, and optionally start, end and shape.
        step: of the run.
        total: steps of the whole run.
    """
    if not isinstance(value, dict):
        return value
    start, end = _steps(value.get("start", 0.0), total), _steps(value.get("end", 1.0), total)
    done = min(1.0, max(0.0, (step - start) / max(1.0, end - start)))
    if value.get("shape") == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return value["from"] + done * (value["to"] - value["from"])


def _steps(moment: float, total: int) -> float:
    """Up to 1 a fraction of the run, whose last step is 1; above it a step."""
    return moment * (total - 1) if moment <= 1 else moment
