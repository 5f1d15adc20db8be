"""The ``gapless`` command: one verb, its arguments, and one readable line for whatever goes wrong."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from gapless import __version__
from gapless.cli.failures import failure_of, leave_code, leave_group, report_failure
from gapless.cli.launch import join_launcher, launch_processes
from gapless.cli.typed import as_typed
from gapless.cli.verbs import VERBS, first_words, help_without_verb, overview, parse, parser_of, verb_of
from gapless.environment import read_processes
from gapless.errors import StoppedError
from gapless.signals import Ended, FirstSignal, ended_by_signals, let_in


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb and exit with the documented code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    with ended_by_signals(to_the_end=argv is None) as ending:
        code = _run(arguments, debug, ending)
        leave_code(code)
        if code in (0, StoppedError.exit_code):
            leave_group()
    sys.exit(code)


def _run(arguments: list[str], debug: bool, ending: FirstSignal) -> int:
    """Run a verb; its exit code, after the one line of whatever went wrong."""
    try:
        join_launcher()
        let_in()
        return _dispatch(arguments)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (Ended, Exception) as error:
        failure = failure_of(error, arguments, ending.received)
        if failure is None:
            raise
        if isinstance(failure, int):
            return failure
        report_failure(failure, verb_of(arguments), debug)
        return failure.exit_code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"gapless {__version__}")
        return 0
    if arguments[0] == "launch":
        return launch_processes(arguments[1:], first_words())
    name = verb_of(arguments)
    if name is None:
        return help_without_verb(arguments)
    read_processes()
    _set_up_logging(name)
    VERBS[name].run(parse(name, arguments[len(name.split()) :]))
    return 0


class _CurrentStderr(logging.Handler):
    """Writes to whatever standard error is now: a progress bar stands in for it while it is drawn."""

    verb = ""

    def emit(self, record: logging.LogRecord) -> None:
        print(as_typed(self.format(record), parser_of(self.verb)), file=sys.stderr)


def _set_up_logging(verb: str) -> None:
    main_process = os.environ.get("RANK", "0") == "0"
    _CurrentStderr.verb = verb
    logging.basicConfig(level=logging.ERROR, format="%(message)s", handlers=[_CurrentStderr()])
    logging.getLogger("gapless").setLevel(logging.INFO if main_process else logging.ERROR)
