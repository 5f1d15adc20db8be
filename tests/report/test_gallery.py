"""What a page shows of embeddings: which pairs, where they lie, their pictures and captions, and what they retrieve."""

import base64
import io
import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from gapless.eval import Embeddings
from gapless.report import RunRecord, gallery
from gapless.report.gallery import (
    Embedded,
    Gallery,
    embedding_map,
    load_embedded,
    retrieval_examples,
    thumbnail,
)
from tests.data.pictures import picture


@pytest.fixture
def run(tmp_path):
    """A run of eight pictures of one colour each, named 0 to 7, with two captions each."""
    data = tmp_path / "data"
    data.mkdir()
    for k in range(8):
        Image.new("RGB", (30 * (k + 1), 60), (30 * k, 255 - 30 * k, 0)).save(data / f"{k}.png")
        (data / f"{k}.txt").write_text(f"picture {k}\nnumber {k}")
    settings = {"source": "folder", "path": str(data), "val_path": str(data)}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": settings}))
    config = {f"data.{key}": value for key, value in settings.items()}
    rows = [
        {"epoch": 0, "val/centroid_distance": 1.0, "val/linear_separability": 0.75},
        {"epoch": 2, "val/centroid_distance": 0.25, "val/text_retrieval_recall@1": 0.5, "val/alignment": 7.0},
    ]
    return RunRecord("named", folder, config, rows)


def cloud(n, seed, d=5):
    generator = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(n, d, generator=generator), dim=1)
    text = F.normalize(image + 0.8 * torch.randn(n, d, generator=generator), dim=1)
    return Embeddings(image, text, torch.arange(n) + 100, [])


def opened(address):
    head, _, body = address.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        image.load()
        return image.convert("RGB")


def test_a_pair_is_stored_once_with_its_picture_and_first_caption(run):
    shown = Gallery()
    name = shown.add(run, 3, "3")
    assert name == f"{run.data}/3"
    assert shown.captions == {name: "picture 3"}
    image = opened(shown.pictures[name])
    assert image.size == (56, 28)
    assert image.getpixel((20, 14)) == pytest.approx((90, 165, 0), abs=12)
    assert shown.add(run, 3, "3") == name
    assert list(shown.pictures) == [name]
    assert len(shown.sources) == 1
    shown.add(run, 0, "0")
    shown.add(run, 7, "7")
    assert len(shown.sources) == 1
    assert [opened(p).size for p in shown.pictures.values()][1:] == [(28, 56), (56, 14)]


def test_a_pair_that_the_data_do_not_have_there_is_a_key_without_a_picture(run):
    shown = Gallery()
    for position, key in ((3, "4"), (8, "8"), (-1, "7"), (7, "6")):
        assert shown.add(run, position, key) == f"{run.data}/{key}"
    assert shown.captions == {f"{run.data}/{key}": key for key in ("4", "8", "7", "6")}
    assert shown.pictures == {}


def test_other_data_are_opened_beside_and_other_settings_are_not(run, tmp_path, monkeypatch):
    opened_for = []
    monkeypatch.setattr(gallery, "_source", lambda record: opened_for.append(record.name))
    shown = Gallery()
    for name, change in (("a", {}), ("b", {"optim.lr": 1}), ("c", {"data.x": 1}), ("d", {"eval.split": "test"})):
        shown.add(RunRecord(name, tmp_path, run.config | change, []), 0, name)
    shown.add(RunRecord("e", tmp_path, run.config | {"seed": 4}, []), 0, "e")
    shown.add(RunRecord("f", tmp_path, run.config | {"data.x": 1}, []), 1, "f")
    assert opened_for == ["a", "c", "d", "e"]


def test_broken_pictures_and_missing_data_are_warnings(run, tmp_path, caplog):
    (tmp_path / "data" / "2.png").write_bytes(b"none")
    shown = Gallery()
    with caplog.at_level(logging.WARNING):
        name = shown.add(run, 2, "2")
    assert (shown.captions, shown.pictures) == ({name: "picture 2"}, {})
    assert f"{run.folder}: no picture of 2 (" in caplog.text
    caplog.clear()
    (run.folder / "config.yaml").unlink()
    with caplog.at_level(logging.WARNING):
        assert Gallery().add(run, 2, "2") == name
    assert f"{run.folder}: pictures are left out (" in caplog.text


def test_the_source_is_the_evaluated_split_with_its_rule_for_captions(run, tmp_path, monkeypatch):
    tree = {"data": {"val_captions": "index:1"}, "eval": {"split": "test"}, "seed": 9}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(tree))
    asked = []
    monkeypatch.setattr(gallery, "build_source", lambda data, split, seed: asked.append((data.source, split, seed)))
    assert gallery._source(run) == (None, "index:1")
    assert asked == [("emoji", "test", 9)]


def test_thumbnails_keep_the_shape_and_the_colours():
    image = opened(thumbnail(picture(20, 16)))
    assert image.size == (20, 16)  # smaller ones are not enlarged
    flat = io.BytesIO()
    Image.new("RGB", (100, 200), (200, 10, 60)).save(flat, "PNG")
    image = opened(thumbnail(flat.getvalue()))
    assert image.size == (28, 56)
    assert image.getpixel((3, 50)) == pytest.approx((200, 10, 60), abs=10)
    assert len(thumbnail(picture(56, 56))) < 8000


def test_the_last_epoch_is_the_largest_number(run):
    first, last = cloud(8, 0), cloud(8, 1)
    assert Embedded(run, {2: last, 0: first}).last is last


def test_a_map_has_every_epoch_on_the_components_of_the_last(run):
    first, last = cloud(8, 0), cloud(8, 1)
    keys = [str(k) for k in range(8)]
    last.indices = torch.arange(8)
    tree = embedding_map(Embedded(run, {2: replace(last, keys=keys), 0: replace(first, keys=keys)}), Gallery())
    assert (tree["run"], tree["sphere"]) == ("named", False)
    assert tree["points"] == [f"{run.data}/{k}" for k in range(8)]
    assert [frame["epoch"] for frame in tree["frames"]] == [0, 2]
    assert [frame["scores"] for frame in tree["frames"]] == [
        "centroid distance 1.000, separability 0.750",
        "centroid distance 0.250, I→T R@1 0.500",
    ]
    both = torch.cat([last.image, last.text]).double()
    axes = torch.linalg.svd(both - both.mean(dim=0), full_matrices=False).Vh[:3]
    signs = None
    for frame, features in zip(tree["frames"], (first, last), strict=True):
        for k, side in enumerate((features.image, features.text)):
            expected = (side.double() - both.mean(dim=0)) @ axes.T
            plane, space = torch.tensor(frame["plane"][k]).T, torch.tensor(frame["space"][k]).T
            signs = torch.sign(space[0] * expected[0]) if signs is None else signs
            torch.testing.assert_close(space.double(), expected * signs, atol=6e-5, rtol=0)
            torch.testing.assert_close(plane, space[:, :2])
    assert all(v == round(v, 4) for v in tree["frames"][0]["space"][0][0])


@pytest.mark.parametrize("d", [2, 3])
def test_in_three_dimensions_the_space_is_that_of_the_features(run, d):
    last = cloud(8, 1, d)
    tree = embedding_map(Embedded(run, {1: last}), Gallery())
    assert (tree["sphere"], tree["points"]) == (True, [])
    for k, side in enumerate((last.image, last.text)):
        space = torch.tensor(tree["frames"][0]["space"][k]).T
        torch.testing.assert_close(space[:, :d], side, atol=6e-5, rtol=0)
        assert space[:, d:].abs().sum() == 0
    plane = torch.tensor(tree["frames"][0]["plane"])
    torch.testing.assert_close(plane.mean(dim=(0, 2)), torch.zeros(2), atol=1e-4, rtol=0)  # centred


def test_a_map_of_many_pairs_shows_some_evenly_spaced(run):
    last = cloud(700, 1)
    last.indices = torch.arange(700).flip(0)
    shown = Gallery()
    tree = embedding_map(Embedded(run, {1: replace(last, keys=[f"key {k}" for k in range(700)])}), shown)
    places = [int(name.rpartition(" ")[2]) for name in tree["points"]]
    assert len(places) == 300
    assert (places[0], places[1], places[-1]) == (0, 2, 699)
    assert len(tree["frames"][0]["plane"][0][0]) == 300


def test_pictures_of_a_map_are_those_of_the_positions_in_the_data(run):
    last = cloud(8, 1)
    last.indices = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])
    shown = Gallery()
    embedding_map(Embedded(run, {1: replace(last, keys=[str(7 - k) for k in range(8)])}), shown)
    assert shown.captions == {f"{run.data}/{k}": f"picture {k}" for k in range(8)}


@pytest.mark.parametrize("by_text", [True, False])
def test_examples_are_what_the_queries_retrieve(run, by_text):
    n = 40
    keys = [f"key {k}" for k in range(n)]
    other, features = replace(cloud(n, 4), keys=keys), replace(cloud(n, 3), keys=keys)
    examples = retrieval_examples(Embedded(run, {0: other, 1: features}), Gallery(), by_text)
    assert [e.query.rpartition("/")[2] for e in examples] == [f"key {k}" for k in (5, 11, 16, 22, 27, 33)]
    queries, targets = (features.text, features.image) if by_text else (features.image, features.text)
    for example in examples:
        i = keys.index(example.query.rpartition("/")[2])
        order = (targets @ queries[i]).argsort(descending=True).tolist()
        assert example.retrieved == [f"{run.data}/key {k}" for k in order[:5]]
        assert example.right == order.index(i) + 1
    assert len({e.right for e in examples}) > 1


def test_examples_of_few_pairs_are_as_many_as_there_are_and_need_names(run):
    features = cloud(3, 3)
    embedded = Embedded(run, {1: replace(features, keys=["a", "b", "c"])})
    examples = retrieval_examples(embedded, Gallery(), True)
    assert len(examples) == 3
    assert all(len(e.retrieved) == 3 for e in examples)
    assert retrieval_examples(Embedded(run, {1: features}), Gallery(), True) == []
    # Of equals none is before another.
    still = Embeddings(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3), keys=list("abc"))
    assert {e.right for e in retrieval_examples(Embedded(run, {1: still}), Gallery(), True)} == {1}


def test_a_run_that_kept_nothing_has_no_map(run):
    assert load_embedded(run) is None
    assert run.notes == []
