"""From a space to the geometry tables: which side, which noise and which alpha a cell is of."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gapless.errors import DataError
from gapless.geometry import effective_dimension
from gapless.geometry.robustness import Robustness
from gapless.report import Cell, Table
from gapless.report.panels import Panel, Series
from gapless.reproduce.bug_or_feature import experiment
from gapless.reproduce.simulated import Simulated


def cloud(n=12, seed=0):
    """Images in one dimension more than texts."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, 5, generator=generator), dim=1)
    y = torch.randn(n, 5, generator=generator)
    y[:, 0] = 2.0
    y[:, 1] = 0.0
    return x, F.normalize(y, dim=1)


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_table_1_has_both_definitions_beside_the_paper(monkeypatch):
    asked = []

    def statistics(x, y, group, definition):
        asked.append((len(x), y is texts_, group))
        base = {"paper": 0.0, "code": 0.5}[definition]
        return {
            f"{name}_{part}": base + k / 10 + (0.01 if part == "std" else 0)
            for k, name in enumerate(
                ("gap_length", "gap_direction", "gap_orthogonality", "noise_mean", "noise_direction")
            )
            for part in ("mean", "std")
        }

    images, texts_ = cloud(60)
    monkeypatch.setattr(experiment, "gap_statistics", statistics)
    table = experiment._statistics(images, texts_)
    assert asked == [(60, True, 20)] * 2
    assert table.title == "Table 1: the gap is a constant, orthogonal vector with noise around it"
    assert table.header == ["", "ours", "ours, as its code computes", "paper"]
    assert texts(table) == [
        ["length of the gap", "0.000 ± 0.010", "0.500 ± 0.510", "0.830 ± 0.010"],
        ["cosine of two groups' gaps", "0.100 ± 0.110", "0.600 ± 0.610", "0.990 ± 0.000"],
        ["cosine of gap and image differences", "0.200 ± 0.210", "0.700 ± 0.710", "0.000 ± 0.060"],
        ["mean of the noise", "0.300 ± 0.310", "0.800 ± 0.810", "0.000 ± 0.000"],
        ["cosine of two pairs' noise", "0.400 ± 0.410", "0.900 ± 0.910", "0.000 ± 0.100"],
    ]
    assert table.note == (
        "Mean and standard deviation; ours over groups of 20 of 60 pairs. Paper: CLIP ViT-B/32 on COCO."
    )
    monkeypatch.setattr(
        experiment,
        "gap_statistics",
        lambda x, y, group, definition: asked.append(group) or statistics(x, y, group, definition),
    )
    images, texts_ = cloud(600)
    experiment._statistics(images, texts_)
    assert asked[2] == 100


def kept(folder, epoch, seed):
    (folder / "embeddings").mkdir(parents=True, exist_ok=True)
    x, y = cloud(20, seed)
    save_file({"image": x, "text": y}, folder / "embeddings" / f"epoch_{epoch:05d}.safetensors")
    return x, y


def test_figure_3_is_by_epoch(tmp_path):
    sides = [kept(tmp_path, epoch, seed) for epoch, seed in ((0, 1), (7, 2))]
    (table,) = experiment._dimensions(tmp_path)
    assert table.title == "Figure 3: effective dimensions (99 %)"
    assert table.header == ["", "images", "texts", "of"]
    expected = [[str(effective_dimension(x)), str(effective_dimension(y)), "5"] for x, y in sides]
    assert expected[0][0] != expected[0][1]
    assert texts(table) == [
        ["after epoch 0", *expected[0]],
        ["after epoch 7", *expected[1]],
        ["paper: CLIP at initialisation", "25", "230", "512"],
    ]


@pytest.fixture
def measured(monkeypatch):
    """Robustness and the gap without computing them; values tell alpha and what was measured."""
    asked = []

    def gap(x, y, method, alpha, epsilon):
        asked.append(("gap", x is images, y is texts_, method, alpha, epsilon))
        return SimpleNamespace(text_shift=f"gap {epsilon}", fit={"share_of_gap": 1 - epsilon})

    def curve(alphas):
        return Robustness(
            tuple(alphas),
            tuple(a + 10 for a in alphas),
            (),
            tuple(a + 20 for a in alphas),
            tuple(a + 30 for a in alphas),
        )

    def robustness(x, y, gap, alphas, sigma, draws, family="gaussian", labels=None):
        asked.append((x is images, y is texts_, gap, tuple(alphas), sigma, draws, family, labels.tolist()))
        return curve(alphas)

    def quantisation(x, y, gap, quantiser, alphas, labels):
        asked.append(
            (x is images, y is texts_, gap, quantiser.keywords, quantiser.func.__name__, alphas, labels.tolist())
        )
        return curve(alphas)

    images, texts_ = cloud()
    monkeypatch.setattr(experiment, "close_gap", gap)
    monkeypatch.setattr(experiment, "robustness", robustness)
    monkeypatch.setattr(experiment, "quantisation_robustness", quantisation)
    return images, texts_, asked


HEADER = ["robustness, gap open", "closed", "accuracy, gap open", "closed"]
CELLS = ["10.000", "11.000", "20.000", "21.000"]
ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
LABELS = list(range(12))


def test_figure_8_is_by_deviation(measured):
    images, texts_, asked = measured
    table = experiment._curves(images, texts_, 7)
    assert asked == [
        ("gap", True, True, "approximate", 1.0, 0.05),
        *((True, True, "gap 0.05", ALPHAS, sigma, 7, "gaussian", LABELS) for sigma in (0.0125, 0.025, 0.05)),
    ]
    assert (table.title, table.header) == ("Figure 8: Gaussian noise", ["deviation", *HEADER])
    assert texts(table) == [[sigma, *CELLS] for sigma in ("0.0125", "0.025", "0.05")]
    assert table.note == ("Image to text among 12; 0.95 of the gap is moved. Paper: robustness rises, accuracy stays.")


def test_figure_14_is_by_family(measured):
    images, texts_, asked = measured
    table = experiment._families(images, texts_, 7)
    families = ["gaussian", "uniform", "laplace", "rademacher", "student"]
    assert asked[1:] == [(True, True, "gap 0.05", (0.0, 1.0), 0.025, 7, family, LABELS) for family in families]
    assert (table.title, table.header) == ("Figure 14: families of noise", ["noise", *HEADER])
    assert texts(table) == [[family, *CELLS] for family in families]
    assert table.note == "All with deviation 0.025. Paper: the family makes no difference."


def test_figures_18_and_19_are_by_epsilon(measured):
    images, texts_, asked = measured
    table = experiment._epsilons(images, texts_, 7)
    assert asked == [
        row
        for epsilon in (0.01, 0.05, 0.1, 0.2)
        for row in (
            ("gap", True, True, "approximate", 1.0, epsilon),
            (True, True, f"gap {epsilon}", (0.0, 1.0), 0.025, 7, "gaussian", LABELS),
        )
    ]
    assert (table.title, table.header) == ("Figures 18 and 19: Algorithm 1 by epsilon", ["epsilon", *HEADER])
    assert texts(table) == [
        [f"{epsilon} ({share} of the gap)", *CELLS]
        for epsilon, share in (("0.01", "0.99"), ("0.05", "0.95"), ("0.1", "0.90"), ("0.2", "0.80"))
    ]
    assert table.note == (
        "Share of the texts' variance that the move may touch. Paper: below one point of accuracy lost at 0.05."
    )


def test_figure_9_is_by_levels(measured):
    images, texts_, asked = measured
    table = experiment._quantisation(images, texts_)
    assert asked[1:] == [
        (True, True, "gap 0.05", {"levels": levels}, "quantise", (0.0, 0.5, 1.0), LABELS)
        for levels in (64, 128, 256, 512)
    ]
    assert (table.title, table.header) == ("Figure 9: quantisation", ["levels", *HEADER])
    assert texts(table) == [[levels, *CELLS] for levels in ("64", "128", "256", "512")]
    assert (
        table.note == "Images and moved texts on so many levels of [-3, 3]. Paper: robustness rises as the gap closes."
    )


def simulated():
    curves = {"chart": {"line": ([0.0, 1.0], [2.0, 3.0]), "other": ([4.0], [5.0])}, "second": {"": ([0.0], [1.0])}}
    return Simulated({"a": 0.123456, "b": 2.0}, {"b": 0.5, "c": 9.0}, curves)


def test_simulations_are_small_where_it_is_quick(monkeypatch, tmp_path, caplog):
    asked, drawn = [], []
    entry = ("what it shows", lambda **settings: asked.append(settings) or simulated(), {"usual": 1}, {"small": 2})
    monkeypatch.setattr(experiment, "SIMULATIONS", {"one": entry, "two": entry})
    monkeypatch.setattr(experiment, "draw_panels", lambda panels, path: drawn.append((panels, path)))
    with caplog.at_level(logging.INFO):
        (table,) = experiment._simulations(("two",), tmp_path / "new", quick=True)
    experiment._simulations(("one",), tmp_path, quick=False)
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
    ("paper", "parts", "names"),
    [
        ("connect-collapse-corrupt", ["statistics", "dimensions"], ("mlp-collapse", "two-spans", "stable-region")),
        (
            "bug-or-feature",
            ["curves 100", "families 100", "epsilons 100", "quantisation"],
            ("plane", "sphere", "flat", "warm", "high-dimension", "ablation"),
        ),
    ],
)
def test_which_tables_a_paper_has(monkeypatch, tmp_path, paper, parts, names):
    run = tmp_path / "run"
    kept(run, 3, 0)
    x, y = kept(run, 12, 1)

    def part(name):
        def made(*arguments):
            if name != "dimensions":
                torch.testing.assert_close(arguments[0], x)
                torch.testing.assert_close(arguments[1], y)
            else:
                assert arguments == (run,)
            table = Table(" ".join([name, *map(str, arguments[2:])]), [], [])
            return [table] if name == "dimensions" else table

        return made

    for name in ("statistics", "dimensions", "curves", "families", "epsilons", "quantisation"):
        monkeypatch.setattr(experiment, f"_{name}", part(name))
    asked, written = [], []
    monkeypatch.setattr(
        experiment, "_simulations", lambda *arguments: asked.append(arguments) or [Table("simulation", [], [])]
    )
    monkeypatch.setattr(experiment, "_write", lambda *arguments: written.append(arguments))
    monkeypatch.setattr(experiment, "emoji_model", lambda output, quick: asked.append((output, quick)) or run)
    out = tmp_path / "out"
    tables = experiment.reproduce_geometry(paper, out)
    assert [table.title for table in tables] == [*parts, "simulation"]
    assert asked == [(out / "runs", False), (names, out, False)]
    assert written == [(paper, out, tables, run)]
    # A file of embeddings is of no run, and needs none.
    asked.clear()
    file = run / "embeddings" / "epoch_00012.safetensors"
    tables = experiment.reproduce_geometry(paper, out, file, quick=True)
    quick = [title.replace("100", "5") for title in parts if title != "dimensions"]
    assert [table.title for table in tables] == [*quick, "simulation"]
    assert asked == [(names, out, True)]
    assert written[1] == (paper, out, tables, None)
    asked.clear()
    experiment.reproduce_geometry(paper, out, run)
    assert (asked, written[2][3]) == ([(names, out, False)], run)


def test_an_ordinary_clip_is_fine_tuned_in_64_dimensions(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(
        experiment, "run_training", lambda config: trained.append(config) or Path(config.output) / config.name
    )
    assert experiment.emoji_model(tmp_path, quick=False) == tmp_path / "clip"
    start, tuned = trained
    assert (start.name, start.output, start.model.name) == ("pretrain", str(tmp_path), "custom")
    assert (tuned.name, tuned.output, tuned.loss.preset, tuned.model.embed_dim) == ("clip", str(tmp_path), "clip", 64)
    assert tuned.model.name == f"local-dir:{tmp_path / 'pretrain' / 'export'}"
    assert (start.train.epochs > 3, tuned.train.epochs) == (True, 3)
    experiment.emoji_model(tmp_path, quick=True)
    assert [c.train.epochs for c in trained[2:]] == [1, 1]


def test_tables_are_written_with_a_page_where_there_is_a_run(monkeypatch, tmp_path, capsys, caplog):
    pages = []
    monkeypatch.setattr(experiment, "load_run", lambda run: f"run of {run}")
    monkeypatch.setattr(experiment, "write_report", lambda *arguments: pages.append(arguments))
    tables = [Table("One", ["", "a"], [[Cell("x"), Cell("1", best=True)]], "First."), Table("Two", [""], [])]
    out = tmp_path / "new"
    experiment._write("paper", out, tables, None)
    assert pages == []
    assert (out / "paper.md").read_text() == f"# paper\n\n{tables[0].section()}\n{tables[1].section()}"
    assert (out / "paper.tex").read_text() == f"{tables[0].latex()}\n{tables[1].latex()}"
    assert json.loads((out / "results.json").read_text()) == {"One": [["x", "1"]], "Two": []}
    shown = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert (shown[0], "First." in shown, "Two" in shown) == ("One", True, True)
    experiment._write("paper", out, tables, tmp_path)
    assert pages == [([f"run of {tmp_path}"], out / "report.html", "paper: geometry", tables)]

    def refuse(run):
        raise DataError("no metrics")

    monkeypatch.setattr(experiment, "load_run", refuse)
    experiment._write("paper", out, tables, tmp_path)
    assert "no page: no metrics" in caplog.text
