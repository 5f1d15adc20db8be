"""What the numbers mean that are logged and printed: one record each, with a title and the direction that is better.

Tables, pages, claims and the command line read it. A number without a direction is never marked as the best one.
"""

from dataclasses import dataclass, replace
from typing import Literal

Direction = Literal["low", "high", ""]


@dataclass(frozen=True)
class Measure:
    """A number that is logged or printed."""

    name: str
    title: str
    """What it is called in tables."""
    direction: Direction
    """Which values are better; empty for counts, settings and descriptions."""
    section: str
    """What it belongs to; empty for a name without a record."""
    short: str = ""
    """The title where there is little room."""


Row = tuple[str, str, Direction] | tuple[str, str, Direction, str]


def _records(section: str, *rows: Row) -> dict[str, Measure]:
    return {row[0]: Measure(row[0], row[1], row[2], section, row[3] if len(row) > 3 else row[1]) for row in rows}


def _both(name: str, title: str, direction: Direction) -> tuple[Row, Row]:
    """The same of images and of texts."""
    return (f"{name}_image", f"{title} of images", direction), (f"{name}_text", f"{title} of texts", direction)


def _spread(name: str, title: str) -> tuple[Row, Row]:
    """Mean and standard deviation over groups of pairs."""
    return (f"{name}_mean", title, ""), (f"{name}_std", f"{title}, deviation", "")


MEASURES: dict[str, Measure] = {
    **_records(
        "Distance",
        ("centroid_distance", "centroid distance", "low"),
        ("centroid_distance_squared", "centroid distance, squared", "low"),
        ("linear_separability", "linear separability", "low", "separability"),
        ("relative_modality_gap", "relative modality gap", "low"),
    ),
    **_records(
        "Mixing",
        ("mixing", "neighbours of the same modality", "low"),
        ("relative_alignment", "pairs that are each other's nearest", "high"),
        *_both("stochasticity", "variance of softmax sums", "low"),
        ("mutual_knn", "mutual nearest neighbours", "high"),
        ("cka", "centred kernel alignment", "high"),
    ),
    **_records(
        "Cosines",
        ("pair_cosine", "cosine of pairs", "high"),
        ("non_pair_cosine", "cosine of non-pairs", ""),
        *_both("cone", "cosine", ""),
    ),
    **_records(
        "Spread",
        ("uniformity", "uniformity", "low"),
        *_both("uniformity", "uniformity", "low"),
        ("cross_uniformity", "cross-uniformity", "low"),
        ("alignment", "alignment", "low"),
    ),
    **_records(
        "Dimensions",
        *_both("effective_dim", "effective dimension", ""),
        *_both("effective_rank", "effective rank", ""),
        ("effective_rank_union", "effective rank of both, centred", ""),
    ),
    **_records(
        "After centring",
        ("energy_distance", "energy distance", "low"),
        ("mmd2", "squared maximum mean discrepancy", "low"),
        ("gaussian_w2", "Wasserstein distance of Gaussians", "low"),
    ),
    **_records(
        "Gap and noise",
        *_spread("gap_length", "length of the gap"),
        *_spread("gap_direction", "cosine of two groups' gaps"),
        *_spread("gap_orthogonality", "cosine of gap and image differences"),
        *_spread("noise_mean", "mean of the noise"),
        *_spread("noise_direction", "cosine of two pairs' noise"),
    ),
    **_records(
        "Retrieval",
        ("image_retrieval_recall", "text to image R", "high", "T→I R"),
        ("text_retrieval_recall", "image to text R", "high", "I→T R"),
        ("image_retrieval_mean_rank", "text to image mean rank", "low"),
        ("text_retrieval_mean_rank", "image to text mean rank", "low"),
        ("image_retrieval_median_rank", "text to image median rank", "low"),
        ("text_retrieval_median_rank", "image to text median rank", "low"),
        ("mixed_recall", "recall among images and texts", "high"),
        ("mixed_recall_calibrated", "recall among images and texts, calibrated", "high"),
        ("image_recall", "recall of images of the same class", "high"),
        ("image_map", "mean average precision of images", "high"),
        ("text_recall", "recall of captions of the same image", "high"),
        ("text_map", "mean average precision of captions", "high"),
    ),
    **_records(
        "Classification",
        ("acc", "accuracy", "high"),
        ("acc1", "accuracy", "high"),
        ("acc5", "top-5 accuracy", "high"),
        ("mean_per_class_recall", "mean recall of classes", "high"),
        ("chance", "accuracy of guessing", ""),
        ("majority", "share of the most frequent class", ""),
        ("image_acc", "accuracy, caption to image", "high"),
        ("text_acc", "accuracy, image to caption", "high"),
        ("lp_acc1", "accuracy of a linear probe", "high"),
        ("lp_acc5", "top-5 accuracy of a linear probe", "high"),
        ("lp_mean_per_class_recall", "mean recall of classes of a linear probe", "high"),
    ),
    **_records(
        "Clustering",
        ("v_measure", "V-measure", "high"),
        *_both("v_measure", "V-measure", "high"),
        ("nmi", "normalised mutual information", "high"),
        ("ari", "adjusted Rand index", "high"),
        ("modality_nmi", "mutual information of cluster and modality", "low"),
    ),
    **_records(
        "Arithmetic",
        ("simat", "SIMAT score", "high"),
        ("simat_score", "SIMAT score", "high"),
    ),
    **_records(
        "Robustness",
        ("robustness", "robustness", "high"),
        ("accuracy", "accuracy", "high"),
        ("noisy_accuracy", "noisy accuracy", "high"),
        ("noisy_acc", "noisy accuracy", "high"),
        ("noisy_acc1", "noisy accuracy", "high"),
        ("rephrasing_robustness", "robustness to other words", "high"),
        ("rephrasing_acc", "accuracy in other words", "high"),
        ("rephrasing_acc1", "accuracy in other words", "high"),
        ("rephrasing_correlation", "correlation of noise of other words", ""),
        ("white_noise_correlation", "correlation of white noise", ""),
        ("sigma", "deviation of the noise", ""),
        ("share_of_gap", "share of the gap that is moved", ""),
    ),
    **_records(
        "Captions",
        *((f"bleu_{n}", f"BLEU-{n}", "high") for n in (1, 2, 3, 4)),
        ("meteor", "METEOR", "high"),
        ("rouge_l", "ROUGE-L", "high"),
        ("cider", "CIDEr", "high"),
        ("spice", "SPICE", "high"),
        ("clip_score", "CLIPScore", "high"),
        ("loss", "loss a token", "low"),
        ("perplexity", "perplexity", "low"),
    ),
    **_records(
        "Counts",
        ("dimension", "dimensions", ""),
        ("num_samples", "pairs", ""),
        ("num_sampled", "pairs of slow measures", ""),
        ("num_images", "images", ""),
        ("num_texts", "texts", ""),
        ("num_edits", "edits", ""),
        ("num_questions", "questions", ""),
        ("num_captions", "captions", ""),
        ("num_compared", "captions with a reference", ""),
        ("num_different", "different captions", ""),
        ("seconds", "seconds of the evaluation", ""),
    ),
    **_records(
        "Training",
        ("train/loss", "training loss", "low"),
        ("train/lr", "learning rate", ""),
        ("train/logit_scale", "logit scale", ""),
        ("train/grad_norm", "norm of the gradient", ""),
        ("train/duplicate_images", "duplicate images in a batch", ""),
        ("train/duplicate_captions", "duplicate captions in a batch", ""),
        ("train/samples_per_second", "samples a second", ""),
        ("train/data_time", "seconds a step that wait for data", ""),
    ),
}
"""By name, without the data set or split before it and the cut-off after its @."""


def measure_of(name: str) -> Measure:
    """The record of a number under the name that it is logged or printed with.

    ``val/text_retrieval_recall@5``, ``cifar10/acc1`` and ``noisy_acc1@0.5`` are ``text_retrieval_recall``, ``acc1`` and
    ``noisy_acc1``, their titles with the cut-off. ``train/NAME`` is a term of the loss unless it has a record,
    ``train/weight/NAME`` its weight, and ``data/NAME`` a count of samples. A name without a record is its own title.
    """
    place, _, last = name.rpartition("/")
    base, at, cutoff = last.partition("@")
    measure = MEASURES.get(f"{place}/{base}")
    if measure is None and place == "train":
        measure = Measure(name, last, "low", "Training", last)
    elif measure is None and place == "train/weight":
        measure = Measure(name, f"weight of {last}", "", "Training", f"weight of {last}")
    elif measure is None and place == "data":
        title = last.replace("_", " ")
        measure = Measure(name, title, "", "Counts", title)
    measure = measure or MEASURES.get(base)
    if measure is None:
        return Measure(name, name, "", "", name)
    return replace(measure, name=name, title=measure.title + at + cutoff, short=measure.short + at + cutoff)
