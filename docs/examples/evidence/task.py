"""What a task is: rows of losses, shifts between domains, and the one loop that trains every row on every shift."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from methods import Method
from torch import Tensor
from torch.nn import functional as F

from adaption import MaximumMeanDiscrepancyLoss

SOURCE_ONLY, CONTROL = "source only", "control"
OFF = " switched off"  # behind the name of a row: the same with its losses times 0, where it adds more than losses


class Trial(NamedTuple):
    """One row on one shift from one seed, ready to be trained."""

    method: Method  # a batch -> the loss of the step
    batch: Callable[[], dict[str, Any]]  # the next batch; its "source" and "target" are the features to be compared
    score: Callable[[], dict[str, float]]  # the figures of the target's test part, the task's own among them
    optimizer: torch.optim.Optimizer


class Budget(NamedTuple):
    """How long each row trains, in epochs of so many steps: the same for all rows of a task."""

    epochs: int
    steps: int

    @property
    def total(self) -> int:
        """Steps of the whole run, which the schedules of a loss ask for."""
        return self.epochs * self.steps


class Task(NamedTuple):
    """What a script of this folder states; the command trains it and writes it down."""

    title: str
    about: str
    needs: tuple[str, ...]  # the files of the data
    shifts: tuple[str, ...]
    rows: tuple[str, ...]  # with `SOURCE_ONLY` and `CONTROL`
    begin: Callable[[str, str, int, Budget, Path | None], Trial]  # (row, shift, seed, budget, folder of the data)
    budget: Budget
    score: str  # the name of the figure that counts, with its unit
    lower_is_better: bool = False
    seeds: int = 5  # by default, from 0 on
    together: bool = False  # one table of means over many shifts, in place of a table for each
    against: tuple[str, ...] = (SOURCE_ONLY,)  # the rows that all others are compared with, seed by seed
    published: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({})  # paper -> shift -> row -> figure


def load(name: str) -> Task:
    """What the script of this name states."""
    task: Task = import_module(f"evidence.{name}").TASK
    return task


def run(name: str, row: str, shift: str, seed: int, *, budget: Budget, folder: Path | None) -> dict[str, Any]:
    """The history of one run of the script of this name: a job for a process of its own."""
    return train(load(name), row, shift, seed, budget, folder)


def train(task: Task, row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> dict[str, Any]:
    """Train one row; return its history: of every epoch the figures, the domain distance and the losses."""
    torch.set_num_threads(1)  # so that the figures stay the same, whatever else runs
    torch.manual_seed(seed)
    started = time.perf_counter()
    trial = task.begin(row, shift, seed, budget, folder)
    metrics = trial.method.metrics
    yardstick = MaximumMeanDiscrepancyLoss()  # the same log for every row
    history: dict[str, Any] = {"figures": [], "distance": [], "losses": []}
    for _ in range(budget.epochs):
        for _ in range(budget.steps):
            batch = trial.batch()
            loss = trial.method(batch)
            trial.optimizer.zero_grad()
            loss.backward()
            trial.optimizer.step()
            trial.method.after_step(trial.optimizer)
            yardstick.update(batch["source"], batch["target"])
        with torch.no_grad():
            history["figures"].append(trial.score())
        history["distance"].append(yardstick.compute().item())
        history["losses"].append({name: loss.compute().item() for name, loss in metrics.items() if loss.update_called})
        yardstick.reset()
        metrics.reset()
    return {**history, "seconds": time.perf_counter() - started}


def pooled(maps: Tensor, rows: int, columns: int) -> Tensor:
    """The mean features of so many parts of every image, for the domain distance of dense features."""
    return F.adaptive_avg_pool2d(maps, (rows, columns)).flatten(2).mT.flatten(0, 1)


def batches(size: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices in random order, again and again; every batch is full."""
    order = torch.empty(0, dtype=torch.long)
    while True:
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(size, generator=generator)])
        index, order = order[:batch], order[batch:]
        yield index
