"""MMD in constant memory: close to the pooled value, by as much as it says, and exact in everything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import features, refuses
from torch import Tensor, nn

from adaption import MaximumMeanDiscrepancyLoss
from adaption.features import _random_features

ESTIMATORS = pytest.mark.parametrize("estimator", ["biased", "unbiased"])


def build(number: int = 1024, **settings: Any) -> MaximumMeanDiscrepancyLoss:
    settings = {"bandwidth": 9.0, "pooled": "random_features", "num_random_features": number, **settings}
    return MaximumMeanDiscrepancyLoss(**settings)


def epoch(metric: MaximumMeanDiscrepancyLoss, source: Tensor, target: Tensor, size: int = 50) -> Tensor:
    for batch in zip(source.split(size), target.split(size), strict=True):
        metric.update(*batch)
    return metric.compute()


def drawn(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(_random_features, "_SEED", seed)
    _random_features._drawn.cache_clear()


@ESTIMATORS
@pytest.mark.parametrize("number", [64, 512])
def test_the_error_over_draws_is_what_it_says(estimator: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over draws is the pooled value: no estimate of it is biased. 200 draws tell a deviation to 5 %."""
    torch.manual_seed(0)
    source, target = (rows.double() for rows in features(300, 300))
    exact = epoch(build(estimator=estimator, pooled=True), source, target)
    values, errors = [], []
    for seed in range(200):
        drawn(monkeypatch, seed)
        metric = build(number, estimator=estimator)
        values.append(epoch(metric, source, target, size=300))
        errors.append(metric.approximation_error)
    monkeypatch.undo()
    _random_features._drawn.cache_clear()
    found, error = torch.stack(values), torch.stack(errors).square().mean().sqrt()
    assert float(found.std()) == pytest.approx(float(error), rel=0.25)
    assert abs(found.mean() - exact) < 4 * found.std() / 200**0.5


def test_the_error_falls_with_the_root_of_the_number() -> None:
    torch.manual_seed(0)
    source, target = features(500, 500)
    metrics = [build(number) for number in (256, 4096)]
    for metric in metrics:
        epoch(metric, source, target)
    few, many = (float(metric.approximation_error) for metric in metrics)
    assert few / many == pytest.approx(4, rel=0.2)


@ESTIMATORS
def test_batches_and_ranks_add_up(estimator: str) -> None:
    """To the value of one batch of all samples, whatever they are called together with."""
    source, target = (rows.double() for rows in features(120, 120))
    whole, parts, other = (build(estimator=estimator) for _ in range(3))
    value = whole(source, target)
    epoch(parts, source[:50], target[:50], size=10)
    epoch(other, source[50:], target[50:], size=7)
    parts.merge_state(other)
    torch.testing.assert_close(parts.compute(), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.compute(), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.approximation_error, whole.approximation_error, rtol=1e-9, atol=0)


def test_memory_is_that_of_the_sums() -> None:
    metric = build(256)
    before = {name: state.shape for name, state in metric.metric_state.items() if isinstance(state, Tensor)}
    for n in (1000, 10):
        metric.update(*features(n, n))
    assert {name: getattr(metric, name).shape for name in metric.metric_state} == before
    assert sum(shape.numel() for shape in before.values()) == 2 * 256 + 4


@ESTIMATORS
def test_gradients_are_those_of_the_value(estimator: str) -> None:
    metric = build(20, estimator=estimator)
    batch = [rows.double().requires_grad_() for rows in features(4, 3)]
    assert torch.autograd.gradcheck(metric, batch)


def test_a_network_can_be_trained_by_it() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(64, 6), torch.randn(64, 6) + 1
    layer = nn.Linear(6, 6)
    metric, optimizer = build(bandwidth=12.0), torch.optim.Adam(layer.parameters(), 0.01)
    values = []
    for _ in range(50):
        optimizer.zero_grad()
        value = metric(source, layer(target))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.3 * values[0]


def test_features_far_from_the_origin_lose_no_digits() -> None:
    """A float32 holds an angle of 3,000 turns to a thousandth of one."""
    source, target = features(40, 40)
    source, target = source + 1e5, target + 1e5  # rounded, and then taken as they are
    single, double = build()(source, target), build()(source.double(), target.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


def test_draws_are_its_own() -> None:
    batch = features(10, 10)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    _random_features._drawn.cache_clear()
    first = build()(*batch)
    _random_features._drawn.cache_clear()
    assert build()(*batch) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_only_random_features_are_an_approximation() -> None:
    metric = build()
    assert metric.approximation_error.isnan()
    metric.update(*features(5, 5))
    assert metric.approximation_error > 0
    pooled = MaximumMeanDiscrepancyLoss(pooled=True)
    pooled.update(*[features(5, 5)[0]] * 2)  # 0 apart
    assert pooled.approximation_error == 0


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"pooled": "features"}, ValueError, '`pooled` must be True, False or "random_features"'),
        ({"pooled": 1}, TypeError, '`pooled` must be True, False or "random_features"'),
        ({"bandwidth": "median"}, ValueError, "`bandwidth` must be a number with"),
        ({"estimator": "linear"}, ValueError, '`estimator` must be "biased" or "unbiased"'),
        ({"num_random_features": 18}, ValueError, "`num_random_features` must be at least 20"),
        ({"num_random_features": 33}, ValueError, "`num_random_features` must be even"),
        ({"num_random_features": 64.0}, TypeError, "`num_random_features` must be an integer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        build(**settings)


def test_weights_and_single_samples_are_refused() -> None:
    source, target = features(4, 4)
    refuses(build(), "`target_weights` must be None with", source, target, None, torch.ones(4))
    refuses(build(estimator="unbiased"), "must have at least 2 samples each for the unbiased", source[:1], target)
    assert build()(source[:1], target).isfinite()
