"""What the peers compute, in formulas, written from reading their sources; `nox -s migrating` compares the two.

Each gives the value of the peer's call, also where a paper would say otherwise. Losses of a discriminator take its
logits; the gradient reversal before it is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# ---- TLLib 0.4 --------------------------------------------------------------------------------------------------


def tllib_kernel(samples: Tensor) -> Tensor:
    """The sum of exp(-d² / 2 a s²) over five a from 1/8 to 2; s² is the mean of d² over all pairs, and a constant."""
    distances = _squared_distances(samples)
    mean = distances.detach().mean()
    return torch.stack([torch.exp(-distances / (2 * 2.0**k * mean)) for k in range(-3, 2)]).sum(0)


def tllib_estimate(kernel: Tensor, *, linear: bool) -> Tensor:
    """Without the diagonals of the domains, plus 2 / (n - 1); `linear` has each sample and the next, in a circle."""
    n = len(kernel) // 2
    source, target, cross = _blocks(kernel, n)
    if linear:
        here, following = torch.arange(n), torch.arange(n).roll(-1)
        pairs = source[here, following] + target[here, following] - cross[here, following] - cross[following, here]
        return pairs.mean() + 2 / (n - 1)
    within = [(block.sum() - block.diagonal().sum()) / (n * (n - 1)) for block in (source, target)]
    return within[0] + within[1] - 2 * cross.mean() + 2 / (n - 1)


def tllib_dan(source: Tensor, target: Tensor, *, linear: bool) -> Tensor:
    """DAN with the kernels of TLLib's example, where `linear` is the default."""
    return tllib_estimate(tllib_kernel(torch.cat([source, target])), linear=linear)


def tllib_jan(source: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """JAN with the kernels of TLLib's example: five on the features, one of sigma 0.92 on the probabilities."""
    features, probabilities = (torch.cat(pair) for pair in zip(source, target, strict=True))
    fixed = torch.exp(-_squared_distances(probabilities) / (2 * 0.92**2))
    return tllib_estimate(tllib_kernel(features) * fixed, linear=False)


def tllib_dann(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """The source is domain 1."""
    source, target = source_logits.sigmoid(), target_logits.sigmoid()
    losses = F.binary_cross_entropy(source, torch.ones_like(source)), F.binary_cross_entropy(target, target * 0)
    return 0.5 * (losses[0] + losses[1])


def tllib_dann_of_two_logits(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """The source is class 1 of a softmax, the target class 0."""
    logits = torch.cat([source_logits, target_logits])
    return F.cross_entropy(logits, (torch.arange(len(logits)) < len(source_logits)).long())


def tllib_map(class_logits: Tensor, features: Tensor) -> Tensor:
    """Every feature times every probability, class after class."""
    return (class_logits.softmax(1).detach()[:, :, None] * features[:, None, :]).flatten(1)


def tllib_cdan(domain_logits: Tensor, class_logits: Tensor, *, entropy: bool) -> Tensor:
    """Both domains stacked, as many samples of each; the source, domain 1, comes first."""
    labels = (torch.arange(len(domain_logits)) < len(domain_logits) // 2).float()
    losses = F.binary_cross_entropy(domain_logits.sigmoid().squeeze(1), labels, reduction="none")
    p = class_logits.softmax(1).detach()
    weights = 1 + torch.exp((p * torch.log(p + 1e-5)).sum(1)) if entropy else torch.ones_like(losses)
    return (losses * weights / weights.mean()).mean()


def tllib_mdd(source: Tensor, source_adv: Tensor, target: Tensor, target_adv: Tensor) -> Tensor:
    """As in the paper, with 1e-6 inside the second logarithm; TLLib's example subtracts it."""
    p = target_adv.softmax(1).gather(1, target.argmax(1, keepdim=True))
    return torch.log((1 - p + 1e-6).clamp(max=1)).mean() - 4 * F.cross_entropy(source_adv, source.argmax(1))


def tllib_discrepancy(p1: Tensor, p2: Tensor) -> Tensor:
    """The distance of MCD."""
    return (p1 - p2).abs().mean()


def tllib_balance(p: Tensor) -> Tensor:
    """The balance of classes of MCD, with 1e-6 inside the logarithm."""
    return -torch.log(p.mean(0) + 1e-6).mean()


# ---- rul-adapt 0.6.1 --------------------------------------------------------------------------------------------


def rul_adapt_mmd(source: Tensor, target: Tensor) -> Tensor:
    """Five kernels of the sum of absolute differences over its mean, diagonals included."""
    samples = torch.cat([source, target])
    distances = (_differences(samples).square() + 1e-7).sqrt().sum(2)
    mean = distances.detach().sum() / (len(samples) * (len(samples) - 1))
    kernel = torch.stack([torch.exp(-distances / mean * 2.0**k) for k in range(-2, 3)]).mean(0)
    within_source, within_target, cross = _blocks(kernel, len(source))
    return within_source.mean() + within_target.mean() - 2 * cross.mean()


def rul_adapt_dann(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """The mean over the samples of both domains; the source is domain 0."""
    logits = torch.cat([source_logits, target_logits]).squeeze(1)
    return F.binary_cross_entropy_with_logits(logits, (torch.arange(len(logits)) >= len(source_logits)).float())


# ---- pytorch-adapt 0.0.83 ---------------------------------------------------------------------------------------


def pytorch_adapt_mmd(source: Tensor, target: Tensor) -> Tensor:
    """Disjoint pairs, one kernel; its bandwidth is the median within the source, zeros included, and a constant."""
    median = _squared_distances(source.detach()).median()
    (s1, s2), (t1, t2) = ((samples[0::2], samples[1::2]) for samples in (source, target))
    kernels = [torch.exp(-(a - b).square().sum(1) / median).mean() for a, b in ((s1, s2), (t1, t2), (s1, t2), (s2, t1))]
    return kernels[0] + kernels[1] - kernels[2] - kernels[3]


def pytorch_adapt_dann_hook(task: Tensor, source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """What `DANNHook` minimises: the mean of the task loss and of two domain losses; the source is domain 0."""
    losses = F.softplus(source_logits).mean(), F.softplus(-target_logits).mean(), task
    return torch.stack(losses).mean()


def pytorch_adapt_aligner_hook(
    task: Tensor, features: tuple[Tensor, Tensor], probabilities: tuple[Tensor, Tensor]
) -> Tensor:
    """What `AlignerPlusCHook` minimises: the mean of the task loss and of the MMD of features and of probabilities."""
    return torch.stack([task, pytorch_adapt_mmd(*features), pytorch_adapt_mmd(*probabilities)]).mean()


# ---- skada 0.6.0 ------------------------------------------------------------------------------------------------


def skada_dan(source: Tensor, target: Tensor) -> Tensor:
    """The sum of 33 kernels exp(-d / s) of the distance; s is a multiple of the median within the source."""

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(first, second) / scales[:, None, None]).sum(0).mean()

    scales = 2.0 ** (torch.arange(33) / 2 - 8) * (torch.cdist(source, source).median() + 1e-7)
    return kernel(source, source) + kernel(target, target) - 2 * kernel(source, target)


def skada_dann(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """The sum of both domains' means; the source is domain 0."""
    return F.softplus(source_logits).mean() + F.softplus(-target_logits).mean()


# ---- shared -----------------------------------------------------------------------------------------------------


def _differences(samples: Tensor) -> Tensor:
    return samples[:, None] - samples[None, :]


def _squared_distances(samples: Tensor) -> Tensor:
    return _differences(samples).square().sum(2)


def _blocks(matrix: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Source with source, target with target, source with target."""
    return matrix[:n, :n], matrix[n:, n:], matrix[:n, n:]
