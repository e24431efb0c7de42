"""Errors for names that `adaption` does not have: acronyms lead to their classes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import NoReturn


def acronyms(table: str) -> dict[str, str]:
    """The classes of a table of acronym, class and sentence, by their acronyms; the first of several."""
    rows = [re.split(" {2,}", line.strip(), maxsplit=2) for line in table.splitlines()]
    found: dict[str, str] = {}
    for acronym, name, _ in (row for row in rows if len(row) == 3):
        found.setdefault(_plain(acronym), name)
    return found


def unknown(module: str, table: str, public: list[str]) -> Callable[[str], NoReturn]:
    """The ``__getattr__`` of a module, whose error names the likely fix."""

    def attribute(name: str) -> NoReturn:
        likely = [acronyms(table).get(_plain(name)), *difflib.get_close_matches(name, public, 1)]
        repair = next((f" Did you mean `{one}`?" for one in likely if one), "")
        msg = f"module {module!r} has no attribute {name!r}.{repair}"
        raise AttributeError(msg)

    return attribute


def _plain(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())
