"""Arithmetic on embeddings as an evaluation: SIMAT's own data, and the emoji."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gapless.data.emoji import ATTRIBUTES, emoji_edits, emoji_families
from gapless.errors import DataError
from gapless.eval.embeddings import rows_of_groups
from gapless.eval.metrics.simat import Domain, Table, load_edits, load_oracle, read_columns, simat_parts
from gapless.eval.results import Result, file_hash
from gapless.eval.suite import Suite

HEADS = ("image.weight", "image.bias", "text.weight", "text.bias")


@dataclass(frozen=True)
class WordEdits:
    """Pictures, and changes of a word that lead from one to another."""

    name: str
    paths: Sequence[Path]
    """Pictures by dataset_id."""
    transfos: Table
    triplets: Table
    oracle: Callable[[], Tensor]
    """Gives the similarity of every picture to every caption."""
    domain: Domain
    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups of pictures, by their keys, whose edits are no independent samples; edits of one picture never are."""
    heads: Path | None = None
    """safetensors with image.weight, image.bias, text.weight and text.bias, applied to the embeddings."""


def open_simat(folder: Path, domain: Domain = "dev", heads: Path | None = None) -> WordEdits:
    """SIMAT in its official layout.

    Args:
        folder: with simat_db/triplets.csv, transfos.csv, oscar_similarity_matrix.pt, images/images/REGION.png.
        domain: dev or test.
        heads: see :class:`WordEdits`.

    Raises:
        DataError: missing or malformed files.
    """
    base = folder / "simat_db" if (folder / "simat_db").is_dir() else folder
    where = read_columns(base / "triplets.csv", ("region_id", "dataset_id"), "triplets")
    ordered = sorted(zip(map(int, where["dataset_id"]), where["region_id"], strict=True))
    paths = [base / "images" / "images" / f"{region}.png" for _, region in ordered]
    transfos, oracle = base / "transfos.csv", base / "oscar_similarity_matrix.pt"
    needed = [*paths, transfos, oracle]
    missing = [p for p in needed if not p.is_file()]
    if missing:
        raise DataError(f"SIMAT: looked for {missing[0]}, it is not there ({len(missing)} of {len(needed)} missing)")
    return WordEdits("simat", paths, transfos, base / "triplets.csv", partial(load_oracle, oracle), domain, heads=heads)


def emoji_word_edits(domain: Domain = "test") -> list[WordEdits]:
    """Changes of gender, skin tone and hair, each among the pictures of the domain: test ones, or all others."""
    found = {attribute: emoji_edits(attribute, domain == "test") for attribute in ATTRIBUTES}
    return [
        WordEdits(
            f"emoji_{name}", e.paths, e.transfos, e.triplets, partial(torch.eye, len(e.paths)), domain, emoji_families()
        )
        for name, e in found.items()
        if e is not None
    ]


def evaluate_arithmetic(suite: Suite, data: WordEdits, lambdas: Sequence[float] = (1.0,)) -> Result:
    """SIMAT's score.

    Args:
        suite: the model.
        data: pictures and edits.
        lambdas: strengths of the edit.

    Raises:
        DataError: malformed files, pictures that cannot be read, or heads of another dimension.
    """
    edits = load_edits(data.transfos, data.triplets, data.domain)
    # Attributes of one data set are changed in the same pictures.
    embedded = suite.images(data.paths, f"{data.name.partition('_')[0]} arithmetic")
    if embedded.bad:
        raise DataError(f"{data.name}: {embedded.bad[0].key} cannot be used ({embedded.bad[0].detail})")
    words = suite.words(edits.value + edits.target)
    images = embedded.image
    if data.heads is not None:
        images, words = _through_heads(data.heads, images, words)
    parts = simat_parts(images, words, edits, data.oracle(), lambdas)
    # So that the mean over the edits is the score.
    samples = {f"simat_score@{strength:g}": values * len(values) for strength, values in parts.items()}
    metrics = {name: float(values.mean()) for name, values in samples.items()} | {"num_edits": float(len(edits.query))}
    rows = rows_of_groups(embedded.keys, data.groups)[edits.query]
    groups = dict.fromkeys(samples, rows)
    result = suite.result(f"{data.name}_{data.domain}", "embedding_arithmetic", metrics, embedded, samples, groups)
    if data.heads is not None:
        result.settings["heads"] = f"{data.heads.stem} {file_hash(data.heads)}"
    return result


def _through_heads(path: Path, images: Tensor, words: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    try:
        weights = load_file(path)
        image, image_bias, text, text_bias = (weights[name].float() for name in HEADS)
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"heads: {path} is no safetensors file with {', '.join(HEADS)} ({error})") from None
    if image.shape[1] != images.shape[1] or text.shape[1] != images.shape[1]:
        raise DataError(f"heads: {path} takes {image.shape[1]} dimensions, the model has {images.shape[1]}")
    return F.linear(images, image, image_bias), {w: F.linear(f, text, text_bias) for w, f in words.items()}
