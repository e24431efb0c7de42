"""Random numbers from a counter: uniform, independent from place to place and from draw to draw, and never repeated."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from adaption import _draws
from adaption._directions import Directions
from adaption._draws import Draws

CPU = torch.device("cpu")


def many(draws: int, number: int) -> Tensor:
    """One row for each draw."""
    source = Draws()
    return torch.stack([source.draw(number, CPU) for _ in range(draws)])


def even(*digits: Tensor) -> float:
    """The probability of counts that differ more, if the first bits of all integers are uniform and independent."""
    classes = torch.zeros_like(digits[0])
    for each in digits:
        classes = 16 * classes + (each >> 60) + 8
    return float(chisquare(np.bincount(classes.flatten().numpy(), minlength=16 ** len(digits))).pvalue)


def test_a_number_is_the_hash_of_its_draw_and_place() -> None:
    """With integers of any length, of which the last 64 bits are kept."""
    rows = many(3, 20)
    for draw in range(3):
        for place in range(20):
            x = signed((_draws._SEED + place + (draw + 1) * _draws._STEP) * _draws._FIRST)
            assert rows[draw, place].item() == signed(signed(x ^ x >> 32) * _draws._SECOND)


def signed(number: int) -> int:
    """The last 64 bits, as a number with a sign."""
    return (number + 2**63) % 2**64 - 2**63


def test_numbers_are_uniform() -> None:
    assert even(many(400, 1000)) > 1e-3


@pytest.mark.parametrize("apart", [1, 2, 3, 7, 64, 256])
def test_numbers_at_two_places_are_independent(apart: int) -> None:
    rows = many(400, 1000)
    assert even(rows[:, apart:], rows[:, :-apart]) > 1e-3


@pytest.mark.parametrize("apart", [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144])
def test_numbers_of_two_draws_are_independent(apart: int) -> None:
    """Draws that a Fibonacci number lies between have the nearest steps."""
    rows = many(400, 1000)
    assert even(rows[apart:], rows[:-apart]) > 1e-3


def test_no_number_comes_twice() -> None:
    assert len(many(400, 5000).unique()) == 400 * 5000


def test_in_evaluation_all_draws_are_the_same_and_do_not_count() -> None:
    source = Draws()
    first = source.draw(5, CPU)
    source.eval()
    assert torch.equal(source.draw(5, CPU), source.draw(5, CPU))
    assert source.draws == 1
    source.train()
    assert not torch.equal(source.draw(5, CPU), first)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler of C++")
@pytest.mark.parametrize("training", [True, False])
def test_compiled_directions_are_the_same(training: bool) -> None:
    """Products are beyond 64 bits, also where the compiler knows the integers."""
    directions, compiled = Directions().train(training), Directions().train(training)
    find = torch.compile(compiled, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(find(7, 4, torch.zeros(1)), directions(7, 4, torch.zeros(1)))


def test_it_restarts() -> None:
    source = Draws()
    first = source.draw(5, CPU)
    source.reset_parameters()
    assert torch.equal(source.draw(5, CPU), first)
