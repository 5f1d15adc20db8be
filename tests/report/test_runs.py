import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from gapless.errors import DataError
from gapless.report import Cell, load_run, write_report
from gapless.report.gallery import load_embedded
from gapless.report.page import final_table, setup_table
from gapless.report.runs import RunRecord, differences
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
    ("tail", "message"),
    [("not json\n{}\n", "line 4"), ('["no", "row"]\n', "line 4: not an object with an epoch")],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, tail, message):
    with pytest.raises(DataError, match=message):
        load_run(folder(tmp_path, tail=tail))


BAD_VALUES = ('"text"', "[1]", "NaN", "Infinity", "9" * 400, "true", "{}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((f'{{"epoch": 1, "val/x": {value}}}', "line 4: val/x is .*, not a number") for value in BAD_VALUES),
        *(
            (f'{{"epoch": {value}, "val/x": 1}}', "line 4: not an object with an epoch")
            for value in (*BAD_VALUES, "null")
        ),
        ('{"epoch": 1, "val/x": ' + "9" * 5000 + "}", "line 4: .*digits"),
        ("[" * 100_000, "line 4: .*recursion"),
        (b'{"epoch": 1, "note": "\xe9"}', "is not UTF-8"),
    ],
)
def test_damaged_metrics_are_one_line(tmp_path, line, message):
    place = folder(tmp_path)
    with (place / "metrics.jsonl").open("ab") as file:
        file.write((line if isinstance(line, bytes) else line.encode()) + b'\n{"epoch": 2}\n')
    with pytest.raises(DataError, match=message) as error:
        load_run(place)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    before = sorted(tmp_path.rglob("*"))
    run("report", str(place), f"--output={tmp_path / 'new' / 'r.html'}", code=3)
    assert sorted(tmp_path.rglob("*")) == before


def test_metrics_without_a_value_and_lines_within_texts_are_read(tmp_path):
    place = folder(tmp_path, tail='{"epoch": 2, "val/x": null, "note": "a\u2028b", "time": "now"}\n')
    assert load_run(place).rows[-1]["note"] == "a\u2028b"


@pytest.mark.parametrize(
    "config", [b"\xff", b"[" * 1200, b"- a", b"a: [", b"!!python/object:os.system x", b"1: {2: 3}"]
)
def test_a_damaged_configuration_is_none(tmp_path, config):
    place = folder(tmp_path)
    (place / "config.yaml").write_bytes(config)
    assert load_run(place).curve("train/loss") == [(1.0, 0.5)]


def test_embeddings_that_cannot_be_drawn_are_a_note(tmp_path):
    place = folder(tmp_path)
    (place / "embeddings").mkdir()
    good = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    for k, (image, text, keys) in enumerate([(good * torch.nan, good, []), (good, good[:5], []), (good, good, ["a"])]):
        for old in (place / "embeddings").iterdir():
            old.unlink()
        tensors = {"image": image, "text": text.clone(), "indices": torch.arange(6)}
        save_file(tensors, place / "embeddings" / f"epoch_{k:05d}.safetensors", {"keys": json.dumps(keys)})
        record = load_run(place)
        assert load_embedded(record) is None
        assert f"epoch_{k:05d}.safetensors" in record.notes[0]


def test_what_is_no_run_is_passed_over(tmp_path):
    place, output = folder(tmp_path), f"--output={tmp_path / 'r.html'}"
    (tmp_path / "run-1.log").write_text("log")
    (tmp_path / "run.sweep.json").write_text("{}")
    (tmp_path / "run-2").mkdir()
    printed = run(
        "report", *(str(tmp_path / name) for name in ("run-1.log", "run", "run.sweep.json", "run-2", "gone")), output
    )
    (line,) = [line for line in printed.splitlines() if "passed over" in line]
    assert all(name in line for name in ("run-1.log", "run.sweep.json", "run-2", "gone"))
    assert str(place) + "," not in line
    assert "is no run" in run("report", str(tmp_path / "run-1.log"), output, code=3)


@pytest.mark.parametrize("taken", ["r.html", "r.md", "r.tex"])
def test_a_report_replaces_no_folder(tmp_path, taken):
    place = folder(tmp_path)
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "kept").touch()
    before = sorted(tmp_path.rglob("*"))
    assert "Is a directory" in run("report", str(place), f"--output={tmp_path / 'r.html'}", code=3)
    assert sorted(tmp_path.rglob("*")) == before


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


def test_a_record_is_what_the_folder_holds(tmp_path):
    place = folder(tmp_path, optim={"lr": 0.5})
    (place / "embeddings").mkdir()
    (place / "embeddings" / "epoch_00002.safetensors").touch()
    link = tmp_path / "link"
    link.symlink_to(place)
    record = load_run(link)
    assert (record.name, record.folder, record.rows, record.notes) == ("run", link, LINES, [])
    assert record.config == {"name": "run", "seed": 1, "data.source": "emoji", "optim.lr": 0.5}
    assert record.embeddings == {2: link / "embeddings" / "epoch_00002.safetensors"}
    assert record.metrics == ["val/centroid_distance", "val/text_retrieval_recall@1", "train/loss"]


def test_a_curve_is_epochs_and_values_of_one_metric_and_zero_is_a_value():
    rows = [
        {"epoch": 0, "val/a": 0, "val/b": 5.0},
        {"epoch": 1, "val/a": None, "val/b": 6.0},
        {"epoch": 1.5, "val/a": 2},
    ]
    record = RunRecord("r", None, {}, rows)
    assert record.curve("val/a") == [(0.0, 0.0), (1.5, 2.0)]
    assert record.curve("val/b") == [(0.0, 5.0), (1.0, 6.0)]
    assert record.curve("val/c") == []


def test_data_are_named_by_what_the_evaluated_pairs_depend_on(tmp_path):
    def data(**config):
        return RunRecord("r", None, {key.replace("__", "."): value for key, value in config.items()}, []).data

    whole = {
        "data__source": "coco",
        "data__path": "/p",
        "data__val_path": "/v",
        "data__val_captions": "first",
        "eval__split": "test",
        "data__val_samples": 40,
        "data__train_samples": 9,
        "seed": 3,
        "optim__lr": 1,
    }
    assert data(**whole) == "coco, /p, /v, first, test, 40 pairs"
    assert data(**(whole | {"eval__split": "train"})) == "coco, /p, /v, first, train, 9 pairs, seed 3"
    assert data() == ""


def test_differences_are_of_all_runs_and_names_aside():
    runs = [
        RunRecord(name, None, {"name": name, "output": name, "a": 1, "b": b, **more}, [])
        for name, b, more in (("x", 1, {}), ("y", 1, {}), ("z", 2, {"c": None}), ("w", 1, {"d": 0}))
    ]
    assert differences(runs) == {"b": [1, 1, 2, 1], "d": [None, None, None, 0]}


def test_long_values_are_cut(tmp_path):
    place = folder(tmp_path)
    (place / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "val/x": "y" * 100}) + "\n")
    with pytest.raises(DataError) as error:
        load_run(place)
    assert str(error.value) == f"{place / 'metrics.jsonl'}, line 1: val/x is '{'y' * 76}..., not a number"
    (place / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "val/x": "y" * 77}) + "\n")
    with pytest.raises(DataError) as error:
        load_run(place)
    assert f"val/x is '{'y' * 77}', not a number" in str(error.value)
