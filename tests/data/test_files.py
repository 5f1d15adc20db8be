import pytest

from gapless.config import DataConfig
from gapless.data.files import csv_pairs, folder_pairs
from gapless.data.sources import build_source
from gapless.errors import DataError
from tests.data.pictures import picture


def test_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "deep" / "b.JPG").write_bytes(picture(kind="JPEG"))
    pairs = folder_pairs(tmp_path)
    assert [(p.key, p.captions) for p in pairs] == [("a", ("one", "two")), ("deep/b", ())]
    with pytest.raises(DataError, match="no images"):
        folder_pairs(_empty(tmp_path))
    with pytest.raises(DataError, match="is not a folder"):
        folder_pairs(tmp_path / "none")


def _empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_csv(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("filepath\ttitle\nx/1.jpg\ta dog\nx/2.jpg\ta cat\nx/1.jpg\tthe dog\n")
    pairs = csv_pairs(path, "filepath", "title", "\t")
    assert [(p.key, p.captions) for p in pairs] == [("x/1.jpg", ("a dog", "the dog")), ("x/2.jpg", ("a cat",))]
    assert pairs[0].path == tmp_path / "x" / "1.jpg"
    with pytest.raises(DataError, match=r"data.csv_caption: .*no column 'caption', only \['filepath', 'title'\]"):
        csv_pairs(path, "filepath", "caption", "\t")
    with pytest.raises(DataError, match="data.csv_image"):
        csv_pairs(path, "filepath", "title", ",")
    path.write_text("filepath,title\n")
    with pytest.raises(DataError, match="has no rows"):
        csv_pairs(path, "filepath", "title", ",")
    with pytest.raises(DataError, match="cannot be read"):
        csv_pairs(tmp_path / "none.csv", "filepath", "title", ",")


def test_held_out_pairs_are_disjoint_and_do_not_move(tmp_path):
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(b"")
    config = DataConfig(source="folder", path=str(tmp_path), val_fraction=0.25)
    train, val = (build_source(config, split) for split in ("train", "val"))
    keys = [{s.key(i) for i in range(len(s))} for s in (train, val)]
    assert not keys[0] & keys[1]
    assert len(train) + len(val) == 200
    assert 30 < len(val) < 70
    (tmp_path / "new.png").write_bytes(b"")
    again = build_source(config, "val")
    assert keys[1] <= {again.key(i) for i in range(len(again))}
