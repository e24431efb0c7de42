"""Discriminators: shapes, logits, and the last batch of size 1."""

import pytest
import torch

from adaption.layers import DomainDiscriminator


@pytest.mark.parametrize("batch_norm", [True, False])
def test_gives_one_logit_per_sample(batch_norm: bool) -> None:
    discriminator = DomainDiscriminator(4, 8, batch_norm=batch_norm)
    logits = torch.cat([discriminator(10 * torch.randn(64, 4)) for _ in range(4)])
    assert logits.shape == (256, 1)
    assert isinstance(discriminator.layers[-1], torch.nn.Linear)  # no sigmoid, no softmax


def test_a_single_sample() -> None:
    discriminator = DomainDiscriminator(4, 8)
    with pytest.raises(ValueError, match="`features` must hold at least 2 samples while training with `batch_norm"):
        discriminator(torch.randn(1, 4))
    assert discriminator.eval()(torch.randn(1, 4)).shape == (1, 1)
    assert DomainDiscriminator(4, 8, batch_norm=False)(torch.randn(1, 4)).shape == (1, 1)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="`in_feature` must be at least 1"):
        DomainDiscriminator(0, 8)
    with pytest.raises(TypeError, match="`hidden_size` must be an integer"):
        DomainDiscriminator(4, 8.0)  # type: ignore[arg-type] # the point of the test
