import numpy as np
import psutil
import pytest
import torch

from gapless.errors import DataError
from gapless.geometry.files import load_embeddings, load_pair


def saved(tmp_path, array, name="a.npy"):
    path = tmp_path / name
    np.save(path, array, allow_pickle=True)
    return path


def test_rows_are_normalised_and_it_is_said(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 3))
    features, changed = load_embeddings(saved(tmp_path, rows.astype(np.float16)))
    assert changed
    np.testing.assert_allclose(features.norm(dim=1).numpy(), 1, rtol=1e-6)
    again, changed = load_embeddings(saved(tmp_path, features.numpy()))
    assert not changed
    np.testing.assert_allclose(again.numpy(), features.numpy(), atol=1e-7)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4)), "is empty"),
        (np.zeros(4), "must be one matrix"),
        (np.array([[1.0, np.nan]] * 5), "NaN or infinity in 5 rows, the first is row 0"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), "1 rows of zeros, the first is row 1"),
        (np.array([["a", "b"]]), "must be one matrix"),
        (np.array([[{}]], dtype=object), "is not a .npy file of numbers"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, array, message):
    with pytest.raises(DataError, match=message) as caught:
        load_embeddings(saved(tmp_path, array))
    assert "a.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        load_embeddings(tmp_path / "none.npy")
    broken = tmp_path / "b.npy"
    broken.write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="is not a"):
        load_embeddings(broken)


def test_shapes_must_match(tmp_path):
    a, b, c = (saved(tmp_path, np.eye(n)[:, :6] + 1, f"{n}.npy") for n in (6, 7, 6))
    with pytest.raises(DataError, match=r"6.npy is \(6, 6\) and .*7.npy is \(7, 6\)"):
        load_pair(a, b)
    with pytest.raises(DataError, match="they share no space"):
        load_pair(a, saved(tmp_path, np.eye(6)[:, :5] + 1, "d.npy"))
    assert load_pair(a, c)[0].shape == (6, 6)


def test_a_file_larger_than_memory_gives_a_part_or_one_line(tmp_path):
    rows = psutil.virtual_memory().total // 4 // 64 + 1
    huge = np.lib.format.open_memmap(tmp_path / "huge.npy", "w+", np.float32, (rows, 64))  # sparse: no disk is used
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:50]
    huge[chosen.numpy()] = 2.0
    huge.flush()
    with pytest.raises(DataError, match="GiB of memory, .* are free; --rows takes a part"):
        load_embeddings(tmp_path / "huge.npy")
    features, changed = load_embeddings(tmp_path / "huge.npy", rows=50)
    assert features.shape == (50, 64)
    assert changed
