"""Models that are not open_clip's plain ViT, through the commands."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from gapless.config import Config, ModelConfig
from gapless.errors import ConfigError
from gapless.models import build_model, load_export
from gapless.train.clip import build_objective, make_trainable
from tests.runs import TINY, metrics, run, tiny_config, write_config

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
RESNET = TINY | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}
POOLED = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True}
DECODER = {"width": 32, "context_length": 16, "layers": 1, "heads": 2}
COCA = {
    "embed_dim": 16,
    "custom_text": True,
    "multimodal_cfg": DECODER,
    "vision_cfg": VISION | POOLED,
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
}
LOCKED = {"model__lock_image": True, "model__lock_text": True}
FIXED = {"model__temperature": 0.01, "model__learnable_temperature": False}


def config(folder: Path, **changes):
    changes = {
        "train__epochs": 1,
        "checkpoint__every_steps": None,
        "data__train_samples": 32,
        "loss__preset": "clip",
    } | changes
    return write_config(tiny_config(folder, **changes), folder / "config.yaml"), folder / "tiny"


def weights(folder):
    return load_file(folder / "open_clip_model.safetensors")


def test_a_locked_resnet_keeps_its_statistics(tmp_path):
    path, folder = config(tmp_path, model__architecture=RESNET, model__lock_image=True, train__micro_batch_size=8)
    run("train", "--config", str(path))  # evaluated before and after: model.train() was called in between
    start = build_model(ModelConfig(name="custom", architecture=RESNET), seed=3)[0].clip.state_dict()
    end = weights(folder / "export")
    moved = [name for name in end if name.startswith("visual.") and not torch.equal(end[name], start[name])]
    assert moved == []
    assert not torch.equal(end["text_projection"], start["text_projection"])


def test_batches_of_a_trained_resnet_are_not_divided(tmp_path):
    path, folder = config(tmp_path, model__architecture=RESNET, train__micro_batch_size=8)
    for verb in ("train", "doctor"):
        output = run(verb, "--config", str(path), code=2)
        assert "train.micro_batch_size: 8 does not work with batch normalisation (visual.bn1)" in output
    assert not (folder / "checkpoints").exists()
    path, folder = config(tmp_path, model__architecture=RESNET, train__micro_batch_size=16)
    run("train", "--config", str(path))
    end = weights(folder / "export")
    assert end["visual.bn1.num_batches_tracked"] == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_processes_do_not_divide_the_statistics_of_a_resnet(device):
    model, _ = build_model(ModelConfig(name="custom", architecture=RESNET))
    names = list(model.clip.state_dict())
    launched = SimpleNamespace(num_processes=2, device=torch.device(device))
    if device == "cpu":
        with pytest.raises(
            ConfigError, match="torch synchronises them on GPUs only; train in one process instead of 2"
        ):
            make_trainable(model, build_objective(Config()), Config(), launched)
        return
    make_trainable(model, build_objective(Config()), Config(), launched)
    assert isinstance(model.clip.visual.bn1, torch.nn.SyncBatchNorm)
    assert list(model.clip.state_dict()) == names


@pytest.mark.parametrize("changes", [LOCKED | FIXED, LOCKED | {"loss__preset": "none", "loss__terms": {"align": 1.0}}])
def test_nothing_to_learn_is_one_line(tmp_path, changes):
    path, _ = config(tmp_path, **changes)
    for verb in ("train", "doctor"):
        output = run(verb, "--config", str(path), code=2)
        assert "nothing is left to learn" in output
        assert "Traceback" not in output


def test_a_resnet_is_locked_as_a_whole_only(tmp_path):
    changes = {"model__architecture": RESNET, "model__lock_image": True, "model__lock_image_unlocked_groups": 1}
    path, _ = config(tmp_path, **changes)
    output = run("train", "--config", str(path), code=2)
    assert "model.lock_image_unlocked_groups: ModifiedResNet cannot be unlocked in part" in output


def test_a_coca_trains_by_its_contrastive_part(tmp_path):
    path, folder = config(tmp_path, model__architecture=COCA, train__epochs=2)
    assert "ok" in run("doctor", "--config", str(path))
    run("train", "--config", str(path))
    start = build_model(ModelConfig(name="custom", architecture=COCA), seed=3)[0].clip.state_dict()
    end = weights(folder / "export")
    for name, same in (("visual.conv1.weight", False), ("text.cls_emb", False), ("text_decoder.text_projection", True)):
        assert torch.equal(end[name], start[name]) is same, name
    whole = metrics(folder)
    # Interrupted after its first epoch, it goes on: every trained parameter has its moments.
    last = max((folder / "checkpoints").glob("step_*"))
    shutil.rmtree(last)
    run("train", "--config", str(path))
    assert metrics(folder) == whole
    theirs = open_clip.create_model(f"local-dir:{folder}/export").eval()
    ours, tokenizer = load_export(folder / "export")
    ours.eval()
    images, tokens = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8), tokenizer(["a dog", "two red cats"])
    torch.testing.assert_close(theirs.encode_image(ours.pixels(images)), ours.encode_image(images))
    torch.testing.assert_close(theirs.encode_text(tokens), ours.encode_text(tokens))


@pytest.fixture
def tower(tmp_path):
    """A text tower and a tokenizer of transformers in a folder."""
    words = ["a", "photo", "of", "dog", "cat", "red", "face", "hand", "sign"]
    vocabulary = {word: k for k, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "sep_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **marks).save_pretrained(tmp_path / "tower")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    towers = RobertaConfig(vocab_size=len(vocabulary), max_position_embeddings=26, **sizes, **ids)
    torch.manual_seed(7)
    RobertaModel(towers, add_pooling_layer=False).save_pretrained(tmp_path / "tower")
    return tmp_path / "tower"


@pytest.mark.parametrize(
    ("own", "pretrained", "begins"), [(True, None, True), (False, None, False), (True, "none", False)]
)
def test_a_text_tower_begins_with_its_weights_unless_told_otherwise(tmp_path, tower, own, pretrained, begins):
    text = {"hf_model_name": str(tower), "hf_tokenizer_name": str(tower), "hf_pooler_type": "mean_pooler"}
    architecture = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text | {"hf_model_pretrained": own}}
    clip = build_model(ModelConfig(name="custom", architecture=architecture, pretrained=pretrained), seed=3)[0].clip
    name = "encoder.layer.0.attention.self.query.weight"
    stored = load_file(tower / "model.safetensors")[name]
    assert torch.equal(clip.state_dict()[f"text.transformer.{name}"], stored) is begins


def test_a_text_tower_and_tokenizer_of_ones_own(tmp_path, tower, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    text = {"hf_model_name": "tower", "hf_tokenizer_name": "tower", "hf_pooler_type": "mean_pooler"}
    architecture = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    path, folder = config(tmp_path, model__architecture=architecture)
    assert "16 captions of up to 24 tokens" in run("doctor", "--config", str(path))  # 26 positions less two of RoBERTa
    run("train", "--config", str(path))
    # The export is whole without the tower's folder, and found from anywhere.
    shutil.move(tower, tmp_path / "elsewhere")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    model, tokenizer = load_export(folder / "export")
    assert tokenizer(["a red dog"]).shape == (1, 24)
    assert torch.equal(model.clip.state_dict()["logit_scale"], weights(folder / "export")["logit_scale"])
