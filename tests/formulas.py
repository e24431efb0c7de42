"""The formula of each loss as its paper prints it, in plain torch, for autograd to differentiate.

Nothing here is stable, fast or checked, and nothing comes from the library but settings and the modules inside. A
formula takes the metric and the arguments of `update`; where there is a gradient reversal, also what stands for it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor

SCALARS = ("mmd", "z", "p_value", "low", "high")
Turn = Callable[[Tensor], Tensor]


def straight(x: Tensor) -> Tensor:
    return x


def turned(x: Tensor) -> Tensor:
    """The value of x with the derivative -1."""
    return 2 * x.detach() - x


def reduced(reduction: str, *domains: Tensor) -> Tensor:
    """The sum over the domains of their means, their sums, or sample by sample."""
    if reduction == "none":
        return functools.reduce(torch.add, domains)
    values = [losses.sum() if reduction == "sum" else losses.mean() for losses in domains]
    return functools.reduce(torch.add, values)


def weighted(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The losses of samples, at one place or many, times the weights of the samples."""
    return losses if weights is None else losses * weights.reshape(-1, *[1] * (losses.ndim - 1))


# features


def squared_distances(x: Tensor) -> Tensor:
    return (x[:, None] - x[None]).square().sum(2)


def bandwidth_of(distances: Tensor, rule: str | float) -> Tensor | float:
    """The lower median or the mean, of which each pair has a share in the gradient.

    Where the median is 0 the mean takes its place; where that is 0 too, so are all distances, whatever they are
    measured by.
    """
    if not isinstance(rule, str):
        return rule
    median = distances.sort().values[(len(distances) - 1) // 2]
    bandwidth = median if rule == "median" and median > 0 else distances.mean()
    return bandwidth if bandwidth > 0 else torch.ones_like(bandwidth)


def gaussians(distances: Tensor, bandwidth: Tensor | float, number: int) -> Tensor:
    scales = (2.0 ** (i - number // 2) for i in range(number))
    return torch.stack([torch.exp(-scale * distances / bandwidth) for scale in scales]).mean(0)


def estimate(kernel: Tensor, n: int, weights: Sequence[Tensor | None], estimator: str) -> Tensor:
    """Gretton et al. 2012, equations (5) and (3), from the kernel matrix of all samples."""
    m = len(kernel) - n
    within_source, within_target, across = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if estimator == "unbiased":
        source = (within_source.sum() - within_source.trace()) / (n * (n - 1))
        target = (within_target.sum() - within_target.trace()) / (m * (m - 1))
        return source + target - 2 * across.mean()
    u, v = (torch.ones(size) if w is None else w.flatten() for w, size in zip(weights, (n, m), strict=True))
    u, v = (w.to(kernel.dtype) / w.sum() for w in (u, v))
    return u @ within_source @ u + v @ within_target @ v - 2 * u @ across @ v


def mmd(metric: Any, source: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
    if isinstance(metric.pooled, str):
        return random_features(metric, source, target)
    return _kernels(metric, [metric.num_kernels], [metric.bandwidth], [source], [target], weights)


def random_features(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    """Kernels as means over frequencies from the seed 0, of the cosines of the differences of all pairs."""
    n, number = len(source), metric.num_random_features // 2
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn((source.shape[1], number), generator=draw, dtype=torch.float64).to(source)
    kernel = torch.zeros(())
    stacked = torch.cat([source, target])
    for s in range(metric.num_kernels):
        deviation = (2 * 2.0 ** (s - metric.num_kernels // 2) / metric.bandwidth) ** 0.5
        columns = normal[:, s :: metric.num_kernels] * deviation
        phases = (stacked[:, None] - stacked[None]) @ columns
        kernel = kernel + phases.cos().mean(-1) / metric.num_kernels
    return estimate(kernel, n, (None, None), metric.estimator)


def jmmd(metric: Any, source: list[Tensor], target: list[Tensor], *weights: Tensor) -> Tensor:
    if metric.thetas is not None:
        rows = [theta(torch.cat(pair)) for theta, *pair in zip(metric.thetas, source, target, strict=True)]
        source, target = [row[: len(source[0])] for row in rows], [row[len(source[0]) :] for row in rows]
    numbers, rules = (
        [setting] * len(source) if isinstance(setting, (str, int, float)) else setting
        for setting in (metric.num_kernels, metric.bandwidth)
    )
    return _kernels(metric, numbers, rules, source, target, weights)


def _kernels(
    metric: Any,
    numbers: Any,
    rules: Any,
    source: list[Tensor],
    target: list[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    if metric.estimator == "linear":
        return _linear(numbers, rules, source, target)
    kernel = torch.ones(())
    for s, t, number, rule in zip(source, target, numbers, rules, strict=True):
        distances = squared_distances(torch.cat([s, t]))
        pairs = distances[tuple(torch.tril_indices(len(distances), len(distances), -1))]
        kernel = kernel * gaussians(distances, bandwidth_of(pairs, rule), number)
    return estimate(kernel, len(source[0]), weights or (None, None), metric.estimator)


def _linear(numbers: Any, rules: Any, source: list[Tensor], target: list[Tensor]) -> Tensor:
    """Lemma 14: disjoint pairs of consecutive samples, an odd last one dropped."""
    kernels: list[Tensor | float] = [1.0] * 4
    for s, t, number, rule in zip(source, target, numbers, rules, strict=True):
        pairs = len(s) // 2
        s1, s2, t1, t2 = (x[start : 2 * pairs : 2] for x in (s, t) for start in (0, 1))
        distances = [(a - b).square().sum(1) for a, b in ((s1, s2), (t1, t2), (s1, t2), (s2, t1))]
        bandwidth = bandwidth_of(torch.cat(distances), rule)
        kernels = [k * gaussians(d, bandwidth, number) for k, d in zip(kernels, distances, strict=True)]
    within_source, within_target, one, other = kernels
    return torch.as_tensor(within_source + within_target - one - other).mean()


def lmmd(metric: Any, source: Tensor, labels: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """Zhu et al. 2021, equations (4) to (7), class by class, for the classes that both batches hold."""
    distances = squared_distances(torch.cat([source, target]))
    pairs = distances[tuple(torch.tril_indices(len(distances), len(distances), -1))]
    kernel = gaussians(distances, bandwidth_of(pairs, metric.bandwidth), metric.num_kernels)
    p, found = logits.detach().softmax(1), []
    for c in range(logits.shape[1]):
        if c in labels.flatten().tolist() and c in p.argmax(1).tolist():
            own = (labels.flatten() == c).to(p)
            found.append(estimate(kernel, len(source), (own, p[:, c]), "biased"))
    return torch.stack(found).mean() if found else 0 * kernel.sum()


def cdd(metric: Any, source: Tensor, labels: Tensor, target: Tensor, hypotheses: Tensor) -> Tensor:
    """Kang et al. 2019, section 3.2, pair of classes by pair of classes, for those that both batches hold."""
    distances = squared_distances(torch.cat([source, target]))
    pairs = distances[tuple(torch.tril_indices(len(distances), len(distances), -1))]
    kernel = gaussians(distances, bandwidth_of(pairs, metric.bandwidth), metric.num_kernels)
    classes = sorted({*labels.flatten().tolist()} & {*hypotheses.flatten().tolist()})
    within: list[Tensor] = []
    between: list[Tensor] = []
    for c, other in itertools.product(classes, classes):
        members = (labels.flatten() == c).to(kernel), (hypotheses.flatten() == other).to(kernel)
        (within if c == other else between).append(estimate(kernel, len(source), members, "biased"))
    means = [torch.stack(found).mean() if found else 0 * kernel.sum() for found in (within, between)]
    return means[0] - means[1]


def scalings(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, penalty: float | None = None
) -> tuple[Tensor, Tensor]:
    """Sinkhorn's iteration to its end, of the matrix e^(-cost / epsilon) itself; soft as in Chizat et al. 2018."""
    power = 1.0 if penalty is None else penalty / (penalty + float(epsilon))
    kernel, u, v = torch.exp(-cost / epsilon), torch.ones_like(a), torch.ones_like(b)
    for _ in range(1000):
        u = (kernel @ (b * v)) ** -power
        v = (kernel.T @ (a * u)) ** -power
    return u, v


def feature_norm(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    """Xu et al. 2019, equations (4) and (6), of both domains."""
    values = []
    for features in (source, target):
        norms = features.square().sum(1).sqrt()
        if metric.radius is None:
            values.append((norms.detach() + metric.step - norms).square().mean())
        else:
            values.append((norms.mean() - metric.radius) ** 2)
    value: Tensor = values[0] + values[1]
    return value


def sliced_wasserstein(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    """Along each direction, sorted samples, each of them as often as the other domain has any."""
    directions = metric.directions(source.shape[1], metric.num_projections, source).to(source)
    values = []
    for direction in directions.T:
        x = (source @ direction).repeat_interleave(len(target)).sort().values
        y = (target @ direction).repeat_interleave(len(source)).sort().values
        values.append((x - y).square().mean())
    return torch.stack(values).mean()


def jdot(metric: Any, source: Tensor, labels: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """Damodaran et al. 2018, equation (5), with the plan of Fatras et al. 2021 where margins are soft."""
    n, m = len(source), len(target)
    distances = (source[:, None] - target[None]).square().sum(2)
    entropies = torch.stack([-logits.softmax(1).log()[:, int(label)] for label in labels])
    cost = metric.feature_weight * distances + metric.label_weight * entropies
    a, b = torch.full((n,), 1 / n, dtype=cost.dtype), torch.full((m,), 1 / m, dtype=cost.dtype)
    mean = cost.detach().mean()
    penalty = None if metric.marginal_penalty is None else metric.marginal_penalty * float(mean)
    u, v = scalings(cost.detach(), a, b, metric.regularization * mean, penalty)
    plan = (a * u)[:, None] * torch.exp(-cost.detach() / (metric.regularization * mean)) * (b * v)
    value: Tensor = (plan * cost).sum()
    return value


def sinkhorn(metric: Any, source: Tensor, target: Tensor, u: Any = None, v: Any = None) -> Tensor:
    """Feydy et al. 2019, equations (3) and (8): the dual, in which potentials are constant, being at their best."""
    a, b = (
        torch.full((len(x),), 1 / len(x), dtype=x.dtype) if w is None else w.flatten() / w.sum()
        for x, w in ((source, u), (target, v))
    )
    pairs = ((source, a, target, b), (source, a, source, a), (target, b, target, b))
    costs = [(x[:, None] - y[None]).square().sum(2) for x, _, y, _ in pairs]
    epsilon = metric.regularization * (a[:, None] * b * costs[0]).sum().detach()
    terms = []
    for cost, (_, p, _, q) in zip(costs, pairs, strict=True):
        f, g = (epsilon * w.log() for w in scalings(cost.detach(), p.detach(), q.detach(), epsilon))
        mass = (p[:, None] * q * torch.exp((f[:, None] + g - cost) / epsilon)).sum()
        terms.append((p * f).sum() + (q * g).sum() - epsilon * (mass - 1))
    value: Tensor = terms[0] - terms[1] / 2 - terms[2] / 2
    return value


def bsp(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    leading = [torch.linalg.svdvals(features)[: metric.num_singular_values] for features in (source, target)]
    return torch.cat(leading).square().sum()


def covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return sum((torch.outer(z, z) for z in centred), torch.zeros(())) / (len(x) - 1)


def coral(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    if metric.estimator == "biased":
        distance: Tensor = (covariance(source) - covariance(target)).square().sum()
        return distance / (4 * source.shape[1] ** 2)
    across = (covariance(source) * covariance(target)).sum()
    return (_trace_of_square(source) + _trace_of_square(target) - 2 * across) / (4 * source.shape[1] ** 2)


def _trace_of_square(x: Tensor) -> Tensor:
    """Li and Chen 2012, of the products of two, three and four different samples."""
    products, n = x @ x.T, len(x)
    apart = products - torch.diag(products.diagonal())
    pairs = apart.square().sum()
    triples = apart.sum(0).square().sum() - pairs
    fours = apart.sum().square() - 4 * triples - 2 * pairs
    return pairs / (n * (n - 1)) - 2 * triples / (n * (n - 1) * (n - 2)) + fours / (n * (n - 1) * (n - 2) * (n - 3))


def cmd(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    width = metric.bounds[1] - metric.bounds[0]
    value: Tensor = torch.linalg.vector_norm(source.mean(0) - target.mean(0)) / width
    for k in range(2, metric.num_moments + 1):
        left, right = (((x - x.mean(0)) ** k).mean(0) for x in (source, target))
        value = value + torch.linalg.vector_norm(left - right) / width**k
    return value


def homm(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    """Chen et al. 2020, equation (3), of centred features: all entries of both moment tensors."""
    moments = []
    for x in (source, target):
        centred = x - x.mean(0)
        products = centred
        for _ in range(metric.order - 1):
            products = torch.einsum("na,nb->nab", products, centred).flatten(1)
        moments.append(products.mean(0))
    value: Tensor = (moments[0] - moments[1]).square().mean()
    return value


def frechet(_: Any, source: Tensor, target: Tensor) -> Tensor:
    """With the trace of the root of the product of the covariances as a sum of singular values."""
    spreads = covariance(source), covariance(target)
    gap: Tensor = (source.mean(0) - target.mean(0)).square().sum()
    rank = min(len(source) - 1, len(target) - 1, source.shape[1])
    # the leading ones alone: a root has no gradient at 0
    products = (source - source.mean(0)) @ (target - target.mean(0)).T
    values = torch.linalg.svdvals(products)[:rank] / ((len(source) - 1) * (len(target) - 1)) ** 0.5
    distance: Tensor = gap + spreads[0].trace() + spreads[1].trace() - 2 * values.sum()
    return distance


def subspace(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    """Chen et al. 2021, as their code has it, of the leading directions of either domain."""
    k = min(*source.shape, *target.shape)
    bases = [torch.linalg.svd(x.T, full_matrices=False).U[:, :k] for x in (source, target)]
    p, cosines, q = torch.linalg.svd(bases[0].T @ bases[1])
    value: Tensor = (1 - cosines.square()).sqrt().sum() + metric.bases_weight * (p.abs() - q.T.abs()).norm()
    return value


def inverse_gram(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    """Nejjar et al. 2023, with the eigenvalues of A'A / n as squares of the singular values of A."""
    values, vectors, kept = [], [], [1]
    width = source.shape[1] + 1
    for x in (source, target):
        singular = torch.linalg.svd(torch.cat([torch.ones(len(x), 1).to(x), x], 1) / len(x) ** 0.5, full_matrices=False)
        energies = singular.S.square()
        values.append(torch.cat([energies, torch.zeros(width - len(energies)).to(x)]))
        vectors.append(singular.Vh.T)
        shares = energies.detach().cumsum(0) / energies.detach().sum()
        kept.append(int((shares <= metric.energy).sum()) - 1)
    j = max(kept)
    inverses = []
    for energies, v in zip(values, vectors, strict=True):
        rank = min(j, int((energies > 1e-14 * energies[0]).sum()))
        inverses.append((v[:, :rank] / energies[:rank]) @ v[:, :rank].T)
    angles = 1 - torch.nn.functional.cosine_similarity(inverses[0], inverses[1], dim=0, eps=1e-30)
    scale = torch.linalg.vector_norm(values[0][:j] - values[1][:j]) / j
    value: Tensor = metric.angle_weight * angles.abs().mean() + metric.scale_weight * scale
    return value


# domain discriminators


def of_label(logits: Tensor, label: float) -> Tensor:
    """Binary cross entropy by the sigmoid itself; one logit per place."""
    p = logits.sigmoid()
    return -(label * p.log() + (1 - label) * (1 - p).log())


def one_each(answers: Tensor) -> Tensor:
    return answers.squeeze(1) if answers.ndim > 1 and answers.shape[1] == 1 else answers


def dann(metric: Any, source: Tensor, target: Tensor, *weights: Any, turn: Turn = straight) -> Tensor:
    u, v = (*weights, None, None)[:2]
    losses = [of_label(one_each(metric.domain_disc(turn(x))), label) / 2 for x, label in ((source, 0), (target, 1))]
    return reduced(metric.reduction, weighted(losses[0], u), weighted(losses[1], v))


def cdan(metric: Any, *batch: Tensor, turn: Turn = straight) -> Tensor:
    losses, weights = [], []
    for logits, features, label in ((batch[0], batch[1], 0), (batch[2], batch[3], 1)):
        g = logits.softmax(1).detach()
        if metric.randomized:
            random = metric.joint_map
            matrices = random.features_matrix.to(features.dtype), random.predictions_matrix.to(features.dtype)
            joint = (features @ matrices[0]) * (g @ matrices[1]) / metric.randomized_dim**0.5
        else:
            joint = (g[:, :, None] * features[:, None, :]).flatten(1)  # the class is the slower index
        losses.append(of_label(one_each(metric.domain_disc(turn(joint))), label))
        weights.append(1 + torch.exp((g * g.log()).sum(1)))
    if not metric.entropy_conditioning:
        return reduced(metric.reduction, *(loss / 2 for loss in losses))
    products = [w * loss for w, loss in zip(weights, losses, strict=True)]
    if metric.reduction == "none":
        return (products[0] + products[1]) / (weights[0] + weights[1]).mean()
    mean = torch.cat(products).sum() / torch.cat(weights).sum()
    return len(losses[0]) * mean if metric.reduction == "sum" else mean


def adda(_: Any, domain_logits: Tensor, domain_label: str) -> Tensor:
    return of_label(domain_logits, float(domain_label == "target")).mean()


def advent(metric: Any, logits: Tensor, domain_label: str) -> Tensor:
    p = logits.softmax(1)
    entropy = -p * p.log2() / torch.tensor(float(logits.shape[1]), dtype=p.dtype).log2()
    return adda(metric, metric.domain_disc(entropy), domain_label)


def wasserstein(metric: Any, source: Tensor, target: Tensor, turn: Turn = straight) -> Tensor:
    """Shen et al. 2018, equations (2) and (5), with the sign of what the critic minimises.

    The points of the penalty are those of the metric: they are part of the metric's state.
    """
    means = [one_each(metric.critic(turn(x))).mean() for x in (source, target)]
    value = means[1] - means[0]
    if metric.gradient_penalty > 0:
        points = metric.points(source.detach(), target.detach())
        slopes = torch.func.grad(lambda x: metric.critic(x).sum())(points).flatten(1).square().sum(1).sqrt()
        value = value + metric.gradient_penalty * (slopes - 1).square().mean()
    return value


def nuclear_wasserstein(_: Any, source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Chen et al. 2022, each norm over sqrt(n C) in place of n."""
    source, target = (logits.softmax(1) for logits in (source_logits, target_logits))
    value: Tensor = (
        torch.linalg.svdvals(target).sum() / target.numel() ** 0.5
        - torch.linalg.svdvals(source).sum() / source.numel() ** 0.5
    )
    return value


# task heads


def mcd(_: Any, predictions1: Tensor, predictions2: Tensor) -> Tensor:
    return (predictions1 - predictions2).abs().mean()


def by_class(predictions: Tensor) -> Tensor:
    return predictions.transpose(0, 1).flatten(1).mean(1)


def marginal_entropy(_: Any, predictions: Tensor) -> Tensor:
    return -by_class(predictions).log().mean()


def _margin(metric: Any, source: Tensor, target: Tensor, weights: Sequence[Tensor]) -> Tensor:
    u, v = (*weights, None, None)[:2]
    return reduced(metric.reduction, weighted(-metric.margin * source, u), weighted(target, v))


def mdd(metric: Any, *batch: Tensor) -> Tensor:
    source, target = metric.source_disparity(*batch[:2]), metric.target_disparity(*batch[2:4])
    return _margin(metric, source, target, batch[4:])


def mdd_of_classifiers(metric: Any, *batch: Tensor) -> Tensor:
    source, target = (
        adversarial.softmax(1).gather(1, main.argmax(1, keepdim=True)).squeeze(1)
        for main, adversarial in (batch[:2], batch[2:4])
    )
    return _margin(metric, -source.log(), (1 - target).log(), batch[4:])


def mdd_of_regressors(metric: Any, *batch: Tensor) -> Tensor:
    source, target = (
        metric.loss_function(adversarial, main.detach(), reduction="none").mean(1)
        for main, adversarial in (batch[:2], batch[2:4])
    )
    return _margin(metric, source, target, batch[4:])


def regda(metric: Any, output: Tensor, output_adv: Tensor, weight: Any = None, mode: str = "min") -> Tensor:
    n, k, height, width = output.shape
    labels = torch.zeros_like(output)
    for i in range(n):
        for j in range(k):
            row, column = divmod(int(output[i, j].argmax()), width)
            for y in range(height):
                for x in range(width):
                    distances = torch.tensor([abs(y - row), abs(x - column)], dtype=torch.float64)
                    if distances.max() <= 3 * metric.pseudo_label_generator.sigma:
                        exponent = -distances.square().sum() / (2 * metric.pseudo_label_generator.sigma**2)
                        labels[i, j, y, x] = exponent.exp()
    if mode == "max":
        labels = (labels.sum(1, keepdim=True) - labels).clamp(max=1)
    q = labels.flatten(2) + metric.criterion.epsilon
    q = q / q.sum(2, keepdim=True)
    losses = (torch.special.xlogy(q, q) - q * output_adv.flatten(2).softmax(2).log()).sum(2)
    return reduced(metric.criterion.reduction, losses if weight is None else losses * weight.reshape(n, k))


def osbp(metric: Any, target_logits: Tensor) -> Tensor:
    p = target_logits.softmax(1)[:, -1]
    losses: Tensor = -(metric.t * p.log() + (1 - metric.t) * (1 - p).log())
    return losses.mean()


# the predictions for one domain


def entropy_separation(metric: Any, target_logits: Tensor) -> Tensor:
    """Saito et al. 2020: the distance of the entropy from half of log K, where it exceeds the margin."""
    p = target_logits.softmax(1)
    distances = (-(p * p.log()).sum(1) - math.log(metric.num_known_classes) / 2).abs()
    value: Tensor = -(distances * (distances > metric.margin)).mean()
    return value


def one_versus_all(_: Any, open_logits: Tensor, labels: Tensor) -> Tensor:
    """Saito and Saenko 2021: of its own class, and of the other class with the smallest logarithm."""
    unknown, known = open_logits.softmax(1).log().unbind(1)
    own = torch.zeros_like(known).scatter(1, labels[:, None], 1) > 0
    return -(known[own] + unknown.masked_fill(own, math.inf).amin(1)).mean()


def open_set_entropy(_: Any, open_logits: Tensor) -> Tensor:
    """The same, the entropies of all pairs."""
    p = open_logits.softmax(1)
    return -(p * p.log()).sum(1).mean(1).mean()


def mcc(metric: Any, target_logits: Tensor) -> Tensor:
    """Jin et al. 2020, equations (3) to (7), with the whole matrix."""
    p = (target_logits / metric.temperature).softmax(1)
    certainty = 1 + torch.exp((p * p.log()).sum(1)).detach()
    weights = len(p) * certainty / certainty.sum()
    confusion = p.T @ torch.diag(weights) @ p
    confusion = confusion / confusion.sum(1, keepdim=True)
    off_diagonal: Tensor = confusion.sum() - confusion.trace()
    return off_diagonal / len(confusion)


def entropy(metric: Any, target_logits: Tensor) -> Tensor:
    p = target_logits.softmax(1)
    return reduced(metric.reduction, -(p * p.log()).sum(1))


def information(metric: Any, target_logits: Tensor) -> Tensor:
    p = target_logits.softmax(1)
    mean = by_class(p)
    value: Tensor = -(p * p.log()).sum(1).mean() + metric.diversity_weight * (mean * mean.log()).sum()
    return value


def nuclear_norm(_: Any, target_logits: Tensor) -> Tensor:
    p = target_logits.softmax(1)
    singular_values: Tensor = torch.linalg.svdvals(p)
    value: Tensor = -singular_values.sum() / p.numel() ** 0.5
    return value


def pseudo_label(metric: Any, logits: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
    q = (logits if teacher_logits is None else teacher_logits).softmax(1).detach()
    losses = -logits.softmax(1).gather(1, q.argmax(1, keepdim=True)).squeeze(1).log()
    confident = (q.amax(1) >= metric.threshold).to(q.dtype)
    return reduced(metric.reduction, losses * (confident if metric.weighting == "mask" else confident.mean()))


# students and teachers


def kept(distances: Tensor, mask: Tensor | None) -> Tensor:
    """Distances of samples, or of their positions, where a mask of the one or the other is true."""
    if mask is None:
        return distances
    one_per_sample = mask.numel() == len(distances)
    return distances * mask.reshape(-1, *[1] * (distances.ndim - 1) if one_per_sample else distances.shape[1:])


def consistency(metric: Any, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return reduced(metric.reduction, kept(metric.distance_measure(student, teacher), mask))


def l2_consistency(metric: Any, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return reduced(metric.reduction, kept((student - teacher).square().sum(1), mask))


def virtual_adversarial(metric: Any, inputs: Tensor, logits: Tensor | None = None) -> Tensor:
    """Miyato et al. 2018, equations (5), (6) and (12), from the direction that all samples have in evaluation."""
    p = (metric.model(inputs) if logits is None else logits).softmax(1).detach()

    def divergence(change: Tensor, at: Tensor) -> Tensor:
        value: Tensor = (p * (p / metric.model(at + change).softmax(1)).log()).sum(1).mean()
        return value

    d = metric.directions(inputs[0].numel(), 1, inputs).T.to(inputs).view(1, *inputs.shape[1:]).expand_as(inputs)
    for _ in range(metric.num_iterations):
        gradient = torch.func.grad(divergence)(metric.xi * d, inputs.detach()).detach()
        d = gradient / gradient.flatten(1).norm(dim=1).view(-1, *[1] * (inputs.ndim - 1))
    return divergence(metric.epsilon * d, inputs)


def mutual_information(_: Any, predictions1: Tensor, predictions2: Tensor) -> Tensor:
    """Ji et al. 2019, equation (3) and its code: of the outer products and their transpose, divided by their sum."""
    rows = [p.movedim(1, -1).reshape(-1, p.shape[1]) for p in (predictions1, predictions2)]
    products = torch.einsum("nk,nl->nkl", *rows).mean(0)
    joint = (products + products.T) / 2 / products.sum()
    value: Tensor = -(joint * (joint / torch.outer(joint.sum(1), joint.sum(0))).log()).sum()
    return value


def class_balance(_: Any, predictions: Tensor) -> Tensor:
    p, uniform = by_class(predictions), 1 / predictions.shape[1]
    return -(uniform * p.log() + (1 - uniform) * (1 - p).log()).mean()


# weights


def class_weights(metric: Any, target_logits: Tensor) -> Tensor:
    shares: Tensor = (target_logits / metric.temperature).softmax(1).mean(0)
    return shares / shares[shares.argmax()]


def label_shift(metric: Any, source_logits: Tensor, labels: Tensor, target_logits: Tensor) -> Tensor:
    """By a count of every pair and the shortest solution, or by ten thousand steps of EM; in float64."""
    number = source_logits.shape[1]
    proportions = labels.flatten().bincount(minlength=number).double() / len(labels)
    present = proportions > 0
    ratio = present / proportions.where(present, 1)
    if metric.method == "em":
        q, p = proportions, target_logits.double().softmax(1)
        for _ in range(10_000):
            joint = p * q * ratio
            q = (joint / joint.sum(1, keepdim=True)).mean(0)
        return q * ratio
    confusion = torch.zeros(number, number, dtype=torch.float64)
    for logits, label in zip(source_logits, labels.flatten(), strict=True):
        confusion[logits.argmax(), label] += 1 / len(labels)
    named = target_logits.argmax(1).bincount(minlength=number).double() / len(target_logits)
    solution = torch.linalg.lstsq(confusion, named - confusion.sum(1), driver="gelsd").solution
    weights = (1 + solution).clamp(min=0) * present
    total = proportions @ weights
    return weights / total if total else present.double()


# selection


def importance_weighted(_: Any, losses: Tensor, weights: Tensor) -> Tensor:
    return sum((w * loss for w, loss in zip(weights, losses, strict=True)), torch.zeros(())) / len(losses)


def deep_embedded(_: Any, losses: Tensor, weights: Tensor) -> Tensor:
    """The control variate with its divisor n - 1; one sample has none."""
    weighted_losses = weights * losses
    if len(losses) == 1:
        return weighted_losses.mean()
    covariance = ((weighted_losses - weighted_losses.mean()) * (weights - weights.mean())).sum() / (len(losses) - 1)
    eta = -covariance / weights.var(correction=1)
    return weighted_losses.mean() + eta * (weights.mean() - 1)


def agreement(_: Any, logits: Tensor, ensemble: Tensor | list[Tensor]) -> Tensor:
    """The share, also of dense positions, at which both largest entries are in the same place."""
    if isinstance(ensemble, list):
        ensemble = torch.stack([candidate.softmax(1) for candidate in ensemble]).mean(0)
    same = [int(one.argmax()) == int(other.argmax()) for one, other in zip(_rows(logits), _rows(ensemble), strict=True)]
    return torch.tensor(sum(same) / len(same), dtype=torch.float64)


def _rows(logits: Tensor) -> Tensor:
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


def neighborhood_density(metric: Any, logits: Tensor) -> Tensor:
    """Sample by sample, each compared with the others alone."""
    p = logits.double().softmax(1)
    if len(p) == 1:
        return torch.zeros((), dtype=torch.float64)
    entropies = []
    for i, own in enumerate(p):
        similarities = torch.stack([own @ p[j] / own.norm() / p[j].norm() for j in range(len(p)) if j != i])
        shares = (similarities / metric.temperature).softmax(0)
        entropies.append(torch.special.entr(shares).sum())
    return torch.stack(entropies).mean()


# distance


def domain_accuracy(_: Any, source: Tensor, target: Tensor) -> Tensor:
    right = [float(logit) <= 0 for logit in source.flatten()], [float(logit) > 0 for logit in target.flatten()]
    return torch.tensor(sum(sum(domain) / len(domain) for domain in right) / 2, dtype=torch.float64)


def proxy_a_distance(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    return 2 * (1 - 2 * (1 - domain_accuracy(metric, source, target)))


def unbiased_over_labelings(kernel: Tensor, n: int, labelings: Tensor) -> Tensor:
    """The unbiased estimate of each labeling, a row of which is 1 for the source and 0 for the target."""
    m = len(kernel) - n
    u, w = labelings.to(kernel.dtype), 1 - labelings.to(kernel.dtype)
    apart = kernel - torch.diag(kernel.diagonal())
    source, target, across = ((a @ apart * b).sum(1) for a, b in ((u, u), (w, w), (u, w)))
    return source / (n * (n - 1)) + target / (m * (m - 1)) - 2 * across / (n * m)


def variance_over_labelings(kernel: Tensor, n: int) -> Tensor:
    """E v^2 for labels without replacement, from all patterns that the labels of two, three and four samples make."""
    m = len(kernel) - n
    weight = {"xx": 1 / (n * (n - 1)), "yy": 1 / (m * (m - 1)), "xy": -1 / (n * m), "yx": -1 / (n * m)}

    def falling(number: int, times: int) -> int:
        return math.prod(number - i for i in range(times))

    def mean(samples: int, left: tuple[int, int], right: tuple[int, int]) -> float:
        return math.fsum(
            falling(n, label.count("x"))
            * falling(m, label.count("y"))
            / falling(n + m, samples)
            * math.prod(weight[label[i] + label[j]] for i, j in (left, right))
            for label in map("".join, itertools.product("xy", repeat=samples))
        )

    apart = kernel - torch.diag(kernel.diagonal())
    sums = apart.sum(1)
    total, squares, of_sums = sums.sum(), apart.square().sum(), sums.square().sum()
    return (
        2 * squares * mean(2, (0, 1), (0, 1))
        + 4 * (of_sums - squares) * mean(3, (0, 1), (0, 2))
        + (total.square() - 4 * of_sums + 2 * squares) * mean(4, (0, 1), (2, 3))
    )


def _kernel_of(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    distances = squared_distances(torch.cat([source, target]).double())
    above = distances[torch.triu(torch.ones_like(distances), 1) > 0]
    return gaussians(distances, bandwidth_of(above, metric.bandwidth), metric.num_kernels)


def evidence(metric: Any, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The test of many batches: weighted mean, z-score, normal p-value, Student's interval."""
    kernels = [_kernel_of(metric, *batch) for batch in batches]
    own = [torch.arange(len(kernel)) < len(source) for kernel, (source, _) in zip(kernels, batches, strict=True)]
    values = torch.cat([unbiased_over_labelings(k, int(u.sum()), u[None]) for k, u in zip(kernels, own, strict=True)])
    variances = torch.stack([variance_over_labelings(k, int(u.sum())) for k, u in zip(kernels, own, strict=True)])
    sizes = torch.tensor([len(kernel) for kernel in kernels], dtype=torch.float64)
    mmd = (sizes * values).sum() / sizes.sum()
    z = (sizes * values).sum() / (sizes.square() * variances).sum().sqrt()
    number = len(batches)
    spread = (sizes.square() * (values - mmd).square()).sum() / sizes.sum().square() * number / max(number - 1, 1)
    reach = stats.t.ppf((1 + metric.confidence) / 2, number - 1) * spread.sqrt() if number > 1 else math.inf
    return dict(zip(SCALARS, (mmd, z, 1 - torch.special.ndtr(z), mmd - reach, mmd + reach), strict=True))


def mmd_test(metric: Any, source: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of one batch, or of all samples at once, by random labelings from the seed 0."""
    if not metric.pooled:
        return evidence(metric, [(source, target)])
    n, m, draw = len(source), len(target), torch.Generator().manual_seed(0)
    kernel = _kernel_of(metric, source, target)
    random = [torch.randperm(n + m, generator=draw) for _ in range(metric.num_permutations)]
    labelings = torch.stack(
        [torch.arange(n + m) < n, *(torch.zeros(n + m).index_fill(0, p[:n], 1) > 0 for p in random)]
    )
    values = unbiased_over_labelings(kernel, n, labelings)
    p = (1 + (values[1:] >= values[0] - 1e-5 * values.std()).sum()) / (1 + metric.num_permutations)
    a = [(kernel[i, :n].sum() - 1) / (n - 1) - kernel[i, n:].mean() for i in range(n)]
    b = [(kernel[j, n:].sum() - 1) / (m - 1) - kernel[j, :n].mean() for j in range(n, n + m)]
    error = (4 * (torch.stack(a).var() / n + torch.stack(b).var() / m)).sqrt()
    reach = stats.norm.ppf((1 + metric.confidence) / 2) * error
    z = values[0] / variance_over_labelings(kernel, n).sqrt()
    return dict(zip(SCALARS, (values[0], z, p.double(), values[0] - reach, values[0] + reach), strict=True))


FORMULAS: dict[str, Callable[..., Any]] = {
    "MaximumMeanDiscrepancyLoss": mmd,
    "JointMaximumMeanDiscrepancyLoss": jmmd,
    "LocalMaximumMeanDiscrepancyLoss": lmmd,
    "ContrastiveDomainDiscrepancyLoss": cdd,
    "AdaptiveFeatureNormLoss": feature_norm,
    "SlicedWassersteinLoss": sliced_wasserstein,
    "JointDistributionOptimalTransportLoss": jdot,
    "SinkhornDivergenceLoss": sinkhorn,
    "BatchSpectralPenalizationLoss": bsp,
    "CorrelationAlignmentLoss": coral,
    "FrechetDistanceLoss": frechet,
    "InverseGramAlignmentLoss": inverse_gram,
    "CentralMomentDiscrepancyLoss": cmd,
    "HigherOrderMomentMatchingLoss": homm,
    "RepresentationSubspaceDistanceLoss": subspace,
    "DomainAdversarialLoss": dann,
    "ConditionalDomainAdversarialLoss": cdan,
    "AdversarialDiscriminativeLoss": adda,
    "DomainAdversarialEntropyLoss": advent,
    "WassersteinDomainLoss": wasserstein,
    "NuclearWassersteinDiscrepancyLoss": nuclear_wasserstein,
    "ClassifierDiscrepancyLoss": mcd,
    "MarginalEntropyLoss": marginal_entropy,
    "MarginDisparityDiscrepancy": mdd,
    "ClassificationMarginDisparityDiscrepancy": mdd_of_classifiers,
    "RegressionMarginDisparityDiscrepancy": mdd_of_regressors,
    "RegressionDisparity": regda,
    "UnknownClassBinaryCrossEntropy": osbp,
    "EntropySeparationLoss": entropy_separation,
    "OneVersusAllLoss": one_versus_all,
    "OpenSetEntropyLoss": open_set_entropy,
    "MinimumClassConfusionLoss": mcc,
    "EntropyMinimizationLoss": entropy,
    "InformationMaximizationLoss": information,
    "NuclearNormMaximizationLoss": nuclear_norm,
    "PseudoLabelLoss": pseudo_label,
    "ConsistencyLoss": consistency,
    "L2ConsistencyLoss": l2_consistency,
    "VirtualAdversarialLoss": virtual_adversarial,
    "MutualInformationLoss": mutual_information,
    "ClassBalanceLoss": class_balance,
    "ClassWeightModule": class_weights,
    "LabelShiftWeights": label_shift,
    "ImportanceWeightedValidation": importance_weighted,
    "DeepEmbeddedValidation": deep_embedded,
    "EnsembleAgreement": agreement,
    "SoftNeighborhoodDensity": neighborhood_density,
    "DomainAccuracy": domain_accuracy,
    "MaximumMeanDiscrepancyTest": mmd_test,
    "ProxyADistance": proxy_a_distance,
}
