"""Every verb of the command line: its purpose, its arguments, and the function that does it."""

import difflib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from gapless.cli.caption import add_convert, add_embed, run_convert, run_embed, unused_by_embed
from gapless.cli.caption import add_eval as add_caption_eval
from gapless.cli.caption import add_train as add_caption_train
from gapless.cli.caption import run_eval as run_caption_eval
from gapless.cli.caption import run_train as run_caption_train
from gapless.cli.evaluate import add_eval, run_eval, unused_by_eval
from gapless.cli.export import add_export, run_export
from gapless.cli.geometry import add_close, add_gap, run_close, run_gap, unused_by_close
from gapless.cli.prepare import add_prepare, run_prepare, unused_by_prepare
from gapless.cli.report import add_report, run_report
from gapless.cli.reproduce import add_reproduce, run_reproduce, unused_by_reproduce
from gapless.cli.robustness import add_robustness, run_robustness, unused_by_robustness
from gapless.cli.simulate import add_simulate, run_simulate, unused_by_simulate
from gapless.cli.sweep import add_sweep, run_sweep
from gapless.cli.train import add_doctor, add_train, run_doctor, run_train
from gapless.cli.unused import Unused, refuse_unused
from gapless.config.parsing import parse_arguments
from gapless.errors import ConfigError


class Verb(NamedTuple):
    """What a verb is for, its arguments, and what it does. Heavy imports wait until it runs."""

    purpose: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]
    continues: bool = False
    """Whether the same command goes on from where a signal stopped it."""
    unused: Callable[[Any], Unused] = lambda _: {}
    """Which arguments do nothing beside the others."""


VERBS = {
    "train": Verb("train or fine-tune, or continue an interrupted run", add_train, run_train, continues=True),
    "doctor": Verb("check a configuration, its data and this machine, and train nothing", add_doctor, run_doctor),
    "eval": Verb("score a model: retrieval, zero-shot, gap, arithmetic", add_eval, run_eval, unused=unused_by_eval),
    "gap": Verb("measure the gap between two sets of embeddings", add_gap, run_gap),
    "close": Verb("fit a map that closes the gap, and apply it", add_close, run_close, unused=unused_by_close),
    "robustness": Verb(
        "measure nearest neighbours under noise while the gap is closed",
        add_robustness,
        run_robustness,
        unused=unused_by_robustness,
    ),
    "simulate": Verb(
        "run the papers' simulations of how gaps arise", add_simulate, run_simulate, unused=unused_by_simulate
    ),
    "caption embed": Verb("embed a data set for captioners", add_embed, run_embed, unused=unused_by_embed),
    "caption convert": Verb("convert pickled features of other code", add_convert, run_convert),
    "caption train": Verb("train a captioner on one modality", add_caption_train, run_caption_train, continues=True),
    "caption eval": Verb("caption another modality, and score it", add_caption_eval, run_caption_eval),
    "prepare": Verb(
        "write a data source as webdataset shards", add_prepare, run_prepare, continues=True, unused=unused_by_prepare
    ),
    "export": Verb("write the model or captioner of a run as a folder of its own", add_export, run_export),
    "sweep": Verb("run a sweep file of wandb without a server", add_sweep, run_sweep, continues=True),
    "report": Verb("write a page, tables and figures of runs", add_report, run_report),
    "reproduce": Verb(
        "run an experiment and print its tables", add_reproduce, run_reproduce, unused=unused_by_reproduce
    ),
}


def verb_of(arguments: Sequence[str]) -> str | None:
    """The verb, of one word or two, that arguments begin with."""
    return next((n for n in (" ".join(arguments[:2]), *arguments[:1]) if n in VERBS), None)


def first_words() -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in VERBS))


def parse(verb: str, arguments: Sequence[str]) -> Any:
    """Arguments of a verb, with nested dataclasses built.

    Raises:
        ConfigError: one line that names the key that cannot work, or would do nothing.
    """
    parsed = parse_arguments(parser_of(verb), arguments)
    refuse_unused(parsed, parser_of(verb), VERBS[verb].unused(parsed))
    return parsed


@cache
def parser_of(verb: str) -> ArgumentParser:
    purpose = VERBS[verb].purpose
    parser = ArgumentParser(
        prog=f"gapless {verb}",
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    VERBS[verb].add_arguments(parser)
    return parser


def overview() -> str:
    """The help text without a verb."""
    lines = [f"  {name:<15} {verb.purpose}" for name, verb in VERBS.items()]
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


def help_without_verb(arguments: Sequence[str]) -> int:
    """Help for the first word of verbs of two.

    Returns:
        The exit code.

    Raises:
        ConfigError: no verb begins so; it names the nearest.
    """
    family = [f"  {name:<15} {verb.purpose}" for name, verb in VERBS.items() if name.startswith(f"{arguments[0]} ")]
    if family and arguments[1:2] in ([], ["--help"], ["-h"]):
        print("\n".join([f"usage: gapless {arguments[0]} WHAT ...", "", *family]))
        return 0 if arguments[1:] else ConfigError.exit_code
    close = difflib.get_close_matches(" ".join(arguments[:2] if family else arguments[:1]), VERBS, n=1)
    raise ConfigError(
        f"{' '.join(arguments[: 2 if family else 1])!r} is no verb of gapless, "
        f"{f'did you mean {close[0]}?' if close else 'see gapless --help'}"
    )
