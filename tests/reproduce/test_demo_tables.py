"""The demo from its runs to its table: which configuration is trained from which start, and which row is which."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gapless.eval import Embeddings
from gapless.reproduce import demo, grid
from gapless.reproduce.emoji import pretraining

SCORES = {
    # Centroid distance, separability, uniformity, alignment, two recalls, accuracy.
    "pretrain": (0.0, 0.0, -4.0, 0.0, 1.0, 1.0, 1.0),
    "clip": (0.75, 1.0, -2.0, 0.5, 0.25, 0.125, 0.25),
    "cua": (0.25, 0.75, -2.5, 0.25, 0.125, 0.25, 0.5),
    "cuaxu": (0.5, 0.5, -3.0, 0.75, 0.5, 0.0625, 0.125),
}
METRICS = (
    *("test/centroid_distance", "test/linear_separability", "test/uniformity", "test/alignment"),
    *("test/image_retrieval_recall@1", "test/text_retrieval_recall@1", "emoji_skin_tone/acc1"),
)
TABLE = """|  | centroid distance | linear separability | uniformity | alignment | text to image R@1 \
| image to text R@1 | zero-shot accuracy |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| before | 0.000 | 0.000 | -4.000 | 0.000 | 1.000 | 1.000 | 1.000 |
| clip | 0.750 | 1.000 | -2.000 | 0.500 | 0.250 | 0.125 | 0.250 |
| cua | **0.250** | 0.750 | -2.500 | **0.250** | 0.125 | **0.250** | **0.500** |
| cuaxu | 0.500 | **0.500** | **-3.000** | 0.750 | **0.500** | 0.062 | 0.125 |
"""


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What was trained, scored, drawn and written, without doing it."""
    record = SimpleNamespace(configs=[], scored=[], maps=[], pages=[])

    def train(config):
        record.configs.append(config)
        return Path(config.output) / config.name

    def score(folder, config):
        record.scored.append((folder, config))
        name = folder.parent.name
        number = float(list(SCORES).index(name))
        features = Embeddings(torch.tensor([[number]]), torch.tensor([[-number]]), torch.arange(1), [])
        return dict(zip(METRICS, SCORES[name], strict=True)) | {"test/num_samples": 395}, features

    monkeypatch.setattr(grid, "run_training", train)
    monkeypatch.setattr(demo, "evaluate_export", score)
    monkeypatch.setattr(demo, "embedding_maps", lambda *arguments: record.maps.append(arguments))
    monkeypatch.setattr(demo, "load_run", lambda folder: folder)
    monkeypatch.setattr(demo, "write_report", lambda *arguments: record.pages.append(arguments))
    (tmp_path / "out").mkdir()
    return record


def test_every_objective_is_fine_tuned_from_one_start(done, tmp_path):
    demo.run_demo(tmp_path / "out")
    out = str(tmp_path / "out")
    start = f"local-dir:{tmp_path / 'out' / 'pretrain' / 'export'}"
    assert [(c.name, c.output, c.loss.preset) for c in done.configs] == [
        *(("pretrain", out, "clip"), ("clip", out, "clip"), ("cua", out, "cua"), ("cuaxu", out, "cuaxu"))
    ]
    assert [c.model.name for c in done.configs] == ["custom", start, start, start]
    assert [(c.data.train_samples, c.data.val_samples, c.train.epochs) for c in done.configs][1:] == [
        (None, None, 3)
    ] * 3
    assert done.configs[0].train.epochs > 3
    assert {c.seed for c in done.configs} == {done.configs[0].seed}


def test_the_quick_demo_is_one_epoch_of_128_pairs(done, tmp_path):
    demo.run_demo(tmp_path / "out", quick=True)
    assert {(c.data.train_samples, c.data.val_samples, c.data.batch_size, c.train.epochs) for c in done.configs} == {
        (128, 32, 64, 1)
    }


def test_rows_are_the_start_and_the_objectives_and_the_start_is_never_best(done, tmp_path, capsys, caplog):
    with caplog.at_level(logging.INFO):
        rows = demo.run_demo(tmp_path / "out")
    out = tmp_path / "out"
    assert list(rows) == ["before", "clip", "cua", "cuaxu"]
    assert rows["cua"]["test/centroid_distance"] == 0.25
    assert (out / "table.md").read_text() == TABLE
    assert (out / "results.json").read_text() == json.dumps(rows, indent=2) + "\n"
    names = ("pretrain", "clip", "cua", "cuaxu")
    assert done.scored == [(out / name / "export", done.configs[0]) for name in names]
    ((clouds, captions, path),) = done.maps
    assert list(clouds) == ["before", "clip", "cua", "cuaxu"]
    assert [(i.item(), t.item()) for i, t in clouds.values()] == [(0, 0), (1, -1), (2, -2), (3, -3)]
    assert captions == {
        "before": "centroid distance 0.00, separability 0.00",
        "clip": "centroid distance 0.75, separability 1.00",
        "cua": "centroid distance 0.25, separability 0.75",
        "cuaxu": "centroid distance 0.50, separability 0.50",
    }
    assert path == out / "embeddings.png"
    ((runs, page, title, (table,)),) = done.pages
    assert (runs, page, title) == (
        *([out / name for name in names], out / "report.html", "The contrastive gap on emoji"),
    )
    assert table.markdown() == TABLE
    assert table.title == "395 held-out emoji, before and after fine-tuning; best objective in bold"
    assert "395 held-out emoji" in capsys.readouterr().out
    assert caplog.messages[-1:] == [
        f"written: table.md, results.json, embeddings.png; to look at: {out / 'report.html'}"
    ]


def test_other_processes_write_nothing(done, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    assert list(demo.run_demo(tmp_path / "out")) == ["before", "clip", "cua", "cuaxu"]
    assert list((tmp_path / "out").iterdir()) == []
    assert done.pages == []


def test_an_export_is_scored_on_the_whole_test_split(monkeypatch):
    asked = {}
    evaluation = SimpleNamespace(data="data", score=lambda model, features: {"model": model, "features": features})

    def build(config, model, tokenizer, split, prefix):
        asked.update(samples=config.data.val_samples, name=config.name, model=model, tokenizer=tokenizer)
        asked.update(split=split, prefix=prefix)
        return evaluation

    monkeypatch.setattr(demo, "load_export", lambda folder: (f"model of {folder}", "tokenizer"))
    monkeypatch.setattr(demo, "build_pair_evaluation", build)
    monkeypatch.setattr(demo, "embed_pairs", lambda model, data: (model, data))
    config = pretraining(Path("out"), data={"val_samples": 32})
    scores, features = demo.evaluate_export(Path("run/export"), config)
    assert features == ("model of run/export", "data")
    assert scores == {"model": "model of run/export", "features": features}
    assert asked == {
        "samples": None,
        "name": "pretrain",
        "model": "model of run/export",
        "tokenizer": "tokenizer",
        "split": "test",
        "prefix": "test",
    }
