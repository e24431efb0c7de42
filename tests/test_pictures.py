"""The pictures of the docs: each on a page, with a text for those who cannot see it, and the same on every run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
MODULES = {path.stem for path in (DOCS / "pictures").glob("*.py") if "def draw()" in path.read_text()}
FIGURE = r"```\{(?:figure|image)\} (?:\.\./)?_build/pictures/(\w+)\.svg\n((?::.*\n)*)"
SHOWN = [found for page in DOCS.rglob("*.md") for found in re.findall(FIGURE, page.read_text())]


def test_every_picture_is_on_a_page() -> None:
    names = [name for name, _ in SHOWN]
    assert sorted(names) == sorted(MODULES), "a figure without a module in docs/pictures, or a module without a figure"


@pytest.mark.parametrize(("name", "options"), SHOWN, ids=[name for name, _ in SHOWN])
def test_every_picture_has_a_text(name: str, options: str) -> None:
    (text,) = re.findall(r":alt: (.*)\n", options)
    assert len(text) > 60, f"the alt text of {name} does not say what is seen"


def test_a_picture_is_the_same_file_on_every_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    pictures = importlib.import_module("pictures")
    monkeypatch.setattr(pictures, "DRAWN", tmp_path)
    first = pictures.draw("jmmd").read_bytes()
    assert pictures.draw("jmmd").read_bytes() == first
    assert pictures.is_fresh("jmmd")
    assert not pictures.is_fresh("bsp")  # never drawn here
