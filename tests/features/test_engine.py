"""The kernel engine against the plain formula: values, gradients, the median, memory, and what is not offered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from adaption import JointMaximumMeanDiscrepancyLoss, MaximumMeanDiscrepancyLoss, _distances, _kernels, _median
from adaption._kernels import quadratic_form
from adaption.functional import (
    batch_spectral_penalization,
    joint_maximum_mean_discrepancy,
    maximum_mean_discrepancy,
    median_bandwidth,
)


def plain_bandwidth(distances: Tensor, rule: str | float) -> Tensor | float:
    """The rule over the pairs above the diagonal, by a double loop."""
    if not isinstance(rule, str):
        return rule
    pairs = torch.stack([distances[i, j] for i in range(len(distances)) for j in range(i + 1, len(distances))]).detach()
    bandwidth = pairs.median() if rule == "median" else pairs.mean()
    return bandwidth if bandwidth > 0 else pairs.mean() if pairs.mean() > 0 else 1.0


def plain_form(layers: list[Tensor], weights: Tensor, num_kernels: int, rule: str | float) -> Tensor:
    """``trace(W' K W)`` from all differences, by autograd."""
    product = torch.ones(len(weights), len(weights), dtype=weights.dtype)
    for layer in layers:
        distances = (layer[:, None] - layer).square().sum(-1)
        scaled = distances / plain_bandwidth(distances, rule)
        product = product * sum(torch.exp(-(2.0 ** (s - num_kernels // 2)) * scaled) for s in range(num_kernels))
    form: Tensor = (weights.T @ product @ weights).trace() / num_kernels ** len(layers)
    return form


def problem(number: int, widths: list[int], columns: int) -> tuple[list[Tensor], Tensor]:
    layers = [(torch.randn(number, width).double() * 3 + 1).requires_grad_() for width in widths]
    return layers, torch.randn(number, columns).double().requires_grad_()


@pytest.mark.parametrize("number", [2, 3, 7, 8, 9, 16, 25, 40])
@pytest.mark.parametrize(("widths", "num_kernels"), [([5], 1), ([5], 5), ([3], 8), ([4, 2], 1), ([4, 2, 1], 2)])
def test_values_and_gradients_at_every_tile_boundary(
    number: int, widths: list[int], num_kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_distances, "TILE", 8)
    for rule, columns in (("median", 1), ("mean", 3), (2.5, 2)):
        layers, weights = problem(number, widths, columns)
        value = quadratic_form(layers, weights, num_kernels, rule)
        expected = plain_form(layers, weights, num_kernels, rule).clamp(min=0)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        gradients = torch.autograd.grad(value, [*layers, weights])
        for gradient, wanted in zip(gradients, torch.autograd.grad(expected, [*layers, weights]), strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n", "m"), [(64, 64), (200, 185), (384, 384), (500, 300)])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_batches_beyond_a_tile(n: int, m: int, estimator: str) -> None:
    source, target = torch.randn(n, 4).double().requires_grad_(), (torch.randn(m, 4).double() + 1).requires_grad_()
    value = maximum_mean_discrepancy(source, target, estimator=estimator)
    x = torch.cat([source, target])
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    rows, columns = torch.triu_indices(n + m, n + m, offset=1)
    scaled = (x[:, None] - x).square().sum(-1) / distances[rows, columns].median().detach()
    kernel = torch.stack([torch.exp(-(2.0 ** (s - 2)) * scaled) for s in range(5)]).mean(0)
    ss, tt, st = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if estimator == "unbiased":
        within = (ss.sum() - n) / (n * (n - 1)) + (tt.sum() - m) / (m * (m - 1))
    else:
        within = ss.mean() + tt.mean()
    expected = within - 2 * st.mean()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(value, [source, target])
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, [source, target]), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("n", [32, 300])
def test_float32_far_from_the_origin(mean: float, n: int) -> None:
    def leaves() -> list[Tensor]:
        return [source.clone().requires_grad_(), target.clone().requires_grad_()]

    source, target = torch.randn(n, 64) + mean, torch.randn(n, 64) + mean + 0.3
    single = leaves()
    value = maximum_mean_discrepancy(*single)
    source, target = source.double(), target.double()
    double = leaves()
    exact = maximum_mean_discrepancy(*double)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    value.backward()
    exact.backward()
    for left, right in zip(single, double, strict=True):
        assert left.grad is not None
        assert right.grad is not None
        torch.testing.assert_close(left.grad.double(), right.grad, rtol=1e-3, atol=1e-5 * right.grad.abs().max().item())


SAMPLES: dict[str, Callable[[int], Tensor]] = {
    "normal": torch.randn,
    "uniform": torch.rand,
    "heavy tails": lambda size: torch.randn(size) / torch.randn(size),
    "extreme": lambda size: 10.0 ** (60 * torch.rand(size) - 30),
    "few values": lambda size: torch.randint(4, (size,)).float(),
    "half zeros": lambda size: torch.rand(size).sub(0.5).clamp(min=0),
    "all equal": lambda size: torch.full((size,), 3.0),
    "one different": lambda size: torch.arange(size).eq(0).float(),
    "sorted": lambda size: torch.arange(size).float(),
    "reversed": lambda size: -torch.arange(size).float(),
    "periodic": lambda size: torch.arange(size).remainder(64).float(),
    "clusters": lambda size: torch.arange(size).ge(size // 2) * 1e6 + torch.rand(size),
    "infinite": lambda size: torch.where(torch.rand(size) < 0.3, torch.inf, torch.randn(size)),
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=list(SAMPLES))
@pytest.mark.parametrize("pilot", [16, 4096])
def test_the_median_is_exact(sample: Callable[[int], Tensor], pilot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_median, "_PILOT", pilot)  # a small one misses often
    for size in (1, 2, 7, 2**15, 2**15 + 1, 50_000, 131_071):
        values = sample(size)
        assert _median.lower_median(values) == values.median()
        shuffled = values[torch.randperm(size)].double()
        assert _median.lower_median(shuffled) == shuffled.median()


@pytest.mark.parametrize("number", [100, 384, 385, 900, 2048])
def test_the_median_bandwidth_is_the_median_of_all_pairs(number: int) -> None:
    features = torch.randn(number, 3).double()
    distances = torch.nn.functional.pdist(features).square()
    torch.testing.assert_close(median_bandwidth(features[:9], features[9:]), distances.median(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("number", [2049, 3001, 5000])
def test_above_the_exact_size_a_fixed_sample_of_pairs_is_near_the_median(number: int) -> None:
    features = torch.randn(number, 2).cumsum(0)  # neighbours in the batch are near each other
    state = torch.get_rng_state()
    first, second = (median_bandwidth(features[:99], features[99:]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    distances = torch.nn.functional.pdist(features.double()).square()
    assert (distances < first).double().mean().item() == pytest.approx(0.5, abs=0.005)


def test_a_sample_of_pairs_holds_different_samples_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_distances, "EXACT", 4)
    monkeypatch.setattr(_distances, "PAIRS", 64)
    for number in range(5, 60):
        distances = _distances.Distances(torch.arange(number)[:, None].double(), "median")
        sampled = distances._sample()
        assert sampled.round().min() >= 1
        assert min(number - 1, 16) <= len(sampled) <= 64


@pytest.mark.parametrize("bandwidth", ["median", "mean", 1e-3])
@pytest.mark.parametrize("number", [3, 900, 3000])
def test_tight_clusters_take_the_direct_distances(bandwidth: str | float, number: int) -> None:
    """One sample far away: beside its norm all other distances would drown in a product of float32."""
    features = 0.01 * torch.randn(number, 3)
    features[0] += 1000
    source, target = features[: number // 2].requires_grad_(), (features[number // 2 :] + 0.003).requires_grad_()
    value = maximum_mean_discrepancy(source, target, bandwidth=bandwidth)
    exact = maximum_mean_discrepancy(source.double(), target.double(), bandwidth=bandwidth)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    gradients = torch.autograd.grad(value, [source, target]), torch.autograd.grad(exact, [source, target])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * right.abs().max().item())


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_the_scale_of_the_features_does_not_matter(scale: float) -> None:
    source, target = torch.randn(40, 5), torch.randn(30, 5) + 1
    expected = maximum_mean_discrepancy(source, target)
    scaled = (scale * source).requires_grad_()
    value = maximum_mean_discrepancy(scaled, scale * target)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    value.backward()
    assert scaled.grad is not None
    assert scaled.grad.isfinite().all()


def test_no_gradient_work_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = torch.randn(8, 3), torch.randn(8, 3)

    def refuse(*_: object) -> None:
        pytest.fail("gradient work")

    monkeypatch.setattr(_kernels._Pull, "add", refuse)
    maximum_mean_discrepancy(source, target)
    joint_maximum_mean_discrepancy([source, source], [target, target], num_kernels=2)
    with torch.no_grad():
        maximum_mean_discrepancy(source.requires_grad_(), target)
    MaximumMeanDiscrepancyLoss().update(source, target)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_compiled_and_functional_gradients_agree_with_eager(estimator: str) -> None:
    source, target = torch.randn(9, 3, requires_grad=True), torch.randn(7, 3)

    def loss(features: Tensor) -> Tensor:
        return maximum_mean_discrepancy(features, target, estimator=estimator)

    (expected,) = torch.autograd.grad(loss(source), source)
    torch.testing.assert_close(torch.func.grad(loss)(source.detach()), expected)
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(source)
    torch.testing.assert_close(value, loss(source))
    torch.testing.assert_close(torch.autograd.grad(value, source)[0], expected)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MMD": maximum_mean_discrepancy,
    "JMMD": lambda source, target: joint_maximum_mean_discrepancy([source, source], [target, target]),
    "BSP": batch_spectral_penalization,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_what_is_not_offered_raises(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    source, target = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3)
    (gradient,) = torch.autograd.grad(loss(source, target), source, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not available"):
        gradient.square().sum().backward()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        loss(forward_ad.make_dual(torch.randn(6, 3), torch.randn(6, 3)), target)
    with pytest.raises(RuntimeError, match="Loop over the batches"):
        torch.vmap(loss)(torch.randn(2, 6, 3), torch.randn(2, 6, 3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("number", [6, 3000])
def test_non_finite_features_end_the_search(bad: float, number: int) -> None:
    source, target = torch.randn(number, 3), torch.randn(number, 3, requires_grad=True)
    source[number // 2, 1] = bad
    value = maximum_mean_discrepancy(source, target)
    assert value.isnan()
    value.backward()
    assert target.grad is not None
    assert target.grad.isnan().all()
    assert median_bandwidth(source, target).isnan()


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_pooled_is_the_value_over_the_whole_epoch(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_distances, "TILE", 64)
    source, target = torch.randn(300, 5).double(), torch.randn(250, 5).double() + 1
    for compute_on_cpu in (False, True):
        mmd = MaximumMeanDiscrepancyLoss(pooled=True, estimator=estimator, compute_on_cpu=compute_on_cpu)
        jmmd = JointMaximumMeanDiscrepancyLoss(pooled=True, estimator=estimator, compute_on_cpu=compute_on_cpu)
        for s, t in zip(source.tensor_split(7), target.tensor_split(7), strict=True):
            mmd.update(s, t)
            jmmd.update([s, s[:, :2]], [t, t[:, :2]])
        expected = maximum_mean_discrepancy(source, target, estimator=estimator)
        torch.testing.assert_close(mmd.compute(), expected, rtol=1e-10, atol=0)
        layers = [source, source[:, :2]], [target, target[:, :2]]
        torch.testing.assert_close(jmmd.compute(), joint_maximum_mean_discrepancy(*layers, estimator=estimator))


PEAK = """
import torch
from adaption.functional import maximum_mean_discrepancy

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

source, target = torch.randn({n}, 64, requires_grad=True), torch.randn({n}, 64, requires_grad=True)
source.grad, target.grad = torch.zeros_like(source), torch.zeros_like(target)
maximum_mean_discrepancy(source[:400], target[:400]).backward()  # what torch loads at its first use
before = peak()
maximum_mean_discrepancy(source, target).backward()
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_square() -> None:
    """All pairs of 4,000 + 4,000 samples would be 256 MB a matrix; the features are 2 MB."""
    child = subprocess.run([sys.executable, "-c", PEAK.format(n=4000)], capture_output=True, text=True, check=True)
    assert float(child.stdout) < 60
