"""Soft neighborhood density: groups whose density is known, and the authors' code as they print it."""

from __future__ import annotations

import math

import pytest
import torch
from cases import refuses
from torch import Tensor

from adaption import SoftNeighborhoodDensity
from adaption.selection import neighborhood


def density(*batches: Tensor, temperature: float = 0.05) -> float:
    metric = SoftNeighborhoodDensity(temperature)
    for batch in batches:
        metric.update(batch)
    return float(metric.compute())


def names(classes: Tensor, number: int) -> Tensor:
    """Logits that name these classes beyond doubt."""
    return 100 * torch.eye(number)[classes]


def test_equal_groups_have_the_density_of_one_of_them() -> None:
    """Each of 200 samples has 19 neighbours at similarity 1, and 180 at similarity 0, which count e^-20 each."""
    balanced = names(torch.arange(200) % 10, 10)
    assert density(*balanced.split(32)) == pytest.approx(math.log(19), abs=1e-6)


def test_a_collapsed_model_gets_the_best_value() -> None:
    for same in (names(torch.zeros(200, dtype=torch.long), 10), torch.zeros(200, 10)):
        assert density(*same.split(32)) == pytest.approx(math.log(199), rel=1e-12)
    assert density(torch.randn(200, 10)) < math.log(199)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_it_is_the_entropy_of_the_paper(temperature: float) -> None:
    """Equation by equation, in float64."""
    logits = 3 * torch.randn(9, 4, dtype=torch.float64)
    p = (logits.exp().T / logits.exp().sum(1)).T.tolist()
    total = 0.0
    for i, own in enumerate(p):
        similarity = {}
        for j, other in enumerate(p):
            if j != i:
                dot = sum(a * b for a, b in zip(own, other, strict=True))
                similarity[j] = dot / math.hypot(*own) / math.hypot(*other)
        partition = sum(math.exp(s / temperature) for s in similarity.values())
        shares = [math.exp(s / temperature) / partition for s in similarity.values()]
        total -= sum(share * math.log(share) for share in shares)
    assert density(*logits.split(4), temperature=temperature) == pytest.approx(total / 9, rel=1e-12)


def test_the_authors_give_a_sample_itself_a_share_that_is_none() -> None:
    """Their code puts -1 in the place of the similarity with itself: e^-20 of what equal predictions have."""
    logits = 3 * torch.randn(30, 5, dtype=torch.float64)
    directions = torch.nn.functional.normalize(logits.softmax(1))
    similarities = directions @ directions.T
    similarities.fill_diagonal_(-1)
    shares = (similarities / 0.05).softmax(1)
    theirs = -(shares * (shares + 1e-5).log()).sum(1).mean()
    assert density(logits) == pytest.approx(float(theirs), abs=1e-3)  # the constant in their logarithm


@pytest.mark.parametrize("entries", [1, 7, 40, 10_000])
def test_blocks_change_nothing(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(13, 4)
    expected = density(logits)
    monkeypatch.setattr(neighborhood, "_ENTRIES", entries)
    assert density(logits) == pytest.approx(expected, rel=1e-12)


def test_without_neighbours_the_density_is_0() -> None:
    assert density(torch.randn(1, 3)) == density(torch.randn(2, 3)) == 0
    assert torch.tensor(density(torch.full((1, 3), torch.nan))).isnan()


@pytest.mark.parametrize("temperature", [2e-38, 1e30])
def test_extreme_temperatures_are_finite(temperature: float) -> None:
    """One neighbour takes all, or all count alike."""
    found = density(torch.randn(6, 4), temperature=temperature)
    assert found == pytest.approx(0 if temperature < 1 else math.log(5))


def test_a_small_temperature_costs_no_digits() -> None:
    """Similarities of 1 become 1e10: their largest has to go before the logarithm is taken."""
    assert density(names(torch.arange(6) % 2, 2), temperature=1e-10) == pytest.approx(math.log(2), abs=1e-12)


def test_large_logits_and_ruled_out_classes_are_finite() -> None:
    logits = 1e30 * torch.randn(6, 4)
    logits[0, 1] = -torch.inf
    assert math.isfinite(density(logits))


def test_one_sample_that_is_nan_shows() -> None:
    logits = torch.randn(5, 3)
    logits[2, 1] = torch.nan
    assert math.isnan(density(logits))


def test_what_does_not_fit_is_refused() -> None:
    metric = SoftNeighborhoodDensity()
    metric.update(torch.randn(4, 3))
    refuses(metric, r"`target_logits` must have shape \(N, 3\) as in the batches before", torch.randn(4, 5))
    refuses(metric, "`target_logits` must hold logits", torch.randn(4, 3).softmax(1))
    refuses(metric, "`target_logits` must hold the logits of at least 2 classes", torch.randn(4, 1))
    with pytest.raises(ValueError, match="`temperature` must be"):
        SoftNeighborhoodDensity(0.0)
