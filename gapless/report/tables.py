"""Tables of metrics: for the terminal and as Markdown, the best value of a column marked."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table


class Column(NamedTuple):
    """A metric in a table."""

    metric: str
    title: str
    better: str = ""
    """``high``, ``low``, or empty where neither is better."""


Rows = Mapping[str, Mapping[str, float]]


def best_row(rows: Rows, column: Column) -> str | None:
    """Name of the row with the best value; None if neither direction is better or no row has the metric."""
    values = {name: scores[column.metric] for name, scores in rows.items() if column.metric in scores}
    if not column.better or not values:
        return None
    return (max if column.better == "high" else min)(values, key=lambda name: values[name])


def _cell(scores: Mapping[str, float], column: Column) -> str:
    return f"{scores[column.metric]:.3f}" if column.metric in scores else "-"


def terminal_table(rows: Rows, columns: Sequence[Column], title: str, compared: Sequence[str]) -> Table:
    """A rich table; the best of the ``compared`` rows is bold in each column."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("")
    best = {c: best_row({n: rows[n] for n in compared}, c) for c in columns}
    for column in columns:
        # Broken by hand, so that seven metrics fit on 80 columns and rich cuts no word.
        table.add_column("\n".join(textwrap.wrap(column.title, 10, break_long_words=False)), justify="right")
    for name, scores in rows.items():
        table.add_row(name, *(f"[bold]{_cell(scores, c)}[/]" if best[c] == name else _cell(scores, c) for c in columns))
    return table


def markdown_table(rows: Rows, columns: Sequence[Column], compared: Sequence[str]) -> str:
    """The same table in Markdown."""
    best = {c: best_row({n: rows[n] for n in compared}, c) for c in columns}
    lines = [["", *(c.title for c in columns)], ["---", *("---:" for _ in columns)]]
    for name, scores in rows.items():
        lines.append([name, *(f"**{_cell(scores, c)}**" if best[c] == name else _cell(scores, c) for c in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
