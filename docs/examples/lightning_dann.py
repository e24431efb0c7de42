"""DANN in a LightningModule, MNIST to optdigits: the loss is an attribute, and the log of its epochs.

Data and network are those of digits.py and methods.py, beside this file. Three rows from the same seeds in the same
code: "source only" leaves the loss out, "control" multiplies it by 0, "DANN" adds it. Target labels serve for the score
alone, and the last epoch is what counts.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from statistics import fmean

import lightning as L
import torch
from digits import BATCH, load, spread
from lightning.pytorch.loggers import CSVLogger
from methods import CLASSES, WIDTH, Network
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from adaption import DomainAdversarialLoss, MaximumMeanDiscrepancyTest
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

WEIGHTS = {"source only": None, "control": 0.0, "DANN": 1.0}


class Adaptation(L.LightningModule):
    """Cross entropy on the source, plus `weight` times DANN."""

    def __init__(self, weight: float | None, steps: int) -> None:
        super().__init__()
        self.weight = weight
        self.network = Network()
        self.dann = DomainAdversarialLoss(
            DomainDiscriminator(WIDTH, 64, batch_norm=False),
            grl=WarmStartGradientReversalLayer(alpha=10.0, max_iters=steps, auto_step=True),
        )
        self.dann.persistent(mode=True)  # a checkpoint in the middle of an epoch holds its first half
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.shift = MaximumMeanDiscrepancyTest()  # DANN's own value is not a distance

    def training_step(self, batch: dict[str, list[Tensor]]) -> Tensor:
        """The loss of a step: the discriminator's parameters are the metric's, and the reversal turns the sign."""
        (source_images, labels), (target_images,) = batch["source"], batch["target"]
        source, target = self.network(source_images), self.network(target_images)
        loss = F.cross_entropy(self.network.classify(source), labels)
        if self.weight is not None:
            loss = loss + self.weight * self.dann(source, target)
            self.log("dann", self.dann, on_step=True, on_epoch=True, prog_bar=True)
        self.shift.update(source, target)
        return loss

    def on_train_epoch_end(self) -> None:
        """How far apart the features were, whatever the loss."""
        self.log("mmd", self.shift.compute()["mmd"])
        self.shift.reset()

    def validation_step(self, batch: list[Tensor]) -> None:
        """The score on the target."""
        images, labels = batch
        self.accuracy(self.network.classify(self.network(images)), labels)
        self.log("accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer for both players."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def train(name: str, seed: int, epochs: int, out: Path) -> dict[str, float]:
    """Train one row from one seed; return what it logged last."""
    L.seed_everything(seed, verbose=False)
    torch.set_num_threads(1)  # so small a network gains nothing from more, and the figures stay the same
    source_images, source_labels, target_images, target_labels = load("cpu")
    source = DataLoader(TensorDataset(source_images, source_labels), BATCH, shuffle=True)
    target = DataLoader(TensorDataset(target_images), BATCH, shuffle=True)  # shorter: it begins anew
    test = DataLoader(TensorDataset(target_images, target_labels), 1000)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(out, name.replace(" ", "_"), seed),
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
    trainer.fit(Adaptation(WEIGHTS[name], epochs * len(source)), {"source": source, "target": target}, test)
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def table(results: dict[str, list[dict[str, float]]]) -> Table:
    """One line per row: means over seeds."""
    shown = Table(title="MNIST to optdigits, last epoch")
    shown.add_column("loss")
    for column in ("target accuracy %", "MMD", "DANN"):
        shown.add_column(column, justify="right")
    for name, runs in results.items():
        accuracy, mmd = spread([100 * run["accuracy"] for run in runs]), fmean(run["mmd"] for run in runs)
        dann = [run["dann_epoch"] for run in runs if "dann_epoch" in run]
        figures = f"{mmd:.3f}", f"{fmean(dann):.3f}" if dann else ""
        shown.add_row(name, accuracy, *figures)
    return shown


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on (default: 3)")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the source (default: 12)")
    parser.add_argument("--out", type=Path, default=Path("out") / "lightning", help="folder for the CSV logs")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # the data are in memory
    warnings.filterwarnings("ignore", ".*LeafSpec")  # what Lightning asks of torch
    results = {
        name: [train(name, seed, arguments.epochs, arguments.out) for seed in range(arguments.seeds)]
        for name in WEIGHTS
    }
    Console().print(table(results))
    Console().print(f"logs: {arguments.out}")
