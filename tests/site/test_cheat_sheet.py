"""Every line of the cheat sheet runs, with a gradient for what is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import adaption
from adaption import layers

PAGE = Path(__file__).parents[2] / "docs" / "cheat-sheet.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[(.+?)\].*? \| (.+?) \| `(.+?)` \| `(.+?)` \|$", TEXT, re.MULTILINE)


def test_rows_are_found() -> None:
    assert len(ROWS) == TEXT.count("\n| [")


@pytest.mark.parametrize(("name", "weight", "once", "step"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_runs(name: str, weight: str, once: str, step: str) -> None:
    torch.manual_seed(0)
    seen = {
        f"{domain}{part}": torch.randn(size, width, requires_grad=True)
        for domain, size in (("source", 32), ("target", 24))
        for part, width in (("", 64), ("_logits", 10), ("_logits_adv", 10))
    }
    names = {**vars(adaption), **vars(layers), **seen, "labels": torch.arange(32) % 10, "steps": 100}
    names["teacher_logits"] = torch.randn(24, 10)
    exec(once, names)  # noqa: S102 - a line of our own page
    value = eval(step, names)  # noqa: S307
    value.backward()
    moved = [one for one in seen.values() if one.grad is not None]
    assert moved, name
    assert all(one.grad is not None and one.grad.isfinite().all() for one in moved)
    assert float(weight.rsplit(" to ", maxsplit=1)[-1])
