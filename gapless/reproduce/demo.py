"""The demo: what the contrastive gap is and how it closes, on embedded data, in minutes.

A small CLIP is trained with CLIP's loss, then fine-tuned three times from that one start with the contrastive-gap
paper's recipe: clip, cua and cuaxu. All numbers are of the held-out test split, after the last step.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from torch import Tensor

from gapless.config import Config, with_changes
from gapless.eval import Embeddings, build_pair_evaluation, embed_pairs
from gapless.measures import measure_of
from gapless.models import load_export
from gapless.report import column_of, embedding_maps, load_run, score_table, write_report
from gapless.reproduce.emoji import fine_tuning, pretraining
from gapless.reproduce.grid import Member, run_members
from gapless.run_folder import EXPORT, write_text

logger = logging.getLogger(__name__)

START = "before"
OBJECTIVES = ("clip", "cua", "cuaxu")
COLUMNS = (
    column_of("test/centroid_distance"),
    column_of("test/linear_separability"),
    column_of("test/uniformity"),
    column_of("test/alignment"),
    column_of("test/image_retrieval_recall@1"),
    column_of("test/text_retrieval_recall@1"),
    column_of("emoji_skin_tone/acc1", "zero-shot accuracy"),
)
QUICK = {"data": {"train_samples": 128, "val_samples": 32, "batch_size": 64}, "train": {"epochs": 1}}


def run_demo(output: Path, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train, compare, and write table.md, results.json, embeddings.png and report.html.

    Interrupted, it continues where it was; finished runs are not trained again.

    Args:
        output: folder of the runs and the results.
        quick: one epoch of 128 pairs each; shows that everything works, and nothing else.

    Returns:
        Metrics by row of the table.
    """
    changes: dict[str, Any] = QUICK if quick else {}
    start = pretraining(output, **changes)
    members = {START: Member(start)}
    for objective in OBJECTIVES:
        members[objective] = Member(fine_tuning(start, name=objective, loss={"preset": objective}, **changes))
    run_members(list(members.values()), strict=True)
    rows: dict[str, dict[str, float]] = {}
    clouds: dict[str, tuple[Tensor, Tensor]] = {}
    for name, member in members.items():
        rows[name], features = evaluate_export(member.folder / EXPORT, start)
        clouds[name] = (features.image, features.text)
    if not PartialState().is_main_process:
        return rows
    n = int(rows[START]["test/num_samples"])
    title = f"{n} held-out emoji, before and after fine-tuning; best objective in bold"
    table = score_table(rows, COLUMNS, title, OBJECTIVES)
    write_text(output / "table.md", table.markdown())
    write_text(output / "results.json", json.dumps(rows, indent=2) + "\n")
    embedding_maps(clouds, {name: _caption(scores) for name, scores in rows.items()}, output / "embeddings.png")
    runs = [load_run(member.folder) for member in members.values()]
    write_report(runs, output / "report.html", "The contrastive gap on emoji", [table])
    Console().print(table.terminal())
    logger.info("written: table.md, results.json, embeddings.png; to look at: %s", output / "report.html")
    return rows


def evaluate_export(folder: Path, config: Config) -> tuple[dict[str, float], Embeddings]:
    """Scores and features of an exported model on the whole test split of the emoji data."""
    config = with_changes(config, data={"val_samples": None})
    model, tokenizer = load_export(folder)
    evaluation = build_pair_evaluation(config, model, tokenizer, "test", prefix="test")
    features = embed_pairs(model, evaluation.data)
    return evaluation.score(model, features), features


def _caption(scores: Mapping[str, float]) -> str:
    shown = ("test/centroid_distance", "test/linear_separability")
    return ", ".join(f"{measure_of(name).short} {scores[name]:.2f}" for name in shown)
