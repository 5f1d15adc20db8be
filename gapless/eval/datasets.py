"""What a model is scored on: a record for each data set, which opens it.

Everything that is missing is an error when a data set is opened, before anything is scored.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gapless.config import DataConfig, EvalPlan, flatten, load_config
from gapless.data import build_source
from gapless.data.benchmark import RETRIEVAL_SETS, place_of, read_retrieval, shard_paths, shards_type
from gapless.data.emoji import STYLE, emoji_classes, emoji_families
from gapless.data.labelled import build_labelled
from gapless.data.pairs import FileSource
from gapless.data.questions import load_aokvqa, load_sugarcrepe, load_winoground
from gapless.data.shards import ShardSource
from gapless.errors import ConfigError, DataError
from gapless.eval.arithmetic import emoji_word_edits, open_simat
from gapless.eval.metrics.simat import Domain
from gapless.eval.pairs import build_pair_evaluation
from gapless.eval.tasks import Classes, Data, Pairs, Questions, Selections, Validation
from gapless.models import LoadedModel
from gapless.run_folder import CONFIG_FILE

PLACES = ("path", "val_path", "karpathy")
"""Keys of the data that say where they lie."""
OF_BATCHES = (
    *("source", "captions", "val_captions", "batch_size", "drop_last", "workers", "cache_images", "shuffle_window"),
    *("shuffle_buffer", "epoch_size", "augmentation", "max_pixels", "max_bad_fraction", "timeout", "allow_pipe"),
)
"""Keys of the data that do not decide which pairs there are; the source is the name of the data set."""


@dataclass(frozen=True)
class Asked:
    """What is opened, and for whom."""

    name: str
    plan: EvalPlan
    loaded: LoadedModel
    run: Path | None
    """Folder of the model's run."""

    @property
    def split(self) -> str:
        """The split that the plan names, or test."""
        return self.plan.split or "test"

    @property
    def folder(self) -> Path:
        """Where the data set lies.

        Raises:
            ConfigError: the plan does not say.
        """
        if self.plan.root is None:
            raise ConfigError(f"root: {self.name} needs the folder where it lies, for example /data/{{dataset}}")
        return place_of(self.plan.root, self.name)


@dataclass(frozen=True)
class Part:
    """Data of one kind, and what results say of them."""

    data: Data
    place: str = ""
    """Where they lie; empty for embedded data."""
    split: str = ""
    """Empty where there is one only."""
    default: str = "test"
    """The split that is no setting."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Which of the data they are, where that is not the default."""


@dataclass(frozen=True)
class DataSet:
    """A record of the table."""

    open: Callable[[Asked], list[Part]]
    """Opens it as parts, which are scored one after the other."""
    splits: tuple[str, ...] | None = None
    """Those that there are; empty if there is nothing to choose, None if the files decide."""


def _emoji(asked: Asked) -> list[Part]:
    split, plan = asked.split, asked.plan
    classes = emoji_classes()["emoji_group"].labels
    pairs = Pairs("emoji", build_source(DataConfig(), split), plan.captions, classes, emoji_families())
    parts = [Part(pairs, split=split)]
    if split == STYLE:  # drawings of pairs, and nothing else
        return parts
    parts += [Part(_classes(asked, name), split=split) for name in emoji_classes()]
    if "arithmetic" in plan.tasks:
        domain: Domain = "test" if split == "test" else "dev"
        # The names say which domain.
        parts += [Part(edits, split=domain, default=domain) for edits in emoji_word_edits(domain)]
    return parts


def _validation(asked: Asked) -> list[Part]:
    if asked.run is None or not (asked.run / CONFIG_FILE).is_file():
        raise DataError(f"datasets: val needs a run's folder with its {CONFIG_FILE}")
    config = load_config(asked.run / CONFIG_FILE)
    return [Part(Validation(build_pair_evaluation(config, asked.loaded.model, asked.loaded.tokenizer)))]


def _pairs(asked: Asked) -> list[Part]:
    data, split = asked.plan.data, asked.plan.split or "val"
    pairs = Pairs(data.source, build_source(data, split), asked.plan.captions)
    return [Part(pairs, pairs_place(data), split, "val", pairs_settings(data))]


def _simat(asked: Asked) -> list[Part]:
    domain: Domain = "test" if asked.plan.split == "test" else "dev"
    edits = open_simat(asked.folder, domain, asked.plan.heads)
    return [Part(edits, absolute(str(asked.folder)), domain, domain)]


def _aokvqa(asked: Asked) -> list[Part]:
    questions = load_aokvqa(asked.folder / "aokvqa_v1p0_val.json", asked.folder / "val2017")
    return [Part(Questions("aokvqa", questions), absolute(str(asked.folder)))]


def _winoground(asked: Asked) -> list[Part]:
    instances = load_winoground(asked.folder / "examples.jsonl", asked.folder / "images")
    return [Part(Selections(asked.name, instances), absolute(str(asked.folder)))]


def _sugar_crepe(asked: Asked) -> list[Part]:
    instances = load_sugarcrepe(asked.folder / f"{asked.name.partition('/')[2]}.json", asked.folder / "val2017")
    return [Part(Selections(asked.name, instances), absolute(str(asked.folder)))]


def _captioned(asked: Asked) -> list[Part]:
    source = FileSource(read_retrieval(asked.name, asked.folder, asked.split))
    return [Part(Pairs(asked.name, source, asked.plan.captions), absolute(str(asked.folder)), asked.split)]


def _shards(asked: Asked) -> list[Part]:
    if shards_type(asked.folder) != "retrieval":
        return _classified(asked)
    source = ShardSource(shard_paths(asked.folder, asked.split))
    return [Part(Pairs(asked.name, source, asked.plan.captions), absolute(str(asked.folder)), asked.split)]


def _classified(asked: Asked) -> list[Part]:
    place = "" if asked.name in emoji_classes() else absolute(str(asked.folder))
    return [Part(_classes(asked, asked.name), place, asked.split)]


def _classes(asked: Asked, name: str) -> Classes:
    """A classification data set, and its train split where a probe is fitted."""
    plan, probed = asked.plan, "linear_probe" in asked.plan.tasks
    data = build_labelled(name, plan.root, asked.split, plan.download, plan.prompts)
    return Classes(data, build_labelled(name, plan.root, "train", plan.download) if probed else None)


DATASETS: Mapping[str, DataSet] = {
    "emoji": DataSet(_emoji),
    "val": DataSet(_validation, splits=()),
    "pairs": DataSet(_pairs),
    "simat": DataSet(_simat, splits=("dev", "test")),
    "aokvqa": DataSet(_aokvqa, splits=()),
    "winoground": DataSet(_winoground, splits=()),
    "sugar_crepe/": DataSet(_sugar_crepe, splits=()),
    "wds/": DataSet(_shards),
    **dict.fromkeys(RETRIEVAL_SETS, DataSet(_captioned)),
}
"""By name, or by what a name begins with up to its slash. All other names are those of classification data sets."""


def find_dataset(name: str) -> DataSet:
    """The record of a data set."""
    return DATASETS.get(name) or DATASETS.get(name[: name.find("/") + 1]) or DataSet(_classified)


def pairs_settings(data: DataConfig) -> dict[str, Any]:
    """Which pairs of a source there are, where that is not the default."""
    given, default = flatten(asdict(data)), flatten(asdict(DataConfig()))
    known = {key for key in default if not key.startswith((*OF_BATCHES, *PLACES))}
    return {f"data.{key}": given[key] for key in sorted(known) if given[key] != default[key]}


def pairs_place(data: DataConfig) -> str:
    """Where pairs lie, the same however it was spelled."""
    return ", ".join(absolute(str(getattr(data, key))) for key in PLACES if getattr(data, key))


def absolute(place: str) -> str:
    """A path without links, or several joined by '::'; addresses as they are."""

    def resolved(part: str) -> str:
        return part if "://" in part or part.startswith("pipe:") else os.path.realpath(Path(part).expanduser())

    return "::".join(map(resolved, place.split("::")))
