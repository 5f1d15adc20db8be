import pytest

from gapless.losses.strips import strips


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (7, 5, [(0, 2), (2, 4), (4, 6), (6, 7)]),
        (4, 5, [(0, 2), (2, 4)]),
        (slice(3, 8), 4, [(3, 6), (6, 8)]),
        (3, 99, [(0, 1), (1, 2), (2, 3)]),
        (3, 1, [(0, 3)]),
        (0, 5, []),
    ],
)
def test_strips_hold_at_most_so_many_numbers_and_every_row_once(rows, columns, expected, monkeypatch):
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 12)
    assert [(strip.start, strip.stop) for strip in strips(rows, columns)] == expected
