"""Changes lines of a room at random, one at a time, and asks the tests which of the changes they notice.

    make mutants ROOM=eval NUMBER=100 SEED=0

mutmut makes the changes; texts that only people read (of the log and of errors) are left alone. Each change is made in
a copy of the checkout, and tried by a fork of this process, which has imported the libraries: first the tests that
mirror the file, then those of its room, then all others that import the room. What stays alive is printed.
"""

import argparse
import contextlib
import difflib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import libcst.matchers as m
import pytest
from mutmut.mutation.file_mutation import create_mutations
from rich.progress import Progress

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision.transforms.v2", "open_clip", "accelerate", "sklearn.linear_model", "scipy.stats")
LIBRARIES += ("webdataset", "jsonargparse", "matplotlib.pyplot", "plotly.graph_objects", "transformers", "optuna")
COPIED = ("gapless", "tests", "configs", "docs", "setup.cfg", "pyproject.toml", "README.md", "launch.sh", "Makefile")
OPTIONS = (
    "-x",
    "-p",
    "no:cacheprovider",
    "--randomly-dont-reorganize",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
SLOW = "tests/faults"
"""Kills and fuzzes, which take long and are about no single line."""


@dataclass(frozen=True)
class Mutant:
    """A file with one change."""

    file: str
    code: str
    changed: str

    def diff(self) -> str:
        """The lines that changed."""
        lines = difflib.unified_diff(
            self.code.splitlines(), self.changed.splitlines(), self.file, "", "", "", n=0, lineterm=""
        )
        return "\n".join(list(lines)[2:])


def draw(room: str, number: int, seed: int) -> list[Mutant]:
    """Some of all changes that mutmut makes in a room, all equally likely."""
    generator, places = random.Random(seed), []
    for path in sorted((ROOT / "gapless" / room).rglob("*.py")) or [ROOT / "gapless" / f"{room}.py"]:
        code, file = path.read_text(), path.relative_to(ROOT).as_posix()
        module, mutations, *_ = create_mutations(file, code)
        texts = _texts(module)
        places += [(file, code, module, change) for change in mutations if id(change.original_node) not in texts]
    chosen = generator.sample(places, min(number, len(places)))
    return [
        Mutant(file, code, module.deep_replace(change.original_node, change.mutated_node).code)  # type: ignore[union-attr]
        for file, code, module, change in chosen
    ]


def _texts(module: cst.Module) -> set[int]:
    """Nodes within a message of the log or of an error."""
    messages = m.findall(module, m.Raise() | m.Call(func=m.Attribute(value=m.Name("logger"))))
    return {id(node) for message in messages for node in _within(message)}


def _within(node: cst.CSTNode) -> list[cst.CSTNode]:
    return [node, *(inner for child in node.children for inner in _within(child))]


def tests_of(file: str, room: str) -> list[str]:
    """Test files, the most likely to notice a change of a file first."""
    everything = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("test_*.py"))
    everything = [test for test in everything if not test.startswith(SLOW)]
    place = Path(file).relative_to("gapless")
    mirror = f"tests/{place.parent.as_posix()}/test_{place.stem}"
    modules = file.removesuffix(".py").replace("/", "."), f"gapless.{room.replace('/', '.')}"

    def distance(test: str) -> int:
        text = (ROOT / test).read_text()
        return [
            test.startswith(mirror),
            modules[0] in text and test.startswith(f"tests/{room}"),
            test.startswith(f"tests/{room}"),
            modules[0] in text,
            modules[1] in text,
            True,
        ].index(True)

    return sorted((test for test in everything if distance(test) < 5), key=distance)


def start(mutant: Mutant | None, tests: list[str], copy: Path) -> int:
    """Run tests in a fork, in a copy with a change; its process."""
    if mutant:
        (copy / mutant.file).write_text(mutant.changed)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "gapless")]:
            del sys.modules[name]
        with (copy / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            code = 1
            try:
                code = int(pytest.main([*OPTIONS, *tests]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)  # what surrounds the fork is not the child's to close
    return child


def end(child: int, mutant: Mutant | None, copy: Path) -> None:
    """Leave no process behind, and the copy as it was."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if mutant:
        (copy / mutant.file).write_text(mutant.code)


def alive_after(mutants: list[Mutant], room: str, jobs: int, seconds: float) -> list[Mutant]:
    """The mutants that no test notices; what outlasts the time is noticed."""
    alive, waiting = [], list(mutants)
    running: dict[int, tuple[Mutant, Path, float]] = {}
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        task = progress.add_task(f"mutants of {room}", total=len(mutants))
        free = [_copied(Path(folder) / str(job)) for job in range(jobs)]
        while waiting or running:
            while waiting and free:
                mutant, copy = waiting.pop(0), free.pop()
                running[start(mutant, tests_of(mutant.file, room), copy)] = mutant, copy, time.monotonic()
            time.sleep(0.1)
            for child, (mutant, copy, begun) in list(running.items()):
                ended, status = os.waitpid(child, os.WNOHANG)
                if not ended and time.monotonic() - begun < seconds:
                    continue
                end(child, mutant, copy)
                if ended and status == 0:
                    alive.append(mutant)
                    progress.console.print(mutant.file, mutant.diff(), sep="\n", markup=False, highlight=False)
                elif not ended:
                    os.waitpid(child, 0)
                del running[child]
                free.append(copy)
                progress.advance(task)
    return alive


def _copied(place: Path) -> Path:
    place.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / name)
    return place


def main() -> None:
    """Draw, try, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="Folder or file of gapless, such as eval or decode/captions.")
    parser.add_argument("--number", type=int, default=100, help="Mutants that are drawn.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draw.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Mutants that are tried at a time.")
    parser.add_argument("--seconds", type=float, default=900, help="Time after which a mutant counts as noticed.")
    parser.add_argument("--output", type=Path, help="JSON file with the outcome of each room, which is added to.")
    arguments = parser.parse_args()
    os.chdir(ROOT)  # mutmut reads setup.cfg there
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts threads, which no fork inherits
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        importlib.import_module(name)
    mutants = draw(arguments.room, arguments.number, arguments.seed)
    alive = alive_after(mutants, arguments.room, arguments.jobs, arguments.seconds)
    print(f"{arguments.room}: {len(mutants) - len(alive)} of {len(mutants)} noticed, seed {arguments.seed}")
    if arguments.output:
        tree = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
        tree[arguments.room] = {
            "seed": arguments.seed,
            "drawn": len(mutants),
            "noticed": len(mutants) - len(alive),
            "alive": [{"file": mutant.file, "change": mutant.diff()} for mutant in alive],
        }
        arguments.output.write_text(json.dumps(tree, indent=2) + "\n")


if __name__ == "__main__":
    main()
