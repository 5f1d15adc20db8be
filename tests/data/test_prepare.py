import hashlib
import io
import json

import pytest
from PIL import Image

from gapless.data.addresses import expand_shards
from gapless.data.pairs import FilePair, FileSource
from gapless.data.prepare import prepare_shards
from gapless.data.shards import ShardSource
from gapless.errors import DataError
from tests.data.pictures import picture


def source(folder, count=7):
    folder.mkdir()
    pairs = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        path.write_bytes(picture(80, 60, kind="JPEG", seed=i))
        pairs.append(FilePair(f"deep/na.me {i}", path, (f"first\n of {i}", f"second of {i}")))
    return FileSource(pairs)


def test_shards_hold_the_same_pairs_with_counts_and_checksums(tmp_path):
    pairs = source(tmp_path / "in")
    prepared = prepare_shards(pairs, tmp_path / "out", samples_per_shard=3, workers=0)
    assert prepared.samples == 7
    shards = ShardSource(expand_shards(str(tmp_path / "out")))
    assert [shards.load(i).captions for i in range(7)] == [(f"first of {i}", f"second of {i}") for i in range(7)]
    assert [shards.load(i).image for i in range(7)] == [pairs.load(i).image for i in range(7)]
    tree = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert [s["samples"] for s in tree["shards"]] == [3, 3, 1]
    assert [s["captions"] for s in tree["shards"]] == [6, 6, 2]
    for shard in tree["shards"]:
        data = (tmp_path / "out" / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_writing_again_gives_the_same_bytes(tmp_path):
    pairs = source(tmp_path / "in", 3)
    for name, workers in (("a", 0), ("b", 2)):
        prepare_shards(pairs, tmp_path / name, resize=32, workers=workers)
    assert (tmp_path / "a" / "00000.tar").read_bytes() == (tmp_path / "b" / "00000.tar").read_bytes()


def test_resize_makes_large_images_small_and_leaves_small_ones(tmp_path):
    pairs = source(tmp_path / "in", 2)
    pairs.pairs[1].path.write_bytes(picture(20, 16))
    prepare_shards(pairs, tmp_path / "out", resize=32, workers=0)
    shards = ShardSource(expand_shards(str(tmp_path / "out")))
    assert Image.open(io.BytesIO(shards.load(0).image)).size == (42, 32)
    assert shards.load(1).image == picture(20, 16)


def test_bad_samples_are_counted_and_too_many_are_an_error(tmp_path):
    pairs = source(tmp_path / "in", 4)
    pairs.pairs[2].path.write_bytes(b"no picture")
    prepared = prepare_shards(pairs, tmp_path / "some", workers=0, max_bad_fraction=0.5)
    assert (prepared.samples, prepared.skipped) == (3, {"not_an_image": 1})
    with pytest.raises(DataError, match="1 of 4 samples cannot be used"):
        prepare_shards(pairs, tmp_path / "none", workers=0)
    assert not (tmp_path / "none" / "shards.json").exists()
    with pytest.raises(DataError, match="already has .tar files"):
        prepare_shards(pairs, tmp_path / "some", workers=0)
