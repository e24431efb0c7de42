"""Adapt from a labelled file to an unlabelled one: is there a shift, does adaptation help, which model to keep?

The files are .npz, with `X` of shape (N, columns), (N, channels, time) or (N, channels, height, width) and `y` of
integers (classes) or floats (a regression), or .csv with a header and --label COLUMN. Labels in the target's file are
used only for the final report: no choice depends on them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from own_data import report
from own_data.choosing import choose
from own_data.files import Data, UnusableError, load, standardized
from own_data.networks import maker
from own_data.shift import measured
from own_data.suite import CONTROL, SOURCE_ONLY, suite
from own_data.training import Trainer, affordable, plan, train_all


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="nox -s own --", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="labelled data, .npz or .csv")
    parser.add_argument("--target", type=Path, required=True, help="unlabelled data, .npz or .csv")
    parser.add_argument("--label", help="the label column of a .csv file")
    parser.add_argument("--standardize", choices=("source", "each"), default="source", help="whose mean and deviation")
    parser.add_argument("--network", help="FILE.py:NAME, a function (shape, outputs) that returns (extract, head)")
    parser.add_argument("--losses", nargs="+", help="losses to try (default: all that suit the data)")
    parser.add_argument("--weights", nargs="+", type=float, default=[0.1, 1.0, 10.0], help="factors of each weight")
    parser.add_argument("--seeds", type=int, default=3, help="networks for each loss and weight (default: 3)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit for training (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("out/own"), help="folder for the report and the model")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.minutes <= 0 or min(arguments.weights) <= 0:
        parser.error("--seeds, --minutes and --weights must be positive")
    return parser, arguments


def notes(arguments: argparse.Namespace, data: Data, trainer: Trainer, done: int, planned: int) -> list[str]:
    """How the result was produced."""
    whose = "the source's" if arguments.standardize == "source" else "each domain's own"
    rule = (
        "The score is the agreement with the ensemble of the candidates in the better half by information "
        "maximisation, which assumes that the classes of the target are about equally frequent. Rows without a "
        "candidate in that half are out, and so is the control."
        if data.classes
        else "The score is the negative distance from the median of all candidates. It says little if most of them "
        "make the same errors. The control is out."
    )
    return [
        f"{len(data.source)} source and {len(data.target)} target samples, taken as {data.kind}.",
        f"Every column or channel was standardised by {whose} mean and deviation.",
        f"{done} of {planned} planned runs of {trainer.steps} steps.",
        rule,
        f"model.pt is the state dict of a network of {arguments.network or 'docs/examples/own_data/networks.py'}.",
    ]


def main() -> None:
    """Read, measure, train, choose, write."""
    parser, arguments = parse()
    console = Console()
    try:
        read = load(arguments.source, arguments.target, arguments.label)
        data = standardized(read, arguments.standardize)
        fresh = maker(data, arguments.network)
    except UnusableError as error:
        parser.exit(2, f"{error}\n")
    rows = suite(data)
    if arguments.losses:
        if unknown := set(arguments.losses) - set(rows):
            parser.error(f"--losses must be of {', '.join(rows)}, but got {', '.join(sorted(unknown))}")
        rows = {row: rows[row] for row in (SOURCE_ONLY, CONTROL, *arguments.losses)}
    shift = measured(standardized(read, "source"))  # what each domain's own scale hides may still matter
    console.print(shift.sentence())
    for difference in shift.differences():
        console.print(f"  {difference}")
    runs, seconds = plan(rows, arguments.weights, arguments.seeds), 60 * arguments.minutes
    trainer = Trainer(data, fresh, rows, 1)
    started = time.perf_counter()
    trainer.steps = affordable(trainer, len(runs), seconds)
    candidates, stopped = train_all(trainer, runs, seconds - (time.perf_counter() - started), console)
    if not any(candidate.run.row == SOURCE_ONLY for candidate in candidates):
        parser.exit(1, "stopped before the first network was trained: there is nothing to write\n")
    choice = choose(candidates, data, shifted=shift.found)
    done = len({candidate.run for candidate in candidates})
    how = notes(arguments, data, trainer, done, len(runs))
    finding = report.Finding(trainer, shift, candidates, choice, ["Stopped by the user.", *how] if stopped else how)
    console.print(report.on_screen(finding))
    for sentence in report.sentences(finding):
        console.print(sentence)
    report.write(finding, arguments.out)
    console.print(f"written to {arguments.out}: report.html, model.pt, predictions.csv, results.json")


if __name__ == "__main__":
    main()
