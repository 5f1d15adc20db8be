import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gapless.eval import retrieval_recall
from gapless.geometry import (
    bootstrap_gap,
    centroid_distance,
    cosine_statistics,
    effective_dimension,
    effective_rank,
    gap_metrics,
    gap_statistics,
    linear_separability,
    whole,
    whole_gap,
)
from gapless.geometry.distribution import distribution_gap, linear_cka
from gapless.geometry.neighbours import mixing, mutual_knn, pair_neighbours
from gapless.losses import intra_uniformity
from tests.runs import run


def clouds(n=400, d=12, offset=0.0, noise=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = x + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)
    shift = torch.zeros(d, dtype=torch.float64)
    shift[0] = offset
    return F.normalize(x + shift, dim=1), F.normalize(y - shift, dim=1)


def test_nothing_depends_on_rotation_and_little_on_precision():
    x, y = clouds()
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    whole, turned = whole_gap(x, y), whole_gap(x @ rotation, y @ rotation)
    assert turned == pytest.approx(whole, rel=1e-4, abs=1e-6)
    single = whole_gap(x.float(), y.float())
    assert single == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_what_does_not_know_which_side_is_image_survives_the_swap():
    x, y = clouds(offset=0.5)
    whole, swapped = whole_gap(x, y), whole_gap(y, x)
    for name in ("centroid_distance", "pair_cosine", "relative_modality_gap", "mixing@10", "energy_distance", "cka"):
        assert swapped[name] == pytest.approx(whole[name], rel=1e-6), name
    assert swapped["cone_text"] == pytest.approx(whole["cone_image"])
    order = torch.randperm(len(x))
    assert whole_gap(x[order], y[order])["mixing@10"] == pytest.approx(whole["mixing@10"])


def lopsided(n):
    """Images in fewer dimensions than texts, which crowd."""
    x, y = clouds(n, 6, offset=0.4, noise=0.8)
    return F.normalize(x * torch.tensor([1, 1, 1, 0, 0, 0]), dim=1), F.normalize(y + 0.5, dim=1)


def union(x, y):
    return effective_rank(torch.cat([x - x.mean(dim=0), y - y.mean(dim=0)]))


def test_the_whole_picture_is_made_of_its_parts(monkeypatch):
    x, y = lopsided(320)
    monkeypatch.setattr(whole, "PAIRWISE", 310)
    monkeypatch.setattr(whole, "SAMPLE", 60)
    found = whole_gap(x, y, gamma=0.8, definition="code", temperature=0.5, seed=3)
    order = torch.randperm(320, generator=torch.Generator().manual_seed(3))
    most, few = (x[order[:310]], y[order[:310]]), (x[order[:60]], y[order[:60]])
    distance = centroid_distance(x, y)
    expected = gap_metrics(*most, 3) | {
        "centroid_distance": distance,
        "centroid_distance_squared": distance**2,
        "effective_dim_image": effective_dimension(x, 0.8),
        "effective_dim_text": effective_dimension(y, 0.8),
        "effective_rank_image": effective_rank(x),
        "effective_rank_text": effective_rank(y),
        "effective_rank_union": union(x, y),
        "alignment": float((x - y).square().sum(dim=1).mean()),
        "num_sampled": 60,
        "mutual_knn@10": mutual_knn(*few),
        "cka": linear_cka(*few),
        **cosine_statistics(x, y),
        **gap_statistics(x, y, 100, "code", 3),
        **distribution_gap(*few),
        **pair_neighbours(*few, 0.5),
        **mixing(*few),
    }
    assert found == pytest.approx(expected)
    sides = [(name, name.replace("image", "text")) for name in found if name.endswith("_image")]
    assert len(sides) == 5
    for image, text in sides:
        assert found[image] != pytest.approx(found[text], rel=0.05), image


def test_without_pairs_what_needs_none_is_measured(monkeypatch):
    x, y = lopsided(320)
    y = y[:90]
    monkeypatch.setattr(whole, "PAIRWISE", 310)
    monkeypatch.setattr(whole, "SAMPLE", 60)
    found = whole_gap(x, y, seed=3)
    few, some = (side[torch.randperm(n, generator=torch.Generator().manual_seed(3))[:m]]
                 for side, n, m in ((x, 320, 60), (y, 90, 60)))  # fmt: skip
    most = x[torch.randperm(320, generator=torch.Generator().manual_seed(3))[:310]]
    spread = float(intra_uniformity(most)), float(intra_uniformity(y))
    distance = centroid_distance(x, y)
    expected = {
        "centroid_distance": distance,
        "centroid_distance_squared": distance**2,
        "linear_separability": linear_separability(most, y, 3),
        "uniformity_image": spread[0],
        "uniformity_text": spread[1],
        "uniformity": sum(spread) / 2,
        "effective_dim_image": effective_dimension(x),
        "effective_dim_text": effective_dimension(y),
        "effective_rank_image": effective_rank(x),
        "effective_rank_text": effective_rank(y),
        "effective_rank_union": union(x, y),
        "num_sampled": 60,
        **cosine_statistics(x, y),
        **distribution_gap(few, some),
    }
    assert found == pytest.approx(expected)
    assert "gap_length_mean" not in whole_gap(x[:299], x[:299])
    assert "gap_length_mean" in whole_gap(x[:300], x[:300])


def test_the_interval_of_a_mean_is_the_normal_one():
    x, y = clouds(n=2000)
    low, high = bootstrap_gap(x, y, 800)["alignment"]
    values = (x - y).square().sum(dim=1)
    half = 1.96 * float(values.std()) / math.sqrt(2000)
    assert low == pytest.approx(float(values.mean()) - half, abs=0.15 * half)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.15 * half)
    whole = whole_gap(x, y)
    for name, (low, high) in bootstrap_gap(x, y, 200).items():
        if name != "centroid_distance":  # whose resamples lie higher: it cannot be negative
            assert low < whole[name] < high


def test_a_resample_compares_no_pair_with_its_copy():
    x, y = lopsided(12)
    found = bootstrap_gap(x, y, 1, seed=4)
    drawn = torch.randint(12, (12,), generator=torch.Generator().manual_seed(4))
    others = drawn[:, None] != drawn
    assert others.sum() < 12 * 11  # some are drawn twice
    x, y = x[drawn], y[drawn]
    expected = {
        "centroid_distance": float((x.mean(dim=0) - y.mean(dim=0)).norm()),
        "alignment": float((x - y).square().sum(dim=1).mean()),
        "pair_cosine": float((x * y).sum(dim=1).mean()),
        "non_pair_cosine": float((x @ y.T)[others].mean()),
        "cone_image": float((x @ x.T)[others].mean()),
        "cone_text": float((y @ y.T)[others].mean()),
    }
    assert {name: low for name, (low, _) in found.items()} == pytest.approx(expected)
    assert {name: high for name, (_, high) in found.items()} == pytest.approx(expected)


def test_the_ends_of_an_interval_are_quantiles_of_the_resamples():
    x, y = lopsided(12)
    every = [bootstrap_gap(x, y, 3, level, seed=2)["alignment"] for level in (0.0, 0.5, 1.0)]
    generator = torch.Generator().manual_seed(2)
    pairs = (x - y).square().sum(dim=1)
    values = sorted(float(pairs[torch.randint(12, (12,), generator=generator)].mean()) for _ in range(3))
    low, middle, high = values
    expected = [(middle, middle), ((low + middle) / 2, (middle + high) / 2), (low, high)]
    assert every == [pytest.approx(ends) for ends in expected]


def test_the_command_measures_files_and_draws(tmp_path):
    x, y = clouds(offset=0.3)
    np.savez(tmp_path / "both.npz", image=x.numpy().astype(np.float16), text=y.numpy())
    printed = run("gap", str(tmp_path / "both.npz"), "--bootstrap=50", "--report", str(tmp_path / "figures"),
               "--output", str(tmp_path / "gap.json"))  # fmt: skip
    tree = json.loads((tmp_path / "gap.json").read_text())
    assert f"{tree['mixing@10']:.4f}" in printed
    assert "the gap is open" in printed
    assert tree["intervals"]["centroid_distance"][0] < tree["centroid_distance"]
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"gap.png", "gap.pdf", "map.png", "map.pdf"}
    save_file({"image": x.contiguous(), "text": y[:300].contiguous()}, tmp_path / "odd.safetensors")
    printed = run("gap", str(tmp_path / "odd.safetensors"))
    assert "400 images and 300 texts are no pairs" in printed
    assert "verdict" not in run("gap", str(tmp_path / "odd.safetensors"), "--json")


def test_a_part_of_a_file_is_read_where_it_lies(tmp_path):
    x, y = clouds(n=500)
    for name, side in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", side.numpy())
    command = ("gap", "--images", str(tmp_path / "x.npy"), "--texts", str(tmp_path / "y.npy"), "--rows=100", "--json")
    found = json.loads("{" + run(*command).partition("{")[2])
    assert found["num_images"] == 100
    assert found["text_retrieval_recall@1"] > 0.9  # the same rows of both


def test_wrong_input_is_one_line(tmp_path):
    x, y = clouds(n=20)
    np.savez(tmp_path / "odd.npz", a=x.numpy(), b=y.numpy())
    assert "has the arrays a, b, and none is called image" in run("gap", str(tmp_path / "odd.npz"), code=3)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y[:, :7].numpy())
    command = ("gap", "--images", str(tmp_path / "x.npy"), "--texts", str(tmp_path / "y.npy"))
    assert "has 12 dimensions" in run(*command, code=3)
    assert "kept no embeddings" in run("gap", str(tmp_path), code=3)
    assert "SOURCE" in run("gap", code=2)
    assert "gamma: 2 does not work" in run(*command, "--gamma=2", code=2)


def test_constant_columns_and_duplicates_give_the_right_numbers():
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(120, 8, generator=generator), dim=1) for _ in range(2))
    wide = [torch.cat([side * 0.6, torch.full((120, 4), 0.4)], dim=1) for side in (x, y)]  # still of length 1
    narrow, found = whole_gap(x, y), whole_gap(*wide)
    assert all(math.isfinite(value) for value in found.values())
    assert found["centroid_distance"] == pytest.approx(0.6 * narrow["centroid_distance"], rel=1e-5)
    for same in ("mixing@1", "mixing@10", "mutual_knn@10", "effective_rank_image", "cka", "relative_alignment"):
        assert found[same] == pytest.approx(narrow[same], rel=1e-5)
    assert found["cone_image"] == pytest.approx(0.36 * narrow["cone_image"] + 0.64, abs=1e-6)
    twice = whole_gap(x.repeat(2, 1), y.repeat(2, 1))
    assert twice["centroid_distance"] == pytest.approx(narrow["centroid_distance"], rel=1e-5)
    assert twice["mixing@1"] == 1  # everybody's nearest is its copy
    assert twice["effective_rank_text"] == pytest.approx(narrow["effective_rank_text"], rel=1e-5)
    recall = retrieval_recall(x.repeat(2, 1), y.repeat(2, 1))
    assert recall["text_retrieval_recall@1"] <= retrieval_recall(x, y)["text_retrieval_recall@1"]  # ties cannot win


def test_large_sets_are_measured_on_random_rows_and_their_sums_exactly(monkeypatch):
    x, y = clouds(2000, offset=0.4)
    exact = whole_gap(x, y)
    monkeypatch.setattr(whole, "PAIRWISE", 1000)
    monkeypatch.setattr(whole, "SAMPLE", 500)
    found = whole_gap(x, y)
    assert (exact["num_sampled"], found["num_sampled"]) == (2000, 500)
    for name in ("centroid_distance", "alignment", "pair_cosine", "effective_dim_image", "gap_length_mean"):
        assert found[name] == exact[name]
    for name in ("uniformity_image", "uniformity_text", "cross_uniformity"):
        assert found[name] != exact[name]
        assert found[name] == pytest.approx(exact[name], abs=0.02)
    assert found["linear_separability"] == pytest.approx(exact["linear_separability"], abs=0.05)
