"""What a task's figures say: intervals of paired differences, tables, pictures, and the section of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from pictures.style import GREY, STYLE
from scipy import stats

from evidence.kept import listed
from evidence.task import CONTROL, OFF, SOURCE_ONLY, Task

GLUE = "\N{NO-BREAK SPACE}"  # between what one cell of a table must not part
Runs = dict[str, list[dict[str, Any]]]  # row -> histories, one for each seed


class Interval(NamedTuple):
    """A mean of paired differences, and where it lies with 95 % confidence by Student's t over the seeds."""

    mean: float
    low: float
    high: float


def difference(ours: NDArray, theirs: NDArray) -> Interval:
    """The interval of the mean of `ours - theirs`, seed by seed."""
    delta = ours - theirs
    half = stats.t.ppf(0.975, len(delta) - 1) * stats.sem(delta)
    return Interval(delta.mean(), delta.mean() - half, delta.mean() + half)


def better(interval: Interval, *, lower: bool) -> bool:
    """Whether the whole interval is on the good side of 0."""
    return interval.high < 0 if lower else interval.low > 0


def curves(runs: list[dict[str, Any]], figure: str | None = None) -> NDArray:
    """A figure, or the distance, of shape (seeds, epochs)."""
    if figure is None:
        return np.array([run["distance"] for run in runs])
    return np.array([[epoch[figure] for epoch in run["figures"]] for run in runs])


def last(runs: list[dict[str, Any]], figure: str | None = None) -> NDArray:
    """A figure, or the distance, of the last epoch: one value for each seed."""
    return curves(runs, figure)[:, -1]


def agreement(task: Task, runs: list[dict[str, Any]]) -> float:
    """Spearman's rank correlation of closeness and quality over the epochs, mean over seeds: 1 if both only grow."""
    sign = 1 if task.lower_is_better else -1
    with np.errstate(invalid="ignore"):
        pairs = zip(curves(runs), curves(runs, task.score), strict=True)
        values = [
            sign * np.corrcoef(stats.rankdata(distance), stats.rankdata(score))[0, 1] for distance, score in pairs
        ]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def tables(task: Task, record: dict[str, Any]) -> Iterator[tuple[str, Runs]]:
    """What each table shows: the runs of a shift, or the means over all shifts, seed by seed."""
    results: dict[str, Runs] = record["results"]
    if not task.together:
        yield from results.items()
        return
    names = list(results[task.shifts[0]][SOURCE_ONLY][0]["figures"][0])
    means: Runs = {row: [] for row in task.rows}
    for row in task.rows:
        shifts = [results[shift][row] for shift in results]
        distance = np.mean([curves(runs) for runs in shifts], 0)
        figures = {name: np.mean([curves(runs, name) for runs in shifts], 0) for name in names}
        for seed, apart in enumerate(distance):
            epochs = [{name: figures[name][seed, epoch] for name in names} for epoch in range(len(apart))]
            means[row].append({"distance": apart.tolist(), "figures": epochs})
    yield f"Mean of {len(results)} shifts", means


def is_loss(row: str) -> bool:
    """Whether a row is none of those to be beaten."""
    return not (row.startswith((SOURCE_ONLY, CONTROL, "trained on")) or row.endswith(OFF))


# ---- the section ------------------------------------------------------------------------------------------------


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    """The two lines above a table's body; all columns but the first are of numbers."""
    return [line(*cells), line("---", *["---:"] * (len(cells) - 1))]


def spread(values: NDArray) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.1f}{GLUE}±{GLUE}{values.std(ddof=1):.1f}"


def gain(interval: Interval, *, lower: bool) -> str:
    """A mean of differences and its interval, bold where it is certain."""
    mark = "**" if better(interval, lower=lower) else ""
    return f"{mark}{interval.mean:+.1f}{mark} ({interval.low:+.1f}{GLUE}to{GLUE}{interval.high:+.1f})"


def table(task: Task, shift: str, runs: Runs) -> list[str]:
    """A line for each row: means and deviations over seeds, differences, distances."""
    figures = list(runs[SOURCE_ONLY][0]["figures"][0])
    others = [figure for figure in figures if figure != task.score]
    published = [paper for paper, shifts in task.published.items() if shift in shifts]
    against = [*task.against, *([OFF] if any(row + OFF in runs for row in runs) else [])]
    minus = [f"minus {'itself' + OFF if row == OFF else row}, 95 % interval" for row in against]
    lines = head("", task.score, *minus, *others, "distance, first and last epoch", "agreement", *published)
    for row, histories in runs.items():
        score = last(histories, task.score)
        cells = [spread(score)]
        for name in against:
            reference = row + OFF if name == OFF else name
            if row == reference or reference not in runs:
                cells.append("")
                continue
            cells.append(gain(difference(score, last(runs[reference], task.score)), lower=task.lower_is_better))
        cells += [f"{last(histories, figure).mean():.1f}" for figure in others]
        first, final = curves(histories).mean(0)[[0, -1]]
        rank = agreement(task, histories)
        cells += [f"{first:.3f},{GLUE}{final:.3f}", f"{rank:+.2f}" if np.isfinite(rank) else ""]
        cells += [
            f"{task.published[paper][shift][row]:.1f}" if row in task.published[paper][shift] else ""
            for paper in published
        ]
        lines.append(line(row, *cells))
    return lines


def each_shift(task: Task, results: dict[str, Runs]) -> list[str]:
    """A line for each row, a column for each shift: means over seeds."""
    lines = head("", *results)
    for row in task.rows:
        lines.append(line(row, *(f"{last(results[shift][row], task.score).mean():.1f}" for shift in results)))
    return lines


def reading(task: Task, runs: Runs) -> str:
    """Where the domains ended closer than without a loss, and where the score was better: one, both or neither."""
    kinds: dict[tuple[bool, bool], list[str]] = {
        (True, True): [],
        (True, False): [],
        (False, True): [],
        (False, False): [],
    }
    base = runs[SOURCE_ONLY]
    for row, histories in runs.items():
        if is_loss(row):
            closer = last(histories).mean() < last(base).mean()
            interval = difference(last(histories, task.score), last(base, task.score))
            kinds[bool(closer), better(interval, lower=task.lower_is_better)].append(row)
    words = {
        (True, True): "closer and better",
        (True, False): "closer, yet not better",
        (False, True): "better, yet not closer",
        (False, False): "neither closer nor better",
    }
    found = "; ".join(f"{words[kind]}: {', '.join(rows)}" for kind, rows in kinds.items() if rows)
    return f"Beside source only, at the last epoch: {found}."


def section(task: Task, record: dict[str, Any], image: Path) -> str:
    """The task's section of the page, in Markdown."""
    parts = [f"## {task.title}", task.about.strip()]
    shown = list(tables(task, record))
    for shift, runs in shown:
        if len(shown) > 1 or task.together:
            parts.append(f"### {shift}")
        parts += ["\n".join(table(task, shift, runs)), reading(task, runs)]
    if task.together:
        parts += [f"{task.score} on each shift:", "\n".join(each_shift(task, record["results"]))]
    options = f":alt: {task.title}: differences, scores and distances\n:target: {image.as_posix()}"
    parts.append(f"```{{image}} {image.as_posix()}\n{options}\n```")
    seeds, epochs = record["seeds"], len(next(iter(shown[0][1].values()))[0]["distance"])
    parts.append(
        f"Seeds {seeds[0]} to {seeds[-1]}, {epochs} epochs, {record['minutes']:.0f} minutes on {record['cores']} "
        f"cores; {listed(record['versions'])}."
    )
    return "\n\n".join(parts)


def write(page: Path, name: str, text: str) -> None:
    """Put a section between its marks on the page; a page that lacks them gets them at its end."""
    begin, end = f"<!-- {name}: written by the command -->", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    if begin not in before:
        before += f"{begin}\n{end}\n"
    marked = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page.write_text(marked.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", before), encoding="utf-8")


# ---- the picture ------------------------------------------------------------------------------------------------


def picture(task: Task, record: dict[str, Any], path: Path) -> None:
    """For each table: differences with their intervals, and below them scores by epoch, and score over distance."""
    shown = list(tables(task, record))
    heights = [height for _, runs in shown for height in (1 + 0.21 * len(runs), 3.2)]
    colors = mpl.colormaps["tab20"].colors
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, sum(heights)))
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        for index, (shift, runs) in enumerate(shown):
            forest = figure.add_subplot(grid[2 * index, :])
            epochs, plane = (figure.add_subplot(grid[2 * index + 1, column]) for column in range(2))
            base = last(runs[SOURCE_ONLY], task.score)
            for place, (row, histories) in enumerate(runs.items()):
                color = colors[place % len(colors)]
                interval = difference(last(histories, task.score), base)
                forest.plot([interval.low, interval.high], [place, place], color=color, linewidth=3)
                forest.plot(interval.mean, place, "o", color=color)
                score, distance = curves(histories, task.score).mean(0), curves(histories).mean(0)
                style = "--" if row == CONTROL else "-"
                epochs.plot(range(1, len(score) + 1), score, style, color=color, linewidth=1.2)
                plane.plot(distance, score, style, color=color, linewidth=0.8)
                plane.plot(distance[-1], score[-1], "o", color=color, markersize=4)
            forest.axvline(0, color=GREY, linewidth=0.8)
            forest.set(title=f"{shift}: {task.score} minus source only, 95 % interval")
            forest.set_yticks(range(len(runs)), list(runs))
            forest.invert_yaxis()
            epochs.set(title="mean over seeds", xlabel="epoch", ylabel=task.score)
            plane.set_xscale("log")
            plane.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
            plane.set(title="over the distance; a dot is the last epoch", xlabel="MMD of the features")
        figure.savefig(path, metadata={"Date": None})
