"""connect-collapse-corrupt's tables of captioning: ours over seeds, and the paper's numbers beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gapless.config import DataConfig
from gapless.data import build_source
from gapless.measures import measure_of
from gapless.report import Cell, Table, best_row, column_of
from gapless.report.gallery import thumbnail
from gapless.reproduce.connect_collapse_corrupt.members import FRACTIONS, LOW_DATA_ROWS, VARIANTS, CaptionMember
from gapless.reproduce.connect_collapse_corrupt.published import (
    GAP_DISTANCE,
    LOW_DATA,
    METRICS,
    PUBLISHED,
    SPAN_NOISE,
)
from gapless.reproduce.statistics import Comparison, better, compare, estimate, verdicts

ORDER = (("c2-collapse", "c1"), ("c2-corrupt", "c1"), ("c3", "c2-collapse"), ("c3", "c2-corrupt"))
"""The paper's C1 < C2 < C3, each better one first."""
SHOWN = 12
"""Pictures of Figure 10."""

Scores = dict[str, dict[int, dict[str, float]]]
"""By row of a table and seed."""


def caption_tables(
    variants: Scores, low: Mapping[float, Scores], distances: Mapping[float, Mapping[str, float]]
) -> list[Table]:
    """Tables 2, 5, 6 and 7, and the paper's claims.

    Args:
        variants: scores of the variants.
        low: scores by share of the pairs.
        distances: scores by the length of the constant that was added.
    """
    title = "Table 2: captions of images by a decoder of texts"
    return [
        _table(title, PUBLISHED, _only(variants, PUBLISHED), VARIANTS),
        _claims(variants, low),
        # Noise in the span only is about collapse, noise along the gap too is far better.
        _table("Table 7: what noise along the gap does", SPAN_NOISE, _only(variants, SPAN_NOISE), VARIANTS),
        *(
            _table(f"Table 5: {share:.0%} of the pairs", LOW_DATA[share], low[share], LOW_DATA_ROWS)
            for share in FRACTIONS
        ),
        _distance_table(distances),
    ]


def _table(title: str, published: Mapping[str, Mapping[str, float]], ours: Scores, names: Mapping[str, str]) -> Table:
    """Ours over seeds, times 100 as papers print it, and the paper's."""
    present = [m for m in METRICS if all(m in s for seeds in ours.values() for s in seeds.values())]
    means = {name: {m: estimate([s[m] for s in seeds.values()]).mean for m in present} for name, seeds in ours.items()}
    best = {m: best_row(means, column_of(m)) for m in present}
    header = [""]
    for metric in METRICS:
        label = measure_of(metric).title
        header += [label] * (metric in present) + [f"paper {label}"]
    rows = []
    for name, seeds in ours.items():
        row = [Cell(names[name])]
        for metric in METRICS:
            if metric in present:
                row.append(Cell(_percent([s[metric] for s in seeds.values()]), best[metric] == name))
            row.append(Cell(f"{published[name][metric]:g}" if metric in published.get(name, {}) else "-"))
        rows.append(row)
    n = len(next(iter(ours.values())))
    note = f"Ours: n = {n} seeds, mean ± standard error, times 100. Paper: COCO, CLIP ViT-B/32, GPT-2."
    return Table(title, header, rows, note)


def _only(scores: Scores, published: Mapping[str, Any]) -> Scores:
    return {name: seeds for name, seeds in scores.items() if name in published}


def _percent(values: Sequence[float]) -> str:
    mean, error = estimate([100 * value for value in values])
    return f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"


def _claims(variants: Scores, low: Mapping[float, Scores]) -> Table:
    """C1 < C2 < C3, and texts before pairs, by paired differences over seeds."""
    pairs = [(VARIANTS[one], variants[one], VARIANTS[other], variants[other]) for one, other in ORDER]
    pairs += [
        (f"{share:.0%} of the pairs: texts first", scores["c3"], "pairs alone", scores["pairs"])
        for share, scores in low.items()
    ]
    compared: dict[str, Comparison] = {}
    for name, one, worse, other in pairs:
        for metric in ("rouge_l", "cider"):
            first, second = ([100 * s[metric] for s in side.values()] for side in (one, other))
            compared[f"{name} above {worse}, {measure_of(metric).title}"] = compare(first, second, better(metric))
    rows = []
    for (claim, result), verdict in zip(compared.items(), verdicts([[c] for c in compared.values()]), strict=True):
        interval = "{:+.1f} [{:+.1f}, {:+.1f}]".format(result.difference, *result.interval())
        rows.append([Cell(claim), Cell(interval), Cell(verdict, verdict == "holds")])
    note = "Paired differences over seeds with their 95 % t interval; verdicts after Holm's correction over all rows."
    return Table(
        "The paper's claims: C1 < C2 < C3, and texts before pairs", ["claim", "difference", "verdict"], rows, note
    )


def _distance_table(distances: Mapping[float, Mapping[str, float]]) -> Table:
    rows = [
        [
            Cell(f"{shift:g}"),
            Cell(f"{100 * scores['bleu_1']:.1f}"),
            Cell(f"{100 * scores['rouge_l']:.1f}"),
            Cell(f"{GAP_DISTANCE[shift][1]:g}"),
            Cell(f"{100 * scores['meteor']:.1f}" if "meteor" in scores else "-"),
            Cell(f"{GAP_DISTANCE[shift][2]:g}"),
        ]
        for shift, scores in distances.items()
    ]
    bleu, rouge, meteor = (measure_of(name).title for name in ("bleu_1", "rouge_l", "meteor"))
    header = ["added length", bleu, rouge, f"paper {rouge}", meteor, f"paper {meteor}"]
    note = "Texts said again, one seed; the constant lies where the texts vary least."
    return Table("Table 6: trained on x, tested on x + c", header, rows, note)


def pictures(members: Mapping[str, CaptionMember], data: DataConfig) -> Table:
    """Figure 10: captions of the same pictures by each variant.

    Args:
        members: a run of each variant, all of one seed.
        data: the pairs.
    """
    captions = {name: member.read()["captions"] for name, member in members.items()}
    source, ids = build_source(data, "test"), list(captions["c3"])
    chosen = {ids[k * len(ids) // SHOWN] for k in range(SHOWN)}
    rows = []
    for position in range(len(source)):
        key = source.key(position)
        if key in chosen:
            texts = [source.captions(position)[0], *(captions[name][key] for name in VARIANTS)]
            rows.append([Cell(key, picture=thumbnail(source.load(position).image)), *map(Cell, texts)])
    seed = members["c3"].config.seed
    note = f"Test images, evenly spaced and not picked, seed {seed}; none of them was seen in training."
    return Table("Figure 10: what each variant says", ["", "people", *VARIANTS.values()], rows, note)
