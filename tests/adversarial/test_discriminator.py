"""Discriminators of the user's, whatever they are made of: those that work are taken as they are, by every loss."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adaption import (
    ConditionalDomainAdversarialLoss,
    DomainAdversarialEntropyLoss,
    DomainAdversarialLoss,
    ImportanceWeightModule,
)
from adaption.functional import conditional_domain_adversarial_loss, domain_adversarial_loss
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

WIDTH, CLASSES = 4, 2  # the map of CDAN has as many columns as the features of the others

Built = Callable[[Any], Any]
BUILT: dict[str, Built] = {
    "DANN": DomainAdversarialLoss,
    "CDAN": ConditionalDomainAdversarialLoss,
    "ADVENT": DomainAdversarialEntropyLoss,
    "IWAN": ImportanceWeightModule,
}
every_loss = pytest.mark.parametrize("name", BUILT)


def asked(name: str, discriminator: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
    """What a loss says with a discriminator, and the gradient of it."""
    torch.manual_seed(0)
    rows = torch.randn(6, WIDTH, dtype=dtype).requires_grad_()
    logits = torch.randn(6, CLASSES, dtype=dtype)
    halves = rows.unflatten(0, (2, 3)).unbind()
    loss = BUILT[name](discriminator)
    if name == "IWAN":
        return loss.get_importance_weight(rows), None
    if name == "DANN":
        value = loss(*halves)
    elif name == "CDAN":
        narrow = [half[:, : WIDTH // CLASSES] for half in halves]
        value = loss(logits[:3], narrow[0], logits[3:], narrow[1])
    else:
        value = loss(rows, "target")
    value.backward()
    return value.detach(), rows.grad


def assert_as_function(name: str, discriminator: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """The module is taken as the function that it is: nothing is guessed from its attributes."""
    found = asked(name, discriminator, dtype)
    expected = asked(name, lambda features: discriminator(features), dtype)  # noqa: PLW0108 - not a Module
    torch.testing.assert_close(found, expected)


class Quantised(nn.Module):
    """Integers for weights, and a bias: the first parameter is int8."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.tensor([[64], [-127], [32], [5]], dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        return features.float() @ (self.weight.float() / 127) + self.bias


class Packed(nn.Module):
    """A weight in a floating type for storage alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 1).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.to(features.dtype)


class Mixed(nn.Module):
    """Its first parameter is in half precision, its layer is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.bfloat16))
        self.layer = nn.Linear(WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer(features) * self.scale
        return logits


@every_loss
@pytest.mark.parametrize("make", [Quantised, Packed, Mixed], ids=lambda make: make.__name__)
def test_features_are_not_cast_where_parameters_do_not_agree(name: str, make: type[nn.Module]) -> None:
    assert_as_function(name, make())


def test_dynamically_quantised_layers_have_no_parameters_to_agree_with() -> None:
    """No gradient passes such layers, but importance weights need none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move
        quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(WIDTH, 1)), {nn.Linear})
    assert_as_function("IWAN", quantised)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_are_cast_where_parameters_agree(name: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(WIDTH, 1)
    value, _ = asked(name, layer, dtype)
    expected, _ = asked(name, lambda features: layer(features.float()), dtype)
    torch.testing.assert_close(value, expected)


class Padded(nn.Linear):
    """A layer that takes other widths than it says, as it fills them up."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch has
        return super().forward(nn.functional.pad(input, (0, self.in_features - input.shape[-1])))


class Adapter(nn.Module):
    """It has an attribute of the name that linear layers have, which says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features = 100
        self.in_feature = 100
        self.layer = nn.Linear(WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer(features)
        return logits


class Doubled(nn.Sequential):
    """A chain with a forward of its own."""

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = super().forward(torch.cat([features, features], dim=-1))
        return logits


class Narrowed(DomainDiscriminator):
    """A discriminator of ours with a forward of the user's."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features[:, : self.in_feature])


def hooked() -> nn.Module:
    layer = nn.Linear(2 * WIDTH, 1)
    layer.register_forward_pre_hook(lambda _, args: (torch.cat([args[0], args[0]], dim=-1),))
    return layer


def replaced() -> nn.Module:
    layer = nn.Linear(100, 1)
    layer.__dict__["forward"] = lambda features: features.sum(1)  # as some libraries patch them
    return layer


WORKING: dict[str, Callable[[], nn.Module]] = {
    "padded": lambda: Padded(WIDTH + 3, 1),
    "chain that begins padded": lambda: nn.Sequential(Padded(WIDTH + 3, 5), nn.Linear(5, 1)),
    "adapter": Adapter,
    "own chain": lambda: Doubled(nn.Linear(2 * WIDTH, 1)),
    "narrowed": lambda: Narrowed(WIDTH - 1, 5, batch_norm=False),
    "pre-hook": hooked,
    "patched": replaced,
    "lazy": lambda: nn.LazyLinear(1),
    "empty": lambda: nn.Sequential(nn.Sequential(), Adapter()),
}


@every_loss
@pytest.mark.parametrize("kind", WORKING)
def test_what_works_is_not_refused(name: str, kind: str) -> None:
    assert_as_function(name, WORKING[kind]())


@pytest.mark.parametrize("name", ["DANN", "CDAN", "IWAN"])
@pytest.mark.parametrize("kind", [nn.Linear, lambda width, _: DomainDiscriminator(width, 3)], ids=["linear", "ours"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_width_that_cannot_work_is_named_first(name: str, kind: Any, nested: bool) -> None:
    discriminator = kind(WIDTH + 1, 1)
    with pytest.raises(
        ValueError, match=r"(columns that `\w+` takes|`domain_disc` must take the 4 columns of the map)"
    ):
        asked(name, nn.Sequential(nn.Sequential(discriminator)) if nested else discriminator)


@every_loss
@pytest.mark.parametrize(
    "end",
    [nn.Sigmoid(), nn.Softmax(1), nn.LogSoftmax(1), nn.LogSigmoid(), nn.Hardsigmoid()],
    ids=lambda end: type(end).__name__,
)
def test_a_discriminator_that_does_not_give_logits_is_said_aloud(name: str, end: nn.Module) -> None:
    argument = "discriminator" if name == "IWAN" else "domain_disc"
    message = f"`{argument}` must give logits, but ends in {type(end).__name__}"
    layer = nn.Linear(WIDTH, 1)
    for discriminator in (
        nn.Sequential(layer, end),
        nn.Sequential(layer, nn.Sequential(nn.ReLU(), end)),
        nn.Sequential(layer, end, nn.Identity(), nn.Flatten()),
        end,
    ):
        with pytest.warns(UserWarning, match=message):
            loss = BUILT[name](discriminator)
        copy.deepcopy(loss)  # warns no more


class Kept(nn.Sequential):
    """It holds a sigmoid for other purposes, and gives logits."""

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self[0](features)
        return logits


@every_loss
def test_a_sigmoid_elsewhere_is_no_matter(name: str) -> None:
    BUILT[name](nn.Sequential(nn.Linear(WIDTH, 5), nn.Sigmoid(), nn.Linear(5, 1)))
    BUILT[name](Kept(nn.Linear(WIDTH, 1), nn.Sigmoid()))
    BUILT[name](nn.Sequential())
    BUILT[name](nn.Sequential(nn.Flatten()))


def test_logits_of_a_sequence_are_told_where_to_go() -> None:
    """A linear layer gives (N, T, 1). What the error advises then works, and is the loss of every step."""
    source, target, layer = torch.randn(3, 5, WIDTH), torch.randn(4, 7, WIDTH), nn.Linear(WIDTH, 1)
    with pytest.raises(ValueError, match=r"shape \(6, 5, 1\)\. Bring the logits .* `\.movedim\(-1, 1\)`"):
        DomainAdversarialLoss(layer)(source, source)
    with pytest.raises(ValueError, match=r"`source_logits` must give one .* `\.movedim\(-1, 1\)`"):
        domain_adversarial_loss(layer(source), layer(target))
    value = DomainAdversarialLoss(lambda samples: layer(samples).movedim(-1, 1))(source, target)
    torch.testing.assert_close(value, domain_adversarial_loss(layer(source).flatten(), layer(target).flatten()))


def test_two_logits_are_told_how_to_become_one() -> None:
    """The cross entropy of two logits is that of their difference."""
    source, target, layer = torch.randn(3, WIDTH), torch.randn(5, WIDTH), nn.Linear(WIDTH, 2)
    with pytest.raises(ValueError, match=r"`z\[:, 1:\] - z\[:, :1\]`"):
        DomainAdversarialLoss(layer)(source, target)
    metric = DomainAdversarialLoss(lambda samples: layer(samples)[:, 1:] - layer(samples)[:, :1])
    halves = [
        nn.functional.cross_entropy(layer(samples), torch.full((len(samples),), domain))
        for domain, samples in enumerate((source, target))
    ]
    torch.testing.assert_close(metric(source, target), (halves[0] + halves[1]) / 2)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv1d(3, 1, 1), [(5,), (8,)]),
        (nn.Conv2d(3, 1, 1), [(4, 6), (5, 3)]),
        (nn.Conv3d(3, 1, 1), [(2, 2, 2), (1, 2, 3)]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1)), [(4, 6), (5, 3)]),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)), [(4, 6), (5, 3)]),
    ],
    ids=["1d", "2d", "3d", "group norm", "pooled"],
)
def test_domains_of_different_sizes_have_each_its_own_mean(layer: nn.Module, sizes: list[tuple[int, ...]]) -> None:
    """Value and gradients are those of the two means; the schedule steps once, and the epoch is exact."""
    schedule = WarmStartGradientReversalLayer(lo=0.5, max_iters=10, auto_step=True)
    metric = DomainAdversarialLoss(layer, grl=schedule)
    batches = [[torch.randn(n, 3, *size) for n, size in zip((2, 4), sizes, strict=True)] for _ in range(2)]
    for batch in batches:
        coefficient = schedule.coefficient
        inputs, twins = ([tensor.clone().requires_grad_() for tensor in batch] for _ in range(2))
        value = metric(*inputs)
        expected = domain_adversarial_loss(*map(layer, twins))
        torch.testing.assert_close(value, expected)
        value.backward()
        expected.backward()
        for mine, other in zip(inputs, twins, strict=True):
            assert other.grad is not None
            torch.testing.assert_close(mine.grad, -coefficient * other.grad)
    assert schedule.iteration == 2
    logits = [torch.cat([layer(batch[domain]).flatten() for batch in batches]) for domain in (0, 1)]
    torch.testing.assert_close(metric.compute().float(), domain_adversarial_loss(*logits).detach())


def test_sizes_must_agree_where_places_are_paired_or_normalised_together() -> None:
    source, target = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 5, 3)
    for reduction in ("sum", "none"):
        with pytest.raises(ValueError, match="`target` must have the same shape after the first dimension"):
            DomainAdversarialLoss(nn.Conv2d(3, 1, 1), reduction)(source, target)
        for function in (domain_adversarial_loss, conditional_domain_adversarial_loss):
            with pytest.raises(ValueError, match="`target_logits` must have the same shape after the first dimension"):
                function(source[:, :1], target[:, :1], reduction=reduction)
    normalised = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    metric = DomainAdversarialLoss(normalised)
    with pytest.raises(ValueError, match=r"`target` must have samples of the size .* normalises over the batch"):
        metric(source, target)
    assert normalised[1].num_batches_tracked == 0
    metric.eval()  # with running statistics every sample is by itself
    torch.testing.assert_close(metric(source, target), domain_adversarial_loss(normalised(source), normalised(target)))


def test_weighted_means_over_places_of_different_number() -> None:
    """CDAN+E on dense logits: one mean over the places of both domains, each with the weight of its sample."""
    source, target = torch.randn(2, 1, 4, 6), torch.randn(3, 1, 5, 3)
    w_s, w_t = torch.rand(2), torch.rand(3)
    value = conditional_domain_adversarial_loss(source, target, w_s, w_t)
    flat = [source.flatten(), target.flatten(), w_s.repeat_interleave(24), w_t.repeat_interleave(15)]
    torch.testing.assert_close(value, conditional_domain_adversarial_loss(*flat))
    torch.testing.assert_close(conditional_domain_adversarial_loss(source, target), domain_adversarial_loss(*flat[:2]))


def test_several_batches_are_told_to_be_joined() -> None:
    """And not to be converted, which raises."""
    rows = [torch.randn(3, WIDTH), torch.randn(2, WIDTH)]
    dann: Any = DomainAdversarialLoss(nn.Linear(WIDTH, 1))
    for call in (lambda: dann(rows, rows[0]), lambda: dann(rows[0], tuple(rows))):
        with pytest.raises(TypeError, match=r"must be a tensor, but got (list|tuple)\. Join batches with `torch\.cat"):
            call()
    with pytest.raises(TypeError, match=r"but got list\. Convert it with `torch.as_tensor`"):
        dann([[1.0, 2.0]], rows[0])
    dann(torch.cat(rows), rows[0])
