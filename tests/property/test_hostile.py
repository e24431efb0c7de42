"""Whatever is put into whatever is public: it works, or it is refused by name, and nothing else happens."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import tree_map
from hypothesis import given
from hypothesis import strategies as st
from property.calls import Call, calls
from torch import Tensor, nn
from torchmetrics import Metric

import adaption
from adaption import functional, layers

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
]

CALLS = list(calls())
every_call = pytest.mark.parametrize("call", CALLS, ids=str)

THINGS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "str": lambda: "nonsense",
    "empty str": lambda: "",
    "0": lambda: 0,
    "-1": lambda: -1,
    "2": lambda: 2,
    "0.5": lambda: 0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "huge int": lambda: 10**400,
    "complex": lambda: 1j,
    "True": lambda: True,
    "list": list,
    "list of floats": lambda: [1.0, 2.0],
    "list of None": lambda: [None],
    "list of tensors": lambda: [torch.randn(4, 6), torch.randn(4, 5)],
    "dict": lambda: {"a": 1},
    "bytes": lambda: b"bytes",
    "class": lambda: int,
    "builtin": lambda: len,
    "object": object,
    "module": nn.Identity,
    "array": lambda: np.zeros((4, 6), dtype=np.float32),
    "0-d array": lambda: np.array(1.0),
    "np.float32": lambda: np.float32(1.0),
}
TENSORS: dict[str, Callable[[], Any]] = {
    "scalar": lambda: torch.tensor(1.0),
    "vector": lambda: torch.randn(4),
    "matrix": lambda: torch.randn(4, 6),
    "wider": lambda: torch.randn(4, 7),
    "one column": lambda: torch.randn(4, 1),
    "three rows": lambda: torch.randn(3, 6),
    "one row": lambda: torch.randn(1, 6),
    "rank 3": lambda: torch.randn(4, 6, 2),
    "rank 4": lambda: torch.randn(4, 3, 8, 7),
    "rank 5": lambda: torch.randn(2, 3, 2, 2, 2),
    "no rows": lambda: torch.randn(0, 6),
    "no columns": lambda: torch.randn(4, 0),
    "negative": lambda: -torch.rand(4),
    "zeros": lambda: torch.zeros(4, 6),
    "nan tensor": lambda: torch.full((4, 6), torch.nan),
    "inf tensor": lambda: torch.full((4, 6), torch.inf),
    "float64": lambda: torch.randn(4, 6, dtype=torch.float64),
    "float16": lambda: torch.randn(4, 6).half(),
    "float8": lambda: torch.randn(4, 6).to(torch.float8_e4m3fn),
    "complex64": lambda: torch.randn(4, 6, dtype=torch.complex64),
    "int64": lambda: torch.ones(4, 6, dtype=torch.int64),
    "int64 vector": lambda: torch.tensor([0, 1, 2, 99]),
    "uint16": lambda: torch.ones(4, dtype=torch.uint16),
    "bool": lambda: torch.ones(4, 6, dtype=torch.bool),
    "quantised": lambda: torch.quantize_per_tensor(torch.randn(4, 6), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(4, 6).to_sparse(),
    "sparse vector": lambda: torch.ones(4).to_sparse(),
    "sparse rows": lambda: torch.eye(4, 6).to_sparse_csr(),
    "meta": lambda: torch.randn(4, 6, device="meta"),
    "meta vector": lambda: torch.ones(4, device="meta"),
    "meta labels": lambda: torch.ones(4, device="meta", dtype=torch.int64),
    "requires grad": lambda: torch.randn(4, 6, requires_grad=True),
}
HOSTILE = THINGS | TENSORS
NEVER = ("nan", "inf", "huge int", "complex", "bytes", "class", "object")  # what no argument of any call takes
CALLABLE = ("builtin", "module")  # a function that is not what an argument is for raises what it likes when called


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of arguments, modules and metrics."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, nn.Module):
        states = list(value.metric_state.values()) if isinstance(value, Metric) else []
        return [*value.parameters(), *value.buffers(), *tensors_in(states)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def content(tensor: Tensor) -> Tensor | None:
    if tensor.is_meta:
        return None
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return dense.clone()


def seen(value: Any) -> list[Any]:
    """Of each tensor in a value what a call could change."""
    return [(t, t._version, t.requires_grad, t.grad, content(t)) for t in tensors_in(value)]


def unchanged(before: list[Any], value: Any) -> None:
    after = seen(value)
    assert len(after) == len(before), "a tensor came or went"
    for (old, *facts, numbers), (new, *facts_now, numbers_now) in zip(before, after, strict=True):
        assert new is old, "a tensor was replaced"
        assert all(fact is now or fact == now for fact, now in zip(facts, facts_now, strict=True))
        if numbers is not None and not torch.equal(numbers_now, numbers):  # which NaN is not
            torch.testing.assert_close(numbers_now, numbers, rtol=0, atol=0, equal_nan=True)


def surroundings() -> list[Any]:
    """What a call shares with the rest of the program, but for torch's generator."""
    return [
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tobytes(),  # noqa: NPY002
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
    ]


def modes(owner: Any) -> list[Any]:
    if not isinstance(owner, nn.Module):
        return []
    names = ("_update_count", "_is_synced", "_to_sync", "_should_unsync", "_enable_grad")
    return [module.training for module in owner.modules()] + [getattr(owner, name, None) for name in names]


@every_call
def test_a_hostile_argument_is_refused_by_name(call: Call) -> None:
    function = call.build()
    for name, valid in call.arguments().items():
        for label, make in HOSTILE.items():
            if label in CALLABLE and callable(valid):
                continue
            refused = check(call, function, {name: make()})
            assert refused or label not in NEVER, f"`{name}` takes {label}"
            function = function if refused else call.build()


@every_call
def test_equally_hostile_tensors_are_refused_by_name(call: Call) -> None:
    """Agreeing with each other, they get past the checks that compare one argument with another."""
    function = call.build()
    for make in TENSORS.values():
        replaced = {name: put(make, valid) for name, valid in call.arguments().items() if tensors_in(valid)}
        if not check(call, function, replaced):
            function = call.build()


def put(make: Callable[[], Tensor], valid: Any) -> Any:
    """A hostile tensor in place of each tensor of a valid argument."""
    return tree_map(lambda _: make(), valid)


@every_call
@given(st.data())
def test_hostile_arguments_together_are_refused_by_name(call: Call, data: st.DataObject) -> None:
    names = [name for name, valid in call.arguments().items() if not callable(valid)]
    if len(names) > 1:
        chosen = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(sorted(HOSTILE)), min_size=2))
        check(call, call.build(), {name: HOSTILE[label]() for name, label in chosen.items()})


@pytest.mark.parametrize("call", [call for call in CALLS if call.asks], ids=str)
def test_a_hostile_answer_of_a_callable_is_refused_by_its_name(call: Call) -> None:
    """What a discriminator, disparity, distance, criterion, classifier or gradient reversal of the user's returns."""
    for name in call.asks:
        for make in HOSTILE.values():
            check(call, call.build(), {name: Answer(make())})


def test_everything_public_is_called() -> None:
    public = {*adaption.__all__, *functional.__all__, *layers.__all__}
    assert not public - {re.split("[.:]", call.name)[0] for call in CALLS}


class Answer:
    """A callable that gives one answer to everything."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, *_: Any, reduction: str = "none") -> Any:
        del reduction
        return self.value


def check(call: Call, function: Callable[..., Any], replaced: dict[str, Any]) -> str:
    """Call with some arguments replaced, and return the error, if it is one of ours, or nothing."""
    owner = getattr(function, "__self__", function)
    arguments = call.arguments() | replaced
    values = list(arguments.values())
    inputs, held, held_modes = seen(values), seen(owner), modes(owner)
    around, generator = surroundings(), torch.get_rng_state()
    try:
        differentiate(function(**arguments))
    except (TypeError, ValueError) as error:
        sentence = f"{type(error).__name__}: {error}"
    else:
        sentence = ""
    if sentence:
        assert any(f"`{name}" in sentence for name in (*arguments, *call.others)), f"no argument is named: {sentence}"
        unchanged(held, owner)
        assert modes(owner) == held_modes, "a call that raised changed a mode"
    if sentence or not call.draws:
        assert torch.equal(torch.get_rng_state(), generator), "it drew random numbers"
    unchanged(inputs, values)
    assert surroundings() == around
    return sentence


def differentiate(result: Any) -> None:
    """The backward pass of what a call returned, where it has one."""
    outputs = [t for t in tensors_in(result) if t.requires_grad and not isinstance(result, nn.Module)]
    if outputs:
        torch.autograd.grad([output.sum() for output in outputs], outputs)
