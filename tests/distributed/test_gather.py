"""With `gather_distributed=True` value, gradient and epoch value are those of one process on the global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import WIDTH, refuses
from processes import on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import adaption
from adaption._distributed import gather
from adaption._global_batch import gather_batch
from adaption._metric import AdditiveMetric
from adaption.layers import GradientReversalLayer

CLASSES = 3
# for each step the numbers of source and target samples on each rank: uneven, and ranks without any
STEPS: dict[int, list[list[tuple[int, int]]]] = {
    2: [[(3, 4), (5, 2)], [(4, 3), (0, 0)], [(0, 4), (6, 3)]],
    3: [[(3, 4), (5, 2), (1, 1)], [(4, 0), (0, 5), (2, 2)], [(2, 2), (2, 2), (2, 2)]],
}


class Model(nn.Module):
    """A network with a loss of its features and predictions."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.build, self.arguments = LOSSES[loss]
        self.metric: AdditiveMetric = self.build()
        self.double()

    def features(self, samples: Tensor) -> Tensor:
        features: Tensor = self.layer(samples).tanh()
        return features

    def outputs(self, samples: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.features(samples))
        return outputs

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.metric(*self.arguments(self, source, target))
        return value


def _outputs(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    return model.outputs(source), model.outputs(target)


def _paired(model: Model, _: Tensor, target: Tensor) -> tuple[Any, ...]:
    return model.outputs(target.flip(1)), model.outputs(target)


def _weighted(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    """With weights that have a gradient, too."""
    outputs = _outputs(model, source, target)
    return *outputs, outputs[0].square().sum(1), outputs[1].square().sum(1, keepdim=True)


def _layers(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    source, target = model.features(source), model.features(target)
    return [source, model.head(source).softmax(1)], [target, model.head(target).softmax(1)]


def _weighted_layers(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    return *_layers(model, source, target), source[:, 0].abs(), target[:, 0].abs()


def _predictions(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    return (model.outputs(torch.cat([source, target])).softmax(1),)


def _two_predictions(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    (predictions,) = _predictions(model, source, target)
    return predictions, predictions.square() / predictions.square().sum(1, keepdim=True)


def _logits(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    return (model.outputs(torch.cat([source, target])),)


def _conditional(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    """Features of both domains, labels of the source, logits of the target; the logits' gradient may be 0."""
    labels = source.argmax(1) % CLASSES if len(source) else torch.zeros(0, dtype=torch.int64)
    return model.outputs(source), labels, model.outputs(target), model.outputs(target)


def _labelled(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    """Features and labels of both domains."""
    domains = [(model.outputs(rows), rows.abs().sum(1).long() % CLASSES) for rows in (source, target)]
    return *domains[0], *domains[1]


def _dense_predictions(model: Model, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    (predictions,) = _predictions(model, source, target)
    return (torch.stack([predictions, predictions.flip(1)], dim=2),)


def _mmd(**settings: Any) -> Callable[[], AdditiveMetric]:
    return lambda: adaption.MaximumMeanDiscrepancyLoss(gather_distributed=True, **settings)


def _jmmd(**settings: Any) -> Callable[[], AdditiveMetric]:
    return lambda: adaption.JointMaximumMeanDiscrepancyLoss(gather_distributed=True, **settings)


def _adversarial() -> AdditiveMetric:
    """Thetas between two reversals, as the page of JMMD has them; one normalises over the global batch."""
    inside = [nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4)), nn.Linear(CLASSES, 2)]
    thetas = [nn.Sequential(GradientReversalLayer(), theta, GradientReversalLayer()) for theta in inside]
    return adaption.JointMaximumMeanDiscrepancyLoss(2, thetas=thetas, gather_distributed=True)


LOSSES: dict[str, tuple[Callable[[], AdditiveMetric], Callable[..., tuple[Any, ...]]]] = {
    "MMD": (_mmd(), _outputs),
    "MMD weighted": (_mmd(), _weighted),
    "MMD unbiased": (_mmd(estimator="unbiased", bandwidth="mean"), _outputs),
    "MMD linear": (_mmd(estimator="linear"), _paired),
    "MMD pooled": (_mmd(pooled=True), _weighted),
    "JMMD": (_jmmd(), _layers),
    "JMMD weighted": (_jmmd(num_kernels=2), _weighted_layers),
    "JMMD thetas": (_adversarial, _layers),
    "JMMD pooled": (_jmmd(pooled=True), _weighted_layers),
    "BSP": (lambda: adaption.BatchSpectralPenalizationLoss(2, gather_distributed=True), _outputs),
    "LMMD": (lambda: adaption.LocalMaximumMeanDiscrepancyLoss(gather_distributed=True), _conditional),
    "CDD": (lambda: adaption.ContrastiveDomainDiscrepancyLoss(gather_distributed=True), _labelled),
    "CMD": (lambda: adaption.CentralMomentDiscrepancyLoss(gather_distributed=True), _outputs),
    "CORAL": (lambda: adaption.CorrelationAlignmentLoss(gather_distributed=True), _outputs),
    "HoMM": (lambda: adaption.HigherOrderMomentMatchingLoss(gather_distributed=True), _outputs),
    "RSD": (lambda: adaption.RepresentationSubspaceDistanceLoss(gather_distributed=True), _outputs),
    "JDOT": (lambda: adaption.JointDistributionOptimalTransportLoss(gather_distributed=True), _conditional),
    "sliced Wasserstein": (lambda: adaption.SlicedWassersteinLoss(4, gather_distributed=True), _outputs),
    "Sinkhorn": (lambda: adaption.SinkhornDivergenceLoss(gather_distributed=True), _weighted),
    "Fréchet": (lambda: adaption.FrechetDistanceLoss(gather_distributed=True), _outputs),
    "DARE-GRAM": (lambda: adaption.InverseGramAlignmentLoss(gather_distributed=True), _outputs),
    "marginal entropy": (lambda: adaption.MarginalEntropyLoss(gather_distributed=True), _predictions),
    "marginal entropy dense": (lambda: adaption.MarginalEntropyLoss(gather_distributed=True), _dense_predictions),
    "mutual information": (lambda: adaption.MutualInformationLoss(gather_distributed=True), _two_predictions),
    "class balance": (lambda: adaption.ClassBalanceLoss(CLASSES, gather_distributed=True), _predictions),
    "MCC": (lambda: adaption.MinimumClassConfusionLoss(gather_distributed=True), _logits),
    "information": (lambda: adaption.InformationMaximizationLoss(0.7, gather_distributed=True), _logits),
    "DALN": (lambda: adaption.NuclearWassersteinDiscrepancyLoss(gather_distributed=True), _outputs),
    "nuclear norm": (lambda: adaption.NuclearNormMaximizationLoss(gather_distributed=True), _logits),
}


def batches(ranks: int) -> list[list[tuple[Tensor, Tensor]]]:
    """For each step the batch of each rank."""
    torch.manual_seed(5)
    return [
        [(torch.randn(n, 5).double(), torch.randn(m, 5).double() + 0.5) for n, m in sizes] for sizes in STEPS[ranks]
    ]


def trained(model: nn.Module, steps: list[tuple[Tensor, Tensor]]) -> list[dict[str, Tensor]]:
    """Values, gradients and buffers of the steps of plain gradient descent."""
    found = []
    for batch in steps:
        model.zero_grad()
        loss = model(*batch)
        loss.backward()
        step = {"value": loss.detach(), **{name: buffer.clone() for name, buffer in model.named_buffers()}}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                step[name] = parameter.grad.clone()
                parameter.data -= 0.1 * parameter.grad
        found.append({name.removeprefix("module."): tensor for name, tensor in step.items()})
    return found


def on_this_rank(rank: int, ranks: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in LOSSES:
        model = Model(name)
        steps = trained(DistributedDataParallel(model), [step[rank] for step in batches(ranks)])
        with model.metric.sync_context():
            states = model.metric.metric_state
        found[name] = steps, states, model.metric.compute(), model.metric.update_count
    if ranks == 2:
        faults_of_one_rank(rank)
    return found


def faults_of_one_rank(rank: int) -> None:
    """A fault of one of two ranks raises the same error on both, changes nothing, and nobody waits."""
    metric = adaption.MaximumMeanDiscrepancyLoss(gather_distributed=True, nan_strategy="ignore")
    x = torch.randn(4 - rank, 3)
    metric.update(x, x + 1)
    faults: list[tuple[str, tuple[Any, ...]]] = [
        (
            "`source_weights` must be of the same kind on every rank, but got NoneType, torch.float32 tensor",
            (x, x, _if(rank, x[:, 0])),
        ),
        ("`target_features` must have the same shape after the first dimension on every rank", (x, x[:, : 3 - rank])),
        (r"`source_weights` must have as many rows .* \(4, 3\), but got 3, 4", (x, x, torch.ones(3 + rank))),
        (
            "`target_features` must be of the same kind on every rank, but got torch.float32 tensor, str",
            (x, "x" if rank else x),
        ),
        ("`target_features` must be of the same kind on every rank", (x, x.double() if rank else x)),
        ("`source_features` must not be empty", (x[:0], x[:0])),
        (r"`source_features` must have shape \(N, features\), but got shape \(\)", (x.sum(), x)),
    ]
    for message, fault in faults:
        refuses(metric, message, *fault)
    with pytest.raises(RuntimeError, match="all ranks must make the same calls in the same order"):
        metric.compute() if rank else metric(x, x)  # rank 1 has run out of batches
    if rank:
        metric.reset()
    with pytest.raises(RuntimeError, match=r"all ranks must have added the same batches, but have added \[1, 0\]"):
        metric.compute()
    metric.reset()
    metric.update(x, x + 1)
    value = metric.compute()
    metric.update(x * torch.nan if rank else x, x)  # left out by both
    assert metric.num_ignored == 1
    assert metric.compute() == value


def _if(rank: int, value: Tensor) -> Tensor | None:
    return value.abs() if rank else None


@pytest.mark.parametrize("ranks", STEPS)
def test_ranks_agree_with_one_process_on_the_global_batch(ranks: int) -> None:
    found = on_ranks(ranks, on_this_rank)
    for loss in LOSSES:
        alone = Model(loss)
        whole = [tuple(torch.cat(rows) for rows in zip(*step, strict=True)) for step in batches(ranks)]
        steps = trained(alone, whole)  # type: ignore[arg-type] # pairs
        # of the states, too: a global batch counts once, and not once per rank
        expected = steps, alone.metric.metric_state, alone.metric.compute(), len(steps)
        for result in found:
            torch.testing.assert_close(result[loss], expected, rtol=1e-10, atol=1e-10, msg=_of(loss))


def _of(loss: str) -> Callable[[str], str]:
    return lambda message: f"{loss}: {message}"


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def assert_nothing_changes(loss: str) -> None:
    gathering, plain = Model(loss), Model(loss)
    plain.metric.gather_distributed = False
    batch = [(torch.randn(4, 5).double(), torch.randn(6, 5).double())]
    torch.testing.assert_close(trained(gathering, batch), trained(plain, batch), rtol=0, atol=0)
    torch.testing.assert_close(gathering.metric.compute(), plain.metric.compute(), rtol=0, atol=0)
    assert "gather_distributed=True" in repr(gathering.metric)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_changes_without_a_process_group(loss: str) -> None:
    assert_nothing_changes(loss)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.usefixtures("one_rank")
def test_nothing_changes_on_one_rank(loss: str) -> None:
    assert_nothing_changes(loss)


@pytest.mark.usefixtures("one_rank")
def test_the_gathered_batch_of_one_rank_is_its_own() -> None:
    features = torch.randn(3, 2, requires_grad=True)
    layers = [torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 1).half()]
    batch = {"source_features": features, "target_features": layers, "source_weights": None}
    found = gather_batch("a test", batch)
    torch.testing.assert_close(found, (features, layers, None), rtol=0, atol=0)
    (found[0] * features.detach()).sum().backward()
    torch.testing.assert_close(features.grad, features.detach(), rtol=0, atol=0)
    nothing = features[:0]
    assert gather_batch("a test", {"predictions": nothing})[0].shape == (0, 2)
    with pytest.raises(ValueError, match=r"`source_weights` must have as many rows .* as `source_features` \(3\)"):
        gather_batch("a test", {"source_features": features, "source_weights": torch.ones(2)})


@pytest.mark.parametrize("loss", LOSSES)
def test_the_option_is_a_flag(loss: str) -> None:
    kind = type(LOSSES[loss][0]())
    with pytest.raises(TypeError, match="`gather_distributed` must be True or False"):
        kind(**{"num_classes": 3} if kind is adaption.ClassBalanceLoss else {}, gather_distributed="yes")  # type: ignore[arg-type]


def _pickled(rank: int, ranks: int) -> list[int]:
    """After each step, how often shapes have been pickled."""
    calls, counts, whole = [0], [], dist.all_gather_object

    def counted(*args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        whole(*args, **kwargs)

    dist.all_gather_object = counted
    metric = adaption.MaximumMeanDiscrepancyLoss(gather_distributed=True)
    for own in (4, 4, 4, 3 + rank, 3 + rank, 4):
        batch = torch.arange(5.0 * own).view(own, 5).sin(), torch.arange(10.0 * ranks).view(-1, 5)
        value = metric(*batch)
        (everything,) = {float(theirs) for theirs in gather(value)}
        assert everything == float(value)
        counts.append(calls[0])
    return counts


def test_shapes_are_told_once_and_a_change_on_one_rank_is_found() -> None:
    """The first two are the batch and the `gather` of this test; ranks differ in size at the fourth step."""
    assert on_ranks(2, _pickled) == [[2, 2, 2, 3, 3, 3]] * 2
