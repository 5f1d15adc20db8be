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
    parser.add_argument("source", type=sources, help="emoji, coco, folder, csv or shards.")
    parser.add_argument("--output", type=Path, required=True, help="New folder for the shards, or one to continue.")
    parser.add_argument("--path", type=Location, default=None, help="Root folder, csv file or shards of the source.")
    parser.add_argument("--split", type=Literal["train", "val", "test"], default="train", help="train, val or test.")
    parser.add_argument(
        "--karpathy", type=Location, default=None, help="dataset_coco.json for Karpathy's split of COCO."
    )
    parser.add_argument("--csv_image", type=str, default="filepath", help="csv column of the image path.")
    parser.add_argument("--csv_caption", type=str, default="title", help="csv column of the caption.")
    parser.add_argument("--csv_separator", type=Separator, default=",", help="csv column separator.")
    parser.add_argument("--json_caption", type=str, default="caption", help="Key of captions in .json of shards.")
    parser.add_argument("--all", action="store_true", help="Take every pair of a folder or csv, holding out none.")
    parser.add_argument(
        "--resize", type=PositiveInteger, default=None, help="Largest length of the shorter side, in pixels."
    )
    parser.add_argument("--samples_per_shard", type=PositiveInteger, default=5000, help="Pairs of one file.")
    parser.add_argument("--workers", type=NonNegativeInteger, default=2, help="Decoding processes; 0 for this one.")
    parser.add_argument(
        "--max_bad_fraction", type=ClosedUnitInterval, default=0.01, help="Share of bad samples that is tolerated."
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
