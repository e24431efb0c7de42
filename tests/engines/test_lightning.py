"""Losses as attributes of a LightningModule, in real runs of the Trainer."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from adaption import ConditionalDomainAdversarialLoss, DomainAdversarialLoss, MaximumMeanDiscrepancyLoss
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # Lightning's advice on speed
    "ignore:.*treespec, LeafSpec:FutureWarning",  # what Lightning asks of torch
    "ignore:.*Checkpoint directory .* is not empty",
)

STEPS, BATCH = 4, 8


class Model(L.LightningModule):
    """Three losses over features: a distance that is only logged by its name, and two games with schedules."""

    def __init__(self, *, scheduled: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        schedule: dict[str, Any] = (
            {"alpha": 10.0, "max_iters": 2 * STEPS, "auto_step": True} if scheduled else {"lo": 0.5, "hi": 0.5}
        )
        dann, cdan = (WarmStartGradientReversalLayer(**schedule) for _ in range(2))
        self.extractor, self.classifier = nn.Linear(5, 6), nn.Linear(6, 3)
        self.distance = MaximumMeanDiscrepancyLoss()
        self.dann = DomainAdversarialLoss(DomainDiscriminator(6, 8, batch_norm=False), grl=dann)
        self.cdan = ConditionalDomainAdversarialLoss(
            *(DomainDiscriminator(16, 8, batch_norm=False), True, True, 3, 6, 16), grl=cdan
        )
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any) -> Tensor:
        source, labels, target = batch
        source, target = self.extractor(source), self.extractor(target)
        source_logits, target_logits = self.classifier(source), self.classifier(target)
        losses: Tensor = (
            F.cross_entropy(source_logits, labels) + self.dann(source, target) + self.distance(source, target)
        )
        losses = losses + self.cdan(source_logits, source, target_logits, target)
        for name in ("distance", "dann", "cdan"):
            self.log(name, getattr(self, name), on_step=True, on_epoch=True)
        self.seen.append((source.detach(), target.detach()))
        return losses

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randn(2, STEPS * BATCH, 5, generator=generator)
    return TensorDataset(source, torch.randint(3, (len(source),), generator=generator), target + 1)


class ResumableLoader:
    """Batches in order, from where a checkpoint left off; Lightning saves and loads what has these methods."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        for batch in islice(DataLoader(data(), BATCH), self.position, None):
            self.position = (self.position + 1) % STEPS
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def trainer(folder: Path, **settings: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    settings = {"enable_checkpointing": False, "devices": 1, **quiet, **settings}
    return L.Trainer(accelerator="cpu", logger=CSVLogger(folder, "", ""), **{"max_epochs": 2, **settings})


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_logged_values_are_those_by_hand_and_epochs_start_anew(tmp_path: Path) -> None:
    model = Model()
    trainer(tmp_path).fit(model, DataLoader(data(), BATCH))
    by_step = [MaximumMeanDiscrepancyLoss()(*batch).item() for batch in model.seen]
    assert logged(tmp_path, "distance_step") == pytest.approx(by_step, rel=1e-6)
    epochs = []
    for seen in (model.seen[:STEPS], model.seen[STEPS:]):
        metric = MaximumMeanDiscrepancyLoss()
        for batch in seen:
            metric.update(*batch)
        epochs.append(metric.compute().item())
    assert logged(tmp_path, "distance_epoch") == pytest.approx(epochs, rel=1e-6)
    assert model.distance.update_count == model.dann.update_count == 0
    assert model.dann.state_dict()["grl.iteration"] == 2 * STEPS  # a schedule is no part of an epoch


def persistent(model: Model) -> Model:
    for metric in (model.distance, model.dann, model.cdan):
        metric.persistent(mode=True)
    return model


def test_resumed_in_the_middle_of_an_epoch_nothing_differs(tmp_path: Path) -> None:
    """The first run saves itself in the middle of its second epoch and goes on; the second takes over from there."""

    def run(folder: str, **resume: Any) -> Model:
        model = persistent(Model())
        with torch.no_grad():
            model.cdan.get_buffer("joint_map.features_matrix").normal_()  # another draw in each process
        keep = ModelCheckpoint(tmp_path, filename="cut-{step}", every_n_train_steps=STEPS + 2, save_top_k=-1)
        settings = {"enable_checkpointing": True, "callbacks": [keep]}
        trainer(tmp_path / folder, **settings).fit(model, ResumableLoader(), **resume)
        return model

    whole = run("whole")
    resumed = run("resumed", ckpt_path=tmp_path / "cut-step=6.ckpt", weights_only=True)
    assert len(resumed.seen) == STEPS - 2
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)
    for name in ("distance_epoch", "dann_epoch", "cdan_epoch"):
        assert logged(tmp_path / "resumed", name) == logged(tmp_path / "whole", name)[1:]


class Divided(Model):
    """Half batches, dealt out to the ranks in turn."""

    def train_dataloader(self) -> DataLoader[Any]:
        halves = torch.arange(STEPS * BATCH).split(BATCH // 2)
        return DataLoader(
            data(), batch_sampler=[half.tolist() for half in halves][self.global_rank :: self.trainer.world_size]
        )


def test_ranks_log_what_one_process_logs(tmp_path: Path) -> None:
    """Two ranks average their gradients, and one process those of every two batches: both take the same steps."""
    ddp: dict[str, Any] = {"strategy": "ddp_spawn", "devices": 2, "use_distributed_sampler": False}
    try:
        trainer(tmp_path / "two", **ddp).fit(Divided(scheduled=False))
    except ProcessExitedException as error:
        # gloo's threads can abort an interpreter that shuts down: https://github.com/pytorch/pytorch/pull/179291
        if error.signal_name != "SIGABRT":
            raise
    trainer(tmp_path / "one", accumulate_grad_batches=2).fit(Divided(scheduled=False))
    for name in ("distance_epoch", "dann_epoch", "cdan_epoch"):
        assert logged(tmp_path / "two", name) == pytest.approx(logged(tmp_path / "one", name), rel=1e-6)


class Validated(Model):
    """A game with a metric of its own for validation, over the discriminator that is trained."""

    def __init__(self, batch_size: int = BATCH) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.val_dann = DomainAdversarialLoss(self.dann.domain_disc)
        self.expected: list[float] = []
        self.validated = DomainAdversarialLoss(nn.Identity())

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(data(), self.batch_size)

    val_dataloader = train_dataloader

    def validation_step(self, batch: Any) -> None:
        source, _, target = batch
        source, target = self.extractor(source), self.extractor(target)
        self.val_dann.update(source, target)
        self.log("val_dann", self.val_dann)
        self.validated.update(self.dann.domain_disc(source), self.dann.domain_disc(target))

    def on_validation_epoch_end(self) -> None:
        self.expected.append(self.validated.compute().item())
        self.validated.reset()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_validation_has_an_epoch_of_its_own_and_the_discriminator_of_training(tmp_path: Path, precision: Any) -> None:
    model = Validated()
    average = EMAWeightAveraging(decay=0.5)  # validation asks the averaged discriminator
    trainer(tmp_path, precision=precision, val_check_interval=0.5, callbacks=[average]).fit(model)
    sanity_check, *expected = model.expected
    assert sanity_check != expected[0]
    assert logged(tmp_path, "val_dann") == pytest.approx(expected, rel=1e-6)
    assert len(model.seen) == 2 * STEPS
    epochs = []
    for seen in (model.seen[:STEPS], model.seen[STEPS:]):
        metric = MaximumMeanDiscrepancyLoss()
        for batch in seen:
            metric.update(*batch)
        epochs.append(metric.compute().item())
    assert logged(tmp_path, "distance_epoch") == pytest.approx(epochs, rel=1e-6)


class InBothLoops(Validated):
    """One object for training and validation, as the page says not to do."""

    def validation_step(self, batch: Any) -> None:
        source, _, target = batch
        self.distance.update(self.extractor(source), self.extractor(target))
        self.log("val_distance", self.distance)

    def on_validation_epoch_end(self) -> None:
        """Nothing by hand."""


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric .* was called before the ``update``")
def test_one_object_in_both_loops_gives_nan_for_the_training_epoch(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=1).fit(InBothLoops())
    (distance,) = logged(tmp_path, "distance_epoch")
    assert math.isnan(distance)
    assert math.isfinite(*logged(tmp_path, "val_distance"))  # the mix of both, computed and reset first


@pytest.mark.filterwarnings("ignore:.*bottleneck", "ignore:.*FLOPs", "ignore:.*no `val_dataloader`")
def test_the_tuner_leaves_no_trace(tmp_path: Path) -> None:
    model = persistent(Validated())
    before = copy.deepcopy(model.state_dict())
    tuner = Tuner(trainer(tmp_path, default_root_dir=tmp_path))
    tuner.lr_find(model, num_training=5, update_attr=False)
    assert len(model.seen) >= 5
    tuner.scale_batch_size(model, init_val=4, max_trials=1, steps_per_trial=2)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


class Discriminators(Callback):
    """Remembers a parameter of a discriminator as it is at the start of each epoch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_epoch_start(self, _: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append(pl_module.get_parameter("dann.domain_disc.layers.0.weight").detach().clone())


def test_discriminators_are_averaged_like_the_network(tmp_path: Path) -> None:
    model, by_epoch = Model(), Discriminators()
    callbacks = [by_epoch, StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=2)]  # from the second epoch on
    trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(model, DataLoader(data(), BATCH))
    averaged = model.get_parameter("dann.domain_disc.layers.0.weight").detach()
    torch.testing.assert_close(averaged, torch.stack(by_epoch.seen[1:]).mean(0))
    assert model.dann.state_dict()["grl.iteration"] == 3 * STEPS
