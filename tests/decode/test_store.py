import json
import os
import pickle

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F

from gapless.decode import FeatureStore, save_features
from gapless.decode import store as room
from gapless.decode.convert import convert_pickle
from gapless.decode.store import chosen_rows
from gapless.errors import ConfigError, DataError
from tests.decode.stores import write_store


def test_what_is_saved_is_loaded_in_order_over_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "ROWS_PER_FILE", 4)
    rows = torch.randn(10, 5)
    ids = [f"a{k}" for k in range(10)]
    save_features(tmp_path, "audio", "train", ids, rows.half(), [f"text {k}" for k in range(10)])
    assert len(list(tmp_path.glob("audio_train_*.safetensors"))) == 3
    found = FeatureStore(tmp_path).load("audio", "train")
    assert found.ids == ids
    assert found.captions[9] == "text 9"
    torch.testing.assert_close(found.embedding, F.normalize(rows.half().float(), dim=1))
    save_features(tmp_path, "audio", "train", ["b"], rows[:1])  # replaces, and leaves no older file
    assert FeatureStore(tmp_path).load("audio", "train").ids == ["b"]
    with pytest.raises(ConfigError, match="word of small letters"):
        save_features(tmp_path, "audio2", "train", ["b"], rows[:1])  # a name that no store would find again
    assert chosen_rows(found, ["a3", "a0"]) == [3, 0]
    with pytest.raises(DataError, match="id 'c' has no embedding"):
        chosen_rows(found, ["a3", "c"])


def test_ones_own_npz_does_as_well(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    np.savez(tmp_path / "video_test.npz", embedding=rows, id=np.array(["v", "w", "x", "y", "z", "z"]), modality="video")
    np.savez(tmp_path / "text_test.npz", embedding=rows[:2], id=np.array(["v", "w"]), captions=np.array(["one", " "]))
    store = FeatureStore(tmp_path)
    assert store.load("video", "test").ids == ["v", "w", "x", "y", "z", "z"]
    assert store.captions("test") == {"v": ["one"]}
    np.savez(tmp_path / "audio_test.npz", embedding=rows, id=np.array(["v"] * 6), modality="video")
    with pytest.raises(DataError, match="says that it holds video"):
        FeatureStore(tmp_path).load("audio", "test")
    np.savez(tmp_path / "audio_test.npz", embedding=rows, id=np.array(["v"] * 6, dtype=object))
    with pytest.raises(DataError, match="audio_test.npz .*Python objects, which are never loaded"):
        FeatureStore(tmp_path).load("audio", "test")


def test_sizes_are_known_before_embeddings_are_read(tmp_path, monkeypatch):
    rows, ids = np.zeros((5000, 64), np.float32), np.array(["v"] * 5000)
    np.savez_compressed(tmp_path / "audio_test.npz", embedding=rows, id=ids)
    free = psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(DataError, match="audio_test.npz needs .* GiB of memory"):
        FeatureStore(tmp_path).load("audio", "test")
    (tmp_path / "audio_test.npz").write_bytes((tmp_path / "audio_test.npz").read_bytes()[:-30])
    with pytest.raises(DataError, match="audio_test.npz is not a .npz file"):
        FeatureStore(tmp_path).load("audio", "test")


@pytest.mark.parametrize(
    ("rows", "ids", "said"),
    [
        (torch.zeros(2, 3), ["a", "b"], "the embedding of a is not finite or zero \\(2 are\\)"),
        (torch.tensor([[1.0, torch.nan]]), ["a"], "not finite"),
        (torch.ones(2, 3), ["a"], "do not go together"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(tmp_path, rows, ids, said):
    save_features(tmp_path, "text", "train", ids, rows)
    with pytest.raises(DataError, match=said):
        FeatureStore(tmp_path).load("text", "train")


def test_means_are_those_of_the_training_split_and_never_of_another(tmp_path):
    store = FeatureStore(write_store(tmp_path / "s", means=False))
    assert store.means() == {}
    torch.testing.assert_close(store.mean("image"), store.load("image", "train").embedding.mean(dim=0))
    for path in (tmp_path / "s").glob("image_train*"):
        path.unlink()
    with pytest.raises(DataError, match="no mean of modality image"):
        FeatureStore(tmp_path / "s").mean("image")
    with pytest.raises(DataError, match="has no image_train"):
        FeatureStore(tmp_path / "s").load("image", "train")
    with pytest.raises(DataError, match="holds no embeddings"):
        FeatureStore(tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_pickles_of_the_papers_code_are_converted_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embed = torch.randn(3, 1, 8)
    tree = {
        "images": {
            391895: {"img_path": "a.jpg", "embed": embed[0].half()},
            7: {"img_path": "b.jpg", "embed": embed[1].half()},
        },
        "captions": {0: {"caption": "A man.", "img_id": 391895, "embed": embed[2]}},
    }
    (tmp_path / "coco.pkl").write_bytes(pickle.dumps(tree))
    assert convert_pickle(tmp_path / "coco.pkl", "train", tmp_path / "s") == {"image_train": 2, "text_train": 1}
    store = FeatureStore(tmp_path / "s")
    assert store.load("image", "train").ids == ["391895", "7"]
    torch.testing.assert_close(store.load("text", "train").embedding, F.normalize(embed[2], dim=1))
    torch.testing.assert_close(store.mean("text"), F.normalize(embed[2], dim=1)[0])
    pairs = [
        {"x": "clip.wav", "y": text, "x_embed": np.float32([1, 0]), "y_embed": np.float32([0, 1]), "split": "test"}
        for text in ("rain", "it rains")
    ]
    (tmp_path / "ib.pkl").write_bytes(pickle.dumps(pairs))
    assert convert_pickle(tmp_path / "ib.pkl", "", tmp_path / "i", "audio") == {"text_test": 2, "audio_test": 1}
    assert FeatureStore(tmp_path / "i").captions("test") == {"clip.wav": ["rain", "it rains"]}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"images": Evil(), "captions": {}}))
    with pytest.raises(DataError, match="wants to call posix.system"):
        convert_pickle(tmp_path / "evil.pkl", "train", tmp_path / "e")
    assert not (tmp_path / "hacked").exists()
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match="neither of the two known forms"):
        convert_pickle(tmp_path / "other.pkl", "train", tmp_path / "e")
    (tmp_path / "text.pkl").write_text(json.dumps(tree["captions"][0]["caption"]))
    with pytest.raises(DataError, match="cannot be read as a pickle"):
        convert_pickle(tmp_path / "text.pkl", "train", tmp_path / "e")
