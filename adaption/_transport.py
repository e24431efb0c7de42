r"""Optimal transport with entropic regularisation, between samples with weights.

With costs :math:`M`, weights `a` and `b` that sum to 1, and the regularisation :math:`\varepsilon`, the plan of
smallest

.. math:: \sum_{ij} \pi_{ij} M_{ij} + \varepsilon \, \mathrm{KL}(\pi \,|\, a b^\top)

is :math:`\pi_{ij} = a_i b_j e^{f_i + g_j - M_{ij} / \varepsilon}`, with potentials `f` and `g`, here in units of
:math:`\varepsilon`, for which its rows sum to `a` and its columns to `b`. Both conditions are satisfied in turn
(Sinkhorn 1967):

.. math::
    g_j = -\lambda \log \sum_i a_i e^{f_i - M_{ij} / \varepsilon}, \qquad
    f_i = -\lambda \log \sum_j b_j e^{g_j - M_{ij} / \varepsilon}

with :math:`\lambda = 1`. Where the sums of rows and columns may differ from `a` and `b`, with a penalty of :math:`\tau`
times the divergence :math:`\mathrm{KL}` between them, :math:`\lambda = \tau / (\tau + \varepsilon)` (Chizat et al.
2018).

Logarithms keep all of this finite, but cost an exponential of each pair of samples at each step. So they are used only
once in ten steps, for the rows. Then the entries of the matrix :math:`e^{f_i + g_j - M_{ij} / \varepsilon}` are in
range; the other steps correct the potentials by factors u and v, each from a product with that matrix. Only
:math:`a u` and :math:`b v` are stored: the next product and the plan need no more. The factors are clipped, which does
not change the plan once the potentials have converged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adaption._host import asks

_STEPS = 10  # for each exponential
_TOLERANCE = 1e-9  # of the potentials: below it, steps change digits that float32 has not
# Of a factor, whose products with weights and with an entry of the matrix must stay in range.
_LARGEST = {torch.float64: 1e100, torch.float32: 1e12}
# In place of a weight of 0, by which factors are divided. Divided by the largest factor, it is still in range.
_SMALLEST_WEIGHT = {torch.float64: 1e-200, torch.float32: 1e-24}


class Transport:
    """A transport problem, and its current potentials.

    Args:
        cost: the costs in units of the regularisation, shape ``(n, m)``.
        source_weights: `a`, shape ``(n,)``.
        target_weights: `b`, shape ``(m,)``.
        softness: λ, 1 where rows and columns must sum to the weights.
    """

    def __init__(self, cost: Tensor, source_weights: Tensor, target_weights: Tensor, softness: float = 1.0) -> None:
        least = _SMALLEST_WEIGHT[cost.dtype]
        self.a, self.b = source_weights.clamp(min=least), target_weights.clamp(min=least)
        self._softness, self._cost = softness, cost
        self._gain = target_weights.log() - cost  # less than nothing from a sample that counts nothing
        self._matrix = torch.empty_like(cost)
        self.f = -softness * self._gain.amax(1)
        self.g = -softness * ((source_weights.log() + self.f).unsqueeze(1) - cost).logsumexp(0)

    def advance(self, steps: int) -> None:
        """Take so many steps of the iteration."""
        self.f = -self._softness * torch.add(self._gain, self.g, out=self._matrix).amax(1)
        # only a sample that counts nothing can have an entry beyond the bound
        largest = math.log(_LARGEST[self.f.dtype])
        matrix = torch.sub(self.g, self._cost, out=self._matrix).add_(self.f.unsqueeze(1)).clamp_(max=largest).exp_()
        rows, columns = self._side(self.a, self.f), self._side(self.b, self.g)
        au, bv = rows(torch.mv(matrix, self.b)), self.b
        for _ in range(steps):
            before, bv = bv, columns(torch.mv(matrix.T, au))
            au = rows(torch.mv(matrix, bv))
        self.f, self.g = self.f + (au / self.a).log_(), self.g + (bv / self.b).log_()
        self._au, self._bv, self._before = au, bv, before

    def changes(self) -> bool:
        """Whether the last step has changed a potential of the columns by more than the tolerance."""
        return bool((self._bv / self._before - 1).abs().amax() >= _TOLERANCE)

    def _side(self, weights: Tensor, potential: Tensor) -> Callable[[Tensor], Tensor]:
        """The function from the sums of rows or columns to their weights times their factors."""
        softness, largest = self._softness, _LARGEST[weights.dtype]
        # the factor of a potential f is e^((λ - 1) f) / sums^λ; where both underflow, 0 / 0 would be NaN
        start = weights if softness == 1 else weights * torch.exp((softness - 1) * potential).clamp_(min=1 / largest)
        low, high = weights / largest, weights * largest
        return lambda sums: (start / (sums if softness == 1 else sums**softness)).clamp_(low, high)

    def plan(self) -> Tensor:
        """The mass that each source sample sends to each target sample, shape ``(n, m)``."""
        return (self._matrix * self._bv).mul_(self._au.unsqueeze(1))

    def dual(self) -> Tensor:
        """The minimum, in units of the regularisation: a lower bound after too few steps."""
        return self.a @ self.f + self.b @ self.g


def solve(problems: Sequence[Transport], max_iters: int) -> None:
    """Find the potentials of problems: all with equally many steps, so that equal problems have equal solutions.

    On the CPU the iteration ends at convergence; elsewhere convergence is not checked.
    """
    for start in range(0, max_iters, _STEPS):
        steps = min(_STEPS, max_iters - start)
        for problem in problems:
            problem.advance(steps)
        if asks(problems[0].f) and not any(problem.changes() for problem in problems):
            break


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances between rows that lie around 0, shape ``(n, m)``."""
    norms = left.square().sum(1, keepdim=True)
    return torch.addmm(norms + right.square().sum(1), left, right.T, alpha=-2).clamp_(min=0)


def scale(cost: Tensor, source_weights: Tensor, target_weights: Tensor) -> Tensor:
    """The mean cost, the unit of the regularisation; 1 where all costs are 0."""
    mean = source_weights @ cost @ target_weights
    return torch.where(mean == 0, 1.0, mean)


def pull(plan: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The derivative of ``sum over i, j of plan_ij |x_i - y_j|^2`` with respect to x."""
    return 2 * (plan.sum(1, keepdim=True) * x - plan @ y)
