"""The edges: what goes in, and what must come out.

An edge is a function of a row of `cases.py`. It asserts the law that its docstring states, and returns what the cell of
the table says. `page.py` writes the table; `test_edges.py` compares it with the page of the documentation.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import (
    CLASSES,
    PER_CLASS,
    WIDTH,
    Case,
    cast,
    layers,
    looked_at,
    masked_predictions,
    predictions,
    seeded,
    tensors,
    tree_map,
    two_predictions,
    where_looked_at,
    with_gradient,
)
from edges.outcome import Batch, Outcome, close, gradient, outcome, same, told, vanishes
from torch import Tensor, nn

import adaption
from adaption import functional
from adaption.features._moments import MomentsMetric
from adaption.layers import DomainDiscriminator

N = 4
FINITE = "finite"
LOG_TINY = -math.log(torch.finfo(torch.float32).tiny)  # what a class that no sample is given counts


@dataclass(frozen=True)
class Edge:
    """A column of the table."""

    name: str
    group: str
    law: str
    cell: Callable[[Case], str]


class NotApplicableError(Exception):
    """The edge does not exist for a loss, and why."""


EDGES: list[Edge] = []


def edge(name: str, group: str) -> Callable[[Callable[[Case], str]], Callable[[Case], str]]:
    """Enter a function as a column of the table."""

    def enter(function: Callable[[Case], str]) -> Callable[[Case], str]:
        EDGES.append(Edge(name, group, " ".join((inspect.getdoc(function) or "").split()), function))
        return function

    return enter


@functools.cache
def cell(case: Case, column: Edge) -> tuple[str, str]:
    """What the table says of a loss at an edge, and the sentence that belongs to it: an error, or a reason."""
    torch.manual_seed(0)
    try:
        return column.cell(case), ""
    except NotApplicableError as reason:
        return "-", str(reason)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error)


def needs(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotApplicableError(otherwise)


def setting(case: Case, name: str) -> Any:
    return getattr(case.build(), name, None)


def by_name(case: Case, batch: Batch) -> dict[str, Any]:
    """A batch by the names of the arguments of `update`."""
    return dict(zip(case.build()._update_signature.parameters, batch, strict=False))


def trains(case: Case) -> bool:
    return bool(setting(case, "is_differentiable"))


def is_kernel(case: Case) -> bool:
    return setting(case, "bandwidth") is not None


def is_conditional(case: Case) -> bool:
    """Whether the loss looks at the classes of both domains, beside their features."""
    return "source_labels" in case.build()._update_signature.parameters


def compares_moments(case: Case) -> bool:
    """Whether the loss is a distance between the moments of both domains."""
    return isinstance(case.build(), MomentsMetric)


def is_adversarial(case: Case) -> bool:
    """Whether the loss asks a discriminator behind a gradient reversal about both domains."""
    return setting(case, "grl") is not None and setting(case, "domain_disc") is not None


def takes_probabilities(case: Case) -> bool:
    return case.batch in (predictions, two_predictions, masked_predictions)


def two_domains(case: Case) -> bool:
    return any(len(tensor) == 3 for tensor in tensors(case.batch(2, 3)))


def repeated(batch: Batch, times: int) -> Batch:
    changed: Batch = tree_map(lambda tensor: tensor.repeat_interleave(times, dim=0), batch)
    return changed


def of_norm(case: Case, batch: Batch, norm: float) -> Batch:
    """The batch with samples of one norm, in what the loss looks at."""

    def scaled(tensor: Tensor) -> Tensor:
        norms = tensor.flatten(1).norm(dim=1) if tensor.ndim > 1 else tensor.abs()
        return tensor / norms.reshape(-1, *[1] * (tensor.ndim - 1)) * norm

    return where_looked_at(case, scaled, batch)


def samples_of(case: Case, function: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """The batch with `function` of everything but weights and masks."""
    named = by_name(case, batch)
    return tuple(item if _weighs(name) else tree_map(function, item) for name, item in named.items())


def _weighs(name: str) -> bool:
    return "weight" in name or name == "mask"


# Sizes


@edge("n = m", "Sizes")
def equal_sizes(case: Case) -> str:
    """The value is that of the function."""
    batch = case.batch(N, N)
    close(outcome(case, batch).value, told(case.function(case.build(), *batch)).detach())
    return "= function"


@edge("n ≠ m", "Sizes")
def unequal_sizes(case: Case) -> str:
    """The value is that of the function, or an error where source sample i is paired with target sample i."""
    needs(two_domains(case), "it looks at one batch of samples")
    batch = case.batch(N, 3)
    close(outcome(case, batch).value, told(case.function(case.build(), *batch)).detach())
    return "= function"


@edge("n = 1", "Sizes")
def one_sample(case: Case) -> str:
    """One sample a side: the value is that of the function, or an error where an estimate needs two."""
    batch = case.batch(1, 1)
    close(outcome(case, batch).value, told(case.function(case.build(), *batch)).detach())
    return "= function"


@edge("n = 0", "Sizes")
def no_samples(case: Case) -> str:
    """An error; a batch without samples has no mean."""
    outcome(case, case.batch(0, 0))
    return FINITE


@edge("n = 1, batch norm", "Sizes")
def one_sample_in_batch_norm(case: Case) -> str:
    """The last batch of an epoch, with one sample a side, and a discriminator that normalises over the batch: finite,
    because both domains pass through it as one batch of two."""
    needs(is_adversarial(case), "it has no discriminator with batch normalisation")
    batch = case.batch(1, 1)
    outcome(
        case,
        batch,
        lambda metric: setattr(
            metric, "domain_disc", seeded(lambda: _normalising(case, batch)).to(next(metric.parameters()).dtype)
        ),
    )
    return FINITE


def _normalising(case: Case, batch: Batch) -> nn.Module:
    """A discriminator with batch normalisation, for vectors or for places of an image or a sequence."""
    if (places := batch[0].ndim - 2) == 0:
        return DomainDiscriminator(getattr(case.build().domain_disc, "in_feature", WIDTH), 8)
    convolution, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[places - 1]
    return nn.Sequential(convolution(WIDTH, 8, 1), norm(8), nn.ReLU(), convolution(8, 1, 1))


# Values


@edge("all features equal", "Values")
def all_equal(case: Case) -> str:
    """Collapse: every sample of both domains is the same, every prediction uniform over c classes. A distance is 0, and
    where it is smooth its gradient too; certainty and balance have their value at the uniform distribution."""
    constant = 1 / WIDTH if takes_probabilities(case) else 1.0
    batch = samples_of(case, lambda tensor: torch.full_like(tensor, constant), case.batch(N, N))
    found = outcome(case, batch)
    if (is_kernel(case) and trains(case)) or compares_moments(case):
        vanishes(found)
        return "0, gradient 0"
    if is_adversarial(case):
        return _no_better_than_chance(case, batch, found)
    if (limit := UNIFORM.get(type(case.build()).__name__)) is None:
        return FINITE
    text, value = limit(case, by_name(case, batch))
    close(found.value, value)
    return text


def _no_better_than_chance(case: Case, batch: Batch, found: Outcome) -> str:
    """A discriminator cannot tell equal samples apart: it does best to say 0 of all, which costs log 2 each."""
    args = by_name(case, batch)
    weights = args.get("source_weights"), args.get("target_weights")
    zeros = torch.zeros(N), torch.zeros(N)
    least = functional.domain_adversarial_loss(*zeros, *weights, reduction=setting(case, "reduction"))
    assert found.value.sum() >= least.sum() - 1e-6
    return "≥ log 2"


def _uniform_heads(case: Case, batch: dict[str, Any]) -> tuple[str, float]:
    """log p and log(1 - p) for p = 1/c, each domain with its mean weight."""
    source, target = (mean_weight(batch, f"{domain}_weights") for domain in ("source", "target"))
    value = setting(case, "margin") * source * math.log(1 / WIDTH) + target * math.log(1 - 1 / WIDTH)
    return "log 1/c, log(1 - 1/c)", value


def _constant_logits(_: Case, batch: dict[str, Any]) -> tuple[str, float]:
    (logit,) = batch["domain_logits"].unique().tolist()
    return "log(1 + e^±z)", math.log1p(math.exp(logit if batch["domain_label"] == "source" else -logit))


def _binary_entropy(p: float, q: float) -> float:
    return -p * math.log(q) - (1 - p) * math.log(1 - q)


def _entropy_of_uniform(case: Case) -> tuple[str, float]:
    in_sum = setting(case, "reduction") == "sum"
    return ("n log c" if in_sum else "log c"), (N if in_sum else 1) * math.log(WIDTH)


def _no_evidence(case: Case) -> tuple[str, list[float]]:
    """Distance and z-score are 0. Every labeling has the value of the own one; by the normal distribution half do."""
    return ("0, p = 1", [0, 0, 1, 0, 0]) if setting(case, "pooled") else ("0, p = 0.5", [0, 0, 0.5])


def _lengths(case: Case, norms: Tensor) -> tuple[str, float]:
    """Of features whose mean norm is the same in both domains."""
    step, radius = setting(case, "step"), setting(case, "radius")
    return ("2 Δ²", 2 * step**2) if radius is None else ("2 (|x| - r)²", 2 * float(norms.mean() - radius) ** 2)


def _one_cost(case: Case) -> tuple[str, float]:
    """All pairs cost w log c. Where the margins are soft, a share of e^(-1 / (r + 2 t)) is carried."""
    cost, penalty = setting(case, "label_weight") * math.log(CLASSES), setting(case, "marginal_penalty")
    if penalty is None:
        return "w log c", cost
    return "less than w log c", cost * math.exp(-1 / (setting(case, "regularization") + 2 * penalty))


def _penalty_alone(case: Case, batch: dict[str, Any]) -> tuple[str, float]:
    """Of a critic that scores both domains alike, and whose slope is everywhere the same."""
    metric: Any = case.build()
    if metric.gradient_penalty == 0:
        return "0", 0.0
    slope = torch.func.grad(lambda rows: metric.critic(rows).sum())(batch["source_features"][:1]).norm()
    return "w (slope - 1)²", metric.gradient_penalty * (slope.item() - 1) ** 2


UNIFORM: dict[str, Callable[[Case, dict[str, Any]], tuple[str, Any]]] = {
    "AdaptiveFeatureNormLoss": lambda case, _: _lengths(case, torch.tensor(WIDTH**0.5)),
    "AdversarialDiscriminativeLoss": _constant_logits,
    "BatchSpectralPenalizationLoss": lambda *_: ("2 n d", 2.0 * N * WIDTH),
    "ClassBalanceLoss": lambda *_: ("H(1/c)", _binary_entropy(1 / WIDTH, 1 / WIDTH)),
    "ClassWeightModule": lambda *_: ("1", 1.0),
    "DomainAccuracy": lambda *_: ("0.5", 0.5),
    "EntropyMinimizationLoss": lambda case, _: _entropy_of_uniform(case),
    "EntropySeparationLoss": lambda *_: ("-log(c) / 2", -math.log(WIDTH) / 2),
    "InformationMaximizationLoss": lambda case, _: (
        "(1 - w) log c",
        (1 - setting(case, "diversity_weight")) * math.log(WIDTH),
    ),
    "ClassificationMarginDisparityDiscrepancy": _uniform_heads,
    "ClassifierDiscrepancyLoss": lambda *_: ("0", 0.0),
    "ConsistencyLoss": lambda *_: ("0", 0.0),
    "DeepEmbeddedValidation": lambda *_: ("1", 1.0),
    "EnsembleAgreement": lambda *_: ("1", 1.0),
    "HigherOrderMomentMatchingLoss": lambda *_: ("0", 0.0),
    "ImportanceWeightedValidation": lambda _, batch: ("mean weight", mean_weight(batch, "weights")),
    "JointDistributionOptimalTransportLoss": lambda case, _: _one_cost(case),
    "L2ConsistencyLoss": lambda *_: ("0", 0.0),
    "LabelShiftWeights": lambda case, batch: (
        "1",
        batch["source_labels"].bincount(minlength=setting(case, "num_classes")).sign(),
    ),
    "MarginDisparityDiscrepancy": lambda *_: ("0", 0.0),
    "MaximumMeanDiscrepancyTest": lambda case, _: _no_evidence(case),
    "MarginalEntropyLoss": lambda *_: ("log c", math.log(WIDTH)),
    "MinimumClassConfusionLoss": lambda *_: ("1 - 1/c", 1 - 1 / WIDTH),
    "MutualInformationLoss": lambda *_: ("0", 0.0),
    "NuclearNormMaximizationLoss": lambda *_: ("-1/c", -1 / WIDTH),
    "NuclearWassersteinDiscrepancyLoss": lambda *_: ("0", 0.0),
    "OneVersusAllLoss": lambda *_: ("2 log 2", 2 * math.log(2)),
    "OpenSetEntropyLoss": lambda *_: ("log 2", math.log(2)),
    "ProxyADistance": lambda *_: ("0", 0.0),
    "PseudoLabelLoss": lambda *_: ("0", 0.0),
    "RegressionMarginDisparityDiscrepancy": lambda *_: ("0", 0.0),
    "RepresentationSubspaceDistanceLoss": lambda *_: ("0", 0.0),
    "SinkhornDivergenceLoss": lambda *_: ("0", 0.0),
    "SlicedWassersteinLoss": lambda *_: ("0", 0.0),
    "SoftNeighborhoodDensity": lambda *_: ("log(n - 1)", math.log(N - 1)),
    "WassersteinDomainLoss": _penalty_alone,
    "UnknownClassBinaryCrossEntropy": lambda case, _: ("H(t, 1/c)", _binary_entropy(setting(case, "t"), 1 / WIDTH)),
}


@edge("source = target", "Values")
def equal_domains(case: Case) -> str:
    """Both domains, or both outputs for the same samples, are equal, and predictions are the labels. A distance is 0,
    and where it is smooth its gradient too; no discriminator does better than log 2, nor than guessing; the unbiased
    MMD, whose mean is 0, is at most 0 here, and so are CDD, from which the distances between classes are taken off, and
    the mutual information, whose sign is turned."""
    batch = case.batch(N, N)
    args = by_name(case, batch)
    first = {name: args.get(TWINS.get(name, name.replace("target", "source")), args[name]) for name in args}
    needs(any(first[name] is not args[name] for name in args), "it looks at one batch of samples")
    if "target_logits" in args and is_conditional(case):
        first["target_logits"] = 200.0 * torch.nn.functional.one_hot(args["source_labels"], CLASSES)
    found = outcome(case, tuple(first.values()))
    at_most_0 = (
        adaption.ClassificationMarginDisparityDiscrepancy,
        adaption.ContrastiveDomainDiscrepancyLoss,
        adaption.MaximumMeanDiscrepancyTest,
        adaption.MutualInformationLoss,
    )
    if setting(case, "estimator") == "unbiased" or isinstance(case.build(), at_most_0):
        return _at_most_0(case, found)
    smooth = is_kernel(case) or compares_moments(case)
    if smooth or any(name in TWINS for name in args):
        if "output" in args:
            return FINITE  # the adversarial head is as the main head, and not as the pseudo labels that it gives
        vanishes(found) if smooth else close(found.value, 0.0)
        return "0, gradient 0" if smooth else "0"
    if is_adversarial(case):
        return _no_better_than_chance(case, tuple(first.values()), found)
    if (limit := EQUAL.get(type(case.build()).__name__)) is None:
        return FINITE
    text, value = limit(case, args)
    close(found.value, value)
    return text


def _at_most_0(case: Case, found: Outcome) -> str:
    if compares_moments(case):
        return FINITE  # of a distribution of one axis it may be above 0
    if isinstance(case.build(), adaption.MaximumMeanDiscrepancyTest):
        mmd, z, p_value = found.value[:3]
        assert mmd <= 0
        assert z <= 0
        assert p_value >= 0.5
        return "≤ 0, p ≥ 0.5"
    assert (found.value <= 0).all()
    return "≤ 0"


def _twice_the_energy(case: Case, batch: dict[str, Any]) -> tuple[str, float]:
    energy = torch.linalg.svdvals(batch["source_features"].double()).square()
    return "2 Σ σ²", 2 * float(energy[: setting(case, "num_singular_values")].sum())


EQUAL: dict[str, Callable[[Case, dict[str, Any]], tuple[str, float]]] = {
    "AdaptiveFeatureNormLoss": lambda case, batch: _lengths(case, batch["source_features"].norm(dim=1)),
    "BatchSpectralPenalizationLoss": _twice_the_energy,
    "DomainAccuracy": lambda *_: ("0.5", 0.5),
    "HigherOrderMomentMatchingLoss": lambda *_: ("0", 0.0),
    "NuclearWassersteinDiscrepancyLoss": lambda *_: ("0", 0.0),
    "ProxyADistance": lambda *_: ("0", 0.0),
    "RepresentationSubspaceDistanceLoss": lambda *_: ("0", 0.0),
    "SinkhornDivergenceLoss": lambda *_: ("0", 0.0),
    "SlicedWassersteinLoss": lambda *_: ("0", 0.0),
    "WassersteinDomainLoss": _penalty_alone,
}
TWINS = {"predictions2": "predictions1", "teacher": "student", "output_adv": "output"}


@edge("every row twice", "Values")
def duplicated_rows(case: Case) -> str:
    """Every sample comes twice. A mean stays, a sum doubles, single values come twice. MMD and JMMD change with
    their bandwidth, which now sees distances of 0, SND with the neighbours, which are more, and covariances with their
    divisor, which is the number of samples less one."""
    batch = case.batch(N, N)
    once, twice = outcome(case, batch).value, outcome(case, repeated(batch, 2)).value
    changes = adaption.SoftNeighborhoodDensity, adaption.CorrelationAlignmentLoss, adaption.FrechetDistanceLoss
    if is_kernel(case) or isinstance(case.build(), changes):
        return FINITE
    if once.ndim and case.name not in PER_CLASS:
        close(twice, once.repeat_interleave(2, dim=0))
        return "twice"
    factor = (
        2
        if setting(case, "reduction") == "sum" or isinstance(case.build(), adaption.BatchSpectralPenalizationLoss)
        else 1
    )
    close(twice, factor * once)
    return "doubled" if factor == 2 else "unchanged"


@edge("norm 1e-20", "Values")
def tiny(case: Case) -> str:
    """Every sample that the loss looks at has norm 1e-20. A bandwidth taken from the features makes MMD and JMMD blind
    to scale, and RSD sees directions only; to all others this is the same as 0. What cannot be probabilities is
    refused."""
    batch = case.batch(N, N)
    found = outcome(case, of_norm(case, batch, 1e-20))
    sees_no_sizes = isinstance(case.build(), adaption.RepresentationSubspaceDistanceLoss)
    if sees_no_sizes or (is_kernel(case) and isinstance(setting(case, "bandwidth"), str)):
        if setting(case, "thetas") is not None:
            return FINITE  # a theta with a bias sees the tiny layer as constant
        close(found.value, outcome(case, of_norm(case, batch, 1.0)).value, 1e-4)
        return "as at norm 1"
    if isinstance(case.build(), (adaption.EnsembleAgreement, adaption.DomainAccuracy)) or case.name == "label shift":
        close(found.value, outcome(case, batch).value)
        return "unchanged"
    close(found.value, outcome(case, where_looked_at(case, torch.zeros_like, batch)).value)
    return "as 0"


@edge("norm 1e6", "Values")
def huge(case: Case) -> str:
    """Every sample that the loss looks at has norm 1e6. A bandwidth taken from the features makes MMD and JMMD blind to
    scale. What cannot be probabilities is refused."""
    batch = case.batch(N, N)
    found = outcome(case, of_norm(case, batch, 1e6))
    if isinstance(setting(case, "bandwidth"), str) and setting(case, "thetas") is None:
        close(found.value, outcome(case, of_norm(case, batch, 1.0)).value, 1e-4)
        return "as at norm 1"
    if is_kernel(case) and setting(case, "thetas") is None and setting(case, "pooled") != "random_features":
        vanishes(found)
        return "0, gradient 0"  # every sample is alone in a kernel that narrow
    return FINITE


@edge("probabilities 0 and 1", "Values")
def certain(case: Case) -> str:
    """Every prediction is exactly 0 or 1, and two predictions of a sample name different classes. T = 87.3 stands for
    the negative logarithm of float32's smallest normal number, which a probability of 0 counts as."""
    needs(takes_probabilities(case) or case.batch is layers, "it takes features or logits, and no probabilities")
    classes = iter(range(CLASSES))

    def one_hot(tensor: Tensor) -> Tensor:
        hot: Tensor = torch.zeros_like(tensor)
        hot[:, next(classes)] = 1
        return hot

    if case.batch is layers:
        source, target = case.batch(N, N)
        outcome(case, ([source[0], one_hot(source[1])], [target[0], one_hot(target[1])]))
        return FINITE
    batch = where_looked_at(case, one_hot, case.batch(N, N))
    found = outcome(case, batch)
    if (limit := CERTAIN.get(case.name)) is None:
        return FINITE
    text, value = limit
    close(found.value, value)
    return text


CERTAIN = {
    "MCD": ("2 / c", 2 / WIDTH),
    "MCD marginal entropy": ("T (c - 1) / c", LOG_TINY * (WIDTH - 1) / WIDTH),
    "class balance": ("2 T (c - 1) / c²", 2 * LOG_TINY * (WIDTH - 1) / WIDTH**2),
    "consistency L2": ("2 / 2, half is masked", 1.0),
    "consistency L2 none": ("2", 2.0),
    "consistency L2 sum": ("2 n", 2.0 * N),
    "consistency masked": ("1 / 2, half is masked", 0.5),
    "consistency scalar": ("2 / c", 2 / WIDTH),
    "mutual information": ("-log 2", -math.log(2)),  # which of the two names which class is one of two cases
}


@edge("logits ±1e4", "Values")
def large_logits(case: Case) -> str:
    """Logits of 1e4 and -1e4, where a sigmoid in float32 is 0 or 1: a domain logit of 1e4 costs 1e4 under the wrong
    label and 0 under the right one, and a class probability is 0 or 1. Losses with a discriminator inside get one that
    says so."""
    if is_adversarial(case):
        return _certain_discriminator(case)
    if (limit := LARGE.get(type(case.build()).__name__)) is None:
        raise NotApplicableError("it takes features, outputs of any kind or probabilities, and no logits")
    signs = samples_of(case, lambda tensor: _one_largest(tensor, 0), case.batch(N, N))
    return limit(case, signs)


def _one_largest(tensor: Tensor, position: int) -> Tensor:
    """Logits of 1e4 for one class and -1e4 for all others."""
    if tensor.ndim == 1 or tensor.shape[1] == 1:
        return torch.full_like(tensor, 1e4)
    logits = torch.full_like(tensor, -1e4)
    logits[:, position] = 1e4
    return logits


def _certain_discriminator(case: Case) -> str:
    """Of source samples it says 1e4 or -1e4, and of target samples the opposite."""
    for sign, expected in ((1.0, 1e4), (-1.0, 0.0)):

        def judge(samples: Tensor, sign: float = sign) -> Tensor:
            logit = torch.full_like(samples[:, :1], 1e4 * sign)
            logit[N:] *= -1
            return logit + 0 * samples.sum(1, keepdim=True)  # which the gradient passes

        batch = case.batch(N, N)
        found = outcome(case, batch, _with_discriminator(judge))
        weights = by_name(case, batch)
        mean = (mean_weight(weights, "source_weights") + mean_weight(weights, "target_weights")) / 2
        places = math.prod(batch[0].shape[2:])
        close(found.value.mean(), expected * mean * (N * places if setting(case, "reduction") == "sum" else 1))
    return "1e4 or 0"


def _with_discriminator(domain_disc: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    def change(metric: Any) -> None:
        del metric.domain_disc
        metric.domain_disc = domain_disc

    return change


def mean_weight(batch: dict[str, Any], name: str) -> float:
    return float(batch[name].mean()) if name in batch else 1.0


def _cross_entropy(case: Case, batch: Batch) -> str:
    close(outcome(case, batch).value, 1e4 if batch[1] == "source" else 0.0)
    close(outcome(case, (-batch[0], batch[1])).value, 0.0 if batch[1] == "source" else 1e4)
    return "1e4 or 0"


def _certain_classes(case: Case, batch: Batch) -> str:
    close(outcome(case, batch).value, torch.eye(CLASSES)[0])
    return "0 and 1"


def _entropies(case: Case, batch: Batch) -> str:
    """Nothing is left of the entropy: the discriminator sees zeros."""
    metric: Any = case.build()
    logits = metric.domain_disc(torch.zeros_like(batch[0]))
    close(outcome(case, batch).value, functional.adversarial_discriminative_loss(logits, batch[1]).detach())
    return "as entropy 0"


def _contradicting_heads(case: Case, batch: Batch) -> str:
    """The adversarial head is sure: of another class on the source, of the same one on the target."""
    args = by_name(case, batch)
    args["source_output_adv"] = _one_largest(args["source_output_adv"], 1)
    source, target = (mean_weight(args, f"{domain}_weights") for domain in ("source", "target"))
    log_odds = 2e4 - math.log(WIDTH - 1)  # of one class against all others
    close(outcome(case, tuple(args.values())).value, -setting(case, "margin") * source * 2e4 - target * log_odds)
    return "-2e4 each"


def _unknown(case: Case, batch: Batch) -> str:
    """Log odds of -2e4 for the unknown class, which is last; then the other way round."""
    t = setting(case, "t")
    close(outcome(case, batch).value, 2e4 * t)
    close(outcome(case, (_one_largest(batch[0], -1),)).value, (2e4 - math.log(WIDTH - 1)) * (1 - t))
    return "2e4 t or 2e4 (1 - t)"


def _own_and_others(case: Case, _: Batch) -> str:
    """No class takes a sample for its own, which one should; then all do, and the hardest of them should not."""
    for position in (0, 1):
        pairs = where_looked_at(case, functools.partial(_one_largest, position=position), case.batch(N, N))
        close(outcome(case, pairs).value, 2e4)
    return "2e4"


def _collapsed(value: str, of: Callable[[Case], float]) -> Callable[[Case, Batch], str]:
    """Every sample is given the same class, and so is certain: a collapse."""

    def at_a_collapse(case: Case, batch: Batch) -> str:
        found = outcome(case, batch)
        close(found.value, of(case))
        assert all(gradient.abs().max() < 1e-6 for gradient in found.gradients)
        return f"{value}, gradient 0"

    return at_a_collapse


def _sure_heatmaps(case: Case, batch: Batch) -> str:
    outcome(case, (batch[0], batch[1].sign() * 1e4, *batch[2:]))
    return FINITE


def _matched_classes(case: Case, _: Batch) -> str:
    """Predictions without a doubt: those of other logits that name the same classes, so far as they are certain."""
    args = by_name(case, case.batch(N, N))
    values = []
    for size in (200.0, 1e4):
        likely = torch.nn.functional.one_hot(args["target_logits"].argmax(1), CLASSES)
        args["target_logits"] = size * (2.0 * likely - 1)
        values.append(outcome(case, tuple(args.values())).value)
    close(values[1], values[0])
    return "as certain"


def _any_logits(case: Case, _: Batch) -> str:
    args = by_name(case, case.batch(N, N))
    args["target_logits"] = args["target_logits"].sign() * 1e4
    outcome(case, tuple(args.values()))
    return FINITE


def _one_class(case: Case, batch: Batch) -> str:
    """All samples are of one class beyond doubt: all agree, and each has all others as neighbours."""
    agreement = isinstance(case.build(), adaption.EnsembleAgreement)
    close(outcome(case, batch).value, 1.0 if agreement else math.log(N - 1))
    return "1" if agreement else "log(n - 1)"


def _one_domain(case: Case, batch: Batch) -> str:
    """All samples are taken for the target beyond doubt, then all for the right domain."""
    accuracy = type(case.build()) is adaption.DomainAccuracy
    close(outcome(case, batch).value, 0.5 if accuracy else 0.0)
    close(outcome(case, (-batch[0], batch[1])).value, 1.0 if accuracy else 2.0)
    return "0.5 or 1" if accuracy else "0 or 2"


LARGE: dict[str, Callable[[Case, Batch], str]] = {
    "AdversarialDiscriminativeLoss": _cross_entropy,
    "ClassWeightModule": _certain_classes,
    "ClassificationMarginDisparityDiscrepancy": _contradicting_heads,
    "DomainAccuracy": _one_domain,
    "DomainAdversarialEntropyLoss": _entropies,
    "EnsembleAgreement": _one_class,
    "EntropyMinimizationLoss": _collapsed("0", lambda _: 0.0),
    "EntropySeparationLoss": _collapsed("-log(c) / 2", lambda _: -math.log(WIDTH) / 2),
    "InformationMaximizationLoss": _collapsed("0", lambda _: 0.0),
    "JointDistributionOptimalTransportLoss": _any_logits,
    "LabelShiftWeights": lambda case, batch: (outcome(case, batch), FINITE)[1],
    "LocalMaximumMeanDiscrepancyLoss": _matched_classes,
    "MinimumClassConfusionLoss": _collapsed("1 - 1/c", lambda _: 1 - 1 / WIDTH),
    "NuclearNormMaximizationLoss": _collapsed("-1/√c", lambda _: -(WIDTH**-0.5)),
    "NuclearWassersteinDiscrepancyLoss": _collapsed("0", lambda _: 0.0),
    "OneVersusAllLoss": _own_and_others,
    "OpenSetEntropyLoss": _collapsed("0", lambda _: 0.0),
    "ProxyADistance": _one_domain,
    "PseudoLabelLoss": _collapsed("0", lambda _: 0.0),
    "RegressionDisparity": _sure_heatmaps,
    "SoftNeighborhoodDensity": _one_class,
    "UnknownClassBinaryCrossEntropy": _unknown,
}


@edge("zero weights", "Values")
def zero_weights(case: Case) -> str:
    """All weights, or the whole mask, are 0. Where weights multiply, value and gradient are 0; where they are
    normalised to sum 1, are density ratios, or cannot be used with the settings of the row, it is an error."""
    names = [name for name in case.build()._update_signature.parameters if _weighs(name)]
    needs(bool(names), "it takes no weights")
    batch = case.batch(N, N)
    named = {name: item for name, item in by_name(case, batch).items() if not _weighs(name)}
    size = batch[0].shape[:2] if "weight" in names else (N,)  # RegDA weighs each joint by itself
    vanishes(outcome(case, (*named.values(), *(torch.zeros(size) for _ in names))))
    return "0, gradient 0"


# Precision


def _in(dtype: torch.dtype) -> Callable[[Case], str]:
    def in_dtype(case: Case) -> str:
        modules = (lambda metric: metric.double()) if dtype == torch.float64 else (lambda metric: metric)
        found = outcome(case, cast(case.batch(N, N), dtype), modules)
        assert found.value.dtype == (torch.promote_types(dtype, torch.float32) if trains(case) else torch.float64)
        assert all(gradient.dtype == dtype for gradient in found.gradients)
        return "= float64"

    return in_dtype


_LAWS = {
    torch.float64: "Inputs and modules in float64: computed in float64.",
    torch.float32: "Within rounding of float64.",
    torch.float16: "Computed in float32, scores in float64 but for their kernels: the value is that in float64 of the "
    "same rounded inputs; gradients come back in float16.",
    torch.bfloat16: "The same; gradients come back in bfloat16.",
}
for _dtype, _law in _LAWS.items():
    EDGES.append(Edge(str(_dtype).removeprefix("torch."), "Precision", _law, _in(_dtype)))


# Memory and modes


@edge("not contiguous", "Memory and modes")
def not_contiguous(case: Case) -> str:
    """Every second entry of a larger tensor. Value and gradients are those of a contiguous copy."""
    batch = case.batch(N, N)
    strided = tree_map(lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 0], batch)
    assert not any(tensor.is_contiguous() for tensor in tensors(strided))
    same(_as_it_is(case, strided), outcome(case, batch))
    return "= contiguous"


@edge("expanded", "Memory and modes")
def expanded(case: Case) -> str:
    """One sample with stride 0. Value and gradients are those of a contiguous copy."""
    view = tree_map(lambda tensor: tensor[:1].expand_as(tensor), case.batch(N, N))
    same(_as_it_is(case, view), outcome(case, tree_map(lambda tensor: tensor.contiguous(), view)))
    return "= contiguous"


def _as_it_is(case: Case, batch: Batch) -> Outcome:
    """The outcome with the strides of the batch, which a copy would lose; nothing is written to it."""
    for leaf in looked_at(case, batch):
        leaf.requires_grad_()
    before, versions = copy.deepcopy([t.detach() for t in tensors(batch)]), [t._version for t in tensors(batch)]
    value = told(case.build()(*batch))
    if value.requires_grad:
        value.sum().backward()
    assert [tensor._version for tensor in tensors(batch)] == versions
    torch.testing.assert_close([t.detach() for t in tensors(batch)], before, rtol=0, atol=0)
    return Outcome(value.detach(), [gradient(leaf) for leaf in looked_at(case, batch)])


@edge("gradient on one side", "Memory and modes")
def one_side(case: Case) -> str:
    """Only one of the arguments requires a gradient. It is the gradient it has with the others', and they get none."""
    needs(trains(case) and len(case.looked_at) > 1, "it has a gradient by one argument only, or by none")
    batch = case.batch(N, N)
    both = with_gradient(case, batch)
    case.build()(*both).sum().backward()
    for position in case.looked_at:
        alone = with_gradient(case, batch)
        for leaf in looked_at(case, alone):
            leaf.requires_grad = False
        for leaf in tensors([alone[position]]):
            leaf.requires_grad_()
        case.build()(*alone).sum().backward()
        for other, expected in zip(looked_at(case, alone), looked_at(case, both), strict=True):
            if other.requires_grad:
                close(gradient(other), gradient(expected))
            else:
                assert other.grad is None
    return "= both sides"


@edge("inference mode", "Memory and modes")
def in_inference_mode(case: Case) -> str:
    """Under `torch.inference_mode()`, with tensors made there: the same value, and the metric trains on afterwards."""
    metric, batch = case.build(), case.batch(N, N)
    expected = outcome(case, batch).value
    with torch.inference_mode():
        value = told(metric(*copy.deepcopy(batch)))
    assert not value.requires_grad
    torch.testing.assert_close(value.clone(), expected, rtol=0, atol=0)
    again = told(metric(*with_gradient(case, batch)))
    assert again.requires_grad == trains(case)
    if again.requires_grad:
        again.sum().backward()
    assert metric.update_count == 2
    return "same value"
