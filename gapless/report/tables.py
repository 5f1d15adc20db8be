"""Tables for people: in the terminal, as Markdown, and as LaTeX with booktabs; the best value of a column is marked."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.table import Table as RichTable

from gapless.measures import Direction, measure_of
from gapless.report.escaping import latex, markdown, terminal


class Column(NamedTuple):
    """A metric in a table."""

    metric: str
    title: str
    better: Direction = ""
    """Empty where neither is better."""


class Cell(NamedTuple):
    """What stands in a table."""

    text: str
    best: bool = False
    picture: str = ""
    """Data address of a picture that the page shows for the text."""


@dataclass(frozen=True)
class Table:
    """Header and rows; the first cell of a row is its name."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def markdown(self) -> str:
        """The table alone, without its title."""
        lines = [[markdown(text) for text in self.header], ["---", *("---:" for _ in self.header[1:])]]
        lines += [[f"**{markdown(c.text)}**" if c.best else markdown(c.text) for c in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def section(self) -> str:
        """Title, table and note as a section of a Markdown page."""
        return f"## {markdown(self.title)}\n\n{self.markdown()}\n{markdown(self.note)}\n"

    def latex(self) -> str:
        """A table environment that needs the package booktabs."""
        head = " & ".join(latex(text) for text in self.header)
        body = [
            " & ".join(rf"\textbf{{{latex(c.text)}}}" if c.best else latex(c.text) for c in row) + r" \\"
            for row in self.rows
        ]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex(f'{self.title}. {self.note}'.strip())}}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def terminal(self) -> RichTable:
        """For rich's console."""
        table = RichTable(
            title=terminal(self.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0
        )
        for k, title in enumerate(self.header):
            # Broken by hand, so that seven metrics fit on 80 columns and rich cuts no word.
            lines = textwrap.wrap(title, 10, break_long_words=False)
            table.add_column(terminal("\n".join(lines)), justify="right" if k else "left")
        for row in self.rows:
            table.add_row(*(terminal(cell.text, "bold" if cell.best else "") for cell in row))
        return table


def column_of(metric: str, title: str | None = None, short: bool = False) -> Column:
    """The column of a metric, with the title and the direction of its record.

    Args:
        metric: the name under which rows have it.
        title: another one, where the table says the rest.
        short: whether the title is the short one.
    """
    measure = measure_of(metric)
    return Column(metric, title or (measure.short if short else measure.title), measure.direction)


Rows = Mapping[str, Mapping[str, float]]


def best_row(rows: Rows, column: Column) -> str | None:
    """Name of the row with the best value; None if neither direction is better or no row has the metric."""
    values = {name: scores[column.metric] for name, scores in rows.items() if column.metric in scores}
    if not column.better or not values:
        return None
    return (max if column.better == "high" else min)(values, key=lambda name: values[name])


def score_table(rows: Rows, columns: Sequence[Column], title: str, compared: Sequence[str] | None = None) -> Table:
    """Scores by row and metric; the best of the ``compared`` rows (all, if None) is marked in each column."""
    chosen = {name: rows[name] for name in (compared or rows)}
    best = {c: best_row(chosen, c) if len(chosen) > 1 else None for c in columns}

    def cell(name: str, column: Column) -> Cell:
        value = rows[name].get(column.metric)
        return Cell("-" if value is None else f"{value:.3f}", best[column] == name)

    lines = [[Cell(name), *(cell(name, column) for column in columns)] for name in rows]
    return Table(title, ["", *(column.title for column in columns)], lines)
