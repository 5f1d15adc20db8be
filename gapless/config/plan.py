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
    """emoji, val (a run's own validation set), pairs (--data), simat, aokvqa, winoground, sugar_crepe/NAME,
    imagefolder, wds/NAME, paper (the contrastive-gap paper's five), or any data set of clip_benchmark."""
    tasks: list[EvalTask] = field(default_factory=lambda: ["zero_shot", "retrieval", "gap", "arithmetic"])
    """What is scored where a data set allows it; besides those: linear_probe, intra_modal (retrieval of images among
    images and texts among texts), mixed (retrieval among images and texts), clustering (of both together), robustness
    (of classes and choices to noise and other words, with the gap open and closed)."""
    root: Location | None = None
    """Folder of the data sets; {dataset} in it becomes the name, with - for /."""
    split: str | None = None
    """Split to score; null takes test, and val of --data."""
    data: DataConfig = field(default_factory=DataConfig)
    """The pairs that the data set named pairs stands for."""
    captions: Literal["all", "first"] = "all"
    """Captions of an image in retrieval: all (any may be found) or first (the contrastive-gap paper's protocol)."""
    folds: PositiveInteger = 1
    """Parts that retrieval is scored on one by one and averaged: 5 for COCO's 1K protocol, in the order of the data."""
    prompts: Literal["own", "fahim2024"] = "own"
    """Class names of zero-shot: own, or as the contrastive-gap paper's code wrote them (ImageNet's synonyms as tuples,
    'photo of' before those of dtd and caltech101), for comparison with its numbers only."""
    lambdas: list[FiniteNumber] = field(default_factory=lambda: [1.0])
    """Strengths of the edits in simat and emoji arithmetic."""
    noise: NonNegativeNumber = 0.025
    """Deviation of a component of the Gaussian noise of robustness."""
    draws: PositiveInteger = 100
    """Draws of that noise, and of other words for the choices of aokvqa (each embeds all of them anew)."""
    heads: Path | None = None
    """Linear heads for simat, safetensors with image.weight, image.bias, text.weight, text.bias."""
    transform: Path | None = None
    """Map of gapless close that moves images and texts (then of length 1 again) before they are scored; null takes
    transform.safetensors of the export folder, if it carries one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward passes."""
    batch_size: PositiveInteger = 256
    """Images or texts of one forward pass in a process."""
    workers: NonNegativeInteger = 2
    """Loader processes of each process."""
    max_bad_fraction: ClosedUnitInterval = 0.01
    """Stop when more than this share of a data set's images cannot be used."""
    download: bool = False
    """Let torchvision fetch data sets that are missing."""
