"""Every cell keeps its law, and the documentation shows the table as it is."""

from __future__ import annotations

import pytest
from cases import EVERY_METRIC, Case
from edges.matrix import EDGES, Edge, cell
from edges.page import PAGE, page


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
@pytest.mark.parametrize("case", EVERY_METRIC, ids=str)
def test_the_law_of_the_cell_holds(case: Case, edge: Edge) -> None:
    """Errors are checked by the cell itself: an exception of another kind, or one without a name, gets through."""
    word, _ = cell(case, edge)
    assert word


def test_the_page_is_what_the_run_gives() -> None:
    assert PAGE.read_text() == page(), "docs/edge-cases.md is out of date. Run `nox -s edges` and look at what changed."
