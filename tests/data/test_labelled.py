import pytest
import torch
from PIL import Image

from gapless.data.images import BadSampleError
from gapless.data.labelled import build_labelled, fill_templates
from gapless.errors import ConfigError


@pytest.fixture
def folders(tmp_path):
    """Two classes of three pictures; the last of the second class is broken."""
    for k, name in enumerate(("big_dog", "cat")):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (20, 10), (50 * k, 10 * i, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cat" / "2.png").write_text("no picture")
    return tmp_path


def test_an_image_folder(folders):
    data = build_labelled("imagefolder", str(folders))
    assert data.class_names == ["big dog", "cat"]
    assert data.prompts[0] == ("a photo of a big dog.",)
    assert [data.images.load(i)[1] for i in range(5)] == [0, 0, 0, 1, 1]
    image, _ = data.images.load(4)
    assert image.shape == (3, 10, 20)
    assert image[:, 0, 0].tolist() == [50, 10, 0]
    with pytest.raises(BadSampleError):
        data.images.load(5)
    before = data.images.stamp()
    (folders / "cat" / "2.png").unlink()
    assert build_labelled("imagefolder", str(folders)).images.stamp() != before


def test_the_papers_own_prompts_of_imagenet(tmp_path):
    for number in ("n01440764", "n01443537"):
        (tmp_path / "val" / number).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / number / "0.png")
    synonyms = {"n01443537": ("goldfish", "Carassius auratus"), "n01440764": ("tench", "Tinca tinca")}
    torch.save((synonyms, []), tmp_path / "meta.bin")
    own, paper = (build_labelled("imagenet1k", str(tmp_path), prompts=p) for p in ("own", "fahim2024"))
    assert own.prompts[1][0] == "a bad photo of a goldfish."
    assert [each[0] for each in paper.prompts] == [
        "a bad photo of a ('tench', 'Tinca tinca').",
        "a bad photo of a ('goldfish', 'Carassius auratus').",
    ]


def test_the_papers_own_prompts_of_textures(tmp_path):
    for part in ("images/banded", "labels"):
        (tmp_path / "dtd" / "dtd" / part).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "dtd" / "dtd" / "images" / "banded" / "0.jpg")
    (tmp_path / "dtd" / "dtd" / "labels" / "test1.txt").write_text("banded/0.jpg\n")
    data = build_labelled("dtd", str(tmp_path), prompts="fahim2024")
    assert data.prompts[0][0] == "a photo of a photo of banded texture."


def test_names_that_do_not_exist_and_missing_roots():
    with pytest.raises(ConfigError, match="no data set 'cifar11', did you mean cifar1"):
        build_labelled("cifar11", "/data")
    with pytest.raises(ConfigError, match="^root: cifar10 needs the folder"):
        build_labelled("cifar10")


def test_emoji_classes_by_split():
    train, test = (build_labelled("emoji_skin_tone", split=split) for split in ("train", "test"))
    assert len(train.images) > len(test.images) > 100
    assert train.class_names == test.class_names
    assert not {train.images.key(i) for i in range(len(train.images))} & {test.images.key(0)}


def test_templates_and_own_prompts():
    assert fill_templates(["crane", "crane"], ["a {c}", "the {c}."]) == [("a crane", "the crane.")] * 2
    assert fill_templates(["a", "b"], {"a": ["one"], "b": ["two", "three"]}) == [("one",), ("two", "three")]
