"""Keypoint heatmaps: the network with two heads, the generator of pseudo labels, and the criterion."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import _checks, _reduction
from adaption._precision import full_precision
from adaption.layers._two_heads import TwoHeads, check_parts
from adaption.layers.gradient_reversal import WarmStartGradientLayer


class PoseResNet2d(TwoHeads):
    r"""The network of RegDA: backbone, upsampling, and two heads that predict a heatmap for each joint.

    The gradient of the adversarial head reaches the features scaled and *not* reversed: in RegDA the choice of heatmaps
    replaces the reversal. In training mode the output is that of both heads, in eval mode that of the main head.

    Shapes:
        - input: what the backbone takes
        - output: :math:`(N, K, H, W)` with K = `num_keypoints` and the size that `upsampling` gives; in training mode a
          pair of those, of the main and the adversarial head

    Args:
        backbone: from images to feature maps.
        upsampling: from the backbone's feature maps to :math:`(N, F, H, W)` with F = `feature_dim`.
        feature_dim: number of channels that `upsampling` gives.
        num_keypoints: number of joints.
        gl: the layer before the adversarial head, by default
            ``WarmStartGradientLayer(alpha=1.0, lo=0.0, hi=0.1, max_iters=1000)``; call `step` after every training
            step.
        finetune: whether the backbone learns at a tenth of the rate.
        num_head_layers: number of convolutions of each head.

    Raises:
        TypeError: if a number is not an integer, `finetune` not a bool, `gl` not callable, or another part not a
            Module.
        ValueError: if a number is below 1.

    References:
        J. Jiang, Y. Ji, X. Wang, Y. Liu, J. Wang, M. Long: Regressive Domain Adaptation for Unsupervised Keypoint
        Detection. CVPR 2021. https://arxiv.org/abs/2103.06175

    Example:
        >>> import torch
        >>> from adaption.layers import PoseResNet2d
        >>> backbone, upsampling = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ConvTranspose2d(8, 4, 2, 2)
        >>> model = PoseResNet2d(backbone, upsampling, feature_dim=4, num_keypoints=5)
        >>> heatmaps, heatmaps_adv = model(torch.randn(2, 3, 16, 16))
        >>> heatmaps.shape, model.eval()(torch.randn(2, 3, 16, 16)).shape
        (torch.Size([2, 5, 16, 16]), torch.Size([2, 5, 16, 16]))
    """

    def __init__(
        self,
        backbone: nn.Module,
        upsampling: nn.Module,
        feature_dim: int,
        num_keypoints: int,
        gl: nn.Module | None = None,
        finetune: bool = True,  # noqa: FBT001, FBT002 - the reference's position
        num_head_layers: int = 2,
    ) -> None:
        _checks.count("feature_dim", feature_dim)
        _checks.count("num_keypoints", num_keypoints)
        _checks.count("num_head_layers", num_head_layers)
        check_parts(finetune, gl, "gl", backbone=backbone, upsampling=upsampling)
        head, adv_head = (_heatmap_head(feature_dim, num_keypoints, num_head_layers) for _ in range(2))
        gl = WarmStartGradientLayer(hi=0.1) if gl is None else gl
        super().__init__(backbone, upsampling, head, adv_head, gl, finetune=finetune)
        self.feature_dim = feature_dim
        self.num_keypoints = num_keypoints
        self.num_head_layers = num_head_layers

    @property
    def upsampling(self) -> nn.Module:
        """The layers between backbone and heads."""
        return self.bottleneck

    @property
    def gl(self) -> nn.Module:
        """The layer before the adversarial head."""
        return self.grl


def _heatmap_head(feature_dim: int, num_keypoints: int, num_layers: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Conv2d(feature_dim, feature_dim, 3, padding=1), nn.BatchNorm2d(feature_dim), nn.ReLU()]
    head = nn.Sequential(*layers, nn.Conv2d(feature_dim, num_keypoints, 1))
    for layer in head:
        if isinstance(layer, nn.Conv2d):  # as the authors start: heatmaps that are almost flat
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(cast("Tensor", layer.bias))
    return head


class PseudoLabelGenerator2d(nn.Module):
    r"""Heatmaps of the predicted position of each joint, and of the positions of all other joints.

    .. math::
        T_k(u) = \exp\Bigl(-\frac{|u - u_k|^2}{2 \sigma^2}\Bigr), \qquad
        F_k = \min\Bigl(1, \sum_{l \ne k} T_l\Bigr)

    with the largest pixel :math:`u_k` of the predicted heatmap of joint `k`, and :math:`T_k` cut off at
    :math:`3 \sigma` along each axis. A Gaussian is the product of a row and a column, so no table of Gaussians is
    stored: everything is computed on the device of the prediction. The outputs have no gradient. With a single joint
    there are no others, and the ground false is 0 everywhere.

    Shapes:
        - input: :math:`(N, K, H, W)` with K = `num_keypoints`, H = `height`, W = `width`
        - output: ground truth and ground false, each of the same shape, with values in :math:`[0, 1]`

    Args:
        num_keypoints: number of joints.
        height: height of the heatmaps.
        width: width of the heatmaps.
        sigma: standard deviation of the Gaussians in pixels.

    Raises:
        TypeError: for anything but a floating-point tensor, and settings that are not numbers.
        ValueError: for heatmaps of another size, and settings that are not positive.

    References:
        J. Jiang, Y. Ji, X. Wang, Y. Liu, J. Wang, M. Long: Regressive Domain Adaptation for Unsupervised Keypoint
        Detection. CVPR 2021. https://arxiv.org/abs/2103.06175

    Example:
        >>> import torch
        >>> from adaption.layers import PseudoLabelGenerator2d
        >>> prediction = torch.tensor([[[[0.0, 9.0, 0.0]], [[0.0, 0.0, 9.0]]]])  # two joints, one row of three pixels
        >>> ground_truth, ground_false = PseudoLabelGenerator2d(2, height=1, width=3, sigma=1)(prediction)
        >>> ground_truth[0, 0], ground_false[0, 0]
        (tensor([[0.6065, 1.0000, 0.6065]]), tensor([[0.1353, 0.6065, 1.0000]]))
    """

    def __init__(self, num_keypoints: int, height: int = 64, width: int = 64, sigma: float = 2) -> None:
        _checks.count("num_keypoints", num_keypoints)
        _checks.count("height", height)
        _checks.count("width", width)
        _checks.number("sigma", sigma, above=0)
        super().__init__()
        self.num_keypoints = num_keypoints
        self.height = height
        self.width = width
        self.sigma = sigma

    @torch.no_grad()
    @full_precision
    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Return ground truth and ground false."""
        _checks.tensor("heatmaps", heatmaps)
        expected = (self.num_keypoints, self.height, self.width)
        if heatmaps.ndim != 4 or tuple(heatmaps.shape[1:]) != expected:
            msg = (
                f"`heatmaps` must have shape (N, {', '.join(map(str, expected))}), as the settings say, but got shape "
                f"{_checks.shape(heatmaps)}. Build the generator for the size of the network's output."
            )
            raise ValueError(msg)
        largest, pixel = heatmaps.flatten(2).max(2)  # (N, K)
        rows = self._gaussian(pixel // self.width, self.height, heatmaps)
        columns = self._gaussian(pixel % self.width, self.width, heatmaps)
        ground_truth = rows.unsqueeze(3) * columns.unsqueeze(2)  # (N, K, H, W)
        # 0, but NaN where a heatmap is not finite: it has no largest pixel
        ground_truth = ground_truth + (largest - largest)[:, :, None, None]
        others = 1 - torch.eye(self.num_keypoints, dtype=heatmaps.dtype, device=heatmaps.device)
        ground_false = torch.einsum("nkhw,kl->nlhw", ground_truth, others)
        return ground_truth, ground_false.clamp(max=1)

    def _gaussian(self, centre: Tensor, size: int, heatmaps: Tensor) -> Tensor:
        distance = torch.arange(size, device=heatmaps.device) - centre.unsqueeze(2)  # (N, K, size)
        # at 1e-3 the next pixel is 0 already; what is smaller could itself become 0 in float32
        gaussian = torch.exp(-(distance.to(heatmaps.dtype) / max(self.sigma, 1e-3)).square() / 2)
        return gaussian * (distance.abs() <= 3 * self.sigma)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"num_keypoints={self.num_keypoints}, height={self.height}, width={self.width}, sigma={self.sigma}"


class JointsKLLoss(nn.Module):
    r"""Kullback-Leibler divergence between predicted and given heatmaps, as distributions over the pixels.

    .. math::
        \ell_{ik} = w_{ik} \sum_u q_{ik}(u) \log \frac{q_{ik}(u)}{p_{ik}(u)}, \qquad
        q_{ik} = \frac{h_{ik} + \varepsilon}{\sum_v (h_{ik}(v) + \varepsilon)}

    with the softmax `p` of the prediction over the pixels `u`, the heatmaps `h`, and weights `w`, 1 by default. Without
    :math:`\varepsilon`, a heatmap that is 0 everywhere counts 0, with a gradient of 0.

    Shapes:
        - `output`, `target`: :math:`(N, K, H, W)`; `weight`: :math:`(N, K)` or :math:`(N, K, 1)`
        - output: scalar; with ``reduction="none"`` :math:`(N, K)`

    Args:
        reduction: ``"mean"`` over samples and joints, ``"sum"`` or ``"none"``. The mean is not divided by the weights.
        epsilon: added to every pixel of the heatmaps.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, shapes that differ, weights of another shape, an unknown reduction, and a
            negative `epsilon`.

    References:
        J. Jiang, Y. Ji, X. Wang, Y. Liu, J. Wang, M. Long: Regressive Domain Adaptation for Unsupervised Keypoint
        Detection. CVPR 2021. https://arxiv.org/abs/2103.06175

    Example:
        >>> import torch
        >>> from adaption.layers import JointsKLLoss
        >>> one_pixel = torch.zeros(1, 1, 2, 2)
        >>> one_pixel[0, 0, 0, 0] = 1.0
        >>> JointsKLLoss()(torch.zeros(1, 1, 2, 2), one_pixel)  # from uniform to certain: log 4
        tensor(1.3863)
    """

    def __init__(self, reduction: str = "mean", epsilon: float = 0.0) -> None:
        _reduction.check(reduction)
        _checks.number("epsilon", epsilon, at_least=0)
        super().__init__()
        self.reduction = reduction
        self.epsilon = epsilon

    @full_precision
    def forward(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the divergence of each joint, reduced."""
        _checks.tensor("output", output)
        _checks.tensor("target", target)
        if output.ndim != 4:
            msg = (
                f"`output` must have shape (N, K, H, W), but got shape {_checks.shape(output)}. "
                "Pass one heatmap per sample and joint."
            )
            raise ValueError(msg)
        _checks.same_shape("output", output, "target", target)
        log_p = output.flatten(2).log_softmax(2)  # (N, K, H * W)
        q = target.flatten(2) + self.epsilon
        q = q / q.sum(2, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
        losses = F.kl_div(log_p, q, reduction="none").sum(2)  # (N, K)
        if weight is not None:
            losses = losses * self._weight(weight, losses)
        return _reduction.value(self.reduction, *_reduction.statistics(self.reduction, losses))

    @staticmethod
    def _weight(weight: Tensor, losses: Tensor) -> Tensor:
        _checks.tensor("weight", weight)
        if weight.shape not in (losses.shape, (*losses.shape, 1)):
            msg = (
                f"`weight` must hold one weight per sample and joint, shape {_checks.shape(losses)}, but got shape "
                f"{_checks.shape(weight)}. Pass the weights of the same batch."
            )
            raise ValueError(msg)
        _checks.same_device("output", losses, "weight", weight)
        return weight.reshape(losses.shape)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"reduction={self.reduction!r}, epsilon={self.epsilon}"
