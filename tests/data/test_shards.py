import io
import pickle
import tarfile

import pytest

from gapless.config import DataConfig
from gapless.data.images import BadSampleError
from gapless.data.pairs import Pair
from gapless.data.shards import INDEX_SUFFIX, ShardSource, expand_shards, read_index
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
    assert not read_index(whole).truncated
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


def test_wrong_addresses(tmp_path):
    with pytest.raises(DataError, match=r"3\.tar is not there \(2 of 2 missing\)"):
        ShardSource(expand_shards(str(tmp_path / "{3..4}.tar")))
    with pytest.raises(DataError, match="no .tar files"):
        expand_shards(str(tmp_path))
    with pytest.raises(DataError, match="data.allow_pipe=true"):
        expand_shards("pipe:cat x.tar")
    assert expand_shards("pipe:cat {0..1}.tar", allow_pipe=True) == ["pipe:cat 0.tar", "pipe:cat 1.tar"]
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(DataError, match="no samples"):
        ShardSource([str(tmp_path / "empty.tar")])


def test_validation_shards_of_their_own(tmp_path):
    write_tar(tmp_path / "t.tar", pairs(0, 4))
    write_tar(tmp_path / "v.tar", pairs(10, 2))
    config = DataConfig(source="shards", path=str(tmp_path / "t.tar"), val_path=str(tmp_path / "v.tar"))
    assert (len(build_source(config, "train")), len(build_source(config, "val"))) == (4, 2)
