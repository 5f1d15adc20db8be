"""connect-collapse-corrupt's captioning: Tables 2, 5, 6 and 7, Figures 6 and 10, by training every variant.

The space is that of any CLIP; without one, an emoji CLIP is trained as in the geometry of the same paper.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from gapless.config import DataConfig
from gapless.data import build_source
from gapless.decode import FeatureStore
from gapless.decode.embed import embed_store
from gapless.errors import DataError
from gapless.eval.cache import weights_digest
from gapless.measures import measure_of
from gapless.models import NO_WEIGHTS, RANDOM, check_model, load_model
from gapless.report import Table, load_run, print_tables, write_document, write_report
from gapless.report.figures import draw_panels
from gapless.report.panels import Panel, Series
from gapless.reproduce.connect_collapse_corrupt.members import LOW_DATA_ROWS, BySeed, Setting
from gapless.reproduce.connect_collapse_corrupt.tables import Scores, caption_tables, pictures
from gapless.reproduce.emoji import ordinary_clip
from gapless.reproduce.grid import run_members
from gapless.reproduce.statistics import estimate
from gapless.run_folder import MEANS_FILE, METRICS_FILE, write_text

logger = logging.getLogger(__name__)

SEEDS = (42, 24, 44)


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

    Raises:
        DataError: the output has the space of another model, or of other pairs.
    """
    if source:
        check_model(str(source), pretrained)
    data = data or DataConfig()
    model = source or ordinary_clip(output / "runs", quick)
    features = output / "features"
    _embed(model, pretrained, data, features)
    setting = Setting(output, features, "coco" if data.source == "coco" else "emoji", SEEDS[: 1 if quick else 3], quick)
    variants, low, distances = setting.variants(), setting.low_data(), setting.distances()
    by_seed = [*variants.values(), *(seeds for rows in low.values() for seeds in rows.values())]
    # Fine-tuning on pairs begins with a variant, and comes after it.
    run_members([*(member for seeds in by_seed for member in seeds.values()), *distances.values()], strict=True)
    if not PartialState().is_main_process:
        return []
    scores = _scores(variants)
    low_scores = {share: _scores(rows) for share, rows in low.items()}
    distance_scores = {shift: member.scores for shift, member in distances.items()}
    tables = caption_tables(scores, low_scores, distance_scores)
    _draw(output, low_scores, distance_scores)
    figure = pictures({name: seeds[SEEDS[0]] for name, seeds in variants.items()}, data)
    tree = {"variants": scores, "low_data": low_scores, "gap_distance": distance_scores}
    _write(output, [*tables, figure], model, tree, f" of {RANDOM}" if pretrained == NO_WEIGHTS else "")
    return tables


def _embed(model: Path, pretrained: str | None, data: DataConfig, features: Path) -> None:
    """Embed the pairs, unless they are embedded already.

    Raises:
        DataError: by another model, or other pairs: captioners that learned from them would count as these.
    """
    if not (features / MEANS_FILE).is_file():
        embed_store(str(model), pretrained, data, features)
        return
    store = FeatureStore(features)
    images = store.load("image", "test")
    if store.model and weights_digest(load_model(str(model), pretrained).model) != store.model:
        raise DataError(f"{features} holds embeddings of another model than {model}: give another output")
    source = build_source(data, "test")
    if not set(images.keys) <= {source.key(k) for k in range(len(source))}:
        raise DataError(f"{features} holds embeddings of other pairs than those of {data.source}: give another output")


def _scores(members: BySeed) -> Scores:
    return {name: {seed: member.scores for seed, member in seeds.items()} for name, seeds in members.items()}


def _draw(output: Path, low: Mapping[float, Scores], distances: Mapping[float, Mapping[str, float]]) -> None:
    """Figure 6, and Table 6 as a curve."""
    shares = [100 * share for share in low]
    series = []
    for k, (name, title) in enumerate(LOW_DATA_ROWS.items()):
        means = [estimate([100 * s["cider"] for s in rows[name].values()]).mean for rows in low.values()]
        series.append(Series(title, shares, means, k))
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
    if (model / METRICS_FILE).is_file():
        write_report([load_run(model)], output / "captions.html", "Connect, collapse, corrupt: captions", tables)
    print_tables(tables, 130)
    logger.info("written: %s", path)
