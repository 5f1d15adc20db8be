"""Stores as they are made, replaced and distinguished: embeddings of one model, whole or as they were before."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gapless.config import DataConfig, ModelConfig
from gapless.decode import FeatureStore, embed, save_features
from gapless.decode.convert import convert_pickle
from gapless.decode.embed import embed_store
from gapless.decode.store import save_means
from gapless.errors import ConfigError, DataError
from gapless.models import build_model, save_export
from tests.data.pictures import picture
from tests.decode.stores import tree
from tests.runs import TINY, run, write_config

BEFORE = Path(__file__).parents[1] / "data" / "before" / "store"
"""What version 0.1 wrote."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed in (4, 5):
        save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=seed), root / f"m{seed}")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for k in range(12):
        (root / f"{k}.png").write_bytes(picture(seed=k))
        (root / f"{k}.txt").write_text(f"picture {k}\nnumber {k}")
    return root


def data(pictures: Path) -> DataConfig:
    return DataConfig(source="folder", path=str(pictures), val_fraction=0.3, workers=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_splits_that_are_there_are_embedded_as_the_docs_show(models, pictures, tmp_path):
    source = ("--data.source=folder", f"--data.path={pictures}", "--data.val_fraction=0.3", "--data.workers=0")
    store = tmp_path / "f"
    said = run("caption", "embed", str(models / "m4"), f"--output={store}", *source)
    assert "folder has no split test" in said
    assert {name[:-18] for name in contents(store)} == {"image_train", "image_val", "text_train", "text_val", ""}
    before = contents(store)
    for splits, code, printed in (
        ("[train, nope]", 2, "splits"),
        ("[train, test]", 3, "not 'test'"),
        ("[val]", 2, "splits: train is needed"),
    ):
        said = run(
            "caption", "embed", str(models / "m5"), f"--output={store}", *source, f"--splits={splits}", code=code
        )
        assert printed in said.splitlines()[-1]
        said = run(
            "caption",
            "embed",
            str(models / "m5"),
            f"--output={tmp_path / 'n'}",
            *source,
            f"--splits={splits}",
            code=code,
        )
    for wrong in ("--batch_size=0", "--batch_size=-1", "--data.workers=-1"):
        said = run("caption", "embed", str(models / "m4"), f"--output={tmp_path / 'n'}", *source, wrong, code=2)
        assert wrong[2:].partition("=")[0] in said.splitlines()[-1]
    assert contents(store) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]


def test_a_store_is_replaced_as_a_whole_or_not_at_all_and_keeps_what_is_not_its_own(
    models, pictures, tmp_path, monkeypatch
):
    store = tmp_path / "f"
    embed_store(str(models / "m4"), None, data(pictures), store)
    sound = np.eye(3)
    np.savez(store / "audio_test.npz", embedding=sound, id=np.array(list("abc")))
    save_means(store, {"audio": torch.ones(16)})
    (store / "notes").mkdir()
    (store / "notes" / "mine.txt").write_text("mine")
    before = contents(store)
    written = embed.save_features

    def fails(folder, modality, split, *rest, **more):
        if (modality, split) == ("text", "val"):
            raise KeyboardInterrupt
        written(folder, modality, split, *rest, **more)

    monkeypatch.setattr(embed, "save_features", fails)
    with pytest.raises(KeyboardInterrupt):
        embed_store(str(models / "m5"), None, data(pictures), store)
    assert contents(store) == before
    monkeypatch.setattr(embed, "save_features", written)
    embed_store(str(models / "m5"), None, data(pictures), store, ["train"])
    after = contents(store)
    assert {"audio_test.npz", "notes/mine.txt"} <= set(after)
    assert not {name for name in after if "_val_" in name}  # of the other model
    assert set(load_file(store / "means.safetensors")) == {"image", "text", "audio"}
    assert after["text_train_00000.safetensors"] != before["text_train_00000.safetensors"]
    np.savez(store / "image_test.npz", embedding=sound, id=np.array(list("abc")))
    with pytest.raises(DataError, match=r"image_test.npz was not written by gapless"):
        embed_store(str(models / "m5"), None, data(pictures), store)


def test_embeddings_of_two_models_are_refused(models, pictures, tmp_path):
    for name in ("m4", "m5"):
        embed_store(str(models / name), None, data(pictures), tmp_path / name)
    mixed = shutil.copytree(tmp_path / "m4", tmp_path / "mixed")
    shutil.copy(tmp_path / "m5" / "text_val_00000.safetensors", mixed)
    path = write_config(tree(mixed, tmp_path), tmp_path / "tiny.yaml")
    said = run("caption", "train", "--config", str(path), code=3)
    assert "text_val_00000.safetensors is of another model than" in said.splitlines()[-1]
    assert not (tmp_path / "tiny").exists()
    store = FeatureStore(mixed)
    store.load("image", "train")
    with pytest.raises(DataError, match="of another model than image_train"):
        store.captions("val")
    # A decoder that learned from one model's texts is not used on another's images.
    path = write_config(tree(tmp_path / "m4", tmp_path, train__epochs=1), tmp_path / "tiny.yaml")
    run("caption", "train", "--config", str(path))
    said = run("caption", "eval", str(tmp_path / "tiny"), f"--features={tmp_path / 'm5'}", "--split=val", code=3)
    assert "another model than the captioner learned from" in said.splitlines()[-1]
    arguments = (str(tmp_path / "tiny"), f"--features={tmp_path / 'm4'}", "--split=val", "--tokenizer=simple")
    said = run("caption", "eval", *arguments, f"--clip={models / 'm5'}", code=3)
    assert "embeddings of another model than" in said.splitlines()[-1]
    results = tmp_path / "tiny" / "results"
    run("caption", "eval", *arguments)
    (first,) = results.glob("*.json")
    text = first.read_text()
    run("caption", "eval", *arguments, "--shift=0.5")
    run("caption", "eval", *arguments, "--decoding.strategy=beam", "--decoding.beams=2")
    said = run("caption", "eval", *arguments, f"--ids=[{FeatureStore(tmp_path / 'm4').load('image', 'val').keys[0]}]")
    assert "cider is 0 for a single image by its formula" in said
    run("caption", "eval", *arguments, "--checkpoint=best")
    found = [json.loads(p.read_text()) for p in results.glob("*.json")]
    assert len(found) == len(list((results / "captions").glob("*.json"))) == 5
    assert first.read_text() == text
    settings = [sorted(each["settings"].keys() - {"tokenizer"}) for each in found]  # which is one where there is Java
    assert sorted(settings) == [[], [], ["decoding.beams", "decoding.strategy"], ["ids"], ["shift"]]
    assert [each["model"] for each in found if each["variant"]] == [
        f"tiny@{(tmp_path / 'tiny/checkpoints/best').resolve().name}"
    ]
    assert not list((tmp_path / "tiny").glob("checkpoints/*/results"))
    for wrong in ("--ids=[]", "--shift=nan", "--seed=12345678901234567890123", "--decoding.max_tokens=0"):
        said = run("caption", "eval", *arguments, wrong, code=2)
        assert wrong[2:].partition("=")[0] in said.splitlines()[-1]
    said = run("caption", "train", "--config", str(path), "--features.max_tokens=99999999999", "--name=n", code=2)
    assert "features.max_tokens" in said.splitlines()[-1]


def test_stores_of_earlier_versions_are_read(tmp_path):
    store = FeatureStore(BEFORE)
    assert store.load("image", "train").embedding.shape == (4, 16)
    assert store.captions("test")["6"] == ["Picture 6 of a dog.", "Picture 6 of a cat."]
    assert set(store.means()) == {"image", "text"}
    assert store.model == ""
    later = tmp_path / "later"
    save_features(later, "text", "val", ["a"], torch.ones(1, 2))
    path = later / "text_val_00000.safetensors"
    path.write_bytes(path.read_bytes().replace(b"gapless features 1", b"gapless features 9"))
    with pytest.raises(DataError, match="format 'gapless features 9'"):
        FeatureStore(later).load("text", "val")


def row(embed, x="clip", split="test"):
    return {"x": x, "y": "rain", "x_embed": embed, "y_embed": [0.0, 1.0], "split": split}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no embeddings"),
        ([row("text")], "the embedding of clip in audio_test is no vector"),
        ([row({"a": 1})], "is no vector"),
        ([row(None)], "is no vector"),
        ([row([])], "has 0 numbers"),
        ([row([1.0, 0]), row([1.0, 0, 0], "b")], "the embedding of b in audio_test has 3 numbers, the first has 2"),
        ([row([1.0, float("nan")])], "clip in audio_test is not finite or zero"),
        ([row([0.0, 0.0])], "not finite or zero"),
        ([{"x": "a", "y": "b", "split": "test"}], "neither of the two known forms"),
        ([row([1.0, 0], split="restval")], "a split train, val or test"),
    ],
)
def test_wrong_pickles_are_one_line_and_leave_a_store_as_it_was(tmp_path, rows, said):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(rows))
    store = tmp_path / "s"
    save_features(store, "audio", "test", ["old"], torch.ones(1, 2))
    before = contents(store)
    with pytest.raises(DataError, match=said):
        convert_pickle(tmp_path / "x.pkl", "", store, "audio")
    assert contents(store) == before
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([row([3.0, 4.0])]))
    convert_pickle(tmp_path / "x.pkl", "", store, "audio")
    assert FeatureStore(store).load("audio", "test").keys == ["clip"]
    with pytest.raises(ConfigError, match="word of small letters"):
        save_features(store, "Audio", "test", ["a"], torch.ones(1, 2))
