"""Classification from the name of a data set to the file of its result, on features that are chosen by hand."""

import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gapless.config import EvalPlan
from gapless.errors import DataError
from gapless.eval.run import evaluate
from gapless.geometry import Transform, centroid_distance
from gapless.losses import alignment_loss, intra_uniformity
from tests.eval.tables import Tables

NAMES = ("ant", "bee", "cow")
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
HITS = [1, 1, 0, 1, 1, 0]
"""Of the pictures below: an ant looks like a bee, the cow like an ant."""


@pytest.fixture
def animals(tmp_path):
    """Test pictures 0 to 5; of the train split another six, more of them bees."""
    tables = Tables(4)
    tables.write({f"a photo of a {name}.": [*row, 0.5] for name, row in zip(NAMES, torch.eye(3).tolist(), strict=True)})
    features = [(1, 0, 0), (1, 0.2, 0), (0, 1, 0.1), (0, 1, 0), (0, 1, 0.3), (1, 0, 0.4)]
    for k, (label, feature) in enumerate(zip(LABELS.tolist(), features, strict=True)):
        tables.picture(tmp_path / "test" / NAMES[label] / f"{k}.png", [*feature, -0.5])
    for k, label in enumerate((0, 1, 1, 1, 1, 2)):
        tables.picture(tmp_path / "train" / NAMES[label] / f"train{k}.png", [*torch.eye(3)[label].tolist(), -0.4])
    return tables


def plan(tmp_path, *tasks, **changes):
    return EvalPlan(
        **{"datasets": ["imagefolder"], "tasks": list(tasks), "root": str(tmp_path), "workers": 0} | changes
    )


def test_zero_shot_is_of_images_and_of_the_prompts_of_their_classes(animals, tmp_path):
    (result,) = evaluate(animals.loaded(), plan(tmp_path, "zero_shot"))
    images, classes = animals.rows(*range(6)), animals.text(*(f"a photo of a {name}." for name in NAMES))
    assert result.metrics == pytest.approx(
        {
            "acc1": 4 / 6,
            "mean_per_class_recall": (2 / 3 + 1 + 0) / 3,
            "chance": 1 / 3,
            "majority": 3 / 6,
            "centroid_distance": float(centroid_distance(images, classes[LABELS])),
            "alignment": float(alignment_loss(images, classes[LABELS])),
            "uniformity_image": float(intra_uniformity(images)),
        }
    )
    assert {name: values.tolist() for name, values in result.samples.items()} == {"acc1": HITS}
    assert (result.dataset, result.task, result.split) == ("imagefolder", "zeroshot_classification", "test")
    assert (result.model, result.pretrained, result.language) == ("table", "by hand", "en")
    assert (result.num_samples, result.num_bad, result.settings) == (6, 0, {})
    assert (result.data, result.weights, result.variant) == (os.path.realpath(tmp_path), "", "")


def test_the_split_is_the_one_that_is_asked_for(animals, tmp_path):
    (result,) = evaluate(animals.loaded(), plan(tmp_path, "zero_shot", split="train"))
    assert (result.metrics["acc1"], result.num_samples) == (1, 6)
    assert (result.split, result.settings) == ("train", {"split": "train"})


def test_the_probe_is_fitted_on_the_train_split_and_scored_on_the_test_split(animals, tmp_path):
    (result,) = evaluate(animals.loaded(), plan(tmp_path, "linear_probe"))
    # Of a probe that had seen the test pictures the cow is right; a strong weight decay makes all of them bees.
    baselines = {"chance": 1 / 3, "majority": 3 / 6}
    assert result.metrics == pytest.approx(
        {"lp_acc1": 4 / 6, "lp_mean_per_class_recall": (2 / 3 + 1 + 0) / 3, **baselines}
    )
    assert {name: values.tolist() for name, values in result.samples.items()} == {"lp_acc1": HITS}
    assert (result.dataset, result.task, result.split) == ("imagefolder", "linear_probe", "test")
    assert result.num_samples == 6


def test_retrieval_among_images_asks_for_images_of_the_class(animals, tmp_path):
    (result,) = evaluate(animals.loaded(), plan(tmp_path, "intra_modal"))
    assert result.task == "intra_modal_retrieval"
    similarity = animals.rows(*range(6)) @ animals.rows(*range(6)).T
    firsts, precisions = [], []
    for query in range(5):  # the cow has nobody to look for
        ranked = similarity[query].argsort(descending=True)
        right = (LABELS[ranked[ranked != query]] == LABELS[query]).double()
        firsts.append(float(right[0]))
        precisions.append(float((right * right.cumsum(0) / torch.arange(1, 6)).sum() / right.sum()))
    assert firsts == [1, 1, 0, 0, 0]
    assert result.metrics == pytest.approx({"image_recall@1": 2 / 5, "image_map": sum(precisions) / 5})


def test_a_transform_moves_images_and_classes_each_by_its_own_map(animals, tmp_path):
    generator = torch.Generator().manual_seed(3)
    matrices, shifts = torch.randn(2, 4, 4, generator=generator), torch.randn(2, 4, generator=generator)
    transform = Transform("some", matrices[0], shifts[0], matrices[1], shifts[1])
    transform.save(tmp_path / "t.safetensors")
    (result,) = evaluate(animals.loaded(), plan(tmp_path, "zero_shot", transform=tmp_path / "t.safetensors"))
    images, classes = animals.rows(*range(6)), animals.text(*(f"a photo of a {name}." for name in NAMES))
    images, classes = (
        F.normalize(rows @ matrix + shift, dim=1)
        for rows, matrix, shift in zip((images, classes), matrices, shifts, strict=True)
    )
    scores = images @ classes.T
    assert result.metrics["acc1"] == pytest.approx(float((scores.argmax(dim=1) == LABELS).float().mean()))
    assert result.metrics["alignment"] == pytest.approx(float(alignment_loss(images, classes[LABELS])), rel=1e-5)
    assert list(result.settings) == ["transform"]
    assert result.settings["transform"].startswith("some ")


def test_pictures_that_cannot_be_read_leave_the_labels_of_the_others_alone(animals, tmp_path, caplog):
    (tmp_path / "test" / "ant" / "0a.png").write_bytes(b"no picture")
    wrong = plan(tmp_path, "zero_shot", max_bad_fraction=0.14)
    with pytest.raises(DataError, match=r"imagefolder: 1 of 7 images cannot be used, .*max_bad_fraction=0.14; .*0a"):
        evaluate(animals.loaded(), wrong)
    (result,) = evaluate(animals.loaded(), replace(wrong, max_bad_fraction=1 / 7))
    assert (result.num_samples, result.num_bad) == (6, 1)
    assert result.samples["acc1"].tolist() == HITS
    assert "imagefolder: left out 0a" in caplog.text


def test_the_sample_set_is_of_names_and_classes(animals, tmp_path):
    def digest():
        return evaluate(animals.loaded(), plan(tmp_path, "zero_shot"))[0].sample_set

    first = digest()
    assert first
    assert digest() == first
    (tmp_path / "test" / "bee" / "3.png").rename(tmp_path / "test" / "bee" / "3b.png")
    renamed = digest()
    assert renamed != first
    (tmp_path / "test" / "bee" / "3b.png").rename(tmp_path / "test" / "cow" / "3b.png")
    assert digest() not in (first, renamed)
