"""Losses that align features must not move them all to one point: training where there is nothing to align."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script of the docs that trains."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("large_weights")


@functools.cache
def spread(example: Any, name: str | None, weight: float, batch: int, seed: int) -> float:
    value: float = example.train(name, weight, batch, seed).spread
    return value


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("batch", [8, 16, 32])
@pytest.mark.parametrize("weight", [1, 5, 20])
def test_mmd_leaves_the_features_their_spread(example: Any, weight: float, batch: int, seed: int) -> None:
    """Held constant in the differentiation, the bandwidth let networks shrink their features to a point."""
    assert spread(example, "MMD", weight, batch, seed) > 0.5 * spread(example, None, 0.0, batch, seed)


@pytest.mark.parametrize(("weight", "batch"), [(1, 8), (5, 32)])
def test_every_loss_leaves_the_features_their_spread(example: Any, weight: float, batch: int) -> None:
    for name in example.LOSSES:
        assert spread(example, name, weight, batch, 0) > 0.5 * spread(example, None, 0.0, batch, 0), name
