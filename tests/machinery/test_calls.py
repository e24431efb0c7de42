"""How a metric is called: what editors, errors, dicts and scripts see of it."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
import torch
from cases import EVERY_METRIC, Case, with_gradient
from torch import Tensor, nn

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


@every_metric
def test_forward_has_the_signature_of_update(case: Case) -> None:
    metric = case.build()
    for one in (metric, copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        taken, update = inspect.signature(one.forward), inspect.signature(one.update)
        assert list(taken.parameters.values()) == list(update.parameters.values())
        assert taken.return_annotation == inspect.signature(type(one).compute).return_annotation
    assert list(inspect.signature(type(metric).forward).parameters)[1:] == list(update.parameters)
    assert type(metric).forward.__qualname__ == f"{type(metric).__name__}.forward"
    assert type(metric).forward.__module__ == type(metric).__module__
    assert "with gradient" in (inspect.getdoc(metric.forward) or "")


@every_metric
def test_errors_of_a_wrong_call_name_what_was_called(case: Case) -> None:
    metric = case.build()
    batch = case.batch(4, 4)
    names = list(inspect.signature(metric.update).parameters)
    required = [
        name for name, parameter in metric._update_signature.parameters.items() if parameter.default is parameter.empty
    ]
    for call, name in ((metric, "forward"), (metric.update, "update")):
        public = re.escape(f"{type(metric).__name__}.{name}() ")
        with pytest.raises(TypeError, match=f"^{public}missing .*{required[0]!r}"):
            call()
        with pytest.raises(TypeError, match=f"^{public}got an unexpected keyword argument 'nonsense'"):
            call(*batch, nonsense=1)
        with pytest.raises(TypeError, match=f"^{public}takes .* positional arguments but {len(names) + 2} were given"):
            call(*batch, *[None] * (len(names) - len(batch) + 1))


@every_metric
def test_the_hash_is_that_of_a_module(case: Case) -> None:
    metric = case.build()
    names, before = {metric: "loss"}, hash(metric)
    value = metric(*with_gradient(case, case.batch(4, 4)))
    if metric.is_differentiable:
        value.sum().backward()
    metric.update(*case.batch(4, 4))
    metric.compute()
    assert metric in names
    metric.to(torch.float64)
    metric.reset()
    assert metric in names
    assert hash(metric) == before == object.__hash__(metric)
    assert len({metric, case.build(), copy.deepcopy(metric)}) == 3


class Holder(nn.Module):
    """A model that holds a loss, and predicts without it."""

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.metric = metric

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated", "ignore:This property will be removed")
@every_metric
def test_a_model_that_holds_a_loss_can_be_scripted(case: Case) -> None:
    metric = case.build()
    metric(*case.batch(4, 4))
    model, x = Holder(metric), torch.randn(3, 4)
    for scripted in (torch.jit.script(model), torch.jit.trace(model, x)):
        torch.testing.assert_close(scripted(x), model(x))
