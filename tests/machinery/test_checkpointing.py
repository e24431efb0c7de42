"""Activation checkpointing calls everything twice. A loss inside counts a batch once, with the same gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, Case, discriminator, tensors, where_looked_at
from machinery.moving import moving
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adaption import DomainAdversarialLoss
from adaption._metric import AdditiveMetric
from adaption.layers import WarmStartGradientLayer, WarmStartGradientReversalLayer

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
both_modes = pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])


def step(metric: Callable[..., Tensor], case: Case, batch: Any, *, reentrant: bool | None) -> Tensor:
    """The gradient of the squared loss by a factor on what the loss looks at; without checkpointing for None."""
    factor = torch.ones((), requires_grad=True)

    def segment(factor: Tensor) -> Tensor:
        value = metric(*where_looked_at(case, lambda tensor: tensor * factor, batch))
        return value.square().sum()  # it needs the value, so the loss is computed to its end once more

    (segment(factor) if reentrant is None else checkpoint(segment, factor, use_reentrant=reentrant)).backward()
    assert factor.grad is not None
    return factor.grad


@every_loss
@both_modes
def test_a_checkpointed_batch_counts_once(case: Case, reentrant: bool) -> None:
    plain = moving(case)
    saved = copy.deepcopy(plain)
    for size in (4, 4, 6):
        batch = case.batch(size, size)
        expected = step(plain, case, batch, reentrant=None)
        torch.testing.assert_close(step(saved, case, batch, reentrant=reentrant), expected)
    assert saved.update_count == plain.update_count == 3
    torch.testing.assert_close(saved.compute(), plain.compute(), rtol=0, atol=0)
    torch.testing.assert_close(dict(saved.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    kept = [tensors(list(metric.metric_state.values())) for metric in (saved, plain)]
    torch.testing.assert_close(*kept, rtol=0, atol=0)


SCHEDULED = [case for case in CASES if hasattr(case.build(), "grl")]


@pytest.mark.parametrize("case", SCHEDULED, ids=str)
@both_modes
@pytest.mark.parametrize("auto_step", [True, False])
def test_a_schedule_steps_once(case: Case, reentrant: bool, auto_step: bool) -> None:
    """Steps are large: the coefficient of a neighbouring step would be seen in the gradient."""
    plain = case.build()
    plain.grl = WarmStartGradientReversalLayer(alpha=10.0, max_iters=10, auto_step=auto_step)
    saved = copy.deepcopy(plain)
    for _ in range(4):
        batch = case.batch(4, 4)
        expected = step(plain, case, batch, reentrant=None)
        torch.testing.assert_close(step(saved, case, batch, reentrant=reentrant), expected)
        if not auto_step:
            for metric in (plain, saved):
                steps(metric)
    assert saved.state_dict()["grl.iteration"] == plain.state_dict()["grl.iteration"] == 4


def steps(metric: AdditiveMetric) -> None:
    schedule = metric.grl
    assert isinstance(schedule, WarmStartGradientReversalLayer)
    schedule.step()


@pytest.mark.parametrize("layer", [WarmStartGradientLayer, WarmStartGradientReversalLayer])
@both_modes
def test_a_schedule_inside_of_a_network_steps_once(layer: Any, reentrant: bool) -> None:
    plain = nn.Sequential(nn.Linear(3, 3), layer(10.0, max_iters=10, auto_step=True), nn.Linear(3, 1), nn.Sigmoid())
    saved = copy.deepcopy(plain)
    for _ in range(4):
        x = torch.randn(5, 3, requires_grad=True)
        plain(x).sum().backward()
        checkpoint(saved, x, use_reentrant=reentrant).sum().backward()
    assert saved[1].iteration == plain[1].iteration == 4
    for one, other in zip(saved.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@both_modes
def test_steps_by_hand_are_right_for_several_calls_before_one_backward(reentrant: bool) -> None:
    """The loop of the documentation: with `auto_step`, the first call would be repeated with the second's step."""
    schedule = WarmStartGradientReversalLayer(alpha=10.0, max_iters=10)
    plain = DomainAdversarialLoss(discriminator(), grl=schedule)
    saved = copy.deepcopy(plain)
    for _ in range(3):
        gradients = []
        for metric in (plain, saved):
            torch.manual_seed(1)
            parts = [torch.randn(4, 6, requires_grad=True) for _ in range(4)]
            call = metric if metric is plain else lambda *batch: checkpoint(saved, *batch, use_reentrant=reentrant)
            (call(*parts[:2]) + call(*parts[2:])).backward()
            gradients.append([part.grad for part in parts])
            steps(metric)
        torch.testing.assert_close(*gradients)
