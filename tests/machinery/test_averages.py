"""Averages of a model that holds losses: weights are averaged, and what counts goes on counting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from adaption import AutomaticUpdateClassWeightModule, ConditionalDomainAdversarialLoss, DomainAdversarialLoss
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

STEPS = 6


def schedule() -> WarmStartGradientReversalLayer:
    return WarmStartGradientReversalLayer(alpha=10.0, max_iters=100, auto_step=True)


class Model(L.LightningModule):
    """Two games with schedules, and class weights that count steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 6)
        self.dann = DomainAdversarialLoss(DomainDiscriminator(6, 8, batch_norm=False), grl=schedule())
        self.cdan = ConditionalDomainAdversarialLoss(nn.Linear(36, 1), grl=schedule())
        self.weights = AutomaticUpdateClassWeightModule(100, [torch.randn(4, 6)], nn.Identity(), 6, "cpu")

    def training_step(self, batch: Any) -> Tensor:
        source, target = (self.layer(samples) for samples in batch)
        self.weights.step()
        return self.dann(source, target) + self.cdan(source, source, target, target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def counts(self) -> dict[str, int]:
        return {name: int(buffer) for name, buffer in self.named_buffers() if not buffer.is_floating_point()}


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(STEPS * 4, 5), torch.randn(STEPS * 4, 5) + 1), 4)


@pytest.mark.parametrize("average", [get_ema_multi_avg_fn(0.9), None], ids=["EMA", "mean"])
def test_an_averaged_model_counts_with_its_model(average: Any) -> None:
    """The default of `AveragedModel`: buffers are copied. With `use_buffers=True` torch averages counts, too."""
    model = Model()
    averaged = AveragedModel(model, multi_avg_fn=average)
    for batch in batches():
        model.training_step(batch)
        averaged.update_parameters(model)
    copied: Any = averaged.module
    assert copied.counts() == model.counts()
    assert set(model.counts().values()) == {STEPS}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.parametrize(
    "callback",
    [
        lambda: EMAWeightAveraging(decay=0.9, use_buffers=False),
        lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),
    ],
    ids=["EMA", "SWA"],
)
def test_lightnings_averages_leave_counts_alone(callback: Any, tmp_path: Path) -> None:
    model = Model()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    settings: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": False, "default_root_dir": tmp_path, **quiet}
    before = model.layer.weight.detach().clone()
    L.Trainer(accelerator="cpu", devices=1, callbacks=[callback()], **settings).fit(model, batches())
    assert not torch.equal(model.layer.weight, before)
    assert set(model.counts().values()) == {3 * STEPS}
