"""Functions under `torch.vmap`, where no value can be read, and under `torch.func.grad`, where checks still do."""

from __future__ import annotations

import pytest
import torch
from cases import FUNCTIONS, Case, tensors
from torch import Tensor
from torch.utils._pytree import tree_map

from adaption.functional import entropy_minimization

# those whose value and gradient are computed at once, by the first word of the case's name
CLOSED = {"MMD", "JMMD", "LMMD", "CDD", "BSP", "CORAL", "CMD", "HoMM", "RSD", "Fréchet", "DARE-GRAM", "Sinkhorn"}
CLOSED |= {"JDOT", "nuclear", "DALN", "mutual"}


@pytest.mark.parametrize("case", FUNCTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.*searchsorted")
def test_mapped_function_gives_the_value_of_each_batch(case: Case) -> None:
    """Or says that its closed form cannot be mapped; no check of values stands in the way."""
    metric, batches = case.build(), [case.batch(4, 4) for _ in range(3)]
    stacked = tree_map(lambda *each: torch.stack(each) if isinstance(each[0], Tensor) else each[0], *batches)
    dims = tuple(0 if tensors(argument) else None for argument in batches[0])
    mapped = torch.vmap(lambda *batch: case.function(metric, *batch), dims, randomness="different")
    if case.name.split()[0] in CLOSED and case.name != "MMD linear":
        with pytest.raises(RuntimeError, match=r"batches by `torch\.vmap` are not available"):
            mapped(*stacked)
    else:
        values = [case.function(metric, *batch) for batch in batches]
        torch.testing.assert_close(mapped(*stacked), torch.stack(values))


def test_bad_values_are_refused_under_grad_and_not_seen_under_vmap() -> None:
    probabilities = torch.rand(3, 4, 5).softmax(2)
    with pytest.raises(ValueError, match="must hold logits"):
        entropy_minimization(probabilities[0])
    with pytest.raises(ValueError, match="must hold logits"):
        torch.func.grad(entropy_minimization)(probabilities[0])
    assert torch.vmap(entropy_minimization)(probabilities).shape == (3,)
