"""A title and tables as Markdown, as LaTeX, and on the console."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gapless.report.escaping import markdown, terminal
from gapless.report.tables import Table
from gapless.run_folder import write_text


def markdown_of(title: str, tables: Sequence[Table], notes: Sequence[str] = (), end: str = "") -> str:
    """A Markdown page.

    Args:
        title: of the page.
        tables: a section each.
        notes: quoted above the tables.
        end: Markdown that follows the tables.
    """
    quoted = "".join(f"> {markdown(note)}\n\n" for note in notes)
    return f"# {markdown(title)}\n\n{quoted}" + "\n".join(table.section() for table in tables) + end


def latex_of(tables: Sequence[Table]) -> str:
    """Table environments that need the package booktabs."""
    return "\n".join(table.latex() for table in tables)


def write_document(output: Path, name: str, title: str, tables: Sequence[Table], end: str = "") -> Path:
    """Write NAME.md and NAME.tex; the path of the first.

    Raises:
        DataError: they cannot be written.
    """
    path = output / f"{name}.md"
    write_text(path, markdown_of(title, tables, end=end))
    write_text(output / f"{name}.tex", latex_of(tables))
    return path


def print_tables(tables: Sequence[Table], width: int) -> None:
    """Titles, tables and notes on the console, which is taken to be at least so wide."""
    console = Console(width=max(Console().width, width))
    for table in tables:
        # A table breaks its title to its own width.
        console.print(terminal(table.title), replace(table, title="").terminal(), terminal(table.note))
