"""Arithmetic on embeddings as an evaluation: SIMAT's own data, and the emoji."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gapless.data.emoji import emoji_edits
from gapless.errors import DataError
from gapless.eval.metrics.simat import Domain, Table, load_edits, load_oracle, read_columns, simat_score
from gapless.eval.results import Result, file_hash
from gapless.eval.suite import Suite

HEADS = ("image.weight", "image.bias", "text.weight", "text.bias")


def evaluate_simat(
    suite: Suite, folder: Path, lambdas: Sequence[float] = (1.0,), domain: Domain = "dev", heads: Path | None = None
) -> Result:
    """SIMAT in its official layout.

    Args:
        suite: the model.
        folder: with simat_db/triplets.csv, transfos.csv, oscar_similarity_matrix.pt, images/images/REGION.png.
        lambdas: strengths of the edit.
        domain: dev or test.
        heads: safetensors with image.weight, image.bias, text.weight and text.bias, applied to the embeddings.

    Raises:
        DataError: missing or malformed files, or heads of another dimension.
    """
    base, paths = open_simat(folder)
    oracle = load_oracle(base / "oscar_similarity_matrix.pt")
    tables = base / "transfos.csv", base / "triplets.csv"
    found = _score(suite, "simat", paths, *tables, oracle, lambdas, domain, heads)
    if heads is not None:
        found.settings["heads"] = f"{heads.stem} {file_hash(heads)}"
    return found


def open_simat(folder: Path) -> tuple[Path, list[Path]]:
    """Where SIMAT's tables lie, and its pictures in their order.

    Raises:
        DataError: missing or malformed files.
    """
    base = folder / "simat_db" if (folder / "simat_db").is_dir() else folder
    where = read_columns(base / "triplets.csv", ("region_id", "dataset_id"), "triplets")
    ordered = sorted(zip(map(int, where["dataset_id"]), where["region_id"], strict=True))
    paths = [base / "images" / "images" / f"{region}.png" for _, region in ordered]
    needed = [*paths, base / "transfos.csv", base / "oscar_similarity_matrix.pt"]
    missing = [p for p in needed if not p.is_file()]
    if missing:
        raise DataError(f"SIMAT: looked for {missing[0]}, it is not there ({len(missing)} of {len(needed)} missing)")
    return base, paths


def evaluate_emoji_arithmetic(suite: Suite, lambdas: Sequence[float] = (1.0,), domain: Domain = "test") -> Result:
    """SIMAT's score on changes of gender, skin tone and hair, among all emoji."""
    edits = emoji_edits()
    oracle = torch.eye(len(edits.paths))
    return _score(suite, "emoji", edits.paths, edits.transfos, edits.triplets, oracle, lambdas, domain, None)


def _score(
    suite: Suite,
    name: str,
    paths: Sequence[Path],
    transfos: Table,
    triplets: Table,
    oracle: Tensor,
    lambdas: Sequence[float],
    domain: Domain,
    heads: Path | None,
) -> Result:
    edits = load_edits(transfos, triplets, domain)
    images = suite.images(paths, f"{name} arithmetic")
    if images.bad:
        raise DataError(f"{name}: {images.bad[0].key} cannot be used ({images.bad[0].detail})")
    words = suite.words(edits.value + edits.target)
    features = images.features
    if heads is not None:
        features, words = _through_heads(heads, features, words)
    scores = simat_score(features, words, transfos, triplets, oracle, lambdas, domain)
    metrics = {f"simat_score@{strength:g}": score for strength, score in scores.items()}
    metrics["num_edits"] = float(len(edits.query))
    return suite.result(f"{name}_{domain}", "embedding_arithmetic", metrics, images)


def _through_heads(path: Path, images: Tensor, words: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    try:
        weights = load_file(path)
        image, image_bias, text, text_bias = (weights[name].float() for name in HEADS)
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"heads: {path} is no safetensors file with {', '.join(HEADS)} ({error})") from None
    if image.shape[1] != images.shape[1] or text.shape[1] != images.shape[1]:
        raise DataError(f"heads: {path} takes {image.shape[1]} dimensions, the model has {images.shape[1]}")
    return F.linear(images, image, image_bias), {w: F.linear(f, text, text_bias) for w, f in words.items()}
