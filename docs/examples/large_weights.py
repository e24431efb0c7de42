"""What a too large weight does: the spread of the features, and the accuracy on the target, for weights and batches.

Run ``python docs/examples/large_weights.py``; it trains every loss that aligns features on handwritten digits whose
halves are the two domains, alike or with the second half paler, and writes the tables of `docs/choosing.md` and
`docs/methods/mmd.md`. About ten minutes on two cores.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import (
    ConditionalDomainAdversarialLoss,
    DomainAdversarialLoss,
    JointMaximumMeanDiscrepancyLoss,
    MaximumMeanDiscrepancyLoss,
)
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

STEPS, WIDTH, CLASSES = 400, 32, 10
WEIGHTS, BATCHES, SEEDS = (1, 5, 20), (8, 16, 32), (0, 1, 2)
DOCS = Path(__file__).parents[1]


def warm() -> WarmStartGradientReversalLayer:
    """The schedule of DANN and CDAN, over the whole run."""
    return WarmStartGradientReversalLayer(alpha=10.0, max_iters=STEPS, auto_step=True)


# name: a fresh loss; it is asked for (source features, source logits, target features, target logits)
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "MMD": MaximumMeanDiscrepancyLoss,
    'MMD, `bandwidth="mean"`': partial(MaximumMeanDiscrepancyLoss, bandwidth="mean"),
    "MMD, unbiased": partial(MaximumMeanDiscrepancyLoss, estimator="unbiased"),
    "MMD, linear": partial(MaximumMeanDiscrepancyLoss, estimator="linear"),
    "MMD, `bandwidth=16.0`": partial(MaximumMeanDiscrepancyLoss, bandwidth=16.0),
    "JMMD": JointMaximumMeanDiscrepancyLoss,
    "JMMD, unbiased": partial(JointMaximumMeanDiscrepancyLoss, estimator="unbiased"),
    "DANN": lambda: DomainAdversarialLoss(DomainDiscriminator(WIDTH, 64, batch_norm=False), grl=warm()),
    "CDAN": lambda: ConditionalDomainAdversarialLoss(
        DomainDiscriminator(WIDTH * CLASSES, 64, batch_norm=False), grl=warm()
    ),
}
CHOICES = tuple(name for name in LOSSES if name.startswith(("MMD", "JMMD")))


class Outcome(NamedTuple):
    """What a run ends with."""

    spread: float  # root of the summed variances of the features of the target
    accuracy: float  # on the target, in percent


@cache
def halves(paler: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: FBT001 - a key of the cache
    """Images and labels of the source, images and labels of the target."""
    x, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float() / 16, y[order]
    half = len(x) // 2
    target = 0.5 * x[half:] + 0.25 if paler else x[half:]
    return x[:half], y[:half], target, y[half:]


def value(loss: nn.Module, source: Tensor, target: Tensor, classify: nn.Module) -> Tensor:
    """The loss of a batch of features."""
    logits = classify(source), classify(target)
    arguments = {
        JointMaximumMeanDiscrepancyLoss: lambda: (
            [source, logits[0].softmax(1)],
            [target, logits[1].softmax(1)],
        ),
        ConditionalDomainAdversarialLoss: lambda: (logits[0], source, logits[1], target),
    }.get(type(loss), lambda: (source, target))
    answer: Tensor = loss(*arguments())
    return answer


def train(
    name: str | None, weight: float, batch: int, seed: int, *, paler: bool = False, steps: int = STEPS
) -> Outcome:
    """Train a small network with a loss, or without one."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y, target_x, target_y = halves(paler)
    extract = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU())
    classify = nn.Linear(WIDTH, CLASSES)
    loss = nn.Identity() if name is None else LOSSES[name]()
    optimizer = torch.optim.Adam([*extract.parameters(), *classify.parameters(), *loss.parameters()])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen, others = (torch.randint(len(half), (batch,), generator=generator) for half in (x, target_x))
        source, target = extract(x[chosen]), extract(target_x[others])
        total = F.cross_entropy(classify(source), y[chosen])
        if name is not None:
            total = total + weight * value(loss, source, target, classify)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    with torch.no_grad():
        features = extract(target_x)
        right = (classify(features).argmax(1) == target_y).float().mean()
    return Outcome(features.var(0).sum().sqrt().item(), 100 * right.item())


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def write(page: Path, mark: str, lines: list[str]) -> None:
    """Put a table between its marks on a page."""
    between = re.compile(f"(<!-- {mark}: written by [^ ]* -->\n).*?(<!-- end of {mark} -->)", re.DOTALL)
    table = "\n".join(["", *lines, "", ""])
    text = between.sub(lambda marks: marks[1] + table + marks[2], page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Train every run once and write both tables."""
    plain = [(None, 0.0, batch, seed, paler) for batch, seed, paler in itertools.product(BATCHES, SEEDS, (False, True))]
    jobs = [*plain, *itertools.product(LOSSES, WEIGHTS, BATCHES, SEEDS, (False, True))]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        runs = {job: pool.submit(train, *job[:4], paler=job[4]) for job in jobs}
        done = {job: run.result() for job, run in runs.items()}

    def share(name: str, weight: int, batch: int) -> float:
        return min(done[name, weight, batch, s, False].spread / done[None, 0.0, batch, s, False].spread for s in SEEDS)

    def accuracy(name: str | None, weight: float, batch: int) -> float:
        return mean(done[name, weight, batch, seed, True].accuracy for seed in SEEDS)

    pairs = list(itertools.product(WEIGHTS, BATCHES))
    head = [line("", *(f"{weight}, {batch}" for weight, batch in pairs)), line("---", *["---:"] * len(pairs))]
    spreads = [line(name, *(f"{share(name, *pair):.2f}" for pair in pairs)) for name in LOSSES]
    write(DOCS / "choosing.md", "spread", [*head, *spreads])
    without = line("without a loss", *(f"{accuracy(None, 0.0, batch):.0f}" for _, batch in pairs))
    rows = [line(name, *(f"{accuracy(name, *pair):.0f}" for pair in pairs)) for name in LOSSES]
    write(DOCS / "choosing.md", "accuracy", [*head, without, *rows])


if __name__ == "__main__":
    main()
