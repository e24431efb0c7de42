"""How many small faults the tests notice: `nox -s mutants -- --sample 40 --only mdd`.

The faults are those of cosmic-ray. Its own runs are not: they know one command for all modules, change the files in
place, and start Python and torch for each mutant, which takes longer than most tests of a loss. Here torch is imported
once, each mutant is a fork in a copy of the tree, and only the tests that answer for its module run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutants.mutations import Mutant, mutants_of
from mutants.suites import SUITES, arguments

ROOT = Path(__file__).parents[2]
REASONS = Path(__file__).with_name("survivors.toml")
SEED, SHARE = 7, 0.9
LIMIT = 400  # seconds, for tests that do not end


class Outcome(NamedTuple):
    """Whether tests fail, and which."""

    failed: bool
    names: list[str]


def sample(size: int, only: str) -> list[Mutant]:
    """Mutants of all modules alike, by a fixed seed; which, only changes in the modules that change."""
    chosen = []
    for name in SUITES:
        if only in name:
            found = list(mutants_of(ROOT, f"adaption/{name}"))
            random.Random(f"{SEED} {name}").shuffle(found)  # noqa: S311 - a sample, not a secret
            chosen += [(index / len(found), mutant) for index, mutant in enumerate(found)]
    chosen.sort(key=lambda pair: pair[0])  # the same share of each
    return [mutant for _, mutant in chosen[:size]]


def copy_of_the_tree(path: Path) -> Path:
    for folder in ("adaption", "tests"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__", "_build", "mutants"))
    for name in ("pyproject.toml", "noxfile.py", "README.md"):
        shutil.copy(ROOT / name, path)
    (path / "docs").symlink_to(ROOT / "docs")
    return path


def tests_fail(command: list[str], log: Path) -> bool:
    """Whether a fork that runs these tests sees one fail, or none end."""
    child = os.fork()
    if not child:
        os.setsid()
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        code = 3  # an error of pytest's own
        try:
            code = int(pytest.main(["-q", "-p", "no:cacheprovider", "--assert=plain", *command]))
        finally:
            os._exit(code)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def work(tree: Path, tasks: Sequence[list[str] | Mutant], todo: Any, done: Any) -> None:
    """Run tests in one copy of the tree until there are no more: those named, or those of a module with a fault."""
    os.chdir(tree)
    sys.path[:0] = [str(tree), str(tree / "tests")]
    os.environ["PYTHONPATH"] = f"{tree}{os.pathsep}{tree / 'tests'}"
    while (index := todo.get()) is not None:
        task, started = tasks[index], time.monotonic()
        if isinstance(task, list):
            failed = tests_fail(["--doctest-modules", *task], tree / "log")
            if failed:
                print((tree / "log").read_text(), flush=True)
        else:
            path = tree / task.module
            path.write_text(task.code)
            failed = tests_fail(["-x", *arguments(task.module)], tree / "log")
            path.write_text(task.source)
        names = re.findall(r"^FAILED (.+?)(?: - .*)?$", (tree / "log").read_text(), re.MULTILINE)
        done.put((index, Outcome(failed, names), time.monotonic() - started))


def reasons() -> dict[tuple[str, str, str], str]:
    entries = tomllib.loads(REASONS.read_text())["survivor"]
    return {(entry["module"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=150, help="how many mutants")
    parser.add_argument("--only", default="", help="modules whose path has this in it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    mutants = sample(options.sample, options.only)
    print(f"{len(mutants)} mutants of {len({mutant.module for mutant in mutants})} modules")
    preload()
    sys.dont_write_bytecode = True  # two versions of a file within a second would look alike to the cache
    with tempfile.TemporaryDirectory() as folder:
        trees = [copy_of_the_tree(Path(folder) / str(index)) for index in range(options.workers)]
        tried = run(trees, mutants)
        survivors = [mutant for mutant, outcome in zip(mutants, tried, strict=True) if not outcome.failed]
        noticing = sorted({name for outcome in tried for name in outcome.names})
        sound = run(trees, [noticing[first : first + 10] for first in range(0, len(noticing), 10)])
    if any(outcome.failed for outcome in sound):
        print("The tests that notice a mutant must pass without it, but see above.")
        return 2
    return report(mutants, survivors)


def run(trees: list[Path], tasks: Sequence[list[str] | Mutant]) -> list[Outcome]:
    """What comes of each task, over as many processes as there are trees."""
    fork = multiprocessing.get_context("fork")
    todo, done = fork.Queue(), fork.Queue()
    for item in [*range(len(tasks)), *[None] * len(trees)]:
        todo.put(item)
    workers = [fork.Process(target=work, args=(tree, tasks, todo, done)) for tree in trees]
    for worker in workers:
        worker.start()
    found = {}
    for number in range(1, len(tasks) + 1):
        index, outcome, seconds = done.get()
        found[index] = outcome
        task = tasks[index]
        what = f"{len(task)} tests without a mutant" if isinstance(task, list) else str(task)
        print(f"{number}: {'failed' if outcome.failed else 'passed'} in {seconds:.0f} s, {what}", flush=True)
    for worker in workers:
        worker.join()
    return [found[index] for index in range(len(tasks))]


def preload() -> None:
    """Import once what every run needs, but nothing of the library."""
    import hypothesis  # noqa: F401
    import lightning  # noqa: F401
    import torch
    import torch._dynamo
    import torch._subclasses.fake_tensor
    import torchmetrics  # noqa: F401

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] == "adaption" for name in sys.modules)


def report(mutants: list[Mutant], survivors: list[Mutant]) -> int:
    """Name the survivors and why they may live, and say whether enough were noticed."""
    known = reasons()
    print("\nSurvivors:")
    for mutant in survivors:
        print(mutant)
        print("   ", known.get((mutant.module, mutant.before, mutant.after), "NO REASON YET: write a test, or say why"))
    share = 1 - len(survivors) / len(mutants)
    print(f"\n{len(mutants) - len(survivors)} of {len(mutants)} mutants noticed: {share:.1%}")
    return 0 if share >= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
