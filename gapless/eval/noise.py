"""What noise and other words do to decisions, with the gap open and closed (bug-or-feature, Sec. 5).

Axis letters: N images, C classes, P templates, Q questions, A choices, K draws, D dimensions.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from gapless.data.labelled import LabelledSet
from gapless.data.questions import Question
from gapless.errors import DataError
from gapless.eval.choices import embed_questions
from gapless.eval.results import Result
from gapless.eval.suite import Suite
from gapless.geometry import close_gap, robustness
from gapless.geometry.closing import LITTLE
from gapless.geometry.robustness import (
    Robustness,
    choice_robustness,
    nearest,
    nearest_choice,
    own_gap,
    rephrasing_correlation,
    white_noise_correlation,
)

ALPHAS = (0.0, 0.5, 1.0)
"""How much of the gap is closed."""


def class_noise(suite: Suite, data: LabelledSet, sigma: float, draws: int, seed: int = 0) -> Result:
    """Zero-shot classification under Gaussian noise on the class prompts, and from template to template.

    The gap is closed orthogonally to the prompts (Eq. 11), or, where they span the space, by Algorithm 1 at 5 %.

    Args:
        suite: the model.
        data: images, and the prompts of their classes; templates are compared where all classes have equally many.
        sigma: standard deviation of a component of the noise.
        draws: K.
        seed: of the noise.
    """
    embedded = suite.labelled(data)
    classes, prompts = suite.classes(data)
    gap, share = _class_gap(embedded.image, classes)
    curve = robustness(embedded.image, classes, gap, ALPHAS, sigma, draws, labels=embedded.labels, seed=seed)
    metrics = _by_alpha(curve, "acc1") | {"sigma": sigma, "share_of_gap": share}
    if min(map(len, prompts)) == max(map(len, prompts)) > 1:
        metrics |= _templates(embedded.image, embedded.labels, torch.stack(prompts, dim=1))
    return suite.result(data.name, "zeroshot_robustness", metrics, embedded)


def _class_gap(images: Tensor, classes: Tensor) -> tuple[Tensor, float]:
    """What class directions are moved by at alpha 1, and its share of the gap."""
    if len(classes) > classes.shape[1]:
        transform = close_gap(images, classes, "approximate")
    else:
        transform = close_gap(images, classes, "orthogonal")
        if float(transform.fit["share_of_gap"]) < LITTLE:
            transform = close_gap(images, classes, "approximate")
    assert transform.text_shift is not None
    return transform.text_shift, float(transform.fit["share_of_gap"])


def _by_alpha(curve: Robustness, accuracy: str) -> dict[str, float]:
    parts = {"robustness": curve.robustness, accuracy: curve.accuracy, f"noisy_{accuracy}": curve.noisy_accuracy}
    return {f"{n}@{alpha:g}": v for n, values in parts.items() for alpha, v in zip(ALPHAS, values, strict=True)}


def _templates(images: Tensor, labels: Tensor, templates: Tensor) -> dict[str, float]:
    """How often the class of an image stays when every prompt (P, C, D) is put in another template's words."""
    first, others = templates[0], templates[1:]
    gap, _ = _class_gap(images, first)
    scores = {
        "rephrasing_correlation": sum(rephrasing_correlation(first, other) for other in others) / len(others),
        "white_noise_correlation": white_noise_correlation(*first.shape),
    }
    for alpha in ALPHAS:
        clean = nearest(images, first + alpha * gap)
        rephrased = torch.stack([nearest(images, other + alpha * gap) for other in others])
        scores[f"rephrasing_robustness@{alpha:g}"] = float((rephrased == clean).double().mean())
        scores[f"rephrasing_acc1@{alpha:g}"] = float((rephrased == labels).double().mean())
    return scores


def choice_noise(
    suite: Suite, questions: Sequence[Question], name: str, sigma: float, draws: int, seed: int = 0
) -> Result:
    """Multiple-choice questions under Gaussian noise on the choices, and with the answers in other words.

    Other words (its Appendix F.2): the right choice becomes one of the question's direct answers, the wrong ones are
    drawn from the choices of all questions that are not among them. The gap is that of the clean choices, the
    directions that must not change are those of each question's own choices.

    Args:
        suite: the model.
        questions: all with the same number of choices.
        name: of the data set.
        sigma: standard deviation of a component of the noise.
        draws: K, of the noise and of other words; each of the latter embeds every question's choices anew.
        seed: of both.
    """
    embedded, usable, queries, choices = embed_questions(suite, questions, name)
    correct = torch.tensor([q.correct for q in usable])
    gap = embedded.image.mean(dim=0) - choices.flatten(0, 1).mean(dim=0)
    curve = choice_robustness(queries, choices, gap, correct, ALPHAS, sigma, draws, seed)
    metrics = _by_alpha(curve, "acc") | {"sigma": sigma, "num_questions": float(len(usable))}
    worded = [k for k, q in enumerate(usable) if q.right_answers]
    if worded:
        drawn = _reworded([usable[k] for k in worded], draws, seed)
        texts = suite.words(text for prompts in drawn for of_question in prompts for text in of_question)
        right = torch.zeros(len(ALPHAS), dtype=torch.float64)
        for prompts in drawn:
            features = torch.stack([torch.stack([texts[text] for text in of_question]) for of_question in prompts])
            step = own_gap(features, gap)
            for a, alpha in enumerate(ALPHAS):
                chosen = nearest_choice(queries[worded], features + alpha * step)
                right[a] += (chosen == correct[worded]).double().mean() / draws
        metrics |= {f"rephrasing_acc@{alpha:g}": float(v) for alpha, v in zip(ALPHAS, right, strict=True)}
    return suite.result(name, "multiple_choice_robustness", metrics, embedded)


def _reworded(questions: Sequence[Question], draws: int, seed: int) -> list[list[list[str]]]:
    """Prompts (K, Q, A) with a direct answer in the right place and other questions' choices in the wrong ones."""
    bank = sorted({choice.casefold() for q in questions for choice in q.choices})
    generator, drawn = random.Random(seed), []
    for _ in range(draws):
        prompts = []
        for q in questions:
            right = {answer.casefold() for answer in (*q.right_answers, q.choices[q.correct])}
            # Enough of them that the right ones can be left out again.
            drawn_wrong = generator.sample(bank, min(len(bank), len(q.choices) + len(right)))
            answers = [answer for answer in drawn_wrong if answer not in right][: len(q.choices)]
            if len(answers) < len(q.choices):
                raise DataError(f"{len(bank)} different choices are too few to draw wrong answers from")
            answers[q.correct] = generator.choice(q.right_answers)
            prompts.append([f"{q.question} {answer}" for answer in answers])
        drawn.append(prompts)
    return drawn
