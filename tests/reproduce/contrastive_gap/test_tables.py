"""From scores to the paper's tables: which objective, seed and column a cell is of, and which one is bold."""

import json
from pathlib import Path

import pytest
import torch

from gapless.config import Config, with_changes
from gapless.report import Column
from gapless.reproduce.contrastive_gap import experiment
from gapless.reproduce.contrastive_gap.claims import claim_tables
from gapless.reproduce.contrastive_gap.editions import Edition
from gapless.reproduce.contrastive_gap.published import GAP, TABLES, PaperTable
from gapless.reproduce.contrastive_gap.tables import beside, paper_tables, tables_of_logs
from gapless.reproduce.grid import Member
from gapless.reproduce.scored import Scored
from gapless.reproduce.statistics import Estimate


def scored(**numbers):
    return Scored(numbers, {}, {}, {})


def by_key(tree):
    return {key: Scored(numbers, {}, {}, {}) for key, numbers in tree.items()}


NUMBERS = {
    ("clip", 128, 42): {"linear_separability": 0.9, "centroid_distance": 0.5, "text_retrieval_recall@1": 0.25},
    ("clip", 128, 24): {"linear_separability": 0.7, "centroid_distance": 0.75, "text_retrieval_recall@1": 0.5},
    ("cua", 128, 42): {"linear_separability": 0.6, "centroid_distance": 0.125, "text_retrieval_recall@1": 0.125},
    ("cua", 128, 24): {"linear_separability": 0.6, "centroid_distance": 0.25},
    ("cuaxu", 128, 7): {"linear_separability": 0.5, "centroid_distance": 0.375},
    ("cua", 32, 42): {"linear_separability": 0.0, "centroid_distance": 0.0, "text_retrieval_recall@1": 1.0},
}
"""A seed more of clip than of cuaxu, and another dimension, which is perfect."""
SCORES = by_key(NUMBERS)


BOLD = "Bold: better than both others by 95 % intervals."


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def bold(table):
    return [[cell.text for cell in row if cell.best] for row in table.rows]


def edition(**changes):
    return Edition(
        **({"name": "coco", "members": [], "identical": [], "three_d": [], "starts": []} | changes),
        zero_shot=("cifar10", "dtd"),
    )


def test_ours_stand_beside_the_papers_with_the_best_in_bold():
    published = [
        [Estimate(1.0, 0.0), Estimate(0.664, 0.034)],
        [Estimate(0.73, 0.01), Estimate(0.08, 0.02)],
        [Estimate(0.83, 0.02), Estimate(-3.6)],
    ]
    table = beside(PaperTable("Table: gap", 128, GAP, published, "Note."), SCORES)
    assert table.title == "Table: gap, d = 128"
    assert table.header == ["", "linear separability", "paper", "centroid distance", "paper"]
    assert texts(table) == [
        ["clip", "0.800 ± 0.100", "1.00 ± 0.00", "0.625 ± 0.125", "0.66 ± 0.03"],
        ["cua", "0.600 ± 0.000", "0.73 ± 0.01", "0.188 ± 0.062", "0.08 ± 0.02"],
        ["cuaxu", "0.500", "0.83 ± 0.02", "0.375", "-3.6"],
    ]
    assert bold(table) == [[], [], []]  # two seeds and one are sure of nothing
    assert table.note == f"Ours: n = 3 (seeds 7, 24, 42), mean ± standard error. {BOLD} Note."


def test_the_best_recall_is_the_highest_and_what_is_missing_says_so():
    columns = [Column("text_retrieval_recall@1", "I→T R@1", "high"), Column("simat", "score", "high")]
    table = beside(PaperTable("Table", 128, columns, [[Estimate(0.5)], [Estimate(0.25)], [Estimate(0.125)]]), SCORES)
    assert table.header == ["", "I→T R@1", "paper", "score"]
    assert texts(table) == [
        ["clip", "0.375 ± 0.125", "0.5", "missing"],
        ["cua", "0.125", "0.25", "missing"],
        ["cuaxu", "missing", "0.125", "missing"],
    ]
    assert table.note == f"Ours: n = 3 (seeds 7, 24, 42), mean ± standard error. {BOLD}"


@pytest.mark.parametrize(
    ("cua", "best"),
    [((0.125, 0.15, 0.0625), "cua"), ((0.25, 0.5, 0.75), ""), ((0.8, 0.9, 1.0), "cuaxu"), ((0.37, 0.31, 0.2), "")],
)
def test_the_best_is_bold_where_it_is_surely_better_than_every_other(cua, best):
    lines = {"clip": (0.75, 0.8, 0.7), "cua": cua, "cuaxu": (0.375, 0.3125, 0.25)}
    scores = by_key({(o, 128, s): {"centroid_distance": v} for o, line in lines.items() for s, v in enumerate(line)})
    table = beside(PaperTable("Table", 128, GAP[1:], []), scores)
    assert [row[0].text for row, cells in zip(table.rows, bold(table), strict=True) if cells] == [best] * bool(best)


def test_the_error_of_the_test_set_can_make_a_tie():
    def line(hits):
        numbers = {"text_retrieval_recall@1": sum(hits) / len(hits)}
        return Scored(numbers, {"text_retrieval_recall@1": torch.tensor(hits)}, {}, {})

    columns = [Column("text_retrieval_recall@1", "R@1", "high")]
    for n, best in ((4, [[], [], []]), (4000, [[], ["0.750 ± 0.000"], []])):
        hits = {"clip": [1.0, 0.0, 0.0, 0.0], "cua": [1.0, 1.0, 1.0, 0.0], "cuaxu": [0.0, 0.0, 0.0, 1.0]}
        scores = {(o, 128, s): line(h * (n // 4)) for o, h in hits.items() for s in (1, 2, 3)}
        assert bold(beside(PaperTable("Table", 128, columns, []), scores)) == best


def test_a_dimension_that_was_not_run_is_missing():
    table = beside(PaperTable("Table", 64, GAP, []), SCORES)
    assert texts(table) == [[name, "missing", "missing"] for name in ("clip", "cua", "cuaxu")]
    assert (bold(table), table.header) == ([[], [], []], ["", "linear separability", "centroid distance"])
    assert table.note == f"Ours: n = 0 (seeds ), mean ± standard error. {BOLD}"


def test_which_tables_a_grid_fills():
    zero_shot = {
        "cifar10/acc1": 0.5,
        "dtd/acc1": 0.25,
        "zero_shot/acc1": 0.375,
        "effective_dim_image": 7,
        "effective_dim_text": 9,
    }
    scores = {("clip", 16, 42): {"centroid_distance": 0.5}, ("cua", 128, 42): zero_shot, ("cua", 16, 24): zero_shot}
    tables = {table.title: table for table in paper_tables(edition(), by_key(scores))}
    assert list(tables) == [
        *(f"{table.title}, d = {table.dimension}" for table in TABLES),
        "Table 11: zero-shot accuracy, d = 128",
        *("Gap, d = 16", "Figure 3: zero-shot accuracy, averaged, d = 16"),
        "Figures 2 and 4: components that hold 99 % of the variance, d = 16",
        "Figures 2 and 4: components that hold 99 % of the variance, d = 128",
    ]
    per_set = tables["Table 11: zero-shot accuracy, d = 128"]
    assert per_set.header == ["", "cifar10", "paper", "dtd", "paper"]
    assert texts(per_set)[1] == ["cua", "0.500", "0.78 ± 0.01", "0.250", "0.10 ± 0.01"]
    assert per_set.note == f"Ours: n = 1 (seeds 42), mean ± standard error. {BOLD}"
    assert texts(tables["Gap, d = 16"]) == [
        ["clip", "missing", "0.500"],
        *(["cua", "missing", "missing"], ["cuaxu", "missing", "missing"]),
    ]
    assert texts(tables["Figure 3: zero-shot accuracy, averaged, d = 16"])[1] == ["cua", "0.375"]
    variance = tables["Figures 2 and 4: components that hold 99 % of the variance, d = 16"]
    assert (variance.header, texts(variance)[1]) == (["", "images", "texts"], ["cua", "7.000", "9.000"])
    assert bold(variance) == [[], [], []]  # a dimension is a description
    assert variance.note.endswith("The paper draws the cumulative curves, as the report does.")


def test_data_sets_that_the_paper_did_not_use_have_no_number_of_it():
    others = Edition("emoji", [], [], [], [], ("emoji_group", "dtd"))
    scores = by_key({("cuaxu", 128, 42): {"emoji_group/acc1": 0.5}})
    (table,) = [t for t in paper_tables(others, scores) if t.title.startswith("Table 11")]
    assert table.header[1] == "emoji_group"
    assert table.note.endswith("The paper's data sets are others.")


def test_the_papers_numbers_stand_with_their_objective():
    tables = {table.title: table for table in paper_tables(edition(), {})}
    loss = tables["Table 3: loss values, d = 128"]
    assert loss.header == [
        "",
        *(t for name in ("uniformity", "cross-uniformity", "alignment") for t in (name, "paper")),
    ]
    assert [row[2::2] for row in texts(loss)] == [
        ["-2.02", "-2.79", "0.82"],
        ["-3.64", "-3.68", "0.54"],
        ["-3.76", "-3.81", "0.69"],
    ]
    recall = tables["Tables 4 and 10: retrieval, one caption for each image, d = 128"]
    assert recall.header[1::2] == [f"{way} R@{k}" for way in ("I→T", "T→I") for k in (1, 5, 10)]
    assert texts(recall)[0][2::2] == [f"{v:.2f} ± 0.00" for v in (0.28, 0.57, 0.7, 0.27, 0.56, 0.69)]
    assert [row[2] for row in texts(tables["Table 6: image arithmetic (SIMAT, strength 1), d = 128"])] == [
        *("36.02", "42.18", "42.47")
    ]
    assert [row[4] for row in texts(tables["Table 7: gap, d = 32"])] == ["0.10 ± 0.01", "0.07 ± 0.01", "0.12 ± 0.03"]


def run_of(tmp_path, name, rows, **labels):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Member(with_changes(Config(), name=name, output=str(tmp_path)), labels=labels)


def test_identical_encoders_and_three_dimensions_from_their_logs(tmp_path):
    rows = [
        {"epoch": 0, "val/centroid_distance": 0.0, "val/linear_separability": 0.5},
        {"epoch": 1, "train/loss": 4.0, "val/centroid_distance": 0.03125},
        {"epoch": 2, "train/loss": 1.0, "val/centroid_distance": 0.0625, "val/linear_separability": 0.875},
    ]
    cold = run_of(tmp_path, "cold", rows, temperature="0.01")
    warm = run_of(tmp_path, "warm", [{"epoch": 0, "val/centroid_distance": 0.25}], temperature="0.07")
    gone = Member(with_changes(Config(), name="gone", output=str(tmp_path)), labels={"temperature": "1"})
    sphere = [
        {"epoch": 0, "val/centroid_distance": 1.5, "val/text_retrieval_recall@1": 0.25},
        {"epoch": 2.5, "val/centroid_distance": 0.5, "val/text_retrieval_recall@1": 0.75},
        {"epoch": 3, "val/image_retrieval_recall@1": 0.9},
    ]
    three = run_of(tmp_path, "three", sphere)
    tables = tables_of_logs(edition(identical=[warm, cold, gone], three_d=[three, gone]))
    assert [table.title for table in tables] == [*("Table 1: identical encoders", "Figure 1: CLIP in three dimensions")]
    assert tables[0].header == [
        "",
        *(
            f"{name}, {when}"
            for name in ("centroid distance", "linear separability", "loss")
            for when in ("before", "after")
        ),
    ]
    assert texts(tables[0]) == [
        ["paper", "0.00", "0.06", "0.50", "1.00", "4.83", "0.00"],
        ["ours, temperature 0.07", "0.250", "0.250", "-", "-", "-", "-"],
        ["ours, temperature 0.01", "0.000", "0.062", "0.500", "0.875", "4.000", "1.000"],
    ]
    assert tables[0].note == (
        "The same images on both sides, no gap at the start; the loss is that of the first and the last batch."
    )
    assert tables[1].header == ["epoch", "I→T R@1", "centroid distance"]
    assert texts(tables[1]) == [["0", "0.250", "1.500"], ["2.5", "0.750", "0.500"]]
    assert tables[1].note == (
        "Paper: the clouds begin apart, become arcs, then rings, and fill the sphere by epoch 275."
    )
    assert tables_of_logs(edition(identical=[gone], three_d=[gone])) == []


def test_results_go_to_files_by_their_key_and_the_page_shows_the_first_seed(tmp_path, monkeypatch, capsys):
    pages = []
    monkeypatch.setattr(
        experiment,
        "write_report",
        lambda runs, path, title, tables: pages.append(([r.name for r in runs], path, title, tables)),
    )
    row = [{"epoch": 0, "val/alignment": 1.0}]
    members = [run_of(tmp_path, f"run{seed}", row, seed=seed) for seed in (24, 42, 44)]
    gone = Member(with_changes(Config(), name="gone", output=str(tmp_path)), labels={"seed": 42})
    grid = edition(
        members=[*members, gone], identical=[run_of(tmp_path, "twin", row)], three_d=[run_of(tmp_path, "three", row)]
    )
    tables = [beside(PaperTable("One", 128, GAP, [], "First."), SCORES), *claim_tables(grid, {})]
    output = tmp_path / "out"
    experiment._write(output, grid, SCORES, tables)
    title = "The contrastive gap, coco edition"
    assert pages == [(["twin", "three", "run24"], output / "report.html", title, tables)]
    assert (output / "contrastive-gap.md").read_text() == f"# {title}\n\n{tables[0].section()}"
    assert (output / "contrastive-gap.tex").read_text() == tables[0].latex()
    results = json.loads((output / "results.json").read_text())
    assert results == {"-".join(map(str, key)): values for key, values in NUMBERS.items()}
    shown = capsys.readouterr().out
    assert "One, d = 128" in shown
    assert f"{BOLD} First." in " ".join(shown.split())


def test_scores_of_a_member_have_its_labels_for_a_key():
    member = Member(Config(), labels={"seed": 3, "objective": "cua", "dimension": 128})
    assert experiment._key(member) == ("cua", 128, 3)


def test_the_start_is_trained_before_the_grid_and_failures_are_a_table(tmp_path, monkeypatch):
    done = []
    start = with_changes(Config(), name="start")
    member = Member(with_changes(Config(), name="m"), labels={"objective": "cua", "dimension": 128, "seed": 42})
    twin = Member(with_changes(Config(), name="twin"), labels={"temperature": "1"})
    three = Member(with_changes(Config(), name="three"))
    grid = Edition("emoji", [member], [twin], [three], [start], ("emoji_group",))

    def emoji(runs, seeds, dimensions, quick):
        done.append((runs, seeds, dimensions, quick))
        return grid

    monkeypatch.setattr(experiment, "emoji_edition", emoji)

    def run_members(members, jobs=None, strict=False):
        done.append(([m.name for m in members], jobs, strict))
        return {} if strict else {"m on x": "why"}

    monkeypatch.setattr(experiment, "run_members", run_members)
    monkeypatch.setattr(experiment, "vouched", lambda folder: [folder])
    monkeypatch.setattr(experiment, "scores", lambda _, pairs: scored(simat=0.5) if pairs == "emoji" else scored())
    monkeypatch.setattr(experiment, "write_report", lambda *_: None)
    with pytest.raises(experiment.DataError, match=r"1 of the grid are missing, first m on x: why"):
        experiment.reproduce(tmp_path, quick=True, dimensions=[128], jobs=3)
    assert done == [
        (tmp_path / "runs", (42,), [128], True),
        (["start"], None, True),
        (["twin", "three", "m"], 3, False),
    ]
    assert json.loads((tmp_path / "results.json").read_text()) == {"cua-128-42": {"simat": 0.5}}
    with pytest.raises(experiment.DataError):
        experiment.reproduce(tmp_path, quick=True, seeds=[7, 8])
    assert done.pop(3)[1] == [7, 8]  # what is named is used
    del done[3:]
    tables = experiment.reproduce(tmp_path, allow_missing=True)
    assert done[3] == (tmp_path / "runs", (42, 24, 44), (32, 64, 128), False)
    assert tables[-1].title == "Missing"
    assert (tables[-1].header, texts(tables[-1])) == (["run", "why"], [["m on x", "why"]])
    assert tables[-1].note == "Everything above is without these."


def test_pictures_are_missed_before_a_model_is_loaded(tmp_path):
    with pytest.raises(experiment.DataError, match="nowhere"):
        experiment.reproduce(tmp_path, "coco", data_path=str(Path(tmp_path) / "nowhere"))
