"""The paws, tail and nose of a mouse on a wheel, from the side and from below, 90 frames with seven keypoints.

Frame i of both views is the same instant, so each seed draws disjoint frames: 40 of the source with labels, 25 of the
target without, and 25 of the target for the score. Grey images of 64 x 128 pixels are normalised by the mean and
deviation of the source. The network halves them four times and comes back to heatmaps of 32 x 64; both domains pass
through batch normalisation together, in every row. RegDA has the paper's settings: the source alone for 70 % of the
run, a margin of 4, and a gradient layer that rises to 0.1; only the optimizer is Adam at 0.001 for all parts. Nothing
was tuned. The score is the share of the keypoints that are found within a tenth of the image's width, 12.8 pixels
(PCK); beside it stands their mean distance in pixels. Keypoints without a label count neither in training nor in the
score.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from methods import Method
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from adaption import RegressionDisparity
from adaption.layers import JointsKLLoss, PoseResNet2d, PseudoLabelGenerator2d, WarmStartGradientLayer
from evidence.data import arrays
from evidence.task import Budget, Task, Trial, batches, pooled

VIEWS = {"side": "top", "below": "bot"}  # as the file calls them
JOINTS, HEIGHT, WIDTH, STRIDE = 7, 32, 64, 2  # of the heatmaps, and how many pixels of the image one of theirs covers
DRAWN = [40, 25, 25]  # source, target, test
NEAR = 12.8


def network(steps: int) -> PoseResNet2d:
    """Four halvings, three doublings, two heads; the gradient layer's coefficient reaches 0.1 in so many steps."""
    backbone = [block(nn.Conv2d(*widths, 3, 2, padding=1)) for widths in ((1, 16), (16, 32), (32, 64), (64, 64))]
    upsampling = [block(nn.ConvTranspose2d(*widths, 4, 2, padding=1)) for widths in ((64, 64), (64, 32), (32, 16))]
    layer = WarmStartGradientLayer(alpha=5.0, hi=0.1, max_iters=steps)
    return PoseResNet2d(nn.Sequential(*backbone), nn.Sequential(*upsampling), 16, JOINTS, layer)


def block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """A convolution, normalised and rectified."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


# ---- the methods ------------------------------------------------------------------------------------------------


class Supervised(Method):
    """The divergence of the heatmaps from Gaussians at the labels."""

    def __init__(self, model: PoseResNet2d, _steps: int) -> None:
        super().__init__()
        self.model = [model]  # in a list, so that it is not among the method's parameters
        self.supervised = JointsKLLoss()

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of the main head on the source."""
        loss: Tensor = self.supervised(batch["source_heatmaps"], batch["heatmaps"], batch["visible"])
        return loss


class Regressive(Supervised):
    """RegDA: the source alone for the first part of the run, then the paper's three steps in one backward pass.

    What a step must not train is detached: the features in B, the adversarial head in C.
    """

    def __init__(self, model: PoseResNet2d, steps: int, weight: float = 1.0, margin: float = 4.0) -> None:
        super().__init__(model, steps)
        generator, criterion = PseudoLabelGenerator2d(JOINTS, HEIGHT, WIDTH), JointsKLLoss(epsilon=1e-7)
        names = ("A, agree on source", "B, mistake", "C, agree")
        self.metrics = MetricCollection({name: RegressionDisparity(generator, criterion) for name in names})
        self.weight, self.margin = weight, margin
        self.alone = pretraining(steps)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The supervised loss, and the three disparities."""
        loss = super().forward(batch)
        self.alone -= 1
        if self.alone >= 0:
            return loss
        model = self.model[0]
        frozen = {name: parameter.detach() for name, parameter in model.adv_head.named_parameters()}
        source_adv = model.adv_head(model.grl(batch["source_maps"]))
        mistaken = model.adv_head(batch["target_maps"].detach())
        agreed = torch.func.functional_call(model.adv_head, frozen, model.grl(batch["target_maps"]))
        target = batch["target_heatmaps"]
        return loss + self.weight * (
            self.margin * self.metrics["A, agree on source"](batch["source_heatmaps"], source_adv, batch["visible"])
            + self.metrics["B, mistake"](target, mistaken, mode="max")
            + self.metrics["C, agree"](target, agreed)
        )

    def after_step(self, _optimizer: torch.optim.Optimizer) -> None:
        """From the end of the first part on, the gradient of the adversarial head grows stronger."""
        if self.alone <= 0:
            self.model[0].step()


def pretraining(steps: int) -> int:
    """The steps on the source alone, as the paper has it 70 epochs of 100."""
    return int(0.7 * steps)


ROWS: dict[str, Callable[[PoseResNet2d, int], Method]] = {
    "source only": Supervised,
    "control": lambda model, steps: Regressive(model, steps, weight=0.0),
    "RegDA": Regressive,
}


# ---- the data and the score -------------------------------------------------------------------------------------


def view(folder: Path | None, name: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], and keypoints of shape `(N, JOINTS, 2)`, x before y."""
    files = arrays(folder, "mouse_keypoints")
    images = torch.from_numpy(files[f"X_{VIEWS[name]}"]).unsqueeze(1).float() / 255
    return images, torch.from_numpy(files[f"kp_{VIEWS[name]}"])


def drawings(keypoints: Tensor) -> tuple[Tensor, Tensor]:
    """The heatmaps of labels, and which labels there are."""
    visible = ~keypoints.isnan().any(2)
    x, y = (keypoints.nan_to_num() / STRIDE).long().unbind(2)
    places = F.one_hot(y.clamp(0, HEIGHT - 1) * WIDTH + x.clamp(0, WIDTH - 1), HEIGHT * WIDTH).float()
    generator = PseudoLabelGenerator2d(JOINTS, HEIGHT, WIDTH)
    return generator(places.view(-1, JOINTS, HEIGHT, WIDTH))[0], visible.float()


def figures(heatmaps: Tensor, keypoints: Tensor) -> dict[str, float]:
    """How many keypoints are found, and how far off they are."""
    pixel = heatmaps.flatten(2).argmax(2)
    found = STRIDE * torch.stack([pixel % WIDTH, pixel // WIDTH], 2) + 0.5
    distance = (found - keypoints).norm(dim=2)
    distance = distance[~distance.isnan()]
    return {"PCK %": 100 * (distance <= NEAR).double().mean().item(), "pixels": distance.mean().item()}


def begin(row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> Trial:
    """A row on a shift, with the frames that the seed draws."""
    generator = torch.Generator().manual_seed(seed)
    source_name, target_name = shift.split(" to ")
    (source, labels), (target, keypoints) = view(folder, source_name), view(folder, target_name)
    drawn, unlabelled, tested = torch.randperm(len(source), generator=generator).split(DRAWN)
    deviation, mean = torch.std_mean(source[drawn])
    source, target = (source - mean) / deviation, (target - mean) / deviation
    heatmaps, visible = drawings(labels)

    model = network(budget.total - pretraining(budget.total))
    method = ROWS[row](model, budget.total)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    source_index, target_index = (batches(len(part), 8, generator) for part in (drawn, unlabelled))

    def batch() -> dict[str, Any]:
        model.train()
        index = drawn[next(source_index)]
        maps = model.bottleneck(model.backbone(torch.cat([source[index], target[unlabelled[next(target_index)]]])))
        source_maps, target_maps = maps.chunk(2)
        source_heatmaps, target_heatmaps = model.head(maps).chunk(2)
        return {
            "heatmaps": heatmaps[index],
            "visible": visible[index],
            "source_maps": source_maps,
            "target_maps": target_maps,
            "source_heatmaps": source_heatmaps,
            "target_heatmaps": target_heatmaps,
            "source": pooled(source_maps, 2, 4),
            "target": pooled(target_maps, 2, 4),
        }

    def score() -> dict[str, float]:
        model.eval()
        return figures(model(target[tested]), keypoints[tested])

    return Trial(method, batch, score, optimizer)


TASK = Task(
    title="Keypoints",
    about=__doc__,
    needs=("mouse_keypoints",),
    shifts=("side to below", "below to side"),
    rows=tuple(ROWS),
    begin=begin,
    budget=Budget(epochs=15, steps=20),
    score="PCK %",
)
