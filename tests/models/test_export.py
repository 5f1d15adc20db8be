"""Folders of models: written so that an interruption leaves no mix, read whoever wrote them."""

import json
import shutil

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPConfig, CLIPModel

from gapless.config import AugmentationConfig, ModelConfig
from gapless.data.transforms import build_eval_transform, build_train_transform
from gapless.errors import ConfigError, DataError
from gapless.models import build_model, check_model, load_export, load_model, save_export
from gapless.run_folder import write_whole
from tests.runs import TINY, run, tiny_config, write_config


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=1), folder)
    return folder


@pytest.mark.parametrize("stage", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_an_interrupted_export_is_no_mix_of_two_models(export, tmp_path, monkeypatch, stage):
    shutil.copytree(export, tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    other = TINY | {"quick_gelu": True}
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=other), seed=2)

    def killed(place):
        if place.name == stage:
            raise KeyboardInterrupt
        return write_whole(place)

    monkeypatch.setattr("gapless.run_folder.write_whole", killed)
    monkeypatch.setattr("gapless.models.export.write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        save_export(model, tokenizer, tmp_path)
    for load in (load_export, lambda folder: check_model(str(folder))):
        with pytest.raises(DataError, match=r"has no open_clip_model.safetensors .*interrupted"):
            load(tmp_path)
    monkeypatch.undo()
    save_export(model, tokenizer, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load_export(tmp_path)[0].model_config["quick_gelu"] is True
    assert not list(tmp_path.glob(".tmp_*"))


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_snapshot_of_the_hub_loads_in_every_verb(export, tmp_path, name):
    state = load_file(export / "open_clip_model.safetensors")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    shutil.copy(export / "open_clip_config.json", folder)
    (save_file if name.endswith(".safetensors") else torch.save)(state, folder / name)
    for loaded in (load_model(str(folder)).model, load_model(f"local-dir:{folder}").model):
        assert torch.equal(loaded.clip.visual.proj, state["visual.proj"])
    model, _ = build_model(ModelConfig(name=f"local-dir:{folder}"))
    assert torch.equal(model.clip.visual.proj, state["visual.proj"])
    run("export", str(folder), "--output", str(tmp_path / "out"))
    written = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())
    assert "is a single model" in run("export", str(folder), "--checkpoint=best", code=2)


def test_a_folder_without_weights_is_not_trained_from_random_ones(export, tmp_path):
    shutil.copy(export / "open_clip_config.json", tmp_path)
    with pytest.raises(DataError, match="has no open_clip_model.safetensors"):
        build_model(ModelConfig(name=f"local-dir:{tmp_path}"))


def test_folders_of_other_programs_are_named(tmp_path):
    part = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = part | {"vocab_size": 20}
    vision = part | {"image_size": 8, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)).save_pretrained(tmp_path / "hf")
    shutil.copytree(tmp_path / "hf", tmp_path / "st" / "0_CLIPModel")
    (tmp_path / "st" / "modules.json").write_text("[]")
    for name, message in (
        ("hf", r"is a model of transformers \(clip\).*docs/models.md"),
        ("st", "sentence-transformers"),
    ):
        for load in (load_model, lambda n: build_model(ModelConfig(name=f"local-dir:{n}"))):
            with pytest.raises(DataError, match=message) as caught:
                load(str(tmp_path / name))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"model_cfg": 3}', "TypeError"),
        ('{"model_cfg": {"embed_dim": 16}}', "cannot be loaded: KeyError"),
        (json.dumps({"model_cfg": TINY | {"vision_cfg": {"widht": 3}}}), "cannot be loaded: TypeError .*widht"),
        (json.dumps({"model_cfg": TINY | {"embed_dim": 8}}), "weights of another architecture"),
    ],
)
def test_a_broken_configuration_is_one_line(export, tmp_path, content, message):
    shutil.copytree(export, tmp_path, dirs_exist_ok=True)
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_missing_has_a_line_of_its_own(export, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = TINY["text_cfg"] | {"hf_tokenizer_name": "nobody/nothing"}
    shutil.copytree(export, tmp_path / "folder")
    (tmp_path / "folder" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY | {"text_cfg": text}}))
    with pytest.raises(DataError, match=r"the tokenizer of .*folder is missing: .* put the files of nobody/nothing"):
        load_export(tmp_path / "folder")
    # The tokenizer is found missing before weights are read or data are opened.
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((export / "open_clip_model.safetensors").read_bytes())
    monkeypatch.setattr("gapless.models.build.create_clip", None)
    monkeypatch.setattr("gapless.train.clip.build_train_data", None)
    changes = {"model__architecture": TINY | {"text_cfg": text}, "model__pretrained": str(weights)}
    path = write_config(tiny_config(tmp_path / "runs", **changes), tmp_path / "config.yaml")
    for verb in ("train", "doctor"):
        said = run(verb, "--config", str(path), code=3)
        assert "the tokenizer of the architecture is missing: nobody/nothing cannot be loaded" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_cfg": {"width": 9}}, "text_cfg.heads: 2 .* divide the width, 9"),
        ({"text_cfg": {"vocab_size": 100}}, "text_cfg.vocab_size: 100 .* has 49408 tokens"),
        ({"text_cfg": {"context_length": 0}}, "text_cfg.context_length: 0 .* at least 2"),
        ({"text_cfg": {"heads": 0}}, "text_cfg.heads: 0 .* at least 1"),
        ({"text_cfg": {"width": "32"}}, "text_cfg.width: '32'"),
        ({"text_cfg": {"nonsense": 1}}, "cannot build it .*nonsense"),
        ({"vision_cfg": {"head_width": 0}}, "vision_cfg.head_width: 0 .* at least 1"),
        ({"vision_cfg": {"head_width": 64}}, "vision_cfg.head_width: 64 .* divide the width, 32"),
        ({"vision_cfg": {"patch_size": 0}}, "vision_cfg.patch_size: 0 .* at least 1"),
        ({"vision_cfg": {"patch_size": 33}}, "vision_cfg.patch_size: 33 .* 32 pixels"),
        ({"vision_cfg": {"image_size": [48, 24], "patch_size": 32}}, "vision_cfg.patch_size: 32 .* 24 pixels"),
        ({"vision_cfg": {"pool_type": "nonsense"}}, "cannot build it"),
        ({"vision_cfg": None}, "vision_cfg: None"),
        ({"embed_dim": 0}, "embed_dim: 0"),
    ],
)
def test_architectures_that_cannot_work_are_one_line(changes, message):
    parts = {k: TINY[k] | v if isinstance(v, dict) else v for k, v in changes.items()}
    with pytest.raises(ConfigError, match=rf"^model.architecture.*{message}") as caught:
        build_model(ModelConfig(name="custom", architecture=TINY | parts))
    assert "\n" not in str(caught.value)


def test_an_export_knows_its_activation_without_its_folder(export, tmp_path):
    shutil.copy(export / "open_clip_model.safetensors", tmp_path / "w.safetensors")
    architecture = TINY | {"quick_gelu": True}
    with pytest.raises(ConfigError, match="set it to false"):
        build_model(ModelConfig(name="custom", architecture=architecture, pretrained=str(tmp_path / "w.safetensors")))
    assert open_clip.create_model(f"local-dir:{export}").visual.proj.shape == (32, 16)


@pytest.mark.parametrize("size", [32, [48, 32], [16, 64]], ids=str)
def test_training_and_evaluation_show_what_the_export_shows(tmp_path, size):
    architecture = TINY | {"vision_cfg": TINY["vision_cfg"] | {"image_size": size}}
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=architecture), seed=1)
    save_export(model, tokenizer, tmp_path / "export")
    *_, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    normalize = preprocess.transforms[-1]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (normalize.mean, normalize.std))
    crop = AugmentationConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    ramp = torch.arange(90).expand(3, 60, 90).add(torch.arange(60)[:, None]).to(torch.uint8)
    for height, width in ((60, 90), (60, 60), (48, 32)):
        image = ramp[:, :height, :width].contiguous()
        shown = (preprocess(to_pil_image(image)) * std + mean) * 255
        evaluated, trained = build_eval_transform(model.preprocess), build_train_transform(model.preprocess, crop)
        assert float((evaluated(image) - shown).abs().max()) <= 1.01
        assert float((trained(image) - shown).abs().max()) <= 3  # a crop has whole pixels
