"""The teacher against the recursion it follows, its buffers, modes and state, and its errors."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adaption import DomainAdversarialLoss
from adaption.layers import DomainDiscriminator, EmaTeacher, ImageClassifier


def move(module: nn.Module) -> None:
    """The optimizer's step."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_follows_the_recursion_from_the_first_update_on(alpha: float, warm_up: bool) -> None:
    student = nn.Linear(3, 2).double()
    teacher: Any = EmaTeacher(student, alpha, warm_up=warm_up)
    expected = [parameter.detach().clone() for parameter in student.parameters()]
    for step in range(1, 8):
        move(student)
        teacher.update()
        kept = min(alpha, 1 - 1 / (step + 1)) if warm_up else alpha
        expected = [
            kept * old + (1 - kept) * new.detach() for old, new in zip(expected, student.parameters(), strict=True)
        ]
        torch.testing.assert_close(list(teacher.module.parameters()), expected, check_dtype=False)


def test_warm_up_begins_with_a_plain_mean() -> None:
    student = nn.Linear(3, 2).double()
    teacher: Any = EmaTeacher(student, 0.99, warm_up=True)
    seen = [student.weight.detach().clone()]
    for _ in range(5):
        move(student)
        teacher.update()
        seen.append(student.weight.detach().clone())
    torch.testing.assert_close(teacher.module.weight, torch.stack(seen).mean(0))


def normalised() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_buffers(buffers: str) -> None:
    student = normalised()
    teacher: Any = EmaTeacher(student, 0.9, buffers=buffers)
    start = [buffer.clone() for buffer in student.buffers()]
    student(torch.randn(8, 3))
    teacher.update()
    for before, now, averaged in zip(start, student.buffers(), teacher.module.buffers(), strict=True):
        expected = 0.9 * before + 0.1 * now if buffers == "average" and before.is_floating_point() else now
        torch.testing.assert_close(averaged, expected, check_dtype=False)
    assert teacher.module[1].num_batches_tracked == 1


def test_modes() -> None:
    student, x = normalised(), torch.randn(8, 3)
    parent: Any = nn.ModuleList([student, EmaTeacher(student, 0.9), EmaTeacher(student, 0.9, train_mode=True)])
    _, steady, following = parent.train()
    assert not any(module.training for module in steady.modules())
    assert all(module.training for module in following.modules())
    torch.testing.assert_close(steady(x), steady(x))
    following(x)
    assert following.module[1].num_batches_tracked == 1
    parent.eval()
    assert not any(module.training for module in following.modules())
    assert not EmaTeacher(student.eval(), 0.9, train_mode=True).training


def test_no_gradient_goes_through_it() -> None:
    student, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    teacher: Any = EmaTeacher(student, 0.9)
    assert not teacher(x).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    (student(x) - teacher(x)).square().sum().backward()
    teacher.update()
    assert student.weight.grad is not None


def test_the_student_is_no_part_of_it() -> None:
    student = nn.Linear(3, 2)
    teacher: Any = EmaTeacher(student, 0.9)
    assert set(teacher.state_dict()) == {"n_averaged", "module.weight", "module.bias"}
    assert len(list(teacher.parameters())) == 2
    teacher.double()
    assert student.weight.dtype == torch.float32


def test_a_resumed_run_continues_exactly() -> None:
    student = normalised()
    teacher: Any = EmaTeacher(student, 0.9, warm_up=True)
    for _ in range(3):
        move(student)
        teacher.update()
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    file.seek(0)
    resumed = EmaTeacher(student, 0.9, warm_up=True)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    move(student)
    teacher.update()
    resumed.update()
    torch.testing.assert_close(resumed.state_dict(), teacher.state_dict())


class WithMetric(nn.Module):
    """A student that holds its adversarial loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.dann = DomainAdversarialLoss(DomainDiscriminator(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def test_a_student_that_holds_a_metric() -> None:
    student, x = WithMetric(), torch.randn(4, 3)
    student.dann(student(x), student(x)).backward()
    teacher: Any = EmaTeacher(student, 0.5)
    discriminator: Any = student.dann.domain_disc
    start = discriminator.layers[0].weight.detach().clone()
    move(student)
    student.dann(student(x), student(x)).backward()
    teacher.update()
    averaged = teacher.module.dann.domain_disc.layers[0].weight
    torch.testing.assert_close(averaged, (start + discriminator.layers[0].weight) / 2, check_dtype=False)
    assert teacher(x).shape == (4, 2)
    assert (teacher.module.dann.update_count, student.dann.update_count) == (1, 2)


def test_copies_follow_a_copied_student() -> None:
    student = nn.Linear(3, 2)
    teacher: Any = EmaTeacher(student, 0.5)
    for copied in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        move(student)
        before = copied.module.weight.clone()
        copied.update()
        torch.testing.assert_close(copied.module.weight, before)


def test_teaches_a_network_with_two_heads() -> None:
    backbone: Any = nn.Linear(3, 4)
    student = ImageClassifier(backbone, 2, bottleneck_dim=8, width=8)
    teacher: Any = EmaTeacher(student, 0.9)
    student.step()
    teacher.update()
    assert teacher(torch.randn(4, 3)).shape == (4, 2)
    assert teacher.module.grl.iteration == 1  # a count is copied, not averaged


def test_errors() -> None:
    student = nn.Linear(3, 2)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`alpha` must be a finite number of at least 0 and at most 1, but got"):
            EmaTeacher(student, alpha)
    with pytest.raises(TypeError, match="`model` must be a Module, but got function"):
        EmaTeacher(move, 0.9)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match='`buffers` must be one of "average", "copy"'):
        EmaTeacher(student, 0.9, buffers="keep")
    with pytest.raises(TypeError, match="`train_mode` must be True or False"):
        EmaTeacher(student, 0.9, train_mode=1)  # type: ignore[arg-type]  # the point of the test
    assert "alpha=0.9, buffers='average', train_mode=False, warm_up=False" in repr(EmaTeacher(student, 0.9))
