"""Caption scores against second implementations, written from the papers' formulas."""

import math
import shutil
from collections import Counter

import pytest
import torch

from gapless.decode.captions.scores import caption_scores, clip_score, simple_tokens
from gapless.errors import ConfigError, DataError

CAPTIONS = {"a": "a man rides a brown horse on the beach", "b": "two dogs play", "c": "a red car parked by a house"}
REFERENCES = {
    "a": ["a man riding a horse on a beach", "a man rides his brown horse near the sea"],
    "b": ["two dogs play in the snow with a ball", "dogs playing in snow"],
    "c": ["a red car is parked in front of a house", "the red car by the house"],
}


def ngrams(words, n):
    return Counter(tuple(words[k : k + n]) for k in range(len(words) - n + 1))


def naive_bleu(n):
    right, total, length, wanted = [0] * n, [0] * n, 0, 0
    for name, text in CAPTIONS.items():
        words, others = text.split(), [r.split() for r in REFERENCES[name]]
        length += len(words)
        wanted += min((abs(len(o) - len(words)), len(o)) for o in others)[1]
        for k in range(n):
            counts = ngrams(words, k + 1)
            most = Counter()
            for other in others:
                most |= ngrams(other, k + 1)
            right[k] += sum((counts & most).values())
            total[k] += sum(counts.values())
    mean = sum(math.log(r / t) for r, t in zip(right, total, strict=True)) / n
    return math.exp(mean + min(0.0, 1 - wanted / length))


def longest(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def naive_rouge():
    found = []
    for name, text in CAPTIONS.items():
        words, others = text.split(), [r.split() for r in REFERENCES[name]]
        precision = max(longest(words, o) / len(words) for o in others)
        recall = max(longest(words, o) / len(o) for o in others)
        found.append((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))
    return sum(found) / len(found)


def naive_cider():
    documents = Counter()
    for texts in REFERENCES.values():
        documents.update({g for text in texts for n in range(1, 5) for g in ngrams(text.split(), n)})

    def vector(words, n):
        return {g: c * math.log(len(REFERENCES) / max(1, documents[g])) for g, c in ngrams(words, n).items()}

    found = []
    for name, text in CAPTIONS.items():
        score = 0.0
        for reference in REFERENCES[name]:
            one, other = text.split(), reference.split()
            for n in range(1, 5):
                u, v = vector(one, n), vector(other, n)
                norms = math.sqrt(sum(x * x for x in u.values())) * math.sqrt(sum(x * x for x in v.values()))
                same = sum(min(u[g], v[g]) * v[g] for g in u if g in v)
                score += (same / norms if norms else 0.0) * math.exp(-((len(one) - len(other)) ** 2) / 72) / 4
        found.append(10 * score / len(REFERENCES[name]))
    return sum(found) / len(found)


def test_scores_are_those_of_the_formulas():
    scores, output = caption_scores(CAPTIONS, REFERENCES, "simple")
    assert "no Java" in output
    for n in (1, 2, 3):
        assert scores[f"bleu_{n}"] == pytest.approx(naive_bleu(n), abs=1e-5)
    assert scores["rouge_l"] == pytest.approx(naive_rouge(), abs=1e-6)
    assert scores["cider"] == pytest.approx(naive_cider(), abs=1e-6)
    perfect = {name: texts[0] for name, texts in REFERENCES.items()}
    assert caption_scores(perfect, {n: [t] for n, t in perfect.items()}, "simple")[0]["bleu_4"] == pytest.approx(1)


@pytest.mark.skipif(shutil.which("java") is None, reason="the Penn Treebank tokeniser needs Java")
def test_with_java_the_same_tokens_have_the_same_scores():
    dotted = {name: f"{text}." for name, text in CAPTIONS.items()}
    simple, treebank = (caption_scores(dotted, REFERENCES, way)[0] for way in ("simple", "ptb"))
    assert {name: treebank[name] for name in simple} == pytest.approx(simple, abs=1e-3)
    assert 0 < treebank["meteor"] < 1


def test_tokens_and_what_cannot_be_scored(monkeypatch):
    assert simple_tokens("Woman's hat: medium-light, 3.5 (new)!") == "woman's hat medium-light 3.5 new"
    with pytest.raises(DataError, match="id 'd' has no reference"):
        caption_scores({"d": "a"}, REFERENCES)
    with pytest.raises(DataError, match="there are no captions"):
        caption_scores({}, REFERENCES)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="needs Java"):
        caption_scores(CAPTIONS, REFERENCES, "ptb")
    assert "simple" in caption_scores(CAPTIONS, REFERENCES)[1]


def test_clip_score_is_a_clamped_mean_cosine():
    x = torch.eye(3)
    assert clip_score(x, torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0.6, 0.8]])) == pytest.approx(2.5 * 1.8 / 3)
