"""The walk over a tar file, against Python's tarfile where both can read it."""

import io
import tarfile

import pytest

from gapless.data.tar import Damage, TarMember, read_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "a/" * 70 + "é" * 30 + ".txt"


def tar_of(members, form=tarfile.PAX_FORMAT, **changes):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


SMALL = [(f"{k}.txt", bytes([65 + k]) * (k * 300)) for k in range(6)]


class Forward(io.RawIOBase):
    """A stream that cannot be sought, and gives few bytes at a time."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def read(self, size=-1):
        return self.inner.read(min(size, 3000))


def walk(data):
    """What is found, the same by position and as a stream."""
    found = [list(read_tar(file, lambda name: True)) for file in (io.BytesIO(data), Forward(data))]
    assert found[0] == found[1]
    for each in found[0]:
        if isinstance(each, TarMember) and not each.problem:
            assert data[each.offset : each.offset + each.size] == each.content
    return found[0]


def names(found):
    return [each.name if isinstance(each, TarMember) else each.detail for each in found]


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_members_as_tarfile(form):
    members = [*SMALL, (LONG if form != "ustar" else "b" * 90 + "/" + "c" * 90 + ".txt", b"words")]
    data = tar_of(members, FORMATS[form])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(i.name, i.offset_data, i.size) for i in tar]
    assert [(m.name, m.offset, m.size) for m in walk(data)] == expected
    assert [m.content for m in walk(data)] == [content for _, content in members]


def test_content_that_is_not_wanted_is_not_read():
    found = list(read_tar(io.BytesIO(tar_of(SMALL)), lambda name: name == "2.txt"))
    assert [len(m.content) for m in found] == [0, 0, 600, 0, 0, 0]


def test_past_damaged_headers_at_the_next_whole_one():
    data = bytearray(tar_of(SMALL))
    third = next(m for m in walk(bytes(data)) if m.name == "3.txt").offset - 512
    data[third + 150] ^= 1  # its checksum
    assert names(walk(bytes(data))) == ["0.txt", "1.txt", "2.txt", "a header is damaged", "4.txt", "5.txt"]
    data[third : third + 2048] = bytes(2048)  # two blocks of zeros are an end, but members follow
    assert names(walk(bytes(data))) == ["0.txt", "1.txt", "2.txt", "a header is damaged", "5.txt"]
    data[0] ^= 1
    assert names(walk(bytes(data)))[0] == "a header is damaged"


def test_an_extended_header_that_is_damaged_costs_its_member_alone():
    data = bytearray(tar_of([*SMALL[:2], (LONG, b"words"), *SMALL[2:]]))
    data[data.index(b"././@PaxHeader") + 150] ^= 1
    found = walk(bytes(data))
    assert sum(isinstance(each, Damage) for each in found) == 1
    assert [name for name in names(found) if name[1:] == ".txt"] == [name for name, _ in SMALL]


@pytest.mark.parametrize("cut", [1024, 512 + 400, 3000, -1536, 5])
def test_a_file_that_ends_early(cut):
    data = tar_of(SMALL[1:])
    data = data[: data.rindex(b"F") + 1]  # without padding
    found = walk(data[:cut] if cut > 0 else data[: len(data) + cut])
    assert names(found)[-1] == "the file ends early"
    assert all(len(m.content) == m.size for m in found[:-1])


def test_no_end_mark_is_told():
    whole = tar_of(SMALL)
    end = whole.rindex(b"F") + 1
    padded = whole[: -(-end // 512) * 512]
    assert names(walk(padded))[-1] == "the file ends early"
    assert names(walk(padded + bytes(512))) == [name for name, _ in SMALL]


def test_concatenated_archives_are_read_to_the_end_and_rubbish_behind_it_is_nobodys():
    one, two = tar_of(SMALL[:3]), tar_of(SMALL[3:])
    assert names(walk(one + two)) == [name for name, _ in SMALL]
    assert names(walk(one + b"signature" * 300)) == ["0.txt", "1.txt", "2.txt"]
    assert names(walk(one + b"signature" * 512 + two))[3] == "a header is damaged"
    assert "zeros in the last" in names(walk(one + bytes(3 * 2**20)))[-1]


def test_nothing_like_a_tar_file():
    assert names(walk(b"<html>not found</html>" * 300)) == ["a header is damaged"]
    assert names(walk(b"")) == ["the file ends early"]


def test_links_folders_sparse_and_huge_members():
    types = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE]
    blocks = [tar_of([(f"{k}.jpg", b"")], tarfile.GNU_FORMAT, type=kind)[:512] for k, kind in enumerate(types)]
    huge = tarfile.TarInfo("huge.jpg")
    huge.size = 2**33
    found = walk(b"".join(blocks) + tar_of(SMALL[:2]))
    assert [(m.name, m.problem) for m in found] == [
        ("0.jpg", "is a link"),
        ("1.jpg", "is a link"),
        ("4.jpg", "is a sparse file"),
        ("0.txt", ""),
        ("1.txt", ""),
    ]
    assert names(walk(huge.tobuf() + bytes(1024))) == ["the file ends early"]


@pytest.mark.parametrize("size", [-512, -(2**62), 2**61, 2**80])
def test_sizes_that_no_member_can_have(size):
    strange = tarfile.TarInfo("x.txt")
    strange.size = size
    found = walk(strange.tobuf(tarfile.GNU_FORMAT) + tar_of(SMALL[1:3]))
    assert names(found) == ["a header is damaged", "1.txt", "2.txt"]


def test_names_in_another_encoding_stay_apart():
    data = tar_of([("\udce9.txt", b"one"), ("\udcea.txt", b"two")], tarfile.GNU_FORMAT)
    assert names(walk(data)) == ["\\xe9.txt", "\\xea.txt"]
