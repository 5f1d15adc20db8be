"""SIMAT: does adding the difference of two words to an image's embedding find the image so changed?

Couairon et al. 2022; the contrastive-gap paper's Table 6. The same score on emoji, whose names say exactly what an
edit should give, needs no download.
Axis letters: M images, E edits, D dimensions, K captions that targets are named by.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.errors import DataError
from gapless.losses.strips import strips

Table = str | Path | Mapping[str, Sequence[Any]] | Any
"""A csv file, a mapping of columns, or a data frame."""
Domain = Literal["dev", "test"]


@dataclass(frozen=True)
class Edits:
    """Changes of a word and what they should find."""

    query: Tensor
    """int64 (E,): image that is changed."""
    value: list[str]
    """Word that is taken away."""
    target: list[str]
    """Word that is added."""
    answer: Tensor
    """int64 (E,): column of the oracle."""
    weight: Tensor
    """float64 (E,), summing to 1."""


def load_edits(transfos: Table, triplets: Table, domain: Domain = "dev") -> Edits:
    """The edits of a domain, in SIMAT's format.

    Images are found by region_id in ``triplets``: the column dataset_id of ``transfos`` contradicts it for most rows.
    Weights are norm2^-0.5, normalised within the domain.

    Args:
        transfos: region_id, value, target, target_ids, norm2, is_test.
        triplets: region_id, dataset_id.
        domain: dev (is_test false) or test.

    Raises:
        DataError: a file or column that is missing, an unknown region, or no edit of that domain.
    """
    where = read_columns(triplets, ("region_id", "dataset_id"), "triplets")
    position = {str(r): int(d) for r, d in zip(where["region_id"], where["dataset_id"], strict=True)}
    rows = read_columns(transfos, ("region_id", "value", "target", "target_ids", "norm2", "is_test"), "transfos")
    chosen = [k for k, flag in enumerate(rows["is_test"]) if (str(flag).lower() in ("true", "1")) == (domain == "test")]
    if not chosen:
        raise DataError(f"transfos: no edit of the domain {domain!r}")
    unknown = [r for r in (str(rows["region_id"][k]) for k in chosen) if r not in position]
    if unknown:
        raise DataError(f"triplets: region {unknown[0]} of transfos is not in it ({len(unknown)} are missing)")
    weight = torch.tensor([float(rows["norm2"][k]) for k in chosen], dtype=torch.float64).rsqrt()
    return Edits(
        torch.tensor([position[str(rows["region_id"][k])] for k in chosen]),
        [str(rows["value"][k]) for k in chosen],
        [str(rows["target"][k]) for k in chosen],
        torch.tensor([int(rows["target_ids"][k]) for k in chosen]),
        weight / weight.sum(),
    )


def read_columns(table: Table, names: Sequence[str], title: str) -> dict[str, Sequence[Any]]:
    """Columns of a table, which ``title`` names in errors.

    Raises:
        DataError: no such file or column.
    """
    if not isinstance(table, str | Path):
        missing = [name for name in names if name not in table]
        columns: dict[str, Sequence[Any]] = {} if missing else {name: list(table[name]) for name in names}
    else:
        try:
            with Path(table).open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                missing = [name for name in names if name not in (reader.fieldnames or ())]
                rows = [] if missing else list(reader)
        except OSError as error:
            raise DataError(f"{title}: {table} cannot be read ({error.strerror})") from None
        columns = {name: [row[name] for row in rows] for name in names}
    if missing:
        raise DataError(f"{title}: no column {missing[0]!r}")
    return columns


def load_oracle(path: Path) -> Tensor:
    """The similarity of every image to every caption, (M, K), read without running code that a pickle may hold.

    Raises:
        DataError: not a file of one plain tensor.
    """
    try:
        oracle = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever the file leads it to
        raise DataError(f"{path}: not a file of a plain tensor ({type(error).__name__})") from None
    if not isinstance(oracle, Tensor) or oracle.ndim != 2:
        raise DataError(f"{path}: holds no matrix of images and captions")
    return oracle


@torch.no_grad()
def simat_score(
    image_features: Tensor,
    word_features: Mapping[str, Tensor],
    transfos: Table,
    triplets: Table,
    oracle: Tensor,
    lambdas: Sequence[float] = (1.0,),
    domain: Domain = "dev",
) -> dict[float, float]:
    r"""SIMAT's score for each lambda: the sum of what :func:`simat_parts` gives.

    .. math:: 100 \sum_e w_e \, [\text{oracle}(\arg\max_{m \ne q} x_m (x_q + \lambda (u_{target} - u_{value}))) > 0.5]

    Args:
        image_features: (M, D), by the dataset_id of ``triplets``; normalised here.
        word_features: (D,) for each word, normalised here.
        transfos: edits, see :func:`load_edits`.
        triplets: images, see :func:`load_edits`.
        oracle: (M, K) similarity of every image to every caption.
        lambdas: strengths of the edit.
        domain: dev or test.

    Returns:
        Scores in [0, 100] by lambda.

    Raises:
        DataError: malformed tables, words without features, or sizes that do not fit.
    """
    edits = load_edits(transfos, triplets, domain)
    parts = simat_parts(image_features, word_features, edits, oracle, lambdas)
    return {strength: float(values.sum()) for strength, values in parts.items()}


@torch.no_grad()
def simat_parts(
    image_features: Tensor,
    word_features: Mapping[str, Tensor],
    edits: Edits,
    oracle: Tensor,
    lambdas: Sequence[float] = (1.0,),
) -> dict[float, Tensor]:
    """What each edit adds to the score of each lambda, float64 (E,): 100 times its weight, or nothing.

    Arguments and errors as of :func:`simat_score`.
    """
    if len(oracle) != len(image_features) or int(edits.query.max()) >= len(image_features):
        raise DataError(
            f"SIMAT: {len(image_features)} images, but the oracle knows {len(oracle)} and the edits need "
            f"{int(edits.query.max()) + 1}"
        )
    missing = sorted(set(edits.value + edits.target) - set(word_features))
    if missing:
        raise DataError(f"SIMAT: no features for the words {', '.join(missing[:5])} ({len(missing)} are missing)")
    images = F.normalize(image_features.float(), dim=1)
    names = sorted(set(edits.value + edits.target))
    words = F.normalize(torch.stack([word_features[name].float() for name in names]), dim=1) @ images.T
    row = {name: k for k, name in enumerate(names)}
    value, target = (torch.tensor([row[w] for w in side]) for side in (edits.value, edits.target))
    hits: dict[float, list[Tensor]] = {strength: [] for strength in lambdas}
    for strip in strips(len(edits.query), len(images)):
        query = edits.query[strip]
        base = images[query] @ images.T
        base[torch.arange(len(query)), query] = -torch.inf  # an image is not its own answer
        change = words[target[strip]] - words[value[strip]]
        for strength in lambdas:
            nearest = torch.add(base, change, alpha=strength).argmax(dim=1)
            hits[strength].append(oracle[nearest, edits.answer[strip]] > 0.5)
    return {strength: 100 * edits.weight * torch.cat(found) for strength, found in hits.items()}
