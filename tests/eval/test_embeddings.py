import pytest
import torch

from gapless.errors import DataError
from gapless.eval import PairFeatures, load_pairs, save_pairs


class Named:
    """Pairs whose position is their name."""

    def key(self, position):
        return f"pair {position}"


def test_embeddings_come_back_with_the_names_of_their_pairs(tmp_path, unit):
    features = PairFeatures(unit(4, 3).float(), unit(4, 3, seed=1).float(), torch.tensor([2, 0, 1, 3]), [])
    save_pairs(features, Named(), tmp_path / "deep" / "epoch_00000.safetensors")
    found, keys = load_pairs(tmp_path / "deep" / "epoch_00000.safetensors")
    assert torch.equal(found.image, features.image)
    assert torch.equal(found.text, features.text)
    assert keys == ["pair 2", "pair 0", "pair 1", "pair 3"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["epoch_00000.safetensors"]


def test_streams_have_no_names(tmp_path, unit):
    features = PairFeatures(unit(2, 3).float(), unit(2, 3).float(), torch.tensor([-1, -1]), [])
    save_pairs(features, Named(), tmp_path / "e.safetensors")
    assert load_pairs(tmp_path / "e.safetensors")[1] == []


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "e.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"e\.safetensors holds no embeddings"):
        load_pairs(tmp_path / "e.safetensors")
