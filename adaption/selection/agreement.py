"""Agreement with an ensemble: how often a model predicts the class of the ensemble of all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from adaption import _checks
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision


class EnsembleAgreement(AdditiveMetric):
    r"""Share of target samples for which a model predicts the same class as the ensemble of all candidates.

    .. math::
        A = \frac1m \sum_j \Bigl[\operatorname*{arg\,max}_k z_{jk} = \operatorname*{arg\,max}_k q_{jk}\Bigr], \qquad
        q_j = \frac1M \sum_{c=1}^M \operatorname{softmax} z^{(c)}_j

    with the logits `z` of the model, and those of `M` candidates. The ensemble replaces the labels: candidates that
    were trained differently make different mistakes, and the mean of their predictions is usually better than the
    single ones. Its cross entropy is never above their mean. So a model that has collapsed scores low among candidates
    that have not. If most of them share a mistake, so does the score.

    Use one metric for each candidate, all with the same ensemble. Ties of the largest logit count as one class, so a
    model with uniform predictions agrees by chance. The value has no gradient, and `compute` is exact over batches and
    ranks.

    Inputs of `update` and `forward`:
        - `logits`: :math:`(m, C)`, or :math:`(m, C, ..)` for dense outputs
        - `ensemble_logits`: a tensor of the same shape, logits or averaged probabilities, of which the largest entry
          counts; or a list with the logits of each candidate, whose softmax is averaged

    Output: scalar in :math:`[0, 1]`; the larger, the better the model.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, or a list of them.
        ValueError: for an empty batch or list, fewer than two classes, probabilities instead of logits, and an ensemble
            of another shape or device.

    References:
        D. Hu, M. Luo, J. Liang, C.-S. Foo: Towards Reliable Model Selection for Unsupervised Domain Adaptation: An
        Empirical Study and A Certified Baseline. NeurIPS 2024. https://openreview.net/forum?id=rI7kbFTSpr

    Example:
        >>> import torch
        >>> from adaption import EnsembleAgreement
        >>> first, second = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> agreement = EnsembleAgreement()
        >>> agreement.update(second, ensemble_logits=[first, second])  # the first is more certain
        >>> agreement.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    num_samples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("num_agreeing", "num_samples")

    def update(self, logits: Tensor, ensemble_logits: Tensor | Sequence[Tensor]) -> None:
        """Add a batch of the target to the share."""
        self._accumulate(self._statistics(logits, ensemble_logits))

    def _statistics(self, logits: Tensor, ensemble_logits: Tensor | Sequence[Tensor]) -> Statistics:
        agreeing = _agreeing(logits, ensemble_logits, self.num_samples.dtype)
        return agreeing.sum(), agreeing.numel()

    def _value(self, *statistics: Tensor) -> Tensor:
        agreeing, number = statistics
        return agreeing / number


@full_precision
def _agreeing(logits: Tensor, ensemble_logits: Tensor | Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """1 where both predict the same class, 0 where not, NaN where one of them has NaN."""
    _checks.logits("logits", logits)
    if isinstance(ensemble_logits, (list, tuple)):
        ensemble = _mean_softmax(logits, ensemble_logits, dtype)
    else:
        ensemble = cast("Tensor", ensemble_logits)
        _checks.tensor("ensemble_logits", ensemble)
        _checks.same_shape("logits", logits, "ensemble_logits", ensemble)
    agrees = (logits.argmax(1) == ensemble.argmax(1)).to(dtype)
    unknown = logits.isnan().any(1) | ensemble.isnan().any(1)
    return torch.where(unknown, torch.nan, agrees)


def _mean_softmax(logits: Tensor, candidates: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    if not candidates:
        msg = (
            "`ensemble_logits` must hold the logits of at least one candidate, but is empty. Pass those of each model."
        )
        raise ValueError(msg)
    for position, candidate in enumerate(candidates):
        name = f"ensemble_logits[{position}]"
        _checks.logits(name, candidate)
        _checks.same_shape("logits", logits, name, candidate)
    total = torch.zeros_like(logits, dtype=dtype)
    for candidate in candidates:
        total += candidate.to(dtype).softmax(1)
    return total
