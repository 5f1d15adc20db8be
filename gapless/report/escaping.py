"""Texts of users as they are, whatever they hold, in Markdown, LaTeX, on the console and in a page's data."""

import json
import re
from typing import Any

from rich.text import Text

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After the end of a row these would be its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "→": r"$\to$",
}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKS = re.compile(r"[\\`*\[\]|~^$#{}!]|(?<![^\W_])_|_(?![^\W_])|[&<>]")
"""What Markdown or its dialects read as more than a character; an underscore inside of a word is none."""


def in_a_line(text: str) -> str:
    """The text with every kind of space as a blank, and control characters and broken ones as their escapes."""
    spaced = re.sub(r"\s", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in spaced)


def markdown(text: str) -> str:
    """For a paragraph, a heading or a cell of a table in GitHub's and pandoc's Markdown."""
    return _MARKS.sub(lambda match: _MARKDOWN.get(match[0], f"\\{match[0]}"), in_a_line(text))


def latex(text: str) -> str:
    """For LaTeX outside of math."""
    return "".join(_LATEX.get(c, c) for c in in_a_line(text))


def terminal(text: str, style: str = "") -> Text:
    """For rich, without its markup and names of emoji."""
    return Text("\n".join(map(in_a_line, text.split("\n"))), style)


def script(tree: Any) -> str:
    """JSON for a script element of a page: no character in it can end the element or begin a comment.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(tree, allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def chart(text: str) -> str:
    """For plotly, which reads a few tags and entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
