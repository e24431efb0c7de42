"""Agreement with an ensemble: shares that can be counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import refuses
from torch import Tensor

from adaption import EnsembleAgreement


def share(logits: Tensor, ensemble: Any) -> float:
    metric = EnsembleAgreement()
    metric.update(logits, ensemble)
    return float(metric.compute())


def names(*classes: int, size: float = 9.0) -> Tensor:
    """Logits that name these classes of three."""
    return size * torch.eye(3)[list(classes)]


def test_the_share_of_equal_classes_over_batches() -> None:
    metric = EnsembleAgreement()
    metric.update(names(0, 1, 2), names(0, 1, 1))
    metric.update(names(2), names(2))
    assert float(metric.compute()) == 3 / 4


def test_a_collapsed_model_agrees_as_often_as_its_class_is_named() -> None:
    ensemble = names(0, 0, 1, 2, 2)
    assert share(ensemble, ensemble) == 1
    assert [share(names(*[c] * 5), ensemble) for c in range(3)] == [2 / 5, 1 / 5, 2 / 5]


def test_candidates_are_averaged_as_probabilities() -> None:
    """Two that are unsure outvote one that is sure only where their probabilities do."""
    sure, unsure = names(0, size=9.0), torch.tensor([[0.0, 0.5, 0.0]])
    assert share(names(0), [sure, unsure, unsure]) == 1  # 1.0 + 2 x 0.27 against 0 + 2 x 0.45
    surer = torch.tensor([[0.0, 1.5, 0.0]])
    assert share(names(1), [sure, surer, surer]) == 1  # 2 x 0.69 against 1 + 2 x 0.15
    # a mean of logits would name class 0 both times
    assert (sure + 2 * surer).argmax() == 0


def test_an_ensemble_may_be_given_as_candidates_logits_or_probabilities() -> None:
    candidates = [torch.randn(50, 4) for _ in range(5)]
    logits = torch.randn(50, 4)
    mean = torch.stack([candidate.softmax(1) for candidate in candidates]).mean(0)
    expected = float((logits.argmax(1) == mean.argmax(1)).double().mean())
    assert 0 < expected < 1
    for ensemble in (candidates, tuple(candidates), mean, mean.log() + 7, mean.half()):
        assert share(logits, ensemble) == pytest.approx(expected)


def test_dense_outputs_count_position_by_position() -> None:
    logits, ensemble = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rows, others = (t.movedim(1, -1).reshape(-1, 3) for t in (logits, ensemble))
    assert share(logits, ensemble) == share(rows, others)


@pytest.mark.parametrize("where", ["logits", "ensemble_logits", "a candidate"])
def test_a_nan_agrees_with_nothing(where: str) -> None:
    """Taken for the largest entry, two of them would agree."""
    logits, ensemble = names(0, 1, 2), names(0, 1, 2)
    if where == "logits":
        logits[1, 0] = torch.nan
    else:
        ensemble[1, 0] = torch.nan
    assert torch.tensor(share(logits, [ensemble] if where == "a candidate" else ensemble)).isnan()


def test_classes_that_are_ruled_out_are_no_nan() -> None:
    masked = names(0, 1, 2)
    masked[masked == 0] = -torch.inf
    assert share(masked, [masked, names(0, 1, 1)]) == 1


@pytest.mark.parametrize(
    ("ensemble", "error", "match"),
    [
        (torch.randn(4, 3), ValueError, "`ensemble_logits` must have the shape of `logits`"),
        (torch.randn(3, 4), ValueError, "`ensemble_logits` must have the shape of `logits`"),
        ([torch.randn(3, 3), torch.randn(3, 4)], ValueError, r"`ensemble_logits\[1\]` must have the shape of `logits`"),
        ([torch.randn(3, 3).softmax(1)], ValueError, r"`ensemble_logits\[0\]` must hold logits"),
        ([], ValueError, "`ensemble_logits` must hold the logits of at least one candidate"),
        (["model"], TypeError, r"`ensemble_logits\[0\]` must be a tensor"),
        (torch.ones(3, 3, dtype=torch.int64), TypeError, "`ensemble_logits` must be a floating-point tensor"),
    ],
)
def test_another_ensemble_is_refused(ensemble: Any, error: type[Exception], match: str) -> None:
    metric = EnsembleAgreement()
    metric.update(names(0), names(0))
    refuses(metric, match, torch.randn(3, 3), ensemble, error=error)


def test_probabilities_in_the_place_of_logits_are_refused() -> None:
    refuses(EnsembleAgreement(), "`logits` must hold logits", torch.randn(3, 3).softmax(1), torch.randn(3, 3))
