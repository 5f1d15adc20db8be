import logging
import os

import pytest

from gapless.data.files import folder_pairs
from gapless.data.folders import look_through
from gapless.errors import DataError
from tests.data.pictures import picture


def pair(folder, key, caption="words", ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{key}.{ending}").write_bytes(picture())
    (folder / f"{key}.txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    pair(root / "zz", "a")
    for name in "bc":
        pair(store / name / "deep", name)
    (root / "link").symlink_to(store)
    (store / "b" / "up").symlink_to(root)
    (root / "aa").symlink_to(root / "zz")  # read under its own name, not the link's
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "one.png").symlink_to(store / "b" / "deep" / "b.png")
    pairs = folder_pairs(root)
    assert [p.key for p in pairs] == ["link/b/deep/b", "link/c/deep/c", "one", "zz/a"]
    assert [p.captions for p in pairs] == [("words",), ("words",), (), ("words",)]
    assert look_through(root).left_out["folders that were read already"] == 2


def test_what_is_left_out_is_counted_once_with_its_ending(tmp_path, caplog):
    pair(tmp_path, "a")
    pair(tmp_path, "b", ending="JFIF")
    pair(tmp_path / ".cache", "c")
    for name in ("d.heic", "e.HEIC", "f.json", "lonely.txt", "._a.png", "none"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.txt")
    for _ in range(2):
        assert [p.key for p in folder_pairs(tmp_path)] == ["a", "b"]
    (said,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    output = said.partition("left out: ")[2].split(", ")
    assert sorted(output) == [
        "1 .json", "1 .txt", "1 .txt without a picture", "1 without an ending", "2 .heic", "3 hidden"
    ]  # fmt: skip


def test_captions_in_upper_case_endings_and_several_encodings(tmp_path, caplog):
    pair(tmp_path, "a")
    (tmp_path / "a.txt").rename(tmp_path / "a.TXT")
    pair(tmp_path, "b", "caf\xe9".encode("latin-1"))
    pair(tmp_path, "c", "zwölf".encode("utf-16"))
    pair(tmp_path, "d", "\u043a\u043e\u0442".encode("cp1251"))
    with caplog.at_level(logging.INFO):
        pairs = folder_pairs(tmp_path)
    assert [p.captions for p in pairs] == [("words",), ("café",), ("zwölf",), ()]
    assert "1 texts are no UTF-8 and are read as Windows-1252, first" in caplog.text
    assert "1 .txt that cannot be read (first:" in caplog.text
    assert "d.txt, line 1: byte 0xea is no UTF-8" in caplog.text


def test_names_that_are_no_utf_8(tmp_path):
    raw = os.fsdecode(b"caf\xe9")
    pair(tmp_path / raw, raw)
    (found,) = folder_pairs(tmp_path)
    assert found.key == r"caf\xe9/caf\xe9"
    assert found.path.is_file()
    with pytest.raises(DataError) as caught:
        folder_pairs(tmp_path / f"{raw}2")
    assert r"caf\xe92 is not a folder" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_folders_that_cannot_be_read_are_counted(tmp_path):
    pair(tmp_path, "a")
    (tmp_path / "closed").mkdir(mode=0)
    assert look_through(tmp_path).left_out["folders that cannot be read (Permission denied)"] == 1


def test_many_kinds_are_counted_and_few_named(tmp_path, caplog):
    pair(tmp_path, "a")
    (tmp_path / "a.TXT").write_text("other words")
    for i in range(20):
        (tmp_path / f"x.{i:04d}").write_bytes(b"")
    (found,) = folder_pairs(tmp_path)
    assert found.captions == ("words",)
    assert "1 .txt beside another of its name" in caplog.text
    assert caplog.text.rstrip().endswith(", 9 of other kinds")
