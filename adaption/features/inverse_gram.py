"""DARE-GRAM: aligns the inverse Gram matrices of two domains, for regression."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._precision import full_precision
from adaption._spectrum import Spectrum, poison, spectrum_of_matrix, spectrum_of_rows
from adaption._states import sum_dtype
from adaption.features._moments import Moments, MomentsMetric, Scatter, in_one_dtype
from adaption.features.mmd import check_pair


@full_precision
def inverse_gram_alignment(
    source_features: Tensor,
    target_features: Tensor,
    *,
    energy: float = 0.9,
    angle_weight: float = 0.05,
    scale_weight: float = 0.001,
) -> Tensor:
    r"""Distance between the inverse Gram matrices of source and target features, in angle and in scale.

    A linear regression on the features `X` has the solution :math:`(A^\top A)^{-1} A^\top y` with :math:`A = [1, X]`,
    which depends on the features through the inverse Gram matrix. With

    .. math:: G = \frac1n A^\top A = \sum_i \lambda_i v_i v_i^\top, \qquad
        G^+ = \sum_{i \le j} \frac1{\lambda_i} v_i v_i^\top

    for each domain, with eigenvalues in descending order, the loss is

    .. math::
        w_a \frac1{d + 1} \sum_c \bigl( 1 - \cos (G_s^+ e_c, G_t^+ e_c) \bigr)
        + \frac{w_s}{j} \lVert (\lambda_{s,1}, .., \lambda_{s,j}) - (\lambda_{t,1}, .., \lambda_{t,j}) \rVert

    with the columns of the inverses. Small eigenvalues are left out, because their inverses would be large and noisy:
    `j` is one less than the number of leading eigenvalues that hold no more than the share `energy` of their sum, at
    least 1, and the larger one of both domains. Eigenvalues below rounding error are never inverted. Two columns of
    zeros, from features that are 0 in both domains, count as equal.

    The choice of `j` has no gradient. The gradient of the inverse is computed from divided differences of
    :math:`1 / \lambda`, finite where eigenvalues coincide; it is large where :math:`\lambda_j` and
    :math:`\lambda_{j+1}` are close but not equal. Everything is in float64, and with fewer samples than features no
    matrix of size `d x d` is formed.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        energy: the share of the eigenvalues' sum below which they are kept, above 0 and at most 1.
        angle_weight: the weight :math:`w_a` of the angles, at least 0.
        scale_weight: the weight :math:`w_s` of the eigenvalues, at least 0.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: for empty batches, wrong ranks, differing widths or devices, and settings out of their bounds.

    References:
        I. Nejjar, Q. Wang, O. Fink: DARE-GRAM: Unsupervised Domain Adaptation Regression by Aligning Inverse Gram
        Matrices. CVPR 2023. https://arxiv.org/abs/2303.13325

    Example:
        For the features 2 and 4, with the 1 before them, the leading eigenvalue is :math:`1 + x^2`, here 5 and 17, with
        the vector :math:`(1, x)`. Both columns of an inverse have this direction.

        >>> import torch
        >>> from adaption.functional import inverse_gram_alignment
        >>> source, target = torch.full((3, 1), 2.0), torch.full((5, 1), 4.0)
        >>> inverse_gram_alignment(source, target, angle_weight=0.0, scale_weight=1.0)
        tensor(12.)
        >>> inverse_gram_alignment(source, target, angle_weight=1.0, scale_weight=0.0)  # 1 - 9 / sqrt(5 * 17)
        tensor(0.0238)
    """
    check_settings(energy, angle_weight, scale_weight)
    check_pair(source_features, target_features)
    return _alignment(in_one_dtype(source_features, target_features), [energy, angle_weight, scale_weight])


def check_settings(energy: object, angle_weight: object, scale_weight: object) -> None:
    """Check the share of the spectrum, and both weights."""
    _checks.number("energy", energy, above=0, at_most=1)
    _checks.number("angle_weight", angle_weight, at_least=0)
    _checks.number("scale_weight", scale_weight, at_least=0)


def _last_within(spectrum: Spectrum, energy: float) -> Tensor:
    """The last index, from 0, up to which the eigenvalues hold no more than this share of their sum, or -1."""
    sums = spectrum.values.cumsum(0)
    return torch.sum(sums / sums[-1] <= energy) - 1


def _inverses(spectrum: Spectrum, number: Tensor) -> Tensor:
    """The inverses of the leading eigenvalues, one for each eigenvector, and 0 for all others."""
    values = spectrum.values[: spectrum.vectors.shape[1]]
    chosen = (torch.arange(len(values), device=values.device) < number) & (values > 0)
    return torch.where(chosen, values, 1).reciprocal() * chosen


class _Comparison:
    """Two spectra: angles of the columns of their inverses, and the distance of their leading eigenvalues."""

    def __init__(self, spectra: tuple[Spectrum, Spectrum], energy: float) -> None:
        self.spectra = spectra
        self.number = torch.stack([_last_within(spectrum, energy) for spectrum in spectra]).amax().clamp(min=1)
        self.inverses = [_inverses(spectrum, self.number) for spectrum in spectra]
        # column c of an inverse is the matrix of eigenvectors times row c of this
        self.rows = [s.vectors * inverse for s, inverse in zip(spectra, self.inverses, strict=True)]
        self.overlap = spectra[0].vectors.T @ spectra[1].vectors
        self.norms = [torch.linalg.vector_norm(rows, dim=1) for rows in self.rows]
        width = len(self.norms[0])
        dead = [norm <= width * torch.finfo(norm.dtype).eps * norm.amax() for norm in self.norms]
        self.live = ~(dead[0] | dead[1])
        self.scales = [torch.where(self.live, norm, 1) for norm in self.norms]
        products = ((self.rows[0] @ self.overlap) * self.rows[1]).sum(1)
        self.cosines = torch.where(self.live, products / (self.scales[0] * self.scales[1]), 0.0)
        self.angles = (1 - self.cosines).clamp(min=0).where(~(dead[0] & dead[1]), 0.0)
        leading = torch.arange(width, device=self.number.device) < self.number
        self.gap = (spectra[0].values - spectra[1].values) * leading
        self.distance = torch.linalg.vector_norm(self.gap)
        self.distinct = self.distance > spectra[0].rounding + spectra[1].rounding

    def value(self, angle_weight: float, scale_weight: float) -> Tensor:
        """The weighted sum."""
        value: Tensor = angle_weight * self.angles.mean() + scale_weight * self.distance / self.number
        return value

    def gradient(self, domain: int, rows: Tensor, angle_weight: float, scale_weight: float) -> Tensor:
        r"""The gradient for the rows `B` of a domain, whose Gram matrix is `B' B`.

        With the gradient `H` for the inverse, that for :math:`G = V \Lambda V^\top` is
        :math:`V (\Gamma \circ V^\top H V) V^\top` with the divided differences :math:`\Gamma` of the function that
        inverts the leading eigenvalues and maps all others to 0, and that for `B` is twice `B` times it.
        """
        own, other = self.spectra[domain], self.spectra[1 - domain]
        v, w, overlap = own.vectors, other.vectors, self.overlap if domain == 0 else self.overlap.T
        a, b = self.rows[domain], self.rows[1 - domain]
        scale = self.live.to(v.dtype) * (angle_weight / len(v))
        b = b * (scale / (self.scales[0] * self.scales[1]))[:, None]
        a = a * (scale * self.cosines / self.scales[domain].square())[:, None]
        # V' H and V' H', of which the mean is that of the symmetric part
        pull = (a.T - overlap @ b.T + (v.T @ a) @ v.T - (v.T @ b) @ w.T) / 2
        core = pull @ v
        inverse, values = self.inverses[domain], own.values[: v.shape[1]]
        kept = inverse > 0
        apart = values[:, None] - values
        differences = (inverse[:, None] - inverse) / torch.where(apart.abs() > own.rounding, apart, torch.inf)
        differences = torch.where(kept[:, None] & kept, -inverse[:, None] * inverse, differences)
        direction = torch.where(self.distinct, self.gap / torch.where(self.distinct, self.distance, 1), 0.0)
        of_values = direction[: v.shape[1]] * (scale_weight * (1 - 2 * domain)) / self.number
        inside = (differences * core + torch.diag(of_values)) @ v.T
        outside = (inverse.square())[:, None] * (pull - core @ v.T)  # where eigenvalues are 0
        gradient: Tensor = 2 * (rows @ v) @ (inside + outside)
        return gradient


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    energy, *weights = options
    rows = [_with_ones(tensor.to(sum_dtype(tensor.device))) for tensor in tensors]
    lost = poison(*rows)
    comparison = _Comparison((spectrum_of_rows(rows[0]), spectrum_of_rows(rows[1])), energy)
    results = [comparison.value(*weights) + lost]
    for domain, x in enumerate(rows):
        if needed[domain]:
            gradient = comparison.gradient(domain, x, *weights)[:, 1:]
            results.append(gradient / math.sqrt(len(x)) + lost)
    return [result.to(tensors[0].dtype) for result in results]


def _with_ones(features: Tensor) -> Tensor:
    """Rows with a 1 before them, scaled so that their Gram matrix is the mean over the samples."""
    return F.pad(features, (1, 0), value=1.0) / math.sqrt(len(features))


_alignment = ClosedForm("inverse_gram_alignment", _evaluate)


class InverseGramAlignmentLoss(MomentsMetric):
    r"""DARE-GRAM: minimising it makes the same linear regression on the features fit both domains.

    There is no adversary: the feature extractor minimises the value together with the task loss. It is for regression,
    where losses that align the features themselves tend to change their scale, and so the predictions.

    The formula is that of :func:`adaption.functional.inverse_gram_alignment`. `compute` is its value for all samples of
    the epoch as one batch, exact over batches and ranks. It keeps mean and covariance of each domain, :math:`d^2`
    numbers in float64: 4 MB for 512 features and 67 MB for 2,048, for both domains. ``pooled=False`` keeps two numbers,
    and `compute` is the mean of the batches' values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        energy: the share of the eigenvalues' sum below which they are inverted and compared.
        angle_weight: the weight of the angles between the columns of the inverses.
        scale_weight: the weight of the distance of the eigenvalues.
        pooled: whether `compute` is the value of all samples of the epoch, or the mean of the batches' values.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: as :func:`adaption.functional.inverse_gram_alignment`, and where the number of features differs from
            that of the batches before.

    References:
        I. Nejjar, Q. Wang, O. Fink: DARE-GRAM: Unsupervised Domain Adaptation Regression by Aligning Inverse Gram
        Matrices. CVPR 2023. https://arxiv.org/abs/2303.13325

    Example:
        The domains differ in each batch, but not in the epoch.

        >>> import torch
        >>> from adaption import InverseGramAlignmentLoss
        >>> dare_gram = InverseGramAlignmentLoss(scale_weight=1.0)
        >>> low, high = torch.full((3, 1), 2.0), torch.full((3, 1), 4.0)
        >>> dare_gram(low, high), dare_gram(high, low)
        (tensor(12.0012), tensor(12.0012))
        >>> round(float(dare_gram.compute()), 6)
        0.0
    """

    plot_lower_bound = 0.0

    def __init__(
        self,
        energy: float = 0.9,
        *,
        angle_weight: float = 0.05,
        scale_weight: float = 0.001,
        pooled: bool = True,
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_settings(energy, angle_weight, scale_weight)
        super().__init__(Scatter(), pooled=pooled, gather_distributed=gather_distributed, **kwargs)
        self.energy = energy
        self.angle_weight = angle_weight
        self.scale_weight = scale_weight

    def _check(self, source_features: Tensor, target_features: Tensor) -> None:
        """Accept any batch: one sample has a Gram matrix, too."""

    def _of_batch(self, source_features: Tensor, target_features: Tensor) -> Tensor:
        return inverse_gram_alignment(
            source_features,
            target_features,
            energy=self.energy,
            angle_weight=self.angle_weight,
            scale_weight=self.scale_weight,
        )

    def _of_moments(self, source: Moments, target: Moments) -> Tensor:
        grams = [_gram(domain) for domain in (source, target)]
        first, second = (spectrum_of_matrix(gram, len(gram)) for gram in grams)
        return _Comparison((first, second), self.energy).value(self.angle_weight, self.scale_weight) + poison(*grams)


def _gram(domain: Moments) -> Tensor:
    """The Gram matrix of the features with a 1 before them, divided by the number of samples."""
    mean = F.pad(domain.mean, (1, 0), value=1.0)
    d = len(domain.mean)
    return torch.outer(mean, mean) + F.pad(domain.sums[0].view(d, d) / domain.number, (1, 0, 1, 0))
