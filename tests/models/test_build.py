import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from gapless.config import ModelConfig
from gapless.errors import ConfigError, DataError
from gapless.models import build_model, check_model, load_export, load_model, save_export
from gapless.models.clip import MAX_LOG_SCALE
from tests.runs import TINY


def tiny(**changes):
    return ModelConfig(name="custom", architecture=TINY, **changes)


def batch(n=5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, ["a dog", "two cats", "a very large red bus", "sun", "the moon"][:n]


@pytest.fixture
def export(tmp_path):
    model, tokenizer = build_model(tiny(), seed=1)
    save_export(model, tokenizer, tmp_path / "export")
    return model, tmp_path / "export"


def test_weights_follow_the_seed_alone():
    state = torch.get_rng_state()
    (a, _), (b, _), (c, _) = (build_model(tiny(), seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))


def test_features_are_unit_norm_and_normalised_pixels_are_open_clips():
    model, tokenizer = build_model(tiny())
    images, captions = batch()
    output = model(images, tokenizer(captions))
    for name in ("image_features", "text_features"):
        torch.testing.assert_close(output[name].norm(dim=1), torch.ones(5))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    theirs = model.clip.encode_image((images / 255 - mean) / std, normalize=True)
    torch.testing.assert_close(output["image_features"], theirs)


@pytest.mark.parametrize("custom_text", [False, True])
def test_trimmed_captions_have_the_features_of_padded_ones(custom_text):
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=TINY | {"custom_text": custom_text}))
    assert model.trims_captions
    tokens = tokenizer(batch()[1])
    longest = int(tokens.argmax(1).max()) + 1
    assert longest < tokens.shape[1]
    trimmed, padded = model.encode_text(tokens[:, :longest]), model.clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(trimmed, padded, rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_towers_that_see_padding_keep_full_captions(change):
    architecture = TINY | {"custom_text": True, "text_cfg": TINY["text_cfg"] | change}
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=architecture))
    assert not model.trims_captions
    tokens = tokenizer(batch()[1])
    torch.testing.assert_close(model.encode_text(tokens), model.clip.encode_text(tokens, normalize=True))


def test_no_rows_give_no_features_and_a_zero_gradient():
    model, _ = build_model(tiny())
    output = model(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 1, dtype=torch.long))
    assert output["image_features"].shape == (0, 16)
    (output["image_features"].sum() + output["text_features"].sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_export_loads_in_open_clip_with_the_same_features(export):
    model, folder = export
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images, captions = batch()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess["mean"], model.preprocess["std"]))
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    ours = model.eval()(images, tokens)
    pixels = (images / 255 - mean) / std
    torch.testing.assert_close(
        theirs.eval().encode_image(pixels, normalize=True), ours["image_features"], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(theirs.encode_text(tokens, normalize=True), ours["text_features"], rtol=0, atol=1e-5)
    assert list(preprocess.transforms[-1].mean) == list(model.preprocess["mean"])


def test_new_projections(export):
    before, folder = export
    model, _ = build_model(ModelConfig(name=f"local-dir:{folder}", embed_dim=24), seed=5)
    for old, new in (
        (before.clip.visual.proj, model.clip.visual.proj),
        (before.clip.text_projection, model.clip.text_projection),
    ):
        assert new.shape == (old.shape[0], 24)
        bound = old.shape[0] ** -0.5
        # torch's default of a linear layer: uniform, so its standard deviation is the bound / sqrt(3).
        assert new.abs().max() <= bound
        assert new.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert torch.equal(before.clip.visual.conv1.weight, model.clip.visual.conv1.weight)
    assert model.model_config["embed_dim"] == 24
    # Also at the same dimension, as in the paper; and not at all without embed_dim.
    same, _ = build_model(ModelConfig(name=f"local-dir:{folder}", embed_dim=16))
    assert not torch.equal(same.clip.visual.proj, before.clip.visual.proj)
    kept, _ = build_model(ModelConfig(name=f"local-dir:{folder}"))
    assert torch.equal(kept.clip.visual.proj, before.clip.visual.proj)


def test_from_scratch_embed_dim_is_the_architectures():
    model, _ = build_model(tiny(embed_dim=8))
    assert model.clip.visual.proj.shape[1] == 8
    assert model.model_config["embed_dim"] == 8


def test_temperature(export):
    fixed, _ = build_model(tiny(temperature=0.01, learnable_temperature=False))
    assert fixed.clip.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)
    assert not fixed.clip.logit_scale.requires_grad
    # A fixed temperature below 0.01 stays what was asked for; only a learnable one is clamped.
    cold, _ = build_model(tiny(temperature=0.005, learnable_temperature=False))
    cold.clamp_logit_scale()
    assert cold.clip.logit_scale.exp().item() == pytest.approx(200, rel=1e-5)
    learned, _ = build_model(tiny(temperature=0.005))
    learned.clamp_logit_scale()
    assert learned.clip.logit_scale.item() == pytest.approx(MAX_LOG_SCALE)
    assert build_model(tiny())[0].clip.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_locked_towers(export):
    model, _ = build_model(tiny(lock_image=True, lock_image_unlocked_groups=1, lock_text=True))
    trained = {n for n, p in model.clip.named_parameters() if p.requires_grad}
    assert trained == {"visual.proj", "logit_scale"}
    texts, _ = build_model(tiny(lock_text=True, lock_text_unlocked_groups=1))
    frozen = {n for n, p in texts.clip.named_parameters() if not p.requires_grad}
    assert {"token_embedding.weight", "positional_embedding"} <= frozen
    assert "text_projection" not in frozen
    assert not any(n.startswith("visual.") for n in frozen)
    images, _ = build_model(tiny(lock_image=True))
    assert {n for n, p in images.clip.named_parameters() if not p.requires_grad} == {
        n for n, _ in images.clip.named_parameters() if n.startswith("visual.")
    }
    # New projections are random: frozen, they would never become useful.
    locked, _ = build_model(ModelConfig(name=f"local-dir:{export[1]}", embed_dim=8, lock_image=True, lock_text=True))
    trained = {n for n, p in locked.clip.named_parameters() if p.requires_grad}
    assert trained == {"visual.proj", "text_projection", "logit_scale"}


def test_a_bias_for_siglip(export):
    tuned, _ = build_model(ModelConfig(name=f"local-dir:{export[1]}"), initial_bias=-10.0)
    assert tuned.clip.logit_bias.item() == -10  # weights without a bias get the same start
    model, tokenizer = build_model(tiny(), initial_bias=-10.0)
    images, captions = batch()
    assert model(images, tokenizer(captions))["logit_bias"].item() == -10
    assert "logit_bias" not in build_model(tiny())[0](images, tokenizer(captions))


@pytest.fixture
def names(monkeypatch):
    """Small models that open_clip knows by name, with published weights of either activation."""
    known = {"Tiny-T-16": TINY, "Tiny-T-16-quickgelu": TINY | {"quick_gelu": True}}
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", known)
    pixels = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bicubic", "resize_mode": "squash"}
    tags = {"one": pixels | {"url": "a"}, "two": pixels | {"url": "b"}}
    monkeypatch.setattr("open_clip.pretrained._PRETRAINED", {"Tiny-T-16": tags})


@pytest.mark.parametrize("name", ["Tiny-T-16", "Tiny-T/16"])
def test_weights_from_a_local_file(names, tmp_path, name):
    source = open_clip.create_model("Tiny-T-16", pretrained=None)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model, _ = build_model(ModelConfig(name=name, pretrained=str(tmp_path / "weights.safetensors")))
    assert torch.equal(model.clip.visual.conv1.weight, source.visual.conv1.weight)
    # All published weights of that name want their pixels so.
    assert model.preprocess["resize_mode"] == "squash"
    torch.testing.assert_close(model.std.flatten(), torch.full((3,), 0.25))


def test_a_file_of_the_other_activation_is_refused_as_the_tag_is(names, tmp_path):
    source = open_clip.create_model("Tiny-T-16-quickgelu", pretrained=None)
    save_file(source.state_dict(), tmp_path / "weights.safetensors", {"quick_gelu": "true"})
    for name, other in (("Tiny-T-16", True), ("Tiny-T-16-quickgelu", False)):
        given = ModelConfig(name=name, pretrained=str(tmp_path / "weights.safetensors"))
        if other:
            with pytest.raises(ConfigError, match="another activation, use Tiny-T-16-quickgelu"):
                build_model(given)
        else:
            build_model(given)


def test_models_are_evaluated_with_the_weights_that_are_named(names, tmp_path, export, caplog):
    torch.save(open_clip.create_model("Tiny-T-16", pretrained=None).state_dict(), tmp_path / "w.pt")
    loaded = load_model("Tiny-T/16", str(tmp_path / "w.pt"))
    assert loaded.pretrained == str(tmp_path / "w.pt")
    assert loaded.title == "Tiny-T/16"
    random = load_model("Tiny-T-16", "none")
    assert random.pretrained == "random weights"
    assert random.title == "Tiny-T-16 (random weights)"
    assert "Tiny-T-16 has random weights" in caplog.text
    for name, pretrained, message in (
        ("Tiny-T-16", None, r"needs weights, a file or a tag \(one, two\); none stands for random weights"),
        ("Tiny-T-16", "three", "neither a file nor a tag"),
        ("Tiny-T-15", "one", "did you mean Tiny-T-16"),
        (str(export[1]), "one", "brings its own weights"),
        (str(export[1]), "none", "brings its own weights"),
        ("hf-hub:a/b", "one", "brings its own weights"),
        (str(tmp_path / "w.pt"), None, "is a file: name the model"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_model(name, pretrained)
        with pytest.raises(ConfigError, match=message):
            load_model(name, pretrained)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": "ViT-B-23"}, ConfigError, "open_clip has no model 'ViT-B-23'; did you mean ViT-B-32"),
        ({"name": "vit-l/14@336"}, ConfigError, "did you mean ViT-L-14-336"),
        ({"name": "ViT-B-32", "pretrained": "openal"}, ConfigError, "neither a file nor a tag of ViT-B-32"),
        ({"name": "ViT-B-32", "pretrained": "openai"}, ConfigError, "another activation, use ViT-B-32-quickgelu"),
        ({"name": "local-dir:/nowhere"}, DataError, "model.name: .*/nowhere"),
        ({"name": "local-dir:x", "pretrained": "openai"}, ConfigError, "brings its own weights"),
        (
            {"name": "custom", "architecture": TINY, "lock_image_unlocked_groups": 1},
            ConfigError,
            "says nothing while model.lock_image",
        ),
        (
            {"name": "custom", "architecture": {"embed_dim": 4}},
            ConfigError,
            "model.architecture: open_clip cannot build",
        ),
        (
            {"name": "custom", "architecture": TINY | {"vision_cfg": {"widht": 3}}},
            ConfigError,
            "model.architecture: open_clip cannot build it .*widht",
        ),
    ],
)
def test_what_cannot_be_built_is_one_line(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        build_model(ModelConfig(**changes))
    assert "\n" not in str(caught.value)


def test_offline_without_weights_says_how_to_give_them(monkeypatch):
    def offline(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr("open_clip.factory.download_pretrained", offline)
    with pytest.raises(DataError, match="without a network give a weights file as model.pretrained"):
        build_model(ModelConfig(name="ViT-B-32-quickgelu", pretrained="openai"))


def test_broken_exports(tmp_path):
    with pytest.raises(DataError, match="has no open_clip_config.json"):
        load_export(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="model.safetensors holds no weights that are known"):
        load_export(tmp_path)
