from collections import Counter

import pytest
import torch

from gapless.config import AugmentationConfig, DataConfig
from gapless.data import Place, build_eval_data, build_train_data
from gapless.data.loader import epoch_order
from gapless.data.pairs import FilePair, FileSource, Mismatched
from gapless.data.samples import Collate, PairDataset, SampleMaker
from gapless.data.sources import build_source
from gapless.data.transforms import build_eval_transform
from gapless.errors import ConfigError
from tests.data.pictures import picture

PREPROCESS = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "shortest"}


def tokenize(captions):
    return torch.tensor([[len(c), sum(map(ord, c)) % 999, 1000] for c in captions])


def global_batches(start, stop, world, workers, **options):
    """Each global batch as the processes together make it."""
    config = DataConfig(batch_size=10, workers=workers, train_samples=57, **options)
    parts = [
        list(build_train_data(config, 7, PREPROCESS, tokenize, Place(rank, world)).batches(start, stop))
        for rank in range(world)
    ]
    return [
        (
            torch.cat([b.indices for b in batch]),
            torch.cat([b.first for b in batch]),
            torch.cat([b.second for b in batch]),
        )
        for batch in zip(*parts, strict=True)
    ]


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("captions", ["random", "all"])
def test_batches_do_not_depend_on_processes_or_workers(captions):
    options = {
        "captions": captions,
        "augmentation": AugmentationConfig(color_jitter=(0.4, 0.4, 0.4, 0.1)),
        "drop_last": False,
    }
    alone = global_batches(0, 9, world=1, workers=0, **options)
    assert same(alone, global_batches(0, 9, world=3, workers=0, **options))
    assert same(alone, global_batches(0, 9, world=2, workers=2, **options))
    # Any stretch can be made on its own: that is how a run resumes.
    assert same(alone[4:], global_batches(4, 9, world=1, workers=2, **options))


def test_each_epoch_has_every_pair_once_in_a_new_order():
    batches = global_batches(0, 12, world=2, workers=0, drop_last=False)
    epochs = [torch.cat([b[0] for b in batches[k : k + 6]]) for k in (0, 6)]
    assert [sorted(e.tolist()) for e in epochs] == [list(range(57))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()
    assert len(batches[5][0]) == 7


def test_drop_last_and_batches_too_large():
    data = build_train_data(DataConfig(batch_size=10, train_samples=57), 7, PREPROCESS, tokenize, Place())
    assert data.steps_per_epoch == 5
    # A rest of one pair has no negatives and is dropped in any case.
    config = DataConfig(batch_size=8, train_samples=57, drop_last=False)
    assert build_train_data(config, 7, PREPROCESS, tokenize, Place()).steps_per_epoch == 7
    with pytest.raises(ConfigError, match="data.batch_size: 100 is larger than the 57"):
        build_train_data(DataConfig(batch_size=100, train_samples=57), 7, PREPROCESS, tokenize, Place())


def test_loading_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    global_batches(0, 3, world=1, workers=2, augmentation=AugmentationConfig())
    global_batches(0, 3, world=1, workers=0, augmentation=AugmentationConfig())
    assert torch.equal(state, torch.get_rng_state())


def test_windows_of_shards_stay_together():
    shards = [i // 10 for i in range(60)]
    order = epoch_order(shards, seed=0, epoch=0, window=2)
    assert sorted(order) == list(range(60))
    for first in range(0, 60, 20):
        assert len({shards[i] for i in order[first : first + 20]}) == 2
    assert order != epoch_order(shards, seed=0, epoch=1, window=2)
    assert order == epoch_order(shards, seed=0, epoch=0, window=2)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_sees_each_pair_once_in_equally_many_batches(world):
    config = DataConfig(val_samples=40, workers=0)
    parts = [
        list(build_eval_data(config, 9, PREPROCESS, tokenize, Place(rank, world)).batches()) for rank in range(world)
    ]
    assert len({len(p) for p in parts}) == 1
    assert torch.cat([b.indices for p in parts for b in p]).tolist() == list(range(40))


def test_bad_samples_are_left_out_and_named(tmp_path):
    files = {"good.png": picture(), "cut.png": picture()[:100], "none.png": None, "mute.png": picture(seed=1)}
    pairs = []
    for name, data in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        pairs.append(FilePair(name, tmp_path / name, (" ",) if name == "mute.png" else ("words",)))
    dataset = PairDataset(FileSource(pairs), SampleMaker(build_eval_transform(PREPROCESS)))
    batch = Collate(tokenize, (32, 32))([dataset[0, i] for i in range(4)])
    assert batch.indices.tolist() == [0]
    assert Counter((b.key, b.reason) for b in batch.bad) == Counter(
        [("cut.png", "truncated"), ("none.png", "missing_file"), ("mute.png", "no_caption")]
    )
    empty = Collate(tokenize, (32, 32))([dataset[0, 1]])
    assert empty.first.shape == (0, 3, 32, 32)


def test_with_all_captions_a_pair_without_any_is_still_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    source = FileSource([FilePair("a", tmp_path / "a.png", ("one", "two")), FilePair("b", tmp_path / "a.png", ())])
    dataset = PairDataset(source, SampleMaker(build_eval_transform(PREPROCESS)), "all")
    batch = Collate(tokenize, (32, 32))([dataset[0, i] for i in range(len(dataset))])
    assert len(batch.indices) == 2
    assert [(b.key, b.reason) for b in batch.bad] == [("b", "no_caption")]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_transforms_give_the_models_size(mode):
    transform = build_eval_transform(PREPROCESS | {"resize_mode": mode, "fill_color": 7})
    image = transform(torch.full((3, 50, 90), 200, dtype=torch.uint8))
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.uint8
    assert image[:, 0, 0].tolist() == [7 if mode == "longest" else 200] * 3


def test_mismatched_pairs_exchange_captions_among_each_other():
    source = build_source(DataConfig(train_samples=50), "train", 3)
    mixed = build_source(DataConfig(train_samples=50, mismatched=0.4), "train", 3)
    moved = [i for i in range(50) if mixed.captions(i) != source.captions(i)]
    assert len(moved) == 20
    assert sorted(map(tuple, map(mixed.captions, moved))) == sorted(map(tuple, map(source.captions, moved)))
    assert all(mixed.load(i).image == source.load(i).image for i in moved)
    assert mixed.load(moved[0]).captions == mixed.captions(moved[0])
    assert [mixed.num_captions(i) for i in moved] == [len(mixed.captions(i)) for i in moved]
    again = build_source(DataConfig(train_samples=50, mismatched=0.4), "train", 3)
    assert [again.captions(i) for i in range(50)] == [mixed.captions(i) for i in range(50)]
    held_out = build_source(DataConfig(mismatched=1.0), "val")
    assert not isinstance(held_out, Mismatched)


@pytest.mark.parametrize("second", ["same", "openmoji"])
def test_both_sides_of_a_batch_for_identical_towers(second):
    config = DataConfig(batch_size=6, workers=0, train_samples=12, second_image=second)
    data = build_train_data(config, 0, PREPROCESS, tokenize, Place(), "image-image")
    batch = next(iter(data.batches(0, 1)))
    assert batch.first.shape == batch.second.shape == (6, 3, 32, 32)
    assert torch.equal(batch.first, batch.second) == (second == "same")
    texts = build_train_data(config, 0, PREPROCESS, tokenize, Place(), "text-text")
    batch = next(iter(texts.batches(0, 1)))
    assert torch.equal(batch.first, batch.second)
    assert batch.second.shape == (6, 3)
    empty = Collate(tokenize, (32, 32), "image-image")([])
    assert empty.second.shape == (0, 3, 32, 32)
