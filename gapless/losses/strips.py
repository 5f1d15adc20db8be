"""Rows in strips, so that what is computed for every pair of a row and a column never stands in memory as a whole."""

STRIP_ELEMENTS = 2**22
"""Numbers of a strip: 16 MiB in float32. With four times as many, sums over 8,000 x 8,000 pairs are no faster."""


def strips(rows: int | slice, columns: int) -> list[slice]:
    """Consecutive slices of the rows, of at most :data:`STRIP_ELEMENTS` numbers each and at least one row.

    Args:
        rows: their number, or the ones that are meant.
        columns: numbers that are held for each row.
    """
    start, stop = (0, rows) if isinstance(rows, int) else (rows.start, rows.stop)
    height = max(1, STRIP_ELEMENTS // columns)
    return [slice(first, min(first + height, stop)) for first in range(start, stop, height)]
