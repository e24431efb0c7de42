"""A row of the tables of docs/migrating.md, and what its cases are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, CLASSES = 16, 4
ONE_CLASS = torch.tensor([[1e4, 0.0, 0.0, 0.0]]).repeat(8, 1)  # logits of a collapse


@dataclass(frozen=True)
class Row:
    """A case, what the peer answers, what we answer, and a word on why."""

    case: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    why: str


def draw(n: int, m: int | None = None, shift: float = 0.5, width: int = WIDTH, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A source and a target batch, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, width, generator=generator)
    return source, torch.randn(n if m is None else m, width, generator=generator) + shift


def heads(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of the main and the adversarial head on the source, then on the target."""
    return *draw(n, width=CLASSES), *draw(n, width=CLASSES, seed=1)


def conditional(n: int, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits and features of the source, then of the target."""
    (source, target), (source_logits, target_logits) = draw(n, m), draw(n, m, width=CLASSES, seed=1)
    return source_logits, source, target_logits, target


def linear(width: int = WIDTH) -> nn.Linear:
    """A discriminator that is the same at every call."""
    disc = nn.Linear(width, 1)
    weight, _ = draw(1, width=width, seed=2)
    with torch.no_grad():
        disc.weight.copy_(weight / width**0.5)
        disc.bias.fill_(0.1)
    return disc


class Negated(nn.Module):
    """A discriminator for the other convention of labels."""

    def __init__(self, disc: nn.Module) -> None:
        super().__init__()
        self.disc = disc

    def forward(self, features: Tensor) -> Tensor:
        """Return the logit of the other domain."""
        logits: Tensor = -self.disc(features)
        return logits


def with_gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> str:
    """A value and the norm of its gradient."""
    at = at.clone().requires_grad_()
    value = loss(at)
    value.sum().backward()
    return f"{shown(value)}, gradient {shown(at.grad.norm() if at.grad is not None else 0.0)}"


def mean_of_draws(loss: Callable[[Tensor, Tensor], Tensor], n: int = 16, shift: float = 0.0) -> Tensor:
    """The mean over 200 pairs of batches, by default of equal distributions."""
    return torch.stack([loss(*draw(n, shift=shift, seed=seed)).detach() for seed in range(200)]).mean()


def epoch(metric: Any, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The value over several batches."""
    for batch in batches:
        metric.update(*batch)
    value: Tensor = metric.compute()
    return value


def copied_after_forward(metric: Any) -> str:
    """Whether a metric can be copied after a step."""
    source, target = draw(8)
    metric(source.requires_grad_(), target).backward()
    copy.deepcopy(metric)
    return "copies"


def shown(value: Any) -> str:
    """A value as a cell of the tables."""
    if isinstance(value, str):
        return value
    number = float(value)
    return "NaN" if number != number else f"{number + 0.0:.4g}"  # noqa: PLR0124 - only NaN differs from itself
