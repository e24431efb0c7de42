"""What a refused batch leaves of the modules inside: everything, whether it is refused early or by its value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case, with_gradient, with_nan
from machinery.moving import WITH_MODULES, Moving, asked, moving
from torch import Tensor, nn

from adaption._metric import AdditiveMetric

every_loss_with_modules = pytest.mark.parametrize("case", WITH_MODULES, ids=str)


def unmoved(metric: Any, call: Callable[[], Any]) -> None:
    """Assert that a call moves no buffer, and replaces none."""
    before, buffers = copy.deepcopy(dict(metric.state_dict())), list(map(id, metric.buffers()))
    call()
    torch.testing.assert_close(dict(metric.state_dict()), before, rtol=0, atol=0)
    assert list(map(id, metric.buffers())) == buffers


def calls(metric: AdditiveMetric) -> list[int]:
    return [int(module.in_place) for module in metric.modules() if isinstance(module, Moving)]


@every_loss_with_modules
def test_a_batch_that_counts_moves_each_module_once(case: Case) -> None:
    metric = moving(case)
    if case.name == "VAT":  # it asks a network that others train, and moves nothing of it
        unmoved(metric.model, lambda: metric(*case.batch(4, 4)))
        return
    metric(*case.batch(4, 4))
    first = calls(metric)
    assert first
    metric.update(*case.batch(4, 4))
    metric(*case.batch(6, 6))
    assert all(first)
    assert calls(metric) == [3 * number for number in first]


@every_loss_with_modules
@pytest.mark.parametrize("first", [True, False], ids=["first batch", "later batch"])
@pytest.mark.parametrize("strategy", ["error", "warn", "ignore"])
@pytest.mark.filterwarnings("ignore:the value of this batch is not finite")
def test_a_batch_whose_value_is_refused_moves_nothing(case: Case, first: bool, strategy: str) -> None:
    metric = moving(case, nan_strategy=strategy)
    good = case.batch(4, 4)
    if not first:
        metric(*good)
    bad = with_gradient(case, with_nan(case, good))

    def step() -> None:
        if strategy != "error":
            metric(*bad).sum().backward()  # the value is still there, with its gradient
            metric.update(*bad)
            return
        for call in (metric, metric.update):
            with pytest.raises(ValueError, match="the value of this batch is not finite"):
                call(*bad)

    unmoved(metric, step)
    assert metric(*good).isfinite().all(), "the modules are poisoned"


@every_loss_with_modules
@pytest.mark.parametrize("first", [True, False], ids=["first batch", "another size"])
def test_a_module_that_is_refused_for_its_answer_has_not_moved(case: Case, first: bool) -> None:
    """Each of them in turn, the others answering as they should."""
    for name in asked(case.build()):
        metric = moving(case)
        if not first:
            metric(*case.batch(4, 4))
        setting = getattr(metric, name)
        (setting[0] if isinstance(setting, nn.ModuleList) else setting).spoiled = True
        unmoved(metric, lambda: refused(metric, case.batch(6, 6)))  # noqa: B023 - called at once


def refused(metric: AdditiveMetric, batch: Any) -> None:
    for call in (metric, metric.update):
        with pytest.raises((ValueError, TypeError)):
            call(*batch)


@every_loss_with_modules
def test_a_synced_metric_moves_nothing(case: Case) -> None:
    metric = moving(case)
    batch = case.batch(4, 4)
    metric(*batch)
    metric.sync(dist_sync_fn=lambda state, **_: [state, state], distributed_available=lambda: True)

    def step() -> None:
        for call in (metric, metric.update):
            with pytest.raises(Exception, match="must not be synced"):
                call(*batch)

    unmoved(metric, step)


@pytest.mark.parametrize(
    "case", [case for case in WITH_MODULES if case.name in {"DANN", "CDAN+E none", "JMMD thetas", "RegDA"}], ids=str
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_step_puts_back_too(case: Case) -> None:
    torch.compiler.reset()
    metric = moving(case, nan_strategy="ignore")
    compiled = torch.compile(metric, backend="eager")
    good = case.batch(4, 4)
    compiled(*good)
    unmoved(metric, lambda: compiled(*with_nan(case, good)))
    assert metric.num_ignored == 1


def test_what_keeps_no_state_is_not_copied() -> None:
    """Once its shapes are known, a step copies no buffer: a network may hold large ones."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Copies(TorchDispatchMode):
        sizes: list[int] = []  # noqa: RUF012 - of this test alone

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.clone.default:
                self.sizes.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    case = next(case for case in WITH_MODULES if case.name == "CDAN random")
    metric: AdditiveMetric = case.build()
    matrix: Tensor = metric.get_buffer("joint_map.features_matrix")
    batch = case.batch(4, 4)
    with Copies():
        metric(*batch)
    assert matrix.numel() in Copies.sizes
    Copies.sizes.clear()
    with Copies():
        metric(*batch)
        metric.update(*batch)
    assert matrix.numel() not in Copies.sizes
