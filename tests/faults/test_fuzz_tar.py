"""Shards and files beside them, damaged by accident or malice: each sample is given or counted, or a line says why."""

import io
import json
import os
import random
import tarfile

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gapless.data.addresses import expand_shards
from gapless.data.images import BadSampleError
from gapless.data.manifest import parse_records
from gapless.data.members import IMAGE_ORDER, SMALL, split_name, tar_samples
from gapless.data.shards import INDEX_SUFFIX, ShardSource
from gapless.data.tar import Damage, read_tar
from gapless.errors import DataError
from tests.data.pictures import picture
from tests.data.test_tar import Forward, tar_of

EXAMPLES = 30_000 if os.environ.get("GAPLESS_FAULTS") == "full" else 2_000
"""Of all kinds together."""
COUNT = 4
PICTURES = [picture(8, 6, seed=k) for k in range(COUNT)]
FUZZ = {"derandomize": True, "deadline": None, "database": None, "phases": [Phase.generate],
        "suppress_health_check": list(HealthCheck)}  # fmt: skip


def members():
    for k in range(COUNT):
        yield f"{'a' * 120 * (k == 3)}{k}.png", PICTURES[k]
        yield f"{'a' * 120 * (k == 3)}{k}.txt", f"caption {k}".encode()


WHOLE = {name: tar_of(members(), form) for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT))}
NUMBERS = (
    b"-1",
    b"77777777777",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"\x80" + bytes(10) + b"\x01",
    b"99999999999",
    b"",
)
NAMES = (b"../../x.png", b"/etc/x.png", b"x", b".png", b"a.b.c.png", b"\xff\xfe.png", b"0.png", b"\n.txt", b"0.cls")


def damage(chance, data):
    """A tar file changed in one of the ways in which files are, and whether each sample must be accounted for."""
    data, place = bytearray(data), chance.randrange(len(data))
    kind = chance.randrange(7)
    if kind == 0:
        for _ in range(chance.choice([1, 1, 3, 30])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        noise = chance.randbytes(min(chance.choice([1, 100, 512, 3000]), len(data) - place))
        data[place : place + len(noise)] = noise
    elif kind == 3:
        del data[place : place + chance.choice([1, 511, 512, 1000, 5000])]
    elif kind == 4:
        data[place:place] = data[: chance.choice([1, 512, 5120])]
    elif kind == 5:
        block = 512 * chance.randrange(len(data) // 512)
        start, values = chance.choice([(124, NUMBERS), (0, NAMES), (156, [bytes([v]) for v in b"12345SLKxgVX\0z"])])
        value = chance.choice(values)
        data[block + start : block + start + len(value)] = value
        total = sum(data[block : block + 148]) + sum(data[block + 156 : block + 512]) + 8 * 32
        data[block + 148 : block + 156] = b"%06o\0 " % total
    else:
        data[512 * chance.randrange(len(data) // 512) :] = bytes(chance.choice([0, 512, 1024, 10240]))
    return bytes(data), kind < 3  # bytes that are cut out may take whole members with them


def samples(file):
    walked = read_tar(file, lambda name: split_name(name)[1] in (*SMALL, *IMAGE_ORDER))
    return list(tar_samples(walked, together=False))


@settings(max_examples=EXAMPLES // 2, **FUZZ)
@given(st.integers(0, 2**32))
def test_damaged_tar_files(seed):
    chance = random.Random(seed)
    data, accounted = damage(chance, WHOLE[chance.choice(list(WHOLE))])
    found = samples(io.BytesIO(data))
    assert seed % 2 or found == samples(Forward(data))  # by position and as a stream
    assert len(found) >= COUNT or not accounted or any(isinstance(each, Damage) for each in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield tmp_path_factory.mktemp("shards")


@settings(max_examples=EXAMPLES // 4, **FUZZ)
@given(st.integers(0, 2**32))
def test_damaged_shards_give_pairs_or_say_why(folder, seed):
    chance = random.Random(seed)
    path = folder / "0.tar"
    path.write_bytes(damage(chance, WHOLE[chance.choice(list(WHOLE))])[0])
    path.with_name(path.name + INDEX_SUFFIX).unlink(missing_ok=True)
    source, said = attempt(ShardSource, [str(path)])
    assert "\n" not in said
    for index in range(len(source or ())):
        try:
            source.load(index)
        except BadSampleError as error:
            said = error.reason
        assert said in ("", "missing_file", "truncated")


def attempt(function, *arguments):
    """What a function gives, or the error that a user can act on."""
    try:
        return function(*arguments), ""
    except DataError as error:
        return None, str(error)


VALUES = (None, True, -1, 0, 2**63, 10**30, 1.5, float("nan"), "x", "", [], {}, [-1, 2], ["a"], {"name": 3}, [[]] * 3)


def changed(chance, tree):
    """A value somewhere in a tree replaced, removed or doubled."""
    tree = json.loads(json.dumps(tree))
    place = tree
    while isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        if chance.random() < 0.4 or not isinstance(place[key], (dict, list)):
            if chance.random() < 0.2:
                del place[key]
            else:
                place[key] = chance.choice(VALUES)
            break
        place = place[key]
    return tree


def scrambled(chance, text):
    data = bytearray(text.encode())
    for _ in range(chance.choice([0, 0, 1, 5])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


@settings(max_examples=EXAMPLES // 8, **FUZZ)
@given(st.integers(0, 2**32))
def test_damaged_index_files_change_nothing(folder, seed):
    chance = random.Random(seed)
    path = folder / "1.tar"
    if not path.exists():
        path.write_bytes(WHOLE["pax"])
    expected = ShardSource([str(path)]).members
    place = path.with_name(path.name + INDEX_SUFFIX)
    place.write_bytes(scrambled(chance, json.dumps(changed(chance, json.loads(place.read_text())))))
    assert ShardSource([str(path)]).members == expected


@settings(max_examples=EXAMPLES // 8, **FUZZ)
@given(st.integers(0, 2**32))
def test_damaged_records_and_addresses_are_one_line(seed):
    chance = random.Random(seed)
    shards = [{"name": f"{k}.tar", "samples": 5, "bytes": 10240, "sha256": "0" * 64} for k in range(3)]
    for name, tree in (("shards.json", {"samples": 15, "shards": shards}), ("sizes.json", {"0.tar": 5, "1.tar": 5})):
        text = scrambled(chance, json.dumps(changed(chance, tree)))
        records, said = attempt(parse_records, text, f"http://h/{name}")
        assert "\n" not in said
        assert all(record.samples >= 0 for record in records.values()) if records is not None else name in said
    address = "".join(chance.choices("{},.0:19a\\-\0/\n$é", k=chance.randrange(1, 30)))
    shards, said = attempt(expand_shards, address)
    assert len(shards) <= 1_000_000 if shards else said.startswith("data.path: ")
