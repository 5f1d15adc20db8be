"""Captioning from the space to the files."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gapless.config import DataConfig
from gapless.data import build_source
from gapless.decode import save_features, save_means
from gapless.errors import DataError
from gapless.report import Cell, Table
from gapless.report.panels import Panel, Series
from gapless.reproduce.connect_collapse_corrupt import experiment
from gapless.reproduce.connect_collapse_corrupt.experiment import _draw


def test_figure_6_has_the_share_of_the_pairs_on_its_axis(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(experiment, "draw_panels", lambda panels, path: drawn.append((panels, path)))
    low = {
        0.01: {"pairs": {1: {"cider": 0.25}, 2: {"cider": 0.5}}, "c3": {1: {"cider": 0.75}, 2: {"cider": 1.0}}},
        1.0: {"pairs": {1: {"cider": 1.0}, 2: {"cider": 1.0}}, "c3": {1: {"cider": 1.0}, 2: {"cider": 1.5}}},
    }
    _draw(tmp_path, low, {0.0: {"rouge_l": 0.75, "cider": 1}, 2.0: {"rouge_l": 0.25, "cider": 1}})
    panels = [
        Panel(
            "CIDEr by share of the pairs, %",
            "",
            [
                Series("pairs alone (ClipCap)", [1.0, 100.0], [37.5, 100.0], 0),
                Series("texts first (C3), then pairs", [1.0, 100.0], [87.5, 125.0], 1),
            ],
        ),
        Panel("ROUGE-L by added length", "", [Series("texts said again", [0.0, 2.0], [75.0, 25.0], 2)]),
    ]
    assert drawn == [(panels, tmp_path / "captioning.png"), (panels, tmp_path / "captioning.pdf")]


def test_everything_is_written_beside_the_model_that_it_is_of(monkeypatch, tmp_path, capsys):
    pages = []
    monkeypatch.setattr(experiment, "load_run", lambda folder: f"run of {folder}")
    monkeypatch.setattr(experiment, "write_report", lambda *arguments: pages.append(arguments))
    tables = [Table("One", ["", "a"], [[Cell("x"), Cell("1", best=True)]], "First."), Table("Two", [""], [])]
    output, model = tmp_path / "out", tmp_path / "model"
    experiment._write(output, tables, model, {"variants": {"c1": {42: {"cider": 0.5}}}}, " of random weights")
    assert pages == []
    title = "# connect-collapse-corrupt-captions of random weights"
    assert (output / "connect-collapse-corrupt-captions.md").read_text() == (
        f"{title}\n\n{tables[0].section()}\n{tables[1].section()}\n![curves](captioning.png)\n"
    )
    assert (output / "connect-collapse-corrupt-captions.tex").read_text() == f"{tables[0].latex()}\n{tables[1].latex()}"
    assert json.loads((output / "captioning.json").read_text()) == {"variants": {"c1": {"42": {"cider": 0.5}}}}
    assert [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()][:1] == ["One"]
    model.mkdir()
    (model / "metrics.jsonl").touch()
    experiment._write(output, tables, model, {}, "")
    assert pages == [
        ([f"run of {model}"], output / "captions.html", "Connect, collapse, corrupt: captions", tables),
    ]


@pytest.mark.parametrize(("quick", "seeds"), [(True, (42,)), (False, (42, 24, 44))])
def test_from_the_model_to_the_tables(monkeypatch, tmp_path, quick, seeds):
    done, asked = [], SimpleNamespace()

    class Setting:
        def __init__(self, output, features, base, seeds, quick):
            asked.setting = (output, features, base, tuple(seeds), quick)
            self.seeds = seeds

        def row(self, name):
            return {seed: SimpleNamespace(name=f"{name} {seed}", scores={"cider": (name, seed)}) for seed in self.seeds}

        def variants(self):
            return {"c1": self.row("c1"), "c3": self.row("c3")}

        def low_data(self):
            return {share: {name: self.row(f"{name} {share}") for name in ("pairs", "c3")} for share in (0.01, 1.0)}

        def distances(self):
            return {shift: SimpleNamespace(name=f"shift {shift}", scores={"cider": shift}) for shift in (0.0, 2.0)}

    def run_members(members, strict):
        done.append(([member.name for member in members], strict))

    tables = [Table("a table", [], [])]
    monkeypatch.setattr(experiment, "Setting", Setting)
    monkeypatch.setattr(experiment, "run_members", run_members)
    monkeypatch.setattr(
        experiment, "ordinary_clip", lambda output, quick: done.append((output, quick)) or Path("model")
    )
    monkeypatch.setattr(experiment, "embed_store", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(experiment, "caption_tables", lambda *scores: done.append(scores) or tables)
    monkeypatch.setattr(experiment, "_draw", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(
        experiment,
        "pictures",
        lambda members, data: done.append(([m.name for m in members.values()], data)) or "pictures",
    )
    monkeypatch.setattr(experiment, "_write", lambda *arguments: done.append(arguments))
    assert experiment.reproduce_captioning(tmp_path, quick=quick) == tables
    assert asked.setting == (tmp_path, tmp_path / "features", "emoji", seeds, quick)
    assert done[:2] == [(tmp_path / "runs", quick), ("model", None, DataConfig(), tmp_path / "features")]
    names = [f"{name} {seed}" for name in ("c1", "c3") for seed in seeds]
    names += [f"{name} {share} {seed}" for share in (0.01, 1.0) for name in ("pairs", "c3") for seed in seeds]
    assert done[2] == ([*names, "shift 0.0", "shift 2.0"], True)
    variants = {name: {seed: {"cider": (name, seed)} for seed in seeds} for name in ("c1", "c3")}
    low = {
        share: {name: {seed: {"cider": (f"{name} {share}", seed)} for seed in seeds} for name in ("pairs", "c3")}
        for share in (0.01, 1.0)
    }
    distances = {0.0: {"cider": 0.0}, 2.0: {"cider": 2.0}}
    assert done[3:] == [
        (variants, low, distances),
        (tmp_path, low, distances),
        (["c1 42", "c3 42"], DataConfig()),
        (
            *(tmp_path, [*tables, "pictures"], Path("model")),
            *({"variants": variants, "low_data": low, "gap_distance": distances}, ""),
        ),
    ]


def test_a_space_of_random_weights_says_so_and_coco_has_its_recipes(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(experiment, "check_model", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(experiment, "embed_store", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(experiment, "run_members", lambda members, strict: done.append(members[0].config))
    monkeypatch.setattr(experiment, "_scores", lambda members: {})
    monkeypatch.setattr(experiment.Setting, "distances", lambda setting: {})
    monkeypatch.setattr(experiment, "caption_tables", lambda *_: [])
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)
    monkeypatch.setattr(experiment, "pictures", lambda *_: "pictures")
    monkeypatch.setattr(experiment, "_write", lambda *arguments: done.append(arguments[2:]))
    data = DataConfig(source="coco", path="coco")
    experiment.reproduce_captioning(tmp_path, Path("ViT-B-32"), data, True, "none")
    assert done[:2] == [("ViT-B-32", "none"), ("ViT-B-32", "none", data, tmp_path / "features")]
    assert done[2].decoder.name == "gpt2"
    assert done[3][0] == Path("ViT-B-32")
    assert done[3][2] == " of random weights"


@pytest.fixture
def store(tmp_path):
    """Embeddings of two test pictures by the model called one."""
    source = build_source(DataConfig(), "test")
    folder, ids = tmp_path / "features", [source.key(0), source.key(3)]
    features = torch.nn.functional.normalize(torch.rand(2, 3), dim=1)
    save_features(folder, "image", "test", ids, features, model="one")
    save_means(folder, {"image": torch.zeros(3)}, "one")
    return folder


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("one", DataConfig(), None),
        ("other", DataConfig(), "holds embeddings of another model than space: give another output"),
        (
            "one",
            DataConfig(source="folder", path="FOLDER", val_path="FOLDER"),
            "holds embeddings of other pairs than those of folder: give another output",
        ),
    ],
)
def test_another_space_does_not_go_on_with_the_first(monkeypatch, tmp_path, store, model, data, message):
    monkeypatch.setattr(experiment, "embed_store", None)  # calling it fails
    asked = []
    monkeypatch.setattr(experiment, "load_model", lambda *a: asked.append(a) or SimpleNamespace(model=model))
    monkeypatch.setattr(experiment, "weights_digest", lambda loaded: loaded)
    real = experiment.build_source
    monkeypatch.setattr(
        experiment, "build_source", lambda d, split: real(DataConfig(), "train" if d.source == "folder" else split)
    )
    if message is None:
        experiment._embed(Path("space"), "tag", data, store)
        assert asked == [("space", "tag")]
    else:
        with pytest.raises(DataError, match=rf"^{store} {message}$"):
            experiment._embed(Path("space"), "tag", data, store)


def test_embeddings_that_name_no_model_are_taken(monkeypatch, tmp_path):
    source = build_source(DataConfig(), "test")
    save_features(tmp_path / "f", "image", "test", [source.key(0)], torch.tensor([[1.0, 0.0]]))
    save_means(tmp_path / "f", {"image": torch.zeros(2)})
    monkeypatch.setattr(experiment, "load_model", None)
    experiment._embed(Path("space"), None, DataConfig(), tmp_path / "f")
