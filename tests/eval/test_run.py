"""What becomes of a plan: data sets opened in their order, and results with all that they depend on."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import PartialState

from gapless.config import DataConfig, EvalPlan
from gapless.errors import ConfigError, DataError
from gapless.eval import run
from gapless.eval.datasets import absolute, pairs_place, pairs_settings
from gapless.eval.plan import check_plan, dataset_names
from gapless.eval.results import Result, file_hash, load_results
from gapless.eval.run import PlanEvaluation, evaluate, evaluate_between, save_on_main
from gapless.geometry import Transform
from tests.eval.tables import Tables, shard

PROMPTS = {"a cat": (1, 0, 0), "a dog": (0, 1, 0)}
FEATURES = ((1, 0.1, 0), (0.2, 1, 0), (0.1, 1, 0.5), (1, 0.9, 0.2))
"""Two cats, of which the second looks like a dog, and two dogs, of which the second looks like a cat."""


@pytest.fixture
def tables(tmp_path):
    """The same pictures under two names."""
    tables = Tables(3)
    tables.write(PROMPTS)
    pictures = {f"{k}.png": tables.png(feature) for k, feature in enumerate(FEATURES)}
    for name in ("wds-pets", "wds-twice"):
        classes = {f"{k}.cls": str(k // 2).encode() for k in range(4)}
        shard(tmp_path / name / "test", dict(sorted((pictures | classes).items())))
        (tmp_path / name / "classnames.txt").write_text("cat\ndog")
        (tmp_path / name / "zeroshot_classification_templates.txt").write_text("a {c}")
    return tables


def plan(tmp_path, *datasets, **changes):
    given = {"datasets": list(datasets) or ["wds/pets"], "tasks": ["zero_shot"], "root": f"{tmp_path}/{{dataset}}"}
    return EvalPlan(**given | {"workers": 0} | changes)


def test_results_are_kept_one_by_one_with_what_they_depend_on(tables, tmp_path):
    kept = []
    loaded = tables.loaded("run", str(tmp_path))
    results = evaluate(
        loaded,
        plan(tmp_path, "wds/twice", "wds/pets"),
        keep=kept.append,
        variant="step_00000008",
        settings={"base": "other"},
    )
    assert [r.dataset for r in results] == ["wds/twice", "wds/pets"]
    assert kept == results
    for result in results:
        assert result.metrics["acc1"] == 0.5
        assert (result.weights, result.variant) == (os.path.realpath(tmp_path), "step_00000008")
        assert result.settings == {"base": "other"}
        assert result.data == os.path.realpath(tmp_path / result.dataset.replace("/", "-"))
    assert [evaluate(tables.loaded("m", name), plan(tmp_path))[0].weights for name in ("nowhere", "")] == ["", ""]


def test_what_is_missing_is_an_error_before_anything_is_scored(tables, tmp_path):
    loaded, kept = tables.loaded(), []
    with pytest.raises(DataError, match="wds-gone"):
        evaluate(loaded, plan(tmp_path, "wds/pets", "wds/gone"), keep=kept.append)
    assert (kept, loaded.model.clip.rows) == ([], [])
    with pytest.raises(ConfigError, match="root: wds/pets needs the folder where it lies"):
        evaluate(loaded, plan(tmp_path, root=None))


def test_precision_and_batch_size_are_those_of_the_plan(tables, tmp_path):
    loaded = tables.loaded()
    (result,) = evaluate(loaded, plan(tmp_path, batch_size=3))
    assert loaded.model.clip.rows == [3, 1, 2]
    assert result.settings == {}
    seen = []
    loaded.model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    (result,) = evaluate(loaded, plan(tmp_path, precision="bf16"))
    assert seen == [True, True]
    assert result.settings == {"precision": "bf16"}


def test_the_plans_transform_goes_before_that_of_the_export(tables, tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    swap = torch.eye(3)[[1, 0, 2]].contiguous()
    Transform("swap", text_matrix=swap).save(export / "transform.safetensors")
    Transform("twice", text_matrix=torch.eye(3)).save(tmp_path / "t.safetensors")
    tables.images[2] = tables.images[1]  # now three of four are right
    (result,) = evaluate(tables.loaded("m", str(export)), plan(tmp_path))
    assert result.metrics["acc1"] == 0.25
    assert result.settings == {"transform": f"swap {file_hash(export / 'transform.safetensors')}"}
    (result,) = evaluate(tables.loaded("m", str(export)), plan(tmp_path, transform=tmp_path / "t.safetensors"))
    assert result.metrics["acc1"] == 0.75
    assert result.settings == {"transform": f"twice {file_hash(tmp_path / 't.safetensors')}"}
    with pytest.raises(ConfigError, match="transform: not with val, which repeats"):
        evaluate(tables.loaded("m", str(export)), plan(tmp_path, "val"), run=tmp_path)


def test_features_are_kept_by_weights_data_and_precision(tables, tmp_path):
    cache = tmp_path / "features"

    def embedded(loaded, **changes):
        loaded.model.clip.rows.clear()
        result = evaluate(loaded, plan(tmp_path, **changes), cache)[0]
        return len(loaded.model.clip.rows) - 1, result.metrics["acc1"]

    loaded = tables.loaded()
    assert embedded(loaded) == (1, 0.5)
    assert embedded(loaded) == (0, 0.5)
    assert embedded(loaded, precision="bf16") == (1, 0.5)
    assert len(list(cache.iterdir())) == 2
    with torch.no_grad():
        loaded.model.clip.images[2] = loaded.model.clip.images[1]
    assert embedded(loaded) == (1, 0.75)
    kept = {path: path.read_bytes() for path in cache.iterdir()}
    assert len(kept) == 3
    for path in kept:
        path.write_bytes(b"broken")
    assert embedded(loaded) == (1, 0.75)
    assert sum(path.read_bytes() == data for path, data in kept.items()) == 1
    tar = tmp_path / "wds-pets" / "test" / "0.tar"
    os.utime(tar, ns=(1, 1))
    assert embedded(loaded) == (1, 0.75)
    loaded.model.preprocess["interpolation"] = "bilinear"
    assert embedded(loaded) == (1, 0.75)


def test_the_cache_knows_what_was_left_out(tables, tmp_path):
    members = {"1a.png": b"no picture", "1a.cls": b"0"}
    for k, feature in enumerate(FEATURES):
        members |= {f"{k}.png": tables.png(feature), f"{k}.cls": str(k // 2).encode()}
    (tmp_path / "bad").mkdir()
    shard(tmp_path / "bad" / "test", dict(sorted(members.items())))
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (tmp_path / "bad" / name).write_text((tmp_path / "wds-pets" / name).read_text())
    asked = plan(tmp_path, root=str(tmp_path / "bad"), max_bad_fraction=0.2)
    first, second = (evaluate(tables.loaded(), asked, tmp_path / "features")[0] for _ in range(2))
    assert (first.num_samples, first.num_bad, first.metrics["acc1"]) == (4, 1, 0.5)
    assert second == replace(first, samples=second.samples)
    assert second.samples["acc1"].tolist() == first.samples["acc1"].tolist() == [1, 0, 1, 0]


def test_a_training_scores_data_sets_under_their_names(tables, tmp_path):
    loaded, polled = tables.loaded(), []
    loaded.model.train()
    asked = plan(tmp_path, "wds/pets", "wds/twice")
    scores = PlanEvaluation(loaded.tokenizer, asked).run(loaded.model, poll=lambda: polled.append(len(polled)))
    assert scores["wds/pets/acc1"] == scores["wds/twice/acc1"] == 0.5
    assert set(scores) == {
        f"wds/{n}/{metric}" for n in ("pets", "twice") for metric in evaluate(loaded, asked)[0].metrics
    }
    assert polled == [0, 1]
    assert loaded.model.training is False  # by the evaluation just above
    loaded.model.train()
    PlanEvaluation(loaded.tokenizer, asked).run(loaded.model)
    assert loaded.model.training is True


def test_models_between_two_others(tables, tmp_path):
    tuned, base = tables.loaded("tuned", "tuned weights"), tables.loaded("base", "base weights")
    with torch.no_grad():  # the base takes cats for dogs and dogs for cats
        base.model.clip.texts.copy_(tables.loaded().model.clip.texts[[0, 2, 1]])
    tables.images[2] = tables.images[1]
    for loaded in (tuned, base):
        loaded.model.clip.images.data[2] = loaded.model.clip.images.data[1]
    kept = []
    found = evaluate_between(base, tuned, [0.0, 0.25, 1.0], plan(tmp_path), kept.append)
    assert list(found) == ["alpha=0", "alpha=0.25", "alpha=1"]
    assert [r.metrics["acc1"] for (r,) in found.values()] == [0.25, 0.25, 0.75]
    assert kept == [r for (r,) in found.values()]
    assert [(r.model, r.pretrained, r.variant) for r in kept] == [
        ("tuned@0", "tuned weights", "0"),
        ("tuned@0.25", "tuned weights", "0.25"),
        ("tuned@1", "tuned weights", "1"),
    ]
    assert {r.settings["base"] for r in kept} == {"base base weights"}
    found = evaluate_between(replace(base, pretrained=str(tmp_path)), tuned, [1.5], plan(tmp_path))
    assert found["alpha=1.5"][0].settings == {"base": os.path.realpath(tmp_path)}
    middle = 1.5 * tuned_weights(tables) - 0.5 * tuned_weights(tables)[[0, 2, 1]]
    torch.testing.assert_close(tuned.model.clip.texts.data, middle)


def tuned_weights(tables):
    return tables.loaded().model.clip.texts.data


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    result = Result("six", "gap", {"x": 1.0})
    PartialState()
    save_on_main(tmp_path / "main", result)
    assert [r.metrics for r in load_results(tmp_path / "main")] == [{"x": 1.0}]
    monkeypatch.setattr(run, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    save_on_main(tmp_path / "other", result)
    assert not (tmp_path / "other").exists()


def test_names_stand_for_data_sets_each_once():
    names = dataset_names(EvalPlan(datasets=["dtd", "paper", "emoji", "dtd"]))
    assert names == ["dtd", "cifar10", "cifar100", "imagenet1k", "caltech101", "emoji"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": []}, r"datasets: \[\] does not work, it must be a list of data sets"),
        ({"tasks": []}, r"tasks: \[\] does not work, it must be a list of tasks"),
        ({"lambdas": []}, r"lambdas: \[\] does not work, it must be a list of numbers"),
        ({"datasets": ["emoji", "aokvqa"], "split": "val"}, "split: aokvqa has one split only, not 'val'"),
        ({"datasets": ["val"], "split": "val"}, "split: val has one split only"),
        ({"datasets": ["winoground"], "split": "test"}, "split: winoground has one split only"),
        ({"datasets": ["sugar_crepe/add_att"], "split": "test"}, "split: sugar_crepe/add_att has one split only"),
        ({"datasets": ["simat"], "split": "val"}, "split: simat has the splits dev and test, not 'val'"),
        ({"heads": Path("h")}, "heads: h is for simat only"),
        ({"datasets": ["pairs"]}, "data.path: "),
    ],
)
def test_plans_that_cannot_work(changes, message):
    tree = {"datasets": ["emoji"], "data": DataConfig(source="folder")}
    with pytest.raises(ConfigError, match=message):
        check_plan(EvalPlan(**tree | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "val"},
        {"datasets": ["simat"], "split": "dev", "heads": Path("h")},
        {"datasets": ["simat"], "split": "test"},
        {"datasets": ["aokvqa", "val", "winoground", "sugar_crepe/add_att"]},
    ],
)
def test_plans_that_work(changes):
    check_plan(EvalPlan(**changes))


def test_pairs_are_known_by_where_they_lie_and_which_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    data = DataConfig(source="folder", path="link", val_path="~/x::http://h/a.tar::pipe:cat", batch_size=7)
    home = os.path.realpath(Path.home())
    assert pairs_place(data) == f"{tmp_path.resolve()}/real, {home}/x::http://h/a.tar::pipe:cat"
    assert pairs_place(replace(data, path=None, karpathy="k.json")).endswith(f"pipe:cat, {tmp_path.resolve()}/k.json")
    assert absolute("a::b") == f"{tmp_path.resolve()}/a::{tmp_path.resolve()}/b"
    assert pairs_settings(data) == {}
    assert pairs_settings(replace(data, val_samples=9, csv_caption="words", workers=5)) == {
        "data.csv_caption": "words",
        "data.val_samples": 9,
    }
