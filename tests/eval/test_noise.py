"""Decisions under noise and in other words, on features chosen by hand: gaps are worked out here a second time."""

import json

import pytest
import torch
import torch.nn.functional as F

from gapless.config import EvalPlan
from gapless.errors import DataError
from gapless.eval.run import evaluate
from gapless.geometry import close_gap, robustness
from gapless.geometry.robustness import choice_robustness, nearest, nearest_choice
from gapless.geometry.robustness import rephrasing_correlation as correlation
from tests.eval.tables import Tables, shard

ALPHAS = (0.0, 0.5, 1.0)
NAMES = ("ant", "bee", "cow")
TEMPLATES = ("a {c}", "the {c}", "my {c}")
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def without(gap, rows):
    """The part of a gap that is orthogonal to all differences of some rows."""
    q, _ = torch.linalg.qr((rows[1:] - rows[:1]).T.double())
    return (gap.double() - q @ (q.T @ gap.double())).float()


def animals(tmp_path, templates=TEMPLATES, dimension=6, gap=1.0):
    """Six pictures of three classes, whose prompts lie apart along the last axis and differ by template."""
    generator = torch.Generator().manual_seed(7)
    tables = Tables(dimension)
    axis = torch.eye(dimension)
    spread = (
        axis if dimension > 3 else torch.tensor([[-0.6, 0], [0, 0], [0.6, 0]])
    )  # beside each other, as seen from below
    for number, template in enumerate(templates):
        for label, name in enumerate(NAMES):
            turned = spread[label] + 0.5 * number * torch.randn(dimension, generator=generator)
            tables.write({template.replace("{c}", name): (turned + gap * axis[-1]).tolist()})
    members = {}
    for k, label in enumerate(LABELS.tolist()):
        feature = (
            spread[label]
            + (0.6 if dimension > 3 else 0.1) * torch.randn(dimension, generator=generator)
            - gap * axis[-1]
        )
        members |= {f"{k}.cls": str(label).encode(), f"{k}.png": tables.png(feature.tolist())}
    shard(tmp_path / "test", members)
    (tmp_path / "classnames.txt").write_text("\n".join(NAMES))
    (tmp_path / "zeroshot_classification_templates.txt").write_text("\n".join(templates))
    return tables


def plan(tmp_path, name="wds/animals", **changes):
    given = {"datasets": [name], "tasks": ["robustness"], "root": str(tmp_path), "workers": 0}
    return EvalPlan(**given | {"noise": 0.3, "draws": 7} | changes)


def prompts(tables, template):
    return tables.text(*(template.replace("{c}", name) for name in NAMES))


def directions(tables):
    return F.normalize(torch.stack([prompts(tables, t) for t in TEMPLATES]).mean(dim=0), dim=1)


def test_classes_are_moved_towards_the_images_under_noise(tmp_path):
    tables = animals(tmp_path)
    (result,) = evaluate(tables.loaded(), plan(tmp_path))
    images, classes = tables.rows(*range(6)), directions(tables)
    whole = images.mean(dim=0) - classes.mean(dim=0)
    gap = without(whole, classes)
    curve = robustness(images, classes, gap, ALPHAS, 0.3, 7, labels=LABELS)
    away = robustness(images, classes, -gap, ALPHAS, 0.3, 7, labels=LABELS)
    assert curve.robustness[2] != away.robustness[2]
    assert len({*curve.robustness, *curve.accuracy, *curve.noisy_accuracy}) > 4
    for a, alpha in enumerate(("0", "0.5", "1")):
        assert result.metrics[f"robustness@{alpha}"] == pytest.approx(curve.robustness[a])
        assert result.metrics[f"acc1@{alpha}"] == pytest.approx(curve.accuracy[a])
        assert result.metrics[f"noisy_acc1@{alpha}"] == pytest.approx(curve.noisy_accuracy[a])
    assert result.metrics["sigma"] == 0.3
    assert result.metrics["share_of_gap"] == pytest.approx(float(gap.norm() / whole.norm()))
    assert (result.dataset, result.task, result.num_samples) == ("wds/animals", "zeroshot_robustness", 6)
    assert (result.settings, result.split) == ({"noise": 0.3, "draws": 7}, "test")


def test_classes_are_the_same_as_without_noise_when_a_transform_moves_them(tmp_path):
    tables = animals(tmp_path)
    images, classes = tables.rows(*range(6)), directions(tables)
    transform = close_gap(images, classes, "mean")
    transform.save(tmp_path / "mean.safetensors")
    asked = plan(tmp_path, tasks=["zero_shot", "robustness"], transform=tmp_path / "mean.safetensors")
    plain, noisy = (result.metrics for result in evaluate(tables.loaded(), asked))
    assert noisy["acc1@0"] == plain["acc1"]
    # The mean of moved prompts would be another direction, and another classifier.
    others = torch.stack([F.normalize(prompts(tables, t) - classes.mean(dim=0), dim=1) for t in TEMPLATES])
    others = F.normalize(others.mean(dim=0), dim=1)
    images, classes = F.normalize(images - images.mean(dim=0), dim=1), F.normalize(classes - classes.mean(dim=0), dim=1)
    assert (others * classes).sum(dim=1).min() < 0.97
    gap = without(images.mean(dim=0) - classes.mean(dim=0), classes)
    curve, wrong = (robustness(images, rows, gap, ALPHAS, 0.3, 7, labels=LABELS) for rows in (classes, others))
    assert curve.noisy_accuracy != wrong.noisy_accuracy
    for a, alpha in enumerate(("0", "0.5", "1")):
        assert noisy[f"noisy_acc1@{alpha}"] == pytest.approx(curve.noisy_accuracy[a])
    first, *rest = (F.normalize(prompts(tables, t) - directions(tables).mean(dim=0), dim=1) for t in TEMPLATES)
    expected = sum(correlation(first, other) for other in rest) / 2
    assert noisy["rephrasing_correlation"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimension", [6, 2])
def test_templates_are_compared_with_the_first_one(tmp_path, dimension):
    tables = animals(tmp_path, dimension=dimension)
    (result,) = evaluate(tables.loaded(), plan(tmp_path))
    images = tables.rows(*range(6))
    first, *others = (prompts(tables, template) for template in TEMPLATES)
    gap = without(images.mean(dim=0) - first.mean(dim=0), first)
    if dimension == 2:  # three classes span the plane
        gap = close_gap(images, first, "approximate").text_shift
        assert nearest(images, first + gap).tolist() != nearest(images, first - gap).tolist()
    for alpha in ALPHAS:
        clean = nearest(images, first + alpha * gap)
        found = torch.stack([nearest(images, other + alpha * gap) for other in others])
        stays, right = ((found == expected).double().mean().item() for expected in (clean, LABELS))
        assert dimension == 2 or stays != right
        assert 0 < right < 1
        assert result.metrics[f"rephrasing_robustness@{alpha:g}"] == pytest.approx(stays)
        assert result.metrics[f"rephrasing_acc1@{alpha:g}"] == pytest.approx(right)
    expected = sum(correlation(first, other) for other in others) / 2
    assert result.metrics["rephrasing_correlation"] == pytest.approx(expected, rel=1e-5)
    white = torch.randn(3, dimension, generator=torch.Generator().manual_seed(0))
    white = correlation(torch.zeros(3, dimension), white)
    assert result.metrics["white_noise_correlation"] == pytest.approx(white)


def test_a_single_template_has_no_other_words(tmp_path):
    (result,) = evaluate(animals(tmp_path, TEMPLATES[:1]).loaded(), plan(tmp_path))
    assert len(result.metrics) == 3 * len(ALPHAS) + 2


@pytest.mark.parametrize(("dimension", "gap"), [(2, 1.0), (6, 0.0)])
def test_classes_that_span_the_space_or_the_gap_are_moved_approximately(tmp_path, dimension, gap):
    tables = animals(tmp_path, TEMPLATES[:1], dimension, gap)
    if dimension == 6:  # images that are class directions: their gap lies among the differences
        tables.images[1:] = [tables.texts["a ant"]] * 6
    (result,) = evaluate(tables.loaded(), plan(tmp_path))
    images, classes = tables.rows(*range(6)), prompts(tables, "a {c}")
    transform = close_gap(images, classes, "approximate")
    curve = robustness(images, classes, transform.text_shift, ALPHAS, 0.3, 7, labels=LABELS)
    assert result.metrics["share_of_gap"] == pytest.approx(transform.fit["share_of_gap"])
    assert result.metrics["noisy_acc1@1"] == pytest.approx(curve.noisy_accuracy[2])
    assert result.metrics["acc1@1"] == pytest.approx(curve.accuracy[2])


QUESTIONS = (
    (0, ("dog", "cat", "car"), 0, ("hound", "puppy", "hound")),
    (2, ("cat", "red", "Dog"), 1, ("crimson",)),
    (1, ("one", "two", "six"), 2, ()),
    (3, ("red", "blue", "one"), 1, ("azure", "navy")),
    (0, ("tree", "bush", "cat"), 2, ("kitten",)),
)
"""Picture, choices, the right one, and direct answers."""


@pytest.fixture
def questions(tmp_path):
    """Five questions on four pictures, every possible answer with a feature of its own."""
    generator = torch.Generator().manual_seed(4)
    tables = Tables(5)
    axis = torch.eye(5)
    words = sorted({w for _, choices, _, answers in QUESTIONS for w in (*choices, *answers)} | {"dog"})
    for number in range(len(QUESTIONS)):
        for word in words:
            tables.write({f"q{number}? {word}": (torch.randn(5, generator=generator) + axis[4]).tolist()})
    for k in range(4):
        feature = torch.randn(5, generator=generator) - axis[4]
        tables.picture(tmp_path / "val2017" / f"{k:012d}.jpg", feature.tolist())
    rows = [
        {
            "image_id": k,
            "question": f"q{number}?",
            "choices": choices,
            "correct_choice_idx": right,
            "direct_answers": answers,
        }
        for number, (k, choices, right, answers) in enumerate(QUESTIONS)
    ]
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps(rows))
    return tables


def clouds(tables, rows=QUESTIONS):
    numbers = [QUESTIONS.index(row) for row in rows]
    texts = [tables.text(*(f"q{n}? {c}" for c in row[1])) for n, row in zip(numbers, rows, strict=True)]
    return tables.rows(*(row[0] for row in rows)), torch.stack(texts), torch.tensor([row[2] for row in rows])


def test_questions_are_right_where_the_right_choice_is_nearest(questions, tmp_path):
    (result,) = evaluate(questions.loaded(), plan(tmp_path, "aokvqa", tasks=["zero_shot"]))
    queries, choices, correct = clouds(questions)
    hits = torch.einsum("qd,qad->qa", queries, choices).argmax(dim=1) == correct
    assert 0 < hits.double().mean() < 1
    assert result.metrics == pytest.approx(
        {"acc": float(hits.double().mean()), "chance": 1 / choices.shape[1], "num_questions": 5}
    )
    assert result.samples["acc"].tolist() == hits.tolist()
    assert (result.dataset, result.task, result.num_samples) == ("aokvqa", "multiple_choice", 4)
    assert (result.settings, result.split) == ({}, "")


def test_choices_are_moved_towards_the_images_under_noise(questions, tmp_path):
    _, result = evaluate(questions.loaded(), plan(tmp_path, "aokvqa"))
    queries, choices, correct = clouds(questions)
    gap = questions.rows(*range(4)).mean(dim=0) - choices.flatten(0, 1).mean(dim=0)  # over pictures, not questions
    curve = choice_robustness(queries, choices, gap, correct, ALPHAS, 0.3, 7)
    away = choice_robustness(queries, choices, -gap, correct, ALPHAS, 0.3, 7)
    assert curve.robustness[2] != away.robustness[2]
    for a, alpha in enumerate(("0", "0.5", "1")):
        assert result.metrics[f"robustness@{alpha}"] == pytest.approx(curve.robustness[a])
        assert result.metrics[f"acc@{alpha}"] == pytest.approx(curve.accuracy[a])
        assert result.metrics[f"noisy_acc@{alpha}"] == pytest.approx(curve.noisy_accuracy[a])
    assert (result.metrics["sigma"], result.metrics["num_questions"]) == (0.3, 5)
    assert (result.task, result.settings) == ("multiple_choice_robustness", {"noise": 0.3, "draws": 7})


def test_other_words_are_direct_answers_among_wrong_choices_of_all_questions(questions, tmp_path):
    from gapless.data.questions import load_aokvqa
    from gapless.eval.noise import _reworded

    asked = [q for q in load_aokvqa(tmp_path / "aokvqa_v1p0_val.json", tmp_path / "val2017") if q.right_answers]
    drawn = _reworded(asked, 7, 0)
    assert drawn == _reworded(asked, 7, 0) != _reworded(asked, 7, 1)
    assert len(drawn) == 7
    bank = {choice.lower() for q in asked for choice in q.choices}
    for prompts_of_draw in drawn:
        for q, texts in zip(asked, prompts_of_draw, strict=True):
            answers = [text.removeprefix(f"{q.question} ") for text in texts]
            assert len(set(answers)) == 3
            assert answers[q.correct] in q.right_answers
            wrong = set(answers) - {answers[q.correct]}
            assert wrong <= bank - {q.choices[q.correct].lower(), *q.right_answers}
    assert {texts[0][0] for texts in drawn} == {"q0? hound", "q0? puppy"}
    (result,) = evaluate(questions.loaded(), plan(tmp_path, "aokvqa"))[1:]
    kept = [row for row in QUESTIONS if row[3]]
    queries, _, correct = clouds(questions, kept)
    _, every, _ = clouds(questions)
    gap = questions.rows(*range(4)).mean(dim=0) - every.flatten(0, 1).mean(dim=0)
    right = torch.zeros(3)
    for prompts_of_draw in drawn:
        choices = torch.stack([questions.text(*texts) for texts in prompts_of_draw])
        step = torch.stack([without(gap, each) for each in choices])[:, None]
        for a, alpha in enumerate(ALPHAS):
            right[a] += (nearest_choice(queries, choices + alpha * step) == correct).float().mean() / 7
    assert 0 < right[0] < 1
    for a, alpha in enumerate(("0", "0.5", "1")):
        assert result.metrics[f"rephrasing_acc@{alpha}"] == pytest.approx(float(right[a]), abs=1e-6)
    with pytest.raises(DataError, match="3 different choices are too few to draw wrong answers from"):
        _reworded(asked[:1], 1, 0)


def test_questions_on_pictures_that_cannot_be_read_are_left_out(questions, tmp_path):
    (tmp_path / "val2017" / f"{1:012d}.jpg").unlink()
    found = evaluate(questions.loaded(), plan(tmp_path, "aokvqa", max_bad_fraction=0.25))
    kept = [row for row in QUESTIONS if row[0] != 1]
    queries, choices, correct = clouds(questions, kept)
    hits = nearest_choice(queries, choices) == correct
    assert found[0].samples["acc"].tolist() == hits.tolist()
    assert (found[0].num_samples, found[0].num_bad, found[0].metrics["num_questions"]) == (3, 1, 4)
    gap = questions.rows(0, 2, 3).mean(dim=0) - choices.flatten(0, 1).mean(dim=0)
    curve = choice_robustness(queries, choices, gap, correct, ALPHAS, 0.3, 7)
    assert found[1].metrics["robustness@1"] == pytest.approx(curve.robustness[2])


def test_questions_with_different_numbers_of_choices_are_refused(questions, tmp_path):
    rows = json.loads((tmp_path / "aokvqa_v1p0_val.json").read_text())
    rows[2]["choices"].append("more")
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="aokvqa: its questions need one number of choices"):
        evaluate(questions.loaded(), plan(tmp_path, "aokvqa"))
