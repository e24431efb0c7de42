"""VAT: closed forms, the power iteration, all that it must leave alone, precision, directions, and errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from cases import refuses
from formulas import virtual_adversarial
from torch import Tensor, nn

from adaption import VirtualAdversarialLoss, _passes
from adaption.ensemble import vat

WIDTH, CLASSES, N = 6, 4, 8


class Noisy(nn.Module):
    """A classifier with all that a pass could leave behind: statistics, masks of two kinds, and a count."""

    steps: Tensor

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.norm, self.last = nn.Linear(WIDTH, 32), nn.BatchNorm1d(32), nn.Linear(32, CLASSES)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        hidden = self.drop(self.norm(self.first(x)).tanh())
        logits: Tensor = self.last(nn.functional.dropout(hidden, self.dropout, self.training))
        return logits


def smooth() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def change(metric: VirtualAdversarialLoss, inputs: Tensor) -> Tensor:
    """How far, and where to, the samples are moved."""
    return metric._worst(inputs, None)[1]


# What it is


def test_a_linear_classifier_of_two_classes_is_moved_along_the_normal_of_its_boundary() -> None:
    """To one side or the other, whichever the direction is nearer to: KL of p and sigmoid(z ± ε |w|)."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(WIDTH, 2).double(), torch.randn(N, WIDTH).double()
    normal = (model.weight[1] - model.weight[0]).detach()
    odds = (model(inputs)[:, 1] - model(inputs)[:, 0]).detach()
    p = odds.sigmoid()
    expected = []
    for side in (1, -1):
        q = (odds + side * 2.0 * normal.norm()).sigmoid()
        expected.append((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean().item())
    metric = VirtualAdversarialLoss(model, epsilon=2.0).eval()
    value = metric(inputs).item()
    assert min(abs(value - side) for side in expected) < 1e-9
    moved = change(metric, inputs)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((N,), 2.0, dtype=torch.float64))
    torch.testing.assert_close((moved @ normal).abs(), 2.0 * normal.norm().expand(N))


def test_many_steps_find_the_leading_direction_of_the_fisher_information() -> None:
    """Of a small length, the worst change costs ε² λ / 2 with the largest eigenvalue λ of W' (diag p - p p') W."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(WIDTH, CLASSES).double(), torch.randn(N, WIDTH).double()
    eigenvalues = []
    for p in model(inputs).softmax(1).detach():
        fisher = model.weight.T @ (torch.diag(p) - torch.outer(p, p)) @ model.weight
        eigenvalues.append(torch.linalg.eigvalsh(fisher)[-1])
    metric = VirtualAdversarialLoss(model, 1e-3, num_iterations=200).eval()
    torch.testing.assert_close(metric(inputs), 1e-6 / 2 * torch.stack(eigenvalues).mean(), rtol=1e-3, atol=0)
    one = VirtualAdversarialLoss(model, 1e-3).eval()
    assert one(inputs) < 0.999 * metric(inputs)


def test_dense_predictions_count_every_position() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, CLASSES, 1)).double()
    metric, inputs = VirtualAdversarialLoss(model).eval(), torch.randn(2, 3, 4, 5).double()
    torch.testing.assert_close(metric(inputs), virtual_adversarial(metric, inputs))
    assert metric.num_samples == 2 * 4 * 5
    assert change(metric, inputs).flatten(1).norm(dim=1).tolist() == pytest.approx([3.5, 3.5])


def test_logits_of_the_model_save_a_pass_and_change_nothing() -> None:
    passes: list[int] = []
    model, inputs = smooth(), torch.randn(N, WIDTH)
    model.register_forward_hook(lambda *_: passes.append(1))
    metric = VirtualAdversarialLoss(model).eval()
    logits = model(inputs)
    passes.clear()
    value = metric(inputs)
    assert len(passes) == 3
    torch.testing.assert_close(metric(inputs, logits), value, rtol=1e-4, atol=1e-7)
    assert len(passes) == 5


def test_through_the_logits_that_are_held_constant_no_gradient_passes() -> None:
    model, inputs = smooth(), torch.randn(N, WIDTH)
    logits = model(inputs).detach().requires_grad_()
    VirtualAdversarialLoss(model)(inputs, logits).backward()
    assert logits.grad is None


def test_a_layer_that_is_used_twice_has_its_whole_gradient() -> None:
    layer = nn.Linear(WIDTH, WIDTH).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    metric, inputs = VirtualAdversarialLoss(model).eval(), torch.randn(N, WIDTH).double()
    found = torch.autograd.grad(metric(inputs), layer.weight)
    torch.testing.assert_close(found, torch.autograd.grad(virtual_adversarial(metric, inputs), layer.weight))


# What it leaves alone


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Assert that all of the caller's that a call could move is as it was."""

    def tensors() -> list[Any]:
        gradients = [parameter.grad for parameter in model.parameters()]
        return [model.state_dict(), [torch.zeros(0) if g is None else g for g in gradients], torch.get_rng_state()]

    def places() -> list[Any]:
        named = [*model.named_parameters(), *model.named_buffers()]
        gradients = [(parameter.requires_grad, id(parameter.grad)) for parameter in model.parameters()]
        return [
            *((name, id(tensor)) for name, tensor in named),
            *gradients,
            *(module.training for module in model.modules()),
            torch.is_grad_enabled(),
        ]

    before, at = copy.deepcopy(tensors()), places()
    yield
    torch.testing.assert_close(tensors(), before, rtol=0, atol=0)
    assert places() == at


MODES: dict[str, Callable[[], Any]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", ["forward", "update"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_callers_gradients_buffers_modes_and_generators_stay(mode: str, call: str, training: bool) -> None:
    model, inputs = Noisy().train(training), torch.randn(N, WIDTH)
    model.norm.eval()  # modes may be mixed
    model.last.bias.requires_grad = False
    model(inputs).sum().backward()
    metric = VirtualAdversarialLoss(model, num_iterations=2)
    model.norm.train()
    model.drop.eval()
    with untouched(model), MODES[mode]():
        getattr(metric, call)(inputs)
    assert not inputs.requires_grad
    assert metric.compute() > 0


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_pass_that_fails_leaves_all_as_it_was(half: bool) -> None:
    class Failing(Noisy):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            Failing.calls += 1
            if Failing.calls == 2:
                raise ArithmeticError
            return logits

    model = Failing().bfloat16() if half else Failing()
    metric, inputs = VirtualAdversarialLoss(model), torch.randn(N, WIDTH)
    with untouched(model), pytest.raises(ArithmeticError):
        metric(inputs)
    assert metric.update_count == metric.directions.draws == 0


def test_backward_adds_to_the_callers_gradients_what_the_last_pass_gives() -> None:
    model, inputs = smooth().double(), torch.randn(N, WIDTH).double()
    metric = VirtualAdversarialLoss(model).eval()
    expected = torch.autograd.grad(virtual_adversarial(metric, inputs), list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    metric(inputs).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 1 + gradient)


def test_all_passes_have_the_same_masks() -> None:
    """A change of nearly no length costs nearly nothing; under other masks the predictions would be far apart."""
    torch.manual_seed(0)
    model, inputs = Noisy(), torch.randn(N, WIDTH)
    apart = model(inputs).softmax(1) - model(inputs).softmax(1)
    assert apart.abs().max() > 0.1
    metric = VirtualAdversarialLoss(model, 1e-4)
    values = [metric(inputs).item() for _ in range(3)]
    assert max(values) < 1e-6
    assert min(values) > 0


def test_masks_are_those_that_the_caller_is_about_to_draw() -> None:
    model, inputs = Noisy(), torch.randn(N, WIDTH)
    metric = VirtualAdversarialLoss(model)
    metric.directions.eval()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(metric(inputs).item())
    assert values[0] == values[1] != values[2]


def test_batch_normalisation_takes_the_statistics_of_its_batch_in_training() -> None:
    model = Noisy(dropout=0.0).double()
    model.norm(5 + torch.randn(N, 32).double())  # statistics of other batches
    alone = copy.deepcopy(model)
    alone.norm = nn.BatchNorm1d(32, track_running_stats=False).double()
    alone.norm.load_state_dict(model.norm.state_dict(), strict=False)
    inputs = torch.randn(N, WIDTH).double()
    values = []
    for network in (model, alone):
        metric = VirtualAdversarialLoss(network)
        metric.directions.eval()
        values.append(metric(inputs))
    torch.testing.assert_close(*values)
    assert not torch.isclose(VirtualAdversarialLoss(model).eval()(inputs), values[0], rtol=1e-2)


def test_the_next_step_of_training_is_that_without_it() -> None:
    model, inputs = Noisy(), torch.randn(N, WIDTH)
    twin = copy.deepcopy(model)
    state = torch.get_rng_state()
    metric = VirtualAdversarialLoss(model)
    metric(inputs)
    found = model(inputs)
    torch.set_rng_state(state)
    torch.testing.assert_close(found, twin(inputs), rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()), rtol=0, atol=0)


# Modes


def test_the_value_is_the_same_in_every_mode() -> None:
    metric, inputs = VirtualAdversarialLoss(smooth()).eval(), torch.randn(N, WIDTH)
    expected = metric(inputs)
    assert expected.requires_grad
    with torch.no_grad():
        assert metric(inputs) == expected
    with torch.inference_mode():
        assert metric(inputs.clone()) == expected
        metric.update(inputs.clone())
    metric.update(inputs)
    torch.testing.assert_close(metric.compute().float(), expected.detach())


def test_a_model_made_in_inference_mode_is_evaluated_there() -> None:
    with torch.inference_mode():
        metric, inputs = VirtualAdversarialLoss(Noisy()), torch.randn(N, WIDTH)
        assert metric(inputs) > 0
        assert metric.eval()(inputs) > 0


def test_the_transforms_of_torch_func_see_its_gradient() -> None:
    metric, inputs = VirtualAdversarialLoss(smooth()).eval(), torch.randn(N, WIDTH)
    gradient = torch.func.grad(metric)(inputs)
    torch.testing.assert_close(gradient, torch.autograd.grad(metric(inputs.requires_grad_()), inputs)[0])
    names = dict(metric.named_parameters())
    by_parameters = torch.func.grad(lambda p: torch.func.functional_call(metric, p, (inputs.detach(),)))(names)
    expected = torch.autograd.grad(metric(inputs.detach()), list(names.values()))
    torch.testing.assert_close(tuple(by_parameters.values()), expected)


def test_a_compiled_step_moves_no_buffer_either() -> None:
    model, inputs = Noisy(dropout=0.0), torch.randn(N, WIDTH)
    before = copy.deepcopy(model.state_dict())
    metric = VirtualAdversarialLoss(model)
    metric.directions.eval()
    expected = metric(inputs)
    value = torch.compile(lambda x: 1 * metric(x), fullgraph=True, backend="eager")(inputs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


# Precision


def along(left: Tensor, right: Tensor) -> float:
    """The smallest cosine between the changes of the samples."""
    return nn.functional.cosine_similarity(left.double().flatten(1), right.double().flatten(1)).min().item()


def test_in_float32_the_default_of_xi_finds_the_direction_and_a_much_smaller_one_does_not() -> None:
    torch.manual_seed(0)
    exact, inputs = smooth().double(), torch.randn(64, WIDTH).double()
    single = copy.deepcopy(exact).float()
    found = {
        xi: along(
            *(
                change(VirtualAdversarialLoss(m, xi=xi).eval(), x)
                for m, x in ((single, inputs.float()), (exact, inputs))
            )
        )
        for xi in (1e-3, 1e-7)
    }
    assert found[1e-3] > 0.9999
    assert found[1e-7] < 0.5


@pytest.mark.parametrize("given", [False, True], ids=["", "logits given"])
@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast", "inputs"])
def test_half_precision_searches_in_float32(how: str, given: bool) -> None:
    torch.manual_seed(0)
    dtype = torch.float16 if how == "float16" else torch.bfloat16
    model, inputs = smooth(), torch.randn(64, WIDTH)
    if how != "autocast":
        inputs = inputs.to(dtype)
    if how in ("bfloat16", "float16"):
        model = model.to(dtype)
    exact = copy.deepcopy(model).double()
    metric, twin = VirtualAdversarialLoss(model).eval(), VirtualAdversarialLoss(exact).eval()
    with torch.autocast("cpu", dtype) if how == "autocast" else nullcontext():
        logits = model(inputs.to(next(model.parameters()).dtype)) if given else None
        assert along(metric._worst(inputs, logits)[1], change(twin, inputs.double())) > 0.999
        value = metric(inputs, logits)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), twin(inputs.double()), rtol=0.03, atol=0)
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32 if how in ("autocast", "inputs") else dtype}


def test_nearly_certain_predictions_have_their_direction() -> None:
    """At a probability of 1 - 1e-9 a difference of probabilities in float32 is 0 for the likely class."""
    exact = nn.Linear(WIDTH, CLASSES).double()
    exact.bias.data[0] += 20
    inputs = torch.randn(N, WIDTH).double()
    single = copy.deepcopy(exact).float()
    changes = (change(VirtualAdversarialLoss(m).eval(), x) for m, x in ((single, inputs.float()), (exact, inputs)))
    assert along(*changes) > 0.999


def test_gradients_whose_squares_are_too_small_have_a_direction() -> None:
    rows = torch.tensor([[3e-30, -4e-30], [0.0, 0.0], [3e30, 4e30]])
    otherwise = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(vat._unit(rows, otherwise), torch.tensor([[0.6, -0.8], [0.0, 1.0], [0.6, 0.8]]))


def test_where_the_model_says_the_same_of_everything_the_direction_stays() -> None:
    model = nn.Linear(WIDTH, CLASSES)
    nn.init.zeros_(model.weight)
    metric, inputs = VirtualAdversarialLoss(model, 2.0), torch.randn(N, WIDTH)
    moved = change(metric, inputs)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((N,), 2.0))
    value = metric(inputs)
    value.backward()
    assert value == 0
    assert model.weight.grad is not None
    assert model.weight.grad.abs().max() == 0


# Directions


def test_each_sample_has_a_new_direction_at_each_step_of_training() -> None:
    model = nn.Linear(WIDTH, CLASSES)
    nn.init.zeros_(model.weight)  # so that the direction stays as drawn
    metric, inputs = VirtualAdversarialLoss(model, 1.0), torch.zeros(1000, WIDTH)
    first, second = change(metric, inputs), change(metric, inputs)
    assert first.mean(0).abs().max() < 0.06
    assert (first * second).sum(1).mean().abs() < 0.06
    assert (first[1:] * first[:-1]).sum(1).mean().abs() < 0.06
    metric.eval()
    torch.testing.assert_close(change(metric, inputs), change(metric, inputs)[:1].expand(1000, -1), rtol=0, atol=0)
    assert metric.directions.draws == 2


def test_in_evaluation_neither_order_nor_batches_matter() -> None:
    metric, inputs = VirtualAdversarialLoss(smooth().double()).eval(), torch.randn(10, WIDTH).double()
    whole = metric(inputs).detach()
    metric.reset()
    for part in inputs.flip(0).split([3, 6, 1]):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), whole)


def test_a_resumed_run_goes_on_with_its_directions() -> None:
    model, inputs = smooth(), torch.randn(N, WIDTH)
    metric = VirtualAdversarialLoss(model)
    metric(inputs)
    resumed = VirtualAdversarialLoss(copy.deepcopy(model))
    resumed.load_state_dict(metric.state_dict())
    values = [metric(inputs).item() for _ in range(2)]
    assert values[0] != values[1]
    assert [resumed(inputs).item() for _ in range(2)] == values


# Training


def test_it_moves_the_boundary_out_of_a_cluster() -> None:
    """Two clusters of samples, and a boundary through one of them."""
    torch.manual_seed(0)
    clusters = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    samples = clusters.repeat_interleave(100, 0) + 0.3 * torch.randn(200, 2)
    model = nn.Linear(2, 2)
    model.weight.data.copy_(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]))
    model.bias.data.copy_(torch.tensor([3.9, -3.9]))  # at 1.95
    metric, optimizer = VirtualAdversarialLoss(model, 1.0), torch.optim.Adam(model.parameters(), 0.02)
    before = metric(samples).item()
    for _ in range(300):
        optimizer.zero_grad()
        metric(samples).backward()
        optimizer.step()
    assert metric(samples).item() < before / 3
    answers = model(samples).argmax(1).view(2, 100)
    assert (answers == answers[:, :1]).all()


# Errors


class Answering(nn.Module):
    """A model that answers something else than logits."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.answer = smooth(), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.inner(x))


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (lambda z: (z, z), TypeError, "`model` must return its logits as one tensor, but returned tuple. Wrap it"),
        (lambda z: {"logits": z}, TypeError, "`model` must return its logits as one tensor, but returned dict"),
        (lambda z: z[:, :1], ValueError, r"`model\(x\)` must hold the logits of at least 2 classes"),
        (lambda z: z[:, 0], ValueError, r"`model\(x\)` must have shape \(N, ..\)"),
        (lambda z: z.softmax(1), ValueError, r"`model\(x\)` must hold logits, but no entry is negative"),
        (lambda z: z.argmax(1, keepdim=True), TypeError, r"`model\(x\)` must be a floating-point tensor"),
        (lambda z: z[:3], ValueError, r"`model\(x\)` must have as many samples as `inputs` \(8\)"),
    ],
)
def test_models_that_return_something_else(answer: Callable[[Tensor], Any], error: type[Exception], match: str) -> None:
    inputs = torch.randn(N, WIDTH)
    refuses(VirtualAdversarialLoss(Answering(answer)), match, inputs, error=error)
    refuses(VirtualAdversarialLoss(Answering(answer)), match, inputs, torch.randn(N, CLASSES), error=error)


def test_a_model_without_a_gradient() -> None:
    repair = "`model` must have a gradient by its inputs, but has none. Pass the network that is trained itself."
    refuses(VirtualAdversarialLoss(Answering(lambda z: z.detach())), repair, torch.randn(N, WIDTH))


def test_errors() -> None:
    metric, inputs = VirtualAdversarialLoss(Noisy()), torch.randn(N, WIDTH)
    metric(inputs)
    of_others, nine = torch.randn(3, CLASSES), torch.randn(N, 9)
    with untouched(metric.model):
        refuses(metric, r"`logits` must have as many samples as `inputs` \(8\)", inputs, of_others)
        sizes = r"`model\(x\)` must have the shape of `logits` \(8, 9\), but got shape \(8, 4\)"
        refuses(metric, sizes, inputs, nine)
        refuses(metric, "`logits` must hold logits", inputs, nine.softmax(1))
        refuses(metric, r"`inputs` must have shape \(N, ..\)", inputs[:, 0])
        refuses(metric, "`inputs` must be a floating-point tensor", inputs.long(), error=TypeError)
        refuses(metric, "`inputs` must not be empty", inputs[:0])
    assert metric.directions.draws == 1
    refuses(VirtualAdversarialLoss(smooth()), "`inputs` must have the 6 columns that `model` takes", inputs[:, :5])


@pytest.mark.parametrize("setting", ["epsilon", "xi"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_lengths_are_positive_and_finite(setting: str, value: float) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(ValueError, match=f"`{setting}` must be a finite number above 0"):
        VirtualAdversarialLoss(smooth(), **settings)


def test_other_settings() -> None:
    with pytest.raises(ValueError, match="`num_iterations` must be at least 1, but got 0"):
        VirtualAdversarialLoss(smooth(), num_iterations=0)
    with pytest.raises(TypeError, match="`model` must be a Module, but got function"):
        VirtualAdversarialLoss(lambda x: x)  # type: ignore[arg-type] # the point of the test
    assert "epsilon=3.5, xi=0.001, num_iterations=1" in repr(VirtualAdversarialLoss(smooth()))


# On a device


BACKENDS: Any = torch.backends


def settings_of_products() -> list[str]:
    parts = (BACKENDS.cudnn.conv, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul)
    return [torch.get_float32_matmul_precision(), *(part.fp32_precision for part in parts)]


@pytest.mark.skipif(not hasattr(BACKENDS.cudnn, "conv"), reason="this torch has the old names alone")
@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", ["tf32", "ieee"])
def test_how_a_device_rounds_is_switched_and_switched_back(products: str, convolutions: str) -> None:
    before = settings_of_products()
    try:
        torch.set_float32_matmul_precision(products)
        BACKENDS.cudnn.conv.fp32_precision = convolutions
        chosen = settings_of_products()
        with _passes._unrounded():
            assert settings_of_products()[:2] == ["highest", "ieee"]
            assert not BACKENDS.cuda.matmul.allow_tf32
        assert settings_of_products() == chosen
        assert BACKENDS.cuda.matmul.allow_tf32 == (products != "highest")
    finally:
        torch.set_float32_matmul_precision(before[0])
        BACKENDS.cudnn.conv.fp32_precision = before[1]
        BACKENDS.cuda.matmul.fp32_precision = before[2]
        BACKENDS.mkldnn.matmul.fp32_precision = before[3]


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return "cuda"


def test_generators_of_a_device_stay_and_masks_are_the_same(cuda: str) -> None:
    model, inputs = Noisy().to(cuda), torch.randn(N, WIDTH, device=cuda)
    metric = VirtualAdversarialLoss(model, 1e-4).to(cuda)
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    assert 0 < metric(inputs) < 1e-6
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_rounded_products_of_a_device_do_not_reach_the_search(cuda: str) -> None:
    """By default its convolutions round to 10 bits, in which a change by xi is lost."""
    torch.manual_seed(0)
    exact = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32 * 30 * 30, CLASSES)).double()
    inputs = torch.rand(16, 3, 32, 32).double()
    single = copy.deepcopy(exact).float().to(cuda)
    expected = change(VirtualAdversarialLoss(exact).eval(), inputs)
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    found = change(VirtualAdversarialLoss(single).to(cuda).eval(), inputs.float().to(cuda))
    assert along(found.cpu(), expected) > 0.99
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == allowed
