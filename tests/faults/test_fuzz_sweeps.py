"""Sweep files made at random: each is drawn from, or refused in one line."""

import os
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapless.errors import ConfigError
from gapless.reproduce.sweep.command import command_of
from gapless.reproduce.sweep.file import KEYS, METRIC_KEYS, REFUSED, load_sweep
from gapless.reproduce.sweep.parameters import DISTRIBUTIONS, EXPONENTS
from gapless.reproduce.sweep.search import Trial, can_draw, next_parameters

FULL = os.environ.get("GAPLESS_FAULTS") == "full"
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.floats(-2, 2),
    st.sampled_from([0, 1, 1e-6, 1e-320, 1e308, -1e308, 10**400, float("nan"), float("inf"), True]),
)
SCALARS = st.one_of(NUMBERS, st.none(), st.text(max_size=3), st.sampled_from(["1e-3", "${args}", "a.b", "\0", "None"]))
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=2), v, max_size=2), max_leaves=4
)
KINDS = st.sampled_from([*DISTRIBUTIONS, *EXPONENTS])
KNOBS = dict.fromkeys(("min", "max", "mu", "sigma", "a", "b", "q"), NUMBERS) | {
    "values": st.lists(SCALARS, max_size=3),
    "value": VALUES,
    "probabilities": st.lists(NUMBERS, max_size=3) | st.just([0.5, 0.5]),
}


@st.composite
def knobs(draw):
    """Mostly what a distribution takes."""
    kind = draw(KINDS)
    chosen = {name: draw(KNOBS[name]) for name in DISTRIBUTIONS.get(kind, {"min": 0, "max": 0})}
    if draw(st.booleans()) or kind.startswith(("q_", "log", "inv", "normal", "beta")):
        chosen["distribution"] = kind
    if draw(st.integers(0, 5)) == 0:
        chosen[draw(st.sampled_from([*KNOBS, "distribution", "extra"]))] = draw(VALUES)
    return chosen


NAMES = st.sampled_from(["a", "optim.lr", "optim", "b-c"]) | st.text(max_size=2)
PARAMETERS = st.recursive(
    st.dictionaries(NAMES, knobs(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, st.fixed_dictionaries({"parameters": inner}), min_size=1, max_size=2),
    max_leaves=3,
)
METRICS = st.fixed_dictionaries(
    {"name": st.just("a/b")},
    optional={"goal": st.sampled_from(["minimize", "maximize", "min"]), "target": NUMBERS}
    | {key: VALUES for key in METRIC_KEYS if key not in ("name", "goal", "target")},
)
COMMANDS = st.lists(
    st.sampled_from(["${args}", "${args_json}", "${envvar:HOME}", "train", "${x}", 3]) | VALUES, max_size=3
)
TREES = st.fixed_dictionaries(
    {"method": st.sampled_from(["grid", "random", "bayes"]), "parameters": PARAMETERS},
    optional={"metric": METRICS, "command": COMMANDS, "run_cap": st.integers(0, 3)}
    | {key: VALUES for key in (*KEYS, *REFUSED) if key not in ("method", "parameters", "metric", "command", "run_cap")},
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30),
    VALUES.map(yaml.dump),
    st.tuples(TREES.map(yaml.dump), st.integers(0, 400), st.text(max_size=3)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    ),
)
FUZZ = settings(
    max_examples=30_000 if FULL else int(os.environ.get("N","2000")),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@FUZZ
@given(tree=TREES | TREES | TREES.map(yaml.dump) | TEXTS)
def test_sweep_files(tree):
    text = tree if isinstance(tree, str | bytes) else yaml.dump(tree)
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        file.flush()
        said = ""
        try:
            draw_from(Path(file.name))
        except ConfigError as error:
            said = str(error)
        assert not said or said.startswith((f"{file.name}: ", "command: "))
        assert "\n" not in said


def draw_from(path: Path) -> None:
    """Two runs of a file, and their commands."""
    sweep = load_sweep(path)
    trials: list[Trial] = []
    for number in range(2):
        parameters = next_parameters(sweep, trials, 0)
        if parameters is None:
            break
        assert can_draw(sweep, parameters)
        trials.append(Trial(parameters, "finished", "", float(number)))
        assert all(isinstance(word, str) for word in command_of(sweep, parameters, Path("args.json")))
