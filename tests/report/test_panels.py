"""Charts as data: which run, which side and which values a line has."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gapless.eval import Embeddings
from gapless.report import RunRecord
from gapless.report.panels import Panel, Series, as_plotly, cosines, curves, spectra, style, variance


def record(name, rows):
    return RunRecord(name, Path(name), {}, rows)


def features(scale_of_texts=(3.0, 1.0, 1.0), n=40, seed=0):
    """Images spread as 2, 2, 1 along the axes, texts as given."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, generator=generator) * torch.tensor([2.0, 2.0, 1.0])
    texts = torch.randn(n, 3, generator=generator) * torch.tensor(scale_of_texts)
    return Embeddings(images, texts, torch.arange(n), [])


def shares(cloud):
    values = torch.linalg.svdvals((cloud - cloud.mean(dim=0)).double()) ** 2
    return (values / values.sum()).tolist()


def test_curves_are_the_runs_over_each_other_main_metrics_first():
    one = record("one", [{"epoch": 0, "val/zero": 1.0, "val/seconds": 9.0, "val/alignment": 4.0}])
    two = record(
        "two",
        [
            {"epoch": 0, "train/loss": 3.0, "train/data_time": 1.0, "val/linear_separability": 0.9},
            {"epoch": 2, "train/loss": 1.0, "val/alignment": 5.0, "val/centroid_distance": 0.5, "val/none": None},
        ],
    )
    assert list(curves([one, two])) == [
        Panel("val/centroid_distance", "epoch", [Series("two", [2.0], [0.5], 1)]),
        Panel("val/linear_separability", "epoch", [Series("two", [0.0], [0.9], 1)], (0.45, 1.02)),
        Panel("val/alignment", "epoch", [Series("one", [0.0], [4.0], 0), Series("two", [2.0], [5.0], 1)]),
        Panel("train/loss", "epoch", [Series("two", [0.0, 2.0], [3.0, 1.0], 1)]),
        Panel("val/zero", "epoch", [Series("one", [0.0], [1.0], 0)]),
    ]


def test_variance_has_images_texts_and_their_mean_in_the_colours_of_the_runs():
    one, two = features(), features((1.0, 5.0, 1.0), seed=1)
    panels = variance({"two": two, "one": one}, ["zero", "one", "two"])
    titles = ["images", "texts", "mean of both"]
    assert [panel.title for panel in panels] == [f"cumulative explained variance, {side}" for side in titles]
    assert {(panel.x_title, panel.y_range) for panel in panels} == {("components", (0, 1.02))}
    assert [[(s.name, s.style, s.x) for s in panel.series] for panel in panels] == [
        [("two", 2, [0.0, 1.0, 2.0, 3.0]), ("one", 1, [0.0, 1.0, 2.0, 3.0])]
    ] * 3
    for line, cloud in zip(panels[0].series, (two.image, one.image), strict=True):
        a, b, c = shares(cloud)
        assert line.y == pytest.approx([0, a, a + b, a + b + c], abs=2e-5)
    for line, cloud in zip(panels[1].series, (two.text, one.text), strict=True):
        a, b, c = shares(cloud)
        assert line.y == pytest.approx([0, a, a + b, a + b + c], abs=2e-5)
    image, text = shares(two.image), shares(two.text)
    assert panels[2].series[0].y[1] == pytest.approx((image[0] + text[0]) / 2, abs=2e-5)


def test_spectra_are_relative_to_the_largest_singular_value():
    cloud = features((9.0, 3.0, 1.0))
    values, totals = spectra(cloud)
    assert (values.title, values.x_title, values.y_range) == (
        *("singular values (log10, of the largest)", "component", None),
    )
    assert (totals.title, totals.x_title, totals.y_range) == ("cumulative explained variance", "components", (0, 1.02))
    for k, (name, side) in enumerate((("images", cloud.image), ("texts", cloud.text))):
        line, total = values.series[k], totals.series[k]
        assert (line.name, line.style, line.x) == (name, k, [1.0, 2.0, 3.0])
        assert (total.name, total.style, total.x) == (name, k, [1.0, 2.0, 3.0])
        singular = torch.linalg.svdvals((side - side.mean(dim=0)).double())
        assert line.y == pytest.approx((singular / singular[0]).log10().tolist(), abs=1e-6)
        a, b, c = shares(side)
        assert total.y == pytest.approx([a, a + b, a + b + c])


def test_a_direction_without_variance_is_far_below_and_finite():
    flat = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])
    values, _ = spectra(Embeddings(flat, flat, torch.arange(3), []))
    assert values.series[0].y == pytest.approx([0, -8])
    still = torch.ones(3, 2)
    assert spectra(Embeddings(still, still, torch.arange(3), []))[0].series[0].y == [0, 0]


def test_cosines_of_pairs_and_of_all_others():
    images = torch.eye(3)
    texts = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]), dim=1)
    panel = cosines("run", Embeddings(images, texts, torch.arange(3), []))
    assert (panel.title, panel.x_title, panel.y_range) == ("run", "cosine", None)
    pairs, others = panel.series
    assert [(s.name, s.style, s.filled) for s in panel.series] == [("pairs", 0, True), ("non-pairs", 1, True)]
    assert len(pairs.x) == 60
    assert pairs.x == others.x
    assert pairs.x[0] == pytest.approx(1 / 120, abs=1e-4)
    assert pairs.x[-1] == pytest.approx(1 - 1 / 120, abs=1e-4)
    # Densities over a range of 1 in 60 bins: pairs have cosines 1, 0.8, 1; the six others 0.6 and five zeros.
    assert {k: v for k, v in enumerate(pairs.y) if v} == {48: 20, 59: 40}
    assert {k: v for k, v in enumerate(others.y) if v} == {0: 50, 36: 10}


def test_the_histogram_reaches_from_the_least_to_the_largest_cosine():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[-0.5, 0.0], [0.0, 0.25]])
    panel = cosines("run", Embeddings(images, texts, torch.arange(2), []))
    width = 0.75 / 60
    assert panel.series[0].x[0] == pytest.approx(-0.5 + width / 2, abs=1e-4)
    assert panel.series[0].x[-1] == pytest.approx(0.25 - width / 2, abs=1e-4)
    equal = cosines("run", Embeddings(images, images * 0, torch.arange(2), []))  # all cosines are 0
    assert equal.series[0].x[-1] == pytest.approx(1e-3, abs=1e-4)
    assert sum(equal.series[1].y) == pytest.approx(60 / 1e-3, rel=1e-3)


def test_non_pairs_are_of_the_first_thousand_rows_alone():
    images = torch.zeros(1030, 2)
    images[:, 0] = 1
    texts = images.clone()
    texts[1024:] = torch.tensor([-1.0, 0.0])
    panel = cosines("run", Embeddings(images, texts, torch.arange(1030), []))
    assert panel.series[0].y[0] > 0  # the last pairs, at -1
    assert panel.series[1].y[0] == 0  # no image of the first 1,024 meets their texts


def test_colours_come_round_with_another_dash():
    assert [style(k) for k in (0, 1, 6, 7, 27, 28)] == [
        ("#0072B2", "solid"),
        ("#D55E00", "solid"),
        ("#7F7F7F", "solid"),
        ("#0072B2", "dash"),
        ("#7F7F7F", "dashdot"),
        ("#0072B2", "solid"),
    ]


def test_charts_of_the_page_have_the_lines_of_the_panel():
    lines = [Series("a<b>", [0.0, 1.0], [5.0, 3.0], 8), Series("point", [2.0], [4.0], 1)]
    tree = as_plotly(Panel("title", "epoch &", lines, (0.45, 1.02)))
    assert [(list(t["x"]), list(t["y"]), t["name"], t["mode"]) for t in tree["data"]] == [
        ([0.0, 1.0], [5.0, 3.0], "a&lt;b&gt;", "lines"),
        ([2.0], [4.0], "point", "markers"),
    ]
    assert [t["line"] for t in tree["data"]] == [
        {"color": "#D55E00", "dash": "dash", "width": 1.8},
        {"color": "#D55E00", "dash": "solid", "width": 1.8},
    ]
    assert not any("fill" in t for t in tree["data"])
    assert tree["layout"]["showlegend"] is False
    assert tree["layout"]["xaxis"]["title"]["text"] == "epoch &"
    assert list(tree["layout"]["yaxis"]["range"]) == [0.45, 1.02]
    assert tree["layout"]["template"] == {}
    filled = as_plotly(Panel("title", "cosine", [Series("a", [0.0, 1.0], [0.0, 1.0], 0, True), *lines]))
    assert filled["data"][0]["fill"] == "tozeroy"
    assert filled["layout"]["showlegend"] is True
    assert "yaxis" not in filled["layout"]


def test_the_largest_values_of_a_histogram_are_rounded():
    cloud = Embeddings(torch.eye(3), F.normalize(torch.rand(3, 3), dim=1), torch.arange(3), [])
    for line in cosines("run", cloud).series:
        assert all(math.isclose(v, round(v, 4)) for v in (*line.x, *line.y))
