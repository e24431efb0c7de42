"""PADA's class weights against the paper's equation, in a stream, over ranks, and renewed by step."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import refuses, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import adaption
from adaption import AutomaticUpdateClassWeightModule, ClassWeightModule, collect_classification_results
from adaption.functional import class_weights


def paper(logits: list[list[float]], temperature: float) -> list[float]:
    classes = len(logits[0])
    gamma = [0.0] * classes
    for row in logits:
        exponentials = [math.exp(z / temperature) for z in row]
        for k in range(classes):
            gamma[k] += exponentials[k] / sum(exponentials) / len(logits)
    return [g / max(gamma) for g in gamma]


@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from([0.1, 1.0, 3.0]), st.integers(0, 2**31))
def test_weights_are_those_of_the_paper(m: int, classes: int, temperature: float, seed: int) -> None:
    logits = torch.randn(m, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = torch.tensor(paper(logits.tolist(), temperature), dtype=torch.float64)
    torch.testing.assert_close(class_weights(logits, temperature), expected)
    assert class_weights(logits, temperature).max() == 1


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_logits_are_votes(size: float) -> None:
    logits = (torch.tensor([[1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]) * size).requires_grad_()
    weights = class_weights(logits)
    weights.sum().backward()
    assert weights.tolist() == [1, 0.5, 0]
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_gradient_of_the_function() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: class_weights(z, 0.7), logits)


def test_function_compiles_without_a_break() -> None:
    logits = torch.randn(4, 3)
    compiled = torch.compile(class_weights, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits), class_weights(logits))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_stream_is_exact_in_the_memory_of_one_row(sizes: list[int]) -> None:
    logits = torch.randn(sum(sizes), 4, dtype=torch.float64)
    metric = ClassWeightModule()
    for batch in logits.split(sizes):
        metric.update(batch)
    torch.testing.assert_close(metric.compute(), class_weights(logits), rtol=1e-12, atol=1e-15)
    assert (
        sum(tensor.numel() for tensor in tensors(list(metric.metric_state.values()))) == 4 + 1 + 2
    )  # sums, and counts


def test_bad_input_is_refused() -> None:
    metric = ClassWeightModule()
    metric(torch.randn(3, 4))
    refuses(
        metric, r"the logits of at least 2 classes, .*`torch.cat\(\[torch.zeros_like\(z\), z\], 1\)`", torch.randn(2, 1)
    )
    refuses(metric, "`target_logits` must hold logits, but", torch.randn(2, 4).softmax(1))
    for other in (2, 3, 5):
        refuses(metric, "`target_logits` must have 4 columns, as the batches before, but got", torch.randn(2, other))
    refuses(metric, r"`target_logits` must have shape \(N, classes\)", torch.randn(4))
    metric.reset()
    metric.update(torch.randn(2, 5))
    assert metric.compute().shape == (5,)
    for build in (ClassWeightModule, lambda temperature: class_weights(torch.randn(2, 3), temperature)):
        with pytest.raises(ValueError, match=r"`temperature` must be at least 1.17549e-38, .* but got 1e-50"):
            build(1e-50)
    assert class_weights(torch.tensor([[1.0, 1.0, 0.0]]), 1.2e-38).tolist() == [1, 1, 0]
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`temperature` must be a finite number above 0"):
            ClassWeightModule(temperature)
        with pytest.raises(ValueError, match="`temperature` must be a finite number above 0"):
            class_weights(torch.randn(2, 3), temperature)
    with pytest.raises(TypeError, match="`temperature` must be a number"):
        ClassWeightModule("hot")  # type: ignore[arg-type]


class Classifier(nn.Module):
    """Logits that differ between training and evaluation mode, with a part that the user keeps in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        logits: Tensor = self.head(self.norm(x))
        return logits


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


INPUTS = torch.arange(40.0).reshape(10, 4) / 10 - 2
LOADERS: dict[str, Callable[[], Any]] = {
    "(x, y)": lambda: DataLoader(TensorDataset(INPUTS, torch.arange(10)), batch_size=3),
    "(x,)": lambda: DataLoader(TensorDataset(INPUTS), batch_size=4),
    "x": lambda: DataLoader(INPUTS, batch_size=10),  # type: ignore[arg-type]
    "list": lambda: [list(INPUTS.split(5)[:1]), (INPUTS[5:], "anything")],
}
every_loader = pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)


@every_loader
def test_all_logits_are_collected_and_no_trace_is_left(loader: Callable[[], Any]) -> None:
    classifier = Classifier()
    before, inputs = modes(classifier), INPUTS.clone()
    logits = collect_classification_results(loader(), classifier, "cpu")
    assert modes(classifier) == before == [True, False, True]
    assert not logits.requires_grad
    torch.testing.assert_close(logits, classifier.head(classifier.norm(INPUTS)).detach())
    assert torch.equal(inputs, INPUTS)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_the_mode_comes_back_after_an_error() -> None:
    classifier = Classifier()
    for loader, error, match in (
        ([], ValueError, "`data_loader` must give at least one batch, but got none"),
        (["text"], TypeError, r"`data_loader` must give `x`, `\(x,\)` or `\(x, y\)` with a tensor `x`, but got str"),
        ([INPUTS, ()], TypeError, "`data_loader` must give `x`"),
        ([{"x": INPUTS}], TypeError, "`data_loader` must give `x`.*but got dict"),
        (3, TypeError, "`data_loader` must be iterable, but got int"),
    ):
        with pytest.raises(error, match=match):
            collect_classification_results(loader, classifier, "cpu")  # type: ignore[arg-type]
        assert modes(classifier) == [True, False, True]
        assert torch.is_grad_enabled()
    for wrong, kind, match in (
        (lambda x: (x, x), TypeError, "`classifier` must return a tensor of logits, but got tuple"),
        (lambda x: x[:, 0], ValueError, r"`classifier\(x\)` must have shape \(N, classes\)"),
        (nn.Linear, TypeError, "`classifier` must be a Module or another callable, but got the class Linear"),
    ):
        with pytest.raises(kind, match=match):
            collect_classification_results([INPUTS], wrong, "cpu")  # type: ignore[arg-type]


def automatic(loader: Any = None, classifier: Any = None, **settings: Any) -> AutomaticUpdateClassWeightModule:
    torch.manual_seed(1)
    arguments = {"update_steps": 3, "num_classes": 3, "device": "cpu", **settings}
    return AutomaticUpdateClassWeightModule(
        data_loader=[INPUTS] if loader is None else loader, classifier=classifier or Classifier(), **arguments
    )


@every_loader
def test_weights_are_renewed_every_few_steps(loader: Callable[[], Any]) -> None:
    classifier = Classifier()
    module = automatic(loader(), classifier)
    expected = torch.ones(3)
    for step in range(1, 8):
        classifier.head.bias.data += torch.tensor([0.1, 0.0, -0.1])  # the classifier learns on
        module.step()
        if step % 3 == 0:
            expected = class_weights(collect_classification_results(loader(), classifier, "cpu"))
        weights = module.get_class_weight_for_cross_entropy_loss()
        torch.testing.assert_close(weights, expected)
        assert weights.dtype == torch.float32
        assert modes(classifier) == [True, False, True]
    assert module.num_steps == 7


def test_evaluation_mode_stands_still() -> None:
    module = automatic(update_steps=1).eval()
    module.step()
    assert module.num_steps == 0
    assert (module.class_weight == 1).all()


def test_an_error_loses_no_step() -> None:
    broken: list[Any] = [INPUTS]
    module = automatic(broken, update_steps=2)
    module.step()
    module.step()
    module.step()
    before = module.class_weight.clone()
    broken.append("text")
    with pytest.raises(TypeError, match="`data_loader` must give"):
        module.step()
    assert module.num_steps == 3
    assert torch.equal(module.class_weight, before)
    broken.pop()
    module.step()
    assert module.num_steps == 4


def test_an_iterator_that_is_used_up_is_named() -> None:
    def once() -> Iterator[Tensor]:
        yield INPUTS

    module = automatic(once(), update_steps=1)
    module.step()
    with pytest.raises(ValueError, match=r"at least one batch, but got none\. Look for an iterator that is used up"):
        module.step()


def test_state_dict_holds_weights_and_steps_and_nothing_else() -> None:
    module = automatic()
    for _ in range(4):
        module.step()
    assert set(module.state_dict()) == {"class_weight", "num_steps"}
    assert not list(module.parameters())
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    resumed = automatic()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert not torch.equal(resumed.class_weight, torch.ones(3))
    for same in (resumed, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for _ in range(2):
            same.step()
        assert same.num_steps == 6
    for _ in range(2):
        module.step()
    assert torch.equal(resumed.class_weight, module.class_weight)


def test_a_copy_of_the_model_looks_at_its_own_classifier() -> None:
    classifier = Classifier()
    copied, weights = copy.deepcopy(nn.ModuleList([classifier, automatic(classifier=classifier)]))
    assert isinstance(weights, AutomaticUpdateClassWeightModule)
    assert weights.classifier is copied
    assert copied is not classifier


def test_returned_weights_are_the_callers_own() -> None:
    module = automatic(update_steps=1)
    module.step()
    weights = module.get_class_weight_for_cross_entropy_loss()
    logits = torch.randn(3, 3, requires_grad=True)
    loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]), weight=weights)
    kept = module.class_weight.clone()
    module.step()
    loss.backward()  # the weights in the graph are still those of the loss
    weights.zero_()
    assert torch.equal(module.class_weight, kept)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("m", [2, 4, 7])
def test_weights_feed_the_adversarial_loss(dtype: torch.dtype, m: int) -> None:
    module = automatic(update_steps=1)
    module.step()
    labels = torch.tensor([2, 0, 1, 1], dtype=dtype)
    w_s, w_t = module.get_class_weight_for_adversarial_loss(labels)
    assert w_s.tolist() == [module.class_weight[k].item() for k in (2, 0, 1, 1)]
    assert torch.equal(module.get_class_weight_for_adversarial_loss(labels.unsqueeze(1))[0], w_s)
    source, target = torch.randn(4, 1), torch.randn(m, 1)
    value = adaption.DomainAdversarialLoss(nn.Identity())(source, target, w_s, w_t)
    expected = (
        sum(w * math.log1p(math.exp(z)) for w, z in zip(w_s.tolist(), source.flatten().tolist(), strict=True)) / 4
    )
    expected += sum(math.log1p(math.exp(-z)) for z in target.flatten().tolist()) / m
    assert value.item() == pytest.approx(expected / 2, rel=1e-6)


def test_labels_are_checked() -> None:
    module = automatic()
    weigh = module.get_class_weight_for_adversarial_loss
    for labels in (torch.tensor([0, 3]), torch.tensor([-1, 2])):
        with pytest.raises(ValueError, match="`source_labels` must lie between 0 and 2, but got labels from"):
            weigh(labels)
    with pytest.raises(ValueError, match=r"`source_labels` must hold one class per sample.*argmax"):
        weigh(torch.eye(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="`source_labels` must hold one class per sample"):
        weigh(torch.ones(0, dtype=torch.int64))
    for dtype in (torch.float32, torch.bool):
        with pytest.raises(TypeError, match=r"`source_labels` must hold integers.*\.long\(\)"):
            weigh(torch.zeros(2, dtype=dtype))
    with pytest.raises(TypeError, match="`source_labels` must be a tensor"):
        weigh([0, 1])  # type: ignore[arg-type]


def test_labels_are_looked_up_without_a_break() -> None:
    """In a compiled step their values are not read, and torch's own indexing guards the range."""
    module = automatic()
    weigh = torch.compile(module.get_class_weight_for_adversarial_loss, fullgraph=True, backend="eager")
    assert weigh(torch.tensor([2, 0]))[0].tolist() == [1, 1]


def test_the_diagnosis_splits_the_classes() -> None:
    module = automatic(partial_classes_index=[0, 2])
    module.class_weight = torch.tensor([1.0, 0.25, 0.5])
    assert [mean.item() for mean in module.get_partial_classes_weight()] == [0.75, 0.25]
    assert automatic(partial_classes_index=range(3)).get_partial_classes_weight()[1].isnan()
    with pytest.raises(ValueError, match="`partial_classes_index` must be given for `get_partial_classes_weight`"):
        automatic().get_partial_classes_weight()


def test_settings_are_checked() -> None:
    for settings, error, match in (
        ({"partial_classes_index": [0, 3]}, ValueError, r"`partial_classes_index` must lie below `num_classes` \(3\)"),
        ({"partial_classes_index": []}, ValueError, "`partial_classes_index` must name at least one class"),
        ({"partial_classes_index": [-1]}, ValueError, r"`partial_classes_index\[0\]` must be at least 0"),
        ({"partial_classes_index": ["a"]}, TypeError, r"`partial_classes_index\[0\]` must be an integer"),
        ({"partial_classes_index": 2}, TypeError, "`partial_classes_index` must be iterable, but got int"),
        ({"update_steps": 0}, ValueError, "`update_steps` must be at least 1"),
        ({"num_classes": 0}, ValueError, "`num_classes` must be at least 1"),
        ({"temperature": 0}, ValueError, "`temperature` must be a finite number above 0"),
        ({"temperature": 1e-50}, ValueError, "`temperature` must be at least 1.17549e-38"),
        ({"loader": 5}, TypeError, "`data_loader` must be iterable"),
        ({"classifier": 5}, TypeError, "`classifier` must be a Module or another callable"),
    ):
        with pytest.raises(error, match=match):
            automatic(**settings)
    module = automatic(num_classes=4, update_steps=1)
    with pytest.raises(
        ValueError, match=r"`classifier\(x\)` must have 4 columns, as `num_classes` says, but got shape"
    ):
        module.step()
    assert "update_steps=1, num_classes=4, temperature=0.1" in repr(module)


def test_a_classifier_of_changing_width_is_refused() -> None:
    batches = [torch.zeros(2, 3), torch.zeros(2, 4)]
    with pytest.raises(ValueError, match=r"`classifier` must return as many columns for every batch \(3\)"):
        adaption.collect_classification_results(batches, nn.Identity(), "cpu")
    with pytest.raises(ValueError, match="`device` must be a device of this machine, but got 'nowhere'"):
        adaption.collect_classification_results(batches, nn.Identity(), "nowhere")
