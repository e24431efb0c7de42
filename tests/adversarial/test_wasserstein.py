"""WDGRL against the paper, the distance that a critic finds, its points, its game, its modes, and its errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import refuses
from torch import Tensor, nn

from adaption import WassersteinDomainLoss
from adaption.layers import DomainDiscriminator, GradientReversalLayer, WarmStartGradientReversalLayer

WIDTH = 4


def curved() -> nn.Sequential:
    """A critic whose slope differs from point to point."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def draw(n: int, m: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(n + m)
    return torch.randn(n, WIDTH).double(), torch.randn(m, WIDTH).double() + 1


def by_numpy(critic: nn.Sequential, batch: tuple[Tensor, Tensor], points: Tensor, weight: float) -> float:
    """Shen et al. 2018, sample by sample, with the derivative of the critic by hand."""
    w, b, v, c = (parameter.detach().numpy() for parameter in critic.parameters())

    def score(x: Any) -> float:
        return float(sum(v[0, k] * math.tanh(w[k] @ x + b[k]) for k in range(5)) + c[0])

    def slope(x: Any) -> float:
        return float(np.linalg.norm(sum(v[0, k] * (1 - math.tanh(w[k] @ x + b[k]) ** 2) * w[k] for k in range(5))))

    means = [sum(score(x) for x in rows.numpy()) / len(rows) for rows in batch]
    penalties = [(slope(x) - 1) ** 2 for x in points.numpy()]
    return means[1] - means[0] + weight * sum(penalties) / len(penalties)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 5), (7, 2)])
@pytest.mark.parametrize("weight", [0, 0.5, 10.0])
def test_equals_the_paper(n: int, m: int, weight: float) -> None:
    critic, batch = curved(), draw(n, m)
    metric = WassersteinDomainLoss(critic, gradient_penalty=weight).eval()
    expected = by_numpy(critic, batch, metric.points(*batch), weight)
    assert metric(*batch).item() == pytest.approx(expected, abs=1e-12)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


def test_the_paper_weighs_the_penalty_by_10() -> None:
    critic, batch = curved(), draw(4, 3)
    default, named = WassersteinDomainLoss(critic), WassersteinDomainLoss(critic, gradient_penalty=10.0)
    assert default.eval()(*batch) == named.eval()(*batch)


@pytest.mark.parametrize("weight", [2.0, 10.0])
def test_a_critic_at_its_best_finds_the_way_between_the_domains(weight: float) -> None:
    """Moved by 3, a linear critic has -3 k + w (k - 1)^2, least at a slope of k = 1 + 3 / 2w."""
    source = torch.randn(50, 1, dtype=torch.float64)
    critic = nn.Linear(1, 1).double()
    nn.init.ones_(critic.weight)  # a slope in the wrong direction would have a minimum of its own
    metric = WassersteinDomainLoss(critic, gradient_penalty=weight)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1 / weight)
    for _ in range(300):
        optimizer.zero_grad()
        metric(source, source - 3).backward()
        optimizer.step()
    slope = 1 + 3 / (2 * weight)
    metric.reset()
    assert metric(source, source - 3).item() == pytest.approx(-3 * slope + weight * (slope - 1) ** 2, abs=1e-9)
    assert critic.weight.item() == pytest.approx(slope, abs=1e-6)


# the points


def shares(n: int, m: int, metric: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples the points lie between, and where, read off features that are one for each sample."""
    points = metric.points(*torch.eye(n + m).split([n, m]))
    assert points.shape == (max(n, m), n + m)
    of_source, of_target = points.split([n, m], dim=1)
    torch.testing.assert_close(points.sum(1), torch.ones(max(n, m)))
    assert ((points > 0).sum(1) <= 2).all()
    return of_source.argmax(1), of_target.argmax(1), of_source.sum(1)


@pytest.mark.parametrize(("n", "m"), [(3, 6000), (6000, 3), (1, 1), (4, 7)])
def test_points_lie_between_a_source_and_a_target_sample(n: int, m: int) -> None:
    shares(n, m, WassersteinDomainLoss(nn.Linear(1, 1)))


def test_pairs_and_places_are_evenly_distributed_and_independent() -> None:
    """6,000 points in cells of 3 x 5 pairs and thirds of the way: each within 5 standard deviations of 6000 / 45."""
    metric = WassersteinDomainLoss(nn.Linear(1, 1))
    n, m, draws = 3, 5, 1200
    found = [torch.cat(part) for part in zip(*(shares(n, m, metric) for _ in range(draws)), strict=True)]
    cells = (found[0] * m + found[1]) * 3 + (3 * found[2]).long()
    counts = cells.bincount(minlength=45)
    assert counts.sum() == draws * m
    assert len(counts) == 45
    expected = draws * m / 45
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)
    assert found[2].mean().item() == pytest.approx(0.5, abs=0.02)


def test_points_are_new_in_training_and_the_same_in_evaluation() -> None:
    metric, batch = WassersteinDomainLoss(curved()), draw(4, 3)
    values = [metric(*batch).item() for _ in range(3)]
    assert len(set(values)) == 3
    metric.eval()
    judged = [metric(*batch).item() for _ in range(2)]
    assert judged[0] == judged[1]
    assert metric.points.draws == 3
    metric.train()
    again = WassersteinDomainLoss(curved())
    assert [again(*batch).item() for _ in range(4)] == [*values, metric(*batch).item()]


def test_a_resumed_run_goes_on_with_the_points_it_would_have_had() -> None:
    metric, batch = WassersteinDomainLoss(curved()), draw(4, 3)
    metric(*batch)
    resumed = WassersteinDomainLoss(curved())
    resumed.load_state_dict(metric.state_dict())
    assert resumed(*batch) == metric(*batch)


def test_generators_are_left_alone() -> None:
    metric, batch = WassersteinDomainLoss(curved()), draw(4, 3)
    before = torch.get_rng_state()
    metric(*batch).backward()
    metric.update(*batch)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_refused_call_draws_nothing() -> None:
    class TwiceInATurn(nn.Module):
        """It gives a score for each sample only where there are seven."""

        def forward(self, features: Tensor) -> Tensor:
            return features.sum(1)[:7]

    source, target = draw(4, 3)
    metric = WassersteinDomainLoss(TwiceInATurn(), nan_strategy="error")
    metric(source, target)
    refuses(metric, "the value of this batch is not finite", source, torch.full_like(target, math.nan))
    refuses(metric, "`critic` must give one score for each of the 8 samples", source, source)
    refuses(metric, "`target_features` must have as many columns", source, target[:, :2])
    assert metric.points.draws == 1

    class OfFewPoints(nn.Module):
        """It works on the samples, and not on the points, which are fewer."""

        def forward(self, features: Tensor) -> Tensor:
            return features.sum(1) if len(features) == 7 else features

    metric = WassersteinDomainLoss(OfFewPoints())
    refuses(metric, "`critic` must give one score for each of the 4 samples", source, target)
    assert metric.points.draws == 0


# the game


def test_features_get_the_reversed_gradient_of_the_distance_and_nothing_of_the_penalty() -> None:
    critic, batch = curved(), draw(4, 3)
    source, target = (rows.requires_grad_() for rows in batch)
    plain = torch.autograd.grad(critic(target).mean() - critic(source).mean(), batch)
    for weight in (0, 10.0, 1000.0):
        value = WassersteinDomainLoss(critic, gradient_penalty=weight)(source, target)
        for found, expected in zip(torch.autograd.grad(value, batch), plain, strict=True):
            torch.testing.assert_close(found, -expected)


def test_critic_gets_the_gradient_of_all_terms() -> None:
    """By differences, parameter by parameter."""
    critic, batch = curved(), draw(4, 3)
    metric = WassersteinDomainLoss(critic, gradient_penalty=3.0).eval()
    metric(*batch).backward()
    for parameter in critic.parameters():
        for place in range(parameter.numel()):
            values = []
            for move in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[place] += move
                    values.append(metric(*batch).item())
                    parameter.view(-1)[place] -= move
            assert parameter.grad is not None
            slope = (values[0] - values[1]) / 2e-6
            assert parameter.grad.flatten()[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_critic_learns_and_features_come_together() -> None:
    """A descent step of each player, alone: the critic lowers the value, the features the distance that it finds."""
    metric, (source, target) = WassersteinDomainLoss(curved()).eval(), draw(32, 24)
    source, target = source.requires_grad_(), target.requires_grad_()
    before = metric(source, target)
    before.backward()
    assert source.grad is not None
    assert target.grad is not None

    def distance(source: Tensor, target: Tensor) -> Tensor:
        apart: Tensor = metric.critic(source).mean() - metric.critic(target).mean()
        return apart

    with torch.no_grad():
        assert distance(source - source.grad, target) < distance(source, target)
        assert distance(source, target - target.grad) < distance(source, target)
        torch.optim.SGD(metric.parameters(), lr=0.01).step()
        assert metric(source, target) < before


def test_grl_sets_strength_and_steps_once_per_batch() -> None:
    critic, (source, target) = curved(), draw(4, 3)
    grl = WarmStartGradientReversalLayer(lo=0.5, auto_step=True)
    metric, plain = WassersteinDomainLoss(critic, grl=grl), WassersteinDomainLoss(critic)
    source.requires_grad_()
    (found,) = torch.autograd.grad(metric(source, target), source)
    (expected,) = torch.autograd.grad(plain(source, target), source)
    torch.testing.assert_close(found, 0.5 * expected)
    assert metric.state_dict()["grl.iteration"] == 1
    assert isinstance(plain.grl, GradientReversalLayer)


def test_a_frozen_critic_still_moves_the_features() -> None:
    critic, (source, target) = curved().requires_grad_(requires_grad=False), draw(4, 3)
    WassersteinDomainLoss(critic)(source.requires_grad_(), target).backward()
    assert source.grad is not None
    assert source.grad.count_nonzero()


# what a critic may be


def test_a_critic_without_slope_has_the_whole_penalty_and_finite_gradients() -> None:
    batch = draw(4, 3)
    flat = nn.Linear(WIDTH, 1).double()
    nn.init.zeros_(flat.weight)
    value = WassersteinDomainLoss(flat)(*batch)
    value.backward()
    assert value.item() == pytest.approx(10)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in flat.parameters())
    level = nn.Parameter(torch.ones(1, dtype=torch.float64))
    for constant in (lambda rows: level.expand(len(rows)), lambda rows: rows.new_ones(len(rows))):
        assert WassersteinDomainLoss(constant)(*batch).item() == pytest.approx(10)


def test_any_callable_and_both_shapes() -> None:
    source, target = draw(4, 3)
    metric = WassersteinDomainLoss(lambda rows: rows[:, 0], gradient_penalty=2.0)
    of_column = WassersteinDomainLoss(lambda rows: rows[:, :1], gradient_penalty=2.0)
    expected = target[:, 0].mean() - source[:, 0].mean()  # the slope is 1
    torch.testing.assert_close(metric(source, target), expected)
    torch.testing.assert_close(of_column(source, target), expected)


def test_running_statistics_know_the_samples_and_no_points() -> None:
    with pytest.warns(UserWarning, match="`critic` must not normalise over the batch"):
        metric = WassersteinDomainLoss(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1)).double())
    batch = draw(4, 3)
    metric(*batch).backward()
    norm = metric.state_dict()
    assert norm["critic.0.num_batches_tracked"] == 1
    torch.testing.assert_close(norm["critic.0.running_mean"], 0.1 * torch.cat(batch).mean(0))


def test_spectral_normalisation_works() -> None:
    critic = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, 1))).double()
    metric, batch = WassersteinDomainLoss(critic), draw(4, 3)
    value = metric(*batch)
    value.backward()
    assert value.item() == pytest.approx(WassersteinDomainLoss(critic, gradient_penalty=0).eval()(*batch).item())


def test_features_may_differ_in_precision() -> None:
    source, target = draw(4, 3)
    metric = WassersteinDomainLoss(curved()).eval()
    torch.testing.assert_close(metric(source, target.float()), metric(source, target.float().double()))


# modes


def test_the_penalty_is_there_in_every_mode() -> None:
    metric, batch = WassersteinDomainLoss(curved()).eval(), draw(4, 3)
    expected = metric(*batch)
    metric.reset()
    metric.update(*batch)
    assert metric.compute() == expected
    with torch.no_grad():
        value = metric(*batch)
    assert value == expected
    assert not value.requires_grad
    with torch.inference_mode():
        assert metric(*(rows.clone() for rows in batch)) == expected
    assert all(parameter.grad is None for parameter in metric.parameters())


def test_epoch_value_takes_each_mean_over_all_samples_and_points() -> None:
    metric, replayed = WassersteinDomainLoss(curved(), gradient_penalty=3.0), WassersteinDomainLoss(curved())
    batches = [draw(*sizes) for sizes in ((4, 3), (1, 6), (5, 5))]
    points = torch.cat([replayed.points(*batch) for batch in batches])
    for index, batch in enumerate(batches):
        (metric.update if index % 2 else metric)(*batch)
    source, target = (torch.cat(rows) for rows in zip(*batches, strict=True))
    expected = by_numpy(curved(), (source, target), points, 3.0)
    assert len(points) == 4 + 6 + 5
    assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


def test_gradients_by_transforms_and_compiled_are_those_of_autograd() -> None:
    torch.compiler.reset()
    metric, (source, target) = WassersteinDomainLoss(curved()), draw(4, 3)
    twins = [copy.deepcopy(metric) for _ in range(2)]
    value = metric(source.requires_grad_(), target)
    value.backward()
    found = torch.func.grad(lambda rows: twins[0](rows, target))(source.detach())
    torch.testing.assert_close(found, source.grad)
    compiled = torch.compile(lambda *batch: 2 * twins[1](*batch), fullgraph=True, backend="aot_eager")
    doubled = compiled(source.detach().requires_grad_(), target)
    doubled.backward()
    torch.testing.assert_close(doubled, 2 * value)
    for left, right in zip(twins[1].parameters(), metric.parameters(), strict=True):
        torch.testing.assert_close(left.grad, 2 * right.grad)  # type: ignore[operator] # both have one
    assert metric.points.draws == twins[0].points.draws == twins[1].points.draws == 1


# errors


def one_for_all(features: Tensor) -> Tensor:
    return features.mean((0, 1)).reshape(1)


def at_each_place(features: Tensor) -> Tensor:
    return features[:, None]


@pytest.mark.parametrize(
    ("critic", "shapes", "error", "message"),
    [
        (lambda rows: rows[:, :2], ((4, 3), (4, 3)), ValueError, r"one score for each of the 8 samples, .* \(8, 2\)"),
        (one_for_all, ((4, 3), (4, 3)), ValueError, r"`critic` must give one score for each of the 8 .* shape \(1,\)"),
        (torch.sum, ((4, 3), (4, 3)), ValueError, r"`critic` must give one score .* shape \(\)"),
        (at_each_place, ((4, 3), (4, 3)), ValueError, "average over the places"),
        (lambda _: None, ((4, 3), (4, 3)), TypeError, r"`critic\(x\)` must be a tensor, but got NoneType"),
        (
            lambda rows: rows.sum(1).long(),
            ((4, 3), (4, 3)),
            TypeError,
            r"`critic\(x\)` must be a floating-point tensor",
        ),
        (torch.sum, ((0, 3), (4, 3)), ValueError, "`source_features` must not be empty"),
        (torch.sum, ((4, 3), (4,)), ValueError, r"`target_features` must have shape \(N, ..\)"),
        (torch.sum, ((4, 3), (4, 2)), ValueError, "`target_features` must have as many columns"),
        (
            nn.Linear(5, 1),
            ((4, 3), (4, 3)),
            ValueError,
            "`source_features` must have the 5 columns that `critic` takes",
        ),
    ],
)
def test_bad_input_is_a_sentence(critic: Any, shapes: Any, error: type[Exception], message: str) -> None:
    refuses(WassersteinDomainLoss(critic), message, *(torch.rand(shape) for shape in shapes), error=error)


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match="`critic` must be a Module or another callable, but got int"):
        WassersteinDomainLoss(3)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(TypeError, match="`grl` must be a Module"):
        WassersteinDomainLoss(torch.sum, grl=0.5)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ValueError, match="`gradient_penalty` must be a finite number of at least 0, but got -1"):
        WassersteinDomainLoss(torch.sum, gradient_penalty=-1)
    with pytest.raises(TypeError, match="`gradient_penalty` must be a number"):
        WassersteinDomainLoss(torch.sum, gradient_penalty="10")  # type: ignore[arg-type] # the point of the test
    with pytest.warns(UserWarning, match="`critic` must give logits, but ends in Sigmoid. Scores within bounds"):
        WassersteinDomainLoss(nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()))
    with pytest.warns(UserWarning, match="Build it without, as `DomainDiscriminator"):
        WassersteinDomainLoss(DomainDiscriminator(3, 4))
    WassersteinDomainLoss(DomainDiscriminator(3, 4, batch_norm=False))
