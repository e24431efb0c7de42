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


HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@HALVES
@pytest.mark.parametrize("warm_up", [False, True])
def test_of_half_precision_the_average_is_kept_in_float32(dtype: torch.dtype, warm_up: bool) -> None:
    """A step of a thousandth is less than such a weight can move by: it would stand still for good."""
    student = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(dtype)
    exact = copy.deepcopy(student).double()
    teachers: list[Any] = [EmaTeacher(model, 0.999, warm_up=warm_up) for model in (student, exact)]
    for _ in range(300):
        for parameter, twin in zip(student.parameters(), exact.parameters(), strict=True):
            parameter.data += torch.full_like(parameter, 0.01)
            twin.data.copy_(parameter)
        for teacher in teachers:
            teacher.update()
    teacher, expected = teachers
    torch.testing.assert_close(list(teacher.module.parameters()), list(expected.module.to(dtype).parameters()))
    assert teacher.module[1].running_mean.dtype == dtype
    assert teacher(torch.randn(4, 3, dtype=dtype)).dtype == dtype


def steps(teacher: EmaTeacher, student: nn.Module, seed: int = 0) -> None:
    torch.manual_seed(seed)
    for _ in range(20):
        move(student)
        teacher.update()


@HALVES
def test_a_cast_teacher_keeps_its_averages(dtype: torch.dtype) -> None:
    student = normalised()
    plain: Any = EmaTeacher(student, 0.99)
    cast: Any = copy.deepcopy(plain)
    cast._student = plain._student
    cast.to(dtype)
    assert {tensor.dtype for tensor in cast.module.parameters()} == {dtype}
    for _ in range(20):
        move(student)
        plain.update()
        cast.update()
    cast.cpu()
    torch.testing.assert_close(list(cast.module.parameters()), [p.to(dtype) for p in plain.module.parameters()])
    cast.float()
    torch.testing.assert_close(cast.state_dict(), plain.state_dict())


@HALVES
def test_a_resumed_run_in_half_precision_continues_exactly(dtype: torch.dtype) -> None:
    student = normalised().to(dtype)
    teacher = EmaTeacher(student, 0.99)
    steps(teacher, student)
    resumed = EmaTeacher(student, 0.99)
    resumed.load_state_dict(teacher.state_dict())
    copied = copy.deepcopy(teacher)
    copied._student = teacher._student
    for one in (teacher, resumed, copied):
        torch.manual_seed(1)
        one.update()
        torch.testing.assert_close(one.state_dict(), teacher.state_dict(), rtol=0, atol=0)


@HALVES
def test_a_checkpoint_loads_in_another_precision(dtype: torch.dtype) -> None:
    plain, half = normalised(), normalised().to(dtype)
    teacher, half_teacher = EmaTeacher(plain, 0.9), EmaTeacher(half, 0.9)
    steps(teacher, plain)
    half_teacher.load_state_dict(teacher.state_dict())
    torch.testing.assert_close(half_teacher.float().state_dict(), teacher.state_dict())
    half_teacher = EmaTeacher(half, 0.9)
    steps(half_teacher, half)
    teacher.load_state_dict(half_teacher.state_dict())
    torch.testing.assert_close(half_teacher.float().state_dict(), teacher.state_dict())


@HALVES
def test_a_teacher_without_data_is_filled_by_a_checkpoint(dtype: torch.dtype) -> None:
    student = normalised().to(dtype)
    teacher, empty = EmaTeacher(student, 0.9), EmaTeacher(student, 0.9).to("meta").to_empty(device="cpu")
    steps(teacher, student)
    empty.load_state_dict(teacher.state_dict())
    torch.testing.assert_close(empty.state_dict(), teacher.state_dict())


def norm_of(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach(), 2))


SPECTRAL: dict[str, Any] = {
    "new": nn.utils.parametrizations.spectral_norm,
    "old": nn.utils.spectral_norm,
}
WEIGHT: dict[str, Any] = {
    "new": nn.utils.parametrizations.weight_norm,
    "old": nn.utils.weight_norm,
}
old_or_new = pytest.mark.parametrize("style", ["new", "old"])
deprecated = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


@old_or_new
@pytest.mark.parametrize("buffers", ["average", "copy"])
@pytest.mark.parametrize("alpha", [0.0, 0.9, 0.99])
def test_spectral_normalisation_of_the_teacher_holds(style: str, buffers: str, alpha: float) -> None:
    student = nn.Sequential(SPECTRAL[style](nn.Linear(8, 8)), nn.ReLU(), SPECTRAL[style](nn.Conv1d(1, 3, 2)))
    student[0](torch.randn(2, 8)).sum().backward()  # the older function leaves a weight with a graph behind
    teacher: Any = EmaTeacher(student, alpha, buffers=buffers)
    for _ in range(100):
        move(student)
        student[0](torch.randn(2, 8))
        teacher.update()
    for module in (teacher.module[0], teacher.module[2]):
        assert norm_of(module.weight.flatten(1)) == pytest.approx(1, abs=0.05)
    assert not any(module.training for module in teacher.modules())


@deprecated
@old_or_new
def test_weight_normalisation_has_the_average_length(style: str) -> None:
    student = nn.Sequential(WEIGHT[style](nn.Linear(4, 3)).double())
    lengths, directions = [parameter for parameter in student.parameters() if parameter.numel() in {3, 12}][-2:]
    teacher: Any = EmaTeacher(student, 0.5)
    length, direction = lengths.detach().clone(), directions.detach().clone()
    for _ in range(5):
        move(student)
        teacher.update()
        length, direction = (length + lengths.detach()) / 2, (direction + directions.detach()) / 2
    weight = teacher.module[0].weight.detach()
    torch.testing.assert_close(weight, length * nn.functional.normalize(direction, dim=1))


def test_an_orthogonal_weight_stays_orthogonal() -> None:
    student = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4).double())
    teacher: Any = EmaTeacher(student, 0.9)
    for _ in range(10):
        move(student)
        teacher.update()
    torch.testing.assert_close(teacher.module.weight @ teacher.module.weight.T, torch.eye(4, dtype=torch.float64))


def test_pruned_weights_stay_pruned() -> None:
    from torch.nn.utils import prune

    student = nn.Linear(4, 4)
    prune.l1_unstructured(student, "weight", amount=4)
    teacher: Any = EmaTeacher(student, 0.9)
    prune.l1_unstructured(student, "weight", amount=4)
    teacher.update()
    assert int((teacher.module.weight == 0).sum()) == 8
    torch.testing.assert_close(teacher.module.weight_mask, student.weight_mask)


@pytest.mark.parametrize("tensor", [nn.Parameter(torch.ones(2)), torch.ones(2)], ids=["parameter", "buffer"])
def test_a_changed_student_is_refused(tensor: Tensor) -> None:
    student = normalised()
    teacher: Any = EmaTeacher(student, 0.9)
    before = copy.deepcopy(teacher.state_dict())
    move(student)
    added, shrunk = copy.deepcopy(student), copy.deepcopy(student)
    register: Any = added.register_parameter if isinstance(tensor, nn.Parameter) else added.register_buffer
    register("scale", tensor)
    shrunk[3] = nn.Linear(4, 1)
    for changed, names in ((added, r"\['scale'\]"), (shrunk, r"\['3.bias', '3.weight'\]"), (student[:3], "'3.bias'")):
        teacher._student = (changed,)
        with pytest.raises(ValueError, match=f"`model` must have the weights and buffers that it had.*{names}"):
            teacher.update()
        torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


def test_a_lazy_student_is_asked_for_a_batch_first() -> None:
    student = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match=r"`model` must know the shapes of its weights, but \['0.weight', '0.bias'"):
        EmaTeacher(student, 0.9)
    student(torch.randn(4, 2))
    assert EmaTeacher(student, 0.9)(torch.randn(4, 2)).shape == (4, 3)


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
