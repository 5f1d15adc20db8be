"""From a space to bug-or-feature's geometry tables: which side, which noise and which alpha a cell is of."""

from types import SimpleNamespace

import pytest

from gapless.geometry.robustness import Robustness
from gapless.reproduce.bug_or_feature import geometry
from tests.reproduce.spaces import space, texts


@pytest.fixture
def measured(monkeypatch):
    """Robustness and the gap without computing them; values tell alpha and what was measured."""
    asked = []

    def gap(x, y, method, alpha, epsilon):
        asked.append(("gap", x is images, y is texts_, method, alpha, epsilon))
        return SimpleNamespace(text_shift=f"gap {epsilon}", fit={"share_of_gap": 1 - epsilon})

    def curve(alphas):
        return Robustness(
            tuple(alphas),
            tuple(a + 10 for a in alphas),
            (),
            tuple(a + 20 for a in alphas),
            tuple(a + 30 for a in alphas),
        )

    def robustness(x, y, gap, alphas, sigma, draws, family="gaussian", labels=None):
        asked.append((x is images, y is texts_, gap, tuple(alphas), sigma, draws, family, labels.tolist()))
        return curve(alphas)

    def quantisation(x, y, gap, quantiser, alphas, labels):
        asked.append(
            (x is images, y is texts_, gap, quantiser.keywords, quantiser.func.__name__, alphas, labels.tolist())
        )
        return curve(alphas)

    images, texts_ = space()
    monkeypatch.setattr(geometry, "close_gap", gap)
    monkeypatch.setattr(geometry, "robustness", robustness)
    monkeypatch.setattr(geometry, "quantisation_robustness", quantisation)
    return images, texts_, asked


HEADER = ["robustness, gap open", "closed", "accuracy, gap open", "closed"]
CELLS = ["10.000", "11.000", "20.000", "21.000"]
ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
LABELS = list(range(12))


def test_figure_8_is_by_deviation(measured):
    images, texts_, asked = measured
    table = geometry._curves(images, texts_, 7)
    assert asked == [
        ("gap", True, True, "approximate", 1.0, 0.05),
        *((True, True, "gap 0.05", ALPHAS, sigma, 7, "gaussian", LABELS) for sigma in (0.0125, 0.025, 0.05)),
    ]
    assert (table.title, table.header) == ("Figure 8: Gaussian noise", ["deviation", *HEADER])
    assert texts(table) == [[sigma, *CELLS] for sigma in ("0.0125", "0.025", "0.05")]
    assert table.note == ("Image to text among 12; 0.95 of the gap is moved. Paper: robustness rises, accuracy stays.")


def test_figure_14_is_by_family(measured):
    images, texts_, asked = measured
    table = geometry._families(images, texts_, 7)
    families = ["gaussian", "uniform", "laplace", "rademacher", "student"]
    assert asked[1:] == [(True, True, "gap 0.05", (0.0, 1.0), 0.025, 7, family, LABELS) for family in families]
    assert (table.title, table.header) == ("Figure 14: families of noise", ["noise", *HEADER])
    assert texts(table) == [[family, *CELLS] for family in families]
    assert table.note == "All with deviation 0.025. Paper: the family makes no difference."


def test_figures_18_and_19_are_by_epsilon(measured):
    images, texts_, asked = measured
    table = geometry._epsilons(images, texts_, 7)
    assert asked == [
        row
        for epsilon in (0.01, 0.05, 0.1, 0.2)
        for row in (
            ("gap", True, True, "approximate", 1.0, epsilon),
            (True, True, f"gap {epsilon}", (0.0, 1.0), 0.025, 7, "gaussian", LABELS),
        )
    ]
    assert (table.title, table.header) == ("Figures 18 and 19: Algorithm 1 by epsilon", ["epsilon", *HEADER])
    assert texts(table) == [
        [f"{epsilon} ({share} of the gap)", *CELLS]
        for epsilon, share in (("0.01", "0.99"), ("0.05", "0.95"), ("0.1", "0.90"), ("0.2", "0.80"))
    ]
    assert table.note == (
        "Share of the texts' variance that the move may touch. Paper: below one point of accuracy lost at 0.05."
    )


def test_figure_9_is_by_levels(measured):
    images, texts_, asked = measured
    table = geometry._quantisation(images, texts_)
    assert asked[1:] == [
        (True, True, "gap 0.05", {"levels": levels}, "quantise", (0.0, 0.5, 1.0), LABELS)
        for levels in (64, 128, 256, 512)
    ]
    assert (table.title, table.header) == ("Figure 9: quantisation", ["levels", *HEADER])
    assert texts(table) == [[levels, *CELLS] for levels in ("64", "128", "256", "512")]
    assert (
        table.note == "Images and moved texts on so many levels of [-3, 3]. Paper: robustness rises as the gap closes."
    )


def test_the_figures_of_the_paper_in_their_order(measured):
    images, texts_, _ = measured
    titles = [table.title for table in geometry.geometry_tables(images, texts_, 7)]
    assert [title.partition(":")[0] for title in titles] == ["Figure 8", "Figure 14", "Figures 18 and 19", "Figure 9"]
