"""Maps of features and predictions to one vector, for a discriminator of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adaption import _checks


class MultiLinearMap(nn.Module):
    r"""The outer product of predictions and features: every feature, once for each class.

    .. math:: T(f, g)_{k F + j} = g_k f_j

    The first `F` entries belong to class 0. With `C` classes the discriminator needs `C F` inputs; if these are too
    many, :class:`RandomizedMultiLinearMap` approximates the inner products.

    Shapes:
        - `features`: :math:`(N, F)`; `predictions`: :math:`(N, C)`; output: :math:`(N, C F)`

    Args:
        features: the first argument of the call, `f`.
        predictions: the second, `g`, usually probabilities.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty tensors, wrong ranks, and differing numbers of samples or devices.

    References:
        M. Long, Z. Cao, J. Wang, M. Jordan: Conditional Adversarial Domain Adaptation. NeurIPS 2018.
        https://arxiv.org/abs/1705.10667

    Example:
        >>> import torch
        >>> from adaption.layers import MultiLinearMap
        >>> MultiLinearMap()(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 10.0]]))
        tensor([[ 0.,  0.,  0., 10., 20., 30.]])
    """

    def forward(self, features: Tensor, predictions: Tensor) -> Tensor:
        """Return the flattened outer product of each sample."""
        _check_pair(features, predictions)
        return (predictions.unsqueeze(2) * features.unsqueeze(1)).flatten(1)  # (N, C, F) -> (N, C * F)


class RandomizedMultiLinearMap(nn.Module):
    r"""Random projection of the outer product of predictions and features, of any width.

    .. math:: T(f, g) = \frac1{\sqrt d} (R_f^\top f) \odot (R_g^\top g)

    with `d` = `output_dim` and matrices :math:`R_f, R_g` of independent standard normal entries. It keeps the inner
    products of :class:`MultiLinearMap` in expectation, :math:`\mathbb E\, T(f, g)^\top T(f', g') = f^\top f' \cdot
    g^\top g'`, with an error that falls as :math:`1 / \sqrt d`.

    The matrices are drawn once, in the constructor, from torch's generator. They are buffers: moved, cast and saved
    with the module and never trained, so that a resumed run uses the same map.

    Shapes:
        - `features`: :math:`(N, F)`; `predictions`: :math:`(N, C)`; output: :math:`(N, d)`

    Args:
        features_dim: width `F` of the features.
        num_classes: width `C` of the predictions.
        output_dim: width `d` of the output.

    Raises:
        TypeError: if a width is not an integer, and for anything but floating-point tensors.
        ValueError: if a width is below 1 or not that of the tensors, and as :class:`MultiLinearMap`.

    References:
        M. Long, Z. Cao, J. Wang, M. Jordan: Conditional Adversarial Domain Adaptation. NeurIPS 2018.
        https://arxiv.org/abs/1705.10667

    Example:
        >>> import torch
        >>> from adaption.layers import RandomizedMultiLinearMap
        >>> layer = RandomizedMultiLinearMap(features_dim=256, num_classes=10, output_dim=64)
        >>> layer(torch.randn(4, 256), torch.randn(4, 10).softmax(1)).shape
        torch.Size([4, 64])
    """

    features_matrix: Tensor
    predictions_matrix: Tensor

    def __init__(self, features_dim: int, num_classes: int, output_dim: int = 1024) -> None:
        for name, value in (("features_dim", features_dim), ("num_classes", num_classes), ("output_dim", output_dim)):
            _checks.count(name, value)
        super().__init__()
        self.features_dim = features_dim
        self.num_classes = num_classes
        self.output_dim = output_dim
        self.register_buffer("features_matrix", torch.empty(features_dim, output_dim))
        self.register_buffer("predictions_matrix", torch.empty(num_classes, output_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new matrices, for frameworks that allocate memory by ``to_empty``."""
        self.features_matrix.normal_()
        self.predictions_matrix.normal_()

    def forward(self, features: Tensor, predictions: Tensor) -> Tensor:
        """Return the random features of each sample, computed in the dtype of the inputs."""
        _check_pair(features, predictions)
        repair = "Build the map for the layer and the classifier it looks at."
        _checks.columns("features", features, self.features_dim, "features_dim", repair)
        _checks.columns("predictions", predictions, self.num_classes, "num_classes", repair)
        projected = features @ self.features_matrix.to(features.dtype)
        return projected * (predictions @ self.predictions_matrix.to(predictions.dtype)) / math.sqrt(self.output_dim)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"features_dim={self.features_dim}, num_classes={self.num_classes}, output_dim={self.output_dim}"


def _check_pair(features: Tensor, predictions: Tensor) -> None:
    _checks.matrix("features", features)
    _checks.matrix("predictions", predictions, "classes")
    _checks.same_batch("features", features, "predictions", predictions)
