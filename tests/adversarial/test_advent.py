"""ADVENT against the paper's equations, and the discriminator that is switched on and off."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from cases import advent, images, refuses
from torch import nn

import adaption
from adaption._metric import AdditiveMetric
from adaption.functional import entropy_map
from adaption.layers import SegmentationDiscriminator


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 2), (1, 7, 3)])
def test_entropy_map_is_that_of_the_paper(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    expected = torch.empty_like(logits)
    for place in torch.cartesian_prod(*(torch.arange(size) for i, size in enumerate(shape) if i != 1)).reshape(
        -1, len(shape) - 1
    ):
        n, *pixel = place.tolist()
        exponentials = [math.exp(logits[(n, c, *pixel)]) for c in range(shape[1])]
        for c, exponential in enumerate(exponentials):
            p = exponential / sum(exponentials)
            expected[(n, c, *pixel)] = -p * math.log2(p) / math.log2(shape[1])
    torch.testing.assert_close(entropy_map(logits), expected)


def test_one_hot_predictions_have_no_entropy() -> None:
    one_hot = torch.eye(3)
    for certain in (one_hot.log(), one_hot * 1e4, one_hot * 3e38):
        logits = certain.clone().requires_grad_()
        maps = entropy_map(logits)
        assert (maps == 0).all()
        assert not maps.signbit().any()
        maps.sum().backward()
        assert logits.grad is not None
        assert (logits.grad == 0).all()


def test_uniform_predictions_have_entropy_one() -> None:
    torch.testing.assert_close(entropy_map(torch.full((2, 5, 3, 3), 7.0)).sum(1), torch.ones(2, 3, 3))


def test_gradient_of_the_entropy_map() -> None:
    logits = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropy_map, logits)
    assert torch.autograd.gradgradcheck(entropy_map, logits)


def test_entropy_map_refuses_what_has_no_classes() -> None:
    with pytest.raises(ValueError, match="`logits` must have at least 2 classes in dimension 1"):
        entropy_map(torch.randn(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, ..\)"):
        entropy_map(torch.randn(4))
    with pytest.raises(TypeError, match="`logits` must be a floating-point tensor"):
        entropy_map(torch.ones(2, 3, dtype=torch.int64))


def seen(metric: AdditiveMetric) -> nn.Module:
    """The discriminator inside."""
    discriminator = metric.domain_disc
    assert isinstance(discriminator, nn.Module)
    return discriminator


@pytest.mark.parametrize(("domain_label", "sign"), [("source", 1), ("target", -1)])
def test_value_is_the_mean_over_all_places(domain_label: str, sign: int) -> None:
    metric = advent().double()
    logits = torch.randn(3, 3, 64, 40, dtype=torch.float64)
    domain_logits = seen(metric)(entropy_map(logits)).detach()
    assert domain_logits.shape == (3, 1, 2, 1)
    expected = sum(math.log1p(math.exp(sign * z)) for z in domain_logits.flatten().tolist()) / 6
    assert metric(logits, domain_label).item() == pytest.approx(expected, rel=1e-12)


def test_the_two_games_move_against_each_other() -> None:
    metric = advent()
    source, target = 5 * torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32, requires_grad=True)
    game = metric(source, "source") + metric(target.detach(), "target")
    game.backward()
    torch.optim.SGD(metric.parameters(), lr=0.1).step()
    with torch.no_grad():
        assert metric(source, "source") + metric(target, "target") < game
    metric.zero_grad()
    before = metric.eval()(target, "source")
    before.backward()
    assert target.grad is not None
    with torch.no_grad():
        assert metric(target - 10 * target.grad, "source") < before, "the network must learn to look like the source"
    assert all(parameter.grad is None for parameter in metric.parameters())


def frozen(metric: nn.Module) -> list[bool]:
    return [not parameter.requires_grad for parameter in metric.parameters()]


def test_eval_freezes_and_train_gives_back_what_it_found() -> None:
    metric = advent()
    first = next(metric.parameters())
    first.requires_grad = False
    found = frozen(metric)
    assert sum(found) == 1
    for _ in range(2):
        for _ in range(2):  # a second call in a row changes nothing
            assert not metric.eval().training
            assert all(frozen(metric))
            assert not seen(metric).training
        for _ in range(2):
            assert metric.train().training
            assert frozen(metric) == found
            assert seen(metric).training
    metric.eval()
    first.requires_grad_()  # thawed by the user meanwhile
    assert not any(frozen(metric.train()))


def test_a_parent_switches_too() -> None:
    model = nn.ModuleDict({"loss": advent()})
    metric = model["loss"]
    assert isinstance(metric, adaption.DomainAdversarialEntropyLoss)
    model.eval()
    assert all(frozen(metric))
    model.train()
    assert not any(frozen(metric))
    with pytest.raises(ValueError, match="boolean"):
        metric.train("yes")  # type: ignore[arg-type]
    assert metric.training
    assert not any(frozen(metric))


@pytest.mark.parametrize("training", [True, False])
def test_copies_know_what_was_switched_off(training: bool) -> None:
    metric = advent().train(training)
    next(metric.parameters()).requires_grad = False
    expected = [True, *[not training] * 9]
    assert frozen(metric) == expected
    for copied in (copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert copied.training is training
        assert frozen(copied) == expected
        copied.eval()
        assert frozen(copied.train()) == [training, *[False] * 9]
        assert frozen(metric) == expected


def test_a_function_can_be_the_discriminator() -> None:
    metric = adaption.DomainAdversarialEntropyLoss(lambda maps: maps.sum(1, keepdim=True) - 0.5)
    value = metric.eval()(torch.zeros(1, 2, 1, 1), "source")
    assert value.item() == pytest.approx(math.log1p(math.exp(0.5)))
    assert metric.train().training


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_logits_stay_finite(size: float) -> None:
    logits = (torch.randn(2, 3, 32, 32).sign() * size).requires_grad_()
    value = advent()(logits)
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_bad_input_is_refused() -> None:
    metric = advent()
    metric(*images("source")(2, 2))
    refuses(
        metric, '`domain_label` must be one of "source", "target", but got \'real\'', torch.randn(2, 3, 32, 32), "real"
    )
    refuses(metric, r"`maps` must be at least 32 x 32.*got shape \(2, 3, 31, 64\)", torch.randn(2, 3, 31, 64))
    refuses(metric, r"`maps` must have shape \(N, 3, H, W\), as `num_classes` says", torch.randn(2, 4, 32, 32))
    refuses(metric, "`logits` must be a tensor", [1.0], error=TypeError)
    wide = adaption.DomainAdversarialEntropyLoss(nn.Conv2d(3, 2, 1))
    refuses(wide, "`domain_disc` must give one domain logit per sample", torch.randn(2, 3, 4, 4))
    with pytest.raises(TypeError, match="`domain_disc` must be a Module"):
        adaption.DomainAdversarialEntropyLoss(SegmentationDiscriminator)  # type: ignore[arg-type]


def test_function_compiles_without_a_break() -> None:
    compiled = torch.compile(entropy_map, fullgraph=True, backend="eager")
    logits = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(compiled(logits), entropy_map(logits))
