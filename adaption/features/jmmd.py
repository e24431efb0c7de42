"""Joint maximum mean discrepancy: MMD of the joint distribution of several layers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from adaption import _checks
from adaption._global_batch import GlobalBatchMetric
from adaption._kernels import Bandwidth
from adaption._metric import Statistics
from adaption._precision import as_parameters, full_precision
from adaption.features.mmd import check_settings, check_unweighted, estimate, normalised

ESTIMATORS = ("biased", "unbiased")
Setting = TypeVar("Setting", int, Bandwidth)


@full_precision
def joint_maximum_mean_discrepancy(
    source_features: Sequence[Tensor],
    target_features: Sequence[Tensor],
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    num_kernels: int | Sequence[int] = 1,
    bandwidth: Bandwidth | Sequence[Bandwidth] = "median",
    estimator: str = "biased",
) -> Tensor:
    r"""Squared distance between the mean embeddings of two domains in the product of one kernel space per layer.

    .. math::
        \mathrm{JMMD}^2 = \frac1{n^2} \sum_{i,j} \prod_\ell k_\ell(s_i^\ell, s_j^\ell)
            + \frac1{m^2} \sum_{i,j} \prod_\ell k_\ell(t_i^\ell, t_j^\ell)
            - \frac2{nm} \sum_{i,j} \prod_\ell k_\ell(s_i^\ell, t_j^\ell)

    with `n` source samples `s`, `m` target samples `t`, layers :math:`\ell`, and for each layer the kernel of
    :func:`adaption.functional.maximum_mean_discrepancy` with a separate bandwidth. The usual layers are the features
    and the softmax of the logits. One layer and one kernel give the MMD with one kernel.

    Shapes:
        - `source_features`: one tensor :math:`(n, d_\ell)` per layer, `target_features`: the same with `m`
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, `target_weights`: the same with `m`
        - output: scalar in :math:`[0, 2]`; the unbiased estimate may be slightly negative

    Args:
        source_features: features of the source batch, layer by layer.
        target_features: features of the target batch, of the same layers in the same order.
        source_weights: weights of the source samples, normalised to sum 1 inside. Only with ``estimator="biased"``.
        target_weights: the same for the target samples.
        num_kernels: number of Gaussians per layer, or one number for each layer. With one Gaussian in every layer,
            their product is a single Gaussian.
        bandwidth: ``"median"``, ``"mean"`` or a positive number, applied to each layer separately, or one of these for
            each layer.
        estimator: ``"biased"`` or ``"unbiased"``.

    Raises:
        TypeError: for anything but lists of floating-point tensors.
        ValueError: for empty lists, lists of different lengths, layers with different numbers of samples, a setting
            for more or fewer layers than there are, and as :func:`adaption.functional.maximum_mean_discrepancy`.

    References:
        M. Long, H. Zhu, J. Wang, M. Jordan: Deep Transfer Learning with Joint Adaptation Networks. ICML 2017.
        https://arxiv.org/abs/1605.06636

    Example:
        Two layers, one sample per domain, at the distance of the bandwidth: :math:`2 - 2 e^{-1} e^{-1}`.

        >>> import torch
        >>> from adaption.functional import joint_maximum_mean_discrepancy
        >>> near, far = torch.tensor([[0.0]]), torch.tensor([[3.0]])
        >>> joint_maximum_mean_discrepancy([near, near], [far, far])
        tensor(1.7293)
    """
    check_layer_settings(num_kernels, bandwidth, estimator)
    check_layers(source_features, target_features)
    numbers = _per_layer("num_kernels", num_kernels, len(source_features))
    bandwidths = _per_layer("bandwidth", bandwidth, len(source_features))
    check_unweighted(estimator, source_weights, target_weights)
    layers = [torch.cat(pair) for pair in zip(source_features, target_features, strict=True)]
    weights = [
        normalised("source_weights", source_weights, source_features[0]),
        normalised("target_weights", target_weights, target_features[0]),
    ]
    return estimate(layers, weights, numbers, bandwidths, estimator)


def check_layer_settings(
    num_kernels: int | Sequence[int], bandwidth: Bandwidth | Sequence[Bandwidth], estimator: str
) -> None:
    """Check the settings of MMD, each for all layers or one for each layer."""
    numbers = num_kernels if isinstance(num_kernels, (list, tuple)) else [num_kernels]
    bandwidths = bandwidth if isinstance(bandwidth, (list, tuple)) else [bandwidth]
    for name, values in (("num_kernels", numbers), ("bandwidth", bandwidths)):
        if not values:
            msg = f"`{name}` must hold a value for each layer, but is empty. Pass one value for all layers."
            raise ValueError(msg)
    for number, width in itertools.product(numbers, bandwidths):
        check_settings(number, width, estimator, ESTIMATORS)


def _per_layer(name: str, setting: Setting | Sequence[Setting], number: int) -> Sequence[Setting]:
    """One value for each layer."""
    if not isinstance(setting, (list, tuple)):
        return [cast("Setting", setting)] * number
    if len(setting) != number:
        msg = (
            f"`{name}` must hold one value for each layer ({number}), but got {len(setting)}. "
            "Pass one value for all layers, or as many as `source_features` has layers."
        )
        raise ValueError(msg)
    return setting


def check_layers(source_features: Sequence[Tensor], target_features: Sequence[Tensor]) -> None:
    """Two lists of equally many layers, each with the same number of samples in all layers."""
    for name, layers in (("source_features", source_features), ("target_features", target_features)):
        if not isinstance(layers, (list, tuple)):
            msg = (
                f"`{name}` must be a list with one tensor per layer, but got {type(layers).__name__}. "
                "Wrap a single layer in a list."
            )
            raise TypeError(msg)
        if not layers:
            msg = f"`{name}` must hold at least one layer, but got an empty list. Pass features and predictions."
            raise ValueError(msg)
        for index, layer in enumerate(layers):
            _checks.matrix(f"{name}[{index}]", layer)
            _checks.same_device(f"{name}[0]", layers[0], f"{name}[{index}]", layer)
            if len(layer) != len(layers[0]):
                msg = (
                    f"`{name}[{index}]` must have as many samples as `{name}[0]` ({len(layers[0])}), but got shape "
                    f"{_checks.shape(layer)}. Pass the layers of one and the same batch."
                )
                raise ValueError(msg)
    if len(source_features) != len(target_features):
        msg = (
            f"`target_features` must have as many layers as `source_features` ({len(source_features)}), but got "
            f"{len(target_features)}. Pass the same layers for both domains."
        )
        raise ValueError(msg)
    for index, (source, target) in enumerate(zip(source_features, target_features, strict=True)):
        _checks.same_layer(f"source_features[{index}]", source, f"target_features[{index}]", target)


def _modules(thetas: Iterable[nn.Module]) -> list[nn.Module]:
    _checks.iterable("thetas", thetas, "a list with one Module per layer")
    modules = list(thetas)
    for index, theta in enumerate(modules):
        _checks.module(f"thetas[{index}]", theta)
    return modules


class JointMaximumMeanDiscrepancyLoss(GlobalBatchMetric):
    r"""Joint maximum mean discrepancy of several layers; minimising it aligns their joint distributions.

    The formula is that of :func:`adaption.functional.joint_maximum_mean_discrepancy`. Without `thetas` there is no
    adversary: the feature extractor minimises the value together with the task loss. With `thetas` this is the
    adversarial JMMD: the thetas maximise what the feature extractor minimises, so put a
    :class:`adaption.layers.GradientReversalLayer` before and another one after the layers of each theta: the one after
    reverses the sign for the theta, the one before restores it for the feature extractor.

    `compute` returns the mean of the batch values, each weighted by its number of samples `n + m`; with ``pooled=True``
    the exact value over all samples of the epoch, as in :class:`adaption.MaximumMeanDiscrepancyLoss`, computed from the
    outputs of the thetas for each batch.

    Inputs of `update` and `forward`:
        - `source_features`: a list with one tensor :math:`(n, d_\ell)` per layer, `target_features`: the same with `m`
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`

    Output: scalar in :math:`[0, 2]`; the unbiased estimate may be slightly negative.

    Args:
        num_kernels: number of Gaussian kernels per layer, or one number for each layer.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance, or one of these for each
            layer. JAN as published: ``num_kernels=[5, 1], bandwidth=["mean", 1.68]`` on features and predictions.
        estimator: ``"biased"`` or ``"unbiased"``.
        thetas: one Module per layer, applied to the features before the kernel; trained, saved and moved with the
            metric. Each sees both domains in one batch, so that batch normalisation cannot hide their difference.
        pooled: whether `compute` is the value over all samples of the epoch.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but lists of floating-point tensors, and `thetas` that are not Modules.
        ValueError: as :func:`adaption.functional.joint_maximum_mean_discrepancy`, and where the number of layers
            differs from that of the `thetas`.

    References:
        M. Long, H. Zhu, J. Wang, M. Jordan: Deep Transfer Learning with Joint Adaptation Networks. ICML 2017.
        https://arxiv.org/abs/1605.06636

    Example:
        >>> import torch
        >>> from adaption import JointMaximumMeanDiscrepancyLoss
        >>> jmmd = JointMaximumMeanDiscrepancyLoss()
        >>> features, logits = torch.tensor([[0.0], [3.0]]).split(1), torch.tensor([[2.0, 0.0], [0.0, 2.0]]).split(1)
        >>> jmmd([features[0], logits[0].softmax(1)], [features[1], logits[1].softmax(1)])
        tensor(1.7293)
    """

    def __init__(
        self,
        num_kernels: int | Sequence[int] = 1,
        *,
        bandwidth: Bandwidth | Sequence[Bandwidth] = "median",
        estimator: str = "biased",
        thetas: Iterable[nn.Module] | None = None,
        pooled: bool = False,
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_layer_settings(num_kernels, bandwidth, estimator)
        _checks.flag("pooled", pooled)
        thetas = None if thetas is None else _modules(thetas)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.num_kernels = num_kernels
        self.bandwidth = bandwidth
        self.estimator = estimator
        self.pooled = pooled
        self.thetas = None if thetas is None else nn.ModuleList(thetas)
        if pooled:
            names = ("source_features", "target_features", "source_weights", "target_weights")
            self._keep_samples(*names, "layer_widths")
        else:
            self._keep_sums("weighted_values", "num_samples")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The biased estimate is at least 0, the others may be negative."""
        return 0.0 if self.estimator == "biased" else None

    def update(
        self,
        source_features: Sequence[Tensor],
        target_features: Sequence[Tensor],
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, target_features, source_weights, target_weights))

    def _statistics(
        self,
        source_features: Sequence[Tensor],
        target_features: Sequence[Tensor],
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Statistics:
        source_features, target_features, source_weights, target_weights = self._global_batch(
            source_features=source_features,
            target_features=target_features,
            source_weights=source_weights,
            target_weights=target_weights,
        )
        check_layers(source_features, target_features)
        if self.thetas is not None and len(self.thetas) != len(source_features):
            msg = (
                f"`source_features` must have one layer per theta ({len(self.thetas)}), but got "
                f"{len(source_features)} layers. Pass `torch.nn.Identity()` for a layer that needs none."
            )
            raise ValueError(msg)
        for index, theta in enumerate(self.thetas or ()):
            _checks.fits(f"source_features[{index}]", source_features[index], f"thetas[{index}]", theta)
        check_unweighted(self.estimator, source_weights, target_weights)
        _per_layer("num_kernels", self.num_kernels, len(source_features))
        _per_layer("bandwidth", self.bandwidth, len(source_features))
        if self.thetas is not None:
            source_features, target_features = self._mapped(self.thetas, source_features, target_features)
        source, target = source_features[0], target_features[0]
        if not self.pooled:
            value = self._discrepancy(source_features, target_features, source_weights, target_weights)
            number = len(source) + len(target)
            return value * number, number
        widths = [layer.shape[1] for layer in source_features]
        return (
            torch.cat(tuple(source_features), dim=1),
            torch.cat(tuple(target_features), dim=1),
            _checks.weights_or_ones("source_weights", source_weights, source),
            _checks.weights_or_ones("target_weights", target_weights, target),
            torch.tensor([widths], device=source.device),
            widths,
        )

    def _value(self, *statistics: Tensor) -> Tensor:
        if not self.pooled:
            total, number = statistics
            return total / number
        return self._of_samples(statistics[-1][0].tolist(), *statistics[:-1])

    def _batch_value(self, *statistics: Any) -> Tensor:
        if not self.pooled:
            return self._value(*statistics)
        *samples, _, widths = statistics  # the latter as numbers, which nobody has to read
        return self._of_samples(widths, *samples)

    def _of_samples(self, widths: list[int], source: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
        layers = [features.split(widths, dim=1) for features in (source, target)]
        return self._discrepancy(*layers, *(weights if self.estimator == "biased" else ()))

    @staticmethod
    def _mapped(thetas: Iterable[nn.Module], source: Sequence[Tensor], target: Sequence[Tensor]) -> list[list[Tensor]]:
        """The outputs of the thetas for the layers, both domains in one batch."""
        stacked = [torch.cat(pair) for pair in zip(source, target, strict=True)]
        mapped = [theta(as_parameters(theta, layer)) for theta, layer in zip(thetas, stacked, strict=True)]
        for index, layer in enumerate(mapped):
            _checks.matrix(f"thetas[{index}](..)", layer)
            _checks.same_batch("the layers of both domains", stacked[index], f"thetas[{index}](..)", layer)
        return [[layer[: len(source[0])] for layer in mapped], [layer[len(source[0]) :] for layer in mapped]]

    def _discrepancy(self, source: Sequence[Tensor], target: Sequence[Tensor], *weights: Any) -> Tensor:
        return joint_maximum_mean_discrepancy(
            source,
            target,
            *weights,
            num_kernels=self.num_kernels,
            bandwidth=self.bandwidth,
            estimator=self.estimator,
        )
