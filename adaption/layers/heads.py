"""Task heads for features, one or two of them."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from adaption import _checks
from adaption._precision import as_parameters
from adaption.layers._two_heads import TwoHeads, check_parts
from adaption.layers.gradient_reversal import WarmStartGradientReversalLayer


class _Pool(nn.Module):
    """Feature maps ``(N, F, H, W)`` averaged over their pixels; feature vectors ``(N, F)`` unchanged.

    Args:
        name: the name of the features in errors.
        width: F.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name = name
        self.width = width

    def forward(self, features: Tensor) -> Tensor:
        _checks.batch(self.name, features)
        if features.ndim not in {2, 4} or features.shape[1] != self.width:
            msg = (
                f"`{self.name}` must have shape (N, {self.width}) or (N, {self.width}, H, W), but got shape "
                f"{_checks.shape(features)}. Build the network for the width of its features."
            )
            raise ValueError(msg)
        if self.training and len(features) == 1:
            msg = (
                f"`{self.name}` must hold at least 2 samples while training, for the batch normalisation, but got 1. "
                "Drop the last batch."
            )
            raise ValueError(msg)
        return features.mean((2, 3)) if features.ndim == 4 else features


class ImageClassifierHead(nn.Module):
    r"""A classifier with two hidden layers, batch-normalised, with dropout before each. MCD needs two of them.

    Shapes:
        - input: :math:`(N, F)` or :math:`(N, F, H, W)` with F = `in_features`; output: :math:`(N, C)`, logits

    Args:
        in_features: width of the features.
        num_classes: number of classes.
        bottleneck_dim: width of the hidden layers.
        pool_layer: from the input to :math:`(N, F)`, by default the mean over the pixels of feature maps.

    Raises:
        TypeError: if a width is not an integer or `pool_layer` not a Module, and for anything but a floating-point
            tensor.
        ValueError: if a width is below 1, and, without a custom `pool_layer`, for features of another shape or a single
            sample in training.

    References:
        K. Saito, K. Watanabe, Y. Ushiku, T. Harada: Maximum Classifier Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2018. https://arxiv.org/abs/1712.02560

    Example:
        >>> import torch
        >>> from adaption.layers import ImageClassifierHead
        >>> ImageClassifierHead(in_features=8, num_classes=3, bottleneck_dim=16)(torch.randn(4, 8, 7, 7)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self, in_features: int, num_classes: int, bottleneck_dim: int = 1024, pool_layer: nn.Module | None = None
    ) -> None:
        _checks.count("in_features", in_features)
        _checks.count("num_classes", num_classes)
        _checks.count("bottleneck_dim", bottleneck_dim)
        _check_modules(pool_layer=pool_layer)
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes
        self.bottleneck_dim = bottleneck_dim
        layers: list[nn.Module] = [_Pool("features", in_features) if pool_layer is None else pool_layer]
        for width in (in_features, bottleneck_dim):
            layers += [nn.Dropout(), nn.Linear(width, bottleneck_dim), nn.BatchNorm1d(bottleneck_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(bottleneck_dim, num_classes))

    @property
    def pool_layer(self) -> nn.Module | None:
        """The custom layer for feature vectors, None for the mean over pixels."""
        return _given(next(self.layers.children()))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        _checks.tensor("features", features)
        logits: Tensor = self.layers(as_parameters(self, features))
        return logits


class ImageClassifier(TwoHeads):
    r"""The network of MDD for classification: backbone, bottleneck, and two classifiers, one of them adversarial.

    A gradient reversal between the bottleneck and the adversarial head reverses the gradient of that head. In training
    mode the output is that of both heads, in eval mode that of the main head.

    Shapes:
        - input: what the backbone takes; output: :math:`(N, C)`, logits; in training mode a pair of those, of the main
          and the adversarial head

    Args:
        backbone: from images to :math:`(N, F)` or :math:`(N, F, H, W)`, with F in an attribute ``out_features``.
        num_classes: number of classes.
        bottleneck_dim: width of the bottleneck.
        width: width of the hidden layer of each head.
        grl: the layer before the adversarial head, by default
            ``WarmStartGradientReversalLayer(alpha=1.0, lo=0.0, hi=0.1, max_iters=1000)``; call `step` after every
            training step.
        finetune: whether the backbone learns at a tenth of the rate.
        pool_layer: from the backbone's output to :math:`(N, F)`, by default the mean over pixels.

    Raises:
        TypeError: if a width is not an integer, `finetune` not a bool, `grl` not callable, or another part not a
            Module.
        ValueError: if a width is below 1 or the backbone lacks ``out_features``.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption.layers import ImageClassifier
        >>> model = ImageClassifier(torch.nn.Linear(20, 8), num_classes=3, bottleneck_dim=16, width=16)
        >>> logits, logits_adv = model(torch.randn(4, 20))
        >>> model.step()
        >>> model.eval()(torch.randn(4, 20)).shape
        torch.Size([4, 3])
        >>> [group["lr"] for group in model.get_parameters(base_lr=1.0)]
        [0.1, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        bottleneck_dim: int = 1024,
        width: int = 1024,
        grl: nn.Module | None = None,
        finetune: bool = True,  # noqa: FBT001, FBT002 - the reference's position
        pool_layer: nn.Module | None = None,
    ) -> None:
        _checks.count("num_classes", num_classes)
        _checks.count("width", width)
        check_parts(finetune, grl, backbone=backbone)
        _check_modules(pool_layer=pool_layer)
        bottleneck = _bottleneck(backbone, bottleneck_dim, pool_layer, nn.Dropout())
        head, adv_head = (_head(bottleneck_dim, width, num_classes) for _ in range(2))
        grl = _warm_start() if grl is None else grl
        super().__init__(backbone, bottleneck, head, adv_head, grl, finetune=finetune)
        self.num_classes = num_classes
        self.bottleneck_dim = bottleneck_dim
        self.width = width

    @property
    def pool_layer(self) -> nn.Module | None:
        """The custom layer for feature vectors, None for the mean over pixels."""
        return _given(next(self.bottleneck.children()))


class ImageRegressor(TwoHeads):
    r"""The network of MDD for regression: backbone, bottleneck, and two regressors, one of them adversarial.

    Outputs lie between 0 and 1, where the disparity of two heads is bounded: scale the factors to that range, or pass
    heads with another range. A gradient reversal between the bottleneck and the adversarial head,
    ``WarmStartGradientReversalLayer(alpha=1.0, lo=0.0, hi=0.1, max_iters=1000)``, reverses the gradient of that head;
    call `step` after every training step. In training mode the output is that of both heads, in eval mode that of the
    main head.

    Shapes:
        - input: what the backbone takes; output: :math:`(N, F)` with F = `num_factors`; in training mode a pair of
          those, of the main and the adversarial head

    Args:
        backbone: from images to feature vectors or maps, with their width in an attribute ``out_features``.
        num_factors: number of values to predict.
        bottleneck: from the backbone's output to :math:`(N,` `bottleneck_dim` :math:`)`; by default the mean over
            pixels, a linear layer, batch normalisation and rectification.
        head: the main head; by default two layers and a sigmoid.
        adv_head: the adversarial head, by default the same.
        bottleneck_dim: width of the bottleneck.
        width: width of the hidden layer of each head.
        finetune: whether the backbone learns at a tenth of the rate.

    Raises:
        TypeError: if a width is not an integer, `finetune` not a bool, or a part not a Module.
        ValueError: if a width is below 1, or the backbone lacks ``out_features`` and no `bottleneck` is given.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption.layers import ImageRegressor
        >>> model = ImageRegressor(torch.nn.Linear(20, 8), num_factors=2, bottleneck_dim=16, width=16)
        >>> factors, factors_adv = model(torch.randn(4, 20))
        >>> factors.shape, bool((factors > 0).all()), bool((factors < 1).all())
        (torch.Size([4, 2]), True, True)
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_factors: int,
        bottleneck: nn.Module | None = None,
        head: nn.Module | None = None,
        adv_head: nn.Module | None = None,
        bottleneck_dim: int = 1024,
        width: int = 1024,
        finetune: bool = True,  # noqa: FBT001, FBT002 - the reference's position
    ) -> None:
        _checks.count("num_factors", num_factors)
        _checks.count("bottleneck_dim", bottleneck_dim)
        _checks.count("width", width)
        check_parts(finetune, backbone=backbone)
        _check_modules(bottleneck=bottleneck, head=head, adv_head=adv_head)
        bottleneck = _bottleneck(backbone, bottleneck_dim) if bottleneck is None else bottleneck
        head, adv_head = (
            nn.Sequential(_head(bottleneck_dim, width, num_factors), nn.Sigmoid()) if given is None else given
            for given in (head, adv_head)
        )
        super().__init__(backbone, bottleneck, head, adv_head, _warm_start(), finetune=finetune)
        self.num_factors = num_factors
        self.bottleneck_dim = bottleneck_dim
        self.width = width


def _given(pool: nn.Module) -> nn.Module | None:
    return None if isinstance(pool, _Pool) else pool


def _warm_start() -> nn.Module:
    return WarmStartGradientReversalLayer(hi=0.1)


def _check_modules(**parts: object) -> None:
    """The parts that have a default."""
    for name, part in parts.items():
        if part is not None:
            _checks.module(name, part)


def _bottleneck(backbone: nn.Module, width: int, pool_layer: nn.Module | None = None, *last: nn.Module) -> nn.Module:
    _checks.count("bottleneck_dim", width)
    if not hasattr(backbone, "out_features"):
        msg = (
            "`backbone` must say the width of its features in an attribute `out_features`, but "
            f"{type(backbone).__name__} has none. Set it, e.g. `backbone.out_features = 2048` for a ResNet-50."
        )
        raise ValueError(msg)
    in_features = cast("int", backbone.out_features)
    _checks.count("backbone.out_features", in_features)
    linear = nn.Linear(in_features, width)
    nn.init.normal_(linear.weight, std=0.005)  # as the authors start
    nn.init.constant_(linear.bias, 0.1)
    pool = _Pool("backbone(x)", in_features) if pool_layer is None else pool_layer
    return nn.Sequential(pool, linear, nn.BatchNorm1d(width), nn.ReLU(), *last)


def _head(in_features: int, width: int, out_features: int) -> nn.Module:
    layers = nn.Linear(in_features, width), nn.Linear(width, out_features)
    for layer in layers:  # as the authors start: outputs close to 0
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(), layers[1])
