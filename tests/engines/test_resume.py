"""A run that is cut in the middle of an epoch and resumed in a new process gives the same numbers, to the bit.

Run as a script, this file is that process: it resumes from the first path and saves what it ends with at the second.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from adaption import ConditionalDomainAdversarialLoss, L2ConsistencyLoss, MaximumMeanDiscrepancyLoss
from adaption.layers import DomainDiscriminator, EmaTeacher, WarmStartGradientReversalLayer

STEPS, EPOCHS, CUT, BATCH = 4, 3, 6, 32  # the cut is in the middle of the second epoch


class Adaptation(nn.Module):
    """A network with dropout, its teacher, and three losses: one with a schedule and a random map, one pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.extractor = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
        self.classifier = nn.Linear(32, 10)
        self.teacher = EmaTeacher(nn.Sequential(self.extractor, self.classifier), 0.9, warm_up=True)
        self.mmd = MaximumMeanDiscrepancyLoss(pooled=True)
        self.losses = MetricCollection(
            {
                "CDAN": ConditionalDomainAdversarialLoss(
                    *(DomainDiscriminator(24, 16), True, True, 10, 32, 24),
                    grl=WarmStartGradientReversalLayer(alpha=10.0, max_iters=STEPS * EPOCHS, auto_step=True),
                ),
                "consistency": L2ConsistencyLoss(),
            }
        )
        self.mmd.persistent(mode=True)
        self.losses.persistent(mode=True)

    def forward(self, source: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        """The loss of a step."""
        features = {"source_features": self.extractor(source), "target_features": self.extractor(target)}
        logits = {name.replace("features", "logits"): self.classifier(value) for name, value in features.items()}
        noisy = target + 0.1 * torch.randn_like(target)
        predictions = {"student": logits["target_logits"].softmax(1), "teacher": self.teacher(noisy).softmax(1)}
        losses = self.losses(**features, **logits, **predictions)
        loss: Tensor = F.cross_entropy(logits["source_logits"], labels) + self.mmd(**features) + sum(losses.values())
        return loss


class Run:
    """A model, its optimizer, and how far it is."""

    def __init__(self) -> None:
        self.model = Adaptation()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.step = 0
        self.epochs: list[dict[str, Tensor]] = []
        digits = torch.tensor(load_digits().data, dtype=torch.float32) / 16
        self.labels, self.source, self.target = torch.tensor(load_digits().target), digits, digits.flip(1)

    def go(self, until: int) -> None:
        while self.step < until:
            source, target = torch.randint(len(self.source), (2, BATCH))
            loss = self.model(self.source[source], self.labels[source], self.target[target])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.model.teacher.update()
            self.step += 1
            if self.step % STEPS == 0:
                self.epochs.append({"MMD": self.model.mmd.compute(), **self.model.losses.compute()})
                self.model.mmd.reset()
                self.model.losses.reset()

    def state(self) -> dict[str, Any]:
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**states, "step": self.step, "epochs": self.epochs, "random": torch.get_rng_state()}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epochs = state["step"], state["epochs"]
        torch.set_rng_state(state["random"])


def test_a_run_that_is_cut_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    run = Run()
    run.go(CUT)
    torch.save(run.state(), tmp_path / "cut.pt")
    run.go(STEPS * EPOCHS)
    command = [sys.executable, __file__, str(tmp_path / "cut.pt"), str(tmp_path / "end.pt")]
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
    resumed = torch.load(tmp_path / "end.pt", weights_only=True)
    assert len(resumed["epochs"]) == EPOCHS
    torch.testing.assert_close(resumed, run.state(), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["mmd.source_features", "losses.CDAN.grl.iteration", "teacher.n_averaged"])
def test_what_a_checkpoint_lacks_is_named(part: str) -> None:
    run = Run()
    run.go(CUT)
    state = run.state()
    del state["model"][part]
    with pytest.raises(RuntimeError, match=part):
        Run().load(state)


if __name__ == "__main__":
    torch.manual_seed(1)  # whatever a new process draws at its start
    resumed = Run()
    resumed.load(torch.load(sys.argv[1], weights_only=True))
    resumed.go(STEPS * EPOCHS)
    torch.save(resumed.state(), sys.argv[2])
