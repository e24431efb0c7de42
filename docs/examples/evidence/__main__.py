"""The command: train every row of a task on every shift from every seed, and write its section of docs/evidence.md.

The figures of every epoch are kept in `results/`, so that the section can be written again, and gain rows, without
training the others anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

from digits import run_all
from rich.console import Console
from rich.markdown import Markdown

from evidence import authors, class_weights, data, selection
from evidence.kept import RESULTS, code, once, versions
from evidence.report import picture, section, write
from evidence.summary import summary
from evidence.task import SOURCE_ONLY, Budget, load, run

TASKS = (
    "digits",
    "objects",
    "partial",
    "open_set",
    "label_shift",
    "class_weights",
    "authors",
    "lifetime",
    "segmentation",
    "keypoints",
    "selection",
)
PAGE = Path(__file__).parents[2] / "evidence.md"
SUMMARIES = (PAGE, PAGE.with_name("choosing.md"))  # where the table over all tasks stands, too
STUDIES = {  # without rows in one table
    "selection": selection.study,
    "class_weights": class_weights.study,
    "authors": authors.study,
}
QUICK = Budget(epochs=2, steps=2)


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="nox -s evidence --", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, help="folder of the data, as docs/evidence.md describes them")
    parser.add_argument("--seeds", type=int, help="number of seeds, from 0 on; at least 2 (default: the task's own)")
    parser.add_argument("--quick", action="store_true", help="try it: two seeds, two epochs of two steps, on noise")
    parser.add_argument("--rows", nargs="+", help="train these and source only, and take the others from earlier runs")
    parser.add_argument("--rewrite", action="store_true", help="write the page from the figures of the last run")
    parser.add_argument("--out", type=Path, default=Path("out/evidence"), help="folder of --quick, and of single runs")
    arguments = parser.parse_args()
    task = load(arguments.task)
    if unknown := set(arguments.rows or ()) - set(getattr(task, "rows", ())):
        parser.error(f"--rows must be rows of {arguments.task}, but got {', '.join(sorted(unknown))}")
    arguments.seeds = task.seeds if arguments.seeds is None else arguments.seeds
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2 for an interval, but got {arguments.seeds}")
    if not (arguments.quick or arguments.rewrite):
        where = "docs/evidence.md says where these public data come from and how to bring them into this form"
        if arguments.data is None:
            files = ", ".join(f"{name}.npz" for name in task.needs)
            parser.error(f"{arguments.task} needs a folder with {files}, named by --data; {where}. --quick tries it.")
        if lacking := data.missing(arguments.data, task.needs):
            files = ", ".join(lacking)
            parser.error(f"--data must name a folder with {files}, but {arguments.data} lacks that; {where}.")
    return arguments


def measure(arguments: argparse.Namespace, rows: tuple[str, ...], console: Console) -> dict[str, Any]:
    """Train rows; return the figures of every run, and what they were measured with."""
    task, started = load(arguments.task), time.perf_counter()
    seeds = range(2 if arguments.quick else arguments.seeds)
    shifts = task.shifts[:1] if arguments.quick else task.shifts
    if arguments.quick:
        job = partial(run, budget=QUICK, folder=None)
    else:
        job = partial(once, run, kept=arguments.out / "runs", code=code(), budget=task.budget, folder=arguments.data)
    jobs = [(arguments.task, row, shift, seed) for shift in shifts for row in rows for seed in seeds]
    runs = run_all(job, jobs, console, small=arguments.quick)
    results = {
        shift: {row: [rounded(runs[arguments.task, row, shift, seed]) for seed in seeds] for row in rows}
        for shift in shifts
    }
    return {
        "seeds": list(seeds),
        "minutes": (time.perf_counter() - started) / 60,
        "cores": os.cpu_count(),
        "versions": {"Python": platform.python_version(), **versions()},
        "results": results,
    }


def rounded(figures: Any) -> Any:
    """Figures as they are kept, to six digits."""
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value) for value in figures]
    return float(f"{figures:.6g}")


def joined(before: dict[str, Any], new: dict[str, Any], rows: tuple[str, ...]) -> dict[str, Any]:
    """The figures of earlier runs with those of new rows, if the same code, data and seeds gave them.

    Source only, trained again beside the new rows, must come out to the digit.
    """
    results = {}
    for shift, runs in new["results"].items():
        kept = before["results"][shift]
        if [untimed(run) for run in kept[SOURCE_ONLY]] != [untimed(run) for run in runs[SOURCE_ONLY]]:
            msg = f"{shift}: {SOURCE_ONLY} did not come out as before: train all rows, without --rows."
            raise SystemExit(msg)
        every = {**kept, **runs}
        results[shift] = {row: every[row] for row in rows if row in every}
    return {**new, "minutes": before["minutes"] + new["minutes"], "results": results}


def untimed(run: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine's speed."""
    return {key: value for key, value in run.items() if key != "seconds"}


def main() -> None:
    """Measure, or take what was measured, and write it down."""
    arguments, console = parse(), Console()
    page = arguments.out / PAGE.name if arguments.quick else PAGE
    if arguments.task in STUDIES:
        page.parent.mkdir(parents=True, exist_ok=True)
        text = STUDIES[arguments.task](arguments, console)
        write(page, arguments.task, text)
        console.print(Markdown(text))
        return
    name, task = arguments.task, load(arguments.task)
    figures = (arguments.out if arguments.quick else RESULTS) / f"{name}.json"
    if arguments.rewrite:
        record = json.loads(figures.read_text())
    elif arguments.rows:
        rows = tuple(row for row in task.rows if row == SOURCE_ONLY or row in arguments.rows)
        record = measure(arguments, rows, console)
        if figures.is_file():
            record = joined(json.loads(figures.read_text()), record, task.rows)
    else:
        record = measure(arguments, task.rows, console)
    if not arguments.rewrite:
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(record))
    if missing := [row for row in task.rows if row not in next(iter(record["results"].values()))]:
        console.print(f"{figures} has no figures yet of {', '.join(missing)}; with them the section can be written.")
        return
    image = page.parent / "_static" / "evidence" / f"{name}.svg"
    image.parent.mkdir(parents=True, exist_ok=True)
    picture(task, record, image)
    text = section(task, record, image.relative_to(page.parent))
    write(page, name, text)
    if not arguments.quick:
        worth = summary(RESULTS)
        for place in SUMMARIES:
            write(place, "summary", worth)
    console.print(Markdown(text))
    console.print(f"written: {page}, {image}; figures of every epoch: {figures}")


if __name__ == "__main__":
    main()
