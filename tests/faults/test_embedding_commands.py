"""Wrong arguments and files of gap, close, robustness and simulate: one line, the documented code, nothing changed."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gapless.errors import DataError
from gapless.geometry.closing import METHODS
from gapless.geometry.robustness import FAMILIES
from tests.runs import run

GAP = ("gap", "x.npy/y.npy")
CLOSE = ("close", "x.npy/y.npy")
NOISE = ("robustness", "x.npy/y.npy")
ROWS = [
    (*GAP, "--rows=-1", 2, "rows: -1 does not work, it must be a whole number of at least 1, or null"),
    (*GAP, "--rows=0", 2, "rows: 0 does not work"),
    (*GAP, "--rows=3", 3, "has 3 rows, gap metrics need at least 5"),
    (*GAP, "--bootstrap=-1", 2, "bootstrap: -1 does not work"),
    (*GAP, f"--seed={'9' * 23}", 2, "seed: 99999999999999999999999 does not work"),
    (*GAP, "--seed=-1", 2, "seed: -1 does not work"),
    (*GAP, "--gamma=0", 2, "gamma: 0 does not work"),
    (*GAP, "--gamma=nan", 2, "gamma: nan does not work"),
    (*GAP, "--definition=third", 2, "definition: third is not one of paper, code"),
    (*GAP, "--output=folder", 3, "folder cannot be written (Is a directory)"),
    (*GAP, "--output=x.npy/below.json", 3, "below.json cannot be written (Not a directory)"),
    (*GAP, "--report=x.npy", 3, "cannot be written (Not a directory)"),
    (*GAP, "--before=missing.npz", 3, "missing.npz is not there"),
    ("gap", "x.npy/short.npy", "--bootstrap=9", 3, "bootstrap: needs pairs, but there are 40 images and 30 texts"),
    ("gap", "x.npy/x.npy", 3, "one matrix, which would be both"),
    ("gap", "x.npy", 3, "one matrix, which would be both"),
    ("gap", "both.safetensors", "--images=x.npy", 2, "SOURCE: it has both sides"),
    ("gap", "one.safetensors", 3, "one matrix, which would be both"),
    ("gap", "bits.npy/bits.npy2", 3, "8-bit integers (uint8)"),
    ("gap", "folder/folder2", 3, "folder is a folder of 1 parts"),
    ("gap", "missing.npy/y.npy", 3, "missing.npy is not there"),
    (*CLOSE, "--output=folder.safetensors", 3, "folder.safetensors cannot be written (Is a directory)"),
    (*CLOSE, "--output=t.pt", 2, "t.pt must end in .safetensors"),
    (*CLOSE, "--output=t.safetensors", "--moved_output=t.safetensors", 2, "is read or written already"),
    ("close", "both.safetensors", "--output=both.safetensors", 2, "is read or written already"),
    (*CLOSE, "--output=t.safetensors", "--apply=missing.npz", 3, "missing.npz is not there"),
    (*CLOSE, "--output=t.safetensors", "--apply=wide.safetensors", 3, "the transform is for 6 dimensions"),
    (*CLOSE, "--output=t.safetensors", "--moved_output=x.npy/m.safetensors", 3, "cannot be written (Not a directory)"),
    (*CLOSE, "--output=t.safetensors", "--alpha=inf", 2, "alpha: inf does not work"),
    (*CLOSE, "--output=t.safetensors", "--epsilon=-1", 2, "epsilon: -1 does not work"),
    (*CLOSE, "--output=t.safetensors", "--method=none", 2, "method: none is not one of mean, translate"),
    (*CLOSE, "--output=t.safetensors", "--moved=audio", 2, "moved: audio is not one of image, text"),
    (*NOISE, "--levels=[0]", 2, "levels: 0 does not work, it must be a whole number of at least 2"),
    (*NOISE, "--levels=[8, 1]", 2, "levels: 1 does not work"),
    (*NOISE, "--levels=[-1]", 2, "levels: -1 does not work"),
    (*NOISE, "--draws=-1", 2, "draws: -1 does not work"),
    (*NOISE, "--draws=0", 2, "draws: 0 does not work"),
    (*NOISE, "--sigmas=[-1]", 2, "sigmas: -1"),
    (*NOISE, "--sigmas=[nan]", 2, "sigmas: nan"),
    (*NOISE, "--sigmas=[]", 2, "noise: an empty list"),
    (*NOISE, "--alphas=[]", 2, "alphas: an empty list"),
    (*NOISE, "--alphas=[inf]", 2, "alphas: inf"),
    (*NOISE, "--noise=[pink]", 2, "pink is not one of gaussian, uniform"),
    (*NOISE, "--codes=[int4]", 2, "int4 is not one of int8, binary"),
    (*NOISE, "--rows=-1", 2, "rows: -1 does not work"),
    (*NOISE, "--draws=2", "--output=folder", 3, "folder cannot be written (Is a directory)"),
    (*NOISE, "--draws=2", "--output=curves.png", 2, "is the name of the figure"),
    ("simulate", "all", "--output=x.npy", 3, "cannot be written (Not a directory)"),
    ("simulate", "none", 2, "'none' is not one of all"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) + 1
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "short.npy", y[:30])
    np.save(folder / "bits.npy", np.packbits(x > 0, axis=1))
    np.save(folder / "bits.npy2.npy", np.packbits(y > 0, axis=1))
    (folder / "bits.npy2.npy").rename(folder / "bits.npy2")
    save_file({"image": x, "text": y}, folder / "both.safetensors")
    save_file({"image": np.hstack([x, x]), "text": np.hstack([y, y])}, folder / "wide.safetensors")
    save_file({"image": x}, folder / "one.safetensors")
    for name in ("folder", "folder2", "folder.safetensors"):
        (folder / name).mkdir()
        np.save(folder / name / "part_0.npy", x)
    return folder


def command(place, verb, source, *options):
    names = source.split("/")
    sources = (source,) if verb == "simulate" or len(names) == 1 else (f"--images={names[0]}", f"--texts={names[1]}")
    return (verb, *sources, *options)


def state(folder):
    return {str(p): hashlib.md5(p.read_bytes()).hexdigest() if p.is_file() else "" for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(map(str, row[:-2])))
def test_wrong_input_is_one_line_and_leaves_nothing(place, monkeypatch, row):
    monkeypatch.chdir(place)
    *arguments, code, words = row
    before = state(place)
    output = run(*command(place, *arguments), code=code)
    (line,) = [line for line in output.splitlines() if line.startswith("gapless: error:")]
    assert words in line
    assert "Traceback" not in output
    assert state(place) == before


def test_close_writes_both_files_or_none(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    transform, moved = tmp_path / "t.safetensors", tmp_path / "new" / "m.safetensors"
    options = ("--images=x.npy", "--texts=y.npy", f"--output={transform}", f"--moved_output={moved}")
    run("close", *options)
    assert set(load_file(moved)) == {"image", "text"}
    assert {p.name for p in tmp_path.rglob("*")} == {"t.safetensors", "new", "m.safetensors"}
    before = state(tmp_path)

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert "m.safetensors cannot be written (No space left on device)" in run(
        "close", *options, "--renormalise", code=3
    )
    assert state(tmp_path) == before


def full_of(path):
    raise DataError(f"{path} cannot be written (No space left on device)")


def full(*_):
    raise OSError(28, "No space left on device")


def test_close_names_the_file_of_the_map_on_a_full_disk(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("gapless.geometry.transform.save_file", full)
    names = (f"--output={tmp_path / 't.safetensors'}", f"--moved_output={tmp_path / 'm.safetensors'}")
    for options in (names[:1], names):
        line = run("close", "--images=x.npy", "--texts=y.npy", *options, code=3)
        assert line == f"gapless: error: {tmp_path / 't.safetensors'} cannot be written (No space left on device)\n"
        assert list(tmp_path.iterdir()) == []


def test_robustness_leaves_no_curves_without_their_figure(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("gapless.report.figures.write_whole", full_of)
    arguments = ("--images=x.npy", "--texts=y.npy", "--draws=2", f"--output={tmp_path / 'r.json'}")
    assert f"{tmp_path / 'r.png'} cannot be written" in run("robustness", *arguments, code=3)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_ranges_and_choices():
    output = run("robustness", "--help")
    for words in ("PositiveInteger", "NonNegativeNumber", "AtLeastTwo", "Seed", *FAMILIES):
        assert words in output
    output = run("close", "--help")
    assert all(method in output for method in METHODS)
