"""The worked example of `docs/adding-a-loss.md`: built as it stands there, in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "adding-a-loss.md"
LOSS, ROW, PAPER = "adaption/features/mean_discrepancy.py", "tests/cases.py", "docs/methods/mean_discrepancy.md"
DOORS = ("adaption/__init__.py", "adaption/functional.py")
FORGOTTEN = {
    DOORS[0]: "`MeanDiscrepancyLoss` is not exported. Add it to adaption/__init__.py.",
    ROW: "`MeanDiscrepancyLoss` has no row in tests/cases.py.",
    PAPER: "the method mean_discrepancy has no page. Write docs/methods/mean_discrepancy.md.",
}


def pieces() -> dict[str, str]:
    """What the page says to write, by the file that its first line names."""
    found = re.findall(
        r"^(`{3,})\w+\n(?:# |<!-- )([\w/.]+)(?: -->)?\n(.*?)^\1$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    return {path: text for _, path, text in found}


def enter(door: Path, line: str) -> None:
    """An import, and its name in `__all__`, which is sorted."""
    head, _, rest = door.read_text().partition("__all__ = [\n")
    names, _, tail = rest.partition("]")
    entries = sorted([*names.splitlines(), f'    "{line.rsplit(maxsplit=1)[-1]}",'])
    door.write_text("\n".join([head + line + "__all__ = [", *entries, f"]{tail}"]))


def tree_with(path: Path, parts: dict[str, str]) -> Path:
    """A copy of the tree with the loss in it."""
    for folder in ("adaption", "docs", "tests"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("pyproject.toml", "noxfile.py", "README.md"):
        shutil.copy(ROOT / name, path / name)
    for name, text in parts.items():
        if name in DOORS:
            enter(path / name, text)
        elif name == ROW:
            rows = path / name
            rows.write_text(rows.read_text().replace("\nCASES = [\n", f"\nCASES = [\n{text}"))
        else:
            (path / name).write_text(text)
    return path


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def test_page_costs_what_it_says() -> None:
    assert list(pieces()) == [LOSS, *DOORS, ROW, PAPER]


def test_every_law_holds_of_the_new_loss(tmp_path: Path) -> None:
    tree = tree_with(tmp_path, pieces())
    laws = [f"tests/{name}.py" for name in ("test_surface", "test_contract", "test_functions", "test_precision")]
    selected = "mean-discrepancy or mean_discrepancy or MeanDiscrepancy"
    done = run(tree, *laws, "tests/property/test_hostile.py", LOSS, "--doctest-modules", "-k", selected)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 50, done.stdout


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_what_is_forgotten_is_named(forgotten: str, tmp_path: Path) -> None:
    parts = pieces()
    del parts[forgotten]
    if forgotten == DOORS[0]:
        del parts[ROW]  # it asks for the name
    done = run(tree_with(tmp_path, parts), "tests/test_surface.py")
    assert done.returncode == 1, done.stdout[-5000:]
    assert FORGOTTEN[forgotten] in done.stdout
