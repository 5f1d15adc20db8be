import io

from rich.console import Console

from gapless.report import Cell, Column, Table, best_row, column_of, score_table

ROWS = {"start": {"gap": 0.0, "recall": 0.9}, "a": {"gap": 0.5, "recall": 0.25}, "b": {"gap": 0.25}}
COLUMNS = (Column("gap", "gap", "low"), Column("recall", "R@1", "high"), Column("gap", "plain"))


def test_the_best_of_the_compared_rows_is_bold():
    assert score_table(ROWS, COLUMNS, "Scores", compared=("a", "b")).markdown().splitlines() == [
        "|  | gap | R@1 | plain |",
        "| --- | ---: | ---: | ---: |",
        "| start | 0.000 | 0.900 | 0.000 |",
        "| a | 0.500 | **0.250** | 0.500 |",
        "| b | **0.250** | - | 0.250 |",
    ]


def test_no_best_without_a_direction_values_or_a_rival():
    assert best_row(ROWS, COLUMNS[2]) is None
    assert best_row({"b": ROWS["b"]}, COLUMNS[1]) is None
    assert "**" not in score_table({"b": ROWS["b"]}, COLUMNS, "Scores").markdown()


def test_latex_is_booktabs_with_its_special_characters_escaped():
    cells = [Cell("model_a"), Cell("0.5 ± 0.1", best=True), Cell("50 %")]
    output = Table("Gap & recall", ["", "T→I", "#"], [cells], "n = 3.").latex()
    assert r" & T$\to$I & \# \\" in output
    assert r"model\_a & \textbf{0.5 $\pm$ 0.1} & 50 \% \\" in output
    assert r"\caption{Gap \& recall. n = 3.}" in output
    assert [output.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", "{lrr}")] == [1, 1, 1, 1]


LATEX = r"""\begin{table}
\centering
\begin{tabular}{lr}
\toprule
 & a\_b \\
\midrule
x & \textbf{1} \\
\bottomrule
\end{tabular}
\caption{Gap.}
\end{table}
"""


def test_a_whole_table_in_each_form():
    table = Table("Gap", ["", "a_b"], [[Cell("x"), Cell("1", best=True)]])
    assert table.latex() == LATEX
    assert table.section() == "## Gap\n\n|  | a_b |\n| --- | ---: |\n| x | **1** |\n\n\n"
    assert Table("Gap", ["", "b"], [], "Note*.").section().endswith("\n\nNote\\*.\n")


def test_the_console_has_the_best_in_bold_and_breaks_long_titles():
    table = Table("Gap", ["", "linear separability"], [[Cell("x"), Cell("0.5", best=True)], [Cell("y"), Cell("0.75")]])
    out = io.StringIO()
    Console(file=out, width=60, force_terminal=True, color_system="standard").print(table.terminal())
    bold = "\x1b[1m{}\x1b[0m".format
    assert out.getvalue().splitlines() == [
        "Gap           ",
        f"{bold(' ')} {bold('      linear')}",
        f"{bold(' ')} {bold('separability')}",
        "\u2500" * 14,
        f"x {bold('         0.5')}",
        "y         0.75",
    ]


def test_rows_that_are_not_compared_are_never_best():
    rows = {"start": {"gap": 0.0}, "a": {"gap": 0.5}}
    assert "**" not in score_table(rows, COLUMNS[:1], "Scores", compared=("a",)).markdown()
    assert "**0.000**" in score_table(rows, COLUMNS[:1], "Scores").markdown()
    assert score_table(rows, COLUMNS[:1], "Scores").title == "Scores"


def test_of_equals_the_first_is_best():
    assert best_row({"a": {"gap": 0.5}, "b": {"gap": 0.5}, "c": {"gap": 0.75}}, COLUMNS[0]) == "a"


def test_columns_have_the_title_and_the_direction_of_the_record():
    assert column_of("val/text_retrieval_recall@5") == Column(
        "val/text_retrieval_recall@5", "image to text R@5", "high"
    )
    assert column_of("text_retrieval_recall@5", short=True).title == "I→T R@5"
    assert column_of("dtd/acc1", "dtd") == Column("dtd/acc1", "dtd", "high")
    assert column_of("unknown") == Column("unknown", "unknown", "")
