"""Speed and memory, side by side in one run: ``nox -s bench``, or ``nox -s bench -- --quick``.

Every measurement has a separate process. Tables and picture are written to the documentation, with the machine and
the versions; no number in them is typed by hand.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import math
import multiprocessing
import os
import platform
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from benchmarks.contestants import CLASSES, CONTESTANTS, HIDDEN
from benchmarks.launches import launches
from benchmarks.measure import ADDRESS_SPACE, GIGABYTE, PROMISES, answer
from matplotlib.figure import Figure
from pictures.style import STYLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "benchmarks.md"
PICTURE = DOCS / "_static" / "benchmarks.svg"
WHY_MISSED = """\
Why some are missed: for small batches of logits the plain formula takes 50 to 130 us, and the checks of the arguments,
the cast to float32 and the separate sum and count for the epoch value add 10 to 50. Mutual information also checks that
both arguments are probabilities. MDD checks four arguments, and computes both logarithms from exact log-odds. VAT runs
the network without side effects, and checks what it returns. MMD at n = m = 64 and JMMD at n = m = 32 consist of many
short operations; how these compare with long ones depends on the processor. With `full_state_update=False`
torchmetrics, too, computes the loss only once; `metric(..)` cannot take less than the loss, and the loss alone is more
than half of that. JDOT finds an entropic plan by Sinkhorn's iteration; POT's exact plan, by a network simplex, is
faster up to n = m = 128 and slower beyond. The limits of RSD and HoMM are above 1.1 because both compute in float64.

The cells of the tables below are measured one after another, and some differ by 10 to 20 % from run to run. Where a
peer stays faster by more than 10 % when both are measured in turn: geomloss takes seven or eight annealed steps of
Sinkhorn's iteration in float32; ours goes on in float64 until the potentials have converged. POT finds the plan of JDOT
as said above. pytorch-adapt's sliced Wasserstein distance draws its directions from torch's generator, which is up to
0.2 ms faster. TLLib's MDD takes the logarithm of one minus a probability, in fewer passes; it loses its digits where
the probability is near 1. pytorch-adapt's entropy and TLLib's DANN check nothing and keep no sums for the epoch;
rul-adapt's DANN checks nothing, and takes one cross entropy over both domains together. Small batches notice that."""
PROMISED = "## What was promised"
ABOUT_PROMISES = (
    "Each column is the latest run on one processor, with the code of its time. What is above its limit is in bold."
)
SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
WIDTHS = [64, 256, 1024, 4096]
WIDTH, SIZE = 256, 128  # where the other one is varied
LAUNCHED = (64, 256)
LAUNCHES = "Launches of a step on an accelerator, n = m = 64, d = 256"
ABOUT_LAUNCHES = (
    "A small batch on an accelerator takes as long as its kernels take to launch. They were counted on the CPU, on the "
    "way that accelerators take: forward and backward, without views and allocations. No value is read on the host. "
    "It was not run on a GPU.\n\n"
    "Each operation of torch counts as one launch, however many kernels it needs. So the decompositions in the plain "
    "formulas of BSP, nuclear norm, DALN, RSD and DARE-GRAM count as one each, and on CUDA the host waits for each of "
    "them. Ours takes more and smaller steps, and the host never waits. Every other loss takes at most a quarter more "
    "launches than its formula."
)
COLUMNS = 4  # of the picture
LONG = 2.0  # a contestant that takes longer than this is not asked for larger batches
PACKAGES = ("torch", "torchmetrics", "dalib", "pytorch-adapt", "rul-adapt", "skada", "geomloss")

BAR = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.measure"])

Column = dict[str, str]  # of the table of promises: from the name of one to the figure
Key = tuple[str, str, int, int]
Results = dict[Key, dict[str, Any]]


def ask(**request: Any) -> dict[str, Any]:
    """The answer of a separate process, forked from one that has loaded the libraries and computed nothing."""
    receiver, sender = FORKS.Pipe(duplex=False)
    child = FORKS.Process(target=answer, args=(sender, request))
    child.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        found = {"failure": "killed"}
    child.join()
    return found


def machine() -> list[str]:
    """What the numbers depend on."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if _installed(name)]
    return [
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions)}",
    ]


def processor() -> str:
    """Its model, as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _installed(name: str) -> bool:
    return any(distribution.name == name for distribution in importlib.metadata.distributions())


def measured(word: str, console: Console) -> dict[str, float]:
    """The figures of the promises whose name has this word in it; the bar counts them."""
    names, found = [name for name in PROMISES if word in name], {}
    with Progress(*BAR, console=console) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name[:48])
            found[name] = ask(name=name).get("value", math.nan)
            progress.advance(task)
    return found


def collect(sizes: list[int], widths: list[int], seconds: float, console: Console) -> Results:
    """Time and memory of every contestant; the bar counts them."""
    results: Results = {}
    grid = sorted({*((n, WIDTH) for n in sizes), *((SIZE, d) for d in widths)}, key=math.prod)
    with Progress(*BAR, console=console) as progress:
        task = progress.add_task("", total=len(CONTESTANTS) * len(grid))
        for loss, library in CONTESTANTS:
            stopped: list[tuple[int, int]] = []
            for n, d in grid:
                progress.update(task, description=f"{loss}, {library}, n = {n}, d = {d}")
                if any(n >= n0 and d >= d0 for n0, d0 in stopped):
                    found: dict[str, Any] = {"failure": ""}
                else:
                    found = ask(loss=loss, library=library, n=n, d=d, seconds=seconds)
                if found.get("seconds", math.inf) > LONG:
                    stopped.append((n, d))
                results[loss, library, n, d] = found
                progress.advance(task)
    return results


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.0f} us"


def cell(result: dict[str, Any], field: str) -> str:
    """A number of the tables, or why there is none."""
    if "failure" in result:
        return result["failure"] or "-"
    return duration(result["seconds"]) if field == "seconds" else f"{result['memory'] / 1e6:.0f} MB"


def growth(results: Results, loss: str, library: str, sizes: list[int]) -> str:
    """The power of n by which the time grows at the largest two sizes."""
    known = [(n, r["seconds"]) for n in sizes if "seconds" in (r := results[loss, library, n, WIDTH])]
    if len(known) < 2:
        return "-"
    (n0, t0), (n1, t1) = known[-2:]
    return f"n^{math.log(t1 / t0) / math.log(n1 / n0):.1f}"


def tables(results: Results, sizes: list[int], widths: list[int]) -> list[tuple[str, list[list[str]]]]:
    """Titles and rows, the first row being the head."""
    found = []
    for loss in dict.fromkeys(loss for loss, _ in CONTESTANTS):
        libraries = [library for each, library in CONTESTANTS if each == loss]
        for field, what in (("seconds", "time of a step"), ("memory", "peak memory above inputs and gradients")):
            rows = [["", *(f"n = m = {n:,}" for n in sizes), *(["growth"] if field == "seconds" else [])]]
            for library in libraries:
                cells = [cell(results[loss, library, n, WIDTH], field) for n in sizes]
                rows.append([library, *cells, *([growth(results, loss, library, sizes)] if field == "seconds" else [])])
            found.append((f"{loss}: {what}, d = {WIDTH}", rows))
        rows = [["", *(f"d = {d:,}" for d in widths)]]
        rows += [
            [library, *(cell(results[loss, library, SIZE, d], "seconds") for d in widths)] for library in libraries
        ]
        found.append((f"{loss}: time of a step, n = m = {SIZE}", rows))
    return found


def launch_rows() -> list[list[str]]:
    """The launches of a step on an accelerator, beside those of the plain formula."""
    rows = [["", "adaption", "plain autograd", "ratio"]]
    for loss, library in CONTESTANTS:
        if library == "plain autograd":
            torch.manual_seed(0)  # how many steps an iteration takes depends on the batch
            ours, plain = (launches(CONTESTANTS[loss, name](*LAUNCHED)) for name in ("adaption", library))
            rows.append([loss, str(ours), str(plain), f"{ours / plain:.2f}"])
    return rows


def kept(promises: dict[str, float]) -> Column:
    """How the table shows what was measured."""
    column = {}
    for name, value in promises.items():
        limit, unit, _ = PROMISES[name]
        shown = f"{value:.0f}{unit}" if unit else f"{value:.2f}"
        column[name] = shown if value <= limit else f"**{shown}**"
    return column


def promise_rows(columns: dict[str, Column]) -> list[list[str]]:
    """What was promised beside what was measured on each processor."""
    rows = [["", "at most", *columns]]
    for name, (limit, unit, _) in PROMISES.items():
        if any(name in column for column in columns.values()):
            rows.append([name, f"{limit:g}{unit}", *(column.get(name, "") for column in columns.values())])
    return rows


def promise_table(page: str) -> str:
    """That table as it stands in a page."""
    lines = page.partition(PROMISED)[2].partition("\n## ")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def promise_columns(page: str) -> dict[str, Column]:
    """The columns of that table in a page."""
    lines = promise_table(page).splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: {row[0]: row[index] for row in rows} for index, name in enumerate(head) if index > 1}


def markdown(rows: list[list[str]]) -> str:
    """A table of the documentation."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body])


def draw(results: Results, sizes: list[int]) -> None:
    """Time over n, both axes logarithmic, axes for each loss."""
    losses = list(dict.fromkeys(loss for loss, _ in CONTESTANTS))
    names = list(dict.fromkeys(library for _, library in CONTESTANTS))
    rows = math.ceil(len(losses) / COLUMNS)
    style: Any = {**STYLE, "lines.linewidth": 1.2}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8.2, 0.6 + 1.7 * rows))
        axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for loss, axis in itertools.zip_longest(losses, axes.flat):
            if loss is None:
                axis.set_axis_off()
                continue
            for library in (library for each, library in CONTESTANTS if each == loss):
                known = [(n, r["seconds"]) for n in sizes if "seconds" in (r := results[loss, library, n, WIDTH])]
                ours = {"linewidth": 3.0, "zorder": 3} if library == "adaption" else {}
                line = {"marker": "o", "markersize": 2.5, "color": f"C{names.index(library)}", "label": library, **ours}
                axis.plot([n for n, _ in known], [seconds for _, seconds in known], **line)
            axis.set(xscale="log", yscale="log", title=loss)
            axis.grid(alpha=0.2)
        figure.supxlabel("n = m")
        figure.supylabel("seconds a step")
        lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4)
        PICTURE.parent.mkdir(exist_ok=True)
        figure.savefig(PICTURE, metadata={"Date": None})


def write(results: Results, columns: dict[str, Column], sizes: list[int], widths: list[int]) -> None:
    """The page of the documentation."""
    shims = dict.fromkeys(shim for result in results.values() for shim in result.get("shims", []))
    about = (
        "Written by `nox -s bench`: medians of a step, forward and backward, on float32 features, every measurement in "
        "a separate process. Peers are measured as they come from PyPI, with the settings nearest to ours. *Floor* "
        "is one matrix product, one exponential and one matrix product of the full size, with nothing else; *plain "
        "autograd* is the formula as one writes it down, for MMD, LMMD, CDD and JMMD over `torch.cdist`. The "
        f"discriminators of DANN and CDAN and the critic of WDGRL have two hidden layers of {HIDDEN}, and the "
        f"predictions of CDAN {CLASSES} classes; MDD, MCC, DANCE, OVANet, entropy, information maximisation, nuclear "
        "norm and DALN look at logits, and d is the number of classes. A dash: not tried, because a smaller batch "
        f"failed or took longer than {LONG:g} s. `> {ADDRESS_SPACE // GIGABYTE} GB`: it needed more memory."
    )
    picture = (
        "```{image} _static/benchmarks.svg\n:alt: Time of a step of all libraries over the batch size\n"
        ":target: _static/benchmarks.svg\n```"
    )
    parts = [
        "# Benchmarks",
        about,
        "\n".join(f"- {line}" for line in machine()),
        picture,
        f"{PROMISED}\n\n{ABOUT_PROMISES}\n\n" + markdown(promise_rows(columns)),
        WHY_MISSED,
        f"## {LAUNCHES}\n\n{ABOUT_LAUNCHES}\n\n" + markdown(launch_rows()),
        *(f"## {title}\n\n{markdown(rows)}" for title, rows in tables(results, sizes, widths)),
        "## Shims\n\n" + "\n".join(f"- {shim}" for shim in shims),
    ]
    PAGE.write_text("\n\n".join(parts) + "\n")


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, shorter measurements, nothing written")
    parser.add_argument("--promises", metavar="WORD", help="measure and write only the promises with this word")
    options, console = parser.parse_args(), Console()
    sizes, widths, seconds = ([32, 128, 512], [64, 256], 0.1) if options.quick else (SIZES, WIDTHS, 0.25)
    found, page = kept(measured(options.promises or "", console)), PAGE.read_text()
    columns = promise_columns(page)
    shown = [(PROMISED.strip("# "), promise_rows({processor(): found}))]
    if options.promises is None:
        results = collect(sizes, widths, seconds, console)
        shown += [(LAUNCHES, launch_rows()), *tables(results, sizes, widths)]
    for title, rows in shown:
        table = Table(*rows[0], title=title)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    if options.quick:
        return
    if options.promises is None:
        draw(results, sizes)
        write(results, {**columns, processor(): found}, sizes, widths)
    else:
        columns[processor()] = {**columns.get(processor(), {}), **found}
        PAGE.write_text(page.replace(promise_table(page), markdown(promise_rows(columns))))
    console.print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
