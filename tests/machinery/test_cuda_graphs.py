"""A training step that CUDA has captured replays right: the same value and gradients as a step that is run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import functional

Loss = Callable[[dict[str, Tensor]], Tensor]

LOSSES: dict[str, Loss] = {
    "MMD": lambda seen: functional.maximum_mean_discrepancy(seen["source"], seen["target"]),
    "JMMD": lambda seen: functional.joint_maximum_mean_discrepancy(
        [seen["source"], seen["source_logits"].softmax(1)], [seen["target"], seen["target_logits"].softmax(1)]
    ),
    "DANN": lambda seen: functional.domain_adversarial_loss(seen["source_disc"], seen["target_disc"]),
    "CDAN": lambda seen: functional.conditional_domain_adversarial_loss(seen["source_disc"], seen["target_disc"]),
    "MDD": lambda seen: (
        -functional.classification_margin_disparity_discrepancy(
            *(seen[f"{domain}_{head}"] for domain in ("source", "target") for head in ("logits", "adv"))
        )
    ),
    "MCC": lambda seen: functional.minimum_class_confusion(seen["target_logits"]),
}


class Network(nn.Module):
    """Features of both domains, with the logits of two heads and of a discriminator behind a reversal."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.logits, self.adv, self.disc = nn.Linear(16, 5), nn.Linear(16, 5), nn.Linear(16, 1)

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        seen = {}
        for domain, samples in (("source", source), ("target", target)):
            features = seen[domain] = self.extract(samples)
            reversed_ = functional.gradient_reversal(features)
            seen[f"{domain}_logits"] = self.logits(features)
            seen |= {f"{domain}_adv": self.adv(reversed_), f"{domain}_disc": self.disc(reversed_)}
        return seen


def step(network: Network, loss: Loss, source: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    seen = network(source, target)
    value = F.cross_entropy(seen["source_logits"], labels) + loss(seen)
    value.backward()
    return value


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", LOSSES)
def test_a_captured_step_replays_right(name: str) -> None:
    torch.manual_seed(0)
    network, loss = Network().cuda(), LOSSES[name]
    batches = [
        (torch.randn(32, 8).cuda(), torch.randint(5, (32,)).cuda(), torch.randn(24, 8).cuda() + 1) for _ in range(3)
    ]
    held = tuple(tensor.clone() for tensor in batches[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch asks: a few steps before, on another stream
        for _ in range(3):
            network.zero_grad()
            step(network, loss, *held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    network.zero_grad()
    with torch.cuda.graph(graph):
        value = step(network, loss, *held)
    for batch in batches:
        for place, tensor in zip(held, batch, strict=True):
            place.copy_(tensor)
        graph.replay()
        found = (
            value.clone(),
            [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None],
        )
        twin = Network().cuda()
        twin.load_state_dict(network.state_dict())
        expected = step(twin, loss, *batch)
        gradients = [parameter.grad for parameter in twin.parameters() if parameter.grad is not None]
        torch.testing.assert_close(found, (expected, gradients))


@pytest.mark.parametrize("name", LOSSES)
def test_the_step_itself_runs(name: str) -> None:
    torch.manual_seed(0)
    network = Network()
    value = step(network, LOSSES[name], torch.randn(32, 8), torch.arange(32) % 5, torch.randn(24, 8) + 1)
    assert value.isfinite()
    gradients = [parameter.grad for parameter in network.extract.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
