"""JMMD against double loops, its relation to MMD, and its errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adaption import JointMaximumMeanDiscrepancyLoss
from adaption.functional import joint_maximum_mean_discrepancy, maximum_mean_discrepancy
from adaption.layers import GradientReversalLayer, WarmStartGradientReversalLayer

pytestmark = pytest.mark.usefixtures("either_way")


def reference(
    source: list[Tensor], target: list[Tensor], num_kernels: list[int], rules: list[str | float], estimator: str
) -> float:
    """Long et al. 2017, equation (10), with double loops over samples and a loop over layers."""
    product = np.ones((len(source[0]) + len(target[0]),) * 2)
    for s, t, number, rule in zip(source, target, num_kernels, rules, strict=True):
        rows = np.concatenate([s.numpy(), t.numpy()])
        size = len(rows)
        squared = [[float(((x - y) ** 2).sum()) for y in rows] for x in rows]
        ordered = sorted(squared[i][j] for i in range(size) for j in range(i))
        median, mean = ordered[(len(ordered) - 1) // 2], sum(ordered) / len(ordered)
        bandwidth = rule if not isinstance(rule, str) else median if rule == "median" else mean
        for i in range(size):
            for j in range(size):
                scales = [2.0 ** (k - number // 2) for k in range(number)]
                product[i, j] *= sum(math.exp(-scale * squared[i][j] / bandwidth) for scale in scales) / number
    n = len(source[0])
    blocks = product[:n, :n], product[n:, n:], product[:n, n:]
    if estimator == "biased":
        means = [block.mean() for block in blocks]
    else:
        means = [(block.sum() - np.trace(block)) / (len(block) * (len(block) - 1)) for block in blocks[:2]]
        means.append(blocks[2].mean())
    return float(means[0] + means[1] - 2 * means[2])


def draw(n: int, m: int) -> tuple[list[Tensor], list[Tensor]]:
    source = [torch.randn(n, 3).double(), torch.randn(n, 2).double().softmax(1), torch.randn(n, 1).double()]
    target = [torch.randn(m, 3).double() + 1, torch.randn(m, 2).double().softmax(1), torch.randn(m, 1).double()]
    return source, target


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("num_kernels", [1, 2, 5])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (6, 3)])
def test_equals_the_paper(n: int, m: int, num_kernels: int, estimator: str) -> None:
    source, target = draw(n, m)
    value = joint_maximum_mean_discrepancy(source, target, num_kernels=num_kernels, estimator=estimator)
    assert value.item() == pytest.approx(
        reference(source, target, [num_kernels] * 3, ["median"] * 3, estimator), abs=1e-12
    )


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("num_kernels", [[1, 1, 1], [5, 1, 2]])
def test_settings_for_each_layer(num_kernels: list[int], estimator: str) -> None:
    rules: list[str | float] = ["mean", 1.68, "median"]
    source, target = draw(5, 4)
    settings: dict[str, Any] = {"num_kernels": num_kernels, "bandwidth": rules, "estimator": estimator}
    expected = pytest.approx(reference(source, target, num_kernels, rules, estimator), abs=1e-12)
    assert joint_maximum_mean_discrepancy(source, target, **settings).item() == expected
    for pooled in (False, True):
        metric = JointMaximumMeanDiscrepancyLoss(pooled=pooled, **settings)
        assert metric(source, target).item() == expected
        assert metric.compute().item() == expected


@pytest.mark.parametrize("bandwidth", ["median", "mean", 2.0, ["mean", 1.68, "median"]])
@pytest.mark.parametrize("num_kernels", [1, 3, [5, 1, 2]])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_gradcheck(num_kernels: int | list[int], bandwidth: Any, estimator: str) -> None:
    source, target = draw(3, 4)
    leaves = [layer.clone().requires_grad_() for layer in (*source, *target)]
    settings: dict[str, Any] = {"num_kernels": num_kernels, "bandwidth": bandwidth, "estimator": estimator}

    def value(*layers: Tensor) -> Tensor:
        return joint_maximum_mean_discrepancy(layers[:3], layers[3:], **settings)

    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("num_kernels", [1, 5])
def test_one_layer_is_mmd(num_kernels: int) -> None:
    source, target = torch.randn(5, 3), torch.randn(4, 3)
    joint = joint_maximum_mean_discrepancy([source], [target], num_kernels=num_kernels)
    torch.testing.assert_close(joint, maximum_mean_discrepancy(source, target, num_kernels=num_kernels))


def test_a_constant_layer_changes_nothing() -> None:
    source, target = torch.randn(5, 3), torch.randn(4, 3)
    constant = torch.full((5, 2), 0.3), torch.full((4, 2), 0.3)
    joint = joint_maximum_mean_discrepancy([source, constant[0]], [target, constant[1]])
    torch.testing.assert_close(joint, joint_maximum_mean_discrepancy([source], [target]))


def test_a_layer_of_tight_clusters_beside_a_plain_one() -> None:
    """The first needs float64 for its distances where the second does not."""
    clustered = [1e4 * torch.tensor([[0.0]] * 7 + [[1.0]]) + torch.randn(8, 1) for _ in range(2)]
    source, target = [clustered[0].requires_grad_(), torch.randn(8, 3)], [clustered[1], torch.randn(8, 3)]
    value = joint_maximum_mean_discrepancy(source, target)
    exact = joint_maximum_mean_discrepancy([x.double() for x in source], [x.double() for x in target])
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)
    value.backward()
    assert clustered[0].grad is not None
    assert clustered[0].grad.isfinite().all()


def test_weights_of_zero_leave_samples_out() -> None:
    source, target = draw(4, 3)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    weighted = joint_maximum_mean_discrepancy(source, target, weights, bandwidth=2.0)
    without = joint_maximum_mean_discrepancy([layer[:3] for layer in source], target, bandwidth=2.0)
    torch.testing.assert_close(weighted, without)


def test_thetas_are_trained_saved_and_play_against_the_features() -> None:
    theta = nn.Sequential(GradientReversalLayer(), nn.Linear(3, 3, dtype=torch.float64), GradientReversalLayer())
    metric = JointMaximumMeanDiscrepancyLoss(thetas=[theta, nn.Identity(), nn.Identity()])
    source, target = draw(6, 6)
    source[0].requires_grad_()
    before = metric(source, target)
    before.backward()
    assert {name for name, _ in metric.named_parameters()} == {"thetas.0.1.weight", "thetas.0.1.bias"}
    assert {"thetas.0.1.weight", "thetas.0.1.bias"} <= set(metric.state_dict())
    assert source[0].grad is not None
    # a descent step of each player alone: the features lower the value, the theta raises it
    with torch.no_grad():
        assert metric([source[0] - 0.1 * source[0].grad, *source[1:]], target) < before
        torch.optim.SGD(metric.parameters(), lr=0.1).step()
        assert metric(source, target) > before


@pytest.mark.parametrize("pooled", [False, True])
def test_thetas_see_both_domains_at_once_and_compute_asks_nothing_of_them(*, pooled: bool) -> None:
    """Batch normalisation of each domain by itself would hide a shift, and a schedule would go two steps."""
    schedule = WarmStartGradientReversalLayer(max_iters=10, auto_step=True)
    theta = nn.Sequential(schedule, nn.BatchNorm1d(4))
    metric = JointMaximumMeanDiscrepancyLoss(thetas=[theta], pooled=pooled)
    source, target = torch.randn(32, 4), torch.randn(24, 4) + 100
    assert metric([source], [target]) > 1
    assert schedule.iteration == 1
    metric.update([source], [target])
    assert schedule.iteration == 2
    before = copy.deepcopy(theta.state_dict())
    value = metric.compute()
    assert value > 1
    assert not value.requires_grad
    torch.testing.assert_close(theta.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        (torch.rand(4, 3), [torch.rand(4, 3)], TypeError, "`source_features` must be a list"),
        ([], [], ValueError, "`source_features` must hold at least one layer"),
        ([torch.rand(4, 3)], [torch.rand(4, 3)] * 2, ValueError, "`target_features` must have as many layers"),
        ([torch.rand(4, 3), torch.rand(5, 3)], [torch.rand(4, 3)] * 2, ValueError, r"`source_features\[1\]` must have"),
        ([torch.rand(4, 3)], [torch.rand(4, 2)], ValueError, r"`target_features\[0\]` must have as many columns"),
        ([torch.rand(4)], [torch.rand(4)], ValueError, r"`source_features\[0\]` must have shape"),
        ([torch.rand(4, 3), [1.0]], [torch.rand(4, 3)] * 2, TypeError, r"`source_features\[1\]` must be a tensor"),
    ],
)
def test_bad_input_is_a_sentence(source: Any, target: Any, error: type[Exception], message: str) -> None:
    metrics = JointMaximumMeanDiscrepancyLoss(), JointMaximumMeanDiscrepancyLoss(pooled=True)
    calls: list[Any] = [joint_maximum_mean_discrepancy, *metrics, *(metric.update for metric in metrics)]
    for call in calls:
        with pytest.raises(error, match=message):
            call(source, target)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match='`estimator` must be one of "biased", "unbiased"'):
        JointMaximumMeanDiscrepancyLoss(estimator="linear")
    settings: list[tuple[dict[str, Any], str]] = [
        ({"bandwidth": []}, "`bandwidth` must hold a value for each layer, but is empty"),
        ({"num_kernels": [1, 0]}, "`num_kernels` must be at least 1"),
        ({"bandwidth": ["median", "mode"]}, "`bandwidth` must be one of"),
    ]
    for setting, message in settings:
        with pytest.raises(ValueError, match=message):
            JointMaximumMeanDiscrepancyLoss(**setting)
    for pooled in (False, True):
        theta = nn.BatchNorm1d(3)
        metric = JointMaximumMeanDiscrepancyLoss([1, 1], thetas=[theta, theta, theta], pooled=pooled)
        with pytest.raises(ValueError, match=r"`num_kernels` must hold one value for each layer \(3\), but got 2"):
            metric(*draw(3, 3))
        assert theta.num_batches_tracked == 0
    metric = JointMaximumMeanDiscrepancyLoss(thetas=[nn.Identity()])
    with pytest.raises(ValueError, match="`source_features` must have one layer per theta"):
        metric(*draw(3, 3))
