"""IWAN's importance weights against the paper's equation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import adaption
from adaption import ImportanceWeightModule
from adaption.layers import DomainDiscriminator


@given(st.lists(st.floats(-15, 15), min_size=1, max_size=8))
def test_weights_are_those_of_the_paper(logits: list[float]) -> None:
    probabilities = [1 / (1 + math.exp(-z)) for z in logits]  # of the target
    mean = sum(probabilities) / len(probabilities)
    features = torch.tensor(logits, dtype=torch.float64).unsqueeze(1)
    for discriminator in (nn.Identity(), lambda f: f.squeeze(1)):
        weights = ImportanceWeightModule(discriminator).get_importance_weight(features)
        assert weights.shape == (len(logits), 1)
        assert weights.flatten().tolist() == pytest.approx([p / mean for p in probabilities], rel=1e-9)


@pytest.mark.parametrize("size", [1e3, 1e30, 3e38])
def test_weights_of_a_sure_discriminator_still_have_mean_one(size: float) -> None:
    for logits in ([-size, -size, -size], [size, size, size], [-size, size, size]):
        weights = ImportanceWeightModule(nn.Identity()).get_importance_weight(torch.tensor(logits).unsqueeze(1))
        assert weights.mean().item() == pytest.approx(1)
    shifted = ImportanceWeightModule(nn.Identity()).get_importance_weight(torch.tensor([[-1000.0], [-1001.0]]))
    torch.testing.assert_close(shifted[0] / shifted[1], torch.tensor([math.e]))


def test_half_precision_is_computed_in_float32() -> None:
    features = torch.randn(6, 1)
    exact = ImportanceWeightModule(nn.Identity()).get_importance_weight(features.bfloat16().double())
    weights = ImportanceWeightModule(nn.Identity()).get_importance_weight(features.bfloat16())
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), exact, rtol=1e-5, atol=1e-6)


def test_looking_leaves_no_trace() -> None:
    discriminator = DomainDiscriminator(4, 8)
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    module = ImportanceWeightModule(discriminator)
    features = torch.randn(6, 4, requires_grad=True)
    weights = module.get_importance_weight(features)
    assert not weights.requires_grad
    assert discriminator.training
    assert torch.is_grad_enabled()
    for name, tensor in discriminator.state_dict().items():
        assert torch.equal(tensor, before[name]), "a batch normalisation must not learn from the source alone"
    assert module.get_importance_weight(features[:1]) == 1, "a single sample has the mean weight"
    assert set(module.state_dict()) == {f"discriminator.{name}" for name in before}


@pytest.mark.parametrize("m", [2, 5, 9])
def test_weights_feed_the_adversarial_loss(m: int) -> None:
    source, target = torch.randn(5, 1), torch.randn(m, 1)
    weights = ImportanceWeightModule(nn.Identity()).get_importance_weight(source)
    value = adaption.DomainAdversarialLoss(nn.Identity())(source, target, weights)
    flat = zip(weights.flatten().tolist(), source.flatten().tolist(), strict=True)
    expected = sum(w * math.log1p(math.exp(z)) for w, z in flat) / 5
    expected += sum(math.log1p(math.exp(-z)) for z in target.flatten().tolist()) / m
    assert value.item() == pytest.approx(expected / 2, rel=1e-6)


def test_outlier_classes_lose_weight_as_the_discriminator_learns() -> None:
    """Source classes at -3 and +3, a target at +3 alone: the samples near the target must weigh more."""
    labels = torch.arange(64) % 2
    source, target = 6.0 * labels.unsqueeze(1) - 3 + 0.1 * torch.randn(64, 1), 3 + 0.1 * torch.randn(48, 1)
    discriminator = nn.Linear(1, 1)
    loss = adaption.DomainAdversarialLoss(discriminator)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        loss(source, target).backward()
        optimizer.step()
    module = ImportanceWeightModule(discriminator, partial_classes_index=[1])
    shared, outlier = module.get_partial_classes_weight(module.get_importance_weight(source), labels.unsqueeze(1))
    assert shared > 1.8
    assert outlier < 0.2
    assert module.get_partial_classes_weight(torch.ones(3), torch.zeros(3, dtype=torch.int64))[0].isnan()


def test_bad_input_is_refused() -> None:
    module = ImportanceWeightModule(nn.Linear(4, 1), partial_classes_index=[0])
    for features, error, match in (
        (torch.randn(0, 4), ValueError, "`feature` must not be empty"),
        (torch.randn(4), ValueError, r"`feature` must have shape \(N, ..\)"),
        (torch.ones(2, 4, dtype=torch.int64), TypeError, "`feature` must be a floating-point tensor"),
    ):
        with pytest.raises(error, match=match):
            module.get_importance_weight(features)
    with pytest.raises(ValueError, match="`discriminator` must give one domain logit per sample"):
        ImportanceWeightModule(nn.Linear(4, 2)).get_importance_weight(torch.randn(3, 4))
    with pytest.raises(ValueError, match=r"`discriminator` must give one logit per sample.* \(2, 2\) places"):
        ImportanceWeightModule(nn.Identity()).get_importance_weight(torch.randn(3, 1, 2, 2))
    weights, labels = torch.ones(3, 1), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="`labels` must not be negative, but got labels from -1 to 1"):
        module.get_partial_classes_weight(weights, torch.tensor([0, -1, 1]))
    with pytest.raises(ValueError, match=r"`weights` must hold one weight per sample, shape \(3,\)"):
        module.get_partial_classes_weight(torch.ones(2), labels)
    with pytest.raises(ValueError, match="`weights` must not be negative"):
        module.get_partial_classes_weight(-weights, labels)
    with pytest.raises(ValueError, match="`partial_classes_index` must be given for `get_partial_classes_weight`"):
        ImportanceWeightModule(nn.Linear(4, 1)).get_partial_classes_weight(weights, labels)
    with pytest.raises(TypeError, match="`discriminator` must be a Module"):
        ImportanceWeightModule(DomainDiscriminator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`partial_classes_index` must be iterable, but got str"):
        ImportanceWeightModule(nn.Linear(4, 1), "01")  # type: ignore[arg-type]
