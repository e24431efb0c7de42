"""Label shift: exact where the confusion is known, EM step by step, classes that are absent or not told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import LabelShiftWeights
from adaption.functional import label_shift_weights

both_methods = pytest.mark.parametrize("method", ["bbse", "em"])


def naming(classes: list[int] | Tensor, number: int = 3) -> Tensor:
    """Logits that name these classes."""
    return 9.0 * torch.nn.functional.one_hot(torch.as_tensor(classes), number)


def counted(counts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Source logits and labels with so many samples of class k (column) that are named i (row)."""
    named = [i for i, row in enumerate(counts) for k, count in enumerate(row) for _ in range(count)]
    true = [k for row in counts for k, count in enumerate(row) for _ in range(count)]
    return naming(named, len(counts)), torch.tensor(true)


def test_the_mixture_of_known_confusions_is_solved_exactly() -> None:
    """Of class 0 three of four are named right, and so on; the target has the classes 1 : 2 : 5."""
    logits, labels = counted([[6, 2, 0], [2, 8, 1], [0, 0, 7]])
    target = naming([0] * 125 + [1] * 203 + [2] * 500)  # 6/8 + 2 * 2/10, 2/8 + 2 * 8/10 + 5/8, 5 * 7/8, times 800/7
    per_class = np.array([[6, 2, 0], [2, 8, 1], [0, 0, 7]]) / np.array([8, 10, 8])
    said = np.array([125, 203, 500]) / 828
    expected = np.linalg.solve(per_class, said) / (np.array([8, 10, 8]) / 26)
    found = label_shift_weights(logits, labels, target)
    torch.testing.assert_close(found, torch.from_numpy(expected / (expected @ np.array([8, 10, 8]) * 1 / 26)))


@given(n=st.integers(4, 30), m=st.integers(1, 30), seed=st.integers(0, 1000))
def test_em_is_the_algorithm_step_by_step(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(4), torch.randint(4, (n - 4,), generator=generator)])
    source, target = (torch.randn(size, 4, generator=generator, dtype=torch.float64) for size in (n, m))
    found = label_shift_weights(source, labels, target, method="em")
    prior = np.bincount(labels.numpy(), minlength=4) / n
    posterior = target.softmax(1).numpy()
    q = prior
    for _ in range(20_000):
        joint = posterior * q / prior
        q = (joint / joint.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found.numpy() * prior, q, atol=1e-6)


@both_methods
def test_a_target_like_the_source_has_weights_of_1(method: str) -> None:
    logits, labels = counted([[6, 2, 0], [2, 8, 1], [0, 0, 7]])
    if method == "em":  # calibrated: in each bin the probabilities are the shares of the true classes
        shares = torch.tensor([[6.0, 2, 0], [2, 8, 1], [0, 0, 7]])
        logits = (shares / shares.sum(1, keepdim=True)).log().clamp(min=-1e4)[logits.argmax(1)]
    found = label_shift_weights(logits, labels, logits, method=method)
    torch.testing.assert_close(found, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


@both_methods
def test_absent_classes_get_0_and_others_share(method: str) -> None:
    """The source lacks class 2, which the target is also named; a sample of it alone says nothing."""
    found = label_shift_weights(naming([0, 1, 0, 1]), torch.tensor([0, 1, 0, 1]), naming([0, 0, 0, 1]), method=method)
    torch.testing.assert_close(found, torch.tensor([1.5, 0.5, 0.0], dtype=torch.float64), rtol=0, atol=1e-2)
    lost = 1e4 * torch.tensor([[0.0, 0.0, 1.0]])
    found = label_shift_weights(naming([0, 1]), torch.tensor([0, 1]), torch.cat([naming([0, 1]), lost]), method=method)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-3)


def test_classes_that_are_never_told_apart_keep_their_ratio() -> None:
    """Class 2 is always named 1: the pair grows together."""
    logits, labels = counted([[5, 0, 0], [0, 3, 2], [0, 0, 0]])
    found = label_shift_weights(logits, labels, naming([0] * 2 + [1] * 8))
    assert found[0].item() == pytest.approx(0.4)
    proportions = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert (proportions @ found).item() == pytest.approx(1)
    assert found[1:].min() > 1


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_shift_of_one_to_nine_is_recovered(scale: float) -> None:
    """2,000 samples of normal classes; counts do not ask whether the logits are calibrated, likelihood does."""
    torch.manual_seed(0)
    proportions = torch.tensor([1.0, 2.0, 3.0, 9.0])
    centres = 3 * torch.eye(4)
    labels = torch.arange(2000) % 4
    truth = torch.multinomial(proportions, 2000, replacement=True)
    source, target = (centres[classes] + torch.randn(2000, 4) for classes in (labels, truth))
    logits = [scale * 3 * x for x in (source, target)]  # scale 1 is the posterior of equal classes
    expected = truth.bincount().double() / 500
    methods = ("bbse", "em") if scale == 1 else ("bbse",)
    for method in methods:
        found = label_shift_weights(logits[0], labels, logits[1], method=method)
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0)


@both_methods
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(method: str, sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metric, parts = LabelShiftWeights(4, method=method), []
    for size in sizes:
        batch = (
            torch.randn(size, 4, generator=generator),
            torch.randint(4, (size,), generator=generator),
            torch.randn(size + 1, 4, generator=generator),
        )
        metric.update(*batch)
        parts.append(batch)
    whole = [torch.cat(part) for part in zip(*parts, strict=True)]
    torch.testing.assert_close(metric.compute(), label_shift_weights(*whole, method=method), rtol=1e-9, atol=1e-9)


@both_methods
@given(n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 1000))
def test_weighted_proportions_of_the_source_sum_to_1(method: str, n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    source, target = (torch.randn(size, 3, generator=generator) for size in (n, m))
    found = label_shift_weights(source, labels, target, method=method)
    proportions = labels.bincount(minlength=3).double() / n
    assert (found >= 0).all()
    assert (found[proportions == 0] == 0).all()
    assert (proportions @ found).item() == pytest.approx(1)


@both_methods
def test_nan_gives_nan(method: str) -> None:
    target = torch.full((2, 3), torch.nan)
    assert label_shift_weights(naming([0, 1]), torch.tensor([0, 1]), target, method=method).isnan().all()
    if method == "bbse":
        assert label_shift_weights(target, torch.tensor([0, 1]), naming([0, 1]), method=method).isnan().all()


def test_errors() -> None:
    logits, labels = naming([0, 1]), torch.tensor([0, 1])
    metric = LabelShiftWeights(3)
    metric.update(logits, labels, logits)
    refuses(metric, "`source_labels` must", logits, torch.tensor([0, 3]), logits)
    refuses(metric, "`source_labels`", logits, labels[:1], logits)
    refuses(metric, "`target_logits` must have 3 columns", logits, labels, logits[:, :2])
    refuses(metric, "`source_logits` must hold logits", logits.softmax(1), labels, logits)
    refuses(metric, "`source_logits` must have 3 columns, as `num_classes`", naming([0, 1], 4), labels, naming([1], 4))
    with pytest.raises(ValueError, match="`method` must be"):
        label_shift_weights(logits, labels, logits, method="rlls")
    with pytest.raises(ValueError, match="`num_classes` must be"):
        LabelShiftWeights(1)
