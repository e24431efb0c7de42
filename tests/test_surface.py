"""The library checks its own completeness: what a new loss must not forget, each with a sentence."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from cases import CASES
from torchmetrics import Metric

import adaption
from adaption import functional, layers
from adaption._metric import AdditiveMetric

ROOT = Path(__file__).parent.parent
ROOMS = ("features", "adversarial", "hypothesis", "ensemble", "weighting")
LOSSES = [
    name
    for name in adaption.__all__
    if isinstance(value := getattr(adaption, name), type) and issubclass(value, Metric)
]
DOORS = {"adaption": adaption, "adaption.functional": functional, "adaption.layers": layers}
PUBLIC = [(door, name) for door, module in DOORS.items() for name in module.__all__]


def method_files() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / "adaption" / room).glob("[!_]*.py")]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_row_of_cases(name: str) -> None:
    built = {type(case.build()).__name__ for case in CASES}
    assert name in built, f"`{name}` has no row in tests/cases.py. Add a `Case`, and the laws run over it."


@pytest.mark.parametrize("path", method_files(), ids=lambda path: path.stem)
def test_every_method_is_at_the_doors(path: Path) -> None:
    import importlib

    module = importlib.import_module(f"adaption.{path.parent.name}.{path.stem}")
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        if inspect.isclass(value):
            assert name in adaption.__all__, f"`{name}` is not exported. Add it to adaption/__init__.py."


@pytest.mark.parametrize("path", method_files(), ids=lambda path: path.stem)
def test_every_method_has_a_page(path: Path) -> None:
    page = ROOT / "docs" / "methods" / f"{path.stem}.md"
    assert page.exists(), f"the method {path.stem} has no page. Write docs/methods/{path.stem}.md."


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_every_public_name_is_in_the_docs(door: str, name: str) -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    full = f"{door}.{name}"
    assert f":: {full}\n" in text, (
        f"`{full}` is not documented. Add an autoclass or autofunction directive to its page."
    )


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_sorted_and_complete(door: str) -> None:
    module = DOORS[door]
    assert list(module.__all__) == sorted(module.__all__), f"sort `__all__` of {door}"
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("adaption.")
    }
    assert public == {name for name in module.__all__ if name in public}, f"{door} imports a name it does not export"


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_every_docstring_is_whole(door: str, name: str) -> None:
    doc = inspect.getdoc(getattr(DOORS[door], name)) or ""
    for section in ("Args:", "Raises:", "References:", "Example:", ">>> "):
        assert section in doc, f"the docstring of `{door}.{name}` lacks the section {section!r}"
    assert "https://" in doc, f"the docstring of `{door}.{name}` names no link to its source"
    assert "Shapes:" in doc or "Inputs" in doc, f"the docstring of `{door}.{name}` does not say the shapes"


def test_every_loss_is_documented_once() -> None:
    assert all(issubclass(getattr(adaption, name), AdditiveMetric) for name in LOSSES)


def test_only_torch_and_torchmetrics_are_needed() -> None:
    sources = [path.read_text() for path in (ROOT / "adaption").rglob("*.py")]
    imported = {
        line.split()[1].split(".")[0]
        for source in sources
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }
    import sys

    assert imported - set(sys.stdlib_module_names) == {"adaption", "torch", "torchmetrics"}


def test_no_room_without_a_name() -> None:
    names = {path.stem for path in (ROOT / "adaption").rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
