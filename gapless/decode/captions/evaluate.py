"""From a captioner and a store to captions and scores."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import Progress

from gapless.config import check_types
from gapless.config.arguments import FiniteNumber, Seed
from gapless.decode.captions.captioner import Captioner, Decoding
from gapless.decode.captions.scores import TokenizerName, automatic_tokenizer, caption_scores, clip_score
from gapless.decode.store import FeatureStore, chosen_rows
from gapless.decode.transforms import orthogonal_shift
from gapless.errors import ConfigError, DataError
from gapless.eval.cache import weights_digest
from gapless.eval.results import Result, digest_of, results_folder, save_result
from gapless.eval.suite import Suite
from gapless.models import load_model
from gapless.run_folder import CAPTIONS, EXPORT, write_text

logger = logging.getLogger(__name__)


@dataclass
class CaptionPlan:
    """What is captioned, and how it is scored."""

    features: Path
    """Folder of embeddings."""
    modality: str = "image"
    """Modality that is captioned."""
    split: str = "test"
    """Split that is captioned: test, val or train."""
    ids: list[str | int] | None = None
    """Caption only these ids; null for all."""
    decoding: Decoding = field(default_factory=Decoding)
    """How captions are searched for."""
    seed: Seed = 0
    """Seed of nucleus sampling."""
    shift: FiniteNumber = 0.0
    """Length of a constant vector that is added to the embeddings, orthogonal to where they vary (the gap-distance
    test)."""
    tokenizer: TokenizerName = "auto"
    """Tokeniser of the scores: ptb (needs Java), simple, or auto."""
    clip: str | None = None
    """Run, export or open_clip model of the space, for CLIPScore; null leaves CLIPScore out."""
    clip_pretrained: str | None = None
    """Tag or file of weights where clip names a model of open_clip; none for random weights."""


def check_plan(plan: CaptionPlan) -> None:
    """Raise ConfigError with the first key whose value cannot work."""
    check_types(plan)
    if plan.ids == []:
        raise ConfigError("ids: [] leaves nothing to caption; null stands for all")


def write_captions(captioner: Captioner, plan: CaptionPlan) -> dict[str, str]:
    """A caption for each id; the first row of an id speaks for it.

    Raises:
        DataError: unknown ids, a modality without a mean, another dimension than the captioner's.
    """
    store = FeatureStore(plan.features)
    features = store.load(plan.modality, plan.split)
    store.check_space(captioner.space)
    means = captioner.preparation.means
    if captioner.preparation.collapse and plan.modality not in means:
        # Of the training split, never of the one that is captioned.
        captioner.preparation = captioner.preparation.with_mean(plan.modality, store.mean(plan.modality))
    keys = list(dict.fromkeys(features.keys if plan.ids is None else map(str, plan.ids)))
    embedding = features.embedding[chosen_rows(features, keys)]
    shift = None
    if plan.shift:
        shift = orthogonal_shift(captioner.preparation(features.embedding, plan.modality), plan.shift)
    captioner.to(PartialState().device).eval()
    torch.manual_seed(plan.seed)
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("captions", total=len(keys))
        captions = captioner.generate(
            embedding, plan.modality, plan.decoding, shift, lambda done: bar.update(task, completed=done)
        )
    return dict(zip(keys, captions, strict=True))


def score_captions(captions: dict[str, str], plan: CaptionPlan) -> tuple[dict[str, float], str]:
    """Scores of captions, and the tokeniser that they are of.

    Captions are compared with the texts of the same split that have their ids. CLIPScore is there if the plan names a
    model.

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
        if len(known) == 1:
            logger.warning(
                "cider is 0 for a single %s by its formula: words that all references share count nothing",
                plan.modality,
            )
    else:
        logger.info("%s has no texts of %s_%s to compare with", plan.features, plan.modality, plan.split)
    if plan.clip:
        scores["clip_score"] = _clip_score(captions, plan, plan.clip, store)
    return scores | {
        "num_captions": float(len(captions)),
        "num_different": float(len(set(captions.values()))),
    }, tokenizer


def _clip_score(captions: dict[str, str], plan: CaptionPlan, clip: str, store: FeatureStore) -> float:
    """CLIPScore of captions and the embeddings that they are of."""
    features, suite = store.load(plan.modality, plan.split), Suite(load_model(clip, plan.clip_pretrained))
    if store.model and weights_digest(suite.loaded.model) != store.model:
        raise DataError(f"clip: {plan.features} holds embeddings of another model than {clip}")
    words = suite.words(captions.values())
    texts, width = torch.stack([words[text] for text in captions.values()]), features.embedding.shape[1]
    if texts.shape[1] != width:
        raise DataError(f"clip: {clip} has {texts.shape[1]} dimensions, {plan.features} {width}")
    return clip_score(features.embedding[chosen_rows(features, captions)], texts)


def save_captions(
    captions: dict[str, str],
    scores: dict[str, float],
    plan: CaptionPlan,
    captioner: Path,
    folder: Path,
    tokens: str = "",
) -> Path:
    """Write captions in COCO's result format, and the scores in clip_benchmark's schema.

    Args:
        captions: by id.
        scores: of them.
        plan: what was captioned.
        captioner: its folder: a run, an export or a checkpoint.
        folder: of results.
        tokens: what split the texts that were compared.

    Returns:
        The file of captions.
    """
    place, checkpoint = results_folder(captioner)
    name = f"{place.parent.resolve().name}@{checkpoint}" if checkpoint else captioner.resolve().name
    export = captioner / EXPORT
    result = Result(
        f"{plan.features.resolve().name}-{plan.modality}-{plan.split}",
        "captioning",
        scores,
        name,
        num_samples=len(captions),
        split=plan.split,
        settings=_settings(plan),
        data=os.path.realpath(plan.features),
        sample_set=digest_of(sorted(captions), tokens),
        weights=os.path.realpath(export if export.is_dir() else captioner),
        variant=checkpoint,
    )
    path = folder / CAPTIONS / save_result(result, folder).name
    rows = [{"image_id": k, "caption": v} for k, v in captions.items()]
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False))
    return path


def _settings(plan: CaptionPlan) -> dict[str, Any]:
    """Whatever changes captions and scores and is not the default; modality and split are in the data set's name."""
    how, default = plan.decoding, Decoding()
    searched = {"beam": ["beams"], "nucleus": ["top_p"]}.get(how.strategy, [])
    settings: dict[str, Any] = {
        f"decoding.{key}": getattr(how, key)
        for key in ("strategy", "max_tokens", *searched)
        if getattr(how, key) != getattr(default, key)
    }
    if how.strategy == "nucleus" and plan.seed:
        settings["seed"] = plan.seed
    if plan.ids is not None:
        settings["ids"] = f"{len(plan.ids)} {digest_of(sorted(map(str, plan.ids)))[:8]}"
    if plan.tokenizer not in ("auto", automatic_tokenizer()):
        settings["tokenizer"] = plan.tokenizer
    if plan.clip:
        is_folder = Path(plan.clip).is_dir()
        settings["clip"] = (
            Path(plan.clip).resolve().name if is_folder else f"{plan.clip} {plan.clip_pretrained or ''}".strip()
        )
    return settings | ({"shift": plan.shift} if plan.shift else {})
