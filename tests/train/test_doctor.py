"""Every check of gapless doctor: what it looks at, what it says, and what it does where another one fails."""

import shutil
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gapless.config import Config, with_changes
from gapless.data import Batch
from gapless.data.loader import StreamTrainData
from gapless.data.samples import BadSample
from gapless.errors import ConfigError, DataError
from gapless.train import doctor
from gapless.train.doctor import examine
from tests.runs import TINY


def batch(rows=4, bad=(), converted=None, cut="", first=None):
    first = torch.zeros(rows, 3, 32, 48, dtype=torch.uint8) if first is None else first
    second = torch.zeros(rows, 7, dtype=torch.long)
    return Batch(first, second, torch.arange(rows), list(bad), converted or {}, torch.zeros(rows, 2), cut)


class Data:
    num_samples, steps_per_epoch = 70, 7

    def __init__(self, first, samples=70):
        self.first, self.num_samples, self.asked = first, samples, []

    def batches(self, *asked):
        self.asked.append(asked)
        return iter([self.first])


@pytest.fixture
def doctors(monkeypatch, tmp_path):
    """Runs all checks on data that are given; the calls that made them."""

    def run(training=None, validation=None, **changes):
        calls = {}

        def note(name, result, *arguments):
            calls[name] = arguments
            if isinstance(result, Exception):
                raise result
            return result

        training, validation = training or Data(batch()), validation or Data(batch(), 30)
        monkeypatch.setattr(doctor, "build_train_data", partial(note, "train", training))
        monkeypatch.setattr(doctor, "build_pair_evaluation", partial(note, "val", SimpleNamespace(data=validation)))
        monkeypatch.setattr(
            doctor,
            "build_source",
            lambda data, split, seed: note(split, range(9 if split == "train" else 4), data, seed),
        )
        changes = {"model": {"name": "custom", "architecture": TINY}} | changes
        calls["config"] = config = with_changes(Config(output=str(tmp_path), seed=6), **changes)
        return {check.name: check for check in examine(config)}, calls

    return run


def output(checks):
    return {name: check.result for name, check in checks.items()}


def test_every_check_says_what_it_saw(doctors, monkeypatch):
    usage = namedtuple("usage", "total used free")
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (asked.append(path), usage(0, 0, 123 * 10**9))[1])
    checks, calls = doctors(loss={"preset": "cua", "terms": {"align": 0.5}})
    assert all(check.error is None for check in checks.values())
    seen = "first batch: 4 images of 32 x 48 and 4 captions of up to 7 tokens"
    assert output(checks) == {
        "configuration": "every value is in its range",
        "objective": "1 clip + 1 uniform + 0.5 align",
        "trackers": "metrics.jsonl alone",
        "devices": "1 process(es) on CPU, precision fp32",
        "model": "1.6 M parameters, 1.6 M trained; captions cut to the longest",
        "training data": f"70 pairs, 7 steps an epoch; {seen}",
        "validation data": f"30 pairs; {seen}",
        "disk": "checkpoints need up to 0.08 GB, 123.0 GB are free",
    }
    config = calls["config"]
    data, seed, _, tokenize, place, towers = calls["train"]
    assert data is config.data
    assert (seed, towers, place.rank, place.world) == (6, "image-text", 0, 1)
    assert tokenize.trim
    assert calls["val"][0] is config
    assert calls["val"][2] is tokenize.tokenizer
    assert asked[0].is_dir()


def test_the_first_training_batch_is_looked_at(doctors):
    train = Data(batch())
    doctors(train)
    assert train.asked == [(0, 1)]


def test_locked_towers_and_other_sizes_are_told(doctors):
    checks, _ = doctors(model={"name": "custom", "architecture": TINY, "lock_text": True})
    assert "1.6 M parameters, 0.0 M trained" in checks["model"].result


@pytest.mark.parametrize(
    ("changes", "copies"),
    [({}, 3 * 4), ({"optim": {"ema_decay": 0.9}}, 4 * 4), ({"checkpoint": {"keep_last": 5}}, 3 * 7)],
)
def test_the_disk_must_hold_the_checkpoints(doctors, monkeypatch, changes, copies):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    checks, _ = doctors(**changes)
    assert isinstance(checks["disk"].error, DataError)
    number = float(checks["disk"].result.split()[5])
    assert checks["disk"].result == f"output: checkpoints need up to {number:.2f} GB, 0.0 GB are free"
    assert number == pytest.approx(1_620_000 * 4 * copies / 1e9, rel=0.1)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (
            batch(bad=[BadSample("b.png", "truncated", "ends at 7"), BadSample("c.png", "x", "y")]),
            "; 2 left out, first b.png: ends at 7",
        ),
        (
            batch(converted={"long_caption": 3, "alpha": 1}, cut="a very long one"),
            "; 3 captions are longer than the context and are cut, first: a very long one",
        ),
        (batch(converted={"alpha": 1}), ""),
    ],
)
def test_what_is_odd_in_the_first_batch_is_told(doctors, first, expected):
    checks, _ = doctors(Data(first))
    assert checks["training data"].result.endswith("tokens" + expected)


def test_a_first_batch_without_a_pair_is_an_error(doctors):
    checks, _ = doctors(Data(batch(0, [BadSample("b.png", "truncated", "ends at 7")])))
    assert isinstance(checks["training data"].error, DataError)
    message = "data: the first batch has no usable pair; 1 left out, first b.png: ends at 7"
    assert checks["training data"].result == message
    assert checks["validation data"].error is None


def test_texts_on_both_sides_are_called_so(doctors):
    checks, _ = doctors(Data(batch(first=torch.zeros(4, 9, dtype=torch.long))))
    assert (
        "first batch: 4 captions of up to 9 tokens and 4 captions of up to 7 tokens" in checks["training data"].result
    )


def test_streams_tell_their_shards_and_have_no_size(doctors):
    stream = StreamTrainData(SimpleNamespace(shards=range(6)), 70, 7, 2)
    stream.batches = lambda start, stop: iter([batch()])
    checks, _ = doctors(stream, Data(batch(), -1), data={"workers": 3})
    assert checks["training data"].result.endswith("; 6 shards for 1 process(es) with 3 workers")
    assert checks["validation data"].result.startswith("a stream of pairs; first batch")


def test_a_check_that_fails_does_not_stop_the_others(doctors):
    checks, _ = doctors(
        optim={"lr": -1.0}, loss={"terms": {"unifrom": 1.0}}, tracking={"to": ["tensorboard"], "project": "a/b"}
    )
    assert {name for name, check in checks.items() if check.error} == {
        "configuration",
        "objective",
        "trackers",
        "model",
    }
    assert all(isinstance(check.error, ConfigError) for check in checks.values() if check.error)
    assert str(checks["trackers"].error) == checks["trackers"].result
    assert checks["training data"].result == "9 pairs, none decoded without the model"
    assert checks["validation data"].result == "4 pairs, none decoded without the model"
    assert "disk" not in checks


def test_without_a_model_or_devices_the_pairs_are_counted(doctors, monkeypatch):
    checks, calls = doctors(model={"name": "ViT-B-33"})
    assert isinstance(checks["model"].error, ConfigError)
    assert checks["training data"].result == "9 pairs, none decoded without the model"
    assert calls["train"] == calls["val"] == (calls["config"].data, 6)
    streamed = {"source": "shards", "path": "https://x/{0..3}.tar", "val_path": "/v"}
    checks, _ = doctors(model={"name": "ViT-B-33"}, data=streamed)
    assert checks["training data"].result == "streamed shards, not read without the model"

    def fails(config, folder):
        raise ConfigError("fsdp_version: 1")

    monkeypatch.setattr(doctor, "build_accelerator", fails)
    checks, _ = doctors()
    assert (checks["devices"].result, type(checks["devices"].error)) == ("fsdp_version: 1", ConfigError)
    assert checks["training data"].result == "9 pairs, none decoded without the model"
    assert "model" not in checks


def test_devices_are_built_without_trackers(doctors, monkeypatch):
    built = []
    plain = doctor.build_accelerator
    monkeypatch.setattr(
        doctor, "build_accelerator", lambda config, folder: (built.append((config, folder)), plain(config, folder))[1]
    )
    checks, calls = doctors(tracking={"to": ["tensorboard"]}, train={"precision": "bf16"})
    ((config, folder),) = built
    assert config.tracking.to == []
    assert config.train is calls["config"].train
    assert folder == doctor.run_folder(calls["config"])
    assert checks["trackers"].result == "metrics.jsonl, tensorboard"
    assert checks["devices"].result == "1 process(es) on CPU, precision bf16"


def test_statistics_that_would_be_divided_are_refused(doctors):
    resnet = TINY | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}
    checks, _ = doctors(model={"name": "custom", "architecture": resnet}, train={"micro_batch_size": 3})
    assert checks["model"].result.startswith("train.micro_batch_size: 3 does not work with batch normalisation")
