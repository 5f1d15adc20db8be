"""Parameters of sweep files by their numbers: choices, quantiles and their inverse, equality, and order."""

import math

import pytest

from gapless.errors import ConfigError
from gapless.sweep.parameters import (
    EDGE,
    Parameter,
    canonical,
    is_plain,
    position,
    read_parameters,
    refuse,
    same,
)


def parameter(kind, **knobs):
    return Parameter(("a", "b"), kind, knobs)


def test_names_are_paths():
    assert parameter("constant", value=1).name == "a.b"


@pytest.mark.parametrize(
    ("kind", "knobs", "choices"),
    [
        ("constant", {"value": None}, [None]),
        ("int_uniform", {"min": 3, "max": 5}, [3, 4, 5]),
        ("q_uniform", {"min": 0.5, "max": 2, "q": 0.5}, [0.5, 1.0, 1.5]),
        ("categorical", {"values": ["b", "a"]}, ["b", "a"]),
    ],
)
def test_choices_of_a_grid(kind, knobs, choices):
    assert parameter(kind, **knobs).choices == choices


QUANTILES = [
    ("uniform", {"min": 1.0, "max": 5.0}, 0.25, 2.0),
    ("log_uniform_values", {"min": 0.01, "max": 100.0}, 0.25, 0.1),
    ("inv_log_uniform_values", {"min": 0.01, "max": 100.0}, 0.75, 10.0),
    ("normal", {"mu": 3.0, "sigma": 2.0}, 0.8413447460685429, 5.0),
    ("log_normal", {"mu": 1.0, "sigma": 0.5}, 0.5, math.e),
    ("log_normal", {"mu": 1.0, "sigma": 0.5}, 0.8413447460685429, math.exp(1.5)),
    ("beta", {"a": 1.0, "b": 2.0}, 0.75, 0.5),
]


@pytest.mark.parametrize(("kind", "knobs", "quantile", "value"), QUANTILES)
def test_values_at_quantiles_and_back(kind, knobs, quantile, value):
    made = parameter(kind, **knobs)
    assert made.value_at(quantile) == pytest.approx(value)
    assert made.quantile_of(value) == pytest.approx(quantile)


def test_rounded_values_are_multiples_and_whole_ones_stay_whole():
    halves = parameter("q_uniform", min=0.0, max=4.0, q=0.5)
    assert halves.value_at(0.3) == 1.0
    assert halves.value_at(0.3 + 0.05) == 1.5
    whole = parameter("q_normal", mu=0.0, sigma=10.0, q=3.0)
    assert (whole.value_at(0.75), type(whole.value_at(0.75))) == (6, int)
    assert type(parameter("uniform", min=0.0, max=4.0).value_at(0.25)) is float
    assert type(halves.value_at(0.25)) is float
    # Half a step beyond its ends a rounded value is still one of the parameter.
    assert halves.quantile_of(4.25) == 1 - EDGE
    assert halves.quantile_of(-0.25) == EDGE
    assert halves.quantile_of(4.26) is None
    assert halves.quantile_of(-0.26) is None


def test_values_that_a_distribution_does_not_give():
    made = parameter("uniform", min=1.0, max=5.0)
    assert [made.quantile_of(value) for value in (0.9, 5.1, "3", True, None)] == [None] * 5
    assert (made.quantile_of(1), made.quantile_of(5)) == (EDGE, 1 - EDGE)
    assert made.quantile_of(2) == pytest.approx(0.25)
    assert parameter("normal", mu=0.0, sigma=1.0).quantile_of(100) == 1 - EDGE


def test_choices_with_probabilities():
    made = parameter("categorical_w_probabilities", values=["x", "y", "z"], probabilities=[0.25, 0.5, 0.25])
    assert [made.value_at(q) for q in (0.0, 0.24, 0.26, 0.74, 0.76, 1.0)] == ["x", "x", "y", "y", "z", "z"]
    assert [made.quantile_of(v) for v in ("x", "y", "z", "w")] == [0.125, 0.5, 0.875, None]


def test_parameters_are_in_wandbs_order_level_by_level():
    tree = {
        "z": {"value": 1},
        "b": {"parameters": {"y": {"min": 1, "max": 2}, "x": {"values": [1]}}},
        "a": {"value": 2},
    }
    assert [(p.path, p.distribution) for p in read_parameters(tree, False)] == [
        (("a",), "constant"),
        (("b", "x"), "categorical"),
        (("b", "y"), "int_uniform"),
        (("z",), "constant"),
    ]


def test_knobs_have_the_defaults_of_their_distribution():
    tree = {"n": {"distribution": "q_normal", "sigma": 3}, "b": {"distribution": "beta", "b": 2}}
    beta, normal = read_parameters(tree, False)
    assert beta.knobs == {"a": 1.0, "b": 2}
    assert normal.knobs == {"mu": 0.0, "sigma": 3, "q": 1.0}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"a": {"min": 0.0, "max": 1.0}},
            "parameters.a: method grid takes values, whole numbers from min to max, or q_uniform, not uniform",
        ),
        (
            {"a": {"min": 0, "max": 100_000}},
            "parameters: the grid has more than 100000 points; take method random, or fewer values",
        ),
        (
            {"a": {"values": [1], "valeus": 1}},
            "parameters.a.valeus: unknown key, did you mean values?",
        ),
        (
            {"a": {"values": [1], "q": 1}},
            "parameters.a.q: unknown key, distribution categorical takes values",
        ),
        ({"a": {"max": 1}}, "parameters.a.min: missing, distribution uniform takes min, max"),
        (
            {"a": {}},
            "parameters.a: it must have value, values, min and max, a distribution, or parameters",
        ),
        (
            {"a": {"parameters": {"b": {"value": 1}}, "value": 3}},
            "parameters.a: \"['parameters', 'value']\" does not work, it must be parameters alone, or without them",
        ),
        ({"a": {"parameters": 3}}, "parameters.a.parameters: '3' does not work, it must be a mapping of parameters"),
        ({"a!": {"value": 1}}, "parameters.a!: 'a!' does not work, it must be a name of letters, digits, _ . -"),
        ({"a": 3}, "parameters.a: '3' does not work, it must be a mapping with value, values, min and max ..."),
        (
            {"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}},
            "parameters.a.b: '...' does not work, it must be there once, nested or not",
        ),
        (
            {"a": {"distribution": "log_uniform", "min": 0, "max": 1}},
            "parameters.a.distribution: log_uniform has exponents of e as bounds; use log_uniform_values and the "
            "values",
        ),
        ({"a": {"values": 1}}, "parameters.a.values: '1' does not work, it must be a list of at least one value"),
        (
            {"a": {"value": {1, 2}}},
            "parameters.a.value: '{1, 2}' does not work, it must be numbers, texts, true, false, null, lists or "
            "mappings",
        ),
        (
            {"a": {"values": [1, 2], "probabilities": [0.5, 0.6]}},
            "parameters.a.probabilities: '[0.5, 0.6]' does not work, it must be as many numbers as values, 0 or more, "
            "with sum 1",
        ),
        (
            {"a": {"min": 0, "max": 2**53 + 1}},
            "parameters.a.min: '0' does not work, it must be a whole number, and max too, of at most 2 to the 53",
        ),
        (
            {"a": {"distribution": "log_normal", "mu": 1000}},
            "parameters.a: \"{'mu': 1000, 'sigma': 1.0}\" does not work, it must be a distribution of finite values",
        ),
        ({"a": {"distribution": "normal", "sigma": 0}}, "parameters.a.sigma: '0' does not work, it must be positive"),
        (
            {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}},
            "parameters.a.min: '0' does not work, it must be positive for log_uniform_values",
        ),
        ({"a": {"min": 2, "max": 2}}, "parameters.a.min: '2' does not work, it must be less than max, 2"),
        (
            {"a": {"min": "1e-3", "max": 1}},
            "parameters.a.min: '1e-3' does not work, it must be a finite number (YAML reads 1e-3 as text, 1.0e-3 as a "
            "number)",
        ),
        (
            {"a": {"distribution": "wave"}},
            "parameters.a.distribution: 'wave' does not work, it must be one of constant, categorical, "
            "categorical_w_probabilities, int_uniform, uniform, log_uniform_values, inv_log_uniform_values, normal, "
            "log_normal, beta, q_uniform, q_log_uniform_values, q_normal, q_log_normal, q_beta",
        ),
    ],
)
def test_what_is_refused_in_its_words(tree, message):
    with pytest.raises(ConfigError) as error:
        read_parameters(tree, True)
    assert str(error.value) == message


def test_a_grid_of_as_many_points_as_are_allowed():
    assert len(read_parameters({"a": {"min": 1, "max": 1000}, "b": {"values": list(range(100))}}, True)) == 2
    assert len(read_parameters({"a": {"distribution": "q_uniform", "min": 0, "max": 100_000, "q": 1}}, True)) == 1
    with pytest.raises(ConfigError, match="more than 100000"):
        read_parameters({"a": {"min": 1, "max": 1001}, "b": {"values": list(range(100))}}, True)


def test_parameters_are_nested_twenty_times_at_most():
    tree = {"a": {"value": 1}}
    for _ in range(19):
        tree = {"a": {"parameters": tree}}
    assert len(read_parameters(tree, True)[0].path) == 20
    with pytest.raises(
        ConfigError, match=r"^parameters(\.a){21}: '...' does not work, it must be nested at most 20 times"
    ):
        read_parameters({"a": {"parameters": tree}}, True)


def test_long_values_are_cut_in_refusals():
    with pytest.raises(ConfigError) as error:
        refuse(False, "key", "y" * 90, "short")
    assert str(error.value) == f"key: '{'y' * 80}' does not work, it must be short"
    refuse(True, "key", 1, "anything")


def test_equality_is_wandbs():
    assert same(3.0, 3)
    assert not same(True, 1)
    assert not same(1, "1")
    assert same({"b": [1.0], "a": 2}, {"a": 2.0, "b": [1]})
    assert not same([1, 2], [2, 1])
    assert not same({"a": 1}, {"a": 2})
    assert same(math.nan, math.nan)
    assert position(2.0, [1, 2, 2]) == 1
    assert position(True, [1, 2]) is None
    assert canonical([1.0, {"a": 2.0}]) == canonical([1, {"a": 2}])


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        *((v, True) for v in (1, "a", None, [1, {"a": True}], 0.5, "\u65e5")),
        *((v, False) for v in ({1: 2}, (1, 2), {1}, "a\0", "\udcff", float("nan"))),
    ],
)
def test_values_that_come_back_from_json_and_fit_a_command_line(value, plain):
    assert is_plain(value) is plain
