import pytest
import torch
import torch.nn.functional as F

from gapless.config import ModelConfig
from gapless.errors import ConfigError
from gapless.geometry.procrustes import procrustes
from gapless.models import TwinModel, build_model, load_export, save_export
from gapless.models.build import SECOND_SEED
from tests.runs import TINY


def twin(seed=1, **changes):
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=TINY, **changes), seed=seed)
    assert isinstance(model, TwinModel)
    return model.eval(), tokenizer


def pictures(n=24):
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(model, first, second):
    output = model(first, second)
    return output["image_features"], output["text_features"]


def test_towers_of_an_image_twin_differ_in_their_seeds_alone():
    model, _ = twin(towers="image-image")
    first, second = model.clip.visual.state_dict(), model.clip.text.state_dict()
    assert {n: t.shape for n, t in first.items()} == {n: t.shape for n, t in second.items()}
    assert not torch.equal(first["proj"], second["proj"])
    again, _ = twin(towers="image-image")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("towers", "first", "second"),
    [
        ("image-image", (1, "visual"), (1 + SECOND_SEED, "visual")),
        ("image-text", (1, "visual"), (1, "text")),
        ("text-text", (1, "text"), (1 + SECOND_SEED, "text")),
    ],
)
def test_each_side_is_the_tower_of_its_kind_and_seed(towers, first, second):
    model, _ = twin(towers=towers, initial_gap="procrustes")
    alone = TINY | {"custom_text": True}
    for tower, (seed, name) in ((model.clip.visual, first), (model.clip.text, second)):
        expected = getattr(build_model(ModelConfig(name="custom", architecture=alone), seed=seed)[0].clip, name)
        assert tower.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tower.state_dict()[n], tensor) for n, tensor in expected.state_dict().items())


def test_the_second_side_is_shifted_then_turned():
    model, _ = twin(towers="image-image")
    x, y = features(model, pictures(), pictures())
    model.clip.shift.copy_(torch.arange(16) / 20)
    model.clip.rotation.copy_(torch.eye(16).roll(1, dims=1))  # not its own transpose
    moved = features(model, pictures(), pictures())
    assert torch.equal(moved[0], x)
    expected = torch.stack([(y - model.clip.shift)[:, (d + 1) % 16] for d in range(16)], dim=1)
    torch.testing.assert_close(moved[1], F.normalize(expected, dim=1))
    once = model.clip.rotation.clone()
    model.remove_gap(x, x @ once.T, "procrustes")  # what is turned already is turned on
    torch.testing.assert_close(model.clip.rotation, once.T @ once, rtol=0, atol=1e-5)


@pytest.mark.parametrize("towers", ["image-image", "image-text", "text-text"])
def test_removing_the_gap_brings_the_clouds_together_and_changes_no_shape(towers):
    model, tokenizer = twin(towers=towers, initial_gap="procrustes")
    tokens = tokenizer([f"picture {i}" for i in range(24)])
    sides = (tokens if towers == "text-text" else pictures(), pictures() if towers == "image-image" else tokens)
    x, y = features(model, *sides)
    model.remove_gap(x, y, "procrustes")
    _, moved = features(model, *sides)
    assert (x - moved).norm(dim=1).mean() < 0.5 * (x - y).norm(dim=1).mean()
    torch.testing.assert_close(moved @ moved.T, y @ y.T, rtol=0, atol=1e-5)  # rotated, not deformed
    torch.testing.assert_close(moved, y @ procrustes(x, y).float().T, rtol=0, atol=1e-5)


def test_translation_subtracts_the_difference_of_the_means():
    model, _ = twin(towers="image-image", initial_gap="translate")
    x, y = features(model, pictures(), pictures())
    model.remove_gap(x, y, "translate")
    _, moved = features(model, pictures(), pictures())
    torch.testing.assert_close(moved, F.normalize(y - y.mean(dim=0) + x.mean(dim=0), dim=1), rtol=0, atol=1e-5)


def test_a_shared_tower_has_no_gap_and_half_the_weights():
    model, _ = twin(towers="image-image", shared_tower=True)
    x, y = features(model, pictures(), pictures())
    torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    two, _ = twin(towers="image-image")
    towers = sum(p.numel() for p in two.clip.parameters()) - 1  # the temperature
    assert 2 * (sum(p.numel() for p in model.clip.parameters()) - 1) == towers


@pytest.mark.parametrize("changes", [{}, {"shared_tower": True}])
def test_an_export_brings_back_towers_and_map(tmp_path, changes):
    model, tokenizer = twin(towers="image-image", initial_gap="procrustes", **changes)
    model.remove_gap(*features(model, pictures(), pictures().flip(0)), "procrustes")
    save_export(model, tokenizer, tmp_path)
    loaded, _ = load_export(tmp_path)
    for a, b in zip(
        features(model, pictures(), pictures()), features(loaded.eval(), pictures(), pictures()), strict=True
    ):
        assert torch.equal(a, b)


def test_both_towers_learn_and_an_empty_part_of_a_batch_has_no_rows():
    model, _ = twin(towers="image-image")
    output = model(pictures(4), pictures(4))
    (output["image_features"] * output["text_features"]).sum().backward()
    assert model.clip.visual.proj.grad.abs().sum() > 0
    assert model.clip.text.proj.grad.abs().sum() > 0
    empty = model(pictures(0), pictures(0))
    assert empty["text_features"].shape == (0, 16)


def test_settings_that_cannot_work_name_their_key():
    from gapless.config import Config, DataConfig
    from gapless.config.rules import check_config

    image_image = ModelConfig(name="custom", architecture=TINY, towers="image-image")
    for config, key in (
        (Config(data=DataConfig(second_image="openmoji")), "data.second_image"),
        (Config(data=DataConfig(source="coco", path="x", second_image="openmoji"), model=image_image), "second_image"),
        (Config(model=ModelConfig(shared_tower=True)), "model.shared_tower"),
        (Config(data=DataConfig(mismatched=1.5)), "data.mismatched"),
    ):
        with pytest.raises(ConfigError, match=key):
            check_config(config)
