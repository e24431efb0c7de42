"""Runs that are kept in files, so that a command that was stopped goes on where it was, and what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
RESULTS = Path(__file__).with_name("results")  # the figures of every epoch, a file for each task


def once(job: Callable[..., Any], *arguments: Any, kept: Path, code: str, **settings: Any) -> Any:
    """What a job returns, from its file if the same code has made it: a command that was stopped goes on."""
    file = kept / f"{'_'.join(map(str, arguments)).replace(' ', '_')}.json"
    if file.is_file():
        record = json.loads(file.read_text())
        if record["code"] == code:
            return record["figures"]
    figures = job(*arguments, **settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    half_done = file.with_suffix(".part")  # a file under its own name is whole
    half_done.write_text(json.dumps({"code": code, "figures": figures}))
    half_done.replace(file)
    return figures


def versions() -> dict[str, str]:
    """What the runs of this environment are made with."""
    return {package: version(package) for package in ("adaption", "torch", "torchmetrics")}


def listed(versions: dict[str, str]) -> str:
    """The same in words."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def code() -> str:
    """A digest of the library and the examples, and of the torch that they ran with."""
    digest = hashlib.blake2b(version("torch").encode(), digest_size=8)
    for folder in (ROOT / "adaption", ROOT / "docs" / "examples"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
