"""ADVENT's documented loop in a real Trainer, with a sanity check and validations between its steps."""

from __future__ import annotations

import copy
from typing import Any, cast

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from adaption import DomainAdversarialEntropyLoss
from adaption.layers import SegmentationDiscriminator

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # Lightning's advice on speed
    "ignore:.*treespec, LeafSpec:FutureWarning",  # what Lightning asks of torch
)


class Adaptation(L.LightningModule):
    """Two games over one discriminator; the order in which they are registered is that of their names."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.network, self.domain_disc = nn.Conv2d(1, 3, 1), SegmentationDiscriminator(3, ndf=2)
        games = {name: DomainAdversarialEntropyLoss(self.domain_disc) for name in (first, second)}
        self.games = nn.ModuleDict(games)
        self.disc_game, self.network_game = games["disc_game"], games["network_game"]
        self.turns: list[tuple[float, float]] = []

    def training_step(self, batch: Any) -> None:
        source, labels, target = batch
        optimizer, disc_optimizer = cast("Any", self.optimizers())
        self.turns.append(turn(self, optimizer, disc_optimizer, source, labels, target, self.manual_backward))

    def validation_step(self, batch: Any) -> None:
        self.network_game.update(self.network(batch[2]), "source")
        self.log("val", self.network_game)

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.SGD(self.network.parameters(), lr=0.1),
            torch.optim.SGD(self.domain_disc.parameters(), lr=0.1),
        )


def turn(
    model: Any, optimizer: Any, disc_optimizer: Any, source: Tensor, labels: Tensor, target: Tensor, backward: Any
) -> tuple[float, float]:
    """One step of both games, as the page of ADVENT has it."""
    model.network_game.eval()
    source_logits, target_logits = model.network(source), model.network(target)
    loss = F.cross_entropy(source_logits, labels) + 0.1 * model.network_game(target_logits, "source")
    optimizer.zero_grad()
    backward(loss)
    assert all(parameter.requires_grad for parameter in model.domain_disc.parameters())
    optimizer.step()
    model.network_game.train()
    disc_loss = model.disc_game(source_logits.detach(), "source") + model.disc_game(target_logits.detach(), "target")
    disc_optimizer.zero_grad()
    backward(0.5 * disc_loss)
    disc_optimizer.step()
    return loss.item(), disc_loss.item()


@pytest.mark.parametrize("names", [("disc_game", "network_game"), ("network_game", "disc_game")], ids=" ".join)
def test_advent_trains_through_validations_as_without(names: tuple[str, str]) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 8, 1, 32, 32, generator=generator)
    data = TensorDataset(images[0], torch.randint(3, (8, 32, 32), generator=generator), images[1])
    model = Adaptation(*names)
    plain = copy.deepcopy(model)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, val_check_interval=1, enable_checkpointing=False, **quiet
    )
    loader = DataLoader(data, 2)
    trainer.fit(model, loader, DataLoader(data, 4))
    assert trainer.callback_metrics["val"].isfinite()
    optimizer, disc_optimizer = plain.configure_optimizers()
    for _ in range(2):
        for batch in loader:
            source, labels, target = batch
            plain.turns.append(turn(plain, optimizer, disc_optimizer, source, labels, target, Tensor.backward))
    assert len(plain.turns) == 8
    torch.testing.assert_close(torch.tensor(model.turns), torch.tensor(plain.turns))
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.requires_grad
        torch.testing.assert_close(mine, other)
