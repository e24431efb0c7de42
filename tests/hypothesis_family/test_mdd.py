"""MDD against the paper, for certain classifiers, with disparities of all shapes, in its game, and its errors."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import (
    ClassificationMarginDisparityDiscrepancy,
    MarginDisparityDiscrepancy,
    RegressionMarginDisparityDiscrepancy,
)
from adaption.functional import (
    classification_margin_disparity_discrepancy,
    margin_disparity_discrepancy,
    regression_margin_disparity_discrepancy,
    shift_log,
)
from adaption.layers import GradientReversalLayer

LOSSES = {
    "generic": partial(MarginDisparityDiscrepancy, F.mse_loss, F.mse_loss),
    "classification": ClassificationMarginDisparityDiscrepancy,
    "regression": RegressionMarginDisparityDiscrepancy,
}


def outputs(n: int, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source, source_adv, target, target_adv = (3 * torch.randn(size, 4, dtype=torch.float64) for size in (n, n, m, m))
    return source, source_adv, target, target_adv


def probability(adv: Any, main: Any) -> float:
    """What the adversarial head gives to the main head's class."""
    label = int(np.argmax(main))
    return float(np.exp(adv[label]) / sum(np.exp(z) for z in adv))


def classification_by_loops(batch: list[Any], margin: float, u: Any, v: Any) -> float:
    """Zhang et al. 2019, the practical form with two cross entropies, and a weight for each sample."""
    source, source_adv, target, target_adv = batch
    total = 0.0
    for y, adv, w in zip(source, source_adv, u, strict=True):
        total += margin * w * math.log(probability(adv, y)) / len(source)
    for y, adv, w in zip(target, target_adv, v, strict=True):
        total += w * math.log(1 - probability(adv, y)) / len(target)
    return total


@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 6), (7, 2)])
def test_classification_equals_the_paper(n: int, m: int) -> None:
    batch, u, v = outputs(n, m), torch.rand(n).double(), torch.rand(m).double()
    arrays = [output.numpy() for output in batch]
    value = classification_margin_disparity_discrepancy(*batch, margin=3.0)
    assert value.item() == pytest.approx(classification_by_loops(arrays, 3.0, np.ones(n), np.ones(m)), abs=1e-12)
    value = classification_margin_disparity_discrepancy(*batch, u, v[:, None], margin=3.0)
    assert value.item() == pytest.approx(classification_by_loops(arrays, 3.0, u.numpy(), v.numpy()), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 6), (7, 2)])
def test_regression_equals_the_paper(n: int, m: int) -> None:
    batch, u = outputs(n, m), torch.rand(n).double()
    source, source_adv, target, target_adv = (output.numpy() for output in batch)
    total = 0.0
    for y, adv, w in zip(source, source_adv, u.numpy(), strict=True):
        total -= 2 * w * sum((a - b) ** 2 for a, b in zip(y, adv, strict=True)) / len(y) / n
    for y, adv in zip(target, target_adv, strict=True):
        total += sum((a - b) ** 2 for a, b in zip(y, adv, strict=True)) / len(y) / m
    value = regression_margin_disparity_discrepancy(*batch, u, margin=2.0, loss_function=F.mse_loss)
    assert value.item() == pytest.approx(total, abs=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5), st.floats(0, 1e4), st.integers(0, 1000))
def test_classification_is_finite_negative_and_blind_to_shifts(
    n: int, m: int, classes: int, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    batch = [scale * torch.randn(size, classes, dtype=torch.float64) for size in (n, n, m, m)]
    value = classification_margin_disparity_discrepancy(*batch)
    assert value.isfinite()
    assert value <= 0
    shifted = [output + torch.randn(len(output), 1, dtype=torch.float64) for output in batch]
    torch.testing.assert_close(classification_margin_disparity_discrepancy(*shifted), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [20.0, 100.0, 1e4, 1e30])
def test_a_certain_classifier_has_an_exact_value_and_a_living_gradient(size: float) -> None:
    """log(1 - p) at p = 1 in floating point: minus the lead of the label, with a gradient of 1."""
    adv = torch.tensor([[size, 0.0, -torch.inf]], requires_grad=True)
    main = torch.tensor([[1.0, 0.0, 0.0]])
    agrees = torch.tensor([[1e4, 0.0, 0.0]])
    value = classification_margin_disparity_discrepancy(main, agrees, main, adv)
    value.backward()
    assert value.item() == pytest.approx(-size)
    torch.testing.assert_close(adv.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_the_upper_bound_is_reached() -> None:
    """The adversarial head agrees on the source and disagrees on the target, and is certain of both."""
    main, disagrees = torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[0.0, 1e4, 0.0]])
    value = classification_margin_disparity_discrepancy(main, main, main, disagrees)
    assert value.item() == ClassificationMarginDisparityDiscrepancy.plot_upper_bound


def test_an_improbable_label_keeps_its_digits() -> None:
    """log(1 - p) at p = 1e-20 is -1e-20, where the difference of two logsumexps is 0."""
    adv = torch.tensor([[-46.0, 0.0]], dtype=torch.float64, requires_grad=True)
    main = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    certain = torch.tensor([[1e4, 0.0]], dtype=torch.float64)
    value = classification_margin_disparity_discrepancy(main, certain, main, adv)
    value.backward()
    assert value.item() == pytest.approx(-math.exp(-46), rel=1e-12)
    assert adv.grad is not None
    assert adv.grad[0, 0].item() == pytest.approx(-math.exp(-46), rel=1e-12)


def test_no_other_class_is_possible() -> None:
    """Where the mask of a task leaves one class, that class is certain."""
    adv = torch.tensor([[1.0, -torch.inf, -torch.inf]], requires_grad=True)
    main, certain = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[-1e4, 0.0, 0.0]])
    value = classification_margin_disparity_discrepancy(main, adv, main, certain)
    value.backward()
    assert value.item() == 0
    torch.testing.assert_close(adv.grad, torch.zeros(1, 3))


def test_two_equal_logits() -> None:
    zeros = torch.zeros(3, 2)
    value = classification_margin_disparity_discrepancy(zeros, zeros, zeros, zeros, margin=1.0)
    assert value.item() == pytest.approx(-2 * math.log(2))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_main_head_that_is_not_finite_is_not_hidden(loss: Any) -> None:
    source, source_adv, target, target_adv = outputs(3, 3)
    target[1] = torch.nan
    assert loss()(source, source_adv, target, target_adv).isnan()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_reductions_agree(loss: Any) -> None:
    settings = {}
    if loss is LOSSES["generic"]:
        each = partial(F.mse_loss, reduction="none")
        loss, settings = MarginDisparityDiscrepancy, {"source_disparity": each, "target_disparity": each}
    batch, weights = outputs(6, 6), [torch.rand(6).double() for _ in range(2)]
    values = {r: loss(**settings, reduction=r)(*batch, *weights) for r in ("mean", "sum", "none")}
    assert values["none"].shape == (6,)
    torch.testing.assert_close(values["none"].mean(), values["mean"])
    torch.testing.assert_close(values["none"].sum(), values["sum"])


def test_dense_outputs() -> None:
    batch = [torch.randn(2, 3, 4, 5) for _ in range(4)]
    weights = torch.tensor([1.0, 3.0])
    functions: tuple[Any, ...] = classification_margin_disparity_discrepancy, regression_margin_disparity_discrepancy
    for function in functions:
        none = function(*batch, weights, reduction="none")
        assert none.shape == (2, 4, 5)
        torch.testing.assert_close(none.mean(), function(*batch, weights))
        flat = [output.movedim(1, 3).reshape(-1, 3) for output in batch]
        torch.testing.assert_close(none.mean(), function(*flat, weights.repeat_interleave(20)))


def cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(left, right, dim=1)


def per_sample(left: Tensor, right: Tensor) -> Tensor:
    return (left - right).abs().mean(1)


def test_disparities_of_all_shapes_agree() -> None:
    batch = outputs(4, 3)
    each = partial(F.l1_loss, reduction="none")
    values = [
        margin_disparity_discrepancy(*batch, source_disparity=measure, target_disparity=measure, margin=2.0)
        for measure in (F.l1_loss, each, per_sample, nn.L1Loss())
    ]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


def test_epoch_value_of_scalars_is_exact() -> None:
    metric = MarginDisparityDiscrepancy(F.l1_loss, F.mse_loss)
    batches = [outputs(n, m) for n, m in ((4, 3), (1, 5), (2, 2))]
    for batch in batches:
        metric.update(*batch)
    whole = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    torch.testing.assert_close(metric.compute(), MarginDisparityDiscrepancy(F.l1_loss, F.mse_loss)(*whole))


@pytest.mark.parametrize("loss", [LOSSES["classification"], LOSSES["regression"]], ids=["classification", "regression"])
def test_only_the_adversarial_outputs_receive_a_gradient(loss: Any) -> None:
    batch = [output.requires_grad_() for output in outputs(3, 4)]
    loss()(*batch).backward()
    assert [output.grad is None for output in batch] == [True, False, True, False]


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_first_and_second_derivatives_are_those_of_the_formula(margin: float) -> None:
    source, source_adv, target, target_adv = outputs(3, 4)

    def value(source_adv: Tensor, target_adv: Tensor) -> Tensor:
        return classification_margin_disparity_discrepancy(source, source_adv, target, target_adv, margin=margin)

    adversarial = source_adv.requires_grad_(), target_adv.requires_grad_()
    assert torch.autograd.gradcheck(value, adversarial)
    assert torch.autograd.gradgradcheck(value, adversarial)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


def test_the_game_brings_the_domains_together() -> None:
    """One subtraction trains both: the adversarial head raises the value, the shift behind the reversal lowers it."""
    shift, head, adversary = nn.Parameter(torch.tensor([2.0, 2.0])), classifier(), classifier()
    source, target = torch.randn(64, 2), torch.randn(64, 2)
    labels = (source[:, 0] > 0).long()
    reverse, mdd = GradientReversalLayer(), ClassificationMarginDisparityDiscrepancy(margin=2.0)
    optimizer = torch.optim.Adam([*head.parameters(), *adversary.parameters(), shift], lr=0.02)
    for _ in range(400):
        moved = target + shift
        task = F.cross_entropy(head(source), labels)
        loss = task - mdd(head(source), adversary(source), head(moved.detach()), adversary(reverse(moved)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shift.detach().norm() < 1  # from 2.8
    assert mdd.compute() < 0


def test_shift_log() -> None:
    x = torch.tensor([0.0, 1e-3, 0.5, 1.0], requires_grad=True)
    y = shift_log(x, offset=1e-3)
    torch.testing.assert_close(y, torch.tensor([math.log(1e-3), math.log(2e-3), math.log(0.501), 0.0]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1e3, 500.0, 1 / 0.501, 0.0]))
    with pytest.raises(ValueError, match="`offset` must be a finite number above 0"):
        shift_log(x, offset=0)
    with pytest.raises(ValueError, match=r"`offset` must be at least 1.17549e-38"):
        shift_log(x, offset=1e-50)
    halves = shift_log(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float16), offset=1e-9)
    torch.testing.assert_close(halves, torch.tensor([math.log(1e-9), math.log(0.5), 0.0]))
    with pytest.raises(TypeError, match="`x` must be a floating-point tensor"):
        shift_log(torch.tensor([1]))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_errors_of_all(loss: Any) -> None:
    metric, (y, adv, target, target_adv) = loss(), outputs(4, 3)
    metric(y, adv, target, target_adv)
    refuses(
        metric, r"`source_output_adv` must have the shape of `source_output` \(4, 4\)", y, adv[:3], target, target_adv
    )
    refuses(metric, r"`target_output_adv` must have the shape of", y, adv, target, target_adv[:, :2])
    refuses(metric, r"`target_output` must have as many columns as `source_output`", y, adv, *[target[:, :2]] * 2)
    paired = loss(reduction="sum")
    refuses(paired, 'for reduction="sum", which pairs', y, adv, target, target_adv)
    for margin in (0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="`margin` must be a finite number above 0"):
            loss(margin=margin)
    with pytest.raises(ValueError, match=r"`margin` must be at least 1.17549e-38"):
        loss(margin=1e-50)
    with pytest.raises(ValueError, match='`reduction` must be one of "mean", "sum", "none"'):
        loss(reduction="avg")


def test_weights_errors() -> None:
    metric, batch = ClassificationMarginDisparityDiscrepancy(), outputs(4, 3)
    metric(*batch)
    refuses(metric, "`source_weights` must hold one weight per sample", *batch, torch.ones(3))
    refuses(metric, "`target_weights` must not be negative", *batch, None, -torch.ones(3))


def test_errors_of_classification() -> None:
    metric, batch = ClassificationMarginDisparityDiscrepancy(), outputs(4, 3)
    metric(*batch)
    y, adv, target, target_adv = batch
    refuses(metric, "`source_output_adv` must hold logits, but", y, adv.softmax(1), target, target_adv)
    refuses(metric, "`target_output_adv` must hold logits, but", y, adv, target, target_adv.softmax(1))
    refuses(metric, "logits of at least 2 classes", *[output[:, :1] for output in batch])
    single = [torch.tensor([[0.25, 0.75]])] * 4  # of a single sample nobody can tell
    metric(*[output[:, :2] for output in batch])
    assert metric(*single).isfinite()


def test_errors_of_disparities() -> None:
    batch, each = outputs(4, 3), partial(F.l1_loss, reduction="none")
    scalar = MarginDisparityDiscrepancy(F.l1_loss, each)
    scalar(*batch)
    match = r"`source_disparity` must return one value per sample \(4,\) or per element \(4, 4\) for `source_weights`"
    refuses(scalar, match, *batch, torch.ones(4))
    scalar(*batch, None, torch.ones(3))
    none = MarginDisparityDiscrepancy(F.l1_loss, each, reduction="none")
    refuses(none, 'for reduction="none", but returned shape ()', *outputs(4, 4))
    odd = MarginDisparityDiscrepancy(each, lambda left, right: (left - right).sum(0))
    refuses(odd, r"`target_disparity` must return .* or a scalar, but returned shape \(4,\)", *batch)
    with pytest.raises(TypeError, match="`target_disparity` must be a Module or another callable, but got the class"):
        MarginDisparityDiscrepancy(F.l1_loss, nn.L1Loss)  # type: ignore[arg-type]  # the point of the test


def test_disparities_of_unequal_shapes_are_not_paired() -> None:
    """One value per sample beside one per position: of as many samples as positions, an addition would say nothing."""
    batch = [torch.randn(4, 3, 4) for _ in range(4)]
    positions, samples = cosine_distance, lambda left, right: cosine_distance(left, right).mean(1)
    metric = MarginDisparityDiscrepancy(samples, positions, reduction="none")
    refuses(metric, r'`reduction="none"` needs losses of the same shape .* but got \(4,\) and \(4, 4\)', *batch)
    alike = MarginDisparityDiscrepancy(samples, samples, reduction="none")
    assert alike(*batch).shape == (4,)
    means = [MarginDisparityDiscrepancy(source, positions)(*batch) for source in (samples, positions)]
    torch.testing.assert_close(*means)


def test_errors_of_the_loss_function() -> None:
    for wrong in (nn.L1Loss(), per_sample):
        with pytest.raises(TypeError, match="`loss_function` must take `reduction`"):
            RegressionMarginDisparityDiscrepancy(loss_function=wrong)
        with pytest.raises(TypeError, match="`loss_function` must take `reduction`"):
            regression_margin_disparity_discrepancy(*outputs(2, 2), loss_function=wrong)
    with pytest.raises(TypeError, match="`loss_function` must be a Module or another callable, but got NoneType"):
        RegressionMarginDisparityDiscrepancy(loss_function=None)  # type: ignore[arg-type]  # the point of the test


def test_settings_are_shown_without_addresses() -> None:
    each = partial(F.l1_loss, reduction="none")
    shown = repr(MarginDisparityDiscrepancy(each, F.mse_loss))
    assert (
        "source_disparity=l1_loss(reduction='none'), target_disparity=mse_loss, margin=4.0, reduction='mean'" in shown
    )
