"""What data hand on: splits to sources, rules to captions, seeds to orders, ranks to parts, names to labels."""

import random

import pytest
import torch

from gapless.config import AugmentationConfig, DataConfig
from gapless.data import Place, build_eval_data, build_train_data
from gapless.data.emoji import SKIN_TONES, all_emoji, emoji_classes, emoji_edits
from gapless.data.images import BadSampleError
from gapless.data.loader import GlobalBatchSampler, epoch_order
from gapless.data.pairs import FilePair, FileSource, Mismatched, Pair, Subset
from gapless.data.samples import Collate, Decoded, PairDataset, Sample, SampleMaker, pick_caption
from gapless.data.sources import build_source
from tests.data.pictures import picture
from tests.data.test_loader import PREPROCESS, tokenize

NAMES = [f"{number:02d}" for number in range(12)]
HELD_OUT = ["03", "07", "08", "09", "10"]
"""Of these names the hash is below 0.3."""


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of a colour each, with two captions each."""
    for number, name in enumerate(NAMES):
        (tmp_path / f"{name}.png").write_bytes(picture(seed=number))
        (tmp_path / f"{name}.txt").write_text(f"first of {name}\nsecond of {name}")
    return tmp_path


def config_of(folder, **changes):
    options = {"source": "folder", "path": str(folder), "val_fraction": 0.3, "batch_size": 4, "workers": 0}
    return DataConfig(**options | changes)


def keys(source):
    return [source.key(i) for i in range(len(source))]


def test_a_share_of_the_names_is_held_out_and_the_rest_is_trained_on(folder):
    config = config_of(folder)
    assert keys(build_source(config, "val")) == HELD_OUT
    assert keys(build_source(config, "train")) == [name for name in NAMES if name not in HELD_OUT]
    apart = config_of(folder, val_path=str(folder), path=str(folder))
    assert keys(build_source(apart, "train")) == keys(build_source(apart, "val")) == NAMES


def test_each_split_has_its_own_folder_limit_and_choice(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("b", "a", "c"):
        (other / f"{name}.png").write_bytes(picture())
        (other / f"{name}.txt").write_text(name)
    config = config_of(folder, val_path=str(other), val_samples=2, train_samples=5, mismatched=1.0)
    assert keys(build_source(config, "val", seed=4)) == ["a", "b"]
    assert isinstance(build_source(config, "train", 4), Mismatched)
    assert not isinstance(build_source(config, "val", 4), Mismatched)
    plain = config_of(folder, val_path=str(other), train_samples=5)
    inside = [f"{name}" for name in keys(build_source(config_of(folder, val_path=str(other)), "train"))]
    chosen = torch.randperm(len(inside), generator=torch.Generator().manual_seed(4))[:5].sort().values
    assert keys(build_source(plain, "train", 4)) == [inside[i] for i in chosen]


def captions_of(batches):
    """First characters of tokens stand for captions: their length and sum."""
    return {tuple(row) for batch in batches for row in batch.second.tolist()}


def test_training_and_evaluation_have_each_their_rule_transform_and_split(folder):
    rules = {"captions": "index:1", "val_captions": "first"}
    config = config_of(folder, batch_size=3, augmentation=AugmentationConfig(), **rules)
    train = build_train_data(config, 7, PREPROCESS, tokenize, Place())
    assert (train.num_samples, train.steps_per_epoch) == (7, 2)
    trained = [f"second of {name}" for name in NAMES if name not in HELD_OUT]
    assert captions_of(train.batches(0, 2)) <= {tuple(row) for row in tokenize(trained).tolist()}
    evaluated = build_eval_data(config, 2, PREPROCESS, tokenize, Place())
    batches = list(evaluated.batches())
    assert [len(batch.indices) for batch in batches] == [2, 2, 1]
    assert torch.cat([b.second for b in batches]).tolist() == tokenize([f"first of {n}" for n in HELD_OUT]).tolist()
    assert [evaluated.key(position) for position in range(5)] == HELD_OUT
    plain = build_eval_data(config_of(folder), 5, PREPROCESS, tokenize, Place()).batches()
    assert torch.equal(torch.cat([b.first for b in batches]), next(iter(plain)).first)  # not augmented
    assert evaluated.blank().first.shape == (0, 3, 32, 32)
    assert evaluated.fingerprint() == build_source(config, "val").fingerprint() != train.fingerprint()


def test_evaluation_of_the_training_pairs_takes_the_runs_subset(folder):
    config = config_of(folder, train_samples=4)
    evaluated = build_eval_data(config, 9, PREPROCESS, tokenize, Place(), "train", seed=5)
    assert [evaluated.key(i) for i in range(4)] == keys(build_source(config, "train", 5))
    assert keys(build_source(config, "train", 5)) != keys(build_source(config, "train", 0))


def test_an_order_follows_from_seed_epoch_and_window():
    assert epoch_order([0] * 6, 3, 1, 1) == [2, 1, 4, 3, 5, 0]
    assert epoch_order([0] * 6, 3, 2, 1) == [1, 3, 0, 5, 2, 4]
    assert epoch_order([0] * 6, 4, 1, 1) == [1, 4, 3, 2, 5, 0]
    assert epoch_order([0, 1, 0, 2, 1, 2], 3, 1, 1) == [3, 5, 2, 0, 4, 1]
    assert epoch_order([0, 1, 0, 2, 1, 2], 3, 1, 2) == [0, 5, 2, 3, 4, 1]


def test_a_rank_gets_its_part_of_each_batch_of_each_epoch(folder):
    data = build_train_data(config_of(folder, val_path=str(folder), drop_last=False, batch_size=5), 3, PREPROCESS,
                            tokenize, Place(1, 3))  # fmt: skip
    assert data.steps_per_epoch == 3
    orders = [epoch_order([0] * len(data.dataset), 3, epoch, data.window) for epoch in (0, 1)]
    sampler = GlobalBatchSampler(data.dataset, data, 1, 5)
    assert len(sampler) == 4
    assert list(sampler) == [
        [(0, i) for i in orders[0][5:10][1:3]],
        [(0, i) for i in orders[0][10:12][0:1]],
        [(1, i) for i in orders[1][0:5][1:3]],
        [(1, i) for i in orders[1][5:10][1:3]],
    ]


@pytest.mark.parametrize(
    ("rule", "seed", "caption"),
    [
        ("first", "x", "a dog"),
        ("index:0", "x", None),
        ("index:2", "x", "a hound"),
        ("index:4", "x", None),
        *(("random", seed, ["a dog", "a hound", "a pup"][random.Random(seed).randrange(3)]) for seed in "abcde"),
    ],
)
def test_the_caption_that_a_rule_picks(rule, seed, caption):
    pair = Pair("key", b"", (" ", "a dog", "a hound", "a pup"))
    if caption is None:
        with pytest.raises(BadSampleError, match=f"caption {rule[-1]} of 4 is missing or empty"):
            pick_caption(pair, rule, seed)
    else:
        assert pick_caption(pair, rule, seed) == caption


def test_a_sample_follows_from_seed_epoch_and_position(tmp_path):
    captions = tuple(f"caption {k}" for k in range(50))
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture(seed=ord(name)))
    source = FileSource([FilePair(name, tmp_path / f"{name}.png", captions) for name in "ab"])
    seen = []

    def transform(image):
        seen.append((image.sum().item(), torch.rand(1).item()))
        return image

    dataset = PairDataset(source, SampleMaker(transform, random_transform=True), "random", seed=7)
    sample = dataset[3, 1]
    random_part = random.Random("7-3-1")
    assert sample.caption == captions[random_part.randrange(50)]
    torch.manual_seed(random.Random("7-3-1").getrandbits(63))
    assert seen == [(sample.image.sum().item(), torch.rand(1).item())]
    assert sample.position == 1
    assert dataset[3, 1].caption == sample.caption
    assert len({dataset[epoch, 1].caption for epoch in range(9)}) > 3
    assert len({PairDataset(source, dataset.make_sample, "random", seed)[3, 1].caption for seed in range(9)}) > 3


def test_with_all_captions_an_item_is_a_caption_of_its_pair(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(seed=1))
    (tmp_path / "b.png").write_bytes(picture(seed=2))
    pairs = [FilePair("a", tmp_path / "a.png", ("one", "two")), FilePair("b", tmp_path / "b.png", ("three",))]
    dataset = PairDataset(Subset(FileSource(pairs), [1, 0]), SampleMaker(lambda image: image), "all", cache=True)
    samples = [dataset[0, item] for item in range(len(dataset))]
    assert [(s.position, s.caption) for s in samples] == [(0, "three"), (1, "one"), (2, "two")]
    assert torch.equal(samples[1].image, samples[2].image)
    assert not torch.equal(samples[0].image, samples[1].image)
    assert [dataset.shard(item) for item in range(3)] == [0, 0, 0]


def test_pairs_are_known_by_picture_and_caption_apart():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    maker = SampleMaker(lambda image: image)

    def identity(data, caption):
        return maker(0, Decoded(Pair("k", data, (caption,)), image, [], image), "first", "s").identity

    one = identity(b"x", "A  dog ")
    assert identity(b"x", "a cat")[0] == one[0] != identity(b"y", "a cat")[0]
    assert identity(b"y", "a DOG")[1] == one[1] != identity(b"y", "a cat")[1]


def test_the_sides_of_a_batch():
    first, second = (torch.full((3, 2, 2), value, dtype=torch.uint8) for value in (1, 2))
    samples = [Sample(5, first, "ab", ["alpha"], (7, 8), second), Sample(3, second, "c", [], (9, 8), first)]
    tokens = tokenize(["ab", "c"])
    pictures = torch.stack([first, second])
    for towers, sides in (
        ("image-text", (pictures, tokens)),
        ("image-image", (pictures, pictures.flip(0))),
        ("text-text", (tokens, tokens)),
    ):
        batch = Collate(tokenize, (2, 2), towers)(samples)
        assert torch.equal(batch.first, sides[0])
        assert torch.equal(batch.second, sides[1])
        assert (batch.indices.tolist(), batch.identities.tolist()) == ([5, 3], [[7, 8], [9, 8]])
        assert (batch.rows, batch.converted, batch.bad) == (2, {"alpha": 1}, [])


def test_a_mismatched_pair_has_the_next_ones_captions(tmp_path):
    captions = [tuple(f"{name}{k}" for k in range(1 + i)) for i, name in enumerate("abcd")]
    source = FileSource([FilePair(c[0], tmp_path / "x.png", c) for c in captions])
    chosen = random.Random("mismatched-5").sample(range(4), 3)
    (tmp_path / "x.png").write_bytes(picture())
    mixed = Mismatched(source, 0.75, 5)
    expected = dict(zip(chosen, chosen[1:] + chosen[:1], strict=True))
    for i in range(4):
        other = captions[expected.get(i, i)]
        assert (mixed.captions(i), mixed.num_captions(i), mixed.load(i).captions) == (other, len(other), other)
        assert mixed.key(i) == source.key(i)
    assert len({m.fingerprint() for m in (source, mixed, Mismatched(source, 0.75, 6))}) == 3


def test_labels_are_those_of_the_names():
    by_name = {e.captions[0]: e.path.stem for e in all_emoji()}
    groups, tones = emoji_classes()["emoji_group"], emoji_classes()["emoji_skin_tone"]
    named = list(groups.prompts)
    for name, group in (("grinning face", "Smileys & Emotion"), ("dog face", "Animals & Nature"),
                        ("woman cook dark skin tone", "People & Body"), ("pizza", "Food & Drink")):  # fmt: skip
        assert named[groups.labels[by_name[name]]] == group
    for tone in SKIN_TONES:
        assert list(tones.prompts)[tones.labels[by_name[f"woman cook {tone}"]]] == tone
    assert by_name["grinning face"] not in tones.labels


def test_an_edit_leads_to_the_picture_whose_name_it_gives():
    by_name = {e.captions[0]: e for e in all_emoji()}
    for attribute, name, value, target, other in (
        ("gender", "woman cook dark skin tone", "woman", "man", "man cook dark skin tone"),
        ("skin_tone", "man cook light skin tone", "light skin tone", "dark skin tone", "man cook dark skin tone"),
        ("hair", "woman red hair", "red hair", "bald", "woman bald"),
    ):
        edits = emoji_edits(attribute, by_name[name].split == "test")
        columns = ("region_id", "value", "target", "target_ids")
        rows = list(zip(*(edits.transfos[column] for column in columns), strict=True))
        (row,) = (
            k for k, r in enumerate(rows) if edits.paths[r[0]] == by_name[name].path and r[1:3] == (value, target)
        )
        assert edits.paths[rows[row][3]] == by_name[other].path
        assert edits.transfos["norm2"][row] == sum(r[1:3] == (value, target) for r in rows)
