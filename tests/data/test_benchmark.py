"""clip_benchmark's data sets by name: nothing is started, nothing is fetched, and what lies there is read."""

import inspect
import json
import os
import re
import socket
import subprocess
import tarfile
from unittest import mock

import pytest
import scipy.io  # noqa: F401 - torchvision's readers import it, and numpy.testing with it, which starts lscpu
import torch
from clip_benchmark.datasets.builder import build_dataset, dataset_collection
from PIL import Image

from gapless.config import EvalPlan, ModelConfig
from gapless.data.benchmark import FETCHED, LAID_OUT, RETRIEVAL_SETS, read_retrieval, shards_prompts
from gapless.data.images import BadSampleError
from gapless.data.labelled import build_labelled
from gapless.errors import ConfigError, DataError
from gapless.eval.run import evaluate
from gapless.models import LoadedModel, build_model
from tests.runs import TINY

PROGRAMS = ("sh", "bash", "wget", "curl", "unzip", "tar", "gdown", "kaggle", "mv", "which", "gs")
STARTED = (
    *((subprocess, "Popen"), (os, "system"), (os, "popen"), (os, "posix_spawn"), (os, "execve"), (os, "fork")),
    *((socket, "getaddrinfo"), (socket.socket, "connect")),
)


def names():
    """Every name that clip_benchmark's builder compares with, or lists in a collection."""
    source = inspect.getsource(build_dataset)
    found = set(re.findall(r"""dataset_name == ["']([^"']+)["']""", source)) | {
        n for c in dataset_collection.values() for n in c
    }
    assert len(found) > 60
    return sorted(found | {"tfds/mnist", "sugar_crepe/add_att", "wds/some", "multilingual_mscoco_captions", "xtd200"})


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), "tiny", "")


@pytest.fixture
def nothing_starts(tmp_path, monkeypatch):
    """Programs that leave a file when they are started, and no way to start others or reach the network."""
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/started\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    doors = [mock.patch.object(place, name, side_effect=AssertionError(name)) for place, name in STARTED]
    opened = [door.start() for door in doors]
    yield
    for door in doors:
        door.stop()
    assert [each.call_args for each in opened if each.called] == []
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("folder", ["none", "absent;touch PWNED", "there$(touch PWNED)"])
def test_no_name_starts_anything(loaded, nothing_starts, tmp_path, monkeypatch, folder, download):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gapless.eval.run.check_plan", lambda plan: None)  # slow, and these plans are good
    if folder.startswith("there"):
        (tmp_path / folder).mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in names():
        if not (download and name in FETCHED):
            plan = EvalPlan(datasets=[name], root=None if folder == "none" else folder, download=download, workers=0)
            with pytest.raises((ConfigError, DataError)) as error:
                evaluate(loaded, plan)
            assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_name_is_read_or_refused_by_name():
    for name in names():
        if name.startswith(("wds/", "sugar_crepe/")) or name in ("winoground", *RETRIEVAL_SETS, *FETCHED, *LAID_OUT):
            continue
        with pytest.raises(ConfigError, match=re.escape(f"datasets: {name} ")):
            build_labelled(name, "/data")


def test_torchvision_fetches_when_it_is_asked(tmp_path, monkeypatch):
    asked = mock.Mock(side_effect=OSError("no network"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", asked)
    with pytest.raises(DataError, match=r"\(Dataset not found\.\); download=true lets torchvision fetch it"):
        build_labelled("mnist", str(tmp_path))
    asked.assert_not_called()
    with pytest.raises(DataError):
        build_labelled("mnist", str(tmp_path), download=True)
    asked.assert_called()


@pytest.fixture
def faces(tmp_path):
    """fer2013 with a picture in each class; the last one is broken, and one is an EPS by another name."""
    for k, name in enumerate(("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (20, 10), (30 * k, 0, 0)).save(tmp_path / "test" / name / "0.png")
    (tmp_path / "test" / "surprise" / "0.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "sad" / "0.png", format="EPS")
    return tmp_path


def test_a_set_that_is_laid_out_as_folders(faces, nothing_starts):
    data = build_labelled("fer2013", str(faces))
    assert len(data.images) == len(data.class_names) == 7
    image, label = data.images.load(3)
    assert (label, image.dtype, image[:, 0, 0].tolist()) == (3, torch.uint8, [90, 0, 0])
    for broken in (5, 6):
        with pytest.raises(BadSampleError):
            data.images.load(broken)
    before = data.images.stamp()
    Image.new("RGB", (20, 10), (1, 2, 3)).save(faces / "test" / "angry" / "0.png")
    assert build_labelled("fer2013", str(faces)).images.stamp() != before
    (faces / "test" / "angry" / "0.png").unlink()
    (faces / "test" / "angry").rmdir()
    with pytest.raises(DataError, match="fer2013 has 7 classes, but .* has 6 class folders"):
        build_labelled("fer2013", str(faces))


def test_imagenet_v2_is_numbered_by_class(tmp_path, nothing_starts):
    folder = "imagenetv2-matched-frequency-format-val"
    buffer = tmp_path / "one.jpeg"
    Image.new("RGB", (8, 8)).save(buffer)
    for k in range(1000):
        (tmp_path / folder / str(k)).mkdir(parents=True)
        os.link(buffer, tmp_path / folder / str(k) / "a.jpeg")
    data = build_labelled("imagenetv2", str(tmp_path))
    assert [data.images.load(i)[1] for i in range(4)] == [0, 1, 10, 100]  # as names sort
    assert data.class_names[1] == "goldfish"
    assert data.prompts[1][0] == "a bad photo of a goldfish."


@pytest.fixture
def flickr(tmp_path):
    """Three pictures with captions, one of which holds the end of a file name."""
    lines = [
        "image,caption",
        "b.jpg,two, dogs",
        "b.jpg,dogs",
        "a.jpg,a file c.jpg, open",
        "",
        "b.jpg,a\u2028line",
        "c.jpg,sea",
    ]
    (tmp_path / "flickr8k_val_karpathy.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.jpg")
    return tmp_path


def test_flickr_in_clip_benchmarks_layout(flickr):
    pairs = read_retrieval("flickr8k", flickr, "val")
    assert [(p.path.name, p.captions) for p in pairs] == [
        ("b.jpg", ("two, dogs", "dogs", "a\u2028line")),
        ("a.jpg", ("a file c.jpg, open",)),
        ("c.jpg", ("sea",)),
    ]
    annotations = flickr / "flickr8k_val_karpathy.txt"
    annotations.write_text(
        annotations.read_text(encoding="utf-8").replace("a file c.jpg, open", "one"), encoding="utf-8"
    )
    theirs = build_dataset("flickr8k", str(flickr), split="val", task="zeroshot_retrieval").data
    assert [(p.path.name, list(p.captions)) for p in read_retrieval("flickr8k", flickr, "val")] == theirs


def test_coco_in_clip_benchmarks_layout(tmp_path):
    tree = {
        "images": [{"id": 9, "file_name": "nine.jpg"}, {"id": 2, "file_name": "two.jpg"}],
        "annotations": [
            {"id": k, "image_id": i, "caption": c} for k, (i, c) in enumerate([(9, "x"), (2, "y"), (9, "z")])
        ],
    }
    (tmp_path / "coco_test_karpathy.json").write_text(json.dumps(tree))
    (tmp_path / "val2014").mkdir()
    for name, value in (("nine", 9), ("two", 2)):
        Image.new("L", (8, 8), value).save(tmp_path / "val2014" / f"{name}.jpg")
    pairs = read_retrieval("mscoco_captions", tmp_path, "test")
    theirs = build_dataset("mscoco_captions", str(tmp_path), split="test", task="zeroshot_retrieval")
    assert [p.captions for p in pairs] == [tuple(theirs[i][1]) for i in range(2)] == [("y",), ("x", "z")]
    assert [Image.open(p.path).getpixel((0, 0)) for p in pairs] == [2, 9]


@pytest.mark.parametrize(
    ("name", "file", "text", "words"),
    [
        ("flickr30k", "flickr30k_test_karpathy.txt", None, "looked for .*flickr30k_test_karpathy.txt"),
        ("flickr30k", "flickr30k_test_karpathy.txt", b"image,caption\n", "has no captions"),
        ("flickr30k", "flickr30k_test_karpathy.txt", b"image,caption\na.png,b\n", "line 2: not IMAGE.jpg,CAPTION"),
        ("flickr8k", "flickr8k_test_karpathy.txt", b"image,caption\na.jpg,\xe9\n", "is not UTF-8"),
        ("mscoco_captions", "coco_test_karpathy.json", b"[]", "not COCO's caption format"),
        (
            "mscoco_captions",
            "coco_test_karpathy.json",
            b'{"images": [], "annotations": [{"image_id": 1}]}',
            "not COCO's",
        ),
        ("mscoco_captions", "coco_test_karpathy.json", b"[" * 100_000, "not COCO's caption format"),
    ],
)
def test_damaged_annotations(tmp_path, name, file, text, words):
    if text is not None:
        (tmp_path / file).write_bytes(text)
    with pytest.raises(DataError, match=words):
        read_retrieval(name, tmp_path, "test")
    with pytest.raises(DataError, match="train, val and test, not 'all'"):
        read_retrieval(name, tmp_path, "all")


def test_retrieval_sets_are_scored_with_all_captions(loaded, flickr):
    root = str(flickr.parent / flickr.name.replace(flickr.name, "{dataset_cleaned}"))
    flickr = flickr.rename(flickr.parent / "flickr8k")
    plan = EvalPlan(datasets=["flickr8k"], root=root, split="val", tasks=["retrieval"], workers=0)
    (result,) = evaluate(loaded, plan)
    assert (result.dataset, result.task) == ("flickr8k", "zeroshot_retrieval")
    assert (result.metrics["num_images"], result.metrics["num_texts"]) == (3, 5)


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "test").mkdir()
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as tar:
        Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
        (tmp_path / "0.cls").write_text("1")
        for part in ("0.png", "0.cls"):
            tar.add(tmp_path / part, part)
    (tmp_path / "test" / "nshards.txt").write_text("1\n")
    (tmp_path / "classnames.txt").write_text("dog\ncat\n\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {}.\n\nthe {c}\n")
    return tmp_path


def test_templates_of_either_form_are_filled(shards):
    assert shards_prompts(shards) == (["dog", "cat"], [("a dog.", "the dog"), ("a cat.", "the cat")])


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (
            "zeroshot_classification_templates.txt",
            "a {c}\na photo\n",
            "templates.txt: the template 'a photo' has no .c.",
        ),
        ("zeroshot_classification_templates.txt", "\n\n", "is empty"),
        ("zeroshot_classification_templates.txt", None, "templates.txt, it cannot be read"),
        ("classnames.txt", "dog\n\ncat\n", "classnames.txt, line 2: the class has no name"),
        ("classnames.txt", "\n", "classnames.txt, line 1"),
        ("test/nshards.txt", "9" * 4000, "is not the number of shards"),
        ("test/nshards.txt", "99999999", "99999999 shards, but .*99999998.tar is not there"),
        ("test/nshards.txt", "0", "0 shards"),
        ("test/nshards.txt", "-1", "is not the number of shards"),
        ("test/nshards.txt", "\n\n", "is not the number of shards"),
        ("dataset_type.txt", "multilabel", "only classification and retrieval can be scored"),
    ],
)
def test_damaged_layouts_of_shards(loaded, shards, file, text, words):
    if text is None:
        (shards / file).unlink()
    else:
        (shards / file).write_text(text)
    with pytest.raises(DataError, match=words):
        evaluate(loaded, EvalPlan(datasets=["wds/some"], root=str(shards), workers=0))
