"""Every number that is logged or printed has a record, and pages and documents agree with the records."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gapless.cli.geometry import SHOWN
from gapless.cli.scores import HEADLINES
from gapless.engine.loop import COUNTED
from gapless.geometry import close_gap, gap_metrics, gap_statistics, whole_gap
from gapless.loss_terms import TERMS
from gapless.measures import MEASURES, measure_of
from tests.runs import metrics, run, tiny_config, write_config

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "title", "direction", "section"),
    [
        ("val/centroid_distance", "centroid distance", "low", "Distance"),
        ("val/text_retrieval_recall@5", "image to text R@5", "high", "Retrieval"),
        ("image_retrieval_recall@1", "text to image R@1", "high", "Retrieval"),
        ("image_retrieval_median_rank", "text to image median rank", "low", "Retrieval"),
        ("mixing@10", "neighbours of the same modality@10", "low", "Mixing"),
        ("mixed_recall@1_0.5", "recall among images and texts@1_0.5", "high", "Retrieval"),
        ("relative_alignment", "pairs that are each other's nearest", "high", "Mixing"),
        ("emoji/acc1", "accuracy", "high", "Classification"),
        ("sugar_crepe/swap_att/acc", "accuracy", "high", "Classification"),
        ("noisy_acc1@0.5", "noisy accuracy@0.5", "high", "Robustness"),
        ("effective_rank_image", "effective rank of images", "", "Dimensions"),
        ("gap_length_mean", "length of the gap", "", "Gap and noise"),
        ("num_edits", "edits", "", "Counts"),
        ("train/loss", "training loss", "low", "Training"),
        ("val/loss", "loss a token", "low", "Captions"),
        ("val/perplexity", "perplexity", "low", "Captions"),
        ("train/lr", "learning rate", "", "Training"),
        ("train/cross_uniform", "cross_uniform", "low", "Training"),
        ("train/mine.losses:term", "mine.losses:term", "low", "Training"),
        ("train/weight/clip", "weight of clip", "", "Training"),
        ("data/skipped_broken_image", "skipped broken image", "", "Counts"),
        ("sigma", "deviation of the noise", "", "Robustness"),
        ("share_of_gap", "share of the gap that is moved", "", "Robustness"),
        ("simat_score@1", "SIMAT score@1", "high", "Arithmetic"),
        ("unknown", "unknown", "", ""),
        ("val/unknown@3", "val/unknown@3", "", ""),
    ],
)
def test_names_as_they_occur(name, title, direction, section):
    measure = measure_of(name)
    assert (measure.name, measure.title, measure.direction, measure.section) == (name, title, direction, section)


def test_short_titles_keep_the_cutoff():
    assert measure_of("val/image_retrieval_recall@10").short == "T→I R@10"
    assert measure_of("val/linear_separability").short == "separability"
    assert measure_of("alignment").short == "alignment"


def test_losses_and_spreads_are_better_when_low_and_shares_of_right_answers_when_high():
    low = {name for name, measure in MEASURES.items() if measure.direction == "low"}
    high = {name for name, measure in MEASURES.items() if measure.direction == "high"}
    assert {"train/loss", "loss", "perplexity", "centroid_distance", "uniformity_text", "modality_nmi", "mmd2"} <= low
    assert {"acc1", "image_retrieval_recall", "cider", "simat", "robustness", "pair_cosine", "v_measure"} <= high
    assert all(measure.title and measure.short and measure.section for measure in MEASURES.values())
    assert [name for name, measure in MEASURES.items() if measure.name != name] == []


def without_record(names):
    return sorted(name for name in names if not measure_of(name).section)


@pytest.fixture(scope="module")
def sides():
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    return x, F.normalize(x + torch.randn(40, 6, generator=generator), dim=1)


def test_every_measure_of_a_gap_has_a_record(sides):
    from gapless.eval.metrics.retrieval import recall_at, retrieval_ranks

    names = {*whole_gap(*sides), *whole_gap(sides[0], sides[1][:30]), *gap_metrics(*sides)}
    names |= set(gap_statistics(*sides, 10)) | {"num_images", "num_texts", "dimension"}
    names |= set(recall_at(*retrieval_ranks(*sides)))
    assert without_record(names) == []
    assert without_record(SHOWN) == []
    assert without_record(name for shown in HEADLINES.values() for name in shown) == []
    sections = [measure_of(name).section for name in SHOWN]
    assert sections == sorted(sections, key=sections.index)  # each stands once above its measures


def test_every_score_of_classes_groups_and_captions_has_a_record(sides):
    from gapless.decode.captions.scores import caption_scores
    from gapless.eval.metrics.grouping import intra_modal_retrieval, joint_clustering, mixed_recall
    from gapless.eval.metrics.zero_shot import class_gap, zero_shot_accuracy

    x, y = sides
    labels = torch.arange(40) % 6
    classes = zero_shot_accuracy(x, y[:6], labels)
    names = {*classes, *class_gap(x, y, labels), *(f"lp_{name}" for name in classes), *joint_clustering(x, y, labels)}
    names |= set(mixed_recall(x, y)) | {f"{s}_{n}" for s in ("image", "text") for n in intra_modal_retrieval(x, labels)}
    pytest.importorskip("pycocoevalcap")
    captions, _ = caption_scores({"1": "a b c d", "2": "e f g"}, {"1": ["a b c e"], "2": ["e f"]}, "simple")
    names |= {*captions, "meteor", "spice", "clip_score", "num_compared", "num_captions", "num_different"}
    assert without_record(names) == []


def test_every_number_of_noise_and_closing_has_a_record(sides):
    names = {"robustness", "accuracy", "noisy_accuracy"}
    names |= {name for name, value in close_gap(*sides, "approximate").fit.items() if name == "share_of_gap"}
    source = (Path(__file__).parents[1] / "gapless" / "eval" / "noise.py").read_text()
    literal = set(re.findall(r'"((?:rephrasing|white|noisy|num|share)_\w+|sigma)(?:@\{alpha:g\})?"', source))
    assert len(literal) >= 5
    names |= literal | {f"{n}@0.5" for n in ("robustness", "acc", "acc1", "noisy_acc", "noisy_acc1", "rephrasing_acc")}
    assert without_record(names) == []


def test_every_number_of_a_run_and_of_its_evaluation_has_a_record(tmp_path):
    tree = tiny_config(tmp_path, train__epochs=1, checkpoint__every_steps=None, data__val_samples=20)
    run("train", "--config", str(write_config(tree, tmp_path / "c.yaml")))
    names = {name for row in metrics(tmp_path / "tiny") for name in row if "/" in name}
    assert {"train/cross_uniform", "train/lr", "val/num_samples", "emoji_group/acc1"} <= names
    names |= {f"data/{name}" for name in COUNTED} | {f"train/{term}" for term in TERMS} | {"val/seconds"}
    assert without_record(names) == []


def cells(document):
    """The first cells that are code of a document's tables of measures or tasks, and the cells beside them."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", (DOCS / document).read_text(), re.MULTILINE):
        head, _, *rows = table.splitlines()
        column = {"| measure": 0, "| task": 1}.get(head.rpartition(" |")[0].rpartition(" | ")[0].rstrip())
        found += [row.strip("|").split(" | ")[column] for row in rows if column is not None]
    return found


def documented(document):
    """Names of metrics in a document's tables; an ending, which may be added to the name before or take the place of
    its own, stands for both.
    """
    last, names = "", []
    for cell in cells(document):
        for name in re.findall(r"`([^`-][^`]*)`", cell):
            if name.startswith("_"):
                names.append({last + name, re.sub(r"_[a-z0-9]+$", name, last)})
            else:
                names.append({last := name})
    return names


def test_documents_name_metrics_that_have_records():
    names = documented("closing.md") + documented("evaluation.md")
    assert all({name} in names for name in ("centroid_distance", "lp_acc5", "simat_score@LAMBDA"))
    for alternatives in names:
        patterns = [name.partition("@")[0].replace("*", ".+") for name in alternatives]
        assert any(re.fullmatch(pattern, name) for pattern in patterns for name in MEASURES), alternatives


def test_closing_names_every_measure_of_the_gap():
    text = (DOCS / "closing.md").read_text()
    for name in SHOWN:
        base = name.partition("@")[0]
        stem = re.sub(r"_(image|text|union|mean|std)$", "", base)
        assert stem in text or stem.partition("_")[0] + "_*" in text, name
