"""Every claim of the contrastive-gap paper, tested on our runs; also those that fail or cannot be tested."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from gapless.report import Cell, Table, load_run
from gapless.reproduce.contrastive_gap.editions import Edition
from gapless.reproduce.scored import Scored, compare_runs
from gapless.reproduce.statistics import DECIDING_SEEDS, LEVEL, Comparison, Direction, better, compare, verdicts
from gapless.run_folder import METRICS_FILE

Scores = Mapping[tuple[str, int, int], Scored]
"""By objective, dimension and seed."""
How = Literal["better", "equal", "high", "at least"]
MARGIN = 0.1
"""A score is equal to another's, or at least as good, within this share of it; a recall also within its binomial
error, where that is larger."""


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper about one objective against another."""

    text: str
    where: str
    one: str
    other: str
    metric: str
    how: How = "better"
    factor: float = 1.0
    """Of the other's score, which the one is compared with so many times as large."""


def _both(text: str, where: str, metric: str, how: How = "better") -> list[Claim]:
    return [Claim(text, where, objective, "clip", metric, how) for objective in ("cua", "cuaxu")]


CLAIMS = (
    *_both("The terms shrink the gap", "Tables 2, 7, 8 and 9", "centroid_distance"),
    *_both("The terms mix the modalities", "Tables 2, 7, 8 and 9", "linear_separability"),
    *_both("The terms lower uniformity", "Table 3", "uniformity"),
    *_both("The terms lower cross-uniformity", "Table 3", "cross_uniformity"),
    *_both("The terms lower alignment", "Table 3", "alignment"),
    *(
        claim
        for side in ("text", "image")
        for k in (1, 5, 10)
        for claim in _both("Retrieval stays as it is", "Tables 4 and 10", f"{side}_retrieval_recall@{k}", "equal")
    ),
    *(
        Claim("cuaxu uses most dimensions", "Figures 2 and 4", "cuaxu", other, f"effective_dim_{side}", "high")
        for side in ("image", "text")
        for other in ("clip", "cua")
    ),
    *_both("Images lie closer to the prompts of their classes", "Table 5", "zero_shot/centroid_distance"),
    *_both("Images of zero-shot sets are more uniform", "Table 5", "zero_shot/uniformity_image"),
    *_both("Zero-shot accuracy rises", "Figure 3, Table 11", "zero_shot/acc1"),
    Claim("cuaxu is best in zero-shot", "Section 5.2", "cuaxu", "cua", "zero_shot/acc1"),
    *_both("Arithmetic becomes better", "Table 6", "simat"),
    Claim("SIMAT's score grows by 18 %", "Table 6", "cuaxu", "clip", "simat", factor=1.18),
    Claim("cuaxu is at least as good as cua in arithmetic", "Table 6", "cuaxu", "cua", "simat", "at least"),
)
GROWS = "The gap of clip grows with the dimension"
UNTESTED = "not testable"
UNTESTABLE = {
    "emoji": (
        ("ImageNet, CIFAR, DTD and Caltech101 each gain", "Table 11", "these data sets are part of the COCO edition"),
        ("cuaxu is best on average over dimensions on them", "Section 5.2", "the same"),
    )
}
"""By edition: what it says nothing about, and why."""


def claim_tables(grid: Edition, scores: Scores) -> list[Table]:
    """A row for each claim; on top how many hold."""
    if not scores:
        return []
    dimensions = sorted({d for _, d, _ in scores})
    tested = [(claim, [_compared(scores, claim, d) for d in dimensions]) for claim in CLAIMS]
    grown = [c for low, high in pairwise(dimensions) if (c := _grown(scores, low, high))]
    # One family of tests: Holm's correction is over all of them.
    decided = verdicts([[c for c in found if c] for _, found in tested] + ([grown] if grown else []))
    rows = []
    for (claim, found), verdict in zip(tested, decided, strict=False):
        cells = [_interval(c) if c else "-" for c in found]
        if len(dimensions) > 1:
            mean = _over_dimensions(scores, claim)
            cells.append(_interval(mean) if mean else "-")
        if verdict == "holds" and not all(found):  # a dimension is missing
            verdict = "not decided"
        rows.append(_row(claim.text, verdict if any(found) else UNTESTED, claim.where, _measured(claim), *cells))
    if grown:
        cells = [*["-"] * (len(dimensions) - len(grown)), *map(_interval, grown)]
        rows.append(
            _row(GROWS, decided[-1], "Tables 2, 7 and 8", "centroid_distance, against the dimension before", *cells)
        )
    rows += _of_single_runs(grid)
    rows += [_row(text, UNTESTED, where, why) for text, where, why in UNTESTABLE.get(grid.name, ())]
    means = ["mean over d"] if len(dimensions) > 1 else []
    header = ["claim", "verdict", "where", "measured by", *(f"d = {d}" for d in dimensions), *means]
    rows = [row + [Cell("-")] * (len(header) - len(row)) for row in rows]
    counted = Counter(row[1].text.partition(" (")[0] for row in rows)
    summary = ", ".join(f"{n} {verdict}" for verdict, n in counted.most_common())
    return [Table(f"The paper's claims: {summary}", header, rows, _note(grid, scores))]


def _row(claim: str, verdict: str, *others: str) -> list[Cell]:
    return [Cell(claim), Cell(verdict, verdict == "holds"), *map(Cell, others)]


def runs_of(scores: Scores, objective: str, dimension: int) -> dict[int, Scored]:
    """Runs of an objective at a dimension, by seed."""
    return {seed: run for (o, d, seed), run in scores.items() if (o, d) == (objective, dimension)}


def _compared(scores: Scores, claim: Claim, dimension: int) -> Comparison | None:
    """The two objectives at one dimension, seed by seed; None where a score is missing."""
    ones, others = (runs_of(scores, objective, dimension) for objective in (claim.one, claim.other))
    margin = _margin(others, claim.metric) if claim.how in ("equal", "at least") else 0.0
    others = {seed: run.times(claim.factor) for seed, run in others.items()}
    return compare_runs(ones, others, claim.metric, _direction(claim), margin)


def _over_dimensions(scores: Scores, claim: Claim) -> Comparison | None:
    """The same of each seed's mean over the dimensions."""
    first, second = [], []
    for seed in sorted({s for _, _, s in scores}):
        ones, others = (_of_seed(scores, o, seed, claim.metric) for o in (claim.one, claim.other))
        if ones and len(ones) == len(others):
            first.append(fmean(ones))
            second.append(claim.factor * fmean(others))
    return compare(first, second, _direction(claim)) if first else None


def _of_seed(scores: Scores, objective: str, seed: int, metric: str) -> list[float]:
    """A metric at each dimension."""
    runs = [run for (o, _, s), run in scores.items() if (o, s) == (objective, seed)]
    return [run.numbers[metric] for run in runs if metric in run.numbers]


def _grown(scores: Scores, low: int, high: int) -> Comparison | None:
    """clip's gap in more dimensions against that in fewer."""
    return compare_runs(runs_of(scores, "clip", high), runs_of(scores, "clip", low), "centroid_distance", "high")


def _of_single_runs(grid: Edition) -> list[list[Cell]]:
    """Table 1 and Figure 1, each of which is one run: numbers, and no verdict."""
    rows = []
    for member in (*grid.identical, *grid.three_d):
        if not (member.folder / METRICS_FILE).is_file():
            continue
        record = load_run(member.folder)
        if member in grid.three_d:
            text, where = "In three dimensions clip closes the gap", "Figure 1"
            metric, paper = "val/centroid_distance", ""
        else:
            text = f"Identical encoders begin mixed and end apart (temperature {member.labels['temperature']})"
            where, metric, paper = "Table 1", "val/linear_separability", "; paper 0.50 to 1.00"
        curve = record.curve(metric)
        change = f"{metric.partition('/')[2]} {curve[0][1]:.3f} to {curve[-1][1]:.3f}{paper}" if curve else "-"
        rows.append(_row(text, "not decided (one run)", where, change))
    return rows


def _direction(claim: Claim) -> Direction:
    return claim.how if claim.how in ("equal", "high") else better(claim.metric)


def _margin(runs: Mapping[int, Scored], metric: str) -> float:
    """How much worse, or how far apart, a score may be all the same, stated before: see MARGIN."""
    values = [run.numbers[metric] for run in runs.values() if metric in run.numbers]
    if not values:
        return 0.0
    mean = fmean(values)
    if "recall" not in metric:
        return MARGIN * abs(mean)
    count = min(run.numbers.get("num_images", math.inf) for run in runs.values())
    return max(MARGIN * mean, math.sqrt(mean * (1 - mean) / count))


def _measured(claim: Claim) -> str:
    words = {"low": "lower than", "high": "higher than", "equal": "as"}[_direction(claim)]
    words = "at least as" if claim.how == "at least" else words
    other = claim.other if claim.factor == 1 else f"{claim.factor:g} times {claim.other}"
    return f"{claim.metric} of {claim.one} {words} {other}"


def _interval(comparison: Comparison) -> str:
    level = 1 - 2 * LEVEL if comparison.claim == "equal" else 1 - LEVEL
    low, high = comparison.interval(level)
    margin = f" within {comparison.margin:.3f}" if comparison.margin else ""
    return f"{comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}]{margin}"


def _note(grid: Edition, scores: Scores) -> str:
    seeds = len({s for _, _, s in scores})
    starts = ", each with a start of its own" if grid.starts else ""
    look = f" {seeds} seeds are a first look: verdicts are taken at {DECIDING_SEEDS} (--seeds)."
    return (
        f"Paired differences over {seeds} seeds{starts}. Intervals are t intervals of 95 %, of 90 % for equality "
        "(TOST). They hold the error over seeds and, of what has samples, that of the test set, by a bootstrap over "
        "its groups; effective dimensions and the gap to prompts have none. A claim holds if it does in every "
        "dimension, and does not hold if its opposite does in one, after Holm's correction over all rows; the mean "
        "over dimensions is a second look and decides nothing. Equal, and at least as good, is within "
        f"{MARGIN:.0%} of the other's, for recalls within its binomial error where that is larger."
        + look
        * (seeds < DECIDING_SEEDS)
    )
