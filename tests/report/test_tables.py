from gapless.report import Column, markdown_table
from gapless.report.tables import best_row

ROWS = {"start": {"gap": 0.0, "recall": 0.9}, "a": {"gap": 0.5, "recall": 0.25}, "b": {"gap": 0.25}}
COLUMNS = (Column("gap", "gap", "low"), Column("recall", "R@1", "high"), Column("gap", "plain"))


def test_the_best_of_the_compared_rows_is_bold():
    assert markdown_table(ROWS, COLUMNS, compared=("a", "b")).splitlines() == [
        "|  | gap | R@1 | plain |",
        "| --- | ---: | ---: | ---: |",
        "| start | 0.000 | 0.900 | 0.000 |",
        "| a | 0.500 | **0.250** | 0.500 |",
        "| b | **0.250** | - | 0.250 |",
    ]


def test_no_best_without_a_direction_or_values():
    assert best_row(ROWS, COLUMNS[2]) is None
    assert best_row({"b": ROWS["b"]}, COLUMNS[1]) is None
