"""From captioners' scores to the paper's tables: which variant, seed, share and metric a cell is of."""

from types import SimpleNamespace

from gapless.config import DataConfig
from gapless.report import Cell
from gapless.reproduce.connect_collapse_corrupt import tables
from gapless.reproduce.connect_collapse_corrupt.members import LOW_DATA_ROWS, VARIANTS
from gapless.reproduce.connect_collapse_corrupt.published import LOW_DATA, PUBLISHED
from gapless.reproduce.connect_collapse_corrupt.tables import _claims, _distance_table, _only, _table, caption_tables
from tests.reproduce.spaces import texts

SCORES = {
    "c1": {42: {"rouge_l": 0.25, "cider": 0.125}, 24: {"rouge_l": 0.375, "cider": 0.25}},
    "c2-collapse": {42: {"rouge_l": 0.5, "cider": 0.75}, 24: {"rouge_l": 0.4375, "cider": 0.5}},
    "c2-span": {42: {"rouge_l": 0.46875, "cider": 0.53125}, 24: {"rouge_l": 0.46875, "cider": 0.53125}},
    "c2-corrupt": {42: {"rouge_l": 0.4375, "cider": 0.625}, 24: {"rouge_l": 0.5625, "cider": 0.875}},
    "c3": {42: {"rouge_l": 0.625, "cider": 0.875}, 24: {"rouge_l": 0.375, "cider": 0.3125}},
}


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
    table = _table("Table 5", LOW_DATA[0.05], scores, LOW_DATA_ROWS)
    assert "BLEU-1" not in table.header
    assert table.header[5:7] == ["CIDEr", "paper CIDEr"]
    assert texts(table) == [
        ["pairs alone (ClipCap)", "70.1", "26.4", "24", "51.3", "50.0", "89.4", "17.3"],
        ["texts first (C3), then pairs", "72.3", "29.4", "25.7", "53.1", "75.0", "98.8", "18.8"],
    ]
    assert bold(table) == [[], ["75.0"]]


def test_all_tables_with_the_papers_numbers_of_their_share_and_length():
    score = {"bleu_1": 0.5, "rouge_l": 0.25, "cider": 0.125, "meteor": 0.75}
    low = {share: {name: {42: score} for name in LOW_DATA_ROWS} for share in (0.01, 0.05, 0.25, 1.0)}
    made = caption_tables(SCORES, low, {0.0: score, 2.0: score})
    assert [table.title for table in made] == [
        "Table 2: captions of images by a decoder of texts",
        "The paper's claims: C1 < C2 < C3, and texts before pairs",
        "Table 7: what noise along the gap does",
        *(f"Table 5: {share}% of the pairs" for share in (1, 5, 25, 100)),
        "Table 6: trained on x, tested on x + c",
    ]
    assert [row[0].text for row in made[0].rows] == ["C1, connect", "C2, collapse", "C2, corrupt", "C3, both"]
    assert [row[0].text for row in made[2].rows] == ["C2, collapse", "C2, noise in the span only", "C2, corrupt"]
    assert [row[4].text for row in made[2].rows] == ["46.9 ± 3.1", "46.9 ± 0.0", "50.0 ± 6.2"]
    assert [row[5].text for row in made[2].rows] == ["33.6", "33.6", "50.8"]
    assert [[row[7].text for row in table.rows] for table in made[3:7]] == [  # the paper's ROUGE-L
        *(["47.6", "52.7"], ["51.3", "53.1"], ["53.7", "54.3"], ["54.7", "55.2"]),
    ]
    assert [row[3].text for row in made[7].rows] == ["81.2", "12.1"]


def test_claims_are_differences_of_the_same_seed_the_better_first():
    low = {0.01: {"pairs": {1: {"rouge_l": 0.5, "cider": 0.5}}, "c3": {1: {"rouge_l": 0.75, "cider": 0.25}}}}
    table = _claims(SCORES, low)
    assert table.title == "The paper's claims: C1 < C2 < C3, and texts before pairs"
    assert table.header == ["claim", "difference", "verdict"]
    undecided = "not decided"
    assert texts(table) == [
        ["C2, collapse above C1, connect, ROUGE-L", "+15.6 [-103.5, +134.7]", undecided],
        ["C2, collapse above C1, connect, CIDEr", "+43.8 [-194.5, +282.0]", undecided],
        ["C2, corrupt above C1, connect, ROUGE-L", "+18.8 [+18.8, +18.8]", undecided],
        ["C2, corrupt above C1, connect, CIDEr", "+56.2 [-23.2, +135.7]", undecided],
        ["C3, both above C2, collapse, ROUGE-L", "+3.1 [-116.0, +122.2]", undecided],
        ["C3, both above C2, collapse, CIDEr", "-3.1 [-201.7, +195.4]", undecided],
        ["C3, both above C2, corrupt, ROUGE-L", "+0.0 [-238.2, +238.2]", undecided],
        ["C3, both above C2, corrupt, CIDEr", "-15.6 [-531.8, +500.6]", undecided],
        ["1% of the pairs: texts first above pairs alone, ROUGE-L", "+25.0 [-inf, +inf]", undecided],
        ["1% of the pairs: texts first above pairs alone, CIDEr", "-25.0 [-inf, +inf]", undecided],
    ]
    assert bold(table) == [[]] * 10
    assert table.note == (
        "Paired differences over seeds with their 95 % t interval; verdicts after Holm's correction over all rows."
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


def test_figure_10_shows_what_every_variant_says_of_some_pictures(monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "build_source", lambda data, split: asked.append((data, split)) or Pictures())
    monkeypatch.setattr(tables, "thumbnail", lambda image: f"thumbnail of {image}")
    members = {}
    for name in reversed(VARIANTS):
        # The order of the scores, not that of the data, is what is spaced evenly.
        captions = {f"id{k}": f"{name} of {k}" for k in (29, *range(24))}
        config, tree = SimpleNamespace(seed=7), {"captions": captions}
        members[name] = SimpleNamespace(config=config, read=lambda tree=tree: tree)
    data = DataConfig()
    table = tables.pictures(members, data)
    assert asked == [(data, "test")]
    assert table.title == "Figure 10: what each variant says"
    assert table.header == ["", "people", *VARIANTS.values()]
    shown = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 29]
    assert [row[0] for row in table.rows] == [Cell(f"id{k}", picture=f"thumbnail of {k}") for k in shown]
    assert [cell.text for cell in table.rows[1][1:]] == [
        *("people of 3", "c1 of 3", "c2-collapse of 3", "c2-span of 3", "c2-corrupt of 3", "c3 of 3"),
    ]
    assert table.note == ("Test images, evenly spaced and not picked, seed 7; none of them was seen in training.")
