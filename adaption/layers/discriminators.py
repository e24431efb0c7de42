"""Networks that distinguish source and target."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from adaption import _checks
from adaption._precision import as_parameters


class DomainDiscriminator(nn.Module):
    """A discriminator of feature vectors with two hidden layers and one logit, positive for the target.

    Each hidden layer is linear, optionally batch-normalised, and rectified. The output is a logit, not a probability:
    the losses compute the binary cross entropy from it, exactly and without saturation.

    Shapes:
        - input: :math:`(N, F)` with F = `in_feature`, cast to the dtype of the parameters; output: :math:`(N, 1)`

    Args:
        in_feature: width of the features.
        hidden_size: width of the hidden layers.
        batch_norm: whether to normalise over the batch. In training mode this needs at least two samples.

    Raises:
        TypeError: if a width is not an integer.
        ValueError: if a width is below 1, or for a single sample in training with `batch_norm`.

    References:
        Y. Ganin, E. Ustinova, H. Ajakan, P. Germain, H. Larochelle, F. Laviolette, M. Marchand, V. Lempitsky:
        Domain-Adversarial Training of Neural Networks. JMLR 2016. https://arxiv.org/abs/1505.07818

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
        self.hidden_size = hidden_size
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
        logits: Tensor = self.layers(as_parameters(self, features))
        return logits


_checks.WIDTHS[DomainDiscriminator.forward] = "in_feature"


class SegmentationDiscriminator(nn.Module):
    """A discriminator of entropy maps with five strided convolutions and one logit per patch.

    Each convolution halves the image; leaky rectifiers are between them. A logit depends on a patch of 94 x 94 pixels.

    Shapes:
        - input: :math:`(N, C, H, W)` with `C` = `num_classes`, height and width at least 32, cast to the dtype of the
          parameters
        - output: :math:`(N, 1, H / 32, W / 32)`, rounded down

    Args:
        num_classes: number of channels.
        ndf: number of features after the first convolution; each of the next three doubles it.

    Raises:
        TypeError: if a width is not an integer, and for anything but a floating-point tensor.
        ValueError: if a width is below 1, for another number of channels, and for an image below 32 x 32.

    References:
        T.-H. Vu, H. Jain, M. Bucher, M. Cord, P. Pérez: ADVENT: Adversarial Entropy Minimization for Domain Adaptation
        in Semantic Segmentation. CVPR 2019. https://arxiv.org/abs/1811.12833

    Example:
        >>> import torch
        >>> from adaption.layers import SegmentationDiscriminator
        >>> SegmentationDiscriminator(num_classes=19, ndf=8)(torch.rand(2, 19, 64, 100)).shape
        torch.Size([2, 1, 2, 3])
    """

    def __init__(self, num_classes: int, ndf: int = 64) -> None:
        _checks.count("num_classes", num_classes)
        _checks.count("ndf", ndf)
        super().__init__()
        self.num_classes = num_classes
        self.ndf = ndf
        widths = [num_classes, ndf, 2 * ndf, 4 * ndf, 8 * ndf]
        layers: list[nn.Module] = []
        for width, wider in itertools.pairwise(widths):
            layers += [nn.Conv2d(width, wider, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, kernel_size=4, stride=2, padding=1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return one logit per patch, positive for the target."""
        _checks.batch("maps", maps)
        if maps.ndim != 4 or maps.shape[1] != self.num_classes:
            msg = (
                f"`maps` must have shape (N, {self.num_classes}, H, W), as `num_classes` says, but got shape "
                f"{_checks.shape(maps)}. Build the discriminator for the classes of the network it looks at."
            )
            raise ValueError(msg)
        if min(maps.shape[2:]) < 32:
            msg = (
                f"`maps` must be at least 32 x 32, which five halvings take to one logit, but got shape "
                f"{_checks.shape(maps)}. Enlarge the logits first, e.g. with `F.interpolate(logits, scale_factor=2)`."
            )
            raise ValueError(msg)
        logits: Tensor = self.layers(as_parameters(self, maps))
        return logits
