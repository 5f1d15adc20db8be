"""The COCO recipe from end to end, on a few pictures in the real layouts: Karpathy's split, GPT-2 as a local folder."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gapless.config import ModelConfig
from gapless.decode import FeatureStore, load_captioner
from gapless.decode.captions.gpt2 import new_decoder
from gapless.models import build_model, save_export
from tests.data.pictures import picture
from tests.runs import TINY, metrics, run

RECIPE = Path(__file__).parents[3] / "configs" / "caption" / "coco.yaml"
SPLITS = ("train", "train", "restval", "train", "val", "val", "test", "test")


def test_from_pictures_to_scores(tmp_path):
    (tmp_path / "val2014").mkdir()
    images = []
    for k, split in enumerate(SPLITS):
        name = f"COCO_val2014_{k:012d}.jpg"
        (tmp_path / "val2014" / name).write_bytes(picture(kind="JPEG", seed=k))
        said = [{"raw": f"Picture {k} of a {word}.", "sentid": 10 * k + i} for i, word in enumerate(("dog", "cat"))]
        images.append({"filepath": "val2014", "filename": name, "cocoid": k, "split": split, "sentences": said})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), tmp_path / "clip")
    data = ("--data.source=coco", f"--data.path={tmp_path}", f"--data.karpathy={tmp_path / 'dataset_coco.json'}")
    said = run("caption", "embed", str(tmp_path / "clip"), f"--output={tmp_path / 'f'}", *data, "--data.workers=0")
    assert "4 image_train, 8 text_train, 2 image_val, 4 text_val, 2 image_test, 4 text_test" in said

    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32}
    _, tokenizer = new_decoder([s["raw"] for i in images for s in i["sentences"]], sizes, 300, 50)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, **sizes))
    gpt2.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    printed = (f"--features.path={tmp_path / 'f'}", f"--decoder.name={tmp_path / 'gpt2'}", f"--output={tmp_path}")
    changes = ("--train.epochs=2", "--optim.lr=1e-3", "--optim.warmup_steps=1", "--decoder.mapper=transformer")
    run("caption", "train", "--config", str(RECIPE), *printed, *changes, "--decoder.frozen=true")
    lines = metrics(tmp_path / "caption-coco")
    assert lines[-1]["val/num_captions"] == 4
    captioner = load_captioner(tmp_path / "caption-coco")
    assert captioner.context_length == 54
    torch.testing.assert_close(captioner.decoder.state_dict(), gpt2.state_dict())  # it was frozen
    assert captioner.preparation.noise == 0.1265
    assert set(captioner.preparation.means) == {"image", "text"}
    run("caption", "eval", str(tmp_path / "caption-coco"), f"--features={tmp_path / 'f'}", "--tokenizer=simple")
    (path,) = (tmp_path / "caption-coco" / "results" / "captions").glob("*.json")
    assert [entry["image_id"] for entry in json.loads(path.read_text())] == ["6", "7"]
    assert FeatureStore(tmp_path / "f").captions("test")["6"] == ["Picture 6 of a dog.", "Picture 6 of a cat."]
