import json
import os
import pickle
import shutil

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from gapless.decode import Features, FeatureStore, save_features, save_means
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
    assert found.keys == ids
    assert found.captions[9] == "text 9"
    torch.testing.assert_close(found.embedding, F.normalize(rows.half().float(), dim=1))
    save_features(tmp_path, "audio", "train", ["b"], rows[:1])  # replaces, and leaves no older file
    assert FeatureStore(tmp_path).load("audio", "train").keys == ["b"]
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
    assert store.load("video", "test").keys == ["v", "w", "x", "y", "z", "z"]
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
    assert store.load("image", "train").keys == ["391895", "7"]
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


def test_a_file_says_all_that_it_holds(tmp_path):
    save_features(tmp_path, "audio", "val", ["b", "a"], torch.eye(2), ["", "said of a"], "digest")
    with safe_open(tmp_path / "audio_val_00000.safetensors", "pt") as file:
        meta = file.metadata()
    assert meta.pop("part")
    assert meta == {
        "format": "gapless features 1",
        "modality": "audio",
        "split": "val",
        "ids": '["b", "a"]',
        "captions": '["", "said of a"]',
        "model": "digest",
    }
    save_features(tmp_path, "audio", "val", ["b", "a"], torch.eye(2))
    with safe_open(tmp_path / "audio_val_00000.safetensors", "pt") as file:
        assert "captions" not in file.metadata()
        assert file.metadata()["model"] == ""


def test_parts_of_a_split_that_were_not_written_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "ROWS_PER_FILE", 2)
    ids = ["a", "b", "c"]
    for folder, rows, names in (("x", torch.eye(3), ids), ("y", 2 * torch.eye(3), ids), ("z", torch.eye(3), ids[::-1])):
        save_features(tmp_path / folder, "audio", "val", names, rows)
    assert FeatureStore(tmp_path / "x").load("audio", "val").keys == ids
    for other in ("y", "z"):  # another model's rows, and the same ones in another order
        mixed = tmp_path / f"x{other}"
        shutil.copytree(tmp_path / "x", mixed)
        shutil.copy(tmp_path / other / "audio_val_00001.safetensors", mixed)
        for read in (lambda s: s.load("audio", "val"), lambda s: s.captions("val", "audio")):
            with pytest.raises(DataError) as error:
                read(FeatureStore(mixed))
            paths = f"{mixed / 'audio_val_00000.safetensors'}, {mixed / 'audio_val_00001.safetensors'}"
            assert str(error.value) == f"{paths} were not written together; embed again, or keep one of them"


def test_parts_of_two_widths_are_refused(tmp_path):
    for name, width in (("audio_val", 2), ("audio_val_1", 3)):
        np.savez(tmp_path / f"{name}.npz", embedding=np.ones((1, width)), id=np.array(["a"]))
    with pytest.raises(DataError) as error:
        FeatureStore(tmp_path).load("audio", "val")
    assert str(error.value) == f"{tmp_path}: files of audio_val have [2, 3] dimensions"


def test_means_of_several_modalities_stand_beside_each_other(tmp_path):
    save_features(tmp_path, "audio", "val", ["a"], torch.eye(1))
    save_means(tmp_path, {"image": torch.ones(2), "text": torch.zeros(2)}, "one")
    save_means(tmp_path, {"text": torch.full((2,), 3.0)}, "one")
    store = FeatureStore(tmp_path)
    assert store.model == ""
    means = store.means()
    assert {name: mean.tolist() for name, mean in means.items()} == {"image": [1, 1], "text": [3, 3]}
    assert (store.model, store.named_by) == ("one", "means.safetensors")
    assert store.mean("image").tolist() == [1, 1]
    save_means(tmp_path, {"image": torch.ones(2)}, "other")
    with pytest.raises(DataError, match=r"means\.safetensors is of another model than means\.safetensors"):
        FeatureStore(tmp_path).means()
    (tmp_path / "means.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"means\.safetensors cannot be read \(.*\); embed again"):
        store.means()


def test_a_store_is_of_one_model_and_so_is_what_learned_from_it(tmp_path):
    save_features(tmp_path, "text", "val", ["a"], torch.eye(1), ["said"], "one")
    save_features(tmp_path, "image", "val", ["a"], torch.eye(1), model="other")
    save_features(tmp_path, "audio", "val", ["a"], torch.eye(1))
    store = FeatureStore(tmp_path)
    store.check_space("other")  # nothing was opened that names a model
    store.load("audio", "val")
    store.captions("val")
    assert (store.model, store.named_by) == ("one", "text_val_00000.safetensors")
    store.load("audio", "val")  # which may be of any
    with pytest.raises(DataError) as error:
        store.load("image", "val")
    assert str(error.value) == (
        f"{tmp_path / 'image_val_00000.safetensors'} is of another model than text_val_00000.safetensors: "
        "embeddings of two models are no space; embed again"
    )
    store.check_space("one")
    store.check_space("")
    with pytest.raises(DataError) as error:
        store.check_space("other")
    assert str(error.value) == f"{tmp_path} holds embeddings of another model than the captioner learned from"


def test_files_in_other_forms_are_one_line(tmp_path):
    save_features(tmp_path, "audio", "val", ["a"], torch.eye(1))
    path = tmp_path / "audio_val_00000.safetensors"
    save_file({"embedding": torch.eye(1)}, path, {"ids": "[", "modality": "audio"})
    with pytest.raises(DataError, match=r"audio_val_00000\.safetensors is not in the format of embeddings \("):
        FeatureStore(tmp_path).load("audio", "val")
    save_file({"other": torch.eye(1)}, path, {"ids": '["a"]'})
    with pytest.raises(DataError, match=r"is not in the format of embeddings \('embedding'\)"):
        FeatureStore(tmp_path).load("audio", "val")
    save_file({"embedding": torch.eye(1)}, path, {"ids": '["a"]'})  # of version 0.1, or one's own
    assert FeatureStore(tmp_path).load("audio", "val").keys == ["a"]
    save_file({"embedding": torch.ones(1)}, path, {"ids": '["a"]'})
    with pytest.raises(DataError) as error:
        FeatureStore(tmp_path).load("audio", "val")
    assert str(error.value) == f"{path}: (1,) embeddings, 1 ids and 1 captions do not go together"
    save_file({"embedding": torch.eye(1)}, path, {"ids": '["a"]', "captions": '["x", "y"]'})
    with pytest.raises(DataError, match="1 ids and 2 captions do not go together"):
        FeatureStore(tmp_path).load("audio", "val")
    (tmp_path / "audio_train_x.safetensors").touch()
    (tmp_path / "other.txt").touch()
    assert list(FeatureStore(tmp_path).files) == [("audio", "val")]


def test_the_first_row_of_an_id_speaks_for_it():
    features = Features("audio", ["b", "a", "b", "c"], torch.eye(4), [""] * 4)
    assert chosen_rows(features, ["c", "b", "b"]) == [3, 0, 0]
    assert len(features) == 4
    with pytest.raises(DataError) as error:
        chosen_rows(features, ["x", "c", "y"])
    assert str(error.value) == "audio: id 'x' has no embedding (2 have none)"
