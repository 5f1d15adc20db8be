import pytest
import torch

from gapless.geometry.spectrum import principal_axes, scatter

POINTS = torch.tensor([[4.0, 1.0], [0.0, 1.0], [2.0, 2.0], [2.0, 0.0]])  # around (2, 1), 8 along x and 2 along y


def test_axes_of_a_cross_by_hand():
    squares, directions = principal_axes(POINTS)
    assert squares.tolist() == pytest.approx([8, 2])
    torch.testing.assert_close(directions.abs(), torch.eye(2, dtype=torch.float64))


def test_axes_are_those_of_the_singular_value_decomposition(unit):
    x = unit(40, 6) * torch.arange(1, 7) + 3
    squares, directions = principal_axes(x)
    _, singular, rows = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(squares, singular.square(), rtol=1e-10, atol=0)
    torch.testing.assert_close((directions.T @ rows.T).abs(), torch.eye(6).double(), rtol=0, atol=1e-9)


def test_rows_beyond_a_strip_count_once(unit, monkeypatch):
    x = unit(31, 4) + 1
    whole = scatter(x)
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 5 * 4)
    torch.testing.assert_close(scatter(x), whole, rtol=1e-13, atol=1e-13)
    centred = x - x.mean(dim=0)
    torch.testing.assert_close(whole, centred.T @ centred, rtol=1e-12, atol=1e-12)
