"""MMD against double loops, closed forms and its errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import elsewhere
from torch import Tensor
from torch.autograd import forward_ad

from adaption import MaximumMeanDiscrepancyLoss
from adaption.functional import maximum_mean_discrepancy, median_bandwidth

pytestmark = pytest.mark.usefixtures("either_way")

Array = np.ndarray[Any, np.dtype[np.float64]]


def squared_distance(x: Array, y: Array) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def kernel(x: Array, y: Array, bandwidth: float, num_kernels: int) -> float:
    exponents = [2.0 ** (i - num_kernels // 2) * squared_distance(x, y) / bandwidth for i in range(num_kernels)]
    return sum(math.exp(-e) for e in exponents) / num_kernels


def bandwidth_of(distances: list[float], rule: str | float) -> float:
    if not isinstance(rule, str):
        return rule
    ordered = sorted(distances)
    return ordered[(len(ordered) - 1) // 2] if rule == "median" else sum(ordered) / len(ordered)


def reference(
    source: Array,
    target: Array,
    *,
    num_kernels: int,
    rule: str | float,
    estimator: str,
    source_weights: Array | None = None,
    target_weights: Array | None = None,
) -> float:
    """Gretton et al. 2012, equations (5), (3) and lemma 14, with double loops."""
    everything = [*source, *target]
    if estimator == "linear":
        pairs = range(len(source) // 2)
        quads = [(source[2 * i], source[2 * i + 1], target[2 * i], target[2 * i + 1]) for i in pairs]
        used = [squared_distance(*p) for a, b, c, d in quads for p in ((a, b), (c, d), (a, d), (b, c))]
        width = bandwidth_of(used, rule)

        def k(x: Array, y: Array) -> float:
            return kernel(x, y, width, num_kernels)

        return sum(k(a, b) + k(c, d) - k(a, d) - k(b, c) for a, b, c, d in quads) / len(quads)
    distances = [squared_distance(x, y) for i, x in enumerate(everything) for y in everything[:i]]
    width = bandwidth_of(distances, rule)

    def mean(xs: Array, ys: Array, u: Array, v: Array, *, drop_diagonal: bool = False) -> float:
        total = weight = 0.0
        for i, x in enumerate(xs):
            for j, y in enumerate(ys):
                if not (drop_diagonal and i == j):
                    total += u[i] * v[j] * kernel(x, y, width, num_kernels)
                    weight += u[i] * v[j]
        return total / weight

    u = np.ones(len(source)) if source_weights is None else source_weights
    v = np.ones(len(target)) if target_weights is None else target_weights
    drop = estimator == "unbiased"
    within = mean(source, source, u, u, drop_diagonal=drop) + mean(target, target, v, v, drop_diagonal=drop)
    return within - 2 * mean(source, target, u, v)


def draw(n: int, m: int, d: int = 3) -> tuple[Array, Array]:
    generator = np.random.default_rng(n * 100 + m)
    return generator.normal(size=(n, d)), generator.normal(size=(m, d)) * 1.5 + 0.7


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
@pytest.mark.parametrize("rule", ["median", "mean", 2.5])
@pytest.mark.parametrize("num_kernels", [1, 2, 5, 7])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 3), (2, 9)])
def test_equals_the_paper(n: int, m: int, num_kernels: int, rule: str | float, estimator: str) -> None:
    m = n if estimator == "linear" else m
    source, target = draw(n, m)
    value = maximum_mean_discrepancy(
        torch.tensor(source), torch.tensor(target), num_kernels=num_kernels, bandwidth=rule, estimator=estimator
    )
    expected = reference(source, target, num_kernels=num_kernels, rule=rule, estimator=estimator)
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_weights_replace_the_means(shape: tuple[int, ...]) -> None:
    source, target = draw(6, 4)
    u, v = np.array([0.0, 1, 2, 3, 0.5, 7]), np.array([1.0, 0, 2, 4])
    weights = torch.tensor(u).view(shape), torch.tensor(v).view(shape)
    value = maximum_mean_discrepancy(torch.tensor(source), torch.tensor(target), *weights)
    expected = reference(
        source, target, num_kernels=5, rule="median", estimator="biased", source_weights=u, target_weights=v
    )
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
@pytest.mark.parametrize("rule", ["median", "mean", 3.0])
@pytest.mark.parametrize("num_kernels", [1, 2, 5])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (6, 3)])
def test_gradcheck(n: int, m: int, num_kernels: int, rule: str | float, estimator: str) -> None:
    m = n if estimator == "linear" else m
    leaves = [torch.tensor(part, requires_grad=True) for part in draw(n, m)]
    if estimator == "biased":
        leaves += [torch.rand(n).double().requires_grad_(), torch.rand(m).double().requires_grad_()]
    settings: dict[str, Any] = {"bandwidth": rule, "estimator": estimator, "num_kernels": num_kernels}
    assert torch.autograd.gradcheck(lambda *batch: maximum_mean_discrepancy(*batch, **settings), leaves)


def test_gradcheck_of_weights() -> None:
    source, target = (torch.tensor(part) for part in draw(4, 3))
    u, v = torch.rand(4).double().requires_grad_(), torch.rand(3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: maximum_mean_discrepancy(source, target, u, v), (u, v))


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
@pytest.mark.parametrize("rule", ["median", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [40, 1200])
def test_nothing_pulls_at_the_scale_of_the_features(size: int, dtype: torch.dtype, rule: str, estimator: str) -> None:
    """The biased estimate is above 0 for equal domains; no shrinking of all features may bring it down."""
    leaves = [(torch.randn(size, 8).to(dtype) + 5).requires_grad_() for _ in range(2)]
    value = maximum_mean_discrepancy(*leaves, bandwidth=rule, estimator=estimator)
    gradients = torch.autograd.grad(value, leaves)
    centre = torch.cat(leaves).mean(0)
    pulls = (torch.cat(leaves) - centre) * torch.cat(gradients)
    assert pulls.sum().abs() < (1e-5 if dtype == torch.float32 else 1e-13) * pulls.abs().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 5), (7, 2)])
def test_constant_features_give_zero(n: int, m: int, dtype: torch.dtype) -> None:
    source = torch.full((n, 3), 1.1, dtype=dtype, requires_grad=True)
    for estimator in ["biased", *["unbiased"] * (min(n, m) > 1), *["linear"] * (n == m)]:
        value = maximum_mean_discrepancy(source, torch.full((m, 3), 1.1, dtype=dtype), estimator=estimator)
        (gradient,) = torch.autograd.grad(value, source)
        assert value.item() == pytest.approx(0, abs=1e-7)
        assert (gradient == 0).all()


def test_far_apart_point_masses() -> None:
    """All within-domain kernels 1, all others 0: 1 + 1."""
    value = maximum_mean_discrepancy(torch.zeros(4, 2), torch.full((6, 2), 1e4), bandwidth=1.0)
    assert value.item() == pytest.approx(2.0)


def test_isolated_samples() -> None:
    """All kernels between different samples 0: 1/n + 1/m, and 0 once the diagonal is dropped."""
    samples = 1e4 * torch.arange(11.0).unsqueeze(1)
    settings: dict[str, Any] = {"bandwidth": 1.0, "num_kernels": 1}
    biased = maximum_mean_discrepancy(samples[:5], samples[5:], **settings)
    unbiased = maximum_mean_discrepancy(samples[:5], samples[5:], estimator="unbiased", **settings)
    assert biased.item() == pytest.approx(1 / 5 + 1 / 6)
    assert unbiased.item() == pytest.approx(0, abs=1e-6)


def test_one_sample_each() -> None:
    expected = 2 - 2 * sum(math.exp(-(2.0 ** (i - 2))) for i in range(5)) / 5
    value = maximum_mean_discrepancy(torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, -3.0]]))
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e15])
def test_median_bandwidth_makes_the_value_free_of_scale(scale: float) -> None:
    source, target = torch.randn(6, 4), torch.randn(5, 4) + 1
    scaled = (scale * source).requires_grad_()
    value = maximum_mean_discrepancy(scaled, scale * target)
    value.backward()
    torch.testing.assert_close(value, maximum_mean_discrepancy(source, target))
    assert scaled.grad is not None
    assert scaled.grad.isfinite().all()


def test_far_from_the_origin() -> None:
    source, target = torch.randn(64, 16) + 1000, torch.randn(48, 16) + 1000.5
    exact = maximum_mean_discrepancy(source.double(), target.double())
    assert maximum_mean_discrepancy(source, target).double() == pytest.approx(exact.item(), rel=1e-5)


def test_tight_clusters_far_apart_keep_their_structure() -> None:
    """Most distances lie within a cluster, and are 1e-10 of those between them."""
    centres = torch.tensor([[0.0, 0.0], [1000.0, 0.0]])
    source = centres[[0] * 20 + [1]] + 0.01 * torch.randn(21, 2)
    target = centres[[0] * 20 + [1]] + 0.01 * torch.randn(21, 2) + torch.tensor([0.01, 0.0])
    exact = maximum_mean_discrepancy(source.double(), target.double())
    assert maximum_mean_discrepancy(source, target).double() == pytest.approx(exact.item(), rel=1e-4)


def test_duplicates_make_the_mean_take_over() -> None:
    """More than half of the pairs are equal: the median is 0, the mean of all distances is not."""
    source, target = torch.tensor([[0.0], [0.0], [0.0], [0.0]]), torch.tensor([[0.0], [3.0]])
    source.requires_grad_()
    assert median_bandwidth(source, target).item() == pytest.approx(9 * 5 / 15)
    value = maximum_mean_discrepancy(source, target)
    value.backward()
    expected = maximum_mean_discrepancy(source, target, bandwidth=3.0)
    torch.testing.assert_close(value, expected)
    assert source.grad is not None
    assert source.grad.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 2])
def test_non_finite_features_give_nan(bad: float, row: int) -> None:
    source = torch.randn(4, 3)
    source[row, 1] = bad
    for estimator in ("biased", "unbiased", "linear"):
        assert maximum_mean_discrepancy(source, torch.randn(4, 3), estimator=estimator).isnan()
    assert maximum_mean_discrepancy(torch.randn(4, 3), source).isnan()
    assert median_bandwidth(source, torch.randn(4, 3)).isnan()


def test_compiles_whole() -> None:
    compiled = torch.compile(maximum_mean_discrepancy, fullgraph=True, backend="aot_eager")
    source, target = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3)
    for estimator in ("biased", "unbiased"):
        value = compiled(source, target, estimator=estimator)
        expected = maximum_mean_discrepancy(source, target, estimator=estimator)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, source), torch.autograd.grad(expected, source))
    torch.testing.assert_close(
        torch.compile(median_bandwidth, fullgraph=True, backend="aot_eager")(source, target),
        median_bandwidth(source, target),
    )


def test_transforms_are_right_or_refused() -> None:
    source, target = torch.randn(6, 3), torch.randn(5, 3)
    leaf = source.clone().requires_grad_()
    (expected,) = torch.autograd.grad(maximum_mean_discrepancy(leaf, target), leaf)
    torch.testing.assert_close(torch.func.grad(maximum_mean_discrepancy)(source, target), expected)
    (gradient,) = torch.autograd.grad(maximum_mean_discrepancy(leaf, target), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        (gradient.square().sum() + leaf.sum()).backward()
    with pytest.raises(RuntimeError, match=r"batches by `torch.vmap` are not available"):
        torch.func.vmap(lambda s: maximum_mean_discrepancy(s, target))(source[None])
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        maximum_mean_discrepancy(forward_ad.make_dual(source, torch.ones_like(source)), target)


def test_no_work_for_gradients_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from adaption import _kernels

    asked: list[list[bool]] = []
    original = _kernels._quadratic_form._eager

    def spy(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
        asked.append(needed)
        return original(tensors, needed, options)

    monkeypatch.setattr(_kernels._quadratic_form, "_eager", spy)
    source, target = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3)
    maximum_mean_discrepancy(source, target)
    with torch.no_grad():
        maximum_mean_discrepancy(source, target)
    MaximumMeanDiscrepancyLoss().update(source, target)
    assert [any(needed) for needed in asked] == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (((0, 3), (4, 3)), {}, ValueError, "`source_features` must not be empty"),
        (((4, 0), (4, 0)), {}, ValueError, "`source_features` must not be empty"),
        (((4,), (4,)), {}, ValueError, r"`source_features` must have shape \(N, features\)"),
        (((4, 3, 2), (4, 3, 2)), {}, ValueError, "`source_features` must have shape"),
        (((4, 3), (4, 5)), {}, ValueError, r"`target_features` must have as many columns as `source_features` \(3\)"),
        (((4, 3), (5, 3)), {"estimator": "linear"}, ValueError, "`target_features` must have as many samples"),
        (((1, 3), (1, 3)), {"estimator": "linear"}, ValueError, "at least 2 samples each for the linear"),
        (((1, 3), (4, 3)), {"estimator": "unbiased"}, ValueError, "at least 2 samples each for the unbiased"),
        (((4, 3), (4, 3), (3,)), {}, ValueError, "`source_weights` must hold one weight per sample"),
        (((4, 3), (4, 3), (4,)), {"estimator": "unbiased"}, ValueError, "`source_weights` must be None"),
        (((4, 3), (4, 3)), {"estimator": "exact"}, ValueError, '`estimator` must be one of "biased"'),
        (((4, 3), (4, 3)), {"bandwidth": "mode"}, ValueError, "`bandwidth` must be one of"),
        (((4, 3), (4, 3)), {"bandwidth": math.nan}, ValueError, "`bandwidth` must be a finite number above 0"),
        (((4, 3), (4, 3)), {"bandwidth": 0.0}, ValueError, "`bandwidth` must be a finite number above 0"),
        (((4, 3), (4, 3)), {"bandwidth": None}, TypeError, "`bandwidth` must be a number"),
        (((4, 3), (4, 3)), {"num_kernels": 0}, ValueError, "`num_kernels` must be at least 1"),
        (((4, 3), (4, 3)), {"num_kernels": 2.0}, TypeError, "`num_kernels` must be an integer"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: tuple[tuple[int, ...], ...], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    batch = [torch.rand(shape) for shape in arguments]
    with pytest.raises(error, match=message):
        maximum_mean_discrepancy(*batch, **settings)
    with pytest.raises(error, match=message):
        MaximumMeanDiscrepancyLoss(**settings)(*batch)


def test_bad_weights() -> None:
    features = torch.rand(4, 3)
    with pytest.raises(ValueError, match="`target_weights` must not be negative"):
        maximum_mean_discrepancy(features, features, target_weights=torch.tensor([1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="`source_weights` must have a positive sum"):
        maximum_mean_discrepancy(features, features, torch.zeros(4))
    with pytest.raises(TypeError, match="`source_features` must be a floating-point tensor"):
        maximum_mean_discrepancy(torch.ones(4, 3, dtype=torch.int64), features)
    with pytest.raises(TypeError, match="`source_features` must be a tensor, but got list"):
        maximum_mean_discrepancy([[1.0]], features)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(TypeError, match="`pooled` must be True, False or"):
        MaximumMeanDiscrepancyLoss(pooled=1)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ValueError, match="`target_features` must be on the device of"):
        maximum_mean_discrepancy(features, elsewhere(features))
