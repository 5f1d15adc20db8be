"""What ``gapless eval`` scores a model at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gapless.config.arguments import (
    ClosedUnitInterval,
    FiniteNumber,
    Location,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveInteger,
)
from gapless.config.data import DataConfig

EvalTask = Literal[
    "zero_shot", "retrieval", "gap", "arithmetic", "linear_probe", "intra_modal", "mixed", "clustering", "robustness"
]


@dataclass
class EvalPlan:
    """What a model is scored at, and how."""

    datasets: list[str] = field(default_factory=lambda: ["emoji"])
    """Data sets to score: emoji, val (the run's own), pairs (the keys under data), simat, aokvqa, winoground,
    sugar_crepe/NAME, imagefolder, wds/NAME, or any of clip_benchmark. paper stands for the contrastive-gap paper's
    five."""
    tasks: list[EvalTask] = field(default_factory=lambda: ["zero_shot", "retrieval", "gap", "arithmetic"])
    """Tasks that are scored where a data set allows it. intra_modal retrieves images among images and texts among
    texts, mixed among both; clustering groups both together. robustness adds noise, and other words to choices, with
    the gap open and closed."""
    root: Location | None = None
    """Folder of the data sets; {dataset} in it becomes the name of each, with - for /."""
    split: str | None = None
    """Split that is scored; null takes test, and val of the data set pairs."""
    data: DataConfig = field(default_factory=DataConfig)
    """Pairs that the data set named pairs stands for."""
    captions: Literal["all", "first"] = "all"
    """Captions of an image that count in retrieval: all, any of which may be retrieved, or first (the contrastive-gap
    paper's protocol)."""
    folds: PositiveInteger = 1
    """Parts of the data, in their order, that retrieval is scored on one by one and averaged over; 5 is COCO's 1K
    protocol."""
    prompts: Literal["own", "fahim2024"] = "own"
    """Class names of zero-shot: own, or as the contrastive-gap paper's code wrote them, for comparison with its numbers
    only. Its ImageNet names are tuples of synonyms; 'photo of' stands before those of dtd and caltech101."""
    lambdas: list[FiniteNumber] = field(default_factory=lambda: [1.0])
    """Strengths of the edits in simat and emoji arithmetic."""
    noise: NonNegativeNumber = 0.025
    """Standard deviation of each component of the Gaussian noise in the task robustness."""
    draws: PositiveInteger = 100
    """Draws of the noise in the task robustness, and of other words for the choices of aokvqa, which each draw embeds
    anew."""
    heads: Path | None = None
    """Linear heads for simat: a safetensors file with image.weight, image.bias, text.weight and text.bias."""
    transform: Path | None = None
    """Map of gapless close that moves images and texts before they are scored; moved rows get length 1 again. Null
    takes transform.safetensors of the export folder, if there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward passes."""
    batch_size: PositiveInteger = 256
    """Images or texts of one forward pass in a process."""
    workers: NonNegativeInteger = 2
    """Loader processes for each process."""
    max_bad_fraction: ClosedUnitInterval = 0.01
    """Largest share of a data set's images that may be unusable before the evaluation stops."""
    download: bool = False
    """Let torchvision fetch data sets that are missing."""
