"""What users get with the package: what an import brings along, types, one version, and a page for those who move."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import adaption
from adaption import functional, layers

ROOT = Path(__file__).parent.parent
PROJECT = Path(__file__).parent / "typing_project"
FILES = ("training", "module", "functions")
PAGE = (ROOT / "docs" / "migrating.md").read_text()
DOORS = {"adaption": adaption, "functional": functional, "layers": layers}
NAMED = sorted(set(re.findall(r"`(adaption|functional|layers)\.(\w+)", PAGE)))


def test_an_import_brings_no_module_that_torchmetrics_has_not_brought() -> None:
    script = (
        "import sys, torchmetrics; before = set(sys.modules); import adaption, adaption.functional, adaption.layers; "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    brought = {name.split(".")[0] for name in done.stdout.split()}
    assert brought - set(sys.stdlib_module_names) == {"adaption"}


def test_users_project_runs() -> None:
    """`nox -s types` checks its types; what they claim is true."""
    training, module, functions = (runpy.run_path(str(PROJECT / f"{name}.py")) for name in FILES)
    (distance,) = training["train"](epochs=1)
    assert 0 < distance < 2
    source, target, logits = torch.randn(6, 8), torch.randn(6, 8) + 1, torch.randn(6, 3)
    values = [*training["losses"](source, target, logits), functions["adversarial"](source, target, logits)]
    values += functions["distances"](source, target).values()
    assert all(isinstance(value, torch.Tensor) and value.ndim == 0 for value in values)
    assert functions["maps"](source, logits.softmax(1)).shape == (6, 3 * 8 + 4)
    assert functions["whole_loader"]([(source, target)], torch.nn.Linear(8, 3)).shape == (6, 3)
    model: Any = module["Model"](width=8, num_classes=3)
    loss, head = model(torch.randn(6, 4), torch.randn(5, 4))
    assert (loss.ndim, head.shape) == (0, (6, 3))
    assert set(model.epoch()) == {"dann", "consistency"}
    assert module["log"](model) == ["DomainAdversarialLoss", "L2ConsistencyLoss", "dann"]


def test_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "adaption/__init__.py"
    for name in ("CITATION.cff", "pyproject.toml", "noxfile.py", "docs/conf.py"):
        assert f'"{adaption.__version__}"' not in (ROOT / name).read_text(), f"{name} repeats the version"
        assert f"version: {adaption.__version__}" not in (ROOT / name).read_text(), f"{name} repeats the version"


@pytest.mark.parametrize(("door", "name"), NAMED, ids=lambda value: value)
def test_what_the_migration_page_names_exists(door: str, name: str) -> None:
    assert name in DOORS[door].__all__


def test_each_peer_has_a_measured_table_in_which_our_values_are_finite() -> None:
    tables = re.findall(r"<!-- measured: ([\w-]+) -->\n\n(.*?)\n\n<!-- end -->", PAGE, re.DOTALL)
    assert [library for library, _ in tables] == ["TLLib", "dalib", "rul-adapt", "pytorch-adapt", "skada"]
    for library, table in tables:
        rows = table.splitlines()[2:]
        assert len(rows) > 2, f"`nox -s migrating` has not filled the table of {library}"
        ours = [row.split("|")[3].strip() for row in rows if not row.endswith("ours says so |")]  # an error by design
        assert not [value for value in ours if "Error" in value or value == "NaN"]
