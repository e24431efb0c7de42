"""DANN against the paper, its balance over unequal batches, its game, and its errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adaption import DomainAdversarialLoss
from adaption.functional import domain_adversarial_loss
from adaption.layers import DomainDiscriminator, GradientReversalLayer, WarmStartGradientReversalLayer


def reference(source: Any, target: Any, source_weights: Any = None, target_weights: Any = None) -> float:
    """Ganin and Lempitsky 2015, with each domain's mean by itself."""
    u = np.ones(len(source)) if source_weights is None else source_weights
    v = np.ones(len(target)) if target_weights is None else target_weights
    source_part = sum(-w * math.log(1 - 1 / (1 + math.exp(-z))) for z, w in zip(source, u, strict=True)) / len(source)
    target_part = sum(-w * math.log(1 / (1 + math.exp(-z))) for z, w in zip(target, v, strict=True)) / len(target)
    return float(source_part + target_part) / 2


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 5), (7, 2)])
def test_equals_the_paper(n: int, m: int, shape: tuple[int, ...]) -> None:
    source, target, u, v = (torch.randn(size).double() for size in (n, m, n, m))
    u, v = u.abs(), v.abs()
    value = domain_adversarial_loss(source.view(shape), target.view(shape))
    assert value.item() == pytest.approx(reference(source.tolist(), target.tolist()), abs=1e-12)
    value = domain_adversarial_loss(source.view(shape), target.view(shape), u.view(shape), v)
    expected = reference(source.tolist(), target.tolist(), u.tolist(), v.tolist())
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_gradcheck() -> None:
    leaves = [torch.randn(size, requires_grad=True, dtype=torch.float64) for size in (4, 3)]
    assert torch.autograd.gradcheck(domain_adversarial_loss, leaves)
    assert torch.autograd.gradgradcheck(domain_adversarial_loss, leaves)


def test_reductions_agree() -> None:
    source, target, u, v = (torch.rand(6).double() for _ in range(4))
    values = {r: domain_adversarial_loss(source, target, u, v, reduction=r) for r in ("mean", "sum", "none")}
    assert values["none"].shape == (6,)
    torch.testing.assert_close(values["none"].mean(), values["mean"])
    torch.testing.assert_close(values["none"].sum(), values["sum"])


def test_dense_logits() -> None:
    source, target, weights = torch.randn(2, 1, 4, 5), torch.randn(2, 1, 4, 5), torch.tensor([1.0, 3.0])
    none = domain_adversarial_loss(source, target, weights, reduction="none")
    assert none.shape == (2, 4, 5)
    torch.testing.assert_close(none.mean(), domain_adversarial_loss(source, target, weights))
    flat = domain_adversarial_loss(source.flatten(), target.flatten(), weights.repeat_interleave(20))
    torch.testing.assert_close(none.mean(), flat)


def test_unequal_batches_do_not_shift_the_balance() -> None:
    """The source copied ten times over weighs no more than before."""
    source, target = torch.randn(3), torch.randn(4)
    torch.testing.assert_close(
        domain_adversarial_loss(source.repeat(10), target), domain_adversarial_loss(source, target)
    )


@pytest.mark.parametrize("logit", [17.0, 1e4, 1e30])
def test_huge_logits_are_exact(logit: float) -> None:
    """A sigmoid saturates at 17; the loss of a wrong, certain answer is the logit itself, with a living gradient."""
    source = torch.tensor([logit], requires_grad=True)
    value = domain_adversarial_loss(source, torch.tensor([-logit]))
    value.backward()
    assert value.item() == pytest.approx(logit)
    assert source.grad is not None
    assert source.grad.item() == pytest.approx(0.5)
    assert domain_adversarial_loss(torch.tensor([-logit]), torch.tensor([logit])).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("logit", [-30.0, -20.5, -16.0, 16.0, 20.5, 30.0])
def test_large_logits_are_exact_in_float64(logit: float) -> None:
    """Around 20, where softplus becomes linear, and an error of 1e-9 would go unseen in float32."""
    source = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    value = 2 * domain_adversarial_loss(source, torch.tensor([1000.0], dtype=torch.float64))  # the target costs nothing
    value.backward()
    exact = max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))
    assert value.item() == pytest.approx(exact, rel=1e-14)
    assert source.grad is not None
    assert source.grad.item() == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-14)


def test_discriminator_learns_and_features_confuse_it() -> None:
    """A descent step of each player, alone: the discriminator lowers the loss, the features raise it."""
    torch.manual_seed(1)
    metric = DomainAdversarialLoss(DomainDiscriminator(4, 8, batch_norm=False))
    source, target = torch.randn(32, 4, requires_grad=True), (torch.randn(32, 4) + 1).requires_grad_()
    before = metric(source, target)
    before.backward()
    assert source.grad is not None
    assert target.grad is not None
    with torch.no_grad():
        assert metric(source - 1.0 * source.grad, target - 1.0 * target.grad) > before
        torch.optim.SGD(metric.parameters(), lr=0.1).step()
        assert metric(source, target) < before


def test_batch_norm_sees_both_domains_at_once() -> None:
    """Normalised by itself, each domain would have mean 0 and the shift between them would be gone."""
    metric = DomainAdversarialLoss(nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Flatten()))
    assert metric(torch.zeros(4, 1) - 5 + torch.rand(4, 1), torch.zeros(4, 1) + 5) < 0.4
    assert metric.state_dict()["domain_disc.0.num_batches_tracked"] == 1


def test_any_callable_may_discriminate() -> None:
    source, target = torch.randn(3, 4), torch.randn(5, 4)
    value = DomainAdversarialLoss(lambda features: features[:, 0])(source, target)
    torch.testing.assert_close(value, domain_adversarial_loss(source[:, 0], target[:, 0]))


def test_grl_sets_strength_and_steps_once_per_batch() -> None:
    grl = WarmStartGradientReversalLayer(lo=0.5, auto_step=True)
    metric = DomainAdversarialLoss(lambda features: features.sum(1), grl=grl)
    plain = DomainAdversarialLoss(lambda features: features.sum(1))
    source, twin = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    metric(source, torch.zeros(1, 3)).backward()
    plain(twin, torch.zeros(1, 3)).backward()
    assert source.grad is not None
    assert twin.grad is not None
    torch.testing.assert_close(source.grad, 0.5 * twin.grad)
    assert metric.state_dict()["grl.iteration"] == 1
    metric.eval()(source, torch.zeros(1, 3))
    assert grl.iteration == 1
    assert isinstance(plain.grl, GradientReversalLayer)


def test_features_take_the_dtype_of_the_discriminator() -> None:
    metric = DomainAdversarialLoss(DomainDiscriminator(3, 4, batch_norm=False))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert metric(torch.randn(2, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)).dtype == torch.float32


def test_resumes_exactly() -> None:
    def steps(metric: DomainAdversarialLoss, count: int, seed: int) -> None:
        torch.manual_seed(seed)
        optimizer = torch.optim.SGD(metric.parameters(), lr=0.1)
        for _ in range(count):
            optimizer.zero_grad()
            metric(torch.randn(4, 3), torch.randn(4, 3)).backward()
            optimizer.step()

    def fresh() -> DomainAdversarialLoss:
        torch.manual_seed(0)
        grl = WarmStartGradientReversalLayer(max_iters=10, auto_step=True)
        return DomainAdversarialLoss(DomainDiscriminator(3, 4, batch_norm=False), grl=grl)

    whole, cut = fresh(), fresh()
    steps(whole, 3, seed=1)
    steps(whole, 3, seed=2)
    steps(cut, 3, seed=1)
    resumed = fresh()
    resumed.load_state_dict(copy.deepcopy(cut.state_dict()))
    steps(resumed, 3, seed=2)
    for left, right in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def two_logits(features: Tensor) -> Tensor:
    return features[:, :2]


def one_for_all(features: Tensor) -> Tensor:
    return features.mean((0, 1)).reshape(1)


@pytest.mark.parametrize(
    ("discriminator", "batch", "error", "message"),
    [
        (two_logits, ((4, 3), (4, 3)), ValueError, r"`domain_disc` must give one domain logit .* shape \(8, 2\)"),
        (one_for_all, ((4, 3), (4, 3)), ValueError, "`domain_disc` must give one domain logit for each of the 8"),
        (torch.sum, ((4, 3), (4, 3)), ValueError, "`domain_disc` must give one domain logit"),
        (torch.sum, ((0, 3), (4, 3)), ValueError, "`source` must not be empty"),
        (torch.sum, ((4,), (4,)), ValueError, r"`source` must have shape \(N, ..\)"),
        (torch.sum, ((4, 3), (4, 2)), ValueError, "`target` must have as many columns"),
        (torch.sum, ((4, 3, 2), (4, 3)), ValueError, "`target` must have as many dimensions as `source`"),
        (
            DomainDiscriminator(5, 4),
            ((4, 3), (4, 3)),
            ValueError,
            "`source` must have the 5 columns",
        ),
        (DomainDiscriminator(3, 4), ((4, 3), (4, 3), (5,)), ValueError, "`source_weights` must hold one weight"),
    ],
)
def test_bad_input_is_a_sentence(
    discriminator: Any, batch: tuple[tuple[int, ...], ...], error: type[Exception], message: str
) -> None:
    metric = DomainAdversarialLoss(discriminator)
    for call in (metric, metric.update):
        with pytest.raises(error, match=message):
            call(*(torch.rand(shape) for shape in batch))
    assert metric.update_count == 0


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match="`domain_disc` must be a Module or another callable, but got int"):
        DomainAdversarialLoss(3)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(TypeError, match=r"`domain_disc` must be a Module .* but got the class Linear"):
        DomainAdversarialLoss(nn.Linear)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(TypeError, match="`grl` must be a Module"):
        DomainAdversarialLoss(torch.sum, grl=0.5)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ValueError, match='`reduction` must be one of "mean", "sum", "none", but got \'max\''):
        DomainAdversarialLoss(torch.sum, "max")
    for reduction in ("sum", "none"):
        metric = DomainAdversarialLoss(lambda features: features[:, 0], reduction)
        with pytest.raises(ValueError, match=f'`target` must have as many samples .* for reduction="{reduction}"'):
            metric(torch.rand(3, 2), torch.rand(4, 2))


def test_a_refused_batch_moves_nothing_inside() -> None:
    schedule = WarmStartGradientReversalLayer(auto_step=True)
    dann = DomainAdversarialLoss(DomainDiscriminator(3, 4), grl=schedule)
    before = copy.deepcopy(dann.state_dict())
    bad: Any
    for bad in (torch.ones(5), -torch.ones(4), "weights"):
        with pytest.raises((TypeError, ValueError), match="`target_weights` must"):
            dann(torch.randn(4, 3), torch.randn(4, 3), torch.ones(4), bad)
    torch.testing.assert_close(dict(dann.state_dict()), dict(before), rtol=0, atol=0)
    assert schedule.iteration == 0
