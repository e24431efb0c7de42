"""What the mean over ranks of the gradients is, which DDP takes: that of the global batch, for sums over samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from cases import CASES, Case, cast, joined, looked_at, where_looked_at
from processes import on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import adaption

RANKS = 2
# A quotient or a logarithm of sums over samples, or no such sum at all. The linear MMD with a number for its bandwidth
# is a mean over pairs of samples, and so a sum like the others.
NO_SUMS = {
    *("MMD", "MMD weighted", "MMD unbiased", "MMD pooled", "MMD random features", "BSP", "PADA"),
    *("CMD", "CORAL", "CORAL unbiased", "Fréchet", "DARE-GRAM", "HoMM", "RSD"),
    *("LMMD", "CDD", "JDOT", "JDOT unbalanced", "Sinkhorn", "AFN radius", "sliced Wasserstein"),
    *("JMMD", "JMMD thetas", "JMMD pooled", "JMMD pooled thetas"),
    *("CDAN+E", "CDAN+E sum", "CDAN+E none", "MCD marginal entropy", "MCD marginal entropy dense", "class balance"),
    *("mutual information", "mutual information dense"),
    *("MCC", "information", "information dense", "nuclear norm", "DALN"),
    *("pseudo label share dense", "pseudo label share none"),
}
SUMMED = {
    *("DANN sum", "DANN sequence sum", "CDAN sum", "MDD sum", "RegDA weighted", "consistency L2 sum"),
    *("entropy sum", "pseudo label teacher"),
}


class Model(nn.Module):
    """A loss of inputs that depend on parameters."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.metric = case.build().double()
        torch.manual_seed(3)
        rows = [0.3 * torch.randn(tensor.shape[1:]).double() for tensor in looked_at(case, case.batch(2, 2))]
        self.rows = nn.ParameterList(rows)

    def forward(self, *batch: Any) -> Tensor:
        rows: Iterator[Tensor] = iter(self.rows)
        value: Tensor = self.metric(*where_looked_at(self.case, lambda tensor: _moved(tensor, next(rows)), batch))
        return value.mean()  # the user's reduction of "none", and of the weights of PADA


def _moved(samples: Tensor, row: Tensor) -> Tensor:
    if samples.ndim >= 2 and (samples >= 0).all():
        return (samples.log() + row).softmax(1)  # probabilities remain probabilities
    return samples * (1 + row)


def gradients(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    model(*batch).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def batches(case: Case) -> list[Any]:
    """One for each rank, of equal sizes."""
    torch.manual_seed(2)
    return [cast(case.batch(4, 4), torch.float64) for _ in range(RANKS)]


def averaged(rank: int, _: int) -> dict[str, dict[str, Tensor]]:
    return {case.name: gradients(DistributedDataParallel(Model(case)), batches(case)[rank]) for case in CASES}


def test_mean_of_gradients_is_that_of_the_global_batch() -> None:
    """It is for sums over samples, and for no other loss."""
    right = set()
    by_rank = on_ranks(RANKS, averaged)
    for case in CASES:
        whole = gradients(Model(case), [joined(part) for part in zip(*batches(case), strict=True)])
        assert all(gradient.any() for gradient in whole.values())
        factor = RANKS if case.name in SUMMED else 1  # of the sum over R ranks DDP takes one R-th
        if all(
            torch.allclose(factor * found[case.name][f"module.{name}"], gradient, rtol=1e-10, atol=1e-12)
            for name, gradient in whole.items()
            for found in by_rank
        ):
            right.add(case.name)
    assert right == {case.name for case in CASES} - NO_SUMS


def test_unequal_batches_need_a_factor() -> None:
    """DDP weighs each rank alike: of R ranks, one with n of all N samples multiplies its loss by R n / N."""
    loss = adaption.functional.unknown_class_binary_cross_entropy
    parts = [torch.randn(n, 4, dtype=torch.float64) for n in (2, 5, 1)]
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, weight)[0]

    ranks, total = len(parts), sum(map(len, parts))
    mean = sum(gradient(ranks * len(part) / total * loss(part * weight)) for part in parts) / ranks
    torch.testing.assert_close(mean, gradient(loss(torch.cat(parts) * weight)))
