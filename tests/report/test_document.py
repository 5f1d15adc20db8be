from gapless.report import Cell, Table, print_tables, write_document
from gapless.report.document import latex_of, markdown_of

TABLES = [Table("One", ["", "a"], [[Cell("x"), Cell("1", best=True)]], "First."), Table("Two_", [""], [])]


def test_a_page_has_title_notes_tables_and_an_end():
    assert markdown_of("A *b*", TABLES, ["n|o", "p"], "\nend\n") == (
        "# A \\*b\\*\n\n> n\\|o\n\n> p\n\n"
        "## One\n\n|  | a |\n| --- | ---: |\n| x | **1** |\n\nFirst.\n"
        "\n## Two\\_\n\n|  |\n| --- |\n\n\n"
        "\nend\n"
    )
    assert markdown_of("A", []) == "# A\n\n"
    assert latex_of(TABLES) == f"{TABLES[0].latex()}\n{TABLES[1].latex()}"


def test_a_document_is_two_files(tmp_path):
    assert write_document(tmp_path / "new", "paper", "Title", TABLES, "end\n") == tmp_path / "new" / "paper.md"
    assert (tmp_path / "new" / "paper.md").read_text() == markdown_of("Title", TABLES, end="end\n")
    assert (tmp_path / "new" / "paper.tex").read_text() == latex_of(TABLES)
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_the_console_has_titles_and_notes_beside_the_tables(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    long = "a note that is longer than twenty columns are wide"
    print_tables([Table("A title that is longer than its table", ["", "a"], [[Cell("x"), Cell("1")]], long)], 60)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        *("A title that is longer than its table", "  a", "\u2500" * 3, "x 1", long),
    ]
    print_tables([Table("", [""], [], long)], 10)
    assert long not in capsys.readouterr().out  # the console's own width
    monkeypatch.setenv("COLUMNS", "80")
    print_tables([Table("", [""], [], long)], 10)
    assert long in capsys.readouterr().out
