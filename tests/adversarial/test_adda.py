"""ADDA against the paper's equations, and its two games."""

from __future__ import annotations

import math

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import adaption
from adaption.functional import adversarial_discriminative_loss, domain_adversarial_loss


@given(st.lists(st.floats(-15, 15), min_size=1, max_size=8), st.sampled_from(["source", "target"]))
def test_value_is_that_of_the_paper(logits: list[float], domain_label: str) -> None:
    total = 0.0
    for z in logits:
        probability = 1 / (1 + math.exp(-z))  # of the target
        total -= math.log(probability if domain_label == "target" else 1 - probability)
    value = adversarial_discriminative_loss(torch.tensor(logits, dtype=torch.float64), domain_label)
    assert value.item() == pytest.approx(total / len(logits), rel=1e-6, abs=1e-12)


def test_both_labels_together_are_the_domain_adversarial_loss() -> None:
    source, target = torch.randn(4, 1), torch.randn(7, 1)
    both = adversarial_discriminative_loss(source, "source") + adversarial_discriminative_loss(target, "target")
    torch.testing.assert_close(both / 2, domain_adversarial_loss(source, target))


def test_gradient_never_fades_where_the_discriminator_is_sure() -> None:
    """The gradient of the inverted label is sigmoid(z), 1 where the reversed loss has 1 - sigmoid(z) = 0."""
    logits = torch.tensor([40.0], requires_grad=True)
    adversarial_discriminative_loss(logits, "source").backward()
    assert logits.grad == 1
    sample = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    for label in ("source", "target"):
        assert torch.autograd.gradcheck(lambda z, label=label: adversarial_discriminative_loss(z, label), sample)


def test_huge_logits_are_exact() -> None:
    for z, label, expected in ((1e30, "source", 1e30), (1e30, "target", 0), (-1e30, "target", 1e30)):
        assert adversarial_discriminative_loss(torch.tensor([z]), label) == torch.tensor(expected)


def test_discriminator_and_encoder_move_against_each_other() -> None:
    disc, encoder = nn.Linear(4, 1), nn.Linear(3, 4)
    source_features, target = torch.randn(16, 4), torch.randn(16, 3)
    adda = adaption.AdversarialDiscriminativeLoss()

    def told_apart() -> float:
        with torch.no_grad():
            return float(disc(encoder(target)).mean() - disc(source_features).mean())

    before = told_apart()
    loss = adda(disc(source_features), "source") + adda(disc(encoder(target).detach()), "target")
    loss.backward()
    assert encoder.weight.grad is None
    torch.optim.SGD(disc.parameters(), lr=0.5).step()
    trained = told_apart()
    assert trained > before, "the discriminator must learn to tell the domains apart"
    adda(disc(encoder(target)), "source").backward()
    torch.optim.SGD(encoder.parameters(), lr=0.5).step()
    assert told_apart() < trained, "the encoder must learn to confuse the discriminator"


def test_epoch_value_weighs_every_sample_alike() -> None:
    adda = adaption.AdversarialDiscriminativeLoss()
    source, target = torch.randn(5, 1, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64)
    adda.update(source)
    adda.update(target, "target")
    expected = (torch.nn.functional.softplus(source).sum() + torch.nn.functional.softplus(-target).sum()) / 7
    torch.testing.assert_close(adda.compute(), expected)


def test_bad_input_is_refused() -> None:
    adda = adaption.AdversarialDiscriminativeLoss()
    adda(torch.randn(3, 1))
    refuses(adda, '`domain_label` must be one of "source", "target", but got \'Target\'', torch.randn(3, 1), "Target")
    refuses(adda, "`domain_label` must be one of", torch.randn(3, 1), 1, error=TypeError)
    refuses(adda, "`domain_logits` must give one domain logit per sample", torch.randn(3, 2))
    refuses(adda, "`domain_logits` must not be empty", torch.randn(0, 1))
    refuses(adda, "`domain_logits` must be a floating-point tensor", torch.ones(3, dtype=torch.int64), error=TypeError)
    with pytest.raises(ValueError, match="`domain_label` must be one of"):
        adversarial_discriminative_loss(torch.zeros(2), "both")


def test_function_compiles_without_a_break() -> None:
    compiled = torch.compile(adversarial_discriminative_loss, fullgraph=True, backend="eager")
    logits = torch.randn(4, 1)
    torch.testing.assert_close(compiled(logits, "target"), adversarial_discriminative_loss(logits, "target"))
