"""Samples of a shard, against webdataset's own reader and open_clip's choice among its members."""

import io
import json
import re
import tarfile

import pytest
import webdataset as wds

from gapless.data.members import split_name, tar_samples
from gapless.data.shards import ShardSource
from gapless.data.stream import ShardReader
from gapless.data.tar import read_tar
from tests.data.pictures import picture
from tests.data.test_shards import write_tar

FORMS = {
    "plain": [("1.jpg", b"I1"), ("1.txt", b"one"), ("2.png", b"I2"), ("2.txt", b"two")],
    "img2dataset": [("1.jpg", b"I1"), ("1.json", b'{"caption": "json"}'), ("1.txt", b"one"), ("2.jpg", b"I2"),
                    ("2.txt", b"")],
    "several pictures": [("1.webp", b"W"), ("1.png", b"P"), ("1.jpeg", b"E"), ("1.jpg", b"J"), ("1.txt", b"one")],
    "folders": [("a/1.jpg", b"I1"), ("a/1.txt", b"one"), ("b/1.jpg", b"I2"), ("b/1.txt", b"two"), ("c.d/1.jpg", b"I3"),
                ("c.d/1.txt", b"three")],
    "capitals": [("A.JPG", b"I1"), ("A.Txt", b"one")],
    "hidden and notes": [("._1.jpg", b"M"), ("__meta__/x.txt", b"M"), ("__a__", b"M"), ("1.jpg", b"I"),
                         ("1.txt", b"one"), ("noending", b"x"), ("d/.hidden", b"x")],
    "others": [("1.jpg", b"I1"), ("1.cls", b"3"), ("1.txt", b"one"), ("1.pyd", b"p"), ("1.seg.png", b"S"),
               ("x.npy", b"N")],
    "above": [("../1.jpg", b"I1"), ("../1.txt", b"one"), ("/etc/2.jpg", b"I2"), ("/etc/2.txt", b"two")],
}  # fmt: skip


def of_open_clip(path):
    """Picture and text as open_clip takes them from webdataset's samples."""
    found = []
    with path.open("rb") as stream:
        files = wds.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        for sample in wds.tariterators.group_by_keys(files):
            image = next((sample[e] for e in ("jpg", "png", "jpeg", "webp") if e in sample), None)
            if image is not None and "txt" in sample:
                found.append((image, sample["txt"].decode()))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_what_open_clip_reads_is_read(tmp_path, form):
    path = write_tar(tmp_path / "0.tar", FORMS[form])
    expected = of_open_clip(path)
    assert expected
    source = ShardSource([str(path)])
    pairs = [
        source.load(i) for i in range(len(source)) if source.members[i][1].image[1] and source.members[i][1].ending
    ]
    assert [(pair.image, "\n".join(pair.captions)) for pair in pairs] == expected
    streamed = [raw for raw in ShardReader()(str(path)) if hasattr(raw, "image")]
    assert streamed == [pair for pair in pairs if pair.captions]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_compressed_shards_are_streamed(tmp_path, ending):
    path = tmp_path / f"0.tar.{ending}"
    with tarfile.open(path, f"w:{ending}") as tar:
        for name, data in FORMS["plain"]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [(raw.image, *raw.captions) for raw in ShardReader()(str(path))] == of_open_clip(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert list(ShardReader()(str(path)))[-1].reason in ("truncated", "missing_file")


def test_samples_whose_members_lie_apart(tmp_path):
    apart = [("1.jpg", b"I1"), ("2.jpg", b"I2"), ("1.txt", b"one"), ("2.txt", b"two")]
    path = write_tar(tmp_path / "0.tar", apart)
    assert [ShardSource([str(path)]).load(i).captions for i in range(2)] == [("one",), ("two",)]
    streamed = list(ShardReader()(str(path)))  # a stream cannot wait for them, and passes over none in silence
    assert [raw.reason for raw in streamed] == ["no_caption"] * 2 + ["missing_file"] * 2
    assert streamed[0].detail == "no caption in 1.jpg"


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'{"caption": 3}', b'{"other": "x"}', b"[" * 10**5, b"\xff\xfe"]
)
def test_json_without_a_caption(tmp_path, content):
    path = write_tar(tmp_path / "0.tar", [("1.jpg", b"I"), ("1.json", content), ("2.jpg", b"I"), ("2.txt", b"two")])
    assert [ShardSource([str(path)]).captions(i) for i in range(2)] == [(), ("two",)]
    bad, _ = ShardReader()(str(path))
    assert bad.reason == "no_caption"
    assert re.fullmatch(
        r"no caption in 1\.jpg, 1\.json \(1\.json: (no JSON object|no text under 'caption'|line 1.*)\)", bad.detail
    )


def test_a_text_that_cannot_be_read_says_why(tmp_path):
    path = write_tar(tmp_path / "0.tar", [("1.jpg", b"I"), ("1.txt", b" \n"), ("2.jpg", b"I"), ("2.txt", b"a\0b")])
    assert [bad.detail.partition("(")[2] for bad in ShardReader()(str(path))] == [
        "1.txt: nothing but blanks)",
        "2.txt: line 1: a NUL, as in UTF-16 without its mark; save the file as UTF-8)",
    ]


def test_keys_and_endings():
    assert split_name("a/b.c.JPG") == ("a/b", "c.jpg")
    assert split_name("./b.jpg") == ("b", "jpg")
    assert split_name("a\n\x1b[2J.jpg") == ("a\\n\\x1b[2J", "jpg")
    for nothing in ("b", "a/b", ".b", "a/.b.jpg", "b.", "__x__/b.jpg"):
        assert split_name(nothing) == ("", "")


def test_a_picture_that_is_a_link_is_a_sample_that_says_so():
    info = tarfile.TarInfo("1.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    (sample,) = tar_samples(read_tar(io.BytesIO(info.tobuf() + bytes(1024)), lambda name: True), together=True)
    assert sample.image is None
    assert sample.describe("caption") == "1.jpg is a link"


def test_keys_that_are_paths_name_no_files(tmp_path):
    from gapless.data.prepare import prepare_shards

    members = [("../../1.jpg", picture(kind="JPEG")), ("../../1.json", json.dumps({"caption": "a"}).encode())]
    source = ShardSource([str(write_tar(tmp_path / "0.tar", members))])
    prepare_shards(source, tmp_path / "deep" / "out", workers=0)
    with tarfile.open(tmp_path / "deep" / "out" / "00000.tar") as tar:
        assert [name.partition("_")[2] for name in tar.getnames()] == ["______1.jpg", "______1.txt"]
