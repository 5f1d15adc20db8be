"""``gapless reproduce``: the experiments of the papers, and the demo."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from gapless.cli.extras import needs_caption_extra
from gapless.cli.options import add_options
from gapless.config.arguments import Location, NonNegativeInteger, PositiveInteger
from gapless.errors import ConfigError

Experiment = Literal["demo", "contrastive-gap", "connect-collapse-corrupt", "bug-or-feature"]
Edition = Literal["emoji", "coco"]
Part = Literal["captioning", "geometry"]
PAPER = "contrastive-gap"
GRID = {"edition", "dimensions", "seeds", "jobs", "allow_missing"}
USED_BY: dict[str, set[str]] = {
    "demo": set(),
    "contrastive-gap": GRID,
    "contrastive-gap coco": GRID | {"data_path", "root"},
    "connect-collapse-corrupt captioning": {"only", "source", "pretrained", "edition"},
    "connect-collapse-corrupt captioning coco": {"only", "source", "pretrained", "edition", "data_path", "karpathy"},
    "connect-collapse-corrupt geometry": {"only", "source"},
    "bug-or-feature": {"source"},
}
"""Arguments that change an experiment, besides output and quick."""


def add_reproduce(parser: ArgumentParser) -> None:
    """What ``gapless reproduce`` takes."""
    experiments = "The demo (clip, cua and cuaxu from one start), or the experiments of one of the three papers."
    parser.add_argument("experiment", type=Experiment, help=experiments)
    parser.add_argument("--quick", action="store_true", help="Take one seed and fewer epochs, for a first look.")
    parser.add_argument(
        "--allow_missing", action="store_true", help="Exit with code 0 although runs of contrastive-gap failed."
    )
    add_options(
        parser,
        ("output", Path, None, "Folder of runs and results; by default runs/EXPERIMENT or runs/EXPERIMENT-quick."),
        ("edition", Edition, "emoji", "Data of contrastive-gap and of captioning: the embedded emoji, or COCO."),
        ("source", Path, None, "Run whose space is used; the geometry experiments also take a file of embeddings."),
        ("pretrained", Location, None, "Tag or file of weights, where the source of captioning is an open_clip model."),
        ("only", Part, "captioning", "Part of connect-collapse-corrupt that is run."),
        ("karpathy", Location, None, "File dataset_coco.json with Karpathy's split, for captioning on COCO."),
        ("data_path", Location, None, "Folder of COCO 2017, for the edition coco."),
        (
            "root",
            Location,
            None,
            f"Folder of the zero-shot sets and simat, for {PAPER} on COCO; {{dataset}} is each name.",
        ),
        ("dimensions", list[PositiveInteger], [32, 64, 128], f"Dimensions in the grid of {PAPER}."),
        (
            "seeds",
            list[NonNegativeInteger] | None,
            None,
            f"Seeds in the grid of {PAPER}; by default the paper's 42, 24 and 44, of which quick takes the first. "
            "Verdicts are taken at five.",
        ),
        ("jobs", PositiveInteger, None, f"Number of runs of {PAPER} at a time; null for one on each GPU."),
    )


def unused_by_reproduce(arguments: Any) -> dict[str, str]:
    """Arguments that the experiment does not look at."""
    parts = [arguments.experiment]
    if arguments.experiment == "connect-collapse-corrupt":
        parts.append(arguments.only)
    if arguments.edition == "coco" and " ".join([*parts, "coco"]) in USED_BY:
        parts.append("coco")
    experiment = " ".join(parts)
    used = USED_BY[experiment]
    reason = f"{experiment} does not use it (it takes {', '.join(sorted(used | {'output', 'quick'}))})"
    keys = ("edition", "source", "pretrained", "only", "karpathy", "data_path", "root", "dimensions", "seeds", "jobs")
    return {key: reason for key in (*keys, "allow_missing") if key not in used}


def run_reproduce(arguments: Any) -> None:
    """Run the experiment."""
    for key in ("dimensions", "seeds"):
        values = getattr(arguments, key)
        if values is not None and not values:
            raise ConfigError(f"{key}: name at least one")
        if values is not None and len(set(values)) < len(values):
            raise ConfigError(f"{key}: one is named twice")
    output = arguments.output or Path("runs") / (arguments.experiment + ("-quick" if arguments.quick else ""))
    if arguments.pretrained and not arguments.source:
        raise ConfigError("--pretrained: it belongs to the open_clip model that --source names")
    if arguments.experiment == "demo":
        from gapless.reproduce.demo import run_demo

        run_demo(output, arguments.quick)
        return
    if arguments.experiment != "contrastive-gap":
        from gapless.reproduce.geometry import reproduce_geometry

        if arguments.experiment == "connect-collapse-corrupt" and arguments.only == "captioning":
            _captioning(arguments, output)
            return
        reproduce_geometry(arguments.experiment, output, arguments.source, arguments.quick)
        return
    from gapless.reproduce.contrastive_gap.experiment import reproduce

    reproduce(
        output,
        arguments.edition,
        arguments.quick,
        arguments.data_path,
        arguments.root,
        arguments.dimensions,
        arguments.seeds,
        arguments.jobs,
        arguments.allow_missing,
    )


def _captioning(arguments: Any, output: Path) -> None:
    needs_caption_extra()
    from gapless.config import DataConfig
    from gapless.reproduce.connect_collapse_corrupt.experiment import reproduce_captioning

    data = DataConfig()
    if arguments.edition == "coco":
        for key, needed in (("source", "a run or an export of CLIP"), ("data_path", "COCO"), ("karpathy", "its split")):
            if getattr(arguments, key) is None:
                raise ConfigError(f"--{key}: captioning's coco edition needs {needed}")
        data = DataConfig(source="coco", path=arguments.data_path, karpathy=arguments.karpathy)
    reproduce_captioning(output, arguments.source, data, arguments.quick, arguments.pretrained)
