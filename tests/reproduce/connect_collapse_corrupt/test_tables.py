"""From captioners' scores to the paper's tables: which variant, seed, share and metric a cell is of."""

import json
from functools import cache
from pathlib import Path

import pytest

from gapless.config import DataConfig
from gapless.report import Cell, Table
from gapless.report.panels import Panel, Series
from gapless.reproduce.connect_collapse_corrupt import experiment
from gapless.reproduce.connect_collapse_corrupt.experiment import (
    LOW_ROWS,
    VARIANTS,
    Setting,
    _claims,
    _distance_table,
    _draw,
    _only,
    _pictures,
    _span,
    _table,
)
from gapless.reproduce.connect_collapse_corrupt.published import GAP_DISTANCE, LOW_DATA, PUBLISHED


@pytest.fixture(autouse=True)
def files_are_read_once(monkeypatch):
    monkeypatch.setattr(experiment, "load_tree", cache(experiment.load_tree))


SCORES = {
    "c1": {42: {"rouge_l": 0.25, "cider": 0.125}, 24: {"rouge_l": 0.375, "cider": 0.25}},
    "c2-collapse": {42: {"rouge_l": 0.5, "cider": 0.75}, 24: {"rouge_l": 0.4375, "cider": 0.5}},
    "c2-span": {42: {"rouge_l": 0.46875, "cider": 0.53125}, 24: {"rouge_l": 0.46875, "cider": 0.53125}},
    "c2-corrupt": {42: {"rouge_l": 0.4375, "cider": 0.625}, 24: {"rouge_l": 0.5625, "cider": 0.875}},
    "c3": {42: {"rouge_l": 0.625, "cider": 0.875}, 24: {"rouge_l": 0.375, "cider": 0.3125}},
}


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def bold(table):
    return [[cell.text for cell in row if cell.best] for row in table.rows]


def test_a_table_has_ours_over_seeds_and_the_papers_numbers():
    table = _table("Table 2", PUBLISHED, _only(SCORES, PUBLISHED), VARIANTS)
    assert table.title == "Table 2"
    assert table.header == [
        "",
        *("paper BLEU-1", "paper BLEU-4", "paper METEOR", "ROUGE-L", "paper ROUGE-L", "CIDEr", "paper CIDEr"),
        "paper SPICE",
    ]
    assert texts(table) == [
        ["C1, connect", "28.1", "2.4", "12.2", "31.2 ± 6.2", "25.4", "18.8 ± 6.2", "13", "6.8"],
        ["C2, collapse", "44.4", "6.1", "15.5", "46.9 ± 3.1", "33.6", "62.5 ± 12.5", "25.2", "9.2"],
        ["C2, corrupt", "69", "25.5", "24.3", "50.0 ± 6.2", "50.8", "75.0 ± 12.5", "87.6", "17.6"],
        ["C3, both", "71", "27.7", "25", "50.0 ± 12.5", "52", "59.4 ± 28.1", "93.3", "18.3"],
    ]
    assert bold(table) == [[], [], ["50.0 ± 6.2", "75.0 ± 12.5"], []]
    assert table.note == "Ours: n = 2 seeds, mean ± standard error, times 100. Paper: COCO, CLIP ViT-B/32, GPT-2."


def test_a_metric_that_one_run_lacks_is_the_papers_alone():
    scores = {"pairs": {1: {"cider": 0.5, "bleu_1": 0.25}}, "c3": {1: {"cider": 0.75}}}
    table = _table("Table 5", LOW_DATA[0.05], scores, LOW_ROWS)
    assert "BLEU-1" not in table.header
    assert table.header[5:7] == ["CIDEr", "paper CIDEr"]
    assert texts(table) == [
        ["pairs alone (ClipCap)", "70.1", "26.4", "24", "51.3", "50.0", "89.4", "17.3"],
        ["texts first (C3), then pairs", "72.3", "29.4", "25.7", "53.1", "75.0", "98.8", "18.8"],
    ]
    assert bold(table) == [[], ["75.0"]]


def test_table_7_is_of_noise_in_the_span_only():
    table = _span(SCORES)
    assert table.title == "Table 7: what noise along the gap does"
    assert [row[0].text for row in table.rows] == ["C2, collapse", "C2, noise in the span only", "C2, corrupt"]
    assert [row[5].text for row in table.rows] == ["33.6", "33.6", "50.8"]
    assert [row[4].text for row in table.rows] == ["46.9 ± 3.1", "46.9 ± 0.0", "50.0 ± 6.2"]


def test_claims_are_differences_of_the_same_seed_the_better_first():
    low = {0.01: {"pairs": {1: {"rouge_l": 0.5, "cider": 0.5}}, "c3": {1: {"rouge_l": 0.75, "cider": 0.25}}}}
    table = _claims(SCORES, low)
    assert table.title == "The paper's claims: C1 < C2 < C3, and texts before pairs"
    assert table.header == ["claim", "difference", "verdict"]
    undecided = "not decided"
    assert texts(table) == [
        ["C2, collapse above C1, connect, ROUGE-L", "+15.6 [-103.5, +134.7]", undecided],
        ["C2, collapse above C1, connect, CIDEr", "+43.8 [-194.5, +282.0]", undecided],
        ["C2, corrupt above C1, connect, ROUGE-L", "+18.8 [+18.8, +18.8]", "holds"],
        ["C2, corrupt above C1, connect, CIDEr", "+56.2 [-23.2, +135.7]", undecided],
        ["C3, both above C2, collapse, ROUGE-L", "+3.1 [-116.0, +122.2]", undecided],
        ["C3, both above C2, collapse, CIDEr", "-3.1 [-201.7, +195.4]", undecided],
        ["C3, both above C2, corrupt, ROUGE-L", "+0.0 [-238.2, +238.2]", undecided],
        ["C3, both above C2, corrupt, CIDEr", "-15.6 [-531.8, +500.6]", undecided],
        ["1% of the pairs: texts first above pairs alone, ROUGE-L", "+25.0 [-inf, +inf]", undecided],
        ["1% of the pairs: texts first above pairs alone, CIDEr", "-25.0 [-inf, +inf]", undecided],
    ]
    assert bold(table) == [[], [], ["holds"], *[[]] * 7]
    assert table.note == (
        "Paired differences over seeds with their 95 % t interval; a claim holds if all of the interval does."
    )


def test_table_6_is_by_the_length_of_the_constant():
    scores = {
        0.0: {"bleu_1": 0.5, "rouge_l": 0.25, "meteor": 0.125},
        1.5: {"bleu_1": 0.0625, "rouge_l": 0.75},
    }
    table = _distance_table(scores)
    assert table.title == "Table 6: trained on x, tested on x + c"
    assert table.header == ["added length", "BLEU-1", "ROUGE-L", "paper ROUGE-L", "METEOR", "paper METEOR"]
    assert texts(table) == [
        ["0", "50.0", "25.0", "81.2", "12.5", "83.1"],
        ["1.5", "6.2", "75.0", "14.4", "-", "13.8"],
    ]
    assert table.note == "Texts said again, one seed; the constant lies where the texts vary least."


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


class Pictures:
    """A data set of 30 pictures, the size of each its position plus one."""

    def __len__(self):
        return 30

    def key(self, k):
        return f"id{k}"

    def captions(self, k):
        return [f"people of {k}", "another"]

    def load(self, k):
        return type("Pair", (), {"image": k})


def test_figure_10_shows_what_every_variant_says_of_some_pictures(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(experiment, "build_source", lambda data, split: asked.append((data, split)) or Pictures())
    monkeypatch.setattr(experiment, "thumbnail", lambda image: f"thumbnail of {image}")
    for name in VARIANTS:
        folder = tmp_path / "runs" / f"{name}-seed7"
        folder.mkdir(parents=True)
        # The order of the scores, not that of the data, is what is spaced evenly.
        captions = {f"id{k}": f"{name} of {k}" for k in (29, *range(24))}
        (folder / "scores.json").write_text(json.dumps({"captions": captions}))
    data = DataConfig()
    table = _pictures(Setting(tmp_path, tmp_path / "features", "emoji", (7, 8), False), data)
    assert asked == [(data, "test")]
    assert table.title == "Figure 10: what each variant says"
    assert table.header == ["", "people", *VARIANTS.values()]
    shown = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 29]
    assert [row[0] for row in table.rows] == [Cell(f"id{k}", picture=f"thumbnail of {k}") for k in shown]
    assert [cell.text for cell in table.rows[1][1:]] == [
        *("people of 3", "c1 of 3", "c2-collapse of 3", "c2-span of 3", "c2-corrupt of 3", "c3 of 3"),
    ]
    assert table.note == ("Test images, evenly spaced and not picked, seed 7; none of them was seen in training.")


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
    done, score = [], dict.fromkeys(("bleu_1", "rouge_l", "cider", "meteor"), 0.5)

    def scored(config, plan, stem=""):
        done.append((config.name, plan.modality, plan.shift, stem))
        return score

    monkeypatch.setattr(experiment, "emoji_model", lambda output, quick: done.append((output, quick)) or Path("model"))
    monkeypatch.setattr(experiment, "embed_store", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(experiment, "_scored", scored)
    monkeypatch.setattr(experiment, "_pictures", lambda setting, data: Table("Figure 10", [""], []))
    monkeypatch.setattr(experiment, "draw_panels", lambda panels, path: None)
    written = []
    monkeypatch.setattr(experiment, "_write", lambda *arguments: written.append(arguments))
    tables = experiment.reproduce_captioning(tmp_path, quick=quick)
    assert done[:2] == [(tmp_path / "runs", quick), ("model", None, DataConfig(), tmp_path / "features")]
    runs = [(f"{name}-seed{seed}", "image", 0.0, "") for name in VARIANTS for seed in seeds]
    runs += [
        (f"{side}-{share}-seed{seed}", "image", 0.0, "")
        for share in ("0.01", "0.05", "0.25", "1")
        for seed in seeds
        for side in ("pairs", "c3")
    ]
    shifts = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
    runs += [(f"gap-distance-seed{seeds[0]}", "text", shift, f"-shift{shift:g}") for shift in shifts]
    assert sorted(map(str, done[2:])) == sorted(map(str, runs))
    assert [table.title for table in tables] == [
        "Table 2: captions of images by a decoder of texts",
        "The paper's claims: C1 < C2 < C3, and texts before pairs",
        "Table 7: what noise along the gap does",
        *(f"Table 5: {share}% of the pairs" for share in (1, 5, 25, 100)),
        "Table 6: trained on x, tested on x + c",
    ]
    assert [row[0].text for row in tables[0].rows] == ["C1, connect", "C2, collapse", "C2, corrupt", "C3, both"]
    assert [row[7].text for row in tables[3].rows] == ["47.6", "52.7"]  # the paper's at 1 %
    ((output, shown, model, tree, note),) = written
    assert (output, model, note) == (tmp_path, Path("model"), "")
    assert [t.title for t in shown] == [*(t.title for t in tables), "Figure 10"]
    assert (list(tree), list(tree["variants"]), list(tree["low_data"])) == (
        ["variants", "low_data", "gap_distance"],
        list(VARIANTS),
        [0.01, 0.05, 0.25, 1.0],
    )
    assert tree["gap_distance"] == dict.fromkeys(GAP_DISTANCE, score)


def test_configurations_are_those_of_the_variant_the_seed_and_the_share(tmp_path):
    setting = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False)
    config = setting.config("c1", "c1", 24)
    assert (config.name, config.output, config.seed) == ("c1-seed24", str(tmp_path / "runs"), 24)
    assert config.features.path == str(tmp_path / "features")
    assert (config.prepare.collapse, config.prepare.noise, config.train.epochs) == (False, 0.0, 8)
    assert setting.config("c2-collapse", "x", 1).prepare.noise == 0
    assert setting.config("c2-corrupt", "x", 1).prepare.collapse is False
    assert setting.config("c2-span", "x", 1).prepare.span_of == ("image", "text")
    assert setting.config("c3", "x", 1).prepare.collapse is True
    assert setting.config("pairs", "x", 1, fraction=0.05).features.modality == "image"
    # Shares below a quarter are gone through as often as makes them one, at most 16 times.
    epochs = {s: setting.config("pairs", "x", 1, fraction=s).train.epochs for s in (0.01, 0.05, 0.1, 0.25, 1.0)}
    assert epochs == {0.01: 128, 0.05: 40, 0.1: 16, 0.25: 8, 1.0: 8}
    assert setting.config("pairs", "x", 1, fraction=0.05).features.fraction == 0.05
    quick = Setting(tmp_path, tmp_path / "features", "emoji", (42,), True)
    assert quick.config("pairs", "x", 1, fraction=0.05).train.epochs == 1
    assert Setting(tmp_path, tmp_path, "coco", (42,), False).config("c1", "x", 1).decoder.name is not None


def test_captions_are_of_test_images_and_shifted_texts(tmp_path):
    setting = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False)
    plan = setting.plan()
    assert (plan.features, plan.modality, plan.split, plan.shift, plan.tokenizer) == (
        *(tmp_path / "features", "image", "test", 0.0, "simple"),
    )
    plan = Setting(tmp_path, tmp_path, "coco", (42,), False).plan("text", 0.5)
    assert (plan.modality, plan.shift, plan.tokenizer) == ("text", 0.5, "auto")


def test_fine_tuning_begins_with_the_decoder_of_texts_of_the_same_seed(monkeypatch, tmp_path):
    starts = {}
    monkeypatch.setattr(
        experiment, "_scored", lambda config, plan, stem="": starts.setdefault(config.name, config.decoder.start)
    )
    setting = Setting(tmp_path, tmp_path, "emoji", (42, 24), False)
    experiment._low_data(setting)
    assert starts["c3-0.05-seed24"] == str(tmp_path / "runs" / "c3-seed24")
    assert starts["c3-1-seed42"] == str(tmp_path / "runs" / "c3-seed42")
    assert starts["pairs-0.05-seed24"] is None


def test_the_best_checkpoint_captions_once(monkeypatch, tmp_path):
    done = []
    config = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False).config("c1", "c1", 42)
    plan = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False).plan()
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(experiment, "train_captioner", lambda c: done.append(c.name) or run)
    monkeypatch.setattr(experiment, "load_captioner", lambda path: f"captioner of {path}")
    monkeypatch.setattr(experiment, "write_captions", lambda captioner, p: done.append((captioner, p)) or {"a": "b"})
    monkeypatch.setattr(experiment, "score_captions", lambda captions, p: ({"cider": 0.5}, "simple"))
    monkeypatch.setattr(experiment, "save_captions", lambda *arguments: done.append(arguments))
    best = run / "checkpoints" / "best"
    assert experiment._scored(config, plan, "-x") == {"cider": 0.5}
    assert done == [
        "c1-seed42",
        (f"captioner of {best}", plan),
        ({"a": "b"}, {"cider": 0.5}, plan, best, run / "results", "simple"),
    ]
    assert json.loads((run / "scores-x.json").read_text()) == {
        "tokens": "simple",
        "scores": {"cider": 0.5},
        "captions": {"a": "b"},
    }
    assert experiment._scored(config, plan, "-x") == {"cider": 0.5}
    assert done[3:] == ["c1-seed42"]
