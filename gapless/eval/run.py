"""From the names of data sets to results: what ``gapless eval`` does."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator, PartialState

from gapless.config import DataConfig, load_config
from gapless.data import Place, build_eval_data, build_source
from gapless.data.emoji import emoji_classes
from gapless.data.labelled import PAPER_SETS, build_labelled, shard_paths
from gapless.data.shards import ShardSource
from gapless.errors import ConfigError, DataError
from gapless.eval.arithmetic import evaluate_emoji_arithmetic, evaluate_simat
from gapless.eval.interpolate import set_between
from gapless.eval.pairs import PairEvaluation
from gapless.eval.results import Result, save_result
from gapless.eval.suite import Precision, Suite
from gapless.models import LoadedModel, load_model

logger = logging.getLogger(__name__)


@dataclass
class EvalPlan:
    """What a model is scored at, and how."""

    datasets: list[str] = field(default_factory=lambda: ["emoji"])
    """emoji, val (a run's own validation set), pairs (--data), simat, imagefolder, wds/NAME, paper (the
    contrastive-gap paper's five), or any data set of clip_benchmark."""
    root: str | None = None
    """Folder of the data sets; {dataset} in it becomes the name, with - for /."""
    split: str | None = None
    """Split to score; null takes test, and val of --data."""
    data: DataConfig = field(default_factory=DataConfig)
    """The pairs that the data set named pairs stands for."""
    captions: str = "all"
    """Captions of an image in retrieval: all (any may be found) or first (the contrastive-gap paper's protocol)."""
    lambdas: list[float] = field(default_factory=lambda: [1.0])
    """Strengths of the edits in simat and emoji arithmetic."""
    heads: Path | None = None
    """Linear heads for simat, safetensors with image.weight, image.bias, text.weight, text.bias."""
    precision: Precision = "fp32"
    """Precision of the forward passes."""
    batch_size: int = 256
    """Images or texts of one forward pass in a process."""
    workers: int = 2
    """Loader processes of each process."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of a data set's images cannot be used."""
    download: bool = False
    """Let torchvision fetch data sets that are missing."""


def evaluate(
    loaded: LoadedModel, plan: EvalPlan, cache_folder: Path | None = None, run: Path | None = None
) -> list[Result]:
    """Score a model at everything a plan names.

    Args:
        loaded: the model.
        plan: data sets and settings.
        cache_folder: where image features are kept; None keeps none.
        run: folder of the model's run, for its own validation set.

    Raises:
        ConfigError: an unknown data set or a setting out of range.
        DataError: data that are missing or cannot be used.
    """
    Accelerator()  # joins the processes, which PartialState alone would not do on CPUs
    if plan.batch_size < 1:
        raise ConfigError(f"--batch_size: {plan.batch_size} does not work, it must be at least 1")
    if plan.captions not in ("all", "first"):
        raise ConfigError(f"--captions: {plan.captions!r} is not one of all, first")
    suite = Suite(loaded, cache_folder, plan.precision, plan.batch_size, plan.workers, plan.max_bad_fraction)
    names = [each for name in plan.datasets for each in (PAPER_SETS if name == "paper" else (name,))]
    return [result for name in names for result in _evaluate(suite, name, plan, run)]


def _evaluate(suite: Suite, name: str, plan: EvalPlan, run: Path | None) -> list[Result]:
    logger.info("%s on %s", suite.loaded.name, name)
    split = plan.split or "test"
    if name == "emoji":
        found = suite.pairs(name, build_source(DataConfig(), split), plan.captions, split)
        found += [suite.zero_shot(build_labelled(task, split=split)) for task in emoji_classes()]
        return [*found, evaluate_emoji_arithmetic(suite, plan.lambdas, "test" if split == "test" else "dev")]
    if name == "val":
        return [_own_validation(suite, run)]
    if name == "pairs":
        source = build_source(plan.data, plan.split or "val")
        return suite.pairs(plan.data.source, source, plan.captions, f"{plan.data} {plan.split}")
    if name == "simat":
        if plan.root is None:
            raise ConfigError("--root: simat needs the folder that holds simat_db")
        folder = Path(plan.root.replace("{dataset}", name))
        return [evaluate_simat(suite, folder, plan.lambdas, "test" if plan.split == "test" else "dev", plan.heads)]
    if name.startswith("wds/") and plan.root is not None:
        folder = Path(plan.root.replace("{dataset}", name.replace("/", "-")))
        if _is_retrieval(folder):
            source = ShardSource(shard_paths(folder, split))
            return suite.pairs(name, source, plan.captions, f"{folder} {split} {len(source)}")
    return [suite.zero_shot(build_labelled(name, plan.root, split, plan.download))]


def _is_retrieval(folder: Path) -> bool:
    told = folder / "dataset_type.txt"
    return told.is_file() and told.read_text().strip() == "retrieval"


def _own_validation(suite: Suite, run: Path | None) -> Result:
    """The very evaluation that the run did while it trained."""
    if run is None or not (run / "config.yaml").is_file():
        raise DataError("--datasets: val needs a run's folder with its config.yaml")
    config = load_config(run / "config.yaml")
    state = PartialState()
    place = Place(state.process_index, state.num_processes)
    data = build_eval_data(config.data, config.eval.batch_size, suite.loaded.model.preprocess, suite.tokenize, place)
    classes = emoji_classes() if config.data.source == "emoji" and config.eval.zero_shot else {}
    evaluation = PairEvaluation(data, suite.loaded.tokenizer, classes, max_bad_fraction=config.data.max_bad_fraction)
    scores = evaluation.run(suite.model)
    number = int(scores["val/num_samples"])
    return Result("val", "pairs", scores, suite.loaded.name, suite.loaded.pretrained, num_samples=number)


def evaluate_between(base: str, name: str, alphas: Sequence[float], plan: EvalPlan) -> dict[str, list[Result]]:
    """Results of the models between a base and a fine-tuned one, by ``alpha=...``; no features are kept."""
    tuned = load_model(name)
    ends = load_model(base).model.clip.state_dict(), {n: t.clone() for n, t in tuned.model.clip.state_dict().items()}
    found = {}
    for alpha in alphas:
        set_between(tuned.model, *ends, alpha)
        between = LoadedModel(tuned.model, tuned.tokenizer, f"{tuned.name}@{alpha:g}", tuned.pretrained)
        found[f"alpha={alpha:g}"] = evaluate(between, plan)
    return found


def save_all(results: Sequence[Result], folder: Path) -> None:
    """Write results; on the main process only."""
    if PartialState().is_main_process:
        for result in results:
            save_result(result, folder)
