"""Results side by side: which are of the same evaluation, and how sure a difference is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gapless.eval.compare import bootstrap_difference, bootstrap_error, columns, difference, evaluations, named
from gapless.eval.results import Result, save_result
from gapless.report.page import _result_tables
from gapless.report.runs import RunRecord
from tests.runs import run


def result(**changes) -> Result:
    made = Result("six", "zeroshot_classification", {"acc1": 0.5}, "m", "p", num_samples=4, split="test")
    return replace(made, **changes)


def test_comparison_marks_the_best_and_says_how_sure_it_is(tmp_path):
    hits = torch.zeros(100)
    for name, right in (("a", 60), ("b", 30)):
        hits[:right] = 1
        hits[right:] = 0
        metrics = {"acc1": right / 100, "centroid_distance": right / 50}
        result = Result("six", "zeroshot_classification", metrics, name, "x", samples={"acc1": hits.clone()})
        save_result(result, tmp_path / name)
    said = run("eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b"))
    line = next(line for line in said.splitlines() if " acc1" in line)
    assert "+0.3000 [+0.2" in line
    mean, low, high = bootstrap_difference(torch.cat([torch.ones(60), torch.zeros(40)]), torch.zeros(100))
    # The interval of a share of 0.6 among 100 is about 0.6 +- 1.96 sqrt(0.24 / 100).
    assert mean == pytest.approx(0.6)
    assert (low, high) == pytest.approx((0.504, 0.696), abs=0.012)


def scored(folder: Path, hits: list[float], **changes) -> Path:
    samples = torch.tensor(hits, dtype=torch.float32)
    save_result(
        result(metrics={"acc1": float(samples.mean())}, samples={"acc1": samples}, num_samples=len(hits), **changes),
        folder,
    )
    return folder


def test_other_splits_and_settings_are_not_put_side_by_side(tmp_path):
    val = {"settings": {"split": "val"}, "split": "val"}
    a, b = scored(tmp_path / "a", [1, 0, 1]), scored(tmp_path / "b", [0, 0, 1], **val)
    said = run("eval", "--compare", str(a), str(b), code=3)
    assert "no two models were scored at the same" in said
    assert "b: six zeroshot_classification (split val)" in said
    scored(a, [1, 1, 0], **val)
    said = run("eval", "--compare", str(a), str(b))
    assert "six zeroshot_classification (split val) acc1" in said
    assert "not compared: six zeroshot_classification, which only a" in said


def test_intervals_are_of_equal_sample_sets_only(tmp_path):
    a, b = scored(tmp_path / "a", [1, 0, 1], sample_set="x"), scored(tmp_path / "b", [0, 0, 1], sample_set="y")
    said = run("eval", "--compare", str(a), str(b))
    assert "interval" not in said
    assert "not over the same samples (a 3, b 3)" in said
    c = scored(tmp_path / "c", [0, 0, 1], sample_set="x")
    assert "a minus c, with its 95 % bootstrap interval" in run("eval", "--compare", str(a), str(c))


def test_models_of_one_name_stay_two_and_checkpoints_are_apart(tmp_path):
    a, b = tmp_path / "x" / "run", tmp_path / "y" / "run"
    for folder, hits in ((a, [1.0, 0, 1]), (b, [0.0, 0, 0])):
        scored(tmp_path / "all", hits, model="run", weights=str(folder / "export"))
        scored(folder / "results", hits, model="run", weights=str(folder / "export"))
    step = {"model": "run@step_00000004", "variant": "step_00000004"}
    scored(a / "results", [1, 1, 1], weights=str(a / "checkpoints" / "step_00000004"), **step)
    found = columns(named([tmp_path / "all"]))
    assert [r.metrics["acc1"] for results in found.values() for r in results] == [pytest.approx(2 / 3), 0.0]
    found = columns(named([a, b]))
    assert list(found) == [str(a), f"{a}@step_00000004", str(b)]
    (evaluation,) = evaluations(found)
    assert evaluation.metrics()["acc1"] == pytest.approx({str(a): 2 / 3, f"{a}@step_00000004": 1.0, str(b): 0.0})
    assert "a folder is named twice" in run("eval", "--compare", str(a), str(a), code=2)


def test_reports_have_a_table_for_each_setting_and_mark_nothing_over_other_samples(tmp_path):
    val = {"settings": {"split": "val"}, "split": "val"}
    for name, hits in (("a", [1, 0, 1]), ("b", [0, 0, 1])):
        scored(tmp_path / name / "results", hits, sample_set="x")
        scored(tmp_path / name / "results", [*hits, 1], sample_set=name, **val)
    runs = [RunRecord(name, tmp_path / name, {}, []) for name in ("a", "b")]
    test, other = sorted(_result_tables(runs), key=lambda table: len(table.title))
    assert test.title == "six: zeroshot classification"
    assert [(cell.text, cell.best) for cell in test.rows[0][1:]] == [("0.6667", True), ("0.3333", False)]
    assert other.title == "six: zeroshot classification (split val)"
    assert not any(cell.best for row in other.rows for cell in row)
    assert "cannot be compared" in other.note


def test_samples_of_a_group_are_drawn_together(tmp_path):
    hits = (torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.5).float().repeat_interleave(5)
    groups = torch.arange(60).repeat_interleave(5)
    mean, low, high = bootstrap_difference(hits, torch.zeros(300))
    same, lower, higher = bootstrap_difference(hits, torch.zeros(300), groups)
    assert same == mean == pytest.approx(float(hits.mean()))
    assert higher - lower == pytest.approx(5**0.5 * (high - low), rel=0.1)
    # Large groups count for more: the mean is over samples, not over groups.
    uneven = torch.tensor([1.0] * 9 + [0.0])
    assert bootstrap_difference(uneven, torch.zeros(10), torch.tensor([0] * 9 + [1]))[0] == pytest.approx(0.9)
    assert bootstrap_difference(uneven, torch.zeros(10), torch.zeros(10, dtype=torch.long)) == pytest.approx((0.9,) * 3)
    for name, values in (("a", hits), ("b", 0 * hits)):
        metrics = {"acc1": float(values.mean())}
        save_result(
            result(metrics=metrics, samples={"acc1": values}, groups={"acc1": groups}, num_samples=300), tmp_path / name
        )
    said = run("eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert f"{mean:+.4f} [{lower:+.4f}, {higher:+.4f}]" in said


def test_the_error_of_a_mean_is_the_one_of_its_samples():
    values = torch.rand(200, generator=torch.Generator().manual_seed(0))
    error, groups = bootstrap_error(values)
    assert (error, groups) == (pytest.approx(float(values.std()) / 200**0.5, rel=0.06), 200)
    assert bootstrap_error(values, torch.zeros(200, dtype=torch.long)) == (0.0, 1)


def test_the_interval_of_pseudo_values_is_around_the_difference_that_is_shown(tmp_path):
    one = result(metrics={"acc1": 0.75}, samples={"acc1": torch.tensor([0.5, 0.7, 0.9])})
    other = result(metrics={"acc1": 0.25}, samples={"acc1": torch.tensor([0.1, 0.2, 0.3])})
    _, low, high = bootstrap_difference(one.samples["acc1"], other.samples["acc1"])
    assert difference(one, other, "acc1") == pytest.approx((0.5, low, high))  # 0.7 - 0.2 is 0.5 already
    other.metrics["acc1"] = 0.3
    assert difference(one, other, "acc1") == pytest.approx((0.45, low - 0.05, high - 0.05))
