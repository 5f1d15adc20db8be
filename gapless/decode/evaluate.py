"""From a captioner and a store to captions and scores."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import Progress

from gapless.decode.captioner import Captioner, Decoding
from gapless.decode.store import FeatureStore, chosen_rows
from gapless.decode.transforms import orthogonal_shift
from gapless.errors import ConfigError, DataError
from gapless.eval.captioning import TokenizerName, caption_scores, clip_score
from gapless.eval.results import Result, save_result
from gapless.eval.suite import Suite
from gapless.models import load_model
from gapless.rules import Rule

logger = logging.getLogger(__name__)


@dataclass
class CaptionPlan:
    """What is captioned, and how it is scored."""

    features: Path
    """Folder of embeddings."""
    modality: str = "image"
    """Modality that is captioned."""
    split: str = "test"
    """Split that is captioned: val or test, or train."""
    ids: list[str | int] | None = None
    """Caption only these ids; null for all."""
    decoding: Decoding = field(default_factory=Decoding)
    """How captions are searched for."""
    seed: int = 0
    """Of nucleus sampling."""
    shift: float = 0.0
    """Length of a constant vector, orthogonal to where the embeddings vary, that is added to them: the gap-distance
    test."""
    tokenizer: TokenizerName = "auto"
    """Of the scores: ptb (Java), simple, or auto."""
    clip: str | None = None
    """Run, export or open_clip model of the space, for CLIPScore; null leaves it out."""
    clip_pretrained: str | None = None
    """Tag or weights file of an open_clip model; none for random weights."""


def check_plan(plan: CaptionPlan) -> None:
    """Raise ConfigError with the first key whose value cannot work."""
    how = plan.decoding
    rules: list[Rule] = [
        ("decoding.beams", how.beams >= 1, "at least 1"),
        ("decoding.top_p", 0 < how.top_p <= 1, "above 0 and at most 1"),
        ("decoding.max_tokens", how.max_tokens >= 1, "at least 1"),
        ("decoding.batch_size", how.batch_size >= 1, "at least 1"),
    ]
    for key, holds, wanted in rules:
        if not holds:
            raise ConfigError(f"--{key}: {getattr(how, key.partition('.')[2])} does not work, it must be {wanted}")


def write_captions(captioner: Captioner, plan: CaptionPlan) -> dict[str, str]:
    """A caption for each id; the first row of an id speaks for it.

    Raises:
        DataError: unknown ids, a modality without a mean, another dimension than the captioner's.
    """
    store = FeatureStore(plan.features)
    found = store.load(plan.modality, plan.split)
    means = captioner.preparation.means
    if captioner.preparation.collapse and plan.modality not in means:
        # Of the training split, never of the one that is captioned.
        captioner.preparation = captioner.preparation.with_mean(plan.modality, store.mean(plan.modality))
    ids = list(dict.fromkeys(found.ids if plan.ids is None else map(str, plan.ids)))
    embedding = found.embedding[chosen_rows(found, ids)]
    shift = None
    if plan.shift:
        shift = orthogonal_shift(captioner.preparation(found.embedding, plan.modality), plan.shift)
    captioner.to(PartialState().device).eval()
    torch.manual_seed(plan.seed)
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("captions", total=len(ids))
        said = captioner.generate(
            embedding, plan.modality, plan.decoding, shift, lambda done: bar.update(task, completed=done)
        )
    return dict(zip(ids, said, strict=True))


def score_captions(captions: dict[str, str], plan: CaptionPlan) -> tuple[dict[str, float], str]:
    """Scores of captions, and the tokeniser that they are of.

    Against the texts of the same split, where any has the id of what is captioned, and with CLIPScore if it is wanted.

    Raises:
        DataError: the model of CLIPScore is of another space.
    """
    store, tokenizer = FeatureStore(plan.features), "none"
    scores: dict[str, float] = {}
    references = store.captions(plan.split) if ("text", plan.split) in store.files else {}
    known = {name: text for name, text in captions.items() if name in references}
    if known:
        scores, tokenizer = caption_scores(known, references, plan.tokenizer)
        scores["num_compared"] = float(len(known))
    else:
        logger.info("%s has no texts of %s_%s to compare with", plan.features, plan.modality, plan.split)
    if plan.clip:
        found = store.load(plan.modality, plan.split)
        texts = Suite(load_model(plan.clip, plan.clip_pretrained)).words(captions.values())
        said = torch.stack([texts[text] for text in captions.values()])
        if said.shape[1] != found.embedding.shape[1]:
            raise DataError(
                f"--clip: {plan.clip} has {said.shape[1]} dimensions, {plan.features} {found.embedding.shape[1]}"
            )
        scores["clip_score"] = clip_score(found.embedding[chosen_rows(found, captions)], said)
    return scores | {
        "num_captions": float(len(captions)),
        "num_different": float(len(set(captions.values()))),
    }, tokenizer


def save_captions(
    captions: dict[str, str], scores: dict[str, float], plan: CaptionPlan, name: str, folder: Path
) -> Path:
    """Write captions in COCO's result format, and the scores in clip_benchmark's schema.

    Args:
        captions: by id.
        scores: of them.
        plan: what was captioned.
        name: of the captioner.
        folder: of results.

    Returns:
        The file of captions.
    """
    dataset = f"{plan.features.name}-{plan.modality}-{plan.split}"
    result = Result(dataset, "captioning", scores, name, num_samples=len(captions))
    save_result(result, folder)
    path = folder / "captions" / f"{result.stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps([{"image_id": k, "caption": v} for k, v in captions.items()], indent=1, ensure_ascii=False)
    )
    return path
