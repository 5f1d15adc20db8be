import math

import pytest
import torch

from gapless.models import build_model
from tests.models.test_build import batch, tiny


def test_pixels_are_normalised_by_the_models_own_mean_and_deviation():
    model, _ = build_model(tiny())
    preprocess = model.preprocess | {"mean": (0.1, 0.2, 0.4), "std": (0.5, 0.25, 2.0)}
    model.set_preprocess(preprocess)
    pixels = model.pixels(torch.tensor([51, 102, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    torch.testing.assert_close(pixels.flatten(), torch.tensor([0.2, 0.8, 0.3]))
    assert model.export_config()["preprocess_cfg"]["std"] == (0.5, 0.25, 2.0)
    assert "mean" not in model.state_dict()


def test_one_side_alone_has_one_sides_features():
    model, tokenizer = build_model(tiny(), initial_bias=-3.0)
    images, captions = batch()
    both = model.eval()(images, tokenizer(captions))
    assert set(both) == {"image_features", "text_features", "logit_scale", "logit_bias"}
    for side, output in (("image", model(images=images)), ("text", model(tokens=tokenizer(captions)))):
        assert set(output) == {f"{side}_features", "logit_scale", "logit_bias"}
        assert torch.equal(output[f"{side}_features"], both[f"{side}_features"])
    assert both["logit_scale"].item() == pytest.approx(1 / 0.07, rel=1e-5)
    assert both["logit_bias"].item() == -3


def test_the_temperature_of_softplus_is_learned_by_its_own_variable():
    model, _ = build_model(tiny(temperature=0.5))
    scale = model.clip.logit_scale
    scale.grad = torch.tensor(0.7)
    v = math.log(math.expm1(2.0))  # exp(logit_scale) = softplus(v) = 2
    with model.softplus_temperature():
        assert scale.item() == pytest.approx(v, rel=1e-5)
        # d logit_scale / d v = sigmoid(v) / 2.
        assert scale.grad.item() == pytest.approx(0.7 * (1 - math.exp(-2)) / 2, rel=1e-5)
        with torch.no_grad():
            scale.sub_(0.1)
    assert scale.exp().item() == pytest.approx(math.log1p(math.exp(v - 0.1)), rel=1e-5)
    before = scale.item()
    with model.softplus_temperature(apply=False):
        assert scale.item() == before
