import io
import json
import os
import pickle
import tarfile
from unittest import mock

import pytest

from gapless.config import DataConfig
from gapless.data import shards
from gapless.data.addresses import expand_shards
from gapless.data.images import BadSampleError
from gapless.data.pairs import Pair
from gapless.data.shards import INDEX_SUFFIX, ShardSource, read_index
from gapless.data.sources import build_source
from gapless.errors import DataError
from tests.data.pictures import picture


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(first, count):
    for i in range(first, first + count):
        yield f"{i:04d}.png", picture(seed=i)
        yield f"{i:04d}.txt", f"caption of {i}\nanother".encode()


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a shard ran code')",))


def test_pairs_by_position(tmp_path):
    for k in range(2):
        write_tar(tmp_path / f"{k}.tar", pairs(3 * k, 3))
    source = ShardSource(expand_shards(str(tmp_path / "{0..1}.tar")))
    assert len(source) == 6
    assert [source.shard(i) for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert source.load(4) == Pair("0004", picture(seed=4), ("caption of 4", "another"))
    assert source.num_captions(4) == 2
    again = ShardSource(expand_shards(str(tmp_path)))  # now from the index files
    assert again.members == source.members


def test_the_index_follows_the_file(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs(0, 2))
    assert len(read_index(path).members) == 2
    assert path.with_name(path.name + INDEX_SUFFIX).exists()
    write_tar(path, pairs(0, 5))
    assert len(read_index(path).members) == 5
    path.with_name(path.name + INDEX_SUFFIX).write_text("{broken")
    assert len(read_index(path).members) == 5


def test_a_shard_that_ends_early_loses_its_tail_only(tmp_path):
    whole = write_tar(tmp_path / "0.tar", pairs(0, 6))
    assert read_index(whole).damage == []
    data = whole.read_bytes()
    offset = read_index(whole).members[4].image[0]
    whole.write_bytes(data[: offset + 10])
    source = ShardSource([str(whole)])
    assert [source.key(i) for i in range(4)] == ["0000", "0001", "0002", "0003"]
    assert len(source) == 5  # the lost end is a sample that can only be counted
    with pytest.raises(BadSampleError) as caught:
        source.load(4)
    assert caught.value.reason == "truncated"
    assert source.load(3).captions[0] == "caption of 3"


def test_no_other_member_is_ever_decoded(tmp_path):
    members = [*pairs(0, 1), ("0000.pyd", pickle.dumps(Bomb())), ("0001.pickle", pickle.dumps(Bomb()))]
    source = ShardSource([str(write_tar(tmp_path / "0.tar", members))])
    assert len(source) == 1
    assert source.load(0).captions[0] == "caption of 0"


def test_incomplete_samples_say_why(tmp_path):
    members = [("a.png", picture()), ("b.txt", b"no image"), *pairs(7, 1)]
    source = ShardSource([str(write_tar(tmp_path / "0.tar", members))])
    assert source.load(0).captions == ()
    with pytest.raises(BadSampleError) as caught:
        source.load(1)
    assert caught.value.reason == "missing_file"


def test_shards_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"3\.tar is not there \(2 of 2 missing\)"):
        ShardSource(expand_shards(str(tmp_path / "{3..4}.tar")))
    os.mkfifo(tmp_path / "fifo.tar")
    with pytest.raises(DataError, match=r"fifo\.tar is no regular file"):
        ShardSource([str(tmp_path / "fifo.tar")])
    with pytest.raises(DataError, match="must be local and not compressed"):
        ShardSource(["http://h/0.tar"])
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(DataError, match="no samples"):
        ShardSource([str(tmp_path / "empty.tar")])


def test_a_damaged_header_costs_its_sample_and_no_other(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs(0, 6))
    data = bytearray(path.read_bytes())
    data[read_index(path).members[2].image[0] - 512 + 100] ^= 255  # the header before the third picture
    path.write_bytes(data)
    source = ShardSource([str(path)])
    loaded = [source.key(i) for i in range(6) if source.members[i][1].image[1] and source.captions(i)]
    assert loaded == ["0000", "0001", "0003", "0004", "0005"]
    assert source.members[6][1].lost
    write_tar(tmp_path / "1.tar", pairs(10, 9))
    source = ShardSource([str(path), str(tmp_path / "1.tar")])  # as many are lost as the other holds more
    assert [source.key(i) for i in range(len(source)) if source.members[i][1].lost] == [
        f"0.tar, lost {k}" for k in range(3)
    ]


def test_a_shard_that_is_cut_while_it_is_read(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs(0, 2))
    source = ShardSource([str(path)])
    with path.open("r+b") as file:
        file.truncate(source.members[1][1].text[0] + 4)
    with pytest.raises(BadSampleError, match="shorter than it was"):
        source.load(1)


def test_a_key_that_comes_twice_is_two_samples(tmp_path):
    path = write_tar(tmp_path / "0.tar", [*pairs(0, 2), *pairs(0, 1), *pairs(5, 1), *pairs(5, 1)])
    source = ShardSource([str(path)])
    assert [source.key(i) for i in range(5)] == ["0000", "0001", "0000", "0005", "0005"]
    assert all(source.load(i).image and source.captions(i) for i in range(5))


def test_captions_in_json(tmp_path):
    tree = {"caption": "a\nred  dot", "TEXT": ["one", "", "two\ud800", 3], "key": "0"}
    path = write_tar(tmp_path / "0.tar", [("0.jpg", picture()), ("0.json", json.dumps(tree).encode()), *pairs(5, 1)])
    assert ShardSource([str(path)]).load(0).captions == ("a red dot",)
    for _ in range(2):  # also from the index, which knows of which key it counted
        source = ShardSource([str(path)], json_caption="TEXT")
        assert source.load(0).captions == ("one", "two?")
        assert (source.num_captions(0), source.num_captions(1)) == (2, 2)
    assert source.load(1).captions == ("caption of 5", "another")


def test_names_that_make_no_sample_are_told(tmp_path, caplog):
    dotted = [("s1.input.jpg", picture()), ("s1.outputs.txt", b"words")]
    with pytest.raises(DataError, match=r"behind the first dot .* s1\.input\.jpg, s1\.outputs\.txt"):
        ShardSource([str(write_tar(tmp_path / "0.tar", dotted))])
    folders = [("images/1.jpg", picture()), ("texts/1.txt", b"words")]
    with pytest.raises(DataError, match=r"no samples in .*; the first that looks like one: images/1\.jpg$"):
        ShardSource([str(write_tar(tmp_path / "1.tar", folders))])
    source = ShardSource([str(write_tar(tmp_path / "2.tar", [*dotted, *pairs(0, 3)]))])
    assert len(source) == 4  # it is counted, and not passed over
    assert "1 of 4 samples" in caplog.text
    with pytest.raises(BadSampleError, match=r"no picture of s1: s1\.input\.jpg, s1\.outputs\.txt"):
        source.load(0)


@pytest.mark.parametrize("label", [b"9" * 5000, b"-3", b"cat", b""])
def test_a_class_that_is_no_number(tmp_path, label):
    path = write_tar(tmp_path / "0.tar", [*pairs(0, 1), ("0000.cls", label)])
    assert ShardSource([str(path)]).label(0) == -1


@pytest.mark.parametrize("part", [[2**70, 5], [512, 2**40], [-512, 5], [512, -5], "text", [1]])
def test_an_index_of_nonsense_is_made_anew(tmp_path, part):
    path = write_tar(tmp_path / "0.tar", pairs(0, 2))
    right = read_index(path)
    place = path.with_name(path.name + INDEX_SUFFIX)
    tree = json.loads(place.read_text())
    tree["members"][1]["text"] = part
    content = {k: v for k, v in tree.items() if k not in ("stamp", "checksum")}
    for checksum in (tree["checksum"], shards._checksum(content)):
        place.write_text(json.dumps(tree | {"checksum": checksum}))
        assert read_index(path) == right


def test_a_folder_that_cannot_be_written_needs_no_index(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "0.tar", pairs(0, 2))
    monkeypatch.setattr(shards, "write_text", mock.Mock(side_effect=DataError("read-only")))
    assert len(ShardSource([str(path)])) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_validation_shards_of_their_own(tmp_path):
    write_tar(tmp_path / "t.tar", pairs(0, 4))
    write_tar(tmp_path / "v.tar", pairs(10, 2))
    config = DataConfig(source="shards", path=str(tmp_path / "t.tar"), val_path=str(tmp_path / "v.tar"))
    assert (len(build_source(config, "train")), len(build_source(config, "val"))) == (4, 2)
