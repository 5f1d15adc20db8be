import pytest
import torch

from gapless.errors import DataError
from gapless.eval import Embeddings, load_pairs, save_pairs


def test_embeddings_come_back_with_the_names_of_their_pairs(tmp_path, unit):
    pairs = Embeddings(unit(3, 3).float(), unit(3, 3, seed=1).float(), torch.tensor([2, 0, 1]), keys=["c", "a", "b"])
    save_pairs(pairs, tmp_path / "deep" / "epoch_00000.safetensors")
    read = load_pairs(tmp_path / "deep" / "epoch_00000.safetensors")
    assert torch.equal(read.image, pairs.image)
    assert torch.equal(read.text, pairs.text)
    assert read.indices.tolist() == [2, 0, 1]
    assert (read.keys, read.sample_set) == (["c", "a", "b"], "")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["epoch_00000.safetensors"]


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "e.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"e\.safetensors holds no embeddings"):
        load_pairs(tmp_path / "e.safetensors")


def test_the_first_text_of_each_image():
    text = torch.arange(6.0)[:, None]
    pairs = Embeddings(torch.zeros(3, 1), text, torch.arange(3), image_of_text=torch.tensor([0, 0, 1, 2, 2, 2]))
    assert pairs.first_text.tolist() == [[0], [2], [3]]
