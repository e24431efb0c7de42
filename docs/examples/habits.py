"""Habits of training, measured: weights over time, passes through the network, settings of games and of a backbone.

Run ``python docs/examples/habits.py``; it trains the examples' network from MNIST to optdigits as digits.py does, one
thing changed at a time, and writes the tables of `docs/choosing.md` and `docs/methods/mdd.md`. About a quarter of an
hour on two cores; ``start`` or another table behind it trains and writes that alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from digits import batches, load
from large_weights import line, write
from methods import WIDTH, Joint, MarginDisparity, Method, Network, cdan, dann, look
from torch import Tensor, nn

from adaption import (
    DomainAdversarialLoss,
    JointMaximumMeanDiscrepancyLoss,
    MaximumMeanDiscrepancyLoss,
    MinimumClassConfusionLoss,
)
from adaption.functional import gradient_reversal
from adaption.layers import DomainDiscriminator, ImageClassifier, WarmStartGradientReversalLayer

DOCS = Path(__file__).parents[1]
# table: the page that shows it
PAGES = dict.fromkeys(("start", "passes", "momentum", "schedule"), DOCS / "choosing.md")
PAGES["heads"] = DOCS / "methods" / "mdd.md"
STEPS, RATE, SEEDS = 600, 1e-3, range(5)


# ---- when the weight sets in ------------------------------------------------------------------------------------

# progress of the run, from 0 to 1 -> weight of the loss, from 0 to 1
STARTS: dict[str, Callable[[float], float]] = {
    "1 from the start": lambda _: 1.0,
    "growing, 2 / (1 + exp(-10 p)) - 1": lambda p: math.tanh(5 * p),
    "0 for the first half, then 1": lambda p: float(p >= 0.5),
}


class Late(nn.Module):
    """A method whose losses count from some time on."""

    def __init__(self, method: Method, weight: Callable[[float], float]) -> None:
        super().__init__()
        self.method, self.weight, self.step = method, weight, 0

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Every loss of the method has the same weight."""
        self.method.weights = dict.fromkeys(self.method.metrics, self.weight(self.step / STEPS))
        self.step += 1
        loss: Tensor = self.method(batch)
        return loss


class LateReversal(nn.Module):
    """The same for a game: the discriminator learns from the start, what its gradient weighs for the features grows."""

    def __init__(self, weight: Callable[[float], float]) -> None:
        super().__init__()
        self.weight, self.step = weight, 0

    def forward(self, features: Tensor) -> Tensor:
        """The features as they are."""
        self.step += 1
        return gradient_reversal(features, self.weight(self.step / STEPS))


def started(loss: str, start: str) -> nn.Module:
    """A loss whose weight sets in as the row says."""
    weight = STARTS[start]
    if loss == "DANN":
        disc = DomainDiscriminator(WIDTH, 64, batch_norm=False)
        return Method({"DANN": DomainAdversarialLoss(disc, grl=LateReversal(weight))})
    if loss == "JMMD":
        return Late(Joint({"JMMD": JointMaximumMeanDiscrepancyLoss()}), weight)
    metric = MinimumClassConfusionLoss() if loss == "MCC" else MaximumMeanDiscrepancyLoss()
    return Late(Method({loss: metric}), weight)


# ---- how both domains pass the network --------------------------------------------------------------------------


def normalised() -> Network:
    """The examples' network with batch normalisation in the place of its layer normalisation."""
    network = Network()
    layers = [nn.BatchNorm1d(WIDTH) if isinstance(layer, nn.LayerNorm) else layer for layer in network.extract]
    network.extract = nn.Sequential(*layers)
    return network


def look_at_once(network: Network, source: Tensor, labels: Tensor, target: Tensor) -> dict[str, Any]:
    """Both domains as one batch, so that a batch normalisation mixes them."""
    parts = network(torch.cat([source, target])).split([len(source), len(target)])
    batch: dict[str, Any] = {"labels": labels}
    for domain, features in zip(("source", "target"), parts, strict=True):
        batch |= {f"{domain}{suffix}": features for suffix in ("", "_features")}
        batch[f"{domain}_logits"] = network.classify(features)
    return batch


# ---- the network of MDD, from scratch ---------------------------------------------------------------------------


class WithHeads(nn.Module):
    """`ImageClassifier` in the place of the examples' network; what it calls features are the images."""

    def __init__(self, *, finetune: bool) -> None:
        super().__init__()
        backbone = Network().extract
        backbone.out_features = WIDTH
        self.classifier = ImageClassifier(backbone, 10, bottleneck_dim=WIDTH, width=WIDTH, finetune=finetune)

    def forward(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images

    def classify(self, images: Tensor) -> Tensor:
        """The logits of the main head."""
        logits = self.classifier(images)
        main: Tensor = logits[0] if self.training else logits
        return main

    def groups(self) -> list[dict[str, Any]]:
        """What the optimizer gets: the rates that the network asks for."""
        return self.classifier.get_parameters(base_lr=RATE)


def look_at_source(network: Any, source: Tensor, labels: Tensor, _: Tensor) -> dict[str, Any]:
    """The source alone, so that no running statistics are those of both."""
    return {"labels": labels, "source_logits": network.classify(network(source))}


# ---- the rows ---------------------------------------------------------------------------------------------------


def mdd(max_iters: int) -> Method:
    """MDD with another schedule."""
    method = MarginDisparity(STEPS)
    method.reversal = WarmStartGradientReversalLayer(alpha=1.0, hi=0.1, max_iters=max_iters, auto_step=True)
    return method


@dataclass(frozen=True)
class Run:
    """What is trained: the method, and what differs from digits.py."""

    method: Callable[[], nn.Module]
    network: Callable[[], Any] = Network
    look: Callable[..., dict[str, Any]] = look
    momentum: float = 0.9
    steps: int = STEPS


GAMES: dict[str, Callable[[], nn.Module]] = {
    "DANN": lambda: Method({"DANN": dann(STEPS)}),
    "CDAN": lambda: Method({"CDAN": cdan(STEPS, entropy=False)}),
    "MDD": lambda: mdd(STEPS),
}
PASSED: dict[str, Callable[[], nn.Module]] = {
    "source only": Method,
    "MMD": lambda: Method({"MMD": MaximumMeanDiscrepancyLoss()}),
    "DANN": GAMES["DANN"],
}
# table: row: column: run
TABLES: dict[str, dict[str, dict[str, Run]]] = {
    "start": {
        start: {loss: Run(partial(started, loss, start)) for loss in ("MMD", "JMMD", "DANN", "MCC")} for start in STARTS
    },
    "passes": {
        loss: {
            "two passes": Run(method, normalised),
            "one pass": Run(method, normalised, look_at_once),
        }
        for loss, method in PASSED.items()
    },
    "momentum": {
        loss: {f"{momentum}": Run(method, momentum=momentum) for momentum in (0.9, 0.5)}
        for loss, method in GAMES.items()
    },
    "schedule": {
        "MDD": {
            name: Run(partial(mdd, round(STEPS * share)))
            for name, share in (("a tenth", 0.1), ("a quarter", 0.25), ("all steps", 1.0), ("four times", 4.0))
        }
    },
    "heads": {
        name: {f"{steps} steps": Run(Method, network, look_at_source, steps=steps) for steps in (STEPS // 4, STEPS)}
        for name, network in (
            ("the plain network", Network),
            ("`finetune=True`, the default", partial(WithHeads, finetune=True)),
            ("`finetune=False`", partial(WithHeads, finetune=False)),
        )
    },
}


def train(table: str, row: str, column: str, seed: int) -> float:
    """The accuracy on the target in percent, after training."""
    torch.set_num_threads(1)
    run = TABLES[table][row][column]
    source, source_labels, target, target_labels = load("cpu")
    torch.manual_seed(seed)
    network = run.network()
    method = run.method()
    groups = network.groups() if isinstance(network, WithHeads) else [{"params": network.parameters()}]
    optimizer = torch.optim.Adam([*groups, {"params": method.parameters()}], lr=RATE, betas=(run.momentum, 0.999))
    generator = torch.Generator().manual_seed(seed)
    source_batches, target_batches = batches(len(source), generator), batches(len(target), generator)
    for _ in range(run.steps):
        index = next(source_batches)
        batch = run.look(network, source[index], source_labels[index], target[next(target_batches)])
        loss = method(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        right = network.classify(network(target)).argmax(1) == target_labels
    share: float = right.double().mean().item()
    return 100 * share


def main() -> None:
    """Train every run of the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=list(TABLES), help="default: all")
    tables = {table: TABLES[table] for table in parser.parse_args().tables}
    cells = [(table, row, column) for table, rows in tables.items() for row, runs in rows.items() for column in runs]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = {cell: [pool.submit(train, *cell, seed) for seed in SEEDS] for cell in cells}
        done = {cell: [run.result() for run in runs] for cell, runs in jobs.items()}
    for table, rows in tables.items():
        columns = list(next(iter(rows.values())))
        lines = [line("", *columns), line("---", *["---:"] * len(columns))]
        for row in rows:
            values = [done[table, row, column] for column in columns]
            lines.append(line(row, *(f"{mean(accuracies):.1f} ± {stdev(accuracies):.1f}" for accuracies in values)))
        write(PAGES[table], table, lines)


if __name__ == "__main__":
    main()
