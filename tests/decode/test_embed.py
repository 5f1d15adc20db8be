"""What is embedded and stored, with a model whose features are known beforehand."""

import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from gapless.config import DataConfig
from gapless.decode import FeatureStore, embed, save_features
from gapless.decode.embed import embed_store
from gapless.errors import ConfigError, DataError
from gapless.eval.embeddings import Embeddings

IMAGES = {"train": torch.tensor([[3.0, 4, 0], [0, 1, 0]]), "val": torch.tensor([[0.0, 0, 1]]), "test": torch.eye(3)[:1]}
TEXTS = {
    "train": torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0.6, 0.8]]),
    "val": torch.tensor([[0.0, 1, 0]]),
    "test": torch.eye(3)[1:2],
}
OWNER = {"train": [1, 0, 1], "val": [0], "test": [0]}


class Suite:
    """Gives the features of a split whose source says which it is."""

    made: list

    def __init__(self, *arguments):
        self.made.append(arguments)
        self.loaded = SimpleNamespace(model="the model")
        self.embedded = []

    def embed(self, name, source):
        self.embedded.append(name)
        (split,) = source
        keys = [f"{split}{k}" for k in range(len(IMAGES[split]))]
        captions = [f"caption {k} of {split}" for k in range(len(TEXTS[split]))]
        owner = torch.tensor(OWNER[split])
        return Embeddings(
            IMAGES[split], TEXTS[split], torch.arange(len(keys)), keys=keys, captions=captions, image_of_text=owner
        )


@pytest.fixture
def world(monkeypatch):
    """Sources that are lists of their split's name, one model, and all that was asked for."""
    asked = SimpleNamespace(sources=[], suites=[], models=[], empty=set())
    Suite.made = asked.suites

    def build_source(data, split):
        asked.sources.append((data, split))
        return [] if split in asked.empty else [split]

    monkeypatch.setattr(embed, "build_source", build_source)
    monkeypatch.setattr(embed, "Suite", Suite)
    monkeypatch.setattr(embed, "load_model", lambda *names: (asked.models.append(names), names)[1])
    monkeypatch.setattr(embed, "weights_digest", lambda model: f"digest of {model}")
    return asked


DATA = DataConfig(workers=5, max_bad_fraction=0.125)


def test_images_and_texts_of_each_split_are_stored_with_their_owners_and_means(world, tmp_path):
    written = embed_store("run", "tag", DATA, tmp_path / "s", None, "bf16", 77)
    assert written == {
        "image_train": 2, "text_train": 3, "image_val": 1, "text_val": 1, "image_test": 1, "text_test": 1
    }  # fmt: skip
    assert world.models == [("run", "tag")]
    assert world.suites == [(("run", "tag"), None, "bf16", 77, 5, 0.125)]
    assert world.sources == [(DATA, "train"), (DATA, "val"), (DATA, "test")]
    store = FeatureStore(tmp_path / "s")
    image, text = store.load("image", "train"), store.load("text", "train")
    assert (image.keys, image.captions) == (["train0", "train1"], ["", ""])
    torch.testing.assert_close(image.embedding, torch.tensor([[0.6, 0.8, 0], [0, 1, 0]]))
    assert text.keys == ["train1", "train0", "train1"]
    assert text.captions == [f"caption {k} of train" for k in range(3)]
    torch.testing.assert_close(text.embedding, TEXTS["train"])
    assert torch.equal(store.load("text", "val").embedding, TEXTS["val"])
    assert store.model == "digest of the model"
    means = store.means()
    torch.testing.assert_close(means["image"], IMAGES["train"].mean(dim=0))
    torch.testing.assert_close(means["text"], TEXTS["train"].mean(dim=0))
    assert set(means) == {"image", "text"}
    with safe_open(tmp_path / "s" / "means.safetensors", "pt") as file:
        assert file.metadata() == dict.fromkeys(means, "digest of the model")


def test_only_the_main_process_writes(world, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    assert embed_store("run", None, DATA, tmp_path / "s", ["train"]) == {"image_train": 2, "text_train": 3}
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("data", "empty", "splits", "message"),
    [
        (DataConfig(), (), "train val test", None),
        (DataConfig(source="coco", path="/x"), (), "train val", "coco has no split test: the others are embedded"),
        (DataConfig(source="coco", path="/x", karpathy="k.json"), (), "train val test", None),
        (
            DataConfig(source="folder", path="/x"),
            ("val",),
            "train",
            "folder has no split val and no split test: the others are embedded",
        ),
        (DataConfig(source="folder", path="/x"), (), "train val", "folder has no split test: the others are embedded"),
    ],
)
def test_the_splits_that_the_data_have_are_embedded(world, tmp_path, caplog, data, empty, splits, message):
    caplog.set_level(logging.INFO, "gapless.decode")
    world.empty = set(empty)
    written = embed_store("run", None, data, tmp_path / "s")
    assert list(written) == [f"{side}_{split}" for split in splits.split() for side in ("image", "text")]
    assert caplog.messages == ([message] if message else [])


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "nope"], "splits: 'nope' is not one of train, val, test"),
        ([], "splits: name at least one of train, val, test"),
        (["val"], "splits: train is needed, its means are what collapse subtracts"),
    ],
)
def test_splits_that_cannot_work_are_refused_before_a_model_is_loaded(world, tmp_path, splits, message):
    with pytest.raises(ConfigError) as error:
        embed_store("run", None, DATA, tmp_path / "s", splits)
    assert str(error.value) == message
    with pytest.raises(ConfigError) as error:
        embed_store("run", None, DATA, tmp_path / "s", batch_size=0)
    assert str(error.value) == "batch_size: 0 does not work, it must be at least 1"
    with pytest.raises(ConfigError, match=r"data\.workers"):
        embed_store("run", None, DataConfig(workers=-1), tmp_path / "s")
    assert world.models == []


def test_named_splits_alone_are_embedded_and_others_of_before_are_gone(world, tmp_path):
    folder = tmp_path / "s"
    for modality in ("image", "text", "audio"):
        save_features(folder, modality, "val", ["old"], torch.ones(1, 3))
    (folder / "notes.txt").touch()
    embed_store("run", None, DATA, folder, ["train", "test"])
    assert sorted(p.name for p in folder.iterdir()) == [
        "audio_val_00000.safetensors",
        "image_test_00000.safetensors",
        "image_train_00000.safetensors",
        "means.safetensors",
        "notes.txt",
        "text_test_00000.safetensors",
        "text_train_00000.safetensors",
    ]


def test_files_that_are_not_ours_are_refused_and_named(world, tmp_path):
    (tmp_path / "audio_test.npz").touch()
    embed_store("run", None, DATA, tmp_path, ["train"])
    (tmp_path / "text_test.npz").touch()
    with pytest.raises(DataError) as error:
        embed_store("run", None, DATA, tmp_path, ["train"])
    assert str(error.value) == (
        f"{tmp_path / 'text_test.npz'} was not written by gapless and would be mixed with these: name another folder"
    )
    assert len(world.models) == 1
