"""The captioners that connect-collapse-corrupt trains, and the captions that are scored of each."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from gapless.config import config_file, load_tree
from gapless.decode import load_captioner, train_captioner
from gapless.decode.captions.config import CaptionConfig
from gapless.decode.captions.evaluate import CaptionPlan, save_captions, score_captions, write_captions
from gapless.decode.captions.scores import TokenizerName
from gapless.engine.run import run_folder
from gapless.measures import measure_of
from gapless.reproduce.connect_collapse_corrupt.published import METRICS
from gapless.run_folder import BEST, CHECKPOINTS, RESULTS, write_text

logger = logging.getLogger(__name__)

VARIANTS = {
    "c1": "C1, connect",
    "c2-collapse": "C2, collapse",
    "c2-span": "C2, noise in the span only",
    "c2-corrupt": "C2, corrupt",
    "c3": "C3, both",
}
LOW_DATA_ROWS = {"pairs": "pairs alone (ClipCap)", "c3": "texts first (C3), then pairs"}
FRACTIONS = (0.01, 0.05, 0.25, 1.0)
SHIFTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
LEAST_SHARE = 0.25
"""Smaller shares of the pairs are gone through as often as makes them this one, at most 16 times as often."""


@dataclass(frozen=True)
class CaptionMember:
    """A captioner, and the captions that it is scored on."""

    config: CaptionConfig
    plan: CaptionPlan
    """What is captioned."""
    ending: str = ""
    """Of the names of the scores, where a captioner has more than one plan."""

    @property
    def name(self) -> str:
        """Of its run, and of the plan."""
        return f"{self.config.name}{self.ending}"

    @property
    def folder(self) -> Path:
        """Of its run."""
        return run_folder(self.config)

    @property
    def path(self) -> Path:
        """The file of captions and scores."""
        return self.folder / f"scores{self.ending}.json"

    def run(self) -> dict[str, str]:
        """Train unless finished, caption unless done."""
        train_captioner(self.config)
        if PartialState().is_main_process and not self.path.is_file():
            # The paper stops early: the checkpoint with the lowest loss on the val split of what was learned from.
            best = self.folder / CHECKPOINTS / BEST
            captions = write_captions(load_captioner(best), self.plan)
            scores, tokens = score_captions(captions, self.plan)
            save_captions(captions, scores, self.plan, best, self.folder / RESULTS, tokens)
            tree = {"tokens": tokens, "scores": scores, "captions": captions}
            write_text(self.path, json.dumps(tree, indent=1) + "\n")
            shown = ", ".join(f"{measure_of(m).title} {100 * scores[m]:.1f}" for m in METRICS if m in scores)
            logger.info("%s: %s", self.name, shown)
        PartialState().wait_for_everyone()
        return {}

    def read(self) -> dict[str, Any]:
        """Its tokens, scores and captions."""
        tree: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return tree

    @property
    def scores(self) -> dict[str, float]:
        """By metric."""
        scores: dict[str, float] = self.read()["scores"]
        return scores


BySeed = dict[str, dict[int, CaptionMember]]
"""Members by row of a table and seed."""


@dataclass(frozen=True)
class Setting:
    """Where everything is taken from and put."""

    output: Path
    features: Path
    base: str
    """YAML under configs/caption/ that the variants are laid over."""
    seeds: Sequence[int]
    quick: bool

    def config(self, overlay: str, name: str, seed: int, **features: Any) -> CaptionConfig:
        """A run of an overlay, named and placed."""
        config = load_tree(
            CaptionConfig, config_file(f"caption/{self.base}.yaml"), config_file(f"caption/{overlay}.yaml")
        )
        # A few pairs are gone through more often, so that decoders of all shares take some steps.
        times = round(max(1.0, min(16.0, LEAST_SHARE / features.get("fraction", 1.0))))
        epochs = 1 if self.quick else times * config.train.epochs
        return replace(
            config,
            name=f"{name}-seed{seed}",
            output=str(self.output / "runs"),
            seed=seed,
            features=replace(config.features, path=str(self.features), **features),
            train=replace(config.train, epochs=epochs),
        )

    def plan(self, modality: str = "image", shift: float = 0.0) -> CaptionPlan:
        """What is captioned; scores of emoji do without Java, which takes longer than all else."""
        tokenizer: TokenizerName = "simple" if self.base == "emoji" else "auto"
        return CaptionPlan(self.features, modality, shift=shift, tokenizer=tokenizer)

    def variants(self) -> BySeed:
        """Every variant on texts alone, scored on images."""
        return {
            name: {seed: CaptionMember(self.config(name, name, seed), self.plan()) for seed in self.seeds}
            for name in VARIANTS
        }

    def low_data(self) -> dict[float, BySeed]:
        """Shares of the pairs, from scratch and after texts alone."""
        members: dict[float, BySeed] = {}
        for share in FRACTIONS:
            members[share] = {name: {} for name in LOW_DATA_ROWS}
            for seed in self.seeds:
                config = self.config("pairs", f"pairs-{share:g}", seed, fraction=share)
                members[share]["pairs"][seed] = CaptionMember(config, self.plan())
                config = self.config("low-data", f"c3-{share:g}", seed, fraction=share)
                start = str(run_folder(self.config("c3", "c3", seed)))
                config = replace(config, decoder=replace(config.decoder, start=start))
                members[share]["c3"][seed] = CaptionMember(config, self.plan())
        return members

    def distances(self) -> dict[float, CaptionMember]:
        """Texts repeated by a decoder of texts, after a constant was added to them; one seed."""
        config = self.config("gap-distance", "gap-distance", self.seeds[0])
        return {s: CaptionMember(config, self.plan("text", s), f"-shift{s:g}") for s in SHIFTS}
