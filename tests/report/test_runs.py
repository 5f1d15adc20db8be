import json

import pytest
import yaml

from gapless.errors import DataError
from gapless.report import Cell, load_run, write_report
from gapless.report.page import final_table, setup_table
from tests.runs import run

LINES = [
    {"step": 0, "epoch": 0, "val/centroid_distance": 1.0, "val/text_retrieval_recall@1": 0.1},
    {"step": 2, "epoch": 1, "train/loss": 0.5},
    {"step": 2, "epoch": 1, "val/centroid_distance": 0.25, "val/text_retrieval_recall@1": 0.5},
]


def folder(tmp_path, name="run", lines=LINES, tail="", **config):
    place = tmp_path / name
    place.mkdir()
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    (place / "config.yaml").write_text(yaml.safe_dump({"name": name, "seed": 1, "data": {"source": "emoji"}} | config))
    return place


def test_a_half_written_last_line_is_left_out_and_told(tmp_path):
    record = load_run(folder(tmp_path, tail='{"step": 4, "epo'))
    assert record.curve("val/centroid_distance") == [(0.0, 1.0), (1.0, 0.25)]
    assert record.curve("train/loss") == [(1.0, 0.5)]
    assert "half-written" in record.notes[0]
    write_report([record], tmp_path / "out" / "report.html")
    assert "half-written" in (tmp_path / "out" / "report.html").read_text()
    assert "half-written" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("tail", "told"),
    [("not json\n{}\n", "line 4"), ('["no", "row"]\n{}\n', "line 4: not an object with an epoch")],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, tail, told):
    with pytest.raises(DataError, match=told):
        load_run(folder(tmp_path, tail=tail))


def test_folders_that_are_no_runs(tmp_path):
    assert "is no run: metrics.jsonl cannot be read" in run("report", str(tmp_path), code=3)
    empty = folder(tmp_path, lines=[])
    assert "has no metrics yet" in run("report", str(empty), code=3)
    assert "must end in .html" in run("report", str(empty), "--output", "report.pdf", code=2)


def test_runs_of_different_data_are_shown_as_such_and_none_is_best(tmp_path):
    first, second = load_run(folder(tmp_path, "a")), load_run(folder(tmp_path, "b", lines=LINES[:1]))
    same = final_table([first, second])
    assert [row[1] for row in same.rows] == [Cell("0.250", True), Cell("1.000", False)]
    other = load_run(folder(tmp_path, "c", data={"source": "coco", "path": "x"}))
    table = final_table([first, other])
    assert "different data" in table.note
    assert not any(cell.best for row in table.rows for cell in row)
    assert [row[-2].text for row in table.rows] == ["emoji", "coco, x"]


def test_only_differences_of_the_configurations_are_shown(tmp_path):
    runs = [load_run(folder(tmp_path, name, seed=seed)) for name, seed in (("a", 1), ("b", 2))]
    assert [[cell.text for cell in row] for row in setup_table(runs).rows] == [["seed", "1", "2"]]
    same = load_run(folder(tmp_path, "c"))
    assert "are the same" in setup_table([runs[0], same]).note
    (tmp_path / "c" / "config.yaml").unlink()
    assert "No config.yaml: c" in setup_table([runs[0], load_run(tmp_path / "c")]).note


def test_training_pairs_of_another_subset_are_other_data(tmp_path):
    subset = {"eval": {"split": "train"}, "data": {"source": "emoji", "train_samples": 64}}
    records = [load_run(folder(tmp_path, name, seed=seed, **subset)) for name, seed in (("a", 1), ("b", 2))]
    assert [record.data for record in records] == ["emoji, train, 64 pairs, seed 1", "emoji, train, 64 pairs, seed 2"]
    whole = {"eval": {"split": "train"}, "data": {"source": "emoji", "train_samples": None}}
    assert load_run(folder(tmp_path, "c", seed=3, **whole)).data == "emoji, train"
