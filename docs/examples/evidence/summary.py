"""One table over the tasks: what each loss is worth on each, from the figures that their commands have kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evidence.report import Interval, better, difference, head, is_loss, last, line
from evidence.task import SOURCE_ONLY, Task, load

# task: what the column is called
COLUMNS = {
    "digits": "digits, accuracy %",
    "objects": "objects, accuracy %",
    "partial": "half of the classes, accuracy %",
    "open_set": "unknown classes, mean %",
    "lifetime": "turbofans, cycles nearer",
}

# row: its page under docs/methods, where the name does not give it
PAGES = {
    "sliced Wasserstein": "sliced_wasserstein",
    "DeepJDOT": "jdot",
    "AFN": "feature_norm",
    "BSP + DANN": "bsp",
    "CDAN+E": "cdan",
    "DALN": "nuclear_wasserstein",
    "self-ensembling": "consistency",
    "MMD + consistency": "consistency",
    "information maximisation": "information",
    "nuclear norm": "nuclear_norm",
    "pseudo labels": "pseudo_label",
    "VADA": "vat",
    "gentle DANN": "dann",
    "gentle PADA": "pada",
    "DANCE": "entropy_separation",
    "OVANet": "one_versus_all",
    "OVANet, weight 0": "one_versus_all",
    "DARE-GRAM": "inverse_gram",
    "RSD": "subspace",
}


def gain(task: Task, results: dict[str, Any], row: str) -> Interval:
    """How much better than source only, the mean of all shifts: positive is better whatever the score."""
    both = (np.mean([last(runs[name], task.score) for runs in results.values()], 0) for name in (row, SOURCE_ONLY))
    return difference(*(-values if task.lower_is_better else values for values in both))


def summary(folder: Path) -> str:
    """The table, in Markdown, of the tasks whose figures are in this folder."""
    gains: dict[str, dict[str, str]] = {}
    columns = {name: title for name, title in COLUMNS.items() if (folder / f"{name}.json").is_file()}
    for name in columns:
        task, results = load(name), json.loads((folder / f"{name}.json").read_text())["results"]
        for row in filter(is_loss, next(iter(results.values()))):
            found = gain(task, results, row)
            mark = "**" if better(found, lower=False) else ""
            gains.setdefault(row, {})[name] = f"{mark}{found.mean:+.1f}{mark}"
    lines = head("", *columns.values())
    for row, cells in gains.items():
        page = PAGES.get(row, row.lower().replace(" ", "_"))
        lines.append(line(f"[{row}](methods/{page}.md)", *(cells.get(name, "") for name in columns)))
    return "\n".join(lines)
