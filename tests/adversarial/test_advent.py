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
from adaption import functional
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
    with pytest.raises(ValueError, match="`logits` must hold the logits of at least 2 classes"):
        entropy_map(torch.randn(2, 1, 4, 4))
    with pytest.raises(ValueError, match="`logits` must hold logits, but"):
        entropy_map(torch.randn(2, 3, 4, 4).softmax(1))
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


def discriminators() -> dict[str, nn.Module]:
    spectral = torch.nn.utils.parametrizations.spectral_norm
    conv, one, other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    other.weight = one.weight
    return {
        "plain": SegmentationDiscriminator(3, ndf=2),
        "batch norm": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)),
        "spectral norm": nn.Sequential(spectral(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 1, 1)),
        "used twice": nn.Sequential(conv, nn.ReLU(), conv, nn.Conv2d(3, 1, 1)),
        "tied": nn.Sequential(one, nn.ReLU(), other, nn.Conv2d(3, 1, 1)),
        "compiled": torch.compile(nn.Conv2d(3, 1, 1), backend="eager"),  # type: ignore[dict-item]
    }


@pytest.mark.parametrize("name", discriminators())
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, while it compiles
def test_in_the_networks_turn_the_gradient_passes_through_a_fixed_judge(name: str) -> None:
    judge = discriminators()[name]
    parameters = list(judge.parameters())
    metric = adaption.DomainAdversarialEntropyLoss(judge).eval()
    logits = torch.randn(2, 3, 32, 32, requires_grad=True)
    twin = logits.detach().clone().requires_grad_()
    value = metric(logits, "source")
    value.backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in parameters)
    expected = functional.adversarial_discriminative_loss(judge.eval()(entropy_map(twin)), "source")
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(logits.grad, twin.grad)
    assert list(map(id, judge.parameters())) == list(map(id, parameters))
    assert all(parameter.grad is not None for parameter in parameters)
    metric.train()(logits.detach(), "source").backward()  # and its own turn comes


def test_a_scripted_judge_answers_too() -> None:
    """It keeps its gradient, as a function does: TorchScript takes no other parameters."""
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.script(nn.Conv2d(3, 1, 1))
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    adaption.DomainAdversarialEntropyLoss(scripted).eval()(logits, "source").backward()
    assert logits.grad is not None


def test_a_lazy_judge_can_be_asked_first() -> None:
    metric = adaption.DomainAdversarialEntropyLoss(nn.LazyConv2d(1, 1)).eval()
    for _ in range(2):
        metric(torch.randn(2, 3, 4, 4, requires_grad=True), "source").backward()


def test_a_judge_that_two_losses_share_learns_after_a_validation() -> None:
    """Whatever the order of registration, and although one of the games is the last to be put into eval mode."""
    judge = SegmentationDiscriminator(3, ndf=2)
    names = ("disc", "network")
    for order in (names, names[::-1]):
        model = nn.ModuleDict({name: adaption.DomainAdversarialEntropyLoss(judge) for name in order})
        modes = {name: module.training for name, module in model.named_modules()}
        model.eval()
        for name, module in model.named_modules():
            module.training = modes[name]
        model["network"].eval()
        model["network"].train()
        model["disc"](torch.randn(2, 3, 32, 32), "source").backward()
        assert all(parameter.grad is not None for parameter in judge.parameters())
        judge.zero_grad()


def test_what_the_user_freezes_between_the_turns_stays_frozen() -> None:
    metric = advent()
    first, *others = metric.parameters()
    metric.eval()
    first.requires_grad = False
    metric.train()
    metric(torch.randn(2, 3, 32, 32), "source").backward()
    assert not first.requires_grad
    assert first.grad is None
    assert all(parameter.grad is not None for parameter in others)


@pytest.mark.parametrize("training", [True, False])
def test_copies_are_in_the_same_turn(training: bool) -> None:
    metric = advent().train(training)
    for copied in (copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric))):
        copied(torch.randn(2, 3, 32, 32, requires_grad=True), "source").backward()
        assert all((parameter.grad is not None) is training for parameter in copied.parameters())
        assert all(parameter.grad is None for parameter in metric.parameters())


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
