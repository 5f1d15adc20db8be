"""connect-collapse-corrupt's captioning: Tables 2, 5, 6 and 7, Figures 6 and 10, by training every variant.

The space is that of any CLIP; without one, an emoji CLIP is trained as in the geometry of the same paper.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from gapless.config import DataConfig, config_file, load_tree
from gapless.data import build_source
from gapless.decode import load_captioner, train_captioner
from gapless.decode.captions.config import CaptionConfig
from gapless.decode.captions.evaluate import CaptionPlan, save_captions, score_captions, write_captions
from gapless.decode.captions.scores import TokenizerName
from gapless.decode.embed import embed_store
from gapless.measures import measure_of
from gapless.models import NO_WEIGHTS, RANDOM, check_model
from gapless.report import Cell, Table, column_of, load_run, print_tables, write_document, write_report
from gapless.report.figures import draw_panels
from gapless.report.gallery import thumbnail
from gapless.report.panels import Panel, Series
from gapless.report.tables import best_row
from gapless.reproduce.bug_or_feature.experiment import emoji_model
from gapless.reproduce.connect_collapse_corrupt.published import (
    GAP_DISTANCE,
    LOW_DATA,
    METRICS,
    PUBLISHED,
    SPAN_NOISE,
)
from gapless.reproduce.statistics import better, compare, estimate
from gapless.run_folder import MEANS_FILE, write_text

logger = logging.getLogger(__name__)

VARIANTS = {
    "c1": "C1, connect",
    "c2-collapse": "C2, collapse",
    "c2-span": "C2, noise in the span only",
    "c2-corrupt": "C2, corrupt",
    "c3": "C3, both",
}
ORDER = (("c2-collapse", "c1"), ("c2-corrupt", "c1"), ("c3", "c2-collapse"), ("c3", "c2-corrupt"))
"""The paper's C1 < C2 < C3, each better one first."""
FRACTIONS = (0.01, 0.05, 0.25, 1.0)
SHIFTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
LEAST_SHARE = 0.25
"""Smaller shares of the pairs are gone through as often as makes them this one, at most 16 times as often."""
SEEDS = (42, 24, 44)
SHOWN = 12
"""Pictures of Figure 10."""

Scores = dict[str, dict[int, dict[str, float]]]
"""By member and seed."""


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


def reproduce_captioning(
    output: Path,
    source: Path | None = None,
    data: DataConfig | None = None,
    quick: bool = False,
    pretrained: str | None = None,
) -> list[Table]:
    """Train every variant, caption the test images, and write tables, figures and a page.

    What is finished is not done again, so that the same command goes on after a stop.

    Args:
        output: folder of everything that is written.
        source: a run, export or open_clip model whose space is used; None trains an emoji CLIP.
        data: the pairs; None for the embedded emoji.
        quick: one seed, one epoch.
        pretrained: tag or weights file of an open_clip model, or none for random weights.
    """
    if source:
        check_model(str(source), pretrained)
    data = data or DataConfig()
    model = source or emoji_model(output / "runs", quick)
    features = output / "features"
    if not (features / MEANS_FILE).is_file():
        embed_store(str(model), pretrained, data, features)
    setting = Setting(output, features, "coco" if data.source == "coco" else "emoji", SEEDS[: 1 if quick else 3], quick)
    variants = _variants(setting)
    low = _low_data(setting)
    distances = _distances(setting)
    if not PartialState().is_main_process:
        return []
    tables = [
        _table("Table 2: captions of images by a decoder of texts", PUBLISHED, _only(variants, PUBLISHED), VARIANTS),
        _claims(variants, low),
        _span(variants),
        *(_table(f"Table 5: {share:.0%} of the pairs", LOW_DATA[share], low[share], LOW_ROWS) for share in FRACTIONS),
        _distance_table(distances),
    ]
    _draw(output, low, distances)
    _write(
        output,
        [*tables, _pictures(setting, data)],
        model,
        {"variants": variants, "low_data": low, "gap_distance": distances},
        f" of {RANDOM}" if pretrained == NO_WEIGHTS else "",
    )
    return tables


# --- runs --------------------------------------------------------------------------------------------------------


def _scored(config: CaptionConfig, plan: CaptionPlan, stem: str = "") -> dict[str, float]:
    """Train unless finished, caption unless done; the scores."""
    run = train_captioner(config)
    path = run / f"scores{stem}.json"
    if PartialState().is_main_process and not path.is_file():
        # The paper stops early: the checkpoint with the lowest loss on the val split of what was learned from.
        best = run / "checkpoints" / "best"
        captions = write_captions(load_captioner(best), plan)
        scores, tokens = score_captions(captions, plan)
        save_captions(captions, scores, plan, best, run / "results", tokens)
        write_text(path, json.dumps({"tokens": tokens, "scores": scores, "captions": captions}, indent=1) + "\n")
        shown = ", ".join(f"{measure_of(m).title} {100 * scores[m]:.1f}" for m in METRICS if m in scores)
        logger.info("%s%s: %s", run.name, stem, shown)
    PartialState().wait_for_everyone()
    found: dict[str, float] = json.loads(path.read_text())["scores"]
    return found


def _variants(setting: Setting) -> Scores:
    """Every variant on texts alone, scored on images."""
    return {
        name: {seed: _scored(setting.config(name, name, seed), setting.plan()) for seed in setting.seeds}
        for name in VARIANTS
    }


LOW_ROWS = {"pairs": "pairs alone (ClipCap)", "c3": "texts first (C3), then pairs"}


def _low_data(setting: Setting) -> dict[float, Scores]:
    """Shares of the pairs, from scratch and after texts alone."""
    found: dict[float, Scores] = {}
    for share in FRACTIONS:
        found[share] = {"pairs": {}, "c3": {}}
        for seed in setting.seeds:
            config = setting.config("pairs", f"pairs-{share:g}", seed, fraction=share)
            found[share]["pairs"][seed] = _scored(config, setting.plan())
            config = setting.config("low-data", f"c3-{share:g}", seed, fraction=share)
            start = str(setting.output / "runs" / f"c3-seed{seed}")
            config = replace(config, decoder=replace(config.decoder, start=start))
            found[share]["c3"][seed] = _scored(config, setting.plan())
    return found


def _distances(setting: Setting) -> dict[float, dict[str, float]]:
    """Texts said again by a decoder of texts, after a constant was added to them; one seed."""
    config = setting.config("gap-distance", "gap-distance", setting.seeds[0])
    return {shift: _scored(config, setting.plan("text", shift), f"-shift{shift:g}") for shift in SHIFTS}


# --- tables ------------------------------------------------------------------------------------------------------


def _table(title: str, published: Mapping[str, Mapping[str, float]], found: Scores, names: Mapping[str, str]) -> Table:
    """Ours over seeds, times 100 as papers print it, and the paper's."""
    present = [m for m in METRICS if all(m in s for seeds in found.values() for s in seeds.values())]
    means = {name: {m: estimate([s[m] for s in seeds.values()]).mean for m in present} for name, seeds in found.items()}
    best = {m: best_row(means, column_of(m)) for m in present}
    header = [""]
    for metric in METRICS:
        label = measure_of(metric).title
        header += [label] * (metric in present) + [f"paper {label}"]
    rows = []
    for name, seeds in found.items():
        row = [Cell(names[name])]
        for metric in METRICS:
            if metric in present:
                row.append(Cell(_percent([s[metric] for s in seeds.values()]), best[metric] == name))
            row.append(Cell(f"{published[name][metric]:g}" if metric in published.get(name, {}) else "-"))
        rows.append(row)
    n = len(next(iter(found.values())))
    note = f"Ours: n = {n} seeds, mean ± standard error, times 100. Paper: COCO, CLIP ViT-B/32, GPT-2."
    return Table(title, header, rows, note)


def _only(found: Scores, published: Mapping[str, Any]) -> Scores:
    return {name: seeds for name, seeds in found.items() if name in published}


def _percent(values: Sequence[float]) -> str:
    mean, error = estimate([100 * value for value in values])
    return f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"


def _claims(variants: Scores, low: Mapping[float, Scores]) -> Table:
    """C1 < C2 < C3, and texts before pairs, by paired differences over seeds."""
    pairs = [(VARIANTS[one], variants[one], VARIANTS[other], variants[other]) for one, other in ORDER]
    pairs += [
        (f"{share:.0%} of the pairs: texts first", found["c3"], "pairs alone", found["pairs"])
        for share, found in low.items()
    ]
    rows = []
    for name, one, worse, other in pairs:
        for metric in ("rouge_l", "cider"):
            first, second = ([100 * s[metric] for s in side.values()] for side in (one, other))
            result = compare(first, second, better(metric))
            told = f"{result.difference:+.1f} [{result.low:+.1f}, {result.high:+.1f}]"
            claim = f"{name} above {worse}, {measure_of(metric).title}"
            rows.append([Cell(claim), Cell(told), Cell(result.verdict, result.verdict == "holds")])
    note = "Paired differences over seeds with their 95 % t interval; a claim holds if all of the interval does."
    return Table(
        "The paper's claims: C1 < C2 < C3, and texts before pairs", ["claim", "difference", "verdict"], rows, note
    )


def _span(found: Scores) -> Table:
    """Table 7: noise in the span only is about collapse, noise along the gap too is far better."""
    return _table("Table 7: what noise along the gap does", SPAN_NOISE, _only(found, SPAN_NOISE), VARIANTS)


def _distance_table(found: Mapping[float, Mapping[str, float]]) -> Table:
    rows = [
        [
            Cell(f"{shift:g}"),
            Cell(f"{100 * scores['bleu_1']:.1f}"),
            Cell(f"{100 * scores['rouge_l']:.1f}"),
            Cell(f"{GAP_DISTANCE[shift][1]:g}"),
            Cell(f"{100 * scores['meteor']:.1f}" if "meteor" in scores else "-"),
            Cell(f"{GAP_DISTANCE[shift][2]:g}"),
        ]
        for shift, scores in found.items()
    ]
    bleu, rouge, meteor = (measure_of(name).title for name in ("bleu_1", "rouge_l", "meteor"))
    header = ["added length", bleu, rouge, f"paper {rouge}", meteor, f"paper {meteor}"]
    note = "Texts said again, one seed; the constant lies where the texts vary least."
    return Table("Table 6: trained on x, tested on x + c", header, rows, note)


def _pictures(setting: Setting, data: DataConfig) -> Table:
    """Figure 10: what each variant says of the same pictures."""
    said = {
        name: json.loads((setting.output / "runs" / f"{name}-seed{setting.seeds[0]}" / "scores.json").read_text())
        for name in VARIANTS
    }
    source, ids = build_source(data, "test"), list(said["c3"]["captions"])
    chosen = {ids[k * len(ids) // SHOWN] for k in range(SHOWN)}
    rows = []
    for position in range(len(source)):
        key = source.key(position)
        if key in chosen:
            texts = [source.captions(position)[0], *(each["captions"][key] for each in said.values())]
            rows.append([Cell(key, picture=thumbnail(source.load(position).image)), *map(Cell, texts)])
    note = f"Test images, evenly spaced and not picked, seed {setting.seeds[0]}; none of them was seen in training."
    return Table("Figure 10: what each variant says", ["", "people", *VARIANTS.values()], rows, note)


# --- files -------------------------------------------------------------------------------------------------------


def _draw(output: Path, low: Mapping[float, Scores], distances: Mapping[float, Mapping[str, float]]) -> None:
    """Figure 6, and Table 6 as a curve."""
    shares = [100 * share for share in low]
    series = [
        Series(told, shares, [estimate([100 * s["cider"] for s in low[share][name].values()]).mean for share in low], k)
        for k, (name, told) in enumerate(LOW_ROWS.items())
    ]
    distance = Series("texts said again", list(distances), [100 * s["rouge_l"] for s in distances.values()], 2)
    panels = [
        Panel(f"{measure_of('cider').title} by share of the pairs, %", "", series),
        Panel(f"{measure_of('rouge_l').title} by added length", "", [distance]),
    ]
    for suffix in (".png", ".pdf"):
        draw_panels(panels, output / f"captioning{suffix}")


def _write(output: Path, tables: Sequence[Table], model: Path, tree: Mapping[str, Any], weights: str) -> None:
    name = "connect-collapse-corrupt-captions"
    path = write_document(output, name, f"{name}{weights}", tables, "\n![curves](captioning.png)\n")
    write_text(output / "captioning.json", json.dumps(tree, indent=2) + "\n")
    if (model / "metrics.jsonl").is_file():
        write_report([load_run(model)], output / "captions.html", "Connect, collapse, corrupt: captions", tables)
    print_tables(tables, 130)
    logger.info("written: %s", path)
