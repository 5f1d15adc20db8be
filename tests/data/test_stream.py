from collections import Counter

import pytest
import torch

from gapless.config import DataConfig
from gapless.data import Place, build_eval_data, build_train_data
from gapless.errors import ConfigError, DataError
from tests.data.pictures import picture
from tests.data.server import serve
from tests.data.test_loader import PREPROCESS, tokenize
from tests.data.test_shards import pairs, write_tar


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path) as url:
        yield url, tmp_path


def config_of(url, **changes):
    options = {"workers": 0, "shuffle_buffer": 5, "batch_size": 6, "max_bad_fraction": 1.0}
    options |= {"path": f"{url}/{{0..5}}.tar", "val_path": f"{url}/{{0..5}}.tar"}
    return DataConfig(source="shards", **options | changes)


def captions(batches):
    """What identifies a batch: its tokens, in order."""
    return [batch.second.tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", [Place(), Place(1, 2)])
def test_the_position_is_restored(server, workers, place):
    data = build_train_data(config_of(server[0], workers=workers), 5, PREPROCESS, tokenize, place)
    assert (data.num_samples, data.steps_per_epoch) == (42, 7)
    whole = captions(data.batches(0, 16))
    assert len(whole) == 16
    for start in (1, 6, 7, 10):
        assert captions(data.batches(start, 16)) == whole[start:]


def test_an_epoch_of_one_process_has_every_pair_once(server):
    data = build_train_data(config_of(server[0]), 5, PREPROCESS, tokenize, Place())
    seen = [row for batch in captions(data.batches(0, 7)) for row in batch]
    expected = [tokenize([f"caption of {i}"])[0].tolist() for i in range(42)]
    assert sorted(seen) == sorted(expected)
    assert seen != expected


def test_processes_and_workers_share_the_shards_without_overlap(server):
    config = config_of(server[0], workers=2)
    parts = [build_eval_data(config, 4, PREPROCESS, tokenize, Place(rank, 2)).batches() for rank in range(2)]
    seen = [row for part in parts for batch in captions(part) for row in batch]
    assert sorted(seen) == sorted(tokenize([f"caption of {i}"])[0].tolist() for i in range(42))


def test_a_broken_stream_costs_its_tail_and_is_counted(server):
    url, folder = server
    shard = folder / "2.tar"
    shard.write_bytes(shard.read_bytes()[: 3 * 2048 + 700])
    (folder / "4.tar").unlink()
    batches = list(build_eval_data(config_of(url), 100, PREPROCESS, tokenize, Place()).batches())
    assert len(batches) == 1
    bad = Counter((b.key.rpartition("/")[2], b.reason) for b in batches[0].bad)
    assert set(bad) == {("2.tar", "truncated"), ("4.tar", "missing_file")}
    assert bad["4.tar", "missing_file"] == 7
    assert len(batches[0].indices) + bad.total() == 42
    assert 4 * 7 < len(batches[0].indices) < 5 * 7


def test_a_lost_shard_counts_as_the_others_held_where_nothing_is_known(server):
    url, folder = server
    for name in ("shards.json", "1.tar", "4.tar"):
        (folder / name).unlink()
    (batch,) = build_eval_data(config_of(url), 100, PREPROCESS, tokenize, Place()).batches()
    assert (len(batch.indices), len(batch.bad)) == (28, 14)
    # In training the size of an epoch tells, whatever was read before: so a resumed run counts the same.
    data = build_train_data(config_of(url, epoch_size=42), 0, PREPROCESS, tokenize, Place())
    batches = list(data.batches(0, data.steps_per_epoch))
    assert sum(len(b.bad) for b in batches) == 14
    assert sum(len(b.indices) for b in batches) == 28
    with pytest.raises(DataError, match=r"no whole shard in .*4\.tar \(.*404"):
        list(build_eval_data(config_of(url, val_path=f"{url}/4.tar"), 9, PREPROCESS, tokenize, Place()).batches())


def test_fewer_samples_than_recorded_are_counted(server):
    url, folder = server
    write_tar(folder / "3.tar", pairs(21, 3))
    (batch,) = build_eval_data(config_of(url), 100, PREPROCESS, tokenize, Place()).batches()
    assert [b.detail for b in batch.bad] == ["it gave 3 samples, the file beside it says 7"] * 4


def test_half_of_the_shards_missing_are_half_of_the_samples(server):
    url, folder = server
    for k in (1, 3, 5):
        (folder / f"{k}.tar").unlink()
    data = build_train_data(config_of(url), 0, PREPROCESS, tokenize, Place())
    assert sum(len(batch.bad) for batch in data.batches(0, data.steps_per_epoch)) == 21


def test_environment_variables_do_not_turn_an_address_into_a_command(server, monkeypatch, caplog):
    url, folder = server
    monkeypatch.setenv("GOPEN_REWRITE", f"http://=pipe:touch {folder}/PWNED; cat {folder}/0.tar #")
    monkeypatch.setenv("USE_AIS_FOR", "http")
    (batch,) = build_eval_data(config_of(url), 100, PREPROCESS, tokenize, Place()).batches()
    assert len(batch.indices) == 42
    assert not (folder / "PWNED").exists()
    assert "GOPEN_REWRITE is set and not followed" in caplog.text


def test_pickled_members_of_a_stream_are_never_loaded(server):
    import pickle

    from tests.data.test_shards import Bomb

    url, folder = server
    for k in range(6):
        write_tar(folder / f"{k}.tar", [("x.png", picture()), ("x.txt", b"words"), ("x.pyd", pickle.dumps(Bomb()))])
    batches = list(build_eval_data(config_of(url), 100, PREPROCESS, tokenize, Place()).batches())
    assert len(torch.cat([b.indices for b in batches])) == 6


def test_empty_shards_are_an_error_and_no_endless_search(server):
    url, folder = server
    for k in range(6):
        write_tar(folder / f"{k}.tar", [])
    for workers in (0, 1):  # an error in a loader process is the same line
        data = build_train_data(config_of(url, epoch_size=60, workers=workers), 0, PREPROCESS, tokenize, Place())
        with pytest.raises(DataError, match=r"^data\.path: no samples in .*\.tar$"):
            list(data.batches(0, 10))


def test_what_cannot_work_is_said_first(server):
    url, folder = server
    with pytest.raises(ConfigError, match="6 streamed shards cannot feed 4 processes with 2 workers; use at most 1"):
        build_train_data(config_of(url, workers=2), 0, PREPROCESS, tokenize, Place(0, 4))
    with pytest.raises(ConfigError, match="all needs local shards"):
        build_train_data(config_of(url, captions="all"), 0, PREPROCESS, tokenize, Place())
    with pytest.raises(ConfigError, match="data.val_path: set it"):
        build_eval_data(config_of(url, val_path=None), 4, PREPROCESS, tokenize, Place())
    (folder / "shards.json").unlink()
    with pytest.raises(DataError, match="data.epoch_size: set it"):
        build_train_data(config_of(url), 0, PREPROCESS, tokenize, Place())
    assert build_train_data(config_of(url, epoch_size=13), 0, PREPROCESS, tokenize, Place()).steps_per_epoch == 2
