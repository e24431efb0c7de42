"""What the tasks that tell classes apart have in common: an epoch's batches, and the accuracy on the target."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from methods import Method, look
from torch import Tensor, nn

from evidence.task import Trial, batches


class Domains(NamedTuple):
    """A labelled source, an unlabelled target, and what the target's score is taken from."""

    source: Tensor
    labels: Tensor
    target: Tensor
    test: Tensor
    test_labels: Tensor


def classifier(network: nn.Module, method: Method, domains: Domains, size: int, seed: int) -> Trial:
    """A network to be trained with a method by Adam at 0.001, in batches of `size` of each domain.

    Discriminators and further heads learn at four times the rate, for them to keep up with the features, and the first
    moment is 0.5, as is usual where networks play against each other: with 0.9 their game swings.
    """
    generator = torch.Generator().manual_seed(seed)
    source, target = (batches(len(part), size, generator) for part in (domains.source, domains.target))
    rates = [{"params": network.parameters(), "lr": 1e-3}, {"params": method.parameters(), "lr": 4e-3}]
    optimizer = torch.optim.Adam(rates, betas=(0.5, 0.999))

    def batch() -> dict[str, Any]:
        network.train()
        index = next(source)
        return look(network, domains.source[index], domains.labels[index], domains.target[next(target)])

    def score() -> dict[str, float]:
        network.eval()
        guesses = logits(network, domains.test).argmax(1)
        return {"accuracy %": 100 * (guesses == domains.test_labels).double().mean().item()}

    return Trial(method, batch, score, optimizer)


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """What the network says of many images, a thousand at a time."""
    return torch.cat([network.classify(network(part)) for part in images.split(1000)])
