"""Networks that tell source from target."""

from __future__ import annotations

from torch import Tensor, nn

from adaption import _checks


class DomainDiscriminator(nn.Module):
    """Two hidden layers and one logit: is this feature vector from the target?

    Each hidden layer is linear, batch-normalised if wished, and rectified. The output is a logit, not a probability:
    the losses take its binary cross entropy themselves, exactly and without saturation.

    Shapes:
        - input: :math:`(N, F)` with F = `in_feature`; output: :math:`(N, 1)`

    Args:
        in_feature: width of the features.
        hidden_size: width of the hidden layers.
        batch_norm: whether to normalise over the batch. In training mode this needs at least two samples.

    Raises:
        TypeError: if a width is no integer.
        ValueError: if a width is below 1, or a single sample comes while training with `batch_norm`.

    References:
        Y. Ganin et al.: Domain-Adversarial Training of Neural Networks. JMLR 2016. https://arxiv.org/abs/1505.07818

    Example:
        >>> import torch
        >>> from adaption.layers import DomainDiscriminator
        >>> DomainDiscriminator(in_feature=8, hidden_size=16)(torch.randn(4, 8)).shape
        torch.Size([4, 1])
    """

    def __init__(self, in_feature: int, hidden_size: int, batch_norm: bool = True) -> None:  # noqa: FBT001, FBT002
        _checks.count("in_feature", in_feature)
        _checks.count("hidden_size", hidden_size)
        _checks.flag("batch_norm", batch_norm)
        super().__init__()
        self.in_feature = in_feature
        self.batch_norm = batch_norm
        layers: list[nn.Module] = []
        for width in (in_feature, hidden_size):
            layers.append(nn.Linear(width, hidden_size))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden_size))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_size, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return one logit per sample, positive for the target."""
        _checks.matrix("features", features)
        if features.shape[1] != self.in_feature:
            msg = (
                f"`features` must have {self.in_feature} columns, as `in_feature` says, but got shape "
                f"{_checks.shape(features)}. Build the discriminator for the width of the layer it looks at."
            )
            raise ValueError(msg)
        if self.batch_norm and self.training and len(features) == 1:
            msg = (
                "`features` must hold at least 2 samples while training with `batch_norm=True`, but got 1. "
                "Build the discriminator with `batch_norm=False`, or drop the last batch."
            )
            raise ValueError(msg)
        logits: Tensor = self.layers(features)
        return logits
