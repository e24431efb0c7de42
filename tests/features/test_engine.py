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
from adaption._kernels import pairwise_bandwidth as rule_of
from adaption._kernels import quadratic_form
from adaption.functional import (
    batch_spectral_penalization,
    joint_maximum_mean_discrepancy,
    maximum_mean_discrepancy,
    median_bandwidth,
)

pytestmark = pytest.mark.usefixtures("either_way")


def plain_bandwidth(distances: Tensor, rule: str | float) -> Tensor | float:
    """The rule over the pairs above the diagonal, by a double loop."""
    if not isinstance(rule, str):
        return rule
    pairs = torch.stack([distances[i, j] for i in range(len(distances)) for j in range(i + 1, len(distances))])
    bandwidth = pairs.sort().values[(len(pairs) - 1) // 2] if rule == "median" else pairs.mean()
    return bandwidth if bandwidth > 0 else pairs.mean() if pairs.mean() > 0 else 1.0


def plain_form(layers: list[Tensor], weights: Tensor, numbers: list[int], rules: list[str | float]) -> Tensor:
    """``trace(W' K W)`` from all differences, by autograd, the bandwidth included."""
    product = torch.ones(len(weights), len(weights), dtype=weights.dtype)
    for layer, number, rule in zip(layers, numbers, rules, strict=True):
        distances = (layer[:, None] - layer).square().sum(-1)
        scaled = distances / plain_bandwidth(distances, rule)
        product = product * sum(torch.exp(-(2.0 ** (s - number // 2)) * scaled) for s in range(number)) / number
    form: Tensor = (weights.T @ product @ weights).trace()
    return form


def plain_mmd(source: Tensor, target: Tensor, rule: str | float, num_kernels: int = 5) -> Tensor:
    """The biased estimate from all differences."""
    rows = torch.cat([source, target])
    differences = (rows[:, None] - rows).square().sum(-1)
    pairs = differences[tuple(torch.triu_indices(len(rows), len(rows), 1))]
    bandwidth = rule if not isinstance(rule, str) else pairs.median() if rule == "median" else pairs.mean()
    scales = [2.0 ** (s - num_kernels // 2) for s in range(num_kernels)]
    kernel = torch.stack([torch.exp(-scale * differences / bandwidth) for scale in scales]).mean(0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def problem(number: int, widths: list[int], columns: int) -> tuple[list[Tensor], Tensor]:
    layers = [(torch.randn(number, width).double() * 3 + 1).requires_grad_() for width in widths]
    return layers, torch.randn(number, columns).double().requires_grad_()


@pytest.mark.parametrize("number", [2, 3, 7, 8, 9, 16, 25, 40])
@pytest.mark.parametrize(
    ("widths", "kernels"),
    [([5], [1]), ([5], [5]), ([3], [8]), ([4, 2], [1, 1]), ([4, 2], [5, 1]), ([4, 2, 1], [2, 2, 2])],
)
@pytest.mark.parametrize("few", [4, 2048])  # rows up to which the tiles of the median are kept
def test_values_and_gradients_at_every_tile_boundary(
    number: int, widths: list[int], kernels: list[int], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_distances, "TILE", 8)
    monkeypatch.setattr(_distances, "FEW", few)
    settings: list[tuple[list[str | float], int]] = [
        (["median", 2.5, "mean"], 1),
        (["mean", "median", "median"], 3),
        ([2.5, "mean", 1.0], 2),
    ]
    for rules, columns in settings:
        layers, weights = problem(number, widths, columns)
        value = quadratic_form(layers, weights, kernels, rules[: len(widths)])
        expected = plain_form(layers, weights, kernels, rules[: len(widths)]).clamp(min=0)
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
    p, q = (side[distances[rows, columns].median(0).indices] for side in (rows, columns))
    scaled = (x[:, None] - x).square().sum(-1) / (x[p] - x[q]).square().sum()
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
@pytest.mark.parametrize("pilot", ["fair", "all below", "all above", "a single value"])
def test_the_median_is_exact(sample: Callable[[int], Tensor], pilot: str) -> None:
    for sizes in ([1], [3, 4], [0, 1, 0], [1000, 1, 299], [70, 70, 50_000]):
        values = sample(sum(sizes))
        values = values.double() if len(sizes) == 2 else values
        parts = values.split(sizes)
        guess = {
            "fair": values[torch.randint(len(values), (100,))],
            "all below": values.amin() - torch.rand(100),
            "all above": values.amax() + torch.rand(100),
            "a single value": values[:1],
        }[pilot]
        median, (part, index) = _median.lower_median(parts.__iter__, len(values), guess)
        assert median == values.median() == parts[part][index]


def test_few_values_are_kept_for_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = 0
    original = _median._Bracket.add

    def count(bracket: _median._Bracket, values: Tensor) -> None:
        nonlocal kept
        original(bracket, values)
        kept = bracket._ends[-1]

    monkeypatch.setattr(_median._Bracket, "add", count)
    for sample in (torch.randn, lambda size: torch.randint(4, (size,)).float()):
        parts = sample(1_000_000).split(50_000)
        _median.lower_median(parts.__iter__, 1_000_000, torch.cat(parts)[::100])
        assert kept < 50_000


@pytest.mark.parametrize("number", [100, 384, 385, 900, 2048])
def test_the_median_bandwidth_is_the_median_of_all_pairs(number: int) -> None:
    features = torch.randn(number, 3).double()
    distances = torch.nn.functional.pdist(features).square()
    torch.testing.assert_close(median_bandwidth(features[:9], features[9:]), distances.median(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("number", [2049, 3001, 5000])
def test_the_median_is_exact_where_the_tiles_are_not_kept(number: int) -> None:
    features = torch.randn(number, 2).cumsum(0)  # neighbours in the batch are near each other
    state = torch.get_rng_state()
    first, second = (median_bandwidth(features[:99], features[99:]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    distances = torch.nn.functional.pdist(features.double()).square()
    torch.testing.assert_close(first.double(), distances.median(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("n", "period"), [(700, 2), (1024, 2), (1025, 2), (1050, 3), (2048, 4)])
def test_the_order_of_the_rows_does_not_matter(n: int, period: int) -> None:
    """A class sampler or interleaved views: rows in periodic order, in modes far from each other."""
    modes = 8 * (torch.arange(n) % period)[:, None]
    source, target = (0.3 * torch.randn(n, 16).double() + centre + modes for centre in (0, 0.3))
    order, other = torch.randperm(n), torch.randperm(n)
    expected = maximum_mean_discrepancy(source, target)
    torch.testing.assert_close(maximum_mean_discrepancy(source[order], target[other]), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("number", [6, 700, 2200])
@pytest.mark.parametrize("rule", ["median", "mean"])
def test_the_gradient_of_the_bandwidth(number: int, rule: str) -> None:
    features = torch.randn(number, 3).double().requires_grad_()
    bandwidth = rule_of(features, rule)
    distances = torch.nn.functional.pdist(features).square()
    expected = distances.median(0).values if rule == "median" else distances.mean()
    torch.testing.assert_close(bandwidth, expected)
    torch.testing.assert_close(torch.autograd.grad(bandwidth, features), torch.autograd.grad(expected, features))


@pytest.mark.parametrize("size", [1e5, 1e6, 3e7, 1e10, 1e15, 1e25])
@pytest.mark.parametrize(("n", "far"), [(4, 1), (10, 1), (28, 1), (31, 3), (64, 5), (250, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_rows_leave_the_others_their_distances(size: float, n: int, far: int, dtype: torch.dtype) -> None:
    source, target = torch.randn(n, 8).to(dtype), (torch.randn(n, 8) + 1).to(dtype)
    source[:far] = size * torch.arange(1, far + 1)[:, None]
    exact = source.double(), target.double()
    for bandwidth in ("median", 7.0):
        value = maximum_mean_discrepancy(source.requires_grad_(), target, bandwidth=bandwidth)
        expected = plain_mmd(*exact, bandwidth)
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)
        (gradient,) = torch.autograd.grad(value, source)
        assert gradient.isfinite().all()
        assert gradient[far:].abs().amax() > 1e-4 / n


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
    # what is taken away along the scale of the features may be nearly all of a gradient
    width = bandwidth if not isinstance(bandwidth, str) else rule_of(torch.cat([source, target]), bandwidth).item()
    fixed = torch.autograd.grad(maximum_mean_discrepancy(source, target, bandwidth=width), [source, target])
    gradients = torch.autograd.grad(value, [source, target]), torch.autograd.grad(exact, [source, target])
    for left, right, whole in zip(*gradients, fixed, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


@pytest.mark.parametrize("num_kernels", [7, 20, 40, 60, 100])
@pytest.mark.parametrize("far", [0.0, 30.0])
def test_many_kernels_keep_their_digits(num_kernels: int, far: float) -> None:
    source, target = torch.randn(16, 8), torch.randn(16, 8) + 1
    source[0] += far
    expected = plain_mmd(source.double(), target.double(), "median", num_kernels)
    value = maximum_mean_discrepancy(source.requires_grad_(), target, num_kernels=num_kernels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(value, source)
    (wanted,) = torch.autograd.grad(plain_mmd(source.double(), target.double(), "median", num_kernels), source)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-40, -38, -30, 30, 37, 150, -150])
def test_features_at_the_limits_of_their_dtype(exponent: int, dtype: torch.dtype) -> None:
    if dtype == torch.float32 and abs(exponent) > 100:
        return
    source, target = torch.randn(40, 5, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64) + 1
    expected = maximum_mean_discrepancy(source, target)
    scale = 10.0**exponent
    value = maximum_mean_discrepancy((scale * source).to(dtype), (scale * target).to(dtype))
    torch.testing.assert_close(value.double(), expected, rtol=1e-3 if exponent <= -40 else 1e-5, atol=0)


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


def test_every_second_derivative_raises() -> None:
    """Also a mixed one: of the gradient of one argument by another."""
    source, target = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    weights = torch.rand(6, requires_grad=True)
    calls: list[tuple[Tensor, list[Tensor]]] = [
        (maximum_mean_discrepancy(source, target, weights), [source, target, weights]),
        (
            joint_maximum_mean_discrepancy([source, source @ source.T], [target, target @ source.T], weights),
            [source, weights],
        ),
        (maximum_mean_discrepancy(source, target, estimator="unbiased"), [source, target]),
        (median_bandwidth(source, target), [source, target]),
    ]
    for value, arguments in calls:
        for first in arguments:
            (gradient,) = torch.autograd.grad(value, first, create_graph=True)
            for second in arguments:
                with pytest.raises(RuntimeError, match="second derivatives are not available"):
                    torch.autograd.grad(gradient.square().sum(), second, retain_graph=True)


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
    """All pairs of 4,000 + 4,000 samples would be 256 MB a matrix; the features are 2 MB, and 40 to 70 are measured."""
    child = subprocess.run([sys.executable, "-c", PEAK.format(n=4000)], capture_output=True, text=True, check=True)
    assert float(child.stdout) < 128
