"""The evaluation of a run on features chosen by hand, and how a configuration becomes one."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
import yaml

from gapless.config import Config, DataConfig, EvalConfig, EvalPlan, ModelConfig
from gapless.data import build_source
from gapless.data.emoji import ClassSet, emoji_classes
from gapless.errors import DataError
from gapless.eval import build_pair_evaluation
from gapless.eval.run import evaluate
from gapless.geometry import gap_metrics
from tests.eval.tables import Tables

CLASSES = ClassSet(
    {"ant": ("ant", "ants"), "bee": ("bee",), "cow": ("cow",)}, {"0": 1, "1": 0, "4": 2, "5": 0, "no": 1}
)
"""Of the pictures 0, 1, 4 and 5."""


@pytest.fixture
def tables(tmp_path):
    """Six pairs. Texts 1, 2 and 3 lie nearest to image 0; images 0 to 3 lie nearest to their own texts."""
    tables, axis = Tables(6), torch.eye(6)
    images = axis.clone()
    images[0] += axis[1:4].sum(dim=0)
    texts = axis + 0.3 * axis[0]
    texts[4], texts[5] = axis[5] + 0.2 * axis[4], axis[4] + axis[5]
    for k in range(6):
        tables.picture(tmp_path / "pairs" / f"{k}.png", images[k].tolist())
        (tmp_path / "pairs" / f"{k}.txt").write_text(f"caption {k}\nanother")
        tables.write({f"caption {k}": texts[k].tolist()})
    # Nearer to images 0 and 1 than to others, and otherwise than their texts.
    tables.write({"ant": (0, 3, 0, 0, 0, 1), "ants": (0, 0, 0, 0, 0, 2), "bee": (0, 0, 1, 1, 0, 0)})
    tables.write({"cow": (0, 0, 0, 1, 0, 0.5), "another": (0, 0, 0, 0, 1, 0)})
    return tables


def config(tmp_path, **changes):
    data = DataConfig(source="folder", path=str(tmp_path / "pairs"), val_path=str(tmp_path / "pairs"), workers=0)
    return Config(data=data, **changes)


def built(tables, *arguments):
    loaded = tables.loaded()
    return loaded.model, build_pair_evaluation(arguments[0], loaded.model, loaded.tokenizer, *arguments[1:])


def test_scores_are_of_images_and_texts_each_in_its_place(tables, tmp_path):
    model, evaluation = built(tables, config(tmp_path))
    evaluation.classes = {"animals": CLASSES}
    polled = []
    scores = evaluation.run(model, poll=lambda: polled.append(1))
    images, texts = tables.rows(*range(6)), tables.text(*(f"caption {k}" for k in range(6)))
    similarity = texts @ images.T
    by_text, by_image = ((s.argmax(dim=1) == torch.arange(6)).float().mean().item() for s in (similarity, similarity.T))
    assert by_text != by_image
    assert scores["val/image_retrieval_recall@1"] == pytest.approx(by_text)
    assert scores["val/text_retrieval_recall@1"] == pytest.approx(by_image)
    for name, value in gap_metrics(images, texts).items():
        assert scores[f"val/{name}"] == pytest.approx(value, rel=1e-5)
    assert scores["val/uniformity_image"] != pytest.approx(scores["val/uniformity_text"], rel=0.01)
    assert scores["val/num_samples"] == 6
    directions = F.normalize(torch.stack([tables.text("ant", "ants").mean(dim=0), *tables.text("bee", "cow")]), dim=1)
    shown, labels = [0, 1, 4, 5], torch.tensor([1, 0, 2, 0])
    right, wrong = ((rows[shown] @ directions.T).argmax(dim=1) == labels for rows in (images, texts))
    assert right.tolist() != wrong.tolist()
    assert scores["animals/acc1"] == pytest.approx(right.double().mean().item())
    assert scores["animals/acc1"] != pytest.approx(wrong.double().mean().item())
    assert polled == [1]
    torch.testing.assert_close(evaluation.features.image, images)
    torch.testing.assert_close(evaluation.features.text, texts)
    evaluation.classes = {"none here": ClassSet({"ant": ("ant",)}, {"other": 0})}
    assert not any(name.startswith("none here") for name in evaluation.score(model, evaluation.features))


def test_a_configuration_decides_what_is_embedded(tables, tmp_path):
    tree = config(tmp_path, eval=EvalConfig(batch_size=4))
    tree = replace(tree, data=replace(tree.data, max_bad_fraction=0.25, val_captions="index:1"))
    model, evaluation = built(tables, tree)
    assert (evaluation.prefix, evaluation.max_bad_fraction, evaluation.classes) == ("val", 0.25, {})
    evaluation.run(model)
    assert model.clip.rows == [4, 4, 2, 2]
    torch.testing.assert_close(evaluation.features.text, tables.text("another").expand(6, -1))


def test_split_seed_and_prefix_are_those_of_the_run_unless_others_are_named(tables, tmp_path):
    tree = config(tmp_path, seed=5, eval=EvalConfig(split="train"))
    tree = replace(tree, data=replace(tree.data, train_samples=3, val_samples=4))

    def keys(evaluation):
        return [evaluation.data.key(i) for i in range(evaluation.data.num_samples)]

    source = build_source(tree.data, "train", 5)
    chosen = [source.key(i) for i in range(3)]
    assert chosen != [build_source(tree.data, "train", 0).key(i) for i in range(3)]
    _, evaluation = built(tables, tree)
    assert (keys(evaluation), evaluation.prefix) == (chosen, "val")
    _, evaluation = built(tables, tree, "val", "other")
    assert (keys(evaluation), evaluation.prefix) == (["0", "1", "2", "3"], "other")


@pytest.mark.parametrize(
    ("changes", "has_classes"),
    [
        ({}, True),
        ({"eval": EvalConfig(zero_shot=False)}, False),
        ({"model": ModelConfig(towers="text-text")}, False),
        ({"data": DataConfig(source="csv", path="pairs.csv", val_path="pairs.csv", workers=0)}, False),
    ],
)
def test_emoji_have_classes_for_towers_of_images_and_texts(tables, tmp_path, monkeypatch, changes, has_classes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("filepath,title\na.png,one\n")
    _, evaluation = built(tables, Config(**changes))
    assert evaluation.classes == (emoji_classes() if has_classes else {})
    assert evaluation.data.collate.towers == changes.get("model", ModelConfig()).towers


def test_val_is_the_evaluation_that_the_run_did(tables, tmp_path):
    tree = config(tmp_path, eval=EvalConfig(split="train"))
    tree = replace(tree, data=replace(tree.data, train_samples=5))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(asdict(tree)))
    model, evaluation = built(tables, tree)
    (result,) = evaluate(tables.loaded(), EvalPlan(datasets=["val"]), run=run)
    assert result.metrics == evaluation.run(model)
    assert (result.dataset, result.task, result.num_samples) == ("val", "pairs", 5)
    assert (result.model, result.pretrained, result.split, result.settings) == ("table", "by hand", "", {})
    (run / "config.yaml").unlink()
    for place in (run, None):
        with pytest.raises(DataError, match=r"val needs a run's folder with its config\.yaml"):
            evaluate(tables.loaded(), EvalPlan(datasets=["val"]), run=place)
