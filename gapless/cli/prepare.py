"""``gapless prepare``: a data source as webdataset shards."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from gapless.config.arguments import ClosedUnitInterval, Location, NonNegativeInteger, PositiveInteger, Separator

USED_BY = {
    "emoji": (),
    "coco": ("path", "karpathy"),
    "folder": ("path", "all"),
    "csv": ("path", "csv_image", "csv_caption", "csv_separator", "all"),
    "shards": ("path", "json_caption", "all"),
}
"""Arguments of each source."""


def add_prepare(parser: ArgumentParser) -> None:
    """What ``gapless prepare`` takes."""
    sources = Literal["emoji", "coco", "folder", "csv", "shards"]
    parser.add_argument("source", type=sources, help="Source of the pairs.")
    parser.add_argument(
        "--output", type=Path, required=True, help="Folder for the shards: a new one, or one to continue."
    )
    parser.add_argument("--path", type=Location, default=None, help="Root folder, csv file or shards of the source.")
    parser.add_argument("--split", type=Literal["train", "val", "test"], default="train", help="Split that is written.")
    parser.add_argument(
        "--karpathy", type=Location, default=None, help="File dataset_coco.json with Karpathy's split of COCO."
    )
    parser.add_argument(
        "--csv_image", type=str, default="filepath", help="Column of the csv file with the path of the image."
    )
    parser.add_argument("--csv_caption", type=str, default="title", help="Column of the csv file with the caption.")
    parser.add_argument(
        "--csv_separator", type=Separator, default=",", help="Character between the columns of the csv file."
    )
    parser.add_argument(
        "--json_caption", type=str, default="caption", help="Key of the caption in the .json members of shards."
    )
    parser.add_argument("--all", action="store_true", help="Take every pair of the path, and hold out none.")
    parser.add_argument(
        "--resize",
        type=PositiveInteger,
        default=None,
        help="Largest length of an image's shorter side, in pixels; null keeps every size.",
    )
    parser.add_argument("--samples_per_shard", type=PositiveInteger, default=5000, help="Pairs in one shard.")
    parser.add_argument(
        "--workers", type=NonNegativeInteger, default=2, help="Processes that decode images; 0 decodes in this process."
    )
    parser.add_argument(
        "--max_bad_fraction",
        type=ClosedUnitInterval,
        default=0.01,
        help="Largest share of samples that may be unusable before the command stops.",
    )


def unused_by_prepare(arguments: Any) -> dict[str, str]:
    """Arguments of other sources."""
    keys = ("path", "karpathy", "csv_image", "csv_caption", "csv_separator", "json_caption", "all")
    reason = f"source {arguments.source} does not use it"
    return {key: reason for key in keys if key not in USED_BY[arguments.source]}


def run_prepare(arguments: Any) -> None:
    """Write the shards, and print what was written."""
    from gapless.config import Config, DataConfig
    from gapless.config.rules import check_config
    from gapless.data import build_source
    from gapless.data.prepare import prepare_shards

    data = DataConfig(
        source=arguments.source,
        path=arguments.path,
        val_path=arguments.path if arguments.all else None,
        karpathy=arguments.karpathy,
        csv_image=arguments.csv_image,
        csv_caption=arguments.csv_caption,
        csv_separator=arguments.csv_separator,
        json_caption=arguments.json_caption,
    )
    check_config(Config(data=data))
    prepared = prepare_shards(
        build_source(data, arguments.split),
        arguments.output,
        arguments.resize,
        arguments.samples_per_shard,
        arguments.workers,
        max_bad_fraction=arguments.max_bad_fraction,
    )
    skipped = f", left out: {prepared.skipped}" if prepared.skipped else ""
    print(f"{prepared.samples} pairs in {len(prepared.shards)} shards under {arguments.output}{skipped}")
