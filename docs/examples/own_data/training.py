"""Train networks within a time limit, and record predictions for the target at several checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F

from adaption import MaximumMeanDiscrepancyTest
from own_data.files import Data
from own_data.networks import Network
from own_data.suite import CONTROL, SOURCE_ONLY, Batch, Make

BATCH = 64
FEWEST_STEPS, MOST_STEPS = 50, 800
CHECKPOINTS = 4  # of a run, evenly spaced; each is a candidate
LOOKED_AT = 2000  # samples of a domain, at most, that are looked at on the way

State = dict[str, Tensor]


class Run(NamedTuple):
    """A training run: a row of the suite, a factor for its loss, and a seed."""

    row: str
    factor: float
    seed: int


class Candidate(NamedTuple):
    """A network at a checkpoint.

    Args:
        run: the training run.
        step: the number of steps so far.
        outputs: outputs for the target samples in use.
        distance: the unbiased MMD of the features.
        accuracy: on the labelled target samples, if there are any; in a regression the error (RMSE).
        state: its parameters.
    """

    run: Run
    step: int
    outputs: Tensor
    distance: float
    accuracy: float | None
    state: State


class Trainer:
    """Everything that all runs share.

    Args:
        data: both domains, standardised.
        fresh: a network with random weights.
        suite: the rows.
        steps: of each run.
    """

    def __init__(self, data: Data, fresh: Callable[[], Network], suite: dict[str, Make], steps: int) -> None:
        self.data, self.fresh, self.suite, self.steps = data, fresh, suite, steps
        draw = torch.Generator().manual_seed(0)
        self.seen = [torch.randperm(len(x), generator=draw)[:LOOKED_AT] for x in (data.source, data.target)]
        labels = data.labels.float()
        self.mean, self.deviation = labels.mean(), labels.std().clamp(min=1e-12)

    def train(self, run: Run) -> Iterator[Candidate]:
        """Train one run, and yield its checkpoints."""
        torch.manual_seed(run.seed)
        data, network = self.data, self.fresh()
        with torch.no_grad():
            width = network.eval().extract(data.source[:2]).shape[1]
        added = self.suite[run.row](network, width, self.steps)
        groups = [{"params": network.parameters(), "lr": 1e-3}]
        if added is not None:
            added.weight *= run.factor
            groups.append({"params": added.parameters(), "lr": 4e-3})  # discriminators keep pace with the features
        optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999))  # 0.9 lets a game swing
        draw = torch.Generator().manual_seed(run.seed)
        source, target = (batches(len(x), draw) for x in (data.source, data.target))
        marks = {round(self.steps * k / CHECKPOINTS) for k in range(1, CHECKPOINTS + 1)}
        for step in range(1, self.steps + 1):
            network.train()
            index = next(source)
            batch = self.look(network, data.source[index], data.labels[index], data.target[next(target)])
            loss = self.task(batch)
            if added is not None:
                loss = loss + added(batch, (step - 1) / self.steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if added is not None:
                added.after_step()
            if step in marks:
                yield self.candidate(run, step, network)

    def look(self, network: Network, source: Tensor, labels: Tensor, target: Tensor) -> Batch:
        """A batch with its features and outputs."""
        features = network.extract(source), network.extract(target)
        return Batch(labels, target, *features, *(network.head(x) for x in features))

    def task(self, batch: Batch) -> Tensor:
        """Cross entropy, or the squared error in units of the labels' variance."""
        if self.data.classes:
            return F.cross_entropy(batch.source_outputs, batch.labels)
        return F.mse_loss(batch.source_outputs, (batch.labels - self.mean) / self.deviation)

    @torch.no_grad()
    def candidate(self, run: Run, step: int, network: Network) -> Candidate:
        """The candidate for the current network."""
        network.eval()
        source, target = (x[seen] for x, seen in zip((self.data.source, self.data.target), self.seen, strict=True))
        test = MaximumMeanDiscrepancyTest()
        test.update(self.features(network, source[:500]), self.features(network, target[:500]))
        outputs = self.answers(network, target)
        accuracy = None
        if self.data.target_labels is not None:
            accuracy = self.score(outputs, self.data.target_labels[self.seen[1]])
        state = {name: value.clone() for name, value in network.state_dict().items()}
        return Candidate(run, step, outputs, test.compute()["mmd"].item(), accuracy, state)

    def features(self, network: Network, x: Tensor) -> Tensor:
        """Features of many samples."""
        return torch.cat([network.extract(part) for part in x.split(500)])

    @torch.no_grad()
    def answers(self, network: Network, x: Tensor) -> Tensor:
        """Logits, or values in the units of the labels."""
        answers = torch.cat([network(part) for part in x.split(500)])
        return answers if self.data.classes else answers * self.deviation + self.mean

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """The accuracy, or the error (RMSE)."""
        if self.data.classes:
            return (outputs.argmax(1) == labels).double().mean().item()
        return (outputs - labels).double().square().mean().sqrt().item()

    def network(self, candidate: Candidate) -> Network:
        """A candidate's network."""
        network = self.fresh()
        network.load_state_dict(candidate.state)
        return network.eval()


def batches(size: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Batches of shuffled indices, without end; each batch is full, or holds all samples."""
    order = torch.randperm(size, generator=draw)
    while True:
        while len(order) < min(BATCH, size):
            order = torch.cat([order, torch.randperm(size, generator=draw)])
        yield order[:BATCH]
        order = order[BATCH:]


def plan(suite: dict[str, Make], factors: list[float], seeds: int) -> list[Run]:
    """All runs, the most informative first: every loss at its default weight for each seed, then at other weights."""
    others = [factor for factor in factors if factor != 1]
    fixed = (SOURCE_ONLY, CONTROL)
    runs = [Run(row, 1.0, seed) for seed in range(seeds) for row in suite]
    return runs + [
        Run(row, factor, seed) for seed in range(seeds) for factor in others for row in suite if row not in fixed
    ]


def affordable(trainer: Trainer, runs: int, seconds: float) -> int:
    """The number of steps for each run, limited so that all runs end in time, this trial included."""
    began = time.perf_counter()

    def taken(steps: int) -> float:
        trial = Trainer(trainer.data, trainer.fresh, trainer.suite, steps)
        started = time.perf_counter()
        for _ in trial.train(Run(list(trainer.suite)[-1], 1.0, 0)):
            pass
        return time.perf_counter() - started

    taken(CHECKPOINTS)  # what is loaded at first use
    # the shortest of three: whatever else the machine does only adds to the time
    looks, both = (min(taken(times * CHECKPOINTS) for _ in range(3)) for times in (1, 10))
    step = max(both - looks, 1e-6) / (9 * CHECKPOINTS)
    left = seconds - (time.perf_counter() - began)
    return max(FEWEST_STEPS, min(MOST_STEPS, int((left / runs - looks) / step)))


def train_all(trainer: Trainer, runs: list[Run], seconds: float, console: Console) -> tuple[list[Candidate], bool]:
    """The candidates of the runs that end in time, and whether the user interrupted the training."""
    found: list[Candidate] = []
    ends = time.perf_counter() + seconds
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    longest = 0.0
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=len(runs))
            for number, run in enumerate(runs):
                started = time.perf_counter()
                if number >= len(trainer.suite) and started + longest > ends:
                    break  # but every row has its first run
                progress.update(task, description=f"{run.row}, weight x {run.factor:g}, seed {run.seed}")
                found += trainer.train(run)
                longest = max(longest, time.perf_counter() - started)
                progress.advance(task)
    except KeyboardInterrupt:
        return found, True
    return found, False
