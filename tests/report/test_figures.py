"""Figures, read from matplotlib's own objects: what is drawn where, in which colour, and what the legend calls it."""

import numpy as np
import pytest
import torch
from PIL import Image

from gapless.report import embedding_maps, figures
from gapless.report.figures import draw_panels
from gapless.report.panels import Panel, Series

BLUE, VERMILION = (0.0, 114 / 255, 178 / 255), (213 / 255, 94 / 255, 0.0)


@pytest.fixture
def drawn(monkeypatch):
    """Figures and paths that would be saved."""
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: saved.append((figure, path)))
    return saved


def cloud(n, seed):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 0.6, 0.2, 0.1])
    images = torch.randn(n, 4, generator=generator) * scale
    return images, 0.5 * images + torch.tensor([2.0, 0.0, 1.0, 0.0])


def check_legend(legend, columns):
    """Above the charts, without a frame."""
    assert (legend._ncols, legend.get_frame_on(), legend._outside_loc) == (columns, False, "upper")


def test_a_map_shows_both_sides_on_the_components_of_both_together(drawn, tmp_path):
    images, texts = cloud(150, 0)
    embedding_maps({"a_$x$": (images, texts), "other": cloud(5, 1)}, {"a_$x$": "gap $1"}, tmp_path / "m.png")
    ((figure, path),) = drawn
    assert path == tmp_path / "m.png"
    assert len(figure.axes) == 2
    axes = figure.axes[0]
    # By singular values: coordinates up to the sign of each component.
    both = torch.cat([images, texts]).double()
    left, values, _ = torch.linalg.svd(both - both.mean(dim=0), full_matrices=False)
    expected = (left * values)[:, :2].numpy()
    shown = np.concatenate([np.asarray(points.get_offsets()) for points in axes.collections])
    for k in range(2):
        sign = np.sign(shown[0, k] * expected[0, k])
        np.testing.assert_allclose(shown[:, k], sign * expected[:, k], atol=1e-9)
    assert [len(points.get_offsets()) for points in axes.collections] == [150, 150]
    assert [tuple(points.get_facecolor()[0][:3]) for points in axes.collections] == [BLUE, VERMILION]
    assert [points.get_label() for points in axes.collections] == ["images", "texts"]
    # A line for each second pair of 150, from its image to its text.
    assert len(axes.lines) == 75
    for k in (0, 1, 74):
        np.testing.assert_allclose(axes.lines[k].get_xdata(), shown[[2 * k, 150 + 2 * k], 0])
        np.testing.assert_allclose(axes.lines[k].get_ydata(), shown[[2 * k, 150 + 2 * k], 1])
    limit = 1.08 * np.abs(shown).max()
    assert axes.get_xlim() == pytest.approx((-limit, limit))
    assert axes.get_ylim() == pytest.approx((-limit, limit))
    assert axes.get_aspect() == 1
    assert (list(axes.get_xticks()), list(axes.get_yticks())) == ([], [])
    assert [(a.get_title(), a.get_xlabel()) for a in figure.axes] == [("a_$x$", "gap $1"), ("other", "")]
    assert not any(text.get_parse_math() for text in (axes.title, axes.xaxis.label))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["images", "texts"]
    assert len(figure.axes[1].lines) == 5
    assert {(line.get_color(), line.get_linewidth()) for line in axes.lines} == {("0.75", 0.5)}
    assert [(points.get_sizes()[0], points.get_alpha(), points.get_linewidths()[0]) for points in axes.collections] == [
        *((9, 0.8, 0), (11, 0.8, 0))
    ]
    # A circle has no corners, a triangle three.
    assert [len(points.get_paths()[0].vertices) for points in axes.collections] == [26, 4]
    check_legend(figure.legends[0], 2)
    assert (axes.title.get_fontsize(), axes.spines["top"].get_edgecolor()[0]) == (pytest.approx(9 * 1.2), 0.8)
    below = max(line.get_zorder() for line in axes.lines)
    assert below < min(points.get_zorder() for points in axes.collections)


def test_maps_beyond_four_begin_another_row_and_free_places_are_empty(drawn, tmp_path):
    embedding_maps({str(k): cloud(3, k) for k in range(5)}, {}, tmp_path / "m.png")
    ((figure, _),) = drawn
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 4)
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3
    assert tuple(figure.get_size_inches()) == pytest.approx((13.2, 7.3))
    assert [axes.get_title() for axes in figure.axes] == ["0", "1", "2", "3", "4", "", "", ""]


@pytest.mark.parametrize("outlier", [[-3.0, 0.0], [0.0, 1.5]])
def test_the_limit_is_of_the_larger_axis_and_of_the_sign_that_reaches_further(drawn, tmp_path, outlier):
    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 10 + [outlier])
    embedding_maps({"a": (images, images)}, {}, tmp_path / "m.png")
    axes = drawn[0][0].axes[0]
    shown = np.abs(np.concatenate([np.asarray(points.get_offsets()) for points in axes.collections])).max(axis=0)
    assert shown.argmax() == (1 if outlier[1] else 0)
    assert axes.get_xlim()[1] == axes.get_ylim()[1] == pytest.approx(1.08 * shown.max())


def panels():
    lines = [Series("a", [0.0, 1.0, 2.0], [5.0, 3.0, 4.0], 1), Series("_b$", [0.0, 2.0], [1.0, 2.0], 8)]
    return [
        Panel("left $", "epoch", lines, (0.45, 1.02)),
        Panel("right", "cosine", [Series("a", [0.5], [0.25], 1), Series("c", [0.0, 1.0], [1.0, 0.5], 2, True)]),
    ]


def test_panels_show_each_series_in_its_colour_and_dash(drawn, tmp_path):
    draw_panels(panels(), tmp_path / "p.pdf")
    ((figure, path),) = drawn
    assert path == tmp_path / "p.pdf"
    left, right = figure.axes
    assert [(axes.get_title(), axes.get_xlabel()) for axes in figure.axes] == [("left $", "epoch"), ("right", "cosine")]
    shown = [(list(line.get_xdata()), list(line.get_ydata())) for line in (*left.lines, *right.lines)]
    assert shown == [
        ([0.0, 1.0, 2.0], [5.0, 3.0, 4.0]),
        ([0.0, 2.0], [1.0, 2.0]),
        ([0.5], [0.25]),
        ([0.0, 1.0], [1.0, 0.5]),
    ]
    look = [(line.get_color(), line.get_linestyle()) for line in (*left.lines, *right.lines)]
    assert look == [("#D55E00", "-"), ("#D55E00", "--"), ("#D55E00", "-"), ("#009E73", "-")]
    assert [line.get_marker() for line in (*left.lines, *right.lines)] == ["None", "None", "o", "None"]
    assert left.get_ylim() == (0.45, 1.02)
    assert right.get_ylim() != (0.45, 1.02)
    assert [len(axes.collections) for axes in figure.axes] == [0, 1]  # the filled one
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", " _b$", "c"]
    assert [line.get_color() for line in legend.get_lines()] == ["#D55E00", "#D55E00", "#009E73"]
    assert not any(text.get_parse_math() for text in (*legend.get_texts(), left.title))
    check_legend(legend, 3)
    assert not left.spines["top"].get_visible()
    assert not left.spines["right"].get_visible()
    assert left.title.get_fontsize() == pytest.approx(9 * 1.2)
    assert {line.get_linewidth() for line in left.lines} == {1.3}
    (area,) = right.collections
    assert (tuple(area.get_facecolor()[0]), area.get_linewidth()[0]) == ((0, 158 / 255, 115 / 255, 0.25), 0)
    corners = {tuple(corner) for corner in area.get_paths()[0].vertices}
    assert corners == {(0.0, 0.0), (0.0, 1.0), (1.0, 0.5), (1.0, 0.0)}


def test_panels_of_one_line_need_no_legend_and_five_take_two_rows(drawn, tmp_path):
    draw_panels([Panel(str(k), "", [Series("same", [0.0, 1.0], [0.0, 1.0], 0)]) for k in range(5)], tmp_path / "p.png")
    ((figure, _),) = drawn
    assert figure.legends == []
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3
    assert tuple(figure.get_size_inches()) == pytest.approx((13.2, 5.6))
    lines = [Series(str(k), [0.0, 1.0], [0.0, 1.0], k) for k in range(5)]
    draw_panels([Panel("one", "", lines)], tmp_path / "p.png")
    draw_panels([Panel("one", "", lines[:2])], tmp_path / "p.png")
    assert len(drawn[2][0].legends) == 1
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 4)
    assert drawn[1][0].axes[0].get_subplotspec().get_gridspec().get_geometry() == (1, 1)
    assert drawn[1][0].legends[0]._ncols == 2


def test_the_ending_of_a_name_decides_the_format(tmp_path):
    chart = [Panel("\u65e5\u672c", "", [Series("a", [0.0, 1.0], [0.0, 1.0], 0)])]  # a script without a font is no error
    draw_panels(chart, tmp_path / "new" / "p.pdf")
    draw_panels(chart, tmp_path / "p.png")
    assert (tmp_path / "new" / "p.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (495, 450)  # 150 dots an inch
