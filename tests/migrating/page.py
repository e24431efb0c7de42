"""What changes for those who come from a peer: ``nox -s migrating`` runs both sides and fills the page.

Each row has the peer's call and ours on the same seeded inputs. The tables of `docs/migrating.md` stand between markers
and are written anew; the text around them is not touched. ``--check`` compares the values instead of writing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from migrating import agreement, others, tllib
from migrating.ports import CASES, PAGE, trained
from migrating.rows import Row, shown

PACKAGES = ("torch", "torchmetrics", "numpy", "dalib", "rul-adapt", "pytorch-adapt", "skada")
LIBRARIES: dict[str, Callable[[], list[Row]]] = {
    "TLLib": tllib.tllib_rows,
    "dalib": tllib.dalib_rows,
    "rul-adapt": others.rul_adapt_rows,
    "pytorch-adapt": others.pytorch_adapt_rows,
    "skada": others.skada_rows,
}


def answer(take: Callable[[], Any]) -> str:
    """What a call gives, or the error that it raises."""
    torch.manual_seed(0)
    try:
        return shown(take())
    except Exception as error:  # noqa: BLE001 - the error is the finding
        return f"`{type(error).__name__}`"


def table(rows: list[Row]) -> str:
    """A table of the page."""
    lines = ["| case | theirs | ours | |", "|---|---:|---:|---|"]
    lines += [f"| {row.case} | {answer(row.theirs)} | {answer(row.ours)} | {row.why} |" for row in rows]
    return "\n".join(lines)


def table_of_training() -> str:
    """Target accuracy with each port and with the formula that it replaces."""
    lines = ["| port | source only | theirs | ours | |", "|---|---:|---:|---:|---|"]
    for name, case in CASES.items():
        outcome = trained(name)
        cells = [
            f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
            for values in (outcome.source_only, outcome.original, outcome.port)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {'same' if case.exact else ''} |")
    return "\n".join(lines)


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between the marker of this name and the next end."""
    marker, end = f"<!-- {name} -->\n", "<!-- end -->"
    if page.count(marker) != 1:
        msg = f"docs/migrating.md must have one place for what was measured: `{marker.strip()}`."
        raise ValueError(msg)
    before, after = page.split(marker)
    return f"{before}{marker}\n{text}\n\n{end}{after.split(end, 1)[1]}"


def main() -> None:
    """Fill the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="train and write nothing, fail if a value would change")
    parser.add_argument("--tllib", type=Path, help="a checkout of TLLib 0.4; without it, its table stays as it is")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = list(LIBRARIES)
    if arguments.tllib is None:
        names.remove("TLLib")
    else:
        tllib.find(arguments.tllib)
    agreement.check(names)
    before = PAGE.read_text(encoding="utf-8")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    after = replaced(before, "versions", f"- {versions}")
    for name in names:
        after = replaced(after, f"measured: {name}", table(LIBRARIES[name]()))
    if arguments.check:
        sys.exit("docs/migrating.md is not what was measured: run `nox -s migrating`." if after != before else 0)
    PAGE.write_text(replaced(after, "trained", table_of_training()), encoding="utf-8")


if __name__ == "__main__":
    main()
