import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gapless.eval import retrieval_recall
from gapless.geometry import bootstrap_gap, gap_verdict, whole, whole_gap
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


def test_without_pairs_what_needs_none_is_measured():
    x, y = clouds()
    found = whole_gap(x, y[:300])
    assert {"centroid_distance", "linear_separability", "energy_distance", "cone_text"} <= set(found)
    assert not {"alignment", "mixing@10", "gap_length_mean", "pair_cosine"} & set(found)


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


def test_a_small_centroid_distance_alone_is_no_closed_gap():
    x, y = clouds()
    mixed = whole_gap(x, y)
    assert gap_verdict(mixed)[0] == "closed"
    verdict, checks = gap_verdict(whole_gap(*clouds(offset=2.0)))
    assert verdict == "open"
    assert checks["centroid_distance"].startswith("no: ")
    # Equal centroids, but images and texts lie on different circles: nothing linear separates them, and none mix.
    angle = torch.linspace(0, 2 * math.pi, 401, dtype=torch.float64)[:-1]
    circle, zero = torch.stack([angle.cos(), angle.sin()], dim=1), torch.zeros(400, 2, dtype=torch.float64)
    rings = whole_gap(torch.cat([circle, zero], dim=1), torch.cat([zero, circle], dim=1))
    assert rings["centroid_distance"] < 1e-9
    assert gap_verdict(rings)[0] == "open"


def test_a_collapse_is_no_closed_gap():
    x, y = clouds()
    before = whole_gap(x, y)
    flat = torch.cat([torch.ones(12, 1), torch.zeros(12, 11)], dim=1).double()
    verdict, checks = gap_verdict(whole_gap(*(F.normalize(f @ flat + 1e-3 * f, dim=1) for f in (x, y))), before)
    assert verdict == "collapsed"
    assert "was" in checks["effective_rank"]


def test_the_command_measures_files_and_draws(tmp_path):
    x, y = clouds(offset=0.3)
    np.savez(tmp_path / "both.npz", image=x.numpy().astype(np.float16), text=y.numpy())
    told = run("gap", str(tmp_path / "both.npz"), "--bootstrap=50", "--report", str(tmp_path / "figures"),
               "--output", str(tmp_path / "gap.json"))  # fmt: skip
    tree = json.loads((tmp_path / "gap.json").read_text())
    assert f"{tree['mixing@10']:.4f}" in told
    assert "the gap is open" in told
    assert tree["intervals"]["centroid_distance"][0] < tree["centroid_distance"]
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"gap.png", "gap.pdf", "map.png", "map.pdf"}
    save_file({"image": x.contiguous(), "text": y[:300].contiguous()}, tmp_path / "odd.safetensors")
    told = run("gap", str(tmp_path / "odd.safetensors"))
    assert "400 images and 300 texts are no pairs" in told
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
