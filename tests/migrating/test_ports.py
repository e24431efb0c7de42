"""Each port of docs/migrating.md does what the formula that it replaces does: the lines are those of the page."""

from __future__ import annotations

import re
import statistics
from functools import partial

import pytest
import torch
from migrating.ports import CASES, PAGE, Port, blocks, gradients, trained


def test_every_port_of_the_page_is_trained() -> None:
    assert list(blocks()) == list(CASES)
    befores = re.findall(r"# before.*?```\n+(<!-- port: .+? -->)?", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert all(befores), "a block `# before` must be followed by a marker `<!-- port: NAME -->` and its port"


@pytest.mark.parametrize("name", CASES)
def test_a_port_reaches_its_original(name: str) -> None:
    outcome = trained(name)
    assert outcome.reaches(outcome.port), outcome
    # a port that did nothing would not pass; where the seeds differ too much to see that, gradients are compared
    assert CASES[name].exact or not outcome.reaches(outcome.source_only), outcome
    if not outcome.reaches(outcome.source_only):
        assert statistics.mean(outcome.port) > statistics.mean(outcome.source_only)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact])
def test_gradients_of_a_port_are_those_of_its_original(name: str) -> None:
    case, text = CASES[name], blocks()[name]
    shift = case.shift()
    names = Port(text, shift).names
    original, port = (gradients(make, shift, names) for make in (case.original, partial(Port, text)))
    assert original.keys() == port.keys()
    for loss, expected in original.items():
        torch.testing.assert_close(port[loss], expected, rtol=0, atol=1e-4 * expected.norm().item())


def test_a_sign_that_is_turned_by_mistake_is_noticed() -> None:
    case, text = CASES["TLLib, MDD"], blocks()["TLLib, MDD"]
    turned = text.replace("task - mdd", "task + mdd")
    shift, names = case.shift(), Port(text, case.shift()).names
    original, port = (gradients(make, shift, names)["loss"] for make in (case.original, partial(Port, turned)))
    assert (port - original).norm() > 0.1 * original.norm()
