import hashlib
import io
import itertools
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gapless.config import DataConfig
from gapless.data.addresses import expand_shards
from gapless.data.pairs import FilePair, FileSource
from gapless.data.prepare import prepare_shards
from gapless.data.shards import ShardSource
from gapless.data.sources import build_source
from gapless.data.unfinished import only_writer
from gapless.errors import ConfigError, DataError, StoppedError
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


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Stopping:
    """A source that does something when a pair is loaded."""

    def __init__(self, inner, position, act):
        self.inner, self.position, self.act = inner, position, act

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def load(self, index):
        if index == self.position:
            self.act()
        return self.inner.load(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_stops_and_the_same_command_continues(tmp_path, workers):
    pairs = source(tmp_path / "in")
    pairs.pairs[1].path.write_bytes(b"no picture")
    options = {"samples_per_shard": 1, "workers": workers, "max_bad_fraction": 0.2}
    prepare_shards(pairs, tmp_path / "whole", **options)
    out, parent = tmp_path / "out", os.getpid()
    stopping = Stopping(pairs, 6, lambda: (os.kill(parent, signal.SIGTERM), time.sleep(0.05)))
    with pytest.raises(StoppedError, match="after [1-6] whole shards in .*; the same command continues"):
        prepare_shards(stopping, out, **options)
    with pytest.raises(DataError, match="prepare has not finished"):
        ShardSource(expand_shards(str(out / "00000.tar")))
    kept = (out / "00000.tar").stat().st_mtime_ns
    with pytest.raises(DataError, match="with another resize; repeat that command"):
        prepare_shards(pairs, out, resize=32, **options)
    prepared = prepare_shards(pairs, out, **options)
    assert content(out) == content(tmp_path / "whole")
    assert (out / "00000.tar").stat().st_mtime_ns == kept
    assert (prepared.samples, prepared.skipped) == (6, {"not_an_image": 1})


def test_killed_at_any_write_it_continues_and_never_looks_whole(tmp_path, monkeypatch):
    pairs = source(tmp_path / "in", 5)
    prepare_shards(pairs, tmp_path / "whole", samples_per_shard=2, workers=0)
    rename = Path.replace
    for killed_at in range(8):
        renames = itertools.count()

        def fatal(self, target, renames=renames, killed_at=killed_at):
            if next(renames) == killed_at:
                raise KeyboardInterrupt  # nothing but clearing away is done after it
            return rename(self, target)

        out = tmp_path / f"out{killed_at}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fatal)
            with pytest.raises(KeyboardInterrupt):
                prepare_shards(pairs, out, samples_per_shard=2, workers=0)
        assert out.exists() == (killed_at >= 2)  # from the first shard on
        if out.exists():
            with pytest.raises(DataError, match="prepare has not finished|no .tar files"):
                ShardSource(expand_shards(str(out)))
            if not (out / "00002.tar").exists():
                (out / ".tmp_00002.tar").write_bytes(b"left by a process that was killed")
        prepare_shards(pairs, out, samples_per_shard=2, workers=0)
        assert content(out) == content(tmp_path / "whole")


def test_a_shard_that_is_no_longer_whole_is_written_again(tmp_path):
    pairs, out = source(tmp_path / "in", 6), tmp_path / "out"
    prepare_shards(pairs, tmp_path / "whole", samples_per_shard=2, workers=0)
    with pytest.raises(ZeroDivisionError):
        prepare_shards(Stopping(pairs, 4, lambda: 1 / 0), out, samples_per_shard=2, workers=0)
    data = bytearray((out / "00001.tar").read_bytes())
    data[700] ^= 1
    (out / "00001.tar").write_bytes(data)
    prepare_shards(pairs, out, samples_per_shard=2, workers=0)
    assert content(out) == content(tmp_path / "whole")


def test_other_pairs_do_not_continue(tmp_path):
    pairs, out = source(tmp_path / "in", 6), tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        prepare_shards(Stopping(pairs, 4, lambda: 1 / 0), out, samples_per_shard=2, workers=0)
    before = content(out)
    changed = FileSource([*pairs.pairs[:5], replace(pairs.pairs[5], captions=("other words",))])
    with pytest.raises(DataError, match="with another source"):
        prepare_shards(changed, out, samples_per_shard=2, workers=0)
    (out / "unfinished.json").write_text("{")
    with pytest.raises(DataError, match=r"a damaged unfinished\.json"):
        prepare_shards(pairs, out, samples_per_shard=2, workers=0)
    assert {k: v for k, v in content(out).items() if k != "unfinished.json"} == {
        k: v for k, v in before.items() if k != "unfinished.json"
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_bad_fraction", -1),
        ("max_bad_fraction", float("nan")),
        ("workers", -1),
        ("resize", 0),
        ("samples_per_shard", 0),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path, key, value):
    with pytest.raises(ConfigError, match=f"{key}: {value} does not work"):
        prepare_shards(source(tmp_path / "in", 2), tmp_path / "deep" / "out", **{key: value})
    assert not (tmp_path / "deep").exists()


def test_refused_output_and_data_leave_nothing(tmp_path):
    pairs = source(tmp_path / "in", 2)
    pairs.pairs[0].path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 2 samples .*not_an_image.*na\.me 0"):
        prepare_shards(pairs, tmp_path / "deep" / "out", workers=0)
    assert not (tmp_path / "deep").exists()
    (tmp_path / "file").touch()
    for output in ("file", "file/below", "a\0b"):
        with pytest.raises(DataError, match="output: .* cannot be a folder of shards"):
            prepare_shards(pairs, tmp_path / output, workers=0)
    with only_writer(tmp_path / "busy"), pytest.raises(DataError, match="another gapless prepare writes"):
        prepare_shards(pairs, tmp_path / "busy", workers=0)


def test_missing_and_damaged_shards_are_found_out(tmp_path, monkeypatch):
    pairs, out = source(tmp_path / "in", 6), tmp_path / "out"
    prepare_shards(pairs, out, samples_per_shard=2, workers=0)
    config = DataConfig(source="shards", path=str(out), val_path=str(out / "00000.tar"))
    assert len(build_source(config, "train")) == 6
    whole = (out / "00001.tar").read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for damaged, said in (
        (whole[:-512], "bytes and shards.json beside it says"),
        (bytes(flipped), "its sha256 differs"),
    ):
        (out / "00001.tar").write_bytes(damaged)
        for _ in range(2):
            with pytest.raises(DataError, match=said):
                build_source(config, "train")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # their length alone where no index can be kept
        assert len(build_source(config, "train")) == 6
    (out / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"lacks 00001\.tar \(1 of the 3 shards"):
        build_source(config, "train")
    assert len(build_source(config, "val")) == 2  # the shards that one names are enough
