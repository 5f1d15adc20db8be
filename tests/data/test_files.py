import pytest

from gapless.config import DataConfig
from gapless.data.files import csv_pairs, folder_pairs
from gapless.data.images import BadSampleError
from gapless.data.pairs import Pair
from gapless.data.samples import pick_caption
from gapless.data.sources import build_source
from gapless.errors import ConfigError, DataError
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


HEADER = "filepath,title\n"


def read(tmp_path, content, separator=","):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(p.key, p.captions) for p in csv_pairs(path, "filepath", "title", separator)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_csv_as_spreadsheet_programs_write_it(tmp_path, encoding):
    rows = 'filepath,title,\r\na.png,"café, ""größe""\n\u2013 two lines",\r\n,,\r\nb.png,plain,\r\n'
    assert read(tmp_path, rows.encode(encoding)) == [
        ("a.png", ('café, "größe"\n\u2013 two lines',)),
        ("b.png", ("plain",)),
    ]


def test_a_tab_typed_as_two_characters(tmp_path):
    assert read(tmp_path, "filepath\ttitle\na.png\ta dog\n", r"\t") == [("a.png", ("a dog",))]


@pytest.mark.parametrize("separator", ["", "ab", '"', "\n", "::"])
def test_separators_that_are_none(tmp_path, separator):
    with pytest.raises(ConfigError, match="data.csv_separator: .* is not one character"):
        read(tmp_path, HEADER + "a.png,b\n", separator)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEADER + "a.png,one\nb.png,two, three\n", r"line 3 \(row 2 .*: 3 cells under a header of 2"),
        (HEADER + "a.png,one\nb.png\n", r"line 3 \(row 2 .*: 1 cells under a header of 2"),
        ("filepath,title,n\na.png,one\n", r"line 2 \(row 1 .*: 2 cells under a header of 3"),
        (HEADER + 'a.png,one\n\nb.png,"Stop" sign\n', r"line 4 .*row 2 below"),
        (HEADER + 'a.png,"one\nb.png,two\nc.png,three\n', r"line 2 \(row 1 .*: unexpected end"),
        (HEADER + 'a.png,"one\nb.png,two\nc.png,three"\n', r"line 2 \(row 1 .* swallows the rows"),
        ('title,filepath\n"one,a.png\nb,b.png\nc",c.png\n', r"line 2 \(row 1 .* swallows the rows"),
        ("filepath,title,title\na.png,one,two\n", "has the column 'title' twice"),
        (HEADER.encode() + b"a.png,ok\nb.png,\xea\xee\xf2\n", "line 3: byte 0xea is no UTF-8"),
        (HEADER.encode("utf-16-le") + "a.png,x\n".encode("utf-16-le"), "line 1: a NUL"),
        ("", "no column 'filepath'"),
    ],
)
def test_csv_that_cannot_be_read_as_it_is_meant_names_the_row(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, content)


def test_a_quotation_mark_that_opens_in_a_tab_file(tmp_path):
    rows = [f"{i}.dat\tcaption {i}" for i in range(8)]
    for last in ("", '"'):
        marked = [*rows[:3], '3.dat\t"caption 3', *rows[4:7], rows[7] + last]
        with pytest.raises(DataError, match=r"line 5 \(row 4 below the header\)"):
            read(tmp_path, "filepath\ttitle\n" + "\n".join(marked) + "\n", "\t")
    inner = [f'{i}.dat\ta 5" pipe' for i in range(8)]
    assert len(read(tmp_path, "filepath\ttitle\n" + "\n".join(inner), "\t")) == 8


def test_names_that_windows_wrote(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(picture())
    (tmp_path / "pairs.csv").write_text(HEADER + "images\\0.png,a\nimages\\1.png,b\n")
    found = csv_pairs(tmp_path / "pairs.csv", "filepath", "title", ",")
    assert found[0].path == tmp_path / "images" / "0.png"
    assert found[0].key == "images\\0.png"


def test_the_first_caption_is_the_first_that_is_not_blank(tmp_path):
    pair = Pair("a", b"", (" ", "one", "", "two"))
    assert pick_caption(pair, "first", "") == "one"
    assert {pick_caption(pair, "random", str(seed)) for seed in range(20)} == {"one", "two"}
    assert pick_caption(pair, "index:3", "") == "two"
    for rule in ("index:0", "index:4"):
        with pytest.raises(BadSampleError, match="of 4 is missing or empty"):
            pick_caption(pair, rule, "")
