"""SIMAT's score against an independent transcription of the official rules, on the real csv layout."""

import csv
import math

import pytest
import torch
import torch.nn.functional as F

from gapless.errors import DataError
from gapless.eval import simat_score
from gapless.eval.metrics.simat import load_edits, load_oracle

WORDS = ("dog", "cat", "man", "grass", "sand")


@pytest.fixture
def tables(tmp_path):
    """transfos.csv and triplets.csv with the official columns, whose dataset_id contradict each other."""
    generator = torch.Generator().manual_seed(5)

    def draw(high):
        return int(torch.randint(high, (1,), generator=generator))

    regions = [1000 + 7 * k for k in range(30)]
    with (tmp_path / "triplets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["region_id", "subj", "rel", "obj", "dataset_id"])
        for k, region in enumerate(regions):
            writer.writerow([region, "man", "on", "grass", (k * 11) % 30])
    names = [
        "",
        "transfo_id",
        "region_id",
        "field",
        "value",
        "target",
        "norm",
        "query_ids",
        "target_ids",
        "dataset_id",
        "norm2",
        "is_test",
    ]
    with (tmp_path / "transfos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for k in range(80):
            value, target = WORDS[draw(5)], WORDS[draw(5)]
            row = [k, k, regions[draw(30)], "obj", value, target, 0.5, draw(12), draw(12), draw(30), 1 + draw(9)]
            writer.writerow([*row, k % 3 == 0])
    images = torch.randn(30, 8, generator=generator)
    words = dict(zip(WORDS, torch.randn(5, 8, generator=generator), strict=True))
    return tmp_path / "transfos.csv", tmp_path / "triplets.csv", images, words, torch.rand(30, 12, generator=generator)


def official(transfos, triplets, images, words, oracle, strength, domain):
    """The official evaluation, row by row: nearest two, the second if the first is the query."""
    with triplets.open() as file:
        position = {row["region_id"]: int(row["dataset_id"]) for row in csv.DictReader(file)}
    with transfos.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["is_test"] == "True") == (domain == "test")]
    images, words = F.normalize(images, dim=1), {w: F.normalize(v, dim=0) for w, v in words.items()}
    weights = [1 / math.sqrt(float(row["norm2"])) for row in rows]
    score = 0.0
    for row, weight in zip(rows, weights, strict=True):
        query = position[row["region_id"]]
        wanted = images[query] + strength * (words[row["target"]] - words[row["value"]])
        first, second = (images @ wanted).topk(2).indices.tolist()
        found = second if first == query else first
        score += 100 * weight / sum(weights) * bool(oracle[found, int(row["target_ids"])] > 0.5)
    return score


@pytest.mark.parametrize("domain", ["dev", "test"])
def test_the_score_is_that_of_the_official_rules(tables, domain):
    transfos, triplets, images, words, oracle = tables
    lambdas = (0.5, 1.0, 2.0)
    found = simat_score(images, words, transfos, triplets, oracle, lambdas, domain)
    for strength in lambdas:
        expected = official(transfos, triplets, images, words, oracle, strength, domain)
        assert 0 < expected < 100
        assert found[strength] == pytest.approx(expected, abs=1e-6)


def test_strips_change_nothing(tables, monkeypatch):
    transfos, triplets, images, words, oracle = tables
    whole = simat_score(images, words, transfos, triplets, oracle)
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 70)
    assert simat_score(images, words, transfos, triplets, oracle) == pytest.approx(whole)


def test_tables_may_be_columns(tables):
    transfos, triplets, images, words, oracle = tables
    columns = []
    for path in (transfos, triplets):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        columns.append({name: [row[name] for row in rows] for name in rows[0]})
    assert simat_score(images, words, *columns, oracle) == simat_score(images, words, transfos, triplets, oracle)


def test_an_edit_that_needs_no_change_finds_its_target():
    # Axes are attributes: image 0 is dog + grass, image 1 cat + grass, image 2 dog + sand.
    images = torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 1, 0], [1.0, 0, 0, 1]])
    words = dict(zip(("dog", "cat", "grass", "sand"), torch.eye(4), strict=True))
    transfos = {
        "region_id": [0, 0],
        "value": ["dog", "grass"],
        "target": ["cat", "sand"],
        "target_ids": [1, 2],
        "norm2": [1, 4],
        "is_test": [False, False],
    }
    triplets = {"region_id": [0, 1, 2], "dataset_id": [0, 1, 2]}
    assert simat_score(images, words, transfos, triplets, torch.eye(3))[1.0] == pytest.approx(100)
    half = torch.eye(3)
    half[2, 2] = 0
    # Weights are norm2^-0.5: 1 and 1/2.
    assert simat_score(images, words, transfos, triplets, half)[1.0] == pytest.approx(100 * 2 / 3)


def test_what_does_not_fit_is_named(tables, tmp_path):
    transfos, triplets, images, words, oracle = tables
    with pytest.raises(DataError, match="29 images, but the oracle knows 30"):
        simat_score(images[:29], words, transfos, triplets, oracle)
    with pytest.raises(DataError, match="no features for the words dog"):
        simat_score(images, {w: v for w, v in words.items() if w != "dog"}, transfos, triplets, oracle)
    with pytest.raises(DataError, match="transfos: no column 'value'"):
        load_edits(triplets, triplets)
    with pytest.raises(DataError, match="cannot be read"):
        load_edits(tmp_path / "none.csv", triplets)


def test_the_oracle_runs_no_code(tmp_path):
    torch.save(torch.rand(3, 4), tmp_path / "good.pt")
    assert load_oracle(tmp_path / "good.pt").shape == (3, 4)
    torch.save({"oracle": print}, tmp_path / "bad.pt")
    (tmp_path / "text.pt").write_text("no tensor")
    for name in ("bad.pt", "text.pt", "missing.pt"):
        with pytest.raises(DataError, match=name):
            load_oracle(tmp_path / name)
