"""The heads of MCD and the two-headed networks of MDD: shapes, modes, gradients, parameter groups, and errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adaption.functional import gradient_reversal
from adaption.layers import (
    GradientReversalLayer,
    ImageClassifier,
    ImageClassifierHead,
    ImageRegressor,
    WarmStartGradientReversalLayer,
)

SMALL: dict[str, Any] = {"bottleneck_dim": 16, "width": 12}


def backbone() -> nn.Module:
    """One that gives feature maps, as that of a torchvision or timm model does without its head."""
    module = nn.Conv2d(3, 8, 3, padding=1)
    module.out_features = 8  # type: ignore[assignment]  # torch types unknown attributes as tensors or modules
    return module


IMAGES = torch.randn(4, 3, 6, 6)


def test_head_of_maps_and_vectors() -> None:
    head = ImageClassifierHead(8, 5, bottleneck_dim=16).eval()
    maps = torch.randn(4, 8, 3, 3)
    assert head(maps).shape == (4, 5)
    torch.testing.assert_close(head(maps), head(maps.mean((2, 3))))
    assert ImageClassifierHead(72, 5, 16, pool_layer=nn.Flatten())(maps).shape == (4, 5)
    with pytest.raises(ValueError, match="`bottleneck_dim` must be at least 1, but got 0"):
        ImageClassifierHead(8, 5, 0)


@pytest.mark.parametrize(("network", "width"), [(ImageClassifier, 5), (ImageRegressor, 2)])
def test_training_gives_both_heads_and_evaluation_the_main_one(network: Any, width: int) -> None:
    model = network(backbone(), width, **SMALL)
    output, output_adv = model(IMAGES)
    assert output.shape == output_adv.shape == (4, width)
    assert not torch.equal(output, output_adv)
    model.eval()
    features = model.bottleneck(model.backbone(IMAGES))
    torch.testing.assert_close(model(IMAGES), model.head(features))
    copied = copy.deepcopy(model)
    copied.load_state_dict(model.state_dict())
    torch.testing.assert_close(copied(IMAGES), model(IMAGES))


@pytest.mark.parametrize("network", [ImageClassifier, ImageRegressor])
def test_the_bottleneck_starts_as_the_authors_do(network: Any) -> None:
    (linear,) = (layer for layer in network(backbone(), 5).bottleneck if isinstance(layer, nn.Linear))
    assert linear.weight.std().item() == pytest.approx(0.005, rel=0.05)
    assert linear.bias.unique().item() == pytest.approx(0.1)


def test_regressor_stays_in_range_or_takes_heads_of_its_own() -> None:
    output, output_adv = ImageRegressor(backbone(), 2, **SMALL)(100 * IMAGES)
    assert min(output.min(), output_adv.min()) >= 0
    assert max(output.max(), output_adv.max()) <= 1
    bottleneck, head, adv_head = nn.Flatten(), nn.Linear(8 * 36, 2), nn.Linear(8 * 36, 2)
    model = ImageRegressor(nn.Conv2d(3, 8, 3, padding=1), 2, bottleneck, head, adv_head)
    assert model.head is head
    assert model.adv_head is adv_head
    assert model(IMAGES)[0].shape == (4, 2)


def test_the_adversarial_gradient_is_reversed() -> None:
    model = ImageClassifier(backbone(), 5, **SMALL, grl=GradientReversalLayer(0.5))
    model.adv_head.load_state_dict(model.head.state_dict())
    for dropout in (module for module in model.modules() if isinstance(module, nn.Dropout)):
        dropout.p = 0
    weight = model.backbone.weight
    assert isinstance(weight, Tensor)
    main, reverse = (torch.autograd.grad(out.square().sum(), weight, retain_graph=True)[0] for out in model(IMAGES))
    torch.testing.assert_close(reverse, -0.5 * main)


class OwnSchedule(nn.Module):
    """A user's, that knows nothing of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.inner = WarmStartGradientReversalLayer()

    def forward(self, x: Tensor) -> Tensor:
        return gradient_reversal(x, self.steps / 10)

    def step(self) -> None:
        self.steps += 1


def test_steps_of_any_schedule() -> None:
    own, nested = OwnSchedule(), WarmStartGradientReversalLayer()
    for grl in (own, nn.Sequential(nn.Dropout(), nested)):
        ImageClassifier(backbone(), 5, **SMALL, grl=grl).step()
    assert own.steps == 1
    assert own.inner.iteration == 0  # what is inside of a schedule is its own affair
    assert nested.iteration == 1
    by_itself = WarmStartGradientReversalLayer(auto_step=True)
    model = ImageClassifier(backbone(), 5, **SMALL, grl=by_itself)
    model(IMAGES)
    model.step()
    assert by_itself.iteration == 1
    ImageClassifier(backbone(), 5, **SMALL, grl=gradient_reversal).step()  # type: ignore[arg-type]  # has no steps


@pytest.mark.parametrize("network", [ImageClassifier, ImageRegressor])
def test_steps_of_the_warm_start(network: Any) -> None:
    model = network(backbone(), 2, **SMALL)
    assert isinstance(model.grl, WarmStartGradientReversalLayer)
    assert (model.grl.alpha, model.grl.lo, model.grl.hi, model.grl.max_iters) == (1.0, 0.0, 0.1, 1000)
    model(IMAGES)
    assert model.grl.iteration == 0
    model.step()
    assert model.grl.iteration == 1
    model.eval()
    model.step()
    assert model.grl.iteration == 1
    ImageClassifier(backbone(), 2, **SMALL, grl=GradientReversalLayer()).step()  # nothing to step


@pytest.mark.parametrize(("finetune", "factor"), [(True, 0.1), (False, 1.0)])
def test_parameter_groups(finetune: bool, factor: float) -> None:
    model = ImageClassifier(backbone(), 5, **SMALL, finetune=finetune)
    groups = model.get_parameters(base_lr=0.3)
    assert [group["lr"] for group in groups] == pytest.approx([factor * 0.3, 0.3, 0.3, 0.3])
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.parameters()}
    torch.optim.SGD(groups, lr=0.1)
    assert model.get_parameters()[1]["lr"] == 1.0


@pytest.mark.parametrize("network", [ImageClassifier, ImageRegressor])
def test_errors(network: Any) -> None:
    with pytest.raises(ValueError, match=r"`backbone` must say .* `out_features`, but Conv2d has none. Set it"):
        network(nn.Conv2d(3, 8, 3), 5)
    odd = backbone()
    odd.out_features = "8"  # type: ignore[assignment]  # the point of the test
    with pytest.raises(TypeError, match=r"`backbone.out_features` must be an integer, but got str"):
        network(odd, 5)
    with pytest.raises(ValueError, match="`width` must be at least 1"):
        network(backbone(), 5, width=0)
    with pytest.raises(TypeError, match="`finetune` must be True or False"):
        network(backbone(), 5, finetune=1)
    with pytest.raises(ValueError, match="`base_lr` must be a finite number above 0"):
        network(backbone(), 5, **SMALL).get_parameters(base_lr=-1.0)


def test_parts_must_be_modules_and_features_must_fit() -> None:
    backbone = nn.Linear(6, 5)
    with pytest.raises(TypeError, match="`grl` must be a Module or another callable, but got int"):
        ImageClassifier(backbone, 3, grl=3)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(TypeError, match="`adv_head` must be a Module, but got str"):
        ImageRegressor(backbone, 3, adv_head="head")  # type: ignore[arg-type] # the same
    model = ImageClassifier(backbone, 3, bottleneck_dim=4, width=4)
    with pytest.raises(ValueError, match=r"`backbone\(x\)` must hold at least 2 samples while training"):
        model(torch.randn(1, 6))
    assert model.eval()(torch.randn(1, 6)).shape == (1, 3)
    backbone.out_features = 7  # says one width and gives another
    with pytest.raises(ValueError, match=r"`backbone\(x\)` must have shape \(N, 7\) or \(N, 7, H, W\)"):
        ImageClassifier(backbone, 3)(torch.randn(2, 6))
