"""Everything that is scored on the emoji, on seventeen of them with features chosen by hand."""

import pytest
import torch
import torch.nn.functional as F

from gapless.config import EvalPlan, ModelConfig
from gapless.data import emoji
from gapless.data.emoji import SKIN_TONES, Emoji, emoji_edits
from gapless.eval.metrics.grouping import joint_clustering
from gapless.eval.results import load_results
from gapless.eval.run import evaluate
from gapless.geometry import whole_gap
from gapless.models import build_model, save_export
from tests.eval.tables import Tables
from tests.runs import TINY, run

TEST = (
    *("man cook light skin tone", "man cook dark skin tone", "woman cook light skin tone", "woman cook dark skin tone"),
    *("anchor", "bear", "cloud", "drum", "eagle", "fork", "mark"),
)
VAL = ("man judge light skin tone", "woman judge light skin tone", "grape")
TRAIN = ("woman judge dark skin tone", "house", "igloo")
GROUPS = {"anchor": "Objects", "cloud": "Objects", "eagle": "Objects", "house": "Objects", "igloo": "Objects"}
GROUPS |= {"bear": "Animals & Nature", "drum": "Animals & Nature", "fork": "Animals & Nature", "grape": "Objects"}
LABELS = torch.tensor([2, 2, 2, 2, 1, 0, 1, 0, 1, 0])
"""Groups of the first ten of the test split, in the order of their names; the last has none."""


@pytest.fixture
def few(tmp_path, monkeypatch):
    """The features of people are nearly the sum of the features of the words of their names."""
    generator = torch.Generator().manual_seed(1)
    tables = Tables(8)
    prompts = ("Animals & Nature", *SKIN_TONES, "man", "woman", "chef", "woman judge")
    words = dict(zip(prompts, torch.randn(len(prompts), 8, generator=generator), strict=True))
    tables.write({text: feature.tolist() for text, feature in words.items()})
    chosen = []
    for k, name in enumerate((*TEST, *VAL, *TRAIN)):
        feature = torch.randn(8, generator=generator)
        feature += 2 * sum(words[word] for word in words if f" {word} " in f" {name} ")
        path = tables.picture(tmp_path / f"{k:02d}.png", feature.tolist())
        tables.write({name: (feature + torch.randn(8, generator=generator)).tolist()})
        group = GROUPS.get(name, "People & Body" if " " in name else None)
        split = "test" if name in TEST else "val" if name in VAL else "train"
        family = "cook" if "cook" in name else name
        chosen.append(Emoji(path, (name, *(("chef",) if k == 0 else ())), group, family, split))
    for module in ("emoji", "labelled"):
        monkeypatch.setattr(f"gapless.data.{module}.all_emoji", lambda: tuple(chosen))
    kept = (emoji.emoji_classes, emoji.emoji_edits, emoji.emoji_families)
    for function in kept:
        function.cache_clear()
    yield tables
    for function in kept:
        function.cache_clear()


def scored(tables, *tasks, datasets=("emoji",), **changes):
    plan = EvalPlan(datasets=list(datasets), tasks=list(tasks), workers=0, **changes)
    return {(r.dataset, r.task): r for r in evaluate(tables.loaded(), plan)}


def test_pairs_classes_and_arithmetic_are_scored_on_the_test_split(few):
    results = scored(few, "zero_shot", "retrieval", "gap", "arithmetic")
    assert [(*key, r.num_samples) for key, r in results.items()] == [
        ("emoji", "zeroshot_retrieval", 11),
        ("emoji", "gap", 11),
        ("emoji_group", "zeroshot_classification", 10),
        ("emoji_gender", "zeroshot_classification", 4),
        ("emoji_skin_tone", "zeroshot_classification", 4),
        ("emoji_gender_test", "embedding_arithmetic", 11),
        ("emoji_skin_tone_test", "embedding_arithmetic", 11),
    ]
    assert all((r.split, r.settings, r.data) == ("test", {}, "") for r in results.values())
    assert results["emoji", "zeroshot_retrieval"].metrics["num_texts"] == 12
    images, texts = few.rows(*range(11)), few.text(*TEST)
    assert results["emoji", "gap"].metrics == pytest.approx(whole_gap(images, texts), rel=1e-5)
    # Classes are sorted by name; their prompts are the train emoji, of which none is an animal.
    prompts = (("Animals & Nature",), ("house", "igloo"), ("woman judge",))
    directions = F.normalize(torch.stack([few.text(*words).mean(dim=0) for words in prompts]), dim=1)
    hits = (images[:10] @ directions.T).argmax(dim=1) == LABELS
    assert 0 < hits.double().mean() < 1
    group = results["emoji_group", "zeroshot_classification"]
    assert group.samples["acc1"].tolist() == hits.tolist()
    # Four cooks are one family of the ten pictures; four of ten are of the most frequent of three classes.
    assert group.groups["acc1"].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert (group.metrics["chance"], group.metrics["majority"]) == (pytest.approx(1 / 3), 0.4)
    recalled = results["emoji", "zeroshot_retrieval"].groups
    assert recalled["text_retrieval_recall@5"].tolist() == [0, 0, 0, 0, *range(1, 8)]
    assert recalled["image_retrieval_recall@1"].tolist() == [0, 0, 0, 0, 0, *range(1, 8)]  # the first has two captions


def test_other_splits_are_settings(few):
    results = scored(few, "zero_shot", "retrieval", "arithmetic", split="val")
    assert [(*key, r.num_samples, r.split, r.settings) for key, r in results.items()] == [
        ("emoji", "zeroshot_retrieval", 3, "val", {"split": "val"}),
        ("emoji_group", "zeroshot_classification", 3, "val", {"split": "val"}),
        ("emoji_gender", "zeroshot_classification", 2, "val", {"split": "val"}),
        ("emoji_skin_tone", "zeroshot_classification", 2, "val", {"split": "val"}),
        ("emoji_gender_dev", "embedding_arithmetic", 6, "dev", {}),
        ("emoji_skin_tone_dev", "embedding_arithmetic", 6, "dev", {}),
    ]
    # From man to woman and back, and from light to dark and back.
    assert results["emoji_gender_dev", "embedding_arithmetic"].metrics["num_edits"] == 2
    assert results["emoji_skin_tone_dev", "embedding_arithmetic"].metrics["num_edits"] == 2
    images, texts = few.rows(11, 12, 13), few.text(*VAL)
    hits = (images @ texts.T).argmax(dim=1) == torch.arange(3)
    assert results["emoji", "zeroshot_retrieval"].samples["text_retrieval_recall@1"].tolist() == hits.tolist()


@pytest.mark.parametrize("attribute", ["gender", "skin_tone"])
def test_arithmetic_finds_the_picture_that_a_name_says(few, attribute):
    lambdas = [0.5, 3.0]
    result = scored(few, "arithmetic", lambdas=lambdas)[f"emoji_{attribute}_test", "embedding_arithmetic"]
    images, columns = few.rows(*range(11)), ("region_id", "value", "target", "target_ids", "norm2")
    edits = list(zip(*(emoji_edits(attribute).transfos[c] for c in columns), strict=True))
    weights = torch.tensor([edit[4] ** -0.5 for edit in edits])
    expected = {"num_edits": 4}
    for strength in lambdas:
        hits = []
        for query, value, target, right, _ in edits:
            scores = images @ (images[query] + strength * (few.text(target)[0] - few.text(value)[0]))
            scores[query] = -9
            hits.append(int(scores.argmax()) == right)
        expected[f"simat_score@{strength:g}"] = 100 * float((weights * torch.tensor(hits)).sum() / weights.sum())
    assert result.metrics == pytest.approx(expected)
    assert result.settings == {"lambdas": lambdas}
    samples = result.samples["simat_score@3"]
    assert float(samples.mean()) == pytest.approx(expected["simat_score@3"], rel=1e-5)
    assert result.groups["simat_score@3"].tolist() == [0] * 4


def test_clusters_are_compared_with_the_groups_of_the_emoji_that_have_one(few):
    result = scored(few, "clustering")["emoji", "joint_clustering"]
    images, texts = few.rows(*range(10)), few.text(*TEST[:10])
    expected = joint_clustering(images, texts, LABELS)
    assert expected["v_measure_image"] != pytest.approx(expected["v_measure_text"])
    assert result.metrics == pytest.approx(expected)


def test_a_class_set_alone(few):
    (result,) = scored(few, "zero_shot", datasets=("emoji_skin_tone",)).values()
    hits = (few.rows(0, 1, 2, 3) @ few.text(*SKIN_TONES).T).argmax(dim=1) == torch.tensor([0, 4, 0, 4])
    assert (result.dataset, result.samples["acc1"].tolist()) == ("emoji_skin_tone", hits.tolist())
    assert (result.split, result.settings, result.data) == ("test", {}, "")
    (result,) = scored(few, "zero_shot", datasets=("emoji_group",), split="val").values()
    assert (result.split, result.settings, result.num_samples) == ("val", {"split": "val"}, 3)


@pytest.mark.parametrize("datasets", ["emoji", "emoji_group"])
def test_the_probe_of_a_class_set_is_fitted_on_its_train_split(few, datasets):
    # Nothing of the train split is of the animals.
    result = scored(few, "linear_probe", datasets=(datasets,))["emoji_group", "linear_probe"]
    assert result.samples["lp_acc1"][[5, 7, 9]].tolist() == [0, 0, 0]
    assert result.metrics["lp_acc1"] > 0


def test_all_is_scored_and_kept_by_the_command(few, tmp_path):
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), tmp_path / "export")
    folders = (str(tmp_path / "export"), f"--output={tmp_path / 'results'}")
    command = ("eval", *folders, "--workers=0", "--lambdas=[0.5, 1]")
    assert "simat_score@0.5" in run(*command)
    before = {(r.dataset, r.task): r.metrics for r in load_results(tmp_path)}
    assert set(before) == {
        ("emoji", "zeroshot_retrieval"),
        ("emoji", "gap"),
        ("emoji_group", "zeroshot_classification"),
        ("emoji_gender", "zeroshot_classification"),
        ("emoji_skin_tone", "zeroshot_classification"),
        ("emoji_gender_test", "embedding_arithmetic"),
        ("emoji_skin_tone_test", "embedding_arithmetic"),
    }
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()}
    assert len(kept) == 5
    run(*command)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()} == kept
    after = {(r.dataset, r.task): r.metrics for r in load_results(tmp_path)}
    assert list(after) == list(before)
    for key, metrics in after.items():
        assert metrics == pytest.approx(before[key], abs=1e-6)
