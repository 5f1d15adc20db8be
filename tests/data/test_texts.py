import pytest

from gapless.data.members import captions_of
from gapless.data.texts import UnreadableTextError, decode_text, split_captions

WESTERN = "Übergröße “a” café, 20°C \u2013 it\u2019s ½ €5\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_of_spreadsheet_programs(encoding):
    text, found = decode_text(WESTERN.encode(encoding))
    assert text == WESTERN
    assert found == {"cp1252": "windows-1252"}.get(encoding, encoding)


def test_both_orders_of_utf_16():
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert decode_text(mark + WESTERN.encode(encoding))[0] == WESTERN
    assert decode_text("naïve".encode("latin-1"))[0] == "naïve"
    assert decode_text(b"")[0] == ""


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("one\ntwo".encode("utf-16-le"), 1),
        (b"\xff\xfea\x00\n\x00b", 2),
        ("a dog\n\u043a\u043e\u0442".encode("cp1251"), 2),
        ("a\nb\nksiążka".encode("cp1250"), 3),
        ("犬です".encode("shift-jis"), 1),
        ("小狗".encode("gbk"), 1),
        ("a café\nété".encode("mac-roman"), 1),
        (b"ok\n\x81\x8d", 2),
    ],
    ids=["no mark", "cut", "Cyrillic", "Polish", "Japanese", "Chinese", "Mac", "undefined"],
)
def test_other_encodings_are_refused_with_their_line(data, line):
    with pytest.raises(UnreadableTextError, match=f"line {line}: .*UTF-8") as caught:
        decode_text(data)
    assert caught.value.line == line


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e"])
def test_a_caption_ends_at_a_line_feed_alone(separator):
    text = f"The photo{separator}shows a dog\r\n\n second \n"
    assert split_captions(text) == (f"The photo{separator}shows a dog", "second")
    assert captions_of("txt", text.encode(), "caption") == split_captions(text)
