"""Sweep files made at random: each is drawn from, or refused in one line."""

import os
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapless.errors import ConfigError
from gapless.sweep.command import command_of
from gapless.sweep.file import KEYS, METRIC_KEYS, REFUSED, load_sweep, read_sweep
from gapless.sweep.parameters import DISTRIBUTIONS, EXPONENTS
from gapless.sweep.search import Trial, can_draw, next_parameters

NUMBERS = [-3, 0, 1, 2, 12, -0.5, 0.0, 0.25, 1.5, 1e-6, 1e-320, 1e308, -1e308, 10**400, float("nan"), float("inf")]
STRANGE = [
    *NUMBERS,
    True,
    None,
    "",
    "1e-3",
    "a.b",
    "${args}",
    "\0",
    "\ud800",
    "é\n",
    [],
    [1, "x"],
    {},
    {"a": 1},
    {1: 2},
]
ANY = st.sampled_from(STRANGE)
GOOD = {"min": 0.5, "max": 2, "mu": 1, "sigma": 2.5, "a": 2, "b": 0.5, "q": 0.25, "value": 3, "values": [1, "x"]}
KINDS = st.sampled_from([*DISTRIBUTIONS, *EXPONENTS, None])
SLIPS = st.lists(st.tuples(st.sampled_from([*GOOD, "probabilities", "distribution", "extra"]), ANY), max_size=2)


@st.composite
def parameter(draw):
    """What a distribution takes, with up to two slips."""
    kind = draw(KINDS)
    knobs = {name: GOOD.get(name, [0.5, 0.5]) for name in DISTRIBUTIONS.get(kind, {"min": 0, "max": 0})}
    return knobs | ({"distribution": kind} if kind else {}) | dict(draw(SLIPS))


NAMES = st.sampled_from(["a", "optim.lr", "optim", "b-c", "", "d e", 3])
LEVEL = st.dictionaries(NAMES, parameter(), max_size=2)
PARAMETERS = LEVEL | st.builds(lambda inner, name: {name: {"parameters": inner}}, LEVEL, NAMES) | ANY
METRIC = st.builds(
    lambda goal, slips: {"name": "a/b", "goal": goal} | dict(slips),
    st.sampled_from(["minimize", "maximize"]),
    st.lists(st.tuples(st.sampled_from([*METRIC_KEYS, "extra"]), ANY), max_size=1),
)
COMMAND = st.lists(st.sampled_from(["${args}", "${args_json}", "${envvar:HOME}", "train", "${x}", 3, None]), max_size=3)
TREES = st.builds(
    lambda method, parameters, metric, command, slips: (
        {"method": method, "parameters": parameters, "metric": metric, "command": command} | dict(slips)
    ),
    st.sampled_from(["grid", "random", "bayes"]),
    PARAMETERS,
    METRIC,
    COMMAND,
    st.lists(st.tuples(st.sampled_from([*KEYS, *REFUSED, "extra"]), ANY), max_size=1),
)
TEXTS = st.one_of(
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=30),
    st.builds(
        lambda tree, at, more: (text := yaml.dump(tree))[:at] + more + text[at:],
        TREES,
        st.integers(0, 300),
        st.text(max_size=2),
    ).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
EXAMPLES = 30_000 if os.environ.get("GAPLESS_FAULTS") == "full" else 600


def fuzz(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@fuzz(EXAMPLES)
@given(TREES)
def test_sweeps(tree):
    refused_in_a_line(lambda: draw_from(read_sweep(tree, "file")))


@fuzz(EXAMPLES // 10)
@given(TEXTS)
def test_files(text):
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(text)
        file.flush()
        refused_in_a_line(lambda: draw_from(load_sweep(Path(file.name))))


def refused_in_a_line(act):
    said = ""
    try:
        act()
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said


def draw_from(sweep):
    """Two runs of a sweep, and their commands."""
    trials: list[Trial] = []
    for number in range(2):
        parameters = next_parameters(sweep, trials, 0)
        if parameters is None:
            break
        assert can_draw(sweep, parameters)
        trials.append(Trial(parameters, "finished", "", float(number)))
        assert all(isinstance(word, str) for word in command_of(sweep, parameters, Path("args.json")))
