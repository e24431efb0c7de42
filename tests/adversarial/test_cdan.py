"""CDAN against the paper's equations, written out sample by sample."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from cases import CLASSES, WIDTH, cdan, discriminator, logits_and_features, refuses
from torch import Tensor, nn

import adaption
from adaption.functional import conditional_domain_adversarial_loss, domain_adversarial_loss
from adaption.layers import DomainDiscriminator, RandomizedMultiLinearMap, WarmStartGradientReversalLayer

Array = np.ndarray[Any, np.dtype[np.float64]]

RANDOM: dict[str, Any] = {"randomized": True, "num_classes": CLASSES, "features_dim": WIDTH, "randomized_dim": 16}


def softmax(z: Array) -> Array:
    exponentials = np.exp(z - z.max())
    result: Array = exponentials / exponentials.sum()
    return result


def joint(f: Array, g: Array, metric: Any) -> list[float]:
    """T(f, g) of one sample, entry by entry."""
    if not metric.randomized:
        return [g_k * f_j for g_k in g for f_j in f]
    r_f, r_g = metric.joint_map.features_matrix.numpy(), metric.joint_map.predictions_matrix.numpy()
    d = r_f.shape[1]
    return [
        sum(r_f[j, i] * f[j] for j in range(len(f))) * sum(r_g[k, i] * g[k] for k in range(len(g))) / math.sqrt(d)
        for i in range(d)
    ]


def paper(metric: Any, batch: tuple[Tensor, ...], disc: nn.Linear) -> tuple[list[float], list[float], list[float]]:
    """The losses and entropy weights of both domains by the paper's formulas; source losses, target losses, weights."""
    (v,), (b,) = disc.weight.detach().numpy(), disc.bias.detach().numpy()
    losses: list[list[float]] = []
    weights: list[float] = []
    for domain, (logits, features) in enumerate((batch[:2], batch[2:])):
        losses.append([])
        for z, f in zip(logits.numpy(), features.numpy(), strict=True):
            g = softmax(z)
            probability = 1 / (1 + math.exp(-(float(np.dot(v, joint(f, g, metric))) + b)))  # of the target
            losses[-1].append(-math.log(probability if domain else 1 - probability))
            weights.append(1 + math.exp(sum(p * math.log(p) for p in g)))
    return losses[0], losses[1], weights


@pytest.mark.parametrize("settings", [{}, RANDOM], ids=["outer product", "random"])
@pytest.mark.parametrize("entropy_conditioning", [False, True], ids=["CDAN", "CDAN+E"])
@pytest.mark.parametrize(("n", "m"), [(5, 3), (2, 7), (1, 1), (4, 4)])
def test_value_is_that_of_the_paper(settings: dict[str, Any], entropy_conditioning: bool, n: int, m: int) -> None:
    disc = nn.Linear(16 if settings else WIDTH * CLASSES, 1)
    metric = adaption.ConditionalDomainAdversarialLoss(disc, entropy_conditioning, **settings).double()
    batch = tuple(tensor.double() for tensor in logits_and_features(n, m))
    source, target, weights = paper(metric, batch, disc)
    if entropy_conditioning:
        expected = sum(w * loss for w, loss in zip(weights, source + target, strict=True)) / sum(weights)
    else:
        expected = (sum(source) / n + sum(target) / m) / 2
    assert metric(*batch).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("entropy_conditioning", [False, True])
def test_reductions_agree(entropy_conditioning: bool) -> None:
    batch = logits_and_features(5, 5)
    settings = {"entropy_conditioning": entropy_conditioning}
    mean, total, none = (cdan(reduction=reduction, **settings)(*batch) for reduction in ("mean", "sum", "none"))
    assert none.shape == (5,)
    torch.testing.assert_close(none.mean(), mean)
    torch.testing.assert_close(none.sum(), total)


def test_equal_weights_are_no_weights() -> None:
    source, target = torch.randn(4, 1), torch.randn(4, 1)
    for reduction in ("mean", "sum", "none"):
        plain = domain_adversarial_loss(source, target, reduction=reduction)
        for weights in ((None, None), (torch.full((4,), 3.0), torch.full((4, 1), 3.0)), (torch.ones(4), None)):
            value = conditional_domain_adversarial_loss(source, target, *weights, reduction=reduction)
            torch.testing.assert_close(value, plain)


def test_dense_logits_have_one_weight_per_sample() -> None:
    source, target = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    w_s, w_t = torch.rand(3), torch.rand(3)
    none = conditional_domain_adversarial_loss(source, target, w_s, w_t, reduction="none")
    mean = conditional_domain_adversarial_loss(source, target, w_s, w_t)
    assert none.shape == (3, 2, 2)
    torch.testing.assert_close(none.mean(), mean)
    repeated = conditional_domain_adversarial_loss(
        source.flatten(), target.flatten(), w_s.repeat_interleave(4), w_t.repeat_interleave(4)
    )
    torch.testing.assert_close(mean, repeated)


def test_gradient_of_the_function() -> None:
    batch = [torch.randn(4, 1), torch.randn(3, 1), torch.rand(4), torch.rand(3)]
    doubles = [tensor.double().requires_grad_() for tensor in batch]
    assert torch.autograd.gradcheck(conditional_domain_adversarial_loss, doubles)
    assert torch.autograd.gradcheck(conditional_domain_adversarial_loss, doubles[:2])


@pytest.mark.parametrize("settings", [{}, {"entropy_conditioning": True}, RANDOM])
def test_predictions_and_weights_are_constants(settings: dict[str, Any]) -> None:
    batch = [tensor.requires_grad_() for tensor in logits_and_features(4, 3)]
    cdan(**settings)(*batch).backward()
    assert batch[0].grad is batch[2].grad is None
    assert all(batch[i].grad is not None for i in (1, 3))


@pytest.mark.parametrize("settings", [{}, {"entropy_conditioning": True}, RANDOM])
def test_features_confuse_and_the_discriminator_tells_apart(settings: dict[str, Any]) -> None:
    metric = cdan(**settings)
    source_logits, source, target_logits, target = logits_and_features(8, 6)
    source, target = source.requires_grad_(), target.requires_grad_()
    before = metric(source_logits, source, target_logits, target)
    before.backward()
    assert source.grad is not None
    assert target.grad is not None
    with torch.no_grad():
        moved = metric(source_logits, source - 0.1 * source.grad, target_logits, target - 0.1 * target.grad)
        assert moved > before, "a descent step of the features must raise the discriminator's loss"
        torch.optim.SGD(metric.parameters(), lr=0.1).step()
        assert metric(source_logits, source, target_logits, target) < before


def test_the_schedule_steps_once_for_both_domains() -> None:
    grl = WarmStartGradientReversalLayer(auto_step=True)
    cdan(grl=grl)(*logits_and_features(4, 3))
    assert grl.iteration == 1


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_logits_stay_finite(size: float) -> None:
    source_logits, source, target_logits, target = logits_and_features(4, 4)
    source, target = source.requires_grad_(), target.requires_grad_()
    value = cdan(entropy_conditioning=True)(source_logits.sign() * size, source, target_logits.sign() * size, target)
    value.backward()
    assert value.isfinite()
    assert source.grad is not None
    assert source.grad.isfinite().all()
    far = conditional_domain_adversarial_loss(torch.full((2,), 1e30), torch.full((2,), -1e30), torch.ones(2))
    assert far == 1e30


def test_certain_predictions_weigh_twice_as_much_as_endless_doubt() -> None:
    """Weights 1 + exp(-H): 2 for H = 0, 1 + 1/C for a uniform prediction of C classes."""
    certain = torch.log(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))  # minus infinity where the probability is 0
    uniform = torch.zeros(1, 4)
    metric = adaption.ConditionalDomainAdversarialLoss(
        lambda joint: joint.reshape(len(joint), 4, 2).sum(1)[:, 0],  # probabilities sum to 1: the first feature
        entropy_conditioning=True,
    )
    value = metric(certain, torch.tensor([[3.0, 0.0]]), uniform, torch.tensor([[-1.0, 0.0]]))
    loss = [math.log1p(math.exp(3.0)), math.log1p(math.exp(1.0))]
    assert value.item() == pytest.approx((2 * loss[0] + 1.25 * loss[1]) / 3.25)


def test_random_map_is_saved_copied_and_kept() -> None:
    metric = adaption.ConditionalDomainAdversarialLoss(discriminator(16), **RANDOM)
    batch = logits_and_features(4, 3)
    value = metric(*batch).detach()
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    resumed = adaption.ConditionalDomainAdversarialLoss(discriminator(16), **RANDOM)
    assert resumed(*batch) != value
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for same in (resumed, copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric)), metric):
        torch.testing.assert_close(same(*batch).detach(), value, rtol=0, atol=0)
    assert isinstance(metric.joint_map, RandomizedMultiLinearMap)
    assert not any(name.startswith("joint_map") for name, _ in metric.named_parameters())
    assert metric.double().joint_map.features_matrix.dtype == torch.float64


def test_bad_input_is_refused() -> None:
    source_logits, source, target_logits, target = good = logits_and_features(4, 3)
    metric = cdan(num_classes=CLASSES, features_dim=WIDTH)
    metric(*good)
    more = torch.randn(4, CLASSES + 1), source, torch.randn(3, CLASSES + 1), target
    refuses(metric, "`source_logits` must have 3 columns, as `num_classes` says, but got shape", *more)
    refuses(metric, "`source_logits` must have 3 columns", source, source_logits, target, target_logits)
    wide = source_logits, torch.randn(4, 7), target_logits, torch.randn(3, 7)
    refuses(metric, "`source_features` must have 6 columns, as `features_dim`", *wide)
    refuses(metric, "`source_logits` must hold logits, but", good[0].softmax(1), *good[1:])
    refuses(metric, "`source_features` must have as many samples as `source_logits`", good[0], source[:2], *good[2:])
    refuses(metric, "`target_features` must have as many samples as", *good[:2], good[2], target[:2])
    refuses(metric, r"`target_logits` must have shape \(N, classes\)", *good[:2], target_logits[0], target)
    refuses(metric, "`target_features` must be a tensor", *good[:3], None, error=TypeError)
    other = good[:2] + more[2:]
    refuses(cdan(), r"`target_logits` must have as many columns as `source_logits` \(3\)", *other)
    other = good[:2] + wide[2:]
    refuses(cdan(), r"`target_features` must have as many columns as `source_features` \(6\)", *other)
    for reduction in ("sum", "none"):
        refuses(cdan(reduction=reduction), "must have as many samples as", *good)
    random = cdan(**RANDOM)
    random(*good)
    refuses(random, "`source_logits` must have 3 columns, as `num_classes` says", *more)


@pytest.mark.parametrize(
    "disc",
    [
        DomainDiscriminator(WIDTH, 8),
        nn.Linear(WIDTH, 1),
        nn.Sequential(nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU()), nn.Linear(4, 1)),
    ],
)
def test_a_discriminator_of_the_wrong_width_is_named(disc: nn.Module) -> None:
    batch = logits_and_features(4, 3)
    plain = adaption.ConditionalDomainAdversarialLoss(disc)
    refuses(plain, r"`domain_disc` must take the 18 columns .*3 classes times 6 features.* Build it with", *batch)
    random = adaption.ConditionalDomainAdversarialLoss(disc, **RANDOM)
    refuses(random, r"`domain_disc` must take the 16 columns of the map \(`randomized_dim`\), but takes 6", *batch)


def test_settings_are_checked() -> None:
    disc = discriminator()
    loss = adaption.ConditionalDomainAdversarialLoss
    incomplete: list[dict[str, Any]] = [{}, {"num_classes": 3}, {"features_dim": 6}]
    for missing in incomplete:
        with pytest.raises(ValueError, match="`num_classes` and `features_dim` must be given with `randomized=True`"):
            loss(disc, randomized=True, **missing)
    with pytest.raises(ValueError, match="`num_classes` must be at least 1, but got -1"):
        loss(disc, num_classes=-1)
    with pytest.raises(ValueError, match="`randomized_dim` must be at least 1"):
        loss(disc, randomized_dim=0)
    with pytest.raises(TypeError, match="`entropy_conditioning` must be True or False"):
        loss(disc, entropy_conditioning="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`domain_disc` must be a Module"):
        loss(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`grl` must be a Module"):
        loss(disc, grl=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`source_weights` must not be negative"):
        conditional_domain_adversarial_loss(torch.zeros(2), torch.zeros(3), torch.tensor([1.0, -1.0]))


def test_function_compiles_without_a_break() -> None:
    batch = torch.randn(4, 1), torch.randn(4, 1), torch.rand(4), torch.rand(4)
    compiled = torch.compile(conditional_domain_adversarial_loss, fullgraph=True, backend="eager")
    for arguments in (batch[:2], batch):
        torch.testing.assert_close(compiled(*arguments), conditional_domain_adversarial_loss(*arguments))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_that_are_all_zero_have_no_mean(reduction: str) -> None:
    logits, zeros = torch.randn(3), torch.zeros(3)
    with pytest.raises(ValueError, match="`source_weights` and `target_weights` must have a positive sum"):
        conditional_domain_adversarial_loss(logits, logits, zeros, zeros, reduction=reduction)
    assert conditional_domain_adversarial_loss(logits, logits, zeros, None, reduction=reduction).isfinite().all()
