"""Which members of a tar file make up a sample, as webdataset and open_clip see it: their picture, captions, class."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gapless.data.images import IMAGE_EXTENSIONS
from gapless.data.tar import Damage, TarMember
from gapless.data.texts import decode_text, split_captions

IMAGE_ORDER = tuple(dict.fromkeys(("jpg", "png", "jpeg", "webp", *IMAGE_EXTENSIONS)))
"""Of several pictures the first of these is taken, as open_clip does."""
TEXTS = ("txt", "json")
"""Where captions stand; .json only without .txt."""
SMALL = (*TEXTS, "cls")
"""Members that are read while a shard is indexed."""
LIKE_A_SAMPLE = (*IMAGE_ORDER, "txt", "tif", "tiff", "avif", "heic", "heif", "jp2", "jxl", "ppm", "svg")
"""Last endings that look like a picture or a caption."""
RULE = (
    f"behind the first dot of a name everything is the ending, and a sample needs a picture ({', '.join(IMAGE_ORDER)}) "
    "and captions (txt, or json)"
)


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member: ``a/b.c.jpg`` to ``a/b`` and ``c.jpg``, as webdataset does.

    Both are empty for what is no part of a sample there: no ending, hidden files, its own notes. Control characters
    are escaped, since keys are printed.
    """
    if not name.isprintable():
        name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    folder, _, last = name.rpartition("/")
    base, _, ending = last.partition(".")
    if not base or not ending or (name.startswith("__") and re.match(r"__[^/]*__($|/)", name)):
        return "", ""
    above = [part for part in folder.split("/") if part not in ("", ".")]  # ./a.jpg is a.jpg
    return "/" * name.startswith("/") + "/".join([*above, base]), ending.lower()


@dataclass
class TarSample:
    """The members of one sample, by ending."""

    key: str
    parts: dict[str, TarMember] = field(default_factory=dict)

    @property
    def image(self) -> TarMember | None:
        """The picture, None without one that can be read."""
        return next((self.parts[e] for e in IMAGE_ORDER if e in self.parts and not self.parts[e].problem), None)

    @property
    def text(self) -> tuple[str, TarMember] | None:
        """Ending and member of the captions."""
        return next(((e, self.parts[e]) for e in TEXTS if e in self.parts and not self.parts[e].problem), None)

    @property
    def looks_like_one(self) -> bool:
        """Whether it is a sample, complete or not, and no other file's information."""
        return any(ending.rpartition(".")[2] in LIKE_A_SAMPLE for ending in self.parts)

    @property
    def label(self) -> int:
        """The class in its .cls, -1 without one."""
        digits = self.parts["cls"].content.strip() if "cls" in self.parts else b""
        return int(digits) if digits.isdigit() and len(digits) < 10 else -1

    def captions(self, json_caption: str) -> tuple[str, ...]:
        """Its captions, none if there are none."""
        return captions_of(self.text[0], self.text[1].content, json_caption) if self.text else ()

    def describe(self, json_caption: str) -> str:
        """Its members, with what is wrong with them."""
        members = [f"{self.key}.{e} {m.problem}".rstrip() for e, m in list(self.parts.items())[:6]]
        description = ", ".join(members) + (" ..." if len(self.parts) > 6 else "")
        try:
            if self.text:
                _read_captions(self.text[0], self.text[1].content, json_caption)
        except ValueError as error:
            description = f"{description} ({self.key}.{self.text[0]}: {error})" if self.text else description
        return description


def captions_of(ending: str, content: bytes, json_caption: str) -> tuple[str, ...]:
    """The captions in a member: one a line in .txt, a text or a list of texts under one key in .json.

    Args:
        ending: txt or json.
        content: of the member.
        json_caption: the key, ``caption`` in what img2dataset writes.
    """
    try:
        return _read_captions(ending, content, json_caption)
    except ValueError:
        return ()


def _read_captions(ending: str, content: bytes, json_caption: str) -> tuple[str, ...]:
    """At least one caption; raises ValueError that says why there is none."""
    text, _ = decode_text(content)
    if ending == "txt":
        captions = split_captions(text)
        if not captions:
            raise ValueError("nothing but blanks")
        return captions
    try:
        value = json.loads(text).get(json_caption)
    except (ValueError, AttributeError, RecursionError):
        raise ValueError("no JSON object") from None
    listed = value if isinstance(value, list) else [value]
    texts = [" ".join(caption.split()) for caption in listed if isinstance(caption, str) and caption.strip()]
    if not texts:
        raise ValueError(f"no text under {json_caption!r}")
    return tuple(text.encode("utf-8", "replace").decode() for text in texts)  # JSON can hold half a surrogate pair


def tar_samples(members: Iterable[TarMember | Damage], together: bool) -> Iterator[TarSample | Damage]:
    """Members to samples. A name that comes again begins another sample of the same key, so that none is lost.

    Args:
        members: of a whole file.
        together: whether the members of a sample must lie side by side, as in a stream.

    Yields:
        Samples, in the order of their first members, and damage.
    """
    latest: dict[str, TarSample] = {}
    samples: list[TarSample] = []
    for member in members:
        if isinstance(member, Damage):
            yield member
            continue
        key, ending = split_name(member.name)
        if not key:
            continue
        if together and key not in latest:
            yield from (sample for sample in samples if sample.looks_like_one)
            latest, samples = {}, []
        if key not in latest or ending in latest[key].parts:
            latest[key] = TarSample(key)
            samples.append(latest[key])
        latest[key].parts[ending] = member
    yield from (sample for sample in samples if sample.looks_like_one)
