"""A report of two hand-made runs, whole: which numbers stand where on the page, in Markdown and in LaTeX."""

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import save_file

from gapless.errors import DataError
from gapless.eval.results import Result, save_result
from gapless.models import RANDOM
from gapless.report import Cell, Table, load_run, write_report
from gapless.report import page as page_module
from gapless.report.page import final_table, setup_table

LINES = {
    "one": [
        {"step": 0, "epoch": 0, "val/centroid_distance": 1.0, "val/image_retrieval_recall@1": 0.125},
        {"step": 4, "epoch": 2, "train/loss": 3.0, "train/lr": 0.5},
        {"step": 4, "epoch": 2, "val/centroid_distance": 0.5, "val/image_retrieval_recall@1": 0.25},
    ],
    "two": [
        {"step": 0, "epoch": 0, "val/centroid_distance": 1.0, "val/text_retrieval_recall@1": 0.5},
        {"step": 6, "epoch": 3, "val/centroid_distance": 0.75, "val/image_retrieval_recall@1": 0.75},
    ],
}
CONFIG = {"one": {"seed": 1, "data": {"source": "emoji", "batch_size": 16}}, "two": {"seed": 2}}


def folder_of(tmp_path, name, **config):
    place = tmp_path / name
    place.mkdir()
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[name]))
    (place / "config.yaml").write_text(yaml.safe_dump({"name": name} | CONFIG[name] | config))
    return place


@pytest.fixture
def runs(tmp_path):
    """Two runs of the same data, the second of which kept embeddings."""
    folders = [folder_of(tmp_path, name, data={"source": "emoji"}) for name in LINES]
    (folders[1] / "embeddings").mkdir()
    generator = torch.Generator().manual_seed(0)
    sides = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=generator), dim=2)
    tensors = {"image": sides[0], "text": sides[1].contiguous(), "indices": torch.arange(6)}
    keys = json.dumps([f"key {k}" for k in range(6)])
    save_file(tensors, folders[1] / "embeddings" / "epoch_00003.safetensors", {"keys": keys})
    for folder, weights, distance, recall in ((folders[0], RANDOM, 0.5, 0.25), (folders[1], "z", 0.25, 0.125)):
        scores = {"centroid_distance": distance, "image_retrieval_recall@1": recall, "num_images": 9}
        save_result(Result("coco", "gap", scores, "m", weights, num_samples=9), folder / "results")
    save_result(Result("coco", "zeroshot", {"acc1": 0.5}, "m", RANDOM, num_samples=9), folders[0] / "results")
    save_result(Result("pets", "zeroshot", {"acc1": 0.5}, "m", RANDOM, num_samples=9), folders[0] / "results")
    save_result(Result("pets", "zeroshot", {"acc1": 0.75}, "m", "z", num_samples=8), folders[1] / "results")
    return [load_run(folder) for folder in folders]


@pytest.fixture
def plain(monkeypatch):
    """Without figures: they take longer than all else, and are tested for themselves."""
    asked = []
    monkeypatch.setattr(
        page_module, "draw_panels", lambda panels, path: asked.append(([p.title for p in panels], path))
    )
    monkeypatch.setattr(
        page_module, "embedding_maps", lambda clouds, captions, path: asked.append((list(clouds), path, captions))
    )
    return asked


MARKDOWN = """# 2 runs

> two: it is half-written

## Above

| a | b |
| --- | ---: |
| x | **y** |

First.

## Last evaluation

|  | centroid distance | T→I R@1 | I→T R@1 | epoch |
| --- | ---: | ---: | ---: | ---: |
| one | **0.500** | 0.250 | - | 2 |
| two | 0.750 | **0.750** | **0.500** | 3 |

Evaluated pairs: emoji.

## coco: gap

|  | one (random weights) | two |
| --- | ---: | ---: |
| centroid_distance | 0.5000 | **0.2500** |
| image_retrieval_recall@1 | **0.2500** | 0.1250 |



## coco: zeroshot

|  | one (random weights) |
| --- | ---: |
| acc1 | 0.5000 |



## pets: zeroshot

|  | one (random weights) | two |
| --- | ---: | ---: |
| acc1 | 0.5000 | 0.7500 |

Not over the same samples (one 9, two 8): these numbers cannot be compared, and none is marked.

## Where the configurations differ

|  | one | two |
| --- | ---: | ---: |
| seed | 1 | 2 |



## Figures

![curves](page%201_figures/curves.png)

![cumulative_explained_variance](page%201_figures/cumulative_explained_variance.png)

![cosines](page%201_figures/cosines.png)

![maps](page%201_figures/maps.png)

"""


def test_a_report_of_two_runs(runs, plain, tmp_path):
    runs[1].notes.append("it is half-written")
    above = Table("Above", ["a", "b"], [[Cell("x"), Cell("y", best=True)]], "First.")
    output = tmp_path / "out" / "page 1.html"
    written = write_report(runs, output, tables=[above])
    figures = tmp_path / "out" / "page 1_figures"
    names = [
        f"{name}{suffix}"
        for name in ("curves", "cumulative_explained_variance", "cosines", "maps")
        for suffix in (".pdf", ".png")
    ]
    assert written == [output, output.with_suffix(".md"), output.with_suffix(".tex"), *(figures / n for n in names)]
    main = ["val/centroid_distance", "val/image_retrieval_recall@1", "val/text_retrieval_recall@1", "train/loss"]
    variance = [f"cumulative explained variance, {side}" for side in ("images", "texts", "mean of both")]
    assert plain == [
        *((main, figures / names[0]), (main, figures / names[1])),
        *((variance, figures / names[2]), (variance, figures / names[3])),
        *((["two"], figures / names[4]), (["two"], figures / names[5])),
        *((["two"], figures / names[6], {}), (["two"], figures / names[7], {})),
    ]
    assert output.with_suffix(".md").read_text() == MARKDOWN
    tex = output.with_suffix(".tex").read_text()
    assert re.findall(r"\\caption\{(.*)\}", tex) == [
        *("Above. First.", "Last evaluation. Evaluated pairs: emoji.", "coco: gap.", "coco: zeroshot."),
        "pets: zeroshot. Not over the same samples (one 9, two 8): these numbers cannot be compared, "
        "and none is marked.",
    ]
    assert r"one & \textbf{0.500} & 0.250 & - & 2 \\" in tex


def test_the_page_of_two_runs(runs, plain, tmp_path):
    runs[0].notes.append("a note")
    write_report(runs, tmp_path / "page.html", "Mine")
    text = (tmp_path / "page.html").read_text()
    assert "<title>Mine</title>" in text
    assert re.findall(r"<i style=\"border-top:3px (\w+) (#\w+)\"></i>(\w+)<", text) == [
        ("solid", "#0072B2", "one"),
        ("solid", "#D55E00", "two"),
    ]
    assert '<p class="warning">one: a note</p>' in text
    headings = re.findall(r"<h([23])>([^<]*)</h", text)
    assert headings == [
        ("2", "Results"),
        *(("3", t) for t in ("Last evaluation", "coco: gap", "coco: zeroshot", "pets: zeroshot")),
        *(("2", t) for t in ("Embeddings", "Curves", "Cumulative explained variance", "Cosines")),
        ("2", "Retrieval examples"),
        ("2", "What was run"),
    ]
    charts = re.findall(r'<figcaption>([^<]*)</figcaption><div class="chart" data-chart="([^"]*)">', text)
    assert charts == [
        ("val/centroid_distance", "0-0"),
        ("val/image_retrieval_recall@1", "0-1"),
        ("val/text_retrieval_recall@1", "0-2"),
        ("train/loss", "0-3"),
        ("train/lr", "0-4"),
        *((f"cumulative explained variance, {s}", f"1-{k}") for k, s in enumerate(("images", "texts", "mean of both"))),
        ("two", "2-0"),
    ]
    assert "<summary>1 more metrics</summary>" in text
    assert "up to 300 pairs" in text
    assert re.findall(r"<option value=\"0\">(\w+)</option>", text) == ["two"]
    content = json.loads(re.search(r'<script id="content" type="application/json">(.*)</script>', text)[1])
    assert list(content["charts"]) == [identity for _, identity in charts]
    assert content["charts"]["0-1"]["data"][1]["y"] == [0.75]
    assert [m["run"] for m in content["maps"]] == ["two"]
    assert content["captions"] == {f"emoji/key {k}": f"key {k}" for k in range(6)}
    assert content["pictures"] == {}
    # Texts among images first, then the reverse: six queries each.
    parts = re.findall(r'<div class="query">(<b|<img)', text)
    assert parts == ["<b"] * 6 + ["<img"] * 6
    assert "Plotly" in text
    assert "IntersectionObserver" in text  # the page's own script
    assert "--ink" in text.partition("</style>")[0]


def test_a_page_of_runs_in_one_modality_has_no_retrieval_examples(runs, plain, tmp_path):
    runs[1].config["model.towers"] = "image-image"
    write_report(runs[1:], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<title>Run two</title>" in text
    assert "Retrieval examples" not in text
    assert "<h2>Embeddings</h2>" in text


def test_without_embeddings_there_are_curves_alone(runs, plain, tmp_path):
    written = write_report(runs[:1], tmp_path / "page.html")
    assert [path.name for path in written[3:]] == ["curves.pdf", "curves.png"]
    text = (tmp_path / "page.html").read_text()
    assert "Cosines" not in text
    assert "Cumulative" not in text
    assert "Embeddings" not in text


def test_metrics_beyond_the_main_ones_are_drawn_where_there_are_no_others(tmp_path, plain):
    place = folder_of(tmp_path, "one")
    (place / "metrics.jsonl").write_text('{"epoch": 1, "train/other": 1.0}\n')
    written = write_report([load_run(place)], tmp_path / "page.html")
    assert plain[0][0] == ["train/other"]
    assert len(written) == 5
    assert "more metrics" not in (tmp_path / "page.html").read_text()


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, plain):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [folder_of(tmp_path / "a", "one"), folder_of(tmp_path / "b", "one"), folder_of(tmp_path, "two")]
    write_report([load_run(path) for path in paths], tmp_path / "page.html")
    header = (tmp_path / "page.md").read_text().partition("configurations differ")[2].strip().splitlines()[0]
    assert header.replace("\\", "") == f"|  | {paths[0]} | {paths[1]} | two |"


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="report: there is no run to show"):
        write_report([], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_the_last_values_of_runs_on_different_data(tmp_path):
    runs = [load_run(folder_of(tmp_path, "one")), load_run(folder_of(tmp_path, "two", data={"source": "coco"}))]
    table = final_table(runs)
    assert table.header == ["", "centroid distance", "T→I R@1", "I→T R@1", "evaluated pairs", "epoch"]
    assert table.rows == [
        [Cell(text) for text in ("one", "0.500", "0.250", "-", "emoji", "2")],
        [Cell(text) for text in ("two", "0.750", "0.750", "0.500", "coco", "3")],
    ]
    assert table.title == "Last evaluation"
    assert table.note == (
        "These runs were evaluated on different data: their numbers cannot be compared, and none is marked."
    )
    assert final_table([load_run(folder_of(tmp_path / "one", "two", seed=1))]).note == ""


def test_the_configuration_of_one_run_and_of_several(tmp_path):
    one = folder_of(
        tmp_path, "one", loss={"preset": "cua"}, optim={"lr": 0.5, "betas": [0, 1]}, train={"epochs": 2, "log_every": 1}
    )
    (tmp_path / "more").mkdir()
    two = folder_of(tmp_path / "more", "two", loss={"preset": None}, output="elsewhere")
    table = setup_table([load_run(one)])
    assert (table.title, table.note, table.header) == ("Configuration", "", ["", "one"])
    assert {row[0].text: row[1].text for row in table.rows} == {
        "data.source": "emoji",
        "data.batch_size": "16",
        "loss.preset": "cua",
        "optim.lr": "0.5",
        "train.epochs": "2",
        "seed": "1",
    }
    table = setup_table([load_run(one), load_run(two)])
    assert (table.title, table.note, table.header) == ("Where the configurations differ", "", ["", "one", "two"])
    rows = [[cell.text for cell in row] for row in table.rows]
    assert sorted(rows) == [
        *(["data.batch_size", "16", "-"], ["data.source", "emoji", "-"]),
        *(["loss.preset", "cua", "-"], ["optim.betas", "[0, 1]", "-"], ["optim.lr", "0.5", "-"], ["seed", "1", "2"]),
        *(["train.epochs", "2", "-"], ["train.log_every", "1", "-"]),
    ]
    (one / "config.yaml").unlink()
    (two / "config.yaml").unlink()
    table = setup_table([load_run(one), load_run(two)])
    assert (table.rows, table.note) == ([], "No config.yaml: one, two.")
