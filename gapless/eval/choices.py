"""Choosing among a few: multiple-choice questions on images, and which caption belongs to which image.

Axis letters: N instances, I images and C captions of an instance, D dimensions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapless.errors import DataError
from gapless.eval.features import ImageFeatures
from gapless.eval.results import Result
from gapless.eval.suite import Suite
from gapless.geometry.robustness import nearest_choice


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


def embed_questions(
    suite: Suite, questions: Sequence[Question], name: str
) -> tuple[ImageFeatures, list[Question], Tensor, Tensor]:
    """Images, the questions on those that could be read, and of each the image (Q, D) and the choices (Q, A, D).

    Raises:
        DataError: questions with different numbers of choices.
    """
    paths = sorted({q.image for q in questions})
    images = suite.images(paths, name)
    row = {paths[position]: k for k, position in enumerate(images.positions.tolist())}
    usable = [q for q in questions if q.image in row]
    if len({len(q.choices) for q in usable}) != 1:
        raise DataError(f"{name}: its questions need one number of choices, and one question at least")
    texts = suite.words(p for q in usable for p in q.prompts)
    choices = torch.stack([torch.stack([texts[p] for p in q.prompts]) for q in usable])
    return images, usable, images.features[[row[q.image] for q in usable]], choices


def evaluate_vqa(suite: Suite, questions: Sequence[Question], name: str = "aokvqa") -> Result:
    """Share of questions whose right answer is the choice nearest to the image."""
    images, usable, queries, choices = embed_questions(suite, questions, name)
    hits = nearest_choice(queries, choices) == torch.tensor([q.correct for q in usable])
    metrics = {"acc": float(hits.double().mean()), "num_questions": float(len(usable))}
    return suite.result(name, "multiple_choice", metrics, images, {"acc": hits.float()})


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


def selection_hits(image_features: Tensor, text_features: Tensor) -> tuple[bool, bool]:
    """Whether every caption finds its image, and every image its caption, in one instance (clip_benchmark's rules).

    Args:
        image_features: unit-norm (I, D).
        text_features: unit-norm (C, D).
    """
    scores = image_features @ text_features.T
    right = torch.arange(min(scores.shape))
    by_caption = bool((scores.argmax(dim=0)[: len(right)] == right).all())
    return by_caption, bool((scores.argmax(dim=1)[: len(right)] == right).all())


def evaluate_selection(suite: Suite, instances: Sequence[Selection], name: str) -> Result:
    """clip_benchmark's image_caption_selection: ``image_acc`` (caption to image), ``text_acc``, and ``acc`` of both."""
    paths = sorted({path for instance in instances for path in instance.images})
    images = suite.images(paths, name)
    row = {paths[position]: k for k, position in enumerate(images.positions.tolist())}
    usable = [instance for instance in instances if all(path in row for path in instance.images)]
    texts = suite.words(caption for instance in usable for caption in instance.captions)
    hits = torch.tensor(
        [
            selection_hits(
                torch.stack([images.features[row[path]] for path in instance.images]),
                torch.stack([texts[caption] for caption in instance.captions]),
            )
            for instance in usable
        ]
    )
    both = hits.all(dim=1)
    metrics = {"image_acc": hits[:, 0], "text_acc": hits[:, 1], "acc": both}
    means = {metric: float(values.double().mean()) for metric, values in metrics.items()}
    return suite.result(name, "image_caption_selection", means, images, {m: v.float() for m, v in metrics.items()})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from None
