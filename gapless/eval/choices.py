"""Choosing among a few: multiple-choice questions on images, and which caption belongs to which image.

Axis letters: Q questions, A choices, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gapless.data.questions import Question, Selection
from gapless.errors import DataError
from gapless.eval.embeddings import Embeddings
from gapless.eval.metrics.selection import selection_hits
from gapless.eval.results import Result
from gapless.eval.suite import Suite
from gapless.geometry.robustness import nearest_choice


def embed_questions(
    suite: Suite, questions: Sequence[Question], name: str
) -> tuple[Embeddings, list[Question], Tensor, Tensor]:
    """Images, the questions on those that could be read, and of each the image (Q, D) and the choices (Q, A, D).

    Raises:
        DataError: questions with different numbers of choices.
    """
    paths = sorted({q.image for q in questions})
    embedded = suite.images(paths, name)
    row = {paths[index]: k for k, index in enumerate(embedded.indices.tolist())}
    usable = [q for q in questions if q.image in row]
    if len({len(q.choices) for q in usable}) != 1:
        raise DataError(f"{name}: its questions need one number of choices, and one question at least")
    texts = suite.words(p for q in usable for p in q.prompts)
    choices = torch.stack([torch.stack([texts[p] for p in q.prompts]) for q in usable])
    return embedded, usable, embedded.image[[row[q.image] for q in usable]], choices


def evaluate_vqa(suite: Suite, questions: Sequence[Question], name: str) -> Result:
    """Share of questions whose right answer is the choice nearest to the image."""
    embedded, usable, queries, choices = embed_questions(suite, questions, name)
    hits = nearest_choice(queries, choices) == torch.tensor([q.correct for q in usable])
    metrics = {"acc": float(hits.double().mean()), "chance": 1 / choices.shape[1], "num_questions": float(len(usable))}
    return suite.result(name, "multiple_choice", metrics, embedded, {"acc": hits.float()})


def evaluate_selection(suite: Suite, instances: Sequence[Selection], name: str) -> Result:
    """clip_benchmark's image_caption_selection: ``image_acc`` (caption to image), ``text_acc``, and ``acc`` of both."""
    paths = sorted({path for instance in instances for path in instance.images})
    embedded = suite.images(paths, name)
    row = {paths[index]: k for k, index in enumerate(embedded.indices.tolist())}
    usable = [instance for instance in instances if all(path in row for path in instance.images)]
    texts = suite.words(caption for instance in usable for caption in instance.captions)
    hits = torch.tensor(
        [
            selection_hits(
                torch.stack([embedded.image[row[path]] for path in instance.images]),
                torch.stack([texts[caption] for caption in instance.captions]),
            )
            for instance in usable
        ]
    )
    both = hits.all(dim=1)
    metrics = {"image_acc": hits[:, 0], "text_acc": hits[:, 1], "acc": both}
    means = {metric: float(values.double().mean()) for metric, values in metrics.items()}
    return suite.result(name, "image_caption_selection", means, embedded, {m: v.float() for m, v in metrics.items()})
