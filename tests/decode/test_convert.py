"""Pickles of other projects, row by row."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gapless.decode import FeatureStore, save_features, save_means
from gapless.decode.convert import convert_pickle, read_pickle
from gapless.errors import DataError


def stored(tmp_path, tree, *arguments, **options):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(tree))
    return convert_pickle(tmp_path / "x.pkl", *arguments, **options), FeatureStore(arguments[1])


def test_images_and_captions_of_one_split(tmp_path):
    tree = {
        "images": {7: {"embed": torch.tensor([[3.0, 4.0]])}, 5: {"embed": torch.tensor([[1.0, 0.0]])}},
        "captions": {
            0: {"caption": "of five", "img_id": 5, "embed": torch.tensor([[0.0, 2.0]])},
            1: {"caption": "of seven", "img_id": 7, "embed": torch.tensor([[1.0, 1.0]])},
            2: {"caption": "of seven too", "img_id": 7, "embed": torch.tensor([[1.0, 0.0]])},
        },
    }
    written, store = stored(tmp_path, tree, "val", tmp_path / "s")
    assert written == {"image_val": 2, "text_val": 3}
    image, text = store.load("image", "val"), store.load("text", "val")
    assert image.keys == ["7", "5"]
    torch.testing.assert_close(image.embedding, torch.tensor([[0.6, 0.8], [1, 0]]))
    assert (text.keys, text.captions) == (["5", "7", "7"], ["of five", "of seven", "of seven too"])
    torch.testing.assert_close(text.embedding, F.normalize(torch.tensor([[0.0, 2], [1, 1], [1, 0]]), dim=1))
    assert store.means() == {}  # which are of training rows alone
    _, store = stored(tmp_path, tree, "train", tmp_path / "s")
    torch.testing.assert_close(store.means()["image"], torch.tensor([0.8, 0.4]))
    torch.testing.assert_close(store.means()["text"], text.embedding.mean(dim=0))


def test_pairs_of_all_splits(tmp_path):
    def row(x, y, x_embed, y_embed, split):
        return {"x": x, "y": y, "x_embed": np.float32(x_embed), "y_embed": np.float32(y_embed), "split": split}

    rows = [
        row("a.wav", "rain", [1, 0], [0, 1], "train"),
        row("b.wav", "wind", [0, 2], [1, 1], "train"),
        row("a.wav", "it rains", [1, 0], [3, 4], "train"),
        row("a.wav", "rain in test", [1, 1], [1, 0], "test"),  # the same name is another thing there
    ]
    written, store = stored(tmp_path, rows, "", tmp_path / "s", "audio")
    assert written == {"text_train": 3, "audio_train": 2, "text_test": 1, "audio_test": 1}
    audio, text = store.load("audio", "train"), store.load("text", "train")
    assert audio.keys == ["a.wav", "b.wav"]
    torch.testing.assert_close(audio.embedding, torch.eye(2))
    assert text.keys == ["a.wav", "b.wav", "a.wav"]
    assert text.captions == ["rain", "wind", "it rains"]
    torch.testing.assert_close(text.embedding[2], torch.tensor([0.6, 0.8]))
    assert store.load("audio", "test").captions == [""]
    assert set(store.means()) == {"audio", "text"}


def test_what_was_there_of_the_same_parts_is_replaced_and_the_rest_stays(tmp_path):
    folder = tmp_path / "s"
    for name, split in (("audio", "test"), ("audio", "val"), ("text", "train")):
        save_features(folder, name, split, ["old"], torch.ones(1, 2))
    save_means(folder, {"audio": torch.full((2,), 9.0)})
    np.savez(folder / "text_test.npz", embedding=np.eye(2), id=np.array(["p", "q"]))
    rows = [{"x": "a", "y": "b", "x_embed": [1.0, 0], "y_embed": [0, 1.0], "split": "test"}]
    _, store = stored(tmp_path, rows, "", folder, "audio")
    assert store.load("audio", "test").keys == ["a"]
    assert store.load("audio", "val").keys == store.load("text", "train").keys == ["old"]
    assert store.means()["audio"].tolist() == [9.0, 9.0]
    assert {p.name for p in folder.glob("text_test*")} == {"text_test.npz", "text_test_00000.safetensors"}


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_tensors_arrays_and_plain_containers_are_all_that_is_read(tmp_path):
    path = tmp_path / "x.pkl"
    tree = {
        "tensor": torch.tensor([[1.0, 2.0]]),
        "half": torch.ones(2, dtype=torch.float16),
        "array": np.arange(3),
        "number": np.float32(1.5),
        "text": ("a", ["b"], None, True),
        "bytes": b"\xff\x00",
    }
    path.write_bytes(pickle.dumps(tree, protocol=2))
    found = read_pickle(path)
    assert torch.equal(found["tensor"], tree["tensor"])
    assert found["half"].dtype == torch.float16
    assert found["array"].tolist() == [0, 1, 2]
    assert found["number"] == 1.5
    assert found["text"] == tree["text"]
    assert found["bytes"] == b"\xff\x00"
    for function, name in ((print, "builtins.print"), (np.load, "numpy.load"), (eval, "builtins.eval")):
        path.write_bytes(pickle.dumps(Calls(function, "1")))
        with pytest.raises(DataError) as error:
            read_pickle(path)
        assert str(error.value) == f"{path} cannot be read as a pickle of tensors (it wants to call {name})"
    with pytest.raises(DataError, match="No such file"):
        read_pickle(tmp_path / "nowhere")
