"""No leak between the splits of the emoji: whatever two pictures have in common, they have it within one split."""

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from gapless.data.emoji import LARGE_FAMILY, all_emoji
from gapless.data.families import concept_families


def splits_by(feature):
    """Splits of all pictures that share a feature, for each feature."""
    splits = defaultdict(set)
    for e in all_emoji():
        for value in feature(e):
            splits[value].add(e.split)
    return splits


def pixels(e):
    with Image.open(e.path) as image:
        return [hashlib.sha256(np.asarray(image.convert("RGBA")).tobytes()).digest()]


def without_people(e):
    """Code points without what says who it is and which way they look."""
    gone = [*(f"1f3f{k}" for k in "bcdef"), *(f"1f9b{k}" for k in range(4)), "2640", "2642", "fe0f", "200d", "27a1"]
    people = ["1f466", "1f467", "1f468", "1f469", "1f9d1", "1f9d2", "1f9d3", "1f474", "1f475", "1f476"]
    kept = ["person" if code in people else code for code in e.path.stem.split("-") if code not in gone]
    return [" ".join(kept)] if kept else []


@pytest.mark.parametrize(
    "feature",
    [pixels, without_people, lambda e: [e.family], lambda e: [caption.lower() for caption in e.captions]],
    ids=["pictures", "code points", "families", "captions"],
)
def test_what_two_pictures_share_is_in_one_split(feature):
    splits = splits_by(feature)
    assert len(splits) > 1000
    assert [value for value, found in splits.items() if len(found) > 1] == []


def test_names_that_differ_in_gender_or_direction_are_of_one_split():
    names = {e.captions[0]: e for e in all_emoji()}
    for word, others in (("man", ("woman", "person")), ("men", ("women", "people")), ("left", ("right",))):
        pairs = [
            (e, names[other])
            for name, e in names.items()
            for exchanged in others
            if (other := name.replace(f"{word} ", f"{exchanged} ")) in names and other != name
        ]
        assert len(pairs) > 5
        assert {one.family == other.family and one.split == other.split for one, other in pairs} == {True}


def test_sizes():
    listed = all_emoji()
    assert Counter(e.split for e in listed) == {"train": 3093, "test": 567, "val": 293}
    families = {split: {e.family for e in listed if e.split == split} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in families.items()} == {"train": 1170, "val": 158, "test": 307}
    sizes = Counter(e.family for e in listed)
    assert {e.split for e in listed if sizes[e.family] >= LARGE_FAMILY} == {"train"}


def test_families_are_connected_by_any_of_their_relations():
    stems = ["1f469-200d-1f373", "1f468-1f3fb-200d-1f373", "1f373", "1f1f3-1f1f4", "1f1f8-1f1ef"]
    stems += ["2640", "1f483", "1f57a"]
    captions = [["woman cook"], ["man cook light skin tone"], ["cooking", "frying"], ["flag: Norway"]]
    captions += [["flag: Svalbard"], ["female sign"], ["woman dancing"], ["man dancing", "disco"]]
    found = concept_families(stems, captions)
    # Two cooks by code points, two flags by their picture, two dancers by their names; a sign alone is no detail.
    assert found == [*(["1f468-1f3fb-200d-1f373"] * 2), "1f373", *(["1f1f3-1f1f4"] * 2), "2640", *(["1f483"] * 2)]
    captions[2].append("Woman Cook")  # a caption that two share joins all of both
    assert concept_families(stems, captions)[:3] == ["1f373"] * 3
