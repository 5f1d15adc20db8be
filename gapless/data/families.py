"""Which emoji are of one concept, so that a split holds none that differs from a training picture in a detail only.

Of one concept are pictures whose code points or names differ in skin tone, gender, age, hair or direction alone, that
share a caption, or that look the same to the pixel. Families are the connected components of these relations.
"""

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

TONE = re.compile(r"\s*\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
PERSON = frozenset((*range(0x1F466, 0x1F46A), *range(0x1F474, 0x1F477), *range(0x1F9D1, 0x1F9D4)))
"""Boy, girl, man, woman, old man, old woman, baby, person, child, older person."""
DETAILS = frozenset((0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1, *range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4)))
"""Joiner, variation selector, signs of gender, arrow of direction, skin tones and hair."""
DETAIL_WORDS = frozenset(
    (
        *("man", "woman", "person", "men", "women", "people", "boy", "girl", "child", "older"),
        *("left", "right", "up", "down", "leftwards", "rightwards", "upwards", "downwards", "facing"),
    )
)
SAME_PICTURE = (
    *(("1f1e6-1f1fa", "1f1ed-1f1f2"), ("1f1e8-1f1f5", "1f1eb-1f1f7", "1f1f2-1f1eb"), ("1f1e9-1f1ec", "1f1ee-1f1f4")),
    *(("1f1ea-1f1e6", "1f1ea-1f1f8"), ("1f1f3-1f1f4", "1f1f8-1f1ef"), ("1f1fa-1f1f2", "1f1fa-1f1f8")),
    ("1f469-1f3fc", "1f471-1f3fc-200d-2640-fe0f"),
)
"""Pictures that are the same to the pixel though neither code points nor names say so, flags above all. To decode
all four thousand of them whenever the data are opened would take a second; a test compares this list with them."""


def concept_families(stems: Sequence[str], captions: Sequence[Sequence[str]]) -> list[str]:
    """The family of each picture, named by the first of its files.

    Args:
        stems: code points of N pictures, in hexadecimal and joined by hyphens.
        captions: the names of each, the English one first.
    """
    features: dict[object, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    same = {stem: group for group in SAME_PICTURE for stem in group}
    for k, (stem, names) in enumerate(zip(stems, captions, strict=True)):
        own = {_concept(stem), same.get(stem), _without_details(names[0]), *(name.lower() for name in names)}
        for feature in own - {None}:
            rows.append(k)
            columns.append(len(stems) + features.setdefault(feature, len(features)))
    size = len(stems) + len(features)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    components = connected_components(graph, directed=False)[1][: len(stems)].tolist()
    first: dict[int, str] = {}
    for stem, component in sorted(zip(stems, components, strict=True)):
        first.setdefault(component, stem)
    return [first[component] for component in components]


def _concept(stem: str) -> tuple[int, ...]:
    """Code points without details, every person as 0; all of them for a detail that stands alone."""
    codes = tuple(int(code, 16) for code in stem.split("-"))
    return tuple(0 if code in PERSON else code for code in codes if code not in DETAILS) or codes


def _without_details(name: str) -> str:
    """A name in lower case without the words of details; all of it where it has no others."""
    words = [word for word in re.split(r"[\s,:-]+", TONE.sub("", name).lower()) if word]
    return " ".join([word for word in words if word not in DETAIL_WORDS] or words)
