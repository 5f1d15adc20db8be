import json

import pytest

from gapless.data.questions import Question, Selection, load_aokvqa, load_sugarcrepe, load_winoground
from gapless.errors import DataError


def test_aokvqas_questions(tmp_path):
    rows = [
        {
            "image_id": 7,
            "question": "What?",
            "choices": ["a", "b", 3],
            "correct_choice_idx": 1,
            "direct_answers": ["x", "y", "x"],
        },
        {"image_id": 123456, "question": "Who?", "choices": ["c"], "correct_choice_idx": 0},
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    first, second = load_aokvqa(tmp_path / "q.json", tmp_path / "images")
    assert first == Question(tmp_path / "images" / "000000000007.jpg", "What?", ("a", "b", "3"), 1, ("x", "y"))
    assert second == Question(tmp_path / "images" / "000000123456.jpg", "Who?", ("c",), 0, ())
    assert first.prompts == ("What? a", "What? b", "What? 3")


def test_sugarcrepes_instances(tmp_path):
    rows = {"0": {"filename": "a.jpg", "caption": "right", "negative_caption": "wrong"}}
    (tmp_path / "s.json").write_text(json.dumps(rows))
    assert load_sugarcrepe(tmp_path / "s.json", tmp_path) == [Selection((tmp_path / "a.jpg",), ("right", "wrong"))]


def test_winogrounds_instances(tmp_path):
    row = {"image_0": "a", "image_1": "b", "caption_0": "one", "caption_1": "two"}
    (tmp_path / "w.jsonl").write_text(json.dumps(row) + "\n\n")
    expected = [Selection((tmp_path / "a.png", tmp_path / "b.png"), ("one", "two"))]
    assert load_winoground(tmp_path / "w.jsonl", tmp_path) == expected


def test_a_line_separator_inside_a_caption_ends_no_line(tmp_path):
    row = {"image_0": "a", "image_1": "b", "caption_0": "one\u2028two", "caption_1": "three"}
    (tmp_path / "examples.jsonl").write_text(
        "\r\n".join([json.dumps(row, ensure_ascii=False)] * 2) + "\n", encoding="utf-8", newline=""
    )
    instances = load_winoground(tmp_path / "examples.jsonl", tmp_path)
    assert [instance.captions for instance in instances] == [("one\u2028two", "three")] * 2


@pytest.mark.parametrize(
    ("load", "name"), [(load_aokvqa, "A-OKVQA"), (load_sugarcrepe, "SugarCrepe"), (load_winoground, "Winoground")]
)
def test_files_of_another_format_are_named(tmp_path, load, name):
    (tmp_path / "x").write_text('[{"other": 1}]' if name != "Winoground" else '{"other": 1}')
    with pytest.raises(DataError, match=rf"x is not {name}'s format"):
        load(tmp_path / "x", tmp_path)
    (tmp_path / "x").write_text("{")
    with pytest.raises(DataError, match=r"x (cannot be read as JSON|is not Winoground's format)"):
        load(tmp_path / "x", tmp_path)
    with pytest.raises(DataError, match="none"):
        load(tmp_path / "none", tmp_path)
