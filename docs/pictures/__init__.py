"""Draw the pictures of the pages while the docs are built: one module per picture, real output of the library.

Each module has a function `draw` that returns a figure. A picture is drawn anew when its module, the style or the
library has changed since. ``python docs/pictures mmd dann`` draws the named ones, without a name all.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DRAWN = HERE.parent / "_build" / "pictures"
SHARED = {"__init__", "__main__", "style", "toys"}
NAMES = sorted({path.stem for path in HERE.glob("*.py")} - SHARED)


def is_fresh(name: str) -> bool:
    """Whether the picture is younger than all that it is made from."""
    library = HERE.parents[1] / "adaption"
    sources = [HERE / f"{name}.py", *(HERE / f"{part}.py" for part in SHARED), *library.rglob("*.py")]
    sources += HERE.parent.glob(f"{name}.md")
    picture = DRAWN / f"{name}.svg"
    return picture.exists() and picture.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def draw(name: str) -> Path:
    """Draw one picture: the same file on every run."""
    import matplotlib as mpl  # noqa: PLC0415 - asked for only where something is drawn
    import torch  # noqa: PLC0415

    from pictures.style import STYLE  # noqa: PLC0415

    threads, seed = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)  # sums in the same order on every machine
    torch.manual_seed(0)
    try:
        with mpl.rc_context(STYLE):
            figure = importlib.import_module(f"pictures.{name}").draw()
            DRAWN.mkdir(parents=True, exist_ok=True)
            figure.savefig(DRAWN / f"{name}.svg", metadata={"Date": None})
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(seed)
    return DRAWN / f"{name}.svg"


def draw_stale(_app: Any) -> None:
    """Draw what has changed."""
    for name in NAMES:
        if not is_fresh(name):
            draw(name)


def setup(app: Any) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("builder-inited", draw_stale)
    return {"parallel_read_safe": True}
