"""Every loss inside torchmetrics' wrappers, and its picture."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import matplotlib as mpl
import pytest
import torch
from cases import (
    CASES,
    CLASSES,
    EVERY_METRIC,
    SCORES,
    WIDTH,
    Case,
    cast,
    features,
    in_any_order,
    tree_map,
    with_gradient,
)
from torch import Tensor, nn
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import (
    BootStrapper,
    ClasswiseWrapper,
    MinMaxMetric,
    MultioutputWrapper,
    Running,
    bootstrapping,
)

import adaption

mpl.use("agg")
from matplotlib import pyplot as plt

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
SCALARS = [case for case in CASES if case.name != "PADA" and not case.name.endswith("none")]
LISTS = [case for case in CASES if case.name.startswith("JMMD")]
# Poisson resamples differ in size, and values per sample then do not stack.
RESAMPLED = [
    (case, strategy)
    for case in CASES
    if case not in LISTS
    for strategy in ("multinomial", *([] if case.name.endswith("none") else ["poisson"]))
]
OF_LOGITS = ("MCC", "entropy", "information", "nuclear norm", "pseudo label", "DANCE", "OVANet target")
GAMES = ("DANN", "CDAN", "WDGRL", "DALN", "ADDA", "ADVENT", "MDD", "OSBP")


def batches(case: Case, number: int = 4) -> list[tuple[Any, ...]]:
    return [cast(case.batch(6, 6), torch.float64) for _ in range(number)]


def epoch(case: Case, seen: list[tuple[Any, ...]]) -> Tensor:
    """The value of one metric that has seen these batches and no others."""
    metric = case.build().double()
    for batch in seen:
        metric.update(*batch)
    return metric.compute()


@pytest.mark.parametrize("case", EVERY_METRIC, ids=str)
def test_running_is_the_value_of_the_last_batches(case: Case) -> None:
    running = Running(case.build().double(), window=3)
    seen = batches(case)
    for step, batch in enumerate(seen, start=1):
        (running if step % 2 else running.update)(*batch)
        value = running.compute()
        expected = epoch(case, seen[:step][-3:])
        torch.testing.assert_close(in_any_order(case, value), in_any_order(case, expected))


@pytest.mark.parametrize(
    "case", [case for case in SCORES if not case.name.startswith(("two-sample", "label shift"))], ids=str
)
def test_a_tracker_knows_which_value_of_a_score_is_the_best(case: Case) -> None:
    seen = batches(case)
    values = torch.stack([epoch(case, [batch]) for batch in seen])
    tracker = MetricTracker(case.build().double(), maximize=bool(case.build().higher_is_better))
    for batch in seen:
        tracker.increment()
        tracker.update(*batch)
    best = values.argmax() if case.build().higher_is_better else values.argmin()
    assert tracker.best_metric(return_step=True) == (values[best].item(), best.item())


@pytest.mark.filterwarnings("ignore:MetricTracker.* copies the networks")
@pytest.mark.parametrize("case", SCALARS, ids=str)
def test_tracker_and_extremes_over_epochs(case: Case) -> None:
    seen = batches(case)
    expected = torch.stack([epoch(case, [batch]) for batch in seen])
    tracker = MetricTracker(case.build().double(), maximize=False)
    extremes = MinMaxMetric(case.build().double())
    for batch in seen:
        tracker.increment()
        tracker(*batch)
        extremes.reset()
        extremes.update(*batch)
        found = extremes.compute()
    torch.testing.assert_close(tracker.compute_all(), expected)
    assert tracker.best_metric(return_step=True) == (expected.min().item(), expected.argmin().item())
    assert (found["min"], found["max"]) == (expected.min(), expected.max())


@pytest.mark.skipif(
    inspect.signature(MetricTracker).parameters["maximize"].default is True,
    reason="before 1.7 torchmetrics asks no metric which way is up",
)
@every_loss
def test_tracker_asks_which_way_is_up_where_a_game_has_none(case: Case) -> None:
    if case.name.startswith((*GAMES, "PADA")):
        with pytest.raises(AttributeError, match="`maximize`"):
            MetricTracker(case.build())
    else:
        assert MetricTracker(case.build()).maximize is False


@pytest.mark.parametrize(("case", "strategy"), RESAMPLED, ids=str)
def test_bootstrap_is_the_value_of_each_resample(case: Case, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    draw = bootstrapping._bootstrap_sampler

    def remembered(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(bootstrapping, "_bootstrap_sampler", remembered)
    bootstrap = BootStrapper(case.build().double(), num_bootstraps=3, raw=True, sampling_strategy=strategy)
    seen = batches(case, 2)
    for batch in seen:
        bootstrap.update(*batch)
    resampled = [tree_map(itemgetter(index), seen[i // 3]) for i, index in enumerate(drawn)]
    expected = torch.stack([epoch(case, resampled[copy::3]) for copy in range(3)])
    torch.testing.assert_close(bootstrap.compute()["raw"], expected)


@pytest.mark.parametrize("case", LISTS, ids=str)
def test_bootstrap_cannot_resample_lists_of_layers(case: Case) -> None:
    with pytest.raises(TypeError):
        BootStrapper(case.build()).update(*case.batch(6, 6))


def test_bootstrap_has_one_sample_size() -> None:
    source, target = features(4, 6)
    bootstrap = BootStrapper(adaption.MaximumMeanDiscrepancyLoss(), sampling_strategy="multinomial")
    with pytest.raises(IndexError):
        bootstrap.update(target, source)
    values = []
    for end in (0.0, 100.0):  # of the target's last samples
        torch.manual_seed(0)
        bootstrap.reset()
        bootstrap.update(source, torch.cat([target[:4], target[4:] + end]))
        values.append(bootstrap.compute()["mean"])
    assert values[0] == values[1]


@every_loss
def test_sums_of_metrics_have_a_gradient(case: Case) -> None:
    total = case.build() + 2 * case.build()
    batch = with_gradient(case, case.batch(6, 6))
    value = total(*batch)
    assert value.requires_grad
    torch.testing.assert_close(value.detach().double(), total.compute(), rtol=1e-5, atol=1e-6)


def test_multioutput_is_the_distance_of_each_feature() -> None:
    source, target = features(6, 4)
    by_feature = MultioutputWrapper(
        adaption.MaximumMeanDiscrepancyLoss(), WIDTH, remove_nans=False, squeeze_outputs=False
    )
    columns = zip(source.split(1, dim=1), target.split(1, dim=1), strict=True)
    expected = torch.stack([adaption.functional.maximum_mean_discrepancy(*pair) for pair in columns])
    torch.testing.assert_close(by_feature(source, target), expected)
    torch.testing.assert_close(by_feature.compute(), expected.double())
    squeezed = MultioutputWrapper(adaption.MaximumMeanDiscrepancyLoss(), WIDTH, remove_nans=False)
    with pytest.raises(ValueError, match="`source_features` must"):
        squeezed(source, target)


def test_classwise_names_the_class_weights() -> None:
    logits = torch.randn(6, CLASSES)
    named = ClasswiseWrapper(adaption.ClassWeightModule(), labels=["car", "bus", "van"])
    named.update(logits)
    weights = adaption.functional.class_weights(logits).double()
    found = torch.stack([named.compute()[f"classweightmodule_{name}"] for name in ("car", "bus", "van")])
    torch.testing.assert_close(found, weights)


@pytest.mark.filterwarnings("ignore:MetricTracker.* copies the networks")
def test_a_collection_inside_a_tracker_keeps_every_loss_apart() -> None:
    build = {case.name: case.build for case in CASES if case.batch is features}
    tracker = MetricTracker(MetricCollection({name: make() for name, make in build.items()}), maximize=False)
    seen = [features(6, 6) for _ in range(2)]
    for batch in seen:
        tracker.increment()
        tracker.update(*batch)
    for name, values in tracker.compute_all().items():
        for value, batch in zip(values, seen, strict=True):
            metric = build[name]()
            metric.update(*batch)
            torch.testing.assert_close(value, metric.compute())


# ---- the picture ------------------------------------------------------------------------------------------------


@pytest.fixture
def axes() -> Iterator[Any]:
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@every_loss
def test_values_lie_between_the_bounds_of_the_plot(case: Case) -> None:
    metric = case.build().double()
    for scale in (1e-3, 1.0, 30.0):
        for n in (2, 9):
            batch = cast(case.batch(n, n), torch.float64)
            if case.name.startswith(("MMD", "JMMD", "BSP", *GAMES, *OF_LOGITS)):
                batch = tuple(scale * item if torch.is_tensor(item) else item for item in batch)
            value = metric(*batch)
            lower, upper = metric.plot_lower_bound, metric.plot_upper_bound
            assert lower is None or value.min() >= lower - 1e-12
            assert upper is None or value.max() <= upper + 1e-12


@pytest.mark.parametrize("case", [case for case in CASES if not case.name.endswith("dense none")], ids=str)
def test_plot_shows_the_epoch_with_its_bounds(case: Case, axes: Any) -> None:
    metric = case.build()
    for _ in range(2):
        metric.update(*case.batch(6, 6))
    _, shown = metric.plot(ax=axes)
    low, high = shown.get_ylim()
    drawn = torch.tensor([line.get_ydata()[0] for line in shown.get_lines()]).flatten()
    torch.testing.assert_close(drawn.double(), metric.compute().flatten())
    assert low <= drawn.min() <= drawn.max() <= high
    bounds = [bound for bound in (metric.plot_lower_bound, metric.plot_upper_bound) if bound is not None]
    lines = [line[0, 1] for collection in shown.collections for line in collection.get_segments()]
    assert lines == bounds
    best = metric.higher_is_better is False and metric.plot_lower_bound is not None
    assert bool(shown.texts) == best  # "optimal value", at the lower bound


def test_bounds_are_reached() -> None:
    uniform = torch.full((4, 5), 0.2, dtype=torch.float64)
    t = 0.3
    logits = torch.tensor([[0.0, 0.0, math.log(2 * t / (1 - t))]], dtype=torch.float64)  # the unknown has probability t
    reached: list[tuple[Any, ...]] = [
        (adaption.ClassBalanceLoss(5), uniform),
        (adaption.MarginalEntropyLoss(), uniform),
        (adaption.UnknownClassBinaryCrossEntropy(t), logits),
        (adaption.EntropySeparationLoss(5), 1e3 * torch.eye(5, dtype=torch.float64)),
        (adaption.InformationMaximizationLoss(0.5), 1e3 * torch.eye(5, dtype=torch.float64)),
        (adaption.MutualInformationLoss(), *2 * [torch.eye(5, dtype=torch.float64)]),
    ]
    for metric, *batch in reached:
        assert metric(*batch).item() == pytest.approx(metric.plot_lower_bound, rel=1e-12)
        assert metric.plot_lower_bound != 0
    assert adaption.UnknownClassBinaryCrossEntropy(0.0).plot_lower_bound == 0


def test_bounds_of_zero_are_reached() -> None:
    """By equal domains, discriminators that are right, and certain and balanced predictions."""
    equal, sure = torch.zeros(4, 5, dtype=torch.float64), 1e3 * torch.eye(5, dtype=torch.float64)
    right = sure[:, :1] + 1e3
    certain = sure.softmax(1)
    own = torch.stack([1e3 - sure[:4], sure[:4]], dim=1)  # each sample is of its own class, and of no other
    reached: list[tuple[Any, ...]] = [
        (adaption.MaximumMeanDiscrepancyLoss(), equal, equal),
        (adaption.JointMaximumMeanDiscrepancyLoss(), [equal], [equal]),
        (adaption.BatchSpectralPenalizationLoss(), equal, equal),
        (adaption.CorrelationAlignmentLoss(), equal, equal),
        (adaption.CentralMomentDiscrepancyLoss(), equal, equal),
        (adaption.HigherOrderMomentMatchingLoss(), equal, equal),
        (adaption.RepresentationSubspaceDistanceLoss(), sure[:2], sure[:2]),
        (adaption.FrechetDistanceLoss(), equal, equal),
        (adaption.InverseGramAlignmentLoss(), equal, equal),
        (adaption.DomainAdversarialLoss(nn.Identity()), -right, right),
        (adaption.ConditionalDomainAdversarialLoss(lambda joint: joint.sum(1)), equal, -sure[:4], equal, sure[:4]),
        (adaption.AdversarialDiscriminativeLoss(), right, "target"),
        (adaption.DomainAdversarialEntropyLoss(lambda _: -right), sure, "source"),
        (adaption.ClassifierDiscrepancyLoss(), certain, certain),
        (adaption.L2ConsistencyLoss(), certain, certain),
        (adaption.MinimumClassConfusionLoss(), sure),
        (adaption.EntropyMinimizationLoss(), sure),
        (adaption.PseudoLabelLoss(), sure),
        (adaption.OneVersusAllLoss(), own, torch.arange(4)),
        (adaption.OpenSetEntropyLoss(), own),
    ]
    disparity = adaption.ClassificationMarginDisparityDiscrepancy()
    assert disparity(sure, sure, sure, sure.roll(1, 0)).item() == disparity.plot_upper_bound == 0
    for metric, *batch in reached:
        assert metric(*batch).item() == pytest.approx(metric.plot_lower_bound, abs=1e-12), type(metric).__name__
        assert metric.plot_upper_bound is None


@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
def test_estimates_that_may_be_negative_have_no_lower_bound(estimator: str) -> None:
    metric = adaption.MaximumMeanDiscrepancyLoss(estimator=estimator)
    values = [metric(torch.randn(8, 2), torch.randn(8, 2)).item() for _ in range(20)]
    assert min(values) < 0
    assert metric.plot_lower_bound is None
