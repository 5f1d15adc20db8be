"""What the contrastive-gap paper published, (mean, standard error), and which of its cells are of one seed only."""

from typing import NamedTuple

from gapless.report import Column, column_of
from gapless.reproduce.statistics import Estimate

OBJECTIVES = ("clip", "cua", "cuaxu")


class PaperTable(NamedTuple):
    """One of the paper's tables of fine-tuned models."""

    title: str
    dimension: int
    columns: list[Column]
    published: list[list[Estimate]]
    """For each of clip, cua and cuaxu, in the order of the columns."""
    note: str = ""


def _estimates(text: str) -> list[list[Estimate]]:
    """Lines of cells such as 0.78~0.05 (with a standard error) or 36.02 (without)."""
    cells = [[cell.partition("~") for cell in line.split()] for line in text.strip().splitlines()]
    return [[Estimate(float(mean), float(error) if error else None) for mean, _, error in line] for line in cells]


GAP = [column_of("linear_separability"), column_of("centroid_distance")]
RECALL = [column_of(f"{side}_retrieval_recall@{k}", short=True) for side in ("text", "image") for k in (1, 5, 10)]
ACCURACY = column_of("zero_shot/acc1")
ONE_SEED = "Paper: seed 42 only."

TABLES = (
    PaperTable("Table 7: gap", 32, GAP, _estimates("0.78~0.05 0.10~0.01\n0.59~0.02 0.07~0.01\n0.68~0.05 0.12~0.03")),
    PaperTable("Table 8: gap", 64, GAP, _estimates("1.00~0.00 0.31~0.03\n0.65~0.01 0.07~0.01\n0.78~0.00 0.14~0.00")),
    PaperTable(
        "Tables 2 and 9: gap",
        128,
        GAP,
        _estimates("1.00~0.00 0.66~0.03\n0.73~0.01 0.08~0.02\n0.83~0.02 0.13~0.01"),
        "Centroid distances are not squared, in the paper's tables too. The paper's 0.02 of cua looks like twice the "
        "standard deviation, not a standard error.",
    ),
    PaperTable(
        "Table 3: loss values",
        128,
        [column_of("uniformity"), column_of("cross_uniformity"), column_of("alignment")],
        _estimates("-2.02 -2.79 0.82\n-3.64 -3.68 0.54\n-3.76 -3.81 0.69"),
        ONE_SEED,
    ),
    PaperTable(
        "Tables 4 and 10: retrieval, one caption for each image",
        128,
        RECALL,
        _estimates(
            "0.28~0.00 0.57~0.00 0.70~0.00 0.27~0.00 0.56~0.00 0.69~0.00\n"
            "0.26~0.00 0.54~0.00 0.68~0.00 0.25~0.00 0.54~0.00 0.66~0.00\n"
            "0.27~0.00 0.56~0.01 0.69~0.00 0.27~0.00 0.56~0.00 0.69~0.00"
        ),
    ),
    PaperTable(
        "Table 5: gap to the prompts of zero-shot classes, averaged over data sets",
        128,
        [column_of("zero_shot/centroid_distance"), column_of("zero_shot/uniformity_image")],
        _estimates("0.71 -1.41\n0.532 -2.59\n0.59 -2.75"),
        ONE_SEED + " Its code took the distance of the last batch only; ours is over all images.",
    ),
    PaperTable(
        "Table 6: image arithmetic (SIMAT, strength 1)",
        128,
        [column_of("simat", "score")],
        _estimates("36.02\n42.18\n42.47"),
        ONE_SEED + " The authors' logs of three seeds: 35.64, 42.48, 41.70.",
    ),
    PaperTable(
        "Figure 3: zero-shot accuracy, averaged over data sets",
        128,
        [ACCURACY],
        _estimates("0.346\n0.366\n0.370"),
        "Paper: the means of Table 11's five data sets, whose prompts had wrong class names for three of them.",
    ),
)

ZERO_SHOT = {
    "cifar10": _estimates("0.76~0.02\n0.78~0.01\n0.77~0.02"),
    "cifar100": _estimates("0.32~0.01\n0.33~0.00\n0.35~0.01"),
    "imagenet1k": _estimates("0.13~0.00\n0.14~0.00\n0.15~0.00"),
    "dtd": _estimates("0.10~0.01\n0.10~0.01\n0.09~0.01"),
    "caltech101": _estimates("0.42~0.01\n0.48~0.00\n0.49~0.01"),
}
"""Table 11, at 128 dimensions, by data set."""

IDENTICAL = {
    "centroid distance": (0.00, 0.06),
    "linear separability": (0.50, 1.00),
    "loss": (4.83, 0.00),
}
"""Table 1: before training, and after."""
