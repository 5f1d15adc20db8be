"""The grid of the contrastive-gap paper on COCO, and the same grid on the embedded emoji."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gapless.config import Config, EvalPlan, config_file, load_config, with_changes
from gapless.data.labelled import PAPER_SETS
from gapless.reproduce.contrastive_gap.published import OBJECTIVES
from gapless.reproduce.emoji import fine_tuning, pretraining
from gapless.reproduce.grid import Member

SEEDS = (42, 24, 44)
"""The paper's."""
DIMENSIONS = (32, 64, 128)


@dataclass(frozen=True)
class Edition:
    """The grid on one data set."""

    name: str
    members: list[Member]
    identical: list[Member]
    three_d: list[Member]
    starts: list[Config]
    """Runs that the grid's models begin with, one for each seed; none where weights are named."""
    zero_shot: tuple[str, ...]

    def all_members(self) -> list[Member]:
        """Every run, the short ones first."""
        return [*self.identical, *self.three_d, *self.members]


def _grid(bases: Mapping[int, Config], dimensions: Sequence[int], plan: EvalPlan, output: Path) -> Iterator[Member]:
    """Every objective at every dimension, from the configuration of each seed."""
    for dimension in dimensions:
        for seed, base in bases.items():
            for objective in OBJECTIVES:
                config = with_changes(
                    base,
                    name=f"{objective}-d{dimension}-seed{seed}",
                    output=str(output),
                    seed=seed,
                    loss={"preset": objective},
                    model={"embed_dim": dimension},
                )
                yield Member(config, plan, {"objective": objective, "dimension": dimension, "seed": seed})


def _identical(file: str, output: Path, **changes: object) -> list[Member]:
    """At the temperatures that the authors' code had in turn."""
    base = with_changes(load_config(config_file(f"ablations/{file}.yaml")), output=str(output), **changes)
    return [
        Member(with_changes(base, name=f"identical-t{t}", model={"temperature": t}), labels={"temperature": str(t)})
        for t in (0.07, 0.01)
    ]


def _three_d(file: str, output: Path, **changes: object) -> list[Member]:
    base = load_config(config_file(f"ablations/{file}.yaml"))
    return [Member(with_changes(base, name="three-d", output=str(output), **changes))]


def emoji_edition(output: Path, seeds: Sequence[int], dimensions: Sequence[int], quick: bool) -> Edition:
    """The grid on emoji, fine-tuned from starts that are trained first.

    Args:
        output: folder of the runs.
        seeds: of the grid.
        dimensions: of the shared space.
        quick: shorter runs.
    """
    starts = {seed: pretraining(output, f"pretrain-seed{seed}", seed=seed) for seed in seeds}
    epochs = {"epochs": 3 if quick else 6}
    bases = {seed: fine_tuning(start, train=epochs) for seed, start in starts.items()}
    # To start loader processes takes longer than to read the few pictures.
    plan = EvalPlan(
        ["emoji"], ["zero_shot", "retrieval", "gap", "arithmetic"], split="test", captions="first", workers=0
    )
    kept = [0, 1, 3, 6, 12, 25, 37, 50]
    shorter = {"train": {"epochs": 50}, "eval": {"keep_embeddings": kept}} if quick else {}
    return Edition(
        "emoji",
        list(_grid(bases, dimensions, plan, output)),
        _identical("identical-emoji", output, **({"train": {"epochs": 20}} if quick else {})),
        _three_d("three-d-emoji", output, **shorter),
        list(starts.values()),
        ("emoji_group", "emoji_gender", "emoji_skin_tone"),
    )


def coco_edition(
    output: Path, seeds: Sequence[int], dimensions: Sequence[int], data_path: str | None, root: str | None
) -> Edition:
    """The grid on COCO, as the paper has it.

    Args:
        output: folder of the runs.
        seeds: of the grid.
        dimensions: of the shared space.
        data_path: COCO's folder; None for that of the recipe.
        root: folder of the zero-shot sets and of simat; None leaves them out.
    """
    base = load_config(config_file("coco/clip.yaml"))
    place: dict[str, object] = {"data": {"path": data_path}} if data_path else {}
    base = with_changes(base, **place)
    datasets = ["pairs", *(PAPER_SETS if root else ()), *(["simat"] if root else [])]
    plan = EvalPlan(
        datasets,
        ["zero_shot", "retrieval", "gap", "arithmetic"],
        root=root,
        data=base.data,
        captions="first",
        workers=base.data.workers,
    )
    return Edition(
        "coco",
        list(_grid(dict.fromkeys(seeds, base), dimensions, plan, output)),
        _identical("identical", output, **place),
        _three_d("three-d", output, **place),
        [],
        PAPER_SETS,
    )
