"""Laws of the adversarial losses, over shapes and values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption.functional import domain_adversarial_loss

logits = st.lists(st.floats(-50, 50), min_size=1, max_size=9).map(lambda z: torch.tensor(z, dtype=torch.float64))


@given(logits, logits)
def test_dann_does_not_know_which_domain_is_which(source: Tensor, target: Tensor) -> None:
    value = domain_adversarial_loss(source, target)
    torch.testing.assert_close(domain_adversarial_loss(-target, -source), value)
    assert value >= 0


@given(logits, logits)
def test_dann_at_a_constant_discriminator(source: Tensor, target: Tensor) -> None:
    """Nothing is gained over log 2 by a discriminator that says the same of everybody."""
    constant = source[0]
    value = domain_adversarial_loss(constant.expand_as(source), constant.expand_as(target))
    assert value.item() >= math.log(2) - 1e-12
    assert domain_adversarial_loss(0 * source, 0 * target).item() == pytest.approx(math.log(2))


@given(logits, logits, st.floats(0, 10))
def test_dann_weights_scale_their_domain(source: Tensor, target: Tensor, weight: float) -> None:
    without = domain_adversarial_loss(source, target, torch.zeros_like(source))
    once = domain_adversarial_loss(source, target)
    scaled = domain_adversarial_loss(source, target, torch.full_like(source, weight))
    torch.testing.assert_close(scaled, without + weight * (once - without))
