"""Problems that come with their exact answers, for hypothesis to draw: the numbers to the laws in `test_answers.py`.

The answers are worked out on paper for inputs so simple that every loss has a closed form: point masses, matrices of
known singular values, linear discriminators, two classes. They are float64 throughout. Inputs lie on a coarse grid that
even bfloat16 holds exactly, so that the answer is the same in every dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import adaption
from adaption._metric import AdditiveMetric
from adaption.layers import JointsKLLoss, PseudoLabelGenerator2d

sizes = st.integers(1, 9)
widths = st.integers(1, 5)
generators = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))
single_or_double = st.sampled_from([torch.float32, torch.float64])
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
rules: st.SearchStrategy[str | float] = st.sampled_from(["median", "mean"]) | st.sampled_from([0.5, 3.0])
reductions = st.sampled_from(["mean", "sum", "none"])


@dataclass(frozen=True)
class Problem:
    """A question to a loss, and the answer.

    Args:
        metric: the loss, in float64 if the batch is.
        batch: the arguments of its `update`.
        answer: its value, float64.
        gradients: those of the sum of the values by the arguments at these positions.
    """

    metric: AdditiveMetric
    batch: tuple[Any, ...]
    answer: Tensor
    gradients: dict[int, Tensor] = field(default_factory=dict)


def asked(metric: AdditiveMetric, dtype: torch.dtype, batch: tuple[Any, ...], *answers: Any) -> Problem:
    """The problem in a dtype, from its float64 form."""
    if dtype == torch.float64:
        metric.double()
    batch = tuple(item.to(dtype) if isinstance(item, Tensor) and item.is_floating_point() else item for item in batch)
    return Problem(metric, batch, *answers)


def grid(generator: torch.Generator, *shape: int) -> Tensor:
    """Multiples of 1/8 between -4 and 4."""
    return torch.randint(-32, 33, shape, generator=generator).double() / 8


def shares(generator: torch.Generator, *shape: int) -> Tensor:
    """Probabilities in sixteenths, neither 0 nor 1."""
    return torch.randint(1, 16, shape, generator=generator).double() / 16


def both(p: Tensor) -> Tensor:
    """The probabilities of two classes, from that of the second one."""
    return torch.stack([1 - p, p], dim=1)


def softplus(z: Tensor) -> Tensor:
    """log(1 + e^z): the cross entropy of logit z if the answer is 0, and of -z if it is 1."""
    return torch.logaddexp(z, torch.zeros_like(z))


def reduced(reduction: str, source: Tensor, target: Tensor) -> Tensor:
    """Losses of both domains, put together as the conventions of the library have it."""
    if reduction == "mean":
        return source.mean() + target.mean()
    return source + target if reduction == "none" else source.sum() + target.sum()


# --- point masses ---------------------------------------------------------------------------------------------------


def kernel(squares: Tensor, num_kernels: int) -> Tensor:
    """The mean of the Gaussians of squared distances in units of the bandwidth."""
    scales = [2.0 ** (i - num_kernels // 2) for i in range(num_kernels)]
    return torch.stack([(-scale * squares).exp() for scale in scales]).mean(0)


def slope(square: Tensor, num_kernels: int) -> Tensor:
    """The negative derivative of `kernel`."""
    scales = [2.0 ** (i - num_kernels // 2) for i in range(num_kernels)]
    return torch.stack([scale * (-scale * square).exp() for scale in scales]).mean(0)


def scale_of_two_points(rule: str, within: int, between: int) -> float:
    """Return the bandwidth where `within` distances are 0 and `between` are all the same, in units of the latter.

    The lower middle one of the sorted distances is one of the latter if these are in the majority. Where it is not, the
    median is 0 and the mean takes its place.
    """
    every = within + between
    return 1.0 if rule == "median" and (every - 1) // 2 >= within else between / every


def pairs(n: int, m: int, estimator: str) -> tuple[int, int]:
    """How many of the distances that the bandwidth looks at lie within a domain, and how many between the two."""
    if estimator == "linear":
        return 2 * (n // 2), 2 * (n // 2)
    return math.comb(n, 2) + math.comb(m, 2), n * m


@st.composite
def point_masses(draw: st.DrawFn) -> Problem:
    """All source samples at one point, all target samples at another: 2 - 2 k, whatever the estimate and the weights.

    Each source sample is pulled along the line between the points, by its share of the derivative of k.
    """
    generator, dtype, d = draw(generators), draw(dtypes), draw(widths)
    estimator = draw(st.sampled_from(["biased", "unbiased", "linear"]))
    n = draw(sizes) + (estimator != "biased")
    m = n if estimator == "linear" else draw(sizes) + (estimator != "biased")
    left, right = grid(generator, d), grid(generator, d)
    left[0] = right[0] + 0.25 * draw(st.sampled_from([-8, -1, 1, 3]))
    square = (left - right).square().sum()
    num_kernels, rule = draw(st.integers(1, 6)), draw(rules)
    bandwidth = float(square) * rule if isinstance(rule, float) else rule
    scale = rule if isinstance(rule, float) else scale_of_two_points(rule, *pairs(n, m, estimator))
    batch: tuple[Tensor, ...] = left.expand(n, d), right.expand(m, d)
    portions = torch.full((n,), 1 / n, dtype=torch.float64)
    if estimator == "biased" and draw(st.booleans()):
        weights = shares(generator, n), shares(generator, m)
        batch, portions = (*batch, *weights), weights[0] / weights[0].sum()
    elif estimator == "linear" and n % 2:
        portions = torch.cat([portions[1:] * n / (n - 1), portions[:1] * 0])  # the odd last sample is dropped
    metric = adaption.MaximumMeanDiscrepancyLoss(
        num_kernels, bandwidth=bandwidth, estimator=estimator, pooled=draw(st.booleans())
    )
    inverse = torch.tensor(1 / scale, dtype=torch.float64)
    answer = 2 - 2 * kernel(inverse, num_kernels)
    pull = 4 * slope(inverse, num_kernels) / (scale * square) * (left - right)
    # a bandwidth that comes from the data moves with single pairs, and has a gradient of its own
    gradients = {0: portions[:, None] * pull} if isinstance(rule, float) else {}
    return asked(metric, dtype, batch, answer, gradients)


@st.composite
def mixtures_of_points(draw: st.DrawFn) -> Problem:
    """Domains that share their points, in other shares p and q: (p - q)' K (p - q)."""
    generator, dtype, d, points = draw(generators), draw(dtypes), draw(widths), draw(st.integers(1, 4))
    places = grid(generator, points, d)
    members = [torch.randint(points, (draw(sizes),), generator=generator) for _ in range(2)]
    weights = [shares(generator, len(member)) for member in members]
    if not draw(st.booleans()):
        weights = [torch.ones_like(weight) for weight in weights]
    p, q = (
        torch.zeros(points, dtype=torch.float64).index_add(0, member, weight / weight.sum())
        for member, weight in zip(members, weights, strict=True)
    )
    num_kernels, bandwidth = draw(st.integers(1, 6)), draw(st.sampled_from([0.3, 2.0, 50.0]))
    squares = (places[:, None] - places).square().sum(-1)
    answer = (p - q) @ kernel(squares / bandwidth, num_kernels) @ (p - q)
    metric = adaption.MaximumMeanDiscrepancyLoss(num_kernels, bandwidth=bandwidth, pooled=draw(st.booleans()))
    return asked(metric, dtype, (*(places[member] for member in members), *weights), answer)


@st.composite
def classes_at_points(draw: st.DrawFn) -> Problem:
    """LMMD with each class at a point of its own in either domain: the mean of 2 - 2 k over the classes of both."""
    generator, dtype, d, c = draw(generators), draw(dtypes), draw(widths), draw(st.integers(2, 4))
    num_kernels, bandwidth = draw(st.integers(1, 6)), draw(st.sampled_from([0.3, 2.0, 50.0]))
    places = grid(generator, 2, c, d)
    labels, likely = (torch.randint(c, (draw(sizes),), generator=generator) for _ in range(2))
    common = sorted({*labels.tolist()} & {*likely.tolist()})
    squares = (places[0] - places[1]).square().sum(1)[common]
    answers = 2 - 2 * kernel(squares / bandwidth, num_kernels)
    answer = answers.mean() if common else torch.zeros((), dtype=torch.float64)
    logits = 2000 * torch.eye(c, dtype=torch.float64)[likely] - 1000
    metric = adaption.LocalMaximumMeanDiscrepancyLoss(num_kernels, bandwidth=bandwidth)
    return asked(metric, dtype, (places[0][labels], labels, places[1][likely], logits), answer)


@st.composite
def known_lengths(draw: st.DrawFn) -> Problem:
    """AFN of samples on the axes, whose norms are their entries: 2 step^2, or both squares of the way to a radius."""
    generator, dtype, d = draw(generators), draw(dtypes), draw(widths)
    step, radius = draw(st.sampled_from([0.5, 2.0])), draw(st.sampled_from([None, 3.0]))
    batch, gradients, answer = [], {}, torch.zeros((), dtype=torch.float64)
    for position in range(2):
        n = draw(sizes)
        axes = torch.eye(d, dtype=torch.float64)[torch.randint(d, (n,), generator=generator)]
        lengths = shares(generator, n) * 4 * (1 - 2 * torch.randint(2, (n,), generator=generator))
        batch.append(lengths[:, None] * axes)
        short = step if radius is None else radius - lengths.abs().mean()
        gradients[position] = -2 / n * short * lengths.sign()[:, None] * axes
        answer = answer + short**2
    metric = adaption.AdaptiveFeatureNormLoss(step, radius=radius)
    return asked(metric, dtype, tuple(batch), answer, gradients)


@st.composite
def single_pairs(draw: st.DrawFn) -> Problem:
    """JDOT of one sample each, with two classes: a |s - t|^2 + b softplus of the margin against the label.

    Where sums of rows and columns are soft, the share e^(-1 / (r + 2 t)) of it, as of any single cost.
    """
    generator, dtype, d = draw(generators), draw(dtypes), draw(widths)
    features, labels = draw(st.sampled_from([0.0, 0.5])), draw(st.sampled_from([0.5, 2.0]))
    penalty = draw(st.sampled_from([None, 0.5, 4.0]))
    source, target, margin = grid(generator, 1, d), grid(generator, 1, d), grid(generator, 1)
    label = draw(st.sampled_from([0, 1]))
    share = 1.0 if penalty is None else math.exp(-1 / (0.5 + 2 * penalty))
    against = margin if label == 0 else -margin
    answer = share * (features * (source - target).square().sum() + labels * softplus(against).sum())
    slope = share * labels * against.sigmoid() * (1 if label == 0 else -1)
    logits = torch.stack([torch.zeros_like(margin), margin], dim=1) - 8
    metric = adaption.JointDistributionOptimalTransportLoss(
        features, labels, regularization=0.5, marginal_penalty=penalty, max_iters=500
    )
    gradients = {0: 2 * share * features * (source - target), 3: torch.stack([-slope, slope], dim=1)}
    return asked(metric, dtype, (source, torch.tensor([label]), target, logits), answer, gradients)


@st.composite
def translations(draw: st.DrawFn) -> Problem:
    """Sinkhorn of a batch and itself moved by s, at any regularisation: |s|^2, which pulls by -2 w s.

    In |x - y - s|^2 = |x - y|^2 - 2 s'(x - y) + |s|^2 the second term is 0 on average, for plans of equal margins.
    """
    generator, dtype, d, n = draw(generators), draw(dtypes), draw(widths), draw(sizes)
    source, shift = grid(generator, n, d), grid(generator, d)
    weights = shares(generator, n)
    metric = adaption.SinkhornDivergenceLoss(regularization=draw(st.sampled_from([2.0, 20.0])), max_iters=500)
    portions = weights / weights.sum()
    pull = -2 * portions[:, None] * shift
    return asked(metric, dtype, (source, source + shift, weights, weights), shift.square().sum(), {0: pull})


@st.composite
def joint_point_masses(draw: st.DrawFn) -> Problem:
    """Two points in every layer, k of each layer multiplied: 2 - 2 k1 k2 .."""
    generator, estimator = draw(generators), draw(st.sampled_from(["biased", "unbiased"]))
    n, m = (draw(sizes) + (estimator != "biased") for _ in range(2))
    num_kernels, rule = draw(st.integers(1, 4)), draw(st.sampled_from(["median", "mean"]))
    source, target = [], []
    k = torch.ones((), dtype=torch.float64)
    for d in draw(st.lists(widths, min_size=1, max_size=3)):
        left, right = grid(generator, d), grid(generator, d)
        left[0] = right[0] + 0.5
        source.append(left.expand(n, d).float())
        target.append(right.expand(m, d).float())
        inverse = torch.tensor(1 / scale_of_two_points(rule, *pairs(n, m, estimator)), dtype=torch.float64)
        k = k * kernel(inverse, num_kernels)
    metric = adaption.JointMaximumMeanDiscrepancyLoss(num_kernels, bandwidth=rule, estimator=estimator)
    return asked(metric, torch.float32, (source, target), 2 - 2 * k)


# --- matrices of known singular values ------------------------------------------------------------------------------


@st.composite
def orthogonal(draw: st.DrawFn, size: st.SearchStrategy[int] = widths) -> Tensor:
    """Rotations, reflections and permutations of the axes."""
    width = draw(size)
    generator = draw(generators)
    if draw(st.booleans()):
        return torch.eye(width, dtype=torch.float64)[torch.randperm(width, generator=generator)]
    basis: Tensor = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    return basis


@st.composite
def known_spectra(draw: st.DrawFn) -> Problem:
    """Features U diag(s) V': the sum of the k largest squares of s, in each domain, with gradient 2 s u v' of those.

    Where values coincide at the cut the gradient is any of several, and so is not asked for.
    """
    dtype, d, k = draw(single_or_double), draw(widths), draw(st.integers(1, 6))
    answer, batch, gradients = torch.zeros((), dtype=torch.float64), [], {}
    for position in range(2):
        rows = draw(sizes)
        rank = min(rows, d)
        values = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 40.0]), min_size=rank, max_size=rank))
        s = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
        u, v = draw(orthogonal(st.just(rows)))[:, :rank], draw(orthogonal(st.just(d)))[:, :rank]
        batch.append((u * s) @ v.T)
        answer = answer + s[:k].square().sum()
        if k >= rank or s[k - 1] > s[k] or s[k] == 0:
            gradients[position] = 2 * (u[:, :k] * s[:k]) @ v[:, :k].T
    return asked(adaption.BatchSpectralPenalizationLoss(k), dtype, tuple(batch), answer, gradients)


# --- linear discriminators ------------------------------------------------------------------------------------------


def linear_layer(generator: torch.Generator, width: int) -> nn.Linear:
    layer = nn.Linear(width, 1)
    with torch.no_grad():
        layer.weight.copy_(grid(generator, 1, width))
        layer.bias.copy_(grid(generator, 1))
    return layer


@st.composite
def linear_discriminators(draw: st.DrawFn) -> Problem:
    """Logits z = w'x + b: the mean of log(1 + e^z) over the source and of log(1 + e^-z) over the target, halved.

    The reversed gradient of a source sample is -sigma(z) w / 2n.
    """
    generator, dtype, d, reduction, n = draw(generators), draw(dtypes), draw(widths), draw(reductions), draw(sizes)
    m = draw(sizes) if reduction == "mean" else n
    disc = linear_layer(generator, d)
    w, b = disc.weight.detach().double().flatten(), disc.bias.detach().double()
    source, target = grid(generator, n, d), grid(generator, m, d)
    batch: tuple[Tensor, ...] = source, target
    z_source, z_target = source @ w + b, target @ w + b
    weights = torch.ones(n, dtype=torch.float64), torch.ones(m, dtype=torch.float64)
    if draw(st.booleans()):
        weights = shares(generator, n), shares(generator, m)
        batch = (*batch, *weights)
    answer = reduced(reduction, weights[0] * softplus(z_source) / 2, weights[1] * softplus(-z_target) / 2)
    pull = -(weights[0] * z_source.sigmoid() / 2)[:, None] * w / (n if reduction == "mean" else 1)
    return asked(adaption.DomainAdversarialLoss(disc, reduction), dtype, batch, answer, {0: pull})


@st.composite
def domain_logits(draw: st.DrawFn) -> Problem:
    """ADDA: the mean of log(1 + e^z) for the source, of log(1 + e^-z) for the target."""
    label, dtype = draw(st.sampled_from(["source", "target"])), draw(dtypes)
    z = 8 * grid(draw(generators), draw(sizes))
    sign = 1 if label == "source" else -1
    gradient = sign * (sign * z).sigmoid() / len(z)
    return asked(adaption.AdversarialDiscriminativeLoss(), dtype, (z, label), softplus(sign * z).mean(), {0: gradient})


@st.composite
def two_conditions(draw: st.DrawFn) -> Problem:
    """CDAN with two classes and a linear discriminator: z = (1 - p) w0'f + p w1'f + b, with p = sigma of the margin.

    A sample of entropy H weighs 1 + e^-H.
    """
    generator, dtype, d, n = draw(generators), draw(dtypes), draw(widths), draw(sizes)
    conditioned, reduction = draw(st.booleans()), draw(reductions)
    m = draw(sizes) if reduction == "mean" else n
    disc = linear_layer(generator, 2 * d)
    w, b = disc.weight.detach().double().view(2, d), disc.bias.detach().double()
    batch: tuple[Tensor, ...] = ()
    losses, weights = [], []
    for sign, rows in ((1, n), (-1, m)):
        logits, features = grid(generator, rows, 2), grid(generator, rows, d)
        margin = logits[:, 1] - logits[:, 0]
        p = margin.sigmoid()
        z = (1 - p) * (features @ w[0]) + p * (features @ w[1]) + b
        entropy = p * softplus(-margin) + (1 - p) * softplus(margin)
        batch = (*batch, logits, features)
        losses.append(softplus(sign * z))
        weights.append(1 + (-entropy).exp())
    if conditioned:
        weighted = [loss * weight for loss, weight in zip(losses, weights, strict=True)]
        total = weights[0].sum() + weights[1].sum()
        if reduction == "none":
            answer = n * (weighted[0] + weighted[1]) / total
        else:
            answer = (weighted[0].sum() + weighted[1].sum()) / total * (n if reduction == "sum" else 1)
    else:
        answer = reduced(reduction, losses[0] / 2, losses[1] / 2)
    metric = adaption.ConditionalDomainAdversarialLoss(disc, conditioned, reduction=reduction)
    return asked(metric, dtype, batch, answer)


@st.composite
def two_entropies(draw: st.DrawFn) -> Problem:
    """ADVENT with two classes and a discriminator that adds the entropy map up: z = w (H(p) - c), H in bits."""
    generator, label, dtype = draw(generators), draw(st.sampled_from(["source", "target"])), draw(single_or_double)
    n, h, w = draw(sizes), draw(widths), draw(widths)
    margin = grid(generator, n, h, w)
    p = margin.sigmoid()
    entropy = (p * softplus(-margin) + (1 - p) * softplus(margin)) / math.log(2)
    shift = grid(generator, n, h, w)
    steepness = draw(st.sampled_from([-3.0, 1.0, 8.0]))
    z = steepness * (entropy - 0.5)
    metric = adaption.DomainAdversarialEntropyLoss(lambda maps: steepness * (maps.sum(1, keepdim=True) - 0.5))
    answer = softplus(z if label == "source" else -z).mean()
    return asked(metric, dtype, (torch.stack([shift, shift + margin], dim=1), label), answer)


# --- two classes ----------------------------------------------------------------------------------------------------


@st.composite
def two_heads(draw: st.DrawFn) -> Problem:
    """MDD with two classes: with o the adversarial margin of the main head's class, log sigma(o) and log sigma(-o).

    Its gradient by a source sample's logit of that class is gamma sigma(-o) / n.
    """
    generator, dtype, reduction, n = draw(generators), draw(dtypes), draw(reductions), draw(sizes)
    gamma, m = draw(st.sampled_from([0.5, 4.0])), draw(sizes) if reduction == "mean" else n
    batch, margins = [], []
    labels = [torch.randint(2, (rows,), generator=generator) for rows in (n, m)]
    for label in labels:
        adversarial = grid(generator, len(label), 2)
        main = grid(generator, len(label), 1) + torch.eye(2, dtype=torch.float64)[label]
        batch += [main, adversarial]
        margins.append((2 * label - 1) * (adversarial[:, 1] - adversarial[:, 0]))
    weights = [torch.ones(rows, dtype=torch.float64) for rows in (n, m)]
    if draw(st.booleans()):
        weights = [shares(generator, rows) for rows in (n, m)]
        batch += weights
    losses = gamma * weights[0] * -softplus(-margins[0]), weights[1] * -softplus(margins[1])
    pull = gamma * weights[0] * (-margins[0]).sigmoid() / (n if reduction == "mean" else 1)
    signs = 2 * torch.eye(2, dtype=torch.float64)[labels[0]] - 1
    metric = adaption.ClassificationMarginDisparityDiscrepancy(gamma, reduction)
    return asked(metric, dtype, tuple(batch), reduced(reduction, *losses), {1: pull[:, None] * signs})


@st.composite
def two_regressors(draw: st.DrawFn) -> Problem:
    """MDD of outputs that lie a known distance apart: -gamma times that of the source, plus that of the target."""
    generator, dtype, d = draw(generators), draw(dtypes), draw(widths)
    gamma, batch, distances = draw(st.sampled_from([0.5, 4.0])), [], []
    for _ in range(2):
        main, difference = grid(generator, draw(sizes), d), draw(st.sampled_from([0.0, 0.5, -2.0]))
        batch += [main, main + difference]
        distances.append(abs(difference))
    metric = adaption.RegressionMarginDisparityDiscrepancy(gamma)
    answer = torch.tensor(distances[1] - gamma * distances[0], dtype=torch.float64)
    return asked(metric, dtype, tuple(batch), answer)


@st.composite
def two_opinions(draw: st.DrawFn) -> Problem:
    """MCD with two classes: both probabilities differ by |p - q|."""
    generator, dtype, n = draw(generators), draw(dtypes), draw(sizes)
    p, q = shares(generator, n), shares(generator, n)
    gradient = torch.stack([(q - p).sign(), (p - q).sign()], dim=1) / (2 * n)
    batch = both(p), both(q)
    return asked(adaption.ClassifierDiscrepancyLoss(), dtype, batch, (p - q).abs().mean(), {0: gradient})


@st.composite
def student_and_teacher(draw: st.DrawFn) -> Problem:
    """The squared distance of two classes is 2 (p - q)^2, and its derivative by each probability 2 (p - q)."""
    generator, dtype, n, reduction = draw(generators), draw(dtypes), draw(sizes), draw(reductions)
    p, q = shares(generator, n), shares(generator, n)
    mask = torch.randint(2, (n,), generator=generator).bool()
    losses = mask * 2 * (p - q).square()
    answer = losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    gradient = 2 * mask[:, None] * (both(p) - both(q)) / (n if reduction == "mean" else 1)
    return asked(adaption.L2ConsistencyLoss(reduction), dtype, (both(p), both(q), mask), answer, {0: gradient})


@st.composite
def two_frequencies(draw: st.DrawFn) -> Problem:
    """Of two classes, class balance and marginal entropy are both -(log p + log(1 - p)) / 2 of the mean p."""
    dtype, n = draw(dtypes), draw(sizes)
    p = shares(draw(generators), n)
    mean = p.mean()
    answer = -(mean.log() + (1 - mean).log()) / 2
    metric = adaption.ClassBalanceLoss(2) if draw(st.booleans()) else adaption.MarginalEntropyLoss()
    return asked(metric, dtype, (both(p),), answer)


@st.composite
def unknown_class(draw: st.DrawFn) -> Problem:
    """OSBP with c known classes of one logit: against all of them together, "unknown" is log c less likely."""
    generator, dtype, n, c = draw(generators), draw(dtypes), draw(sizes), draw(st.integers(1, 6))
    t = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    known, unknown = grid(generator, n), grid(generator, n)
    odds = unknown - known - math.log(c)
    logits = torch.cat([known[:, None].expand(n, c), unknown[:, None]], dim=1)
    answer = (t * softplus(-odds) + (1 - t) * softplus(odds)).mean()
    gradient = (odds.sigmoid() - t)[:, None] * torch.tensor([-1 / c] * c + [1], dtype=torch.float64) / n
    logits = logits + 8  # a batch that may be one of probabilities is refused
    return asked(adaption.UnknownClassBinaryCrossEntropy(t), dtype, (logits,), answer, {0: gradient})


@st.composite
def separated_entropies(draw: st.DrawFn) -> Problem:
    """DANCE of two classes: H and its derivative as in `entropies_of_two_classes`, and log(2) / 2 in the middle."""
    generator, dtype, n = draw(generators), draw(dtypes), draw(sizes)
    margin = draw(st.sampled_from([0.1, 0.2, 0.3]))
    z, shift = grid(generator, n), grid(generator, n) - 8
    p = z.sigmoid()
    apart = p * softplus(-z) + (1 - p) * softplus(z) - math.log(2) / 2
    moved = apart.abs() > margin
    slope = moved * apart.sign() * z * p * (1 - p) / n
    logits = torch.stack([shift, shift + z], dim=1)
    gradient = torch.stack([-slope, slope], dim=1)
    metric = adaption.EntropySeparationLoss(2, margin=margin)
    return asked(metric, dtype, (logits,), -(moved * apart.abs()).mean(), {0: gradient})


@st.composite
def hardest_of_the_others(draw: st.DrawFn) -> Problem:
    """OVANet on the source: odds of the own class, of the hardest other one, and lower ones of the rest."""
    generator, dtype, n, c = draw(generators), draw(dtypes), draw(sizes), draw(st.integers(2, 5))
    own, hardest = grid(generator, n), grid(generator, n)
    odds = hardest[:, None] - torch.arange(c - 1)
    odds = torch.cat([own[:, None], odds], dim=1)
    slope = torch.zeros_like(odds)
    slope[:, 0], slope[:, 1] = own.sigmoid() - 1, hardest.sigmoid()
    labels = torch.randint(c, (n,), generator=generator)
    order = (torch.arange(c) - labels[:, None]) % c  # the class of the sample has the first odds, the next the second
    odds, slope = odds.gather(1, order), slope.gather(1, order) / n
    shift = grid(generator, n, c) - 8
    pairs, gradient = torch.stack([shift, shift + odds], dim=1), torch.stack([-slope, slope], dim=1)
    answer = (softplus(-own) + softplus(hardest)).mean()
    return asked(adaption.OneVersusAllLoss(), dtype, (pairs, labels), answer, {0: gradient})


@st.composite
def entropies_of_pairs(draw: st.DrawFn) -> Problem:
    """OVANet on the target: the entropies of two classes, for each class of the source."""
    generator, dtype, n, c = draw(generators), draw(dtypes), draw(sizes), draw(st.integers(2, 5))
    odds, shift = grid(generator, n, c), grid(generator, n, c) - 8
    p = odds.sigmoid()
    answer = (p * softplus(-odds) + (1 - p) * softplus(odds)).mean()
    slope = -odds * p * (1 - p) / (n * c)
    pairs, gradient = torch.stack([shift, shift + odds], dim=1), torch.stack([-slope, slope], dim=1)
    return asked(adaption.OpenSetEntropyLoss(), dtype, (pairs,), answer, {0: gradient})


@st.composite
def mirrored_pairs(draw: st.DrawFn) -> Problem:
    """MCC of pairs of samples with probabilities (a, 1 - a) and (1 - a, a): 2 a (1 - a), for all weigh the same.

    With a = sigma(z / T) for the margin z, the derivative by z is 2 a (1 - a) (1 - 2 a) / T. The samples share it, half
    of it for each logit that the margin moves by a half.
    """
    generator, dtype, pairs = draw(generators), draw(dtypes), draw(sizes)
    temperature, margin = draw(st.sampled_from([0.5, 1.0, 2.5])), draw(st.sampled_from([-3.0, -0.5, 0.0, 1.0, 4.0]))
    a = torch.tensor(margin / temperature, dtype=torch.float64).sigmoid()
    signs = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).repeat(pairs, 1)
    logits = margin * signs + grid(generator, 2 * pairs, 1)
    logits = logits - 8  # a batch that may be one of probabilities is refused
    slope = 2 * a * (1 - a) * (1 - 2 * a) / temperature  # of the value by the margin
    gradient = slope * (signs - 0.5) / pairs
    metric = adaption.MinimumClassConfusionLoss(temperature)
    return asked(metric, dtype, (logits,), 2 * a * (1 - a), {0: gradient})


@st.composite
def entropies_of_two_classes(draw: st.DrawFn) -> Problem:
    """H = p softplus(-z) + (1 - p) softplus(z) with p = sigma(z), and its derivative by z is -z p (1 - p)."""
    generator, dtype, n, reduction = draw(generators), draw(dtypes), draw(sizes), draw(reductions)
    z, shift = grid(generator, n), grid(generator, n) - 8
    p = z.sigmoid()
    losses = p * softplus(-z) + (1 - p) * softplus(z)
    answer = losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    slope = -z * p * (1 - p) / (n if reduction == "mean" else 1)
    logits = torch.stack([shift, shift + z], dim=1)
    metric = adaption.EntropyMinimizationLoss(reduction)
    return asked(metric, dtype, (logits,), answer, {0: torch.stack([-slope, slope], dim=1)})


@st.composite
def information_of_two_classes(draw: st.DrawFn) -> Problem:
    """The mean of the entropies less w times that of the mean p, whose derivative by p is -log(p / (1 - p))."""
    generator, dtype, n, weight = draw(generators), draw(dtypes), draw(sizes), draw(st.sampled_from([0.0, 0.5, 1.0]))
    z, shift = grid(generator, n), grid(generator, n) - 8
    p = z.sigmoid()
    mean = p.mean()
    diversity = torch.special.entr(mean) + torch.special.entr(1 - mean)
    answer = (p * softplus(-z) + (1 - p) * softplus(z)).mean() - weight * diversity
    slope = p * (1 - p) * (weight * (mean / (1 - mean)).log() - z) / n
    logits = torch.stack([shift, shift + z], dim=1)
    metric = adaption.InformationMaximizationLoss(weight)
    return asked(metric, dtype, (logits,), answer, {0: torch.stack([-slope, slope], dim=1)})


@st.composite
def certain_samples(draw: st.DrawFn) -> Problem:
    """Certain predictions: the singular values are the roots of the numbers of samples of each class."""
    dtype, c = draw(dtypes), draw(st.integers(2, 6))
    counts = draw(st.lists(st.integers(0, 4), min_size=c, max_size=c).filter(any))
    labels = torch.arange(c).repeat_interleave(torch.tensor(counts))
    logits = 2000 * torch.eye(c, dtype=torch.float64)[labels[torch.randperm(len(labels), generator=draw(generators))]]
    answer = -torch.tensor(counts).double().sqrt().sum() / (len(labels) * c) ** 0.5
    zero = torch.zeros_like(logits)
    return asked(adaption.NuclearNormMaximizationLoss(), dtype, (logits - 1000,), answer, {0: zero})


@st.composite
def labels_of_a_teacher(draw: st.DrawFn) -> Problem:
    """Pseudo labels of two classes: softplus(-z) or softplus(z), where the teacher's margin says so.

    A margin of 2 is a confidence of 0.88, and of 3 one of 0.95.
    """
    generator, dtype, n, reduction = draw(generators), draw(dtypes), draw(sizes), draw(reductions)
    weighting = draw(st.sampled_from(["mask", "share"]))
    z, shift = grid(generator, n), grid(generator, n) - 8
    taught = torch.randint(-3, 3, (n,), generator=generator).double() + 0.5
    signs = taught.sign()
    confident = (taught.abs() > 2).double()  # 2.5 and no less: 0.92
    factors = confident if weighting == "mask" else confident.mean().expand(n)
    losses = factors * softplus(-signs * z)
    answer = losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    slope = -signs * factors * (-signs * z).sigmoid() / (n if reduction == "mean" else 1)
    batch = (
        torch.stack([shift, shift + z], dim=1),
        torch.stack([taught - 8, torch.full_like(taught, -8)], dim=1).flip(1),
    )
    metric = adaption.PseudoLabelLoss(0.9, weighting=weighting, reduction=reduction)
    return asked(metric, dtype, batch, answer, {0: torch.stack([-slope, slope], dim=1)})


@st.composite
def two_classes_of_the_target(draw: st.DrawFn) -> Problem:
    """PADA with two classes: the means of sigma(-a / T) and sigma(a / T), in units of the larger one."""
    generator, dtype, m = draw(generators), draw(dtypes), draw(sizes)
    temperature = draw(st.sampled_from([0.25, 1.0, 4.0]))
    logits = grid(generator, m, 2)
    p = ((logits[:, 1] - logits[:, 0]) / temperature).sigmoid()
    frequencies = both(p).mean(0)
    return asked(adaption.ClassWeightModule(temperature), dtype, (logits,), frequencies / frequencies.max())


@st.composite
def agreeing_heatmaps(draw: st.DrawFn) -> Problem:
    """RegDA where the adversarial head already says what the main head says: the divergence is 0."""
    generator, n, joints, epsilon = draw(generators), draw(sizes), draw(st.integers(1, 3)), 1e-3
    main = torch.randn(n, joints, 8, 7, generator=generator)
    labels = PseudoLabelGenerator2d(joints, 8, 7, 1)
    truth, _ = labels(main)
    metric = adaption.RegressionDisparity(labels, JointsKLLoss(epsilon=epsilon))
    adversarial = (truth + epsilon).log() + draw(st.sampled_from([-2.0, 0.0, 30.0]))
    zero = torch.zeros((), dtype=torch.float64)
    return asked(metric, torch.float32, (main, adversarial), zero, {1: torch.zeros_like(main).double()})


PROBLEMS: dict[str, st.SearchStrategy[Problem]] = {
    make.__name__: make()
    for make in (
        point_masses,
        mixtures_of_points,
        classes_at_points,
        known_lengths,
        single_pairs,
        translations,
        joint_point_masses,
        known_spectra,
        linear_discriminators,
        domain_logits,
        two_conditions,
        two_entropies,
        two_heads,
        two_regressors,
        two_opinions,
        student_and_teacher,
        two_frequencies,
        unknown_class,
        separated_entropies,
        hardest_of_the_others,
        entropies_of_pairs,
        mirrored_pairs,
        entropies_of_two_classes,
        information_of_two_classes,
        certain_samples,
        labels_of_a_teacher,
        two_classes_of_the_target,
        agreeing_heatmaps,
    )
}
