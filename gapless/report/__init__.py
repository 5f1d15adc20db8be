"""Numbers and embeddings as tables, figures and pages that people read."""

from gapless.report.document import print_tables, write_document
from gapless.report.figures import embedding_maps
from gapless.report.page import write_report
from gapless.report.runs import METRICS, RunRecord, load_run
from gapless.report.tables import Cell, Column, Table, best_row, column_of, score_table

__all__ = [
    "METRICS",
    "Cell",
    "Column",
    "RunRecord",
    "Table",
    "best_row",
    "column_of",
    "embedding_maps",
    "load_run",
    "print_tables",
    "score_table",
    "write_document",
    "write_report",
]
