import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from gapless.errors import DataError
from gapless.geometry.files import kept_embeddings, kept_epochs, load_embeddings, load_labels, load_pair, load_sides


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


def test_a_signalling_nan_is_named_as_any_other(tmp_path):
    rows = np.ones((6, 3), np.float32)
    rows.view(np.uint32)[2, 1] = 0x7FA00000
    with pytest.raises(DataError, match="infinity in 1 rows, the first is row 2"):
        load_embeddings(saved(tmp_path, rows))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        load_embeddings(tmp_path / "none.npy")
    broken = tmp_path / "b.npy"
    broken.write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="is not a"):
        load_embeddings(broken)


def test_shapes_must_match(tmp_path):
    a, b = (saved(tmp_path, np.eye(n)[:, :6] + 1, f"{n}.npy") for n in (6, 7))
    with pytest.raises(DataError, match=r"6.npy is \(6, 6\) and .*7.npy is \(7, 6\)"):
        load_pair(a, b)
    with pytest.raises(DataError, match="they share no space"):
        load_pair(a, saved(tmp_path, np.eye(6)[:, :5] + 1, "d.npy"))
    assert load_pair(a, saved(tmp_path, np.eye(6) + 1, "e.npy"))[0].shape == (6, 6)


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e-13, 1.0, 1e20, 1e300])
def test_rows_of_any_length_get_length_one(tmp_path, scale):
    rows = np.random.default_rng(0).normal(size=(7, 5))
    dtype = np.float64 if scale in (1e-300, 1e300) else np.float32
    scaled = rows.astype(np.float32).astype(np.float64) * scale
    features, changed = load_embeddings(saved(tmp_path, scaled.astype(dtype)))
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-4 if scale == 1e-40 else 1e-6)
    assert changed


def test_rows_are_named_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 6)
    rows = np.ones((7, 3))
    rows[[4, 6]] = 0
    with pytest.raises(DataError, match="2 rows of zeros, the first is row 4"):
        load_embeddings(saved(tmp_path, rows))
    rows[5], rows[6, 1] = np.nan, np.inf
    with pytest.raises(DataError, match="infinity in 2 rows, the first is row 5"):
        load_embeddings(saved(tmp_path, rows))
    rows[4:] = [[1, 2, 2], [2, 0, 0], [0, 3, 4]]
    np.testing.assert_allclose(
        load_embeddings(saved(tmp_path, rows))[0][4:], [[1 / 3, 2 / 3, 2 / 3], [1, 0, 0], [0, 0.6, 0.8]]
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_eight_bits_are_packed_or_quantised_and_refused(tmp_path, dtype):
    with pytest.raises(DataError, match=r"8-bit integers \(u?int8\).*floats.*unpackbits"):
        load_embeddings(saved(tmp_path, np.ones((6, 8), dtype)))


def test_the_way_that_the_refusal_names_gives_the_signs(tmp_path):
    rows = np.random.default_rng(1).normal(size=(6, 16))
    packed = np.packbits(rows > 0, axis=1)
    for given in (packed, (packed.astype(int) - 128).astype(np.int8)):
        with pytest.raises(DataError, match="packed bits are numpy") as error:
            load_embeddings(saved(tmp_path, given))
        recipe = str(error.value).partition("packed bits are ")[2]
        signs = eval(recipe, {"numpy": np, "x": given})
        np.testing.assert_array_equal(signs, np.sign(rows))


def test_one_matrix_is_not_both_sides(tmp_path):
    one = saved(tmp_path, np.random.default_rng(0).normal(size=(8, 4)))
    with pytest.raises(DataError, match="a.npy has one matrix, which would be both"):
        load_sides(one, one)
    (tmp_path / "link.npy").symlink_to(one)
    with pytest.raises(DataError, match="one matrix"):
        load_sides(one, tmp_path / "link.npy")
    save_arrays({"image": np.eye(6)}, tmp_path / "i.safetensors")
    with pytest.raises(DataError, match="has the arrays image, and none is called text"):
        load_sides(one, tmp_path / "i.safetensors")
    np.savez(tmp_path / "both.npz", images=np.eye(6), text_features=np.eye(6)[::-1])
    x, y, _ = load_sides(tmp_path / "both.npz", tmp_path / "both.npz")
    assert (x[0, 0], y[0, 5]) == (1, 1)


def test_half_precision_and_other_layouts_are_read(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    save_file({"a": torch.from_numpy(rows).bfloat16()}, tmp_path / "bf.safetensors")
    expected = torch.nn.functional.normalize(torch.from_numpy(rows).bfloat16().float(), dim=1)
    torch.testing.assert_close(load_embeddings(tmp_path / "bf.safetensors")[0], expected)
    for array in (np.asfortranarray(rows), rows.astype(">f4"), (rows * 1000).astype(np.int16)):
        features, _ = load_embeddings(saved(tmp_path, array))
        np.testing.assert_allclose(features, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-2)


def test_a_part_of_the_rows_is_the_same_of_every_file_in_its_order(tmp_path):
    rows = np.random.default_rng(2).normal(size=(9, 3))
    chosen = torch.randperm(9, generator=torch.Generator().manual_seed(4))[:5].sort().values
    np.savez(tmp_path / "both.npz", image=rows, text=rows[:, ::-1] * 2)
    whole, _ = load_embeddings(tmp_path / "both.npz", "image")
    x, y, changed = load_pair(tmp_path / "both.npz", tmp_path / "both.npz", rows=5, seed=4)
    assert torch.equal(x, whole[chosen])
    torch.testing.assert_close(y, x.flip(1))
    assert changed == [str(tmp_path / "both.npz")] * 2
    assert torch.equal(load_embeddings(saved(tmp_path, rows), rows=5, seed=4)[0], x)
    assert not torch.equal(load_embeddings(saved(tmp_path, rows), rows=5)[0], x)
    assert len(load_embeddings(saved(tmp_path, rows), rows=9)[0]) == len(load_embeddings(saved(tmp_path, rows))[0]) == 9


def test_the_files_that_were_normalised_are_named_and_no_others(tmp_path):
    unit = saved(tmp_path, np.eye(6), "unit.npy")
    longer = saved(tmp_path, 3 * np.eye(6), "longer.npy")
    nearly = saved(tmp_path, 1.0009 * np.eye(6), "nearly.npy")
    assert load_sides(unit, longer)[2] == [str(longer)]
    assert load_sides(longer, unit)[2] == [str(longer)]
    assert load_sides(unit, nearly)[2] == []
    assert load_sides(unit, saved(tmp_path, 1.0011 * np.eye(6), "off.npy"))[2] == [str(tmp_path / "off.npy")]


def test_sides_of_different_lengths_need_five_rows_each(tmp_path):
    five, four = saved(tmp_path, np.eye(6)[:5], "five.npy"), saved(tmp_path, np.eye(6)[:4], "four.npy")
    x, y, _ = load_sides(saved(tmp_path, np.eye(6)), five)
    assert (len(x), len(y)) == (6, 5)
    for sides in ((five, four), (four, five)):
        with pytest.raises(DataError, match="four.npy has 4 rows, gap metrics need at least 5"):
            load_sides(*sides)


@pytest.mark.parametrize("name", ["image", "images", "image_features", "image_embeddings"])
def test_a_side_is_found_by_any_of_its_names(tmp_path, name):
    np.savez(tmp_path / "a.npz", **{name: np.eye(5), "text": 2 * np.eye(5)[::-1], "labels": np.arange(5)[::-1]})
    assert torch.equal(load_embeddings(tmp_path / "a.npz", "image")[0], torch.eye(5))
    assert torch.equal(load_embeddings(tmp_path / "a.npz", "text")[0], torch.eye(5).flip(0))
    labels = load_labels(tmp_path / "a.npz", 5, 5)
    assert (labels.tolist(), labels.dtype) == ([4, 3, 2, 1, 0], torch.int64)
    save_arrays({"queries": np.eye(5)}, tmp_path / "one.safetensors")
    assert torch.equal(load_embeddings(tmp_path / "one.safetensors", "text")[0], torch.eye(5))


def test_the_message_of_a_wrong_label_names_its_row(tmp_path):
    with pytest.raises(DataError, match="label 7 of row 2 is none of 5 candidates"):
        load_labels(saved(tmp_path, np.array([0, 4, 7, -1])), 4, 5)


def test_labels_of_any_integers(tmp_path):
    assert load_labels(saved(tmp_path, np.array([1, 0, 2], np.uint8)), 3, 3).tolist() == [1, 0, 2]
    for wrong in ([1, 0], [0, 1, 3], [0, -1, 0], [0.0, 1.0, 2.0]):
        with pytest.raises(DataError, match="a.npy"):
            load_labels(saved(tmp_path, np.array(wrong)), 3, 3)


def test_the_last_epoch_is_the_largest_number(tmp_path):
    (tmp_path / "embeddings").mkdir()
    for name in ("00002", "100000", "abc", "00003_old", "", "-1"):
        (tmp_path / "embeddings" / f"epoch_{name}.safetensors").touch()
    assert list(kept_epochs(tmp_path)) == [2, 100000]
    assert kept_embeddings(tmp_path).name == "epoch_100000.safetensors"
    assert kept_embeddings(tmp_path / "both.npz") == tmp_path / "both.npz"


def test_a_file_larger_than_memory_gives_a_part_or_one_line(tmp_path, monkeypatch):
    free = psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    rows = 2**20 // 4 // 64 + 1
    huge = np.lib.format.open_memmap(tmp_path / "huge.npy", "w+", np.float32, (rows, 64))
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:50]
    huge[chosen.numpy()] = 2.0
    huge.flush()
    with pytest.raises(DataError, match="GiB of memory, .* are free; rows takes a part"):
        load_embeddings(tmp_path / "huge.npy")
    features, changed = load_embeddings(tmp_path / "huge.npy", rows=50)
    assert features.shape == (50, 64)
    assert changed
