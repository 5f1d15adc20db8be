import json
import logging

import pytest

from gapless.config import DataConfig
from gapless.data.coco import coco_pairs
from gapless.data.images import BadSampleError
from gapless.data.sources import build_source
from gapless.errors import DataError
from tests.data.pictures import picture


@pytest.fixture
def coco(tmp_path):
    """Three training images in COCO's official layout, one without captions, and one validation image."""
    for split, ids in (("train", (9, 25, 30)), ("val", (139,))):
        (tmp_path / f"{split}2017").mkdir(parents=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for i in ids:
            (tmp_path / f"{split}2017" / f"{i:012d}.jpg").write_bytes(picture(kind="JPEG", seed=i))
        tree = {
            "info": {"year": 2017},
            "licenses": [],
            "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 16, "width": 20} for i in ids],
            "annotations": [
                {"image_id": i, "id": 10 * i + k, "caption": f"caption {k} of {i}"}
                for k in range(5)
                for i in ids
                if i != 30
            ],
        }
        (tmp_path / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(tree))
    return tmp_path


def test_official_layout(coco):
    pairs = coco_pairs(coco, "train")
    assert [p.key for p in pairs] == ["9", "25", "30"]
    assert pairs[0].captions == tuple(f"caption {k} of 9" for k in range(5))
    assert pairs[2].captions == ()
    source = build_source(DataConfig(source="coco", path=str(coco)), "val")
    assert source.load(0).image[:2] == b"\xff\xd8"
    assert source.num_captions(0) == 5


def test_a_missing_image_is_a_bad_sample(coco):
    (coco / "train2017" / "000000000009.jpg").unlink()
    source = build_source(DataConfig(source="coco", path=str(coco)), "train")
    with pytest.raises(BadSampleError) as caught:
        source.load(0)
    assert caught.value.reason == "missing_file"
    assert "000000000009.jpg" in str(caught.value)


def test_duplicate_ids_count_once_and_are_told(coco, caplog):
    path = coco / "annotations" / "captions_train2017.json"
    tree = json.loads(path.read_text())
    tree["images"].append(tree["images"][0])
    path.write_text(json.dumps(tree))
    with caplog.at_level(logging.WARNING):
        assert len(coco_pairs(coco, "train")) == 3
    assert "1 duplicate image ids" in caplog.text


def test_missing_files_name_what_was_looked_for_and_where(coco):
    (coco / "annotations" / "captions_train2017.json").unlink()
    with pytest.raises(DataError, match=r"looked for .*annotations/captions_train2017.json.*expected ROOT/train2017"):
        coco_pairs(coco, "train")
    (coco / "annotations" / "captions_val2017.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        coco_pairs(coco, "val")
    (coco / "annotations" / "captions_val2017.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="not COCO's caption format"):
        coco_pairs(coco, "val")


def test_missing_image_folder(coco):
    (coco / "val2017").rename(coco / "elsewhere")
    with pytest.raises(DataError, match="looked for the folder .*val2017"):
        coco_pairs(coco, "val")


def test_karpathy_split(coco):
    images = [
        {"cocoid": 9, "filepath": "train2014", "filename": "COCO_train2014_000000000009.jpg", "split": "restval"},
        {"cocoid": 139, "filepath": "val2014", "filename": "COCO_val2014_000000000139.jpg", "split": "test"},
    ]
    for image in images:
        image["sentences"] = [{"raw": f"sentence {k}"} for k in range(5)]
    (coco / "dataset_coco.json").write_text(json.dumps({"images": images}))
    config = DataConfig(source="coco", path=str(coco), karpathy=str(coco / "dataset_coco.json"))
    train, test = build_source(config, "train"), build_source(config, "test")
    assert (len(train), len(test)) == (1, 1)
    assert train.load(0).captions[0] == "sentence 0"
    assert test.load(0).image[:2] == b"\xff\xd8"  # found under val2017, where 2017's layout has it
    with pytest.raises(DataError, match="no images in the split 'val'"):
        build_source(config, "val")


def test_karpathys_split_of_flickr(tmp_path):
    # Flickr's file has neither folders nor COCO's ids.
    (tmp_path / "36979.jpg").write_bytes(picture(kind="JPEG", seed=1))
    images = [
        {"filename": "36979.jpg", "imgid": 0, "split": "test", "sentences": [{"raw": "a man"}, {"raw": "two men"}]},
        {"filename": "1.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "a dog"}]},
    ]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    (pair,) = coco_pairs(tmp_path, "test", tmp_path / "dataset_flickr30k.json")
    assert (pair.key, pair.captions) == ("36979", ("a man", "two men"))
    assert pair.path.is_file()


def test_a_mistyped_image_folder_is_named(coco):
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}]}
    path = coco / "dataset.json"
    for more in ({}, {"filepath": "val2014", "cocoid": 1}):
        path.write_text(json.dumps({"images": [image | more]}))
        with pytest.raises(DataError, match="data.path: looked for the folder .*nowhere with the images"):
            coco_pairs(coco / "nowhere", "test", path)
    path.write_text(json.dumps({"images": [image | {"filepath": "val2014", "cocoid": 1}]}))
    (coco / "val2017").rename(coco / "elsewhere")
    with pytest.raises(DataError, match="data.path: looked for the folder .*val2017 with the images"):
        coco_pairs(coco, "test", path)
    with pytest.raises(DataError, match="data.path: looked for the folder .*nowhere"):
        coco_pairs(coco / "nowhere", "train")


@pytest.mark.parametrize(
    "wrong", [["a"], "a", {"filename": 5}, {"sentences": ["a"]}, {"sentences": [{"raw": None}]}, {"filepath": "x"}]
)
def test_what_is_not_karpathys_format(coco, wrong):
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}]}
    path = coco / "dataset.json"
    path.write_text(json.dumps({"images": [image | wrong if isinstance(wrong, dict) else wrong]}))
    with pytest.raises(DataError, match="dataset.json is not Karpathy's format"):
        coco_pairs(coco, "test", path)


def test_half_a_surrogate_pair_can_be_encoded(coco):
    path = coco / "annotations" / "captions_val2017.json"
    path.write_text(path.read_text().replace("caption 0 of 139", r"a \ud83d dog \ud83d\ude00"))
    (pair,) = coco_pairs(coco, "val")
    assert pair.captions[0] == "a ? dog \U0001f600"
    path.write_text(path.read_text().replace('"caption 1 of 139"', "null"))
    with pytest.raises(DataError, match="not COCO's caption format"):
        coco_pairs(coco, "val")
