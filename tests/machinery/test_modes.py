"""Modes of training: by `train()` and `eval()`, and by the attribute alone, as Lightning gives them back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, Case, looked_at, with_gradient
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from adaption._metric import AdditiveMetric

ROOT = Path(__file__).parents[2]
SCORES = {path.stem for room in ("selection", "distance") for path in (ROOT / "adaption" / room).glob("*.py")}
METHODS = sorted(page for page in (ROOT / "docs" / "methods").glob("*.md") if page.stem not in SCORES)


def validate(module: nn.Module) -> None:
    """What Lightning does around a validation: `eval()`, and afterwards the flag of each module, without `train()`."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for part, training in modes:
        part.training = training


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_method_changes_what_is_trained(case: Case) -> None:
    metric = case.build()
    parameters = list(metric.parameters())
    for parameter in parameters[::2]:
        parameter.requires_grad = False
    expected = [parameter.requires_grad for parameter in parameters]
    for change in (metric.eval, metric.train, metric.eval, metric.eval, lambda: validate(metric), metric.train):
        change()
        metric(*with_gradient(case, case.batch(4, 4))).sum().backward()
        metric.compute()
        metric.reset()
        assert [parameter.requires_grad for parameter in parameters] == expected
    metric.eval()
    metric.requires_grad_()  # thawed by the user meanwhile, and frozen
    if parameters:
        parameters[0].requires_grad = False
    metric.train()
    assert [parameter.requires_grad for parameter in parameters] == [
        parameter is not parameters[0] for parameter in parameters
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_after_a_validation_is_the_same(case: Case) -> None:
    metric, plain = case.build(), case.build()
    batch = with_gradient(case, case.batch(4, 4))
    twin = with_gradient(case, batch)
    validate(metric)
    for one, given in ((metric, batch), (plain, twin)):
        one(*given).sum().backward()
    for mine, other in zip(looked_at(case, batch), looked_at(case, twin), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)
    for left, right in zip(metric.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=0, atol=0)


@pytest.fixture
def validated_after_each_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every loss that is built goes through a validation with each step of an optimizer."""
    losses: list[AdditiveMetric] = []
    steps: list[int] = []
    original = AdditiveMetric.__init__

    def built(self: AdditiveMetric, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        losses.append(self)

    def validated(*_: Any) -> None:
        for loss in losses:
            validate(loss)
        steps.append(len(losses))

    monkeypatch.setattr(AdditiveMetric, "__init__", built)
    handle = register_optimizer_step_post_hook(validated)
    yield steps
    handle.remove()


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_the_documented_loops_survive_validations(
    page: Path, validated_after_each_step: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of a page prints what the page says, although every step is followed by a validation."""
    scope: dict[str, Any] = {}
    blocks = re.findall(r"```\{(testcode|testoutput)\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for kind, text in blocks:
        if kind == "testcode":
            exec(compile(text, page.name, "exec"), scope)  # noqa: S102 - the pages are ours
        else:
            assert capsys.readouterr().out.strip() == text.strip()
    assert max(validated_after_each_step, default=0) > 0
