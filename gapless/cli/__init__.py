"""The ``gapless`` command: one verb, its arguments, and one readable line for whatever goes wrong."""

import difflib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentParser
from safetensors import SafetensorError

from gapless import __version__
from gapless.cli import caption, evaluate, geometry, launch, reports, robustness
from gapless.cli.runs import add_config_arguments, add_run_arguments, config_of
from gapless.config import Config
from gapless.config.arguments import ClosedUnitInterval, Location, NonNegativeInteger, PositiveInteger, Separator
from gapless.config.parsing import parse_arguments
from gapless.environment import read_processes
from gapless.errors import ConfigError, DataError, GaplessError, LostProcessError, StoppedError, lost_process
from gapless.signals import Ended, FirstSignal, ended_by_signals, let_in

logger = logging.getLogger(__name__)

NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")
"""What torch says of it, in errors of no type of their own."""


class Verb(NamedTuple):
    """What a verb is for, its arguments, and what it does. Heavy imports wait until it runs."""

    told: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]
    continues: bool = False
    """Whether the same command goes on from where a signal stopped it."""


# --- train, doctor -----------------------------------------------------------------------------------------------


_run_arguments = partial(add_run_arguments, kind=Config)
_config_arguments = partial(add_config_arguments, kind=Config)


def _train(arguments: Any) -> None:
    from gapless.train import run_training

    folder = run_training(config_of(arguments, Config), arguments.fresh, arguments.resume)
    logger.info("done: %s (metrics.jsonl, checkpoints, export)", folder)


def _doctor(arguments: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from gapless.report.escaping import terminal
    from gapless.train.doctor import examine

    table = Table("check", "", "result", box=None)
    checks = examine(config_of(arguments, Config))
    for check in checks:
        outcome = "[red]fails[/]" if check.error else "[green]ok[/]"
        table.add_row(terminal(check.name), outcome, terminal(check.told))
    Console().print(table)
    failed = [check.error for check in checks if check.error]
    if failed:
        raise failed[0]


# --- prepare, export ---------------------------------------------------------------------------------------------


def _prepare_arguments(parser: ArgumentParser) -> None:
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


def _prepare(arguments: Any) -> None:
    from gapless.config import DataConfig
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


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="Folder of a run, or of a model in open_clip's format.")
    parser.add_argument("--checkpoint", type=str, default="latest", help="latest, best or step_00000000.")
    parser.add_argument("--output", type=Path, default=None, help="Export folder; RUN/export if not given.")


def _export(arguments: Any) -> None:
    output = arguments.output or arguments.run / "export"
    if any((arguments.run / "checkpoints").glob("*/captioner.json")):
        caption.needs_extra()
        from gapless.decode.captions.export import export_captioner

        checkpoint = export_captioner(arguments.run, arguments.checkpoint, output)
        print(f"{checkpoint.name} exported to {output}; gapless caption eval {output} uses it")
        return
    if (arguments.run / "open_clip_config.json").is_file():
        _export_folder(arguments.run, arguments.checkpoint, output)
        return
    from gapless.train.clip import export_checkpoint

    checkpoint = export_checkpoint(arguments.run, arguments.checkpoint, output)
    print(f"{checkpoint.name} exported to {output}; open_clip loads it as local-dir:{output}")


def _export_folder(folder: Path, checkpoint: str, output: Path) -> None:
    """Write a model that is no run, such as a snapshot of the hub, in the form of an export."""
    from gapless.models import load_export, save_export

    if checkpoint != "latest":
        raise ConfigError(f"--checkpoint: {folder} is a single model, leave {checkpoint!r} out")
    save_export(*load_export(folder), output)
    print(f"{folder} exported to {output}; open_clip loads it as local-dir:{output}")


VERBS = {
    "train": Verb("train or fine-tune, or continue an interrupted run", _run_arguments, _train, True),
    "doctor": Verb("check a configuration, its data and this machine, and train nothing", _config_arguments, _doctor),
    "eval": Verb("score a model: retrieval, zero-shot, gap, arithmetic", evaluate.add_arguments, evaluate.run),
    "gap": Verb("every measure of the gap between two sets of embeddings", geometry.add_gap, geometry.run_gap),
    "close": Verb("fit a map that closes the gap, and apply it", geometry.add_close, geometry.run_close),
    "robustness": Verb("nearest neighbours under noise, the gap closed", robustness.add_noise, robustness.run_noise),
    "simulate": Verb("the papers' simulations of how gaps arise", robustness.add_simulate, robustness.run_simulate),
    "caption embed": Verb("embed a data set for captioners", caption.add_embed, caption.run_embed),
    "caption convert": Verb("embeddings from pickles of other code", caption.add_convert, caption.run_convert),
    "caption train": Verb("train a captioner on one modality", caption.add_train, caption.run_train, True),
    "caption eval": Verb("caption another modality, and score it", caption.add_eval, caption.run_eval),
    "prepare": Verb("write a data source as webdataset shards", _prepare_arguments, _prepare, True),
    "export": Verb("write the model or captioner of a run as a folder of its own", _export_arguments, _export),
    "sweep": Verb(
        "run a sweep file of wandb without a server", reports.add_sweep, reports.run_sweep_file, continues=True
    ),
    "report": Verb("write a page, tables and figures of runs", reports.add_report, reports.run_report),
    "reproduce": Verb("run an experiment and print its tables", reports.add_reproduce, reports.run_reproduce),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb and exit with the documented code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    with ended_by_signals(to_the_end=argv is None) as ending:
        code = _run(arguments, debug, ending)
        _leave_code(code)
        if code in (0, StoppedError.exit_code):
            _leave_group()
    sys.exit(code)


def _run(arguments: list[str], debug: bool, ending: FirstSignal) -> int:
    """Run a verb; its exit code, after the one line of whatever went wrong."""
    try:
        launch.join_launcher()
        let_in()
        return _dispatch(arguments)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (Ended, Exception) as error:
        failure = _failure(error, arguments, ending.received)
        if failure is None:
            raise
        if isinstance(failure, int):
            return failure
        _report(failure, debug)
        return failure.exit_code


def _failure(error: BaseException, arguments: Sequence[str], received: int | None) -> GaplessError | int | None:
    """What a user can do about an error, or the exit code where a signal ended the command; None for a bug."""
    if isinstance(error, GaplessError):
        return error
    if received is not None:  # an error beside it comes of being interrupted
        verb = _verb(launch.launched(arguments, _first_words()) if arguments[:1] == ["launch"] else arguments)
        if verb is None or not VERBS[verb].continues:
            return 128 + received
        return StoppedError("stopped by a signal before the first step; the same command begins again")
    if isinstance(error, OSError):  # no permission, disk full ...
        return DataError(f"{error.filename or 'file'}: {error.strerror or error}")
    if isinstance(error, SafetensorError):  # a damaged file, or a full disk, that was not named
        return DataError(f"a .safetensors file: {error}")
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return DataError(f"there is not enough memory ({str(error)[:200]}); smaller batches need less")
    return lost_process(error) if isinstance(error, RuntimeError) else None


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"gapless {__version__}")
        return 0
    if arguments[0] == "launch" and arguments[1:2] not in (["--help"], ["-h"]):
        return launch.launch(arguments[1:], _first_words())
    name = _verb(arguments)
    if name is None:
        return _no_verb(arguments)
    read_processes()
    _set_up_logging()
    VERBS[name].run(parse(name, arguments[len(name.split()) :]))
    return 0


def _verb(arguments: Sequence[str]) -> str | None:
    """The verb, of one word or two, that arguments begin with."""
    return next((n for n in (" ".join(arguments[:2]), *arguments[:1]) if n in VERBS), None)


def _first_words() -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in VERBS))


def _no_verb(arguments: Sequence[str]) -> int:
    """Help for the first word of verbs of two, and for slips of the pen."""
    family = [f"  {name:<15} {verb.told}" for name, verb in VERBS.items() if name.startswith(f"{arguments[0]} ")]
    if family and arguments[1:2] in ([], ["--help"], ["-h"]):
        print("\n".join([f"usage: gapless {arguments[0]} WHAT ...", "", *family]))
        return 0 if arguments[1:] else ConfigError.exit_code
    close = difflib.get_close_matches(" ".join(arguments[:2] if family else arguments[:1]), VERBS, n=1)
    raise ConfigError(
        f"{' '.join(arguments[: 2 if family else 1])!r} is no verb of gapless, "
        f"{f'did you mean {close[0]}?' if close else 'see gapless --help'}"
    )


def overview() -> str:
    """The help text without a verb."""
    lines = [f"  {name:<15} {verb.told}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: gapless VERB ...     (gapless VERB --help lists its arguments)",
            "",
            "Train CLIP without the contrastive gap.",
            "",
            *lines,
            "  launch          run a verb on several processes: gapless launch [accelerate launch's options] VERB ...",
            "",
            "exit codes: 0 done, 2 bad arguments or configuration, 3 bad or missing data,",
            "            4 loss, gradient or features not finite, 5 a process of the run was lost,",
            "            75 stopped by a signal, and the same command continues, 143 ended by SIGTERM",
            "--debug shows the traceback of an error",
        ]
    )


def parse(verb: str, arguments: Sequence[str]) -> Any:
    """Arguments of a verb, with nested dataclasses built.

    Raises:
        ConfigError: one line that names the key.
    """
    return parse_arguments(_parser_of(verb), arguments)


@cache
def _parser_of(verb: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"gapless {verb}", description=f"{VERBS[verb].told}.", exit_on_error=False, allow_abbrev=False
    )
    VERBS[verb].add_arguments(parser)
    return parser


class _CurrentStderr(logging.Handler):
    """Writes to whatever standard error is now: a progress bar stands in for it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _set_up_logging() -> None:
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.ERROR, format="%(message)s", handlers=[_CurrentStderr()])
    logging.getLogger("gapless").setLevel(logging.INFO if main_process else logging.ERROR)


def _report(error: GaplessError, debug: bool) -> None:
    rank = os.environ.get("RANK", "0")
    if debug:
        traceback.print_exc()
    told = " ".join(str(error).splitlines())  # names of files may hold line feeds
    if isinstance(error, LostProcessError):
        if not launch.leave_message(told):
            print(f"gapless: error: {f'[process {rank}] ' * ('RANK' in os.environ)}{told}", file=sys.stderr)
    elif rank == "0":
        print(f"gapless: {told}" if isinstance(error, StoppedError) else f"gapless: error: {told}", file=sys.stderr)
    elif isinstance(error, DataError):  # all other errors are the same on every process
        print(f"gapless: error: [process {rank}] {told}", file=sys.stderr)


def _leave_group() -> None:
    """End the process group in good order; after an error others may wait in it, and the launcher ends them."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def _leave_code(code: int) -> None:
    """accelerate launch turns every failure into 1; launch.sh reads the real code from this file."""
    path = os.environ.get("GAPLESS_EXIT_CODE_FILE")
    if path and os.environ.get("RANK", "0") == "0":
        Path(path).write_text(str(code))
