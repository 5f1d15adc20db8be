import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml

from gapless.errors import ConfigError, NonFiniteError
from gapless.loss_terms import TERMS
from gapless.losses import (
    PRESETS,
    Objective,
    alignment_loss,
    clip_loss,
    cross_uniformity_loss,
    siglip_loss,
    uniformity_loss,
)


def spread(image_features, text_features, logit_scale):
    """A user's own term: mean absolute similarity."""
    return (image_features @ text_features.T).abs().mean()


def constant(value):
    return lambda: torch.tensor(value)


def of_images(image_features, text_features, logit_scale):
    """A term that the sides, swapped, would change."""
    return logit_scale * image_features[:, 0].sum()


def test_cuaxu_is_the_sum_of_its_terms(unit):
    x, y, scale = unit(16, 8), unit(16, 8, 1), torch.tensor(100.0, dtype=torch.float64)
    values = Objective(PRESETS["cuaxu"])(x, y, scale)
    expected = {
        "clip": clip_loss(x, y, scale),
        "uniform": uniformity_loss(x, y),
        "align": alignment_loss(x, y),
        "cross_uniform": cross_uniformity_loss(x, y),
    }
    assert set(values) == {*expected, "loss"}
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-12)
    assert values["loss"].item() == pytest.approx(sum(v.item() for v in expected.values()), rel=1e-12)


LOGGED = {
    "cuaxu": ({"clip": 2.9085, "uniform": -3.7688, "cross_uniform": -3.8169, "align": 0.6869}, -3.9904),
    "cua": ({"clip": 3.0726, "uniform": -3.6363, "align": 0.4049}, -0.1588),
}
"""What the contrastive-gap paper's runs logged of each term, and their total."""


@pytest.mark.parametrize("preset", LOGGED)
def test_a_presets_loss_is_the_authors_logged_total_of_its_terms(preset, unit, monkeypatch):
    terms, total = LOGGED[preset]
    for name, value in terms.items():
        monkeypatch.setattr(f"gapless.losses.{TERMS[name].function}", constant(value))
    values = Objective(PRESETS[preset], implementation="plain")(unit(4, 8), unit(4, 8, 1), torch.tensor(100.0))
    assert {name: value.item() for name, value in values.items()} == pytest.approx(terms | {"loss": total}, abs=2e-4)


def test_weights_scale_the_loss_and_not_the_terms(unit):
    x, y, scale = unit(16, 8), unit(16, 8, 1), torch.tensor(10.0, dtype=torch.float64)
    once, thrice = Objective({"align": 1.0})(x, y, scale), Objective({"align": 3.0})(x, y, scale)
    assert once["align"].item() == thrice["align"].item()
    assert thrice["loss"].item() == pytest.approx(3 * once["loss"].item())


def test_knobs_reach_their_terms(unit):
    x, y, scale = unit(16, 8), unit(16, 8, 1), torch.tensor(10.0, dtype=torch.float64)
    values = Objective({"uniform": 1, "cross_uniform": 1, "align": 1}, uniform_t=3.0, align_alpha=1.0)(x, y, scale)
    assert values["uniform"].item() == pytest.approx(uniformity_loss(x, y, 3.0).item())
    assert values["cross_uniform"].item() == pytest.approx(cross_uniformity_loss(x, y, 3.0).item())
    assert values["align"].item() == pytest.approx(alignment_loss(x, y, 1.0).item())
    assert Objective({"clip": 1}, hardness=0.5)(x, y, scale)["clip"].item() == clip_loss(x, y, scale, 0.5).item()


def test_each_input_of_a_batch_reaches_its_parameter(unit):
    x, y, groups = unit(6, 8), unit(6, 8, 1), torch.tensor([[0], [0], [1], [2], [3], [4]])
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-0.3, dtype=torch.float64)
    one_sided = f"{__name__}:of_images"
    values = Objective({"siglip": 1, "siglip_relative": 1, one_sided: 1})(x, y, scale, bias, groups)
    assert values["siglip"].item() == pytest.approx(siglip_loss(x, y, scale, bias, groups).item(), rel=1e-12)
    assert values["siglip_relative"].item() == pytest.approx(siglip_loss(x, y, scale, -3.0, groups).item(), rel=1e-12)
    assert values[one_sided].item() == pytest.approx(10 * x[:, 0].sum().item())


@pytest.mark.parametrize(
    ("terms", "temperature", "bias"),
    [
        (["clip"], True, None),
        (["simclr"], True, None),
        (["align", "uniform"], False, None),
        (["koleo", f"{__name__}:spread"], True, None),
        (["clip", "siglip"], True, -10),
        (["siglip_relative"], True, -1),
    ],
)
def test_the_model_is_told_whether_terms_need_a_temperature_or_a_bias(terms, temperature, bias):
    objective = Objective(dict.fromkeys(terms, 1.0))
    assert (objective.uses_temperature, objective.initial_bias) == (temperature, bias)


def test_a_users_own_term(unit):
    name = f"{__name__}:spread"
    objective = Objective({"clip": 1.0, name: 0.5})
    x, y, scale = unit(16, 8), unit(16, 8, 1), torch.tensor(10.0, dtype=torch.float64)
    values = objective(x, y, scale)
    assert values[name].item() == pytest.approx((x @ y.T).abs().mean().item())
    assert values["loss"].item() == pytest.approx(values["clip"].item() + 0.5 * values[name].item())


def test_half_precision_features_are_computed_in_float32(unit):
    x, y = unit(16, 8).bfloat16(), unit(16, 8, 1).bfloat16()
    values = Objective(PRESETS["cuaxu"])(x, y, torch.tensor(10.0))
    assert all(value.dtype == torch.float32 for value in values.values())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "no term is set"),
        ({"unifrom": 1.0}, "did you mean uniform"),
        ({"nothing.like.it:f": 1.0}, "cannot be imported"),
        ({"math:nothing": 1.0}, "cannot be imported"),
    ],
)
def test_wrong_terms_fail_before_any_data(terms, message):
    with pytest.raises(ConfigError, match=message):
        Objective(terms)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"uniform_t": -1.0}, "loss.uniform_t: -1"),
        ({"align_alpha": 0.0}, "loss.align_alpha"),
        ({"hardness": -1.0}, "loss.hardness"),
    ],
)
def test_knobs_out_of_range_are_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        Objective({"clip": 1.0}, **knobs)


@pytest.mark.parametrize("implementation", ["plain", "tiled"])
def test_bad_features_are_named_and_never_nan(unit, implementation):
    objective = Objective({"clip": 1.0, "uniform": 1.0}, implementation=implementation)
    scale = torch.tensor(10.0)
    for value, message in ((torch.nan, "not finite"), (torch.inf, "not finite"), (0.0, "all zero")):
        y = unit(5, 4, 1)
        y[3] = value
        with pytest.raises(NonFiniteError, match=f"clip, uniform: row 3 of text_features is {message}"):
            objective(unit(5, 4), y, scale)
    with pytest.raises(ValueError, match=r"row 0 of image_features has length 3, normalise"):
        objective(3 * unit(5, 4), unit(5, 4), scale)
    with pytest.raises(ValueError, match="uniform: at least 2 pairs are needed, got 1"):
        objective(unit(1, 4), unit(1, 4), scale)
    with pytest.raises(ValueError, match="at least 2 pairs are needed, got 0"):
        objective(unit(0, 4), unit(0, 4), scale)


def test_weights_of_a_step_replace_the_first_ones(unit):
    x, y, scale = unit(16, 8), unit(16, 8, 1), torch.tensor(10.0, dtype=torch.float64)
    values = Objective({"clip": 1.0, "align": 5.0})(x, y, scale, weights={"align": 0.25})
    assert values["loss"].item() == pytest.approx(values["clip"].item() + 0.25 * values["align"].item())


def test_shapes_must_match(unit):
    with pytest.raises(ValueError, match=r"image_features \(4, 8\).*text_features \(5, 8\)"):
        Objective({"clip": 1.0})(unit(4, 8), unit(5, 8), torch.tensor(1.0))


def test_the_documented_example_of_a_users_own_term(tmp_path, monkeypatch, unit):
    text = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    (example,) = re.findall(r"```python\n(# my_terms\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "my_terms.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    (argument,) = re.findall(r"--loss\.terms=(\{my_terms.*?\})'", text)
    terms = yaml.safe_load(argument)
    x, y = unit(16, 8).requires_grad_(), unit(16, 8, 1)
    values = Objective({"clip": 1.0} | terms)(x, y, torch.tensor(10.0, dtype=torch.float64))
    features = torch.cat([x, y]).detach()
    expected = torch.tensor([(features[:, d] ** 2).mean() for d in range(8)]).std()
    assert values["my_terms:spread_of_norms"].item() == pytest.approx(expected.item(), rel=1e-6)
    values["loss"].backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", TERMS)
def test_every_term_has_a_formula(name):
    module, _, function = TERMS[name].function.partition(".")
    text = getattr(importlib.import_module(f"gapless.losses.{module}"), function).__doc__
    assert ".. math::" in text or ":func:" in text


def test_documented_terms_exist():
    table = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(documented) >= 14
    assert set(documented) <= set(TERMS)


OWN = {
    "syntax": "def term(x, y, scale:",
    "import_raises": "raise RuntimeError('no licence\\nfound')",
    "import_leaves": "raise SystemExit(3)",
    "no_function": "term = 3",
    "vector": "def term(x, y, scale): return (x * y).sum(1)",
    "number": "def term(x, y, scale): return 1.0",
    "nothing": "def term(x, y, scale): pass",
    "whole": "def term(x, y, scale): return (x > 0).sum()",
    "constant": "def term(x, y, scale): return (x * y).sum().detach()",
    "raises": "def term(x, y, scale): raise KeyError('captions')",
    "signature": "def term(x): return x.sum()",
    "missing": "def other(x, y, scale): return x.sum()",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("syntax", "cannot be imported (SyntaxError"),
        ("import_raises", "cannot be imported (RuntimeError: no licence found)"),
        ("import_leaves", "cannot be imported (SystemExit: 3)"),
        ("no_function", "term is no function but int"),
        ("vector", "it returns a tensor of shape (8,), it must return a scalar tensor"),
        ("number", "it returns float, it must"),
        ("nothing", "it returns NoneType, it must"),
        ("whole", "it returns a tensor of shape (), it must return a scalar tensor of floats"),
        ("constant", "has no gradient"),
        ("raises", "raises KeyError: 'captions'"),
        ("signature", "raises TypeError: term() takes 1 positional argument but 3 were given"),
        ("missing", "cannot be imported (AttributeError"),
        ("elsewhere", "cannot be imported (ModuleNotFoundError"),
    ],
)
def test_own_terms_that_do_not_work_are_one_line_before_any_data(name, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    if name in OWN:
        (tmp_path / f"unusable_{name}.py").write_text(OWN[name])
    with pytest.raises(ConfigError) as caught:
        Objective({f"unusable_{name}:term": 1.0})
    assert str(caught.value).startswith(f"loss.terms.unusable_{name}:term: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trying_an_own_term_leaves_random_numbers_as_they_were():
    state = torch.get_rng_state()
    Objective({"tests.losses.test_objective:spread": 1.0})
    assert torch.equal(state, torch.get_rng_state())
    for weight in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"^loss.terms"):
            Objective({"clip": weight})
