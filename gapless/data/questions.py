"""Choices among a few: multiple-choice questions on images, and images and captions that are mixed up."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapless.errors import DataError


@dataclass(frozen=True)
class Question:
    """A question on an image, and its possible answers."""

    image: Path
    question: str
    choices: tuple[str, ...]
    correct: int
    """Position of the right choice."""
    right_answers: tuple[str, ...] = ()
    """Other wordings of it."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """``{question} {choice}`` for each choice."""
        return tuple(f"{self.question} {choice}" for choice in self.choices)


def load_aokvqa(annotations: Path, images: Path) -> list[Question]:
    """Questions of A-OKVQA's format: a list of image_id, question, choices, correct_choice_idx, direct_answers.

    Args:
        annotations: aokvqa_v1p0_val.json.
        images: folder of COCO images named by twelve digits.

    Raises:
        DataError: a file that is missing or of another format.
    """
    tree = _read_json(annotations)
    try:
        return [
            Question(
                images / f"{int(q['image_id']):012d}.jpg",
                str(q["question"]),
                tuple(map(str, q["choices"])),
                int(q["correct_choice_idx"]),
                tuple(dict.fromkeys(map(str, q.get("direct_answers", ())))),
            )
            for q in tree
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{annotations} is not A-OKVQA's format ({error!r})") from None


@dataclass(frozen=True)
class Selection:
    """Images and captions of which the i-th image belongs to the i-th caption; further ones are wrong."""

    images: tuple[Path, ...]
    captions: tuple[str, ...]


def load_sugarcrepe(annotations: Path, images: Path) -> list[Selection]:
    """Instances of SugarCrepe's format: filename, caption and negative_caption by index.

    Raises:
        DataError: a file that is missing or of another format.
    """
    tree = _read_json(annotations)
    try:
        return [Selection((images / e["filename"],), (e["caption"], e["negative_caption"])) for e in tree.values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{annotations} is not SugarCrepe's format ({error!r})") from None


def load_winoground(examples: Path, images: Path) -> list[Selection]:
    """Instances of Winoground's examples.jsonl: image_0, image_1, caption_0 and caption_1.

    Raises:
        DataError: a file that is missing or of another format.
    """
    try:
        rows = [json.loads(line) for line in examples.read_text(encoding="utf-8").split("\n") if line.strip()]
        return [
            Selection(
                tuple(images / f"{row[key]}.png" for key in ("image_0", "image_1")),
                (row["caption_0"], row["caption_1"]),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{examples} is not Winoground's format ({error!r})") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from None
