"""The first page: what its script prints, epoch by epoch."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path

from matplotlib.figure import Figure

from pictures.style import BAD, GOOD, epochs, panels

SCRIPT = Path(__file__).parents[1] / "examples" / "start.py"


def draw() -> Figure:
    """Run the script of the page and draw its logs."""
    with contextlib.redirect_stdout(io.StringIO()):
        names = runpy.run_path(str(SCRIPT))
    figure, (left, right) = panels(2)
    for (name, log), color in zip(names["logs"].items(), (BAD, GOOD), strict=True):
        epochs(left, log["accuracy"], color, f"{name}: {log['accuracy'][-1]:.0%} in the end")
        epochs(right, log["distance"], color, name)
    left.set(title="target accuracy", ylim=(0, 1.02))
    left.legend(loc="lower right")
    right.set(title="mmd.compute()", ylim=(0, None))
    return figure
