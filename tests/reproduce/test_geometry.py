"""The geometry of both papers, from the space to the files."""

import json
import logging
from pathlib import Path

import pytest
import torch

from gapless.errors import DataError
from gapless.report import Cell, Table
from gapless.report.panels import Panel, Series
from gapless.reproduce import emoji, geometry, grid
from gapless.reproduce.simulated import Simulated
from tests.reproduce.spaces import keep, texts


def simulated():
    curves = {"chart": {"line": ([0.0, 1.0], [2.0, 3.0]), "other": ([4.0], [5.0])}, "second": {"": ([0.0], [1.0])}}
    return Simulated({"a": 0.123456, "b": 2.0}, {"b": 0.5, "c": 9.0}, curves)


def test_simulations_are_small_where_it_is_quick(monkeypatch, tmp_path, caplog):
    asked, drawn = [], []
    entry = ("what it shows", lambda **settings: asked.append(settings) or simulated(), {"usual": 1}, {"small": 2})
    monkeypatch.setattr(geometry, "SIMULATIONS", {"one": entry, "two": entry})
    monkeypatch.setattr(geometry, "draw_panels", lambda panels, path: drawn.append((panels, path)))
    with caplog.at_level(logging.INFO):
        (table,) = geometry._simulations(("two",), tmp_path / "new", quick=True)
    geometry._simulations(("one",), tmp_path, quick=False)
    assert asked == [{"small": 2}, {"usual": 1}]
    assert caplog.messages[0] == "simulation two: what it shows"
    assert (table.title, table.header) == ("Simulation: what it shows", ["", "ours", "paper"])
    assert texts(table) == [["a", "0.1235", ""], ["b", "2", "0.5"]]
    panels = [
        Panel("chart", "", [Series("line", [0.0, 1.0], [2.0, 3.0], 0), Series("other", [4.0], [5.0], 1)]),
        Panel("second", "", [Series("", [0.0], [1.0], 0)]),
    ]
    assert drawn == [(panels, tmp_path / "new" / "two.png"), (panels, tmp_path / "one.png")]


@pytest.mark.parametrize(
    ("paper", "names"),
    [
        ("connect-collapse-corrupt", ("mlp-collapse", "two-spans", "stable-region")),
        (
            "bug-or-feature",
            ("plane", "plane-pairs", "sphere", "sphere-512", "flat", "warm", "high-dimension", "ablation"),
        ),
    ],
)
def test_a_paper_is_measured_on_the_last_embeddings_of_the_run(monkeypatch, tmp_path, paper, names):
    run, out = tmp_path / "run", tmp_path / "out"
    keep(run, 3, 0)
    x, y = keep(run, 12, 1)
    asked, written = [], []

    def tables(kind):
        def made(images, texts, last):
            torch.testing.assert_close(images, x)
            torch.testing.assert_close(texts, y)
            asked.append((kind, last))
            return [Table(kind, [], [])]

        return made

    monkeypatch.setattr(geometry, "connect_tables", tables("connect-collapse-corrupt"))
    monkeypatch.setattr(geometry, "bug_tables", tables("bug-or-feature"))
    monkeypatch.setattr(geometry, "_simulations", lambda *a: asked.append(a) or [Table("simulation", [], [])])
    monkeypatch.setattr(geometry, "_write", lambda *a: written.append(a))
    monkeypatch.setattr(geometry, "ordinary_clip", lambda output, quick: asked.append((output, quick)) or run)
    made = geometry.reproduce_geometry(paper, out)
    assert [table.title for table in made] == [paper, "simulation"]
    connect = paper.startswith("connect")
    assert asked == [(out / "runs", False), (paper, run if connect else 100), (names, out, False)]
    assert written == [(paper, out, made, run)]
    # A file of embeddings is of no run, and needs none.
    asked.clear()
    geometry.reproduce_geometry(paper, out, run / "embeddings" / "epoch_00012.safetensors", quick=True)
    assert asked == [(paper, None if connect else 5), (names, out, True)]
    assert written[1][3] is None
    asked.clear()
    geometry.reproduce_geometry(paper, out, run)
    assert asked == [(paper, run if connect else 100), (names, out, False)]
    assert written[2][3] == run


def test_an_ordinary_clip_is_fine_tuned_in_64_dimensions(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(
        grid, "run_training", lambda config: trained.append(config) or Path(config.output) / config.name
    )
    assert emoji.ordinary_clip(tmp_path, quick=False) == tmp_path / "clip"
    start, tuned = trained
    assert (start.name, start.output, start.model.name) == ("pretrain", str(tmp_path), "custom")
    assert (tuned.name, tuned.output, tuned.loss.preset, tuned.model.embed_dim) == ("clip", str(tmp_path), "clip", 64)
    assert tuned.model.name == f"local-dir:{tmp_path / 'pretrain' / 'export'}"
    assert (start.train.epochs > 3, tuned.train.epochs) == (True, 3)
    emoji.ordinary_clip(tmp_path, quick=True)
    assert [c.train.epochs for c in trained[2:]] == [1, 1]


def test_tables_are_written_with_a_page_where_there_is_a_run(monkeypatch, tmp_path, capsys, caplog):
    pages = []
    monkeypatch.setattr(geometry, "load_run", lambda run: f"run of {run}")
    monkeypatch.setattr(geometry, "write_report", lambda *arguments: pages.append(arguments))
    tables = [Table("One", ["", "a"], [[Cell("x"), Cell("1", best=True)]], "First."), Table("Two", [""], [])]
    out = tmp_path / "new"
    geometry._write("paper", out, tables, None)
    assert pages == []
    assert (out / "paper.md").read_text() == f"# paper\n\n{tables[0].section()}\n{tables[1].section()}"
    assert (out / "paper.tex").read_text() == f"{tables[0].latex()}\n{tables[1].latex()}"
    assert json.loads((out / "results.json").read_text()) == {"One": [["x", "1"]], "Two": []}
    shown = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert (shown[0], "First." in shown, "Two" in shown) == ("One", True, True)
    geometry._write("paper", out, tables, tmp_path)
    assert pages == [([f"run of {tmp_path}"], out / "report.html", "paper: geometry", tables)]

    def refuse(run):
        raise DataError("no metrics")

    monkeypatch.setattr(geometry, "load_run", refuse)
    geometry._write("paper", out, tables, tmp_path)
    assert "no page: no metrics" in caplog.text
