"""Numbers and embeddings as tables and figures that people read."""

from gapless.report.figures import embedding_maps
from gapless.report.tables import Column, markdown_table, terminal_table

__all__ = ["Column", "embedding_maps", "markdown_table", "terminal_table"]
