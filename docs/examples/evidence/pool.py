"""A pool of checkpoints to choose from: the rows of two tasks, at three weights, at several epochs.

The rows, networks and optimizers are those of the digits and the objects. The weight of each loss is multiplied by 0.1,
1 and 10. ADDA's loss has no weight; there the learning rate of the moving encoder is multiplied instead. No run is left
out because it is bad. A fifth of the source is not trained on: it is there for the scores that ask for labels. What a
run says at each checkpoint is kept in a file of its own, so that a score can be added without any training, and a row
without training the others. Delete the files after a change of the library: they do not know which code made them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from methods import Discriminative, Method
from methods import Network as Convolutions
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from adaption.functional import maximum_mean_discrepancy
from evidence import digits, objects
from evidence.classification import Domains, classifier, logits
from evidence.task import CONTROL, OFF, SOURCE_ONLY

FACTORS = (0.1, 1.0, 10.0)
COMPARED = 500  # samples of each domain for the domain distance


class Pool(NamedTuple):
    """A task whose rows are candidates.

    Args:
        needs: the files of its data.
        shifts: from which domain to which.
        domains: `(shift, seed, folder)` -> the domains.
        network: the domains -> a fresh network.
        rows: name -> `(network, steps)` -> method.
        batch: samples of each domain in a step.
        steps: steps of an epoch.
        checkpoints: after which epochs the network is a candidate.
    """

    needs: tuple[str, ...]
    shifts: tuple[str, ...]
    domains: Callable[[str, int, Path | None], Domains]
    network: Callable[[Domains], nn.Module]
    rows: dict[str, Callable[[Any, int], Method]]
    batch: int
    steps: int
    checkpoints: tuple[int, ...]


def of_digits(shift: str, seed: int, folder: Path | None) -> Domains:
    """The images that the seed draws."""
    drawn = digits.draw(folder, seed)
    source, target = shift.lower().split(" to ")
    return Domains(*drawn[source], drawn[target][0], *digits.images(folder, target, "test"))


def of_objects(shift: str, _: int, folder: Path | None) -> Domains:
    """The pictures, the same for every seed."""
    source, target = (objects.pictures(folder, domain) for domain in shift.split(" to "))
    return Domains(*source, target[0], *target)


POOLS = {
    "digits": Pool(
        digits.TASK.needs,
        digits.TASK.shifts,
        of_digits,
        lambda _: Convolutions(side=16).to(memory_format=torch.channels_last),  # a third less time
        digits.ROWS,
        batch=100,
        steps=40,
        checkpoints=(2, 4, 8),
    ),
    "objects": Pool(
        objects.TASK.needs,
        objects.TASK.shifts,
        of_objects,
        lambda domains: objects.Network(domains.source.shape[1]),
        objects.ROWS,
        batch=64,
        steps=25,
        checkpoints=(2, 4, 8),
    ),
}


class Run(NamedTuple):
    """A row at a weight on a shift, from a seed."""

    pool: str
    shift: str
    row: str
    factor: float
    seed: int

    def file(self, folder: Path) -> Path:
        """Where what it says is kept."""
        name = f"{self.row}, times {self.factor:g}, seed {self.seed}.npz"
        return folder / self.pool / self.shift / name.replace(" ", "_")

    def is_kept(self, folder: Path, steps: int | None) -> bool:
        """Whether its file is there, and of a run of this length."""
        if not self.file(folder).is_file():
            return False
        with np.load(self.file(folder), allow_pickle=False) as file:
            pool = POOLS[self.pool]
            return tuple(file["epoch"]) == pool.checkpoints and int(file["steps"]) == (steps or pool.steps)


def runs(name: str, shifts: tuple[str, ...], seeds: range, rows: tuple[str, ...] | None = None) -> Iterator[Run]:
    """Every run of a pool; rows without a loss have no weight, and those that switch one off are not candidates."""
    for row in rows or POOLS[name].rows:
        if row != CONTROL and not row.endswith(OFF):
            factors = (1.0,) if row == SOURCE_ONLY else FACTORS
            for shift, factor, seed in itertools.product(shifts, factors, seeds):
                yield Run(name, shift, row, factor, seed)


def scaled(method: Method, factor: float) -> Method:
    """The method with its losses times a factor."""
    if isinstance(method, Discriminative):
        method.rate *= factor
    method.weights = {name: factor * method.weights.get(name, 1.0) for name in method.metrics}
    return method


def keep(run: Run, data: Path | None, folder: Path, steps: int | None = None) -> float:
    """Train, and write what the network says at each checkpoint; return the seconds of computing that it took."""
    torch.set_num_threads(1)  # so that the figures stay the same, whatever else runs
    pool, started = POOLS[run.pool], time.process_time()
    steps = steps or pool.steps
    domains = pool.domains(run.shift, run.seed, data)
    order = torch.randperm(len(domains.source), generator=torch.Generator().manual_seed(run.seed))
    held, trained = order.tensor_split([len(order) // 5])
    labelled = domains.source[held], domains.labels[held]
    domains = domains._replace(source=domains.source[trained], labels=domains.labels[trained])
    torch.manual_seed(run.seed)
    network = pool.network(domains)
    method = scaled(pool.rows[run.row](network, pool.checkpoints[-1] * steps), run.factor)
    trial = classifier(network, method, domains, pool.batch, run.seed)
    found: dict[str, list[Any]] = {}
    for epoch in range(1, pool.checkpoints[-1] + 1):
        for _ in range(steps):
            loss = method(trial.batch())
            trial.optimizer.zero_grad()
            loss.backward()
            trial.optimizer.step()
            method.after_step(trial.optimizer)
        method.metrics.reset()
        if epoch in pool.checkpoints:
            with torch.no_grad():
                accuracy = trial.score()["accuracy %"]
                said = {"epoch": epoch, "accuracy": accuracy, **look(network.eval(), domains, labelled[0])}
            for key, value in said.items():
                found.setdefault(key, []).append(value)
    path = run.file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    half_done = path.with_suffix(".part.npz")  # a file under its own name is whole
    seconds = time.process_time() - started
    numbers = len(domains.source), len(domains.target)
    np.savez_compressed(
        half_done, **found, held_labels=labelled[1].numpy(), numbers=np.array(numbers), steps=steps, seconds=seconds
    )
    half_done.replace(path)
    return seconds


def look(network: Any, domains: Domains, held: Tensor) -> dict[str, NDArray | float]:
    """What scores ask a network for: it is in evaluation mode."""
    features = [
        torch.cat([network(part) for part in samples.split(1000)]) for samples in (domains.source, domains.target, held)
    ]
    source, target, held_out = features
    return {
        "target_logits": network.classify(target).numpy(),
        "held_logits": logits(network, held).numpy(),
        "domain_logits": domain_logits(source, target, held_out),
        "distance": maximum_mean_discrepancy(source[:COMPARED], target[:COMPARED]).item(),
    }


def domain_logits(source: Tensor, target: Tensor, held_out: Tensor) -> NDArray:
    """What a logistic regression on the features says of held-out source samples; NaN where the features are."""
    both = torch.cat([source, target])
    if not bool(both.isfinite().all() and held_out.isfinite().all()):
        return np.full(len(held_out), np.nan)
    labels = np.repeat([0, 1], [len(source), len(target)])
    regression = LogisticRegression(C=0.01, max_iter=1000).fit(both.double().numpy(), labels)
    decided: NDArray = regression.decision_function(held_out.double().numpy())
    return decided
