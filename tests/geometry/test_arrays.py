"""Sizes from headers, before anything is read."""

import io
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from numpy.lib import format as npy
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from gapless.errors import DataError
from gapless.geometry.arrays import find_arrays
from gapless.geometry.files import load_embeddings

FREE = psutil.virtual_memory().total
ROWS = FREE // 64 // 4 + 1
"""Of 64 float32, more than the memory of this machine."""


def header(shape, dtype="<f4", **changes):
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype} | changes)
    return buffer.getvalue()


def zipped(path, parts, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def nothing_large(monkeypatch):
    """Reading an array's data is an error."""

    def never(*_, **__):
        raise AssertionError("an array was read")

    monkeypatch.setattr(np, "load", never)
    monkeypatch.setattr(npy, "read_array", never)


def test_sizes_come_from_headers(tmp_path, nothing_large):
    np.save(tmp_path / "a.npy", np.zeros((3, 4), np.float16))
    np.savez(tmp_path / "b.npz", image=np.zeros((5, 2)), note=np.array("text"))
    save_file(
        {"x": torch.zeros(2, 3, dtype=torch.bfloat16), "y": torch.zeros(4, dtype=torch.int64)},
        tmp_path / "c.safetensors",
    )
    shapes = {
        n: {k: (a.shape, str(a.dtype)) for k, a in find_arrays(tmp_path / n).items()}
        for n in ("a.npy", "b.npz", "c.safetensors")
    }
    assert shapes == {
        "a.npy": {"": ((3, 4), "float16")},
        "b.npz": {"image": ((5, 2), "float64"), "note": ((), "<U4")},
        "c.safetensors": {"x": ((2, 3), "float32"), "y": ((4,), "int64")},
    }


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"],
)
def test_every_type_of_numpy_is_read_as_it_is(tmp_path, dtype):
    values = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    save_arrays({"a": values}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", a=values)
    np.save(tmp_path / "a.npy", values)
    for ending, member in ((".safetensors", "a"), (".npz", "a"), (".npy", "")):
        (array,) = find_arrays(tmp_path / f"a{ending}").values()
        assert (array.path.suffix, array.member, array.dtype) == (ending, member, np.dtype(dtype))
        read, part = array.read(), array.read(np.array([2, 0]))
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read, values)
        np.testing.assert_array_equal(part, values[[2, 0]])


def test_narrow_floats_are_read_as_float32_and_each_array_by_its_name(tmp_path):
    save_file({"x": torch.tensor([[1.5, -2.0]]).bfloat16(), "y": torch.tensor([3.0])}, tmp_path / "a.safetensors")
    arrays = find_arrays(tmp_path / "a.safetensors")
    assert (arrays["x"].read().tolist(), arrays["y"].read().tolist()) == ([[1.5, -2.0]], [3.0])
    assert str(arrays["x"].read().dtype) == "float32"
    np.savez(tmp_path / "b.npz", x=np.eye(2), y=np.ones(3))
    arrays = find_arrays(tmp_path / "b.npz")
    assert (arrays["x"].read().tolist(), arrays["y"].read().tolist()) == ([[1, 0], [0, 1]], [1, 1, 1])


def test_a_file_that_needs_all_of_the_free_memory_is_read_and_one_byte_more_is_not(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.ones((4, 2), np.float32))
    (array,) = find_arrays(tmp_path / "a.npy").values()
    for free, rows, fits in ((32, None, True), (31, None, False), (16, [0, 1], True), (15, [0, 1], False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        if fits:
            assert len(array.read(rows)) == len(rows or range(4))
        else:
            with pytest.raises(DataError, match=r"a.npy needs 0.0 GiB of memory, 0.0 are free$"):
                array.read(rows)


def test_a_file_without_its_last_byte_is_cut(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 2)))
    find_arrays(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", (tmp_path / "a.npy").stat().st_size - 1)
    with pytest.raises(DataError, match=r"it is cut: its header says \(4, 2\) of float64"):
        find_arrays(tmp_path / "a.npy")


def test_more_than_memory_is_not_read(tmp_path, nothing_large):
    sparse = tmp_path / "sparse.npy"
    sparse.write_bytes(header((ROWS, 64)))
    os.truncate(sparse, sparse.stat().st_size + 256 * ROWS)
    bomb = zipped(tmp_path / "bomb.npz", {"image.npy": header((ROWS, 64)) + bytes(100_000)})
    tensors = tmp_path / "sparse.safetensors"
    output = f'{{"a":{{"dtype":"F32","shape":[{ROWS},64],"data_offsets":[0,{256 * ROWS}]}}}}'.encode()
    tensors.write_bytes(len(output).to_bytes(8, "little") + output)
    os.truncate(tensors, 8 + len(output) + 256 * ROWS)
    for path in (sparse, bomb, tensors):
        with pytest.raises(DataError, match=rf"{path.name} needs .* GiB of memory, .* are free") as error:
            load_embeddings(path, "image")
        assert "\n" not in str(error.value)


BROKEN = {
    "negative.npy": header((-5, 4)) + bytes(80),
    "true.npy": header((True, 4)) + bytes(80),
    "vast.npy": header((2**62, 2**62)) + bytes(80),
    "cut.npy": header((50, 4)) + bytes(80),
    "half_header.npy": header((50, 4))[:40],
    "magic.npy": b"\x93NUMPY",
    "empty.npy": b"",
    "version.npy": b"\x93NUMPY\x09\x00" + header((5, 4))[8:],
    "text.npy": b"a,b\n1,2\n",
    "objects.npy": header((5, 4), "|O") + bytes(80),
    "nested.npy": header((5,), [("a", "|O"), ("b", "<f4")]) + bytes(80),
    "cut.npz": b"",
    "text.npz": b"PK\x03\x04 no archive",
    "cut.safetensors": b"\xff" * 20,
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_files_are_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(DataError, match=rf"{name} is not a .{name.partition('.')[2]} file of numbers \(.+\)$") as error:
        load_embeddings(tmp_path / name)
    assert "\n" not in str(error.value)


def test_archives_cut_anywhere_are_one_line(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, image=np.random.default_rng(0).normal(size=(20, 4)))
    data = whole.read_bytes()
    for end in range(0, len(data), 7):
        (tmp_path / "cut.npz").write_bytes(data[:end])
        with pytest.raises(DataError, match="cut.npz is not a .npz file"):
            load_embeddings(tmp_path / "cut.npz", "image")
    damaged = bytearray(data)
    damaged[150:160] = bytes(10)
    (tmp_path / "bad.npz").write_bytes(damaged)
    with pytest.raises(DataError, match="bad.npz is not a .npz file"):
        load_embeddings(tmp_path / "bad.npz", "image")


def test_folders_and_pipes_are_not_opened(tmp_path):
    (tmp_path / "img_emb").mkdir()
    with pytest.raises(DataError, match="img_emb is a folder; one file"):
        load_embeddings(tmp_path / "img_emb")
    for k in range(2):
        np.save(tmp_path / "img_emb" / f"img_emb_{k}.npy", np.eye(5))
    with pytest.raises(DataError, match=r"is a folder of 2 parts, img_emb_0.npy \.\.\.; join them"):
        load_embeddings(tmp_path / "img_emb")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DataError, match="pipe.npy is no regular file"):
        load_embeddings(tmp_path / "pipe.npy")
