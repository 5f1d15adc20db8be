"""``gapless caption``: embed a data set, train a captioner on one modality, caption another."""

import logging
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.cli.checkpoints import named_checkpoint
from gapless.cli.evaluate import PRETRAINED
from gapless.cli.extras import needs_caption_extra
from gapless.cli.runs import add_run_arguments, config_of
from gapless.config import DataConfig
from gapless.config.arguments import Location, NonNegativeInteger, PositiveInteger
from gapless.errors import ConfigError

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]


def add_embed(parser: ArgumentParser) -> None:
    """What ``gapless caption embed`` takes."""
    parser.add_argument("model", type=Location, help="Run, export folder, or name of an open_clip model.")
    parser.add_argument("--pretrained", type=Location, default=None, help=PRETRAINED)
    parser.add_class_arguments(DataConfig, "data")
    parser.add_argument(
        "--splits",
        type=list[Split] | None,
        default=None,
        help="Splits that are embedded; null for all that the data have.",
    )
    parser.add_argument(
        "--precision", type=Literal["fp32", "bf16"], default="fp32", help="Precision of the forward passes."
    )
    parser.add_argument("--batch_size", type=PositiveInteger, default=256, help="Images or texts in one forward pass.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the embeddings.")


def unused_by_embed(arguments: Any) -> dict[str, str]:
    """Keys of the data that only training looks at."""
    from gapless.eval.datasets import OF_BATCHES

    used = ("source", "allow_pipe", "workers", "max_bad_fraction")
    return {f"data.{key}": "only training uses it" for key in OF_BATCHES if key not in used}


def run_embed(arguments: Any) -> None:
    """Embed, and print what was written."""
    from gapless.decode.embed import embed_store

    written = embed_store(
        arguments.model,
        arguments.pretrained,
        arguments.data,
        arguments.output,
        arguments.splits,
        arguments.precision,
        arguments.batch_size,
    )
    _print_written(written, arguments.output)


def add_convert(parser: ArgumentParser) -> None:
    """What ``gapless caption convert`` takes."""
    parser.add_argument(
        "pickle", type=Path, help="Pickle of features from the paper's code; nothing in it is executed."
    )
    parser.add_argument(
        "--split", type=Split, default="train", help="Split of files that do not name theirs: train, val or test."
    )
    parser.add_argument(
        "--modality", type=str, default="image", help="Modality that the texts describe: image, audio or video."
    )
    parser.add_argument("--output", type=Path, required=True, help="Folder of the embeddings.")


def run_convert(arguments: Any) -> None:
    """Convert, and print what was written."""
    from gapless.decode.convert import convert_pickle

    written = convert_pickle(arguments.pickle, arguments.split, arguments.output, arguments.modality)
    _print_written(written, arguments.output)


def _print_written(written: dict[str, int], folder: Path) -> None:
    print(f"{', '.join(f'{rows} {name}' for name, rows in written.items())} in {folder}")


def add_train(parser: ArgumentParser) -> None:
    """What ``gapless caption train`` takes."""
    needs_caption_extra()
    from gapless.decode.captions.config import CaptionConfig

    add_run_arguments(parser, CaptionConfig)


def run_train(arguments: Any) -> None:
    """Train, or continue."""
    from gapless.decode.captions.config import CaptionConfig
    from gapless.decode.captions.training import train_captioner

    folder = train_captioner(config_of(arguments, CaptionConfig), arguments.fresh, arguments.resume)
    logger.info("done: %s (metrics.jsonl, checkpoints, export)", folder)


def add_eval(parser: ArgumentParser) -> None:
    """What ``gapless caption eval`` takes."""
    needs_caption_extra()
    from gapless.decode.captions.evaluate import CaptionPlan

    parser.add_argument("captioner", type=Path, help="Run of gapless caption train, its export, or a checkpoint.")
    parser.add_argument(
        "--checkpoint",
        type=str,
        default=None,
        help="Checkpoint of the run that is scored: best, latest or step_00000000.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these keys.")
    parser.add_class_arguments(CaptionPlan, None)
    parser.add_argument("--output", type=Path, default=None, help="Folder of results; by default CAPTIONER/results.")
    parser.add_argument("--show", type=NonNegativeInteger, default=5, help="Number of captions that are printed.")


def run_eval(arguments: Any) -> None:
    """Caption, score, write and print."""
    from accelerate import PartialState

    from gapless.decode import load_captioner
    from gapless.decode.captions.evaluate import CaptionPlan, check_plan, save_captions, score_captions, write_captions
    from gapless.eval.results import results_folder
    from gapless.models import check_model
    from gapless.report import Cell, Table

    if PartialState().num_processes > 1:  # one captions thousands of images a minute
        raise ConfigError("gapless caption eval runs in a single process: call it without launch.sh")
    plan = CaptionPlan(**{k: v for k, v in vars(arguments).items() if k in CaptionPlan.__dataclass_fields__})
    check_plan(plan)
    if plan.clip:
        check_model(plan.clip, plan.clip_pretrained)  # before everything is captioned
    elif plan.clip_pretrained:
        raise ConfigError("--clip_pretrained: it belongs to a model, name that with --clip")
    folder = arguments.captioner
    if arguments.checkpoint is not None:
        folder = named_checkpoint(folder, arguments.checkpoint)
    captioner = load_captioner(folder)
    captions = write_captions(captioner, plan)
    scores, tokenizer = score_captions(captions, plan)
    output = arguments.output or results_folder(folder)[0]
    path = save_captions(captions, scores, plan, folder, output, tokenizer)
    print(f"{folder.name} on {plan.modality}_{plan.split}, {plan.decoding.strategy}, tokens: {tokenizer}")
    rows = [[Cell(name), Cell(f"{value:.4f}")] for name, value in scores.items()]
    Console().print(Table("", ["", ""], rows).terminal())
    for name, text in list(captions.items())[: arguments.show]:
        print(f"{name}: {text}")
    print(f"{len(captions)} captions in {path}")
