import json

from gapless.eval.choices import load_winoground


def test_a_line_separator_inside_a_caption_ends_no_line(tmp_path):
    row = {"image_0": "a", "image_1": "b", "caption_0": "one\u2028two", "caption_1": "three"}
    (tmp_path / "examples.jsonl").write_text(
        "\r\n".join([json.dumps(row, ensure_ascii=False)] * 2) + "\n", encoding="utf-8", newline=""
    )
    instances = load_winoground(tmp_path / "examples.jsonl", tmp_path)
    assert [instance.captions for instance in instances] == [("one\u2028two", "three")] * 2
