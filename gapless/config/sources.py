"""Where pairs may come from: one record each, read by the configuration, without torch, and by :mod:`gapless.data`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class DataSource:
    """What has to be known of a source."""

    function: str
    """Where in :mod:`gapless.data` its function is. It takes the data part of a configuration and a split, or, if the
    source has no splits of its own, a path; it gives a PairSource."""
    splits: tuple[str, ...] = ()
    """Splits of its own. Without any, data.val_path or a share of data.path is held out."""
    needs_path: bool = True
    """Whether data.path must be set."""


SOURCES = {
    "emoji": DataSource("emoji.build_emoji", ("train", "val", "test"), needs_path=False),
    "coco": DataSource("coco.build_coco", ("train", "val")),
    "shards": DataSource("shards.build_shards"),
    "folder": DataSource("files.build_folder"),
    "csv": DataSource("files.build_csv"),
}
if TYPE_CHECKING:
    SourceName = str
else:
    SourceName = Literal[tuple(SOURCES)]
