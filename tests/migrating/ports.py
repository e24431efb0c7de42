"""The ports of docs/migrating.md, taken from its blocks and trained beside the formulas that they replace.

A port is a block behind a marker `<!-- port: NAME -->`. Its lines that use a batch (features, logits, the task loss)
are run at every step; the others build the loss, once. So the page and the test cannot part.
"""

from __future__ import annotations

import ast
import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from migrating import formulas
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from adaption.layers import DomainDiscriminator, GradientReversalLayer, ImageClassifierHead
from adaption.layers import WarmStartGradientReversalLayer as WarmStart

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
BLOCK = re.compile(r"<!-- port: (.+?) -->\n+```\{testcode\}\n(.*?)```", re.DOTALL)
BATCH, HIDDEN, STEPS, SEEDS = 32, 64, 400, range(5)
BATCH_NAMES = frozenset(
    {"task", "p1", "p2", *(f"{d}_{v}" for d in ("source", "target") for v in ("features", "logits", "logits_adv"))}
)

Tensors = Mapping[str, Tensor]


# ---- the shifts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """Two domains with the same classes, and a network for them."""

    source: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor]
    width: int
    classes: int
    rate: float
    last: type[nn.Module]

    def network(self) -> nn.Module:
        """Features of `width`."""
        inputs, hidden = self.source[0].shape[1], 2 * self.width
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, self.width), self.last())


def moved() -> Shift:
    """Three classes in the plane; the target is moved across their borders."""
    generator = torch.Generator().manual_seed(0)
    corners, move = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([1.6, 0.8])
    labels = torch.arange(2000) % 3
    source, target = (corners[labels] + 0.4 * torch.randn(2000, 2, generator=generator) for _ in range(2))
    return Shift((source, labels), (target + move, labels), width=16, classes=3, rate=1e-2, last=nn.Tanh)


def paler() -> Shift:
    """Handwritten digits, and others from a paler and noisier scanner."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float().flatten(1) / 16, torch.tensor(digits.target)
    noise = torch.randn(images[900:].shape, generator=torch.Generator().manual_seed(0))
    target = 0.4 + 0.5 * images[900:] + 0.05 * noise
    return Shift((images[:900], labels[:900]), (target, labels[900:]), width=64, classes=10, rate=2e-3, last=nn.ReLU)


# ---- what is trained --------------------------------------------------------------------------------------------


class Port(nn.Module):
    """A block of the page: built once, its losses taken from a batch."""

    def __init__(self, text: str, shift: Shift) -> None:
        super().__init__()
        tree = ast.parse(text)
        used = [{node.id for node in ast.walk(line) if isinstance(node, ast.Name)} for line in tree.body]
        step = {index for index, names in enumerate(used) if names & BATCH_NAMES}
        setup = [line for index, line in enumerate(tree.body) if index not in step]
        steps = [line for index, line in enumerate(tree.body) if index in step]
        self.step, self.names = _compiled(steps), set().union(*used)
        self.namespace: dict[str, Any] = {"torch": torch, "width": shift.width, "classes": shift.classes}
        exec(_compiled(setup), self.namespace)  # noqa: S102 - the page is ours
        self.parts = nn.ModuleList({id(m): m for m in self.namespace.values() if isinstance(m, nn.Module)}.values())

    def forward(self, batch: Tensors) -> Tensors:
        """What the block calls `loss`, or `loss_a` to `loss_c`."""
        found = dict(batch)
        exec(self.step, self.namespace, found)  # noqa: S102
        return {name: value for name, value in found.items() if name.startswith("loss")}


class Original(nn.Module):
    """The formula of a peer, with the discriminator and the reversal that its call has."""

    def __init__(
        self, formula: Callable[..., Tensor], disc: nn.Module | None = None, reversal: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.formula, self.disc, self.reversal = formula, disc, reversal

    def ask(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What the discriminator says of each domain; both pass it as one batch."""
        assert self.disc is not None
        assert self.reversal is not None
        answers = self.disc(self.reversal(torch.cat([source, target])))
        return answers[: len(source)], answers[len(source) :]

    def forward(self, batch: Tensors) -> Tensors:
        """The loss of the step, the task included, or those of the three steps of MCD."""
        value = self.formula(self, **batch)
        return value if isinstance(value, dict) else {"loss": value}


def _compiled(lines: list[ast.stmt]) -> Any:
    return compile(ast.Module(lines, []), str(PAGE), "exec")


class Learner(nn.Module):
    """Extractor and classifier, and the further heads that some of the methods ask for."""

    def __init__(self, shift: Shift, names: set[str]) -> None:
        super().__init__()
        self.extractor = shift.network()
        heads: list[nn.Module] = [nn.Linear(shift.width, shift.classes)]
        if "p1" in names:
            heads = [ImageClassifierHead(shift.width, shift.classes, HIDDEN) for _ in range(2)]
        self.heads, self.adversary = nn.ModuleList(heads), None
        if "source_logits_adv" in names:
            hidden = nn.Linear(shift.width, shift.width), nn.ReLU(), nn.Linear(shift.width, shift.classes)
            self.adversary = nn.Sequential(WarmStart(hi=0.1, auto_step=True), *hidden)

    def forward(self, source: Tensor, labels: Tensor, target: Tensor) -> dict[str, Tensor]:
        """A batch under the names of the page; both domains pass the network as one."""
        sizes = len(source), len(target)
        features = self.extractor(torch.cat([source, target]))
        outputs = [head(features) for head in self.heads]
        tasks = [F.cross_entropy(output[: len(source)], labels) for output in outputs]
        pairs = {"features": features.split(sizes), "logits": outputs[0].split(sizes)}
        batch = {"task": torch.stack(tasks).sum()}
        if self.adversary is not None:
            pairs["logits_adv"] = self.adversary(features).split(sizes)
        for name, (of_source, of_target) in pairs.items():
            batch[f"source_{name}"], batch[f"target_{name}"] = of_source, of_target
        if len(outputs) == 2:
            batch["p1"], batch["p2"] = (output[len(source) :].softmax(1) for output in outputs)
        return batch


# ---- the originals ----------------------------------------------------------------------------------------------


class Negated(nn.Sequential):
    """A discriminator that starts as ours does, in a library that calls the source 1."""

    def forward(self, features: Tensor) -> Tensor:
        """The logit of the source."""
        logits: Tensor = -super().forward(features)
        return logits


def _disc(shift: Shift) -> nn.Module:
    return DomainDiscriminator(shift.width, HIDDEN)


def _negated(shift: Shift) -> nn.Module:
    return Negated(_disc(shift))


def _games(formula: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A loss of the discriminator's answers on the features, added to the task."""
    return lambda self, task, source_features, target_features, **_: (
        task + formula(*self.ask(source_features, target_features))
    )


def _distance(formula: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A loss of the features, added to the task."""
    return lambda _, task, source_features, target_features, **__: task + formula(source_features, target_features)


def _cdan(*, entropy: bool) -> Callable[..., Tensor]:
    def formula(
        self: Original,
        task: Tensor,
        source_features: Tensor,
        target_features: Tensor,
        source_logits: Tensor,
        target_logits: Tensor,
    ) -> Tensor:
        source = formulas.tllib_map(source_logits, source_features)
        answers = self.ask(source, formulas.tllib_map(target_logits, target_features))
        logits = torch.cat([source_logits, target_logits])
        return task + formulas.tllib_cdan(torch.cat(answers), logits, entropy=entropy)

    return formula


def _jan(_: Original, task: Tensor, **batch: Tensor) -> Tensor:
    layers = ([batch[f"{d}_features"], batch[f"{d}_logits"].softmax(1)] for d in ("source", "target"))
    return task + formulas.tllib_jan(*layers)


def _mdd(_: Original, task: Tensor, **batch: Tensor) -> Tensor:
    names = "source_logits", "source_logits_adv", "target_logits", "target_logits_adv"
    return task - formulas.tllib_mdd(*(batch[name] for name in names))


def _mcd(_: Original, task: Tensor, p1: Tensor, p2: Tensor, **__: Tensor) -> dict[str, Tensor]:
    balanced = task + 0.01 * (formulas.tllib_balance(p1) + formulas.tllib_balance(p2))
    discrepancy = formulas.tllib_discrepancy(p1, p2)
    return {"loss_a": balanced, "loss_b": balanced - discrepancy, "loss_c": discrepancy}


def _dann_hook(self: Original, task: Tensor, source_features: Tensor, target_features: Tensor, **_: Tensor) -> Tensor:
    return formulas.pytorch_adapt_dann_hook(task, *self.ask(source_features, target_features))


def _aligner_hook(_: Original, task: Tensor, **batch: Tensor) -> Tensor:
    features = batch["source_features"], batch["target_features"]
    probabilities = batch["source_logits"].softmax(1), batch["target_logits"].softmax(1)
    return formulas.pytorch_adapt_aligner_hook(task, features, probabilities)


@dataclass(frozen=True)
class Case:
    """The shift that a port is tried on, its original, and whether both are the same to rounding."""

    shift: Callable[[], Shift]
    original: Callable[[Shift], nn.Module]
    exact: bool


def _warm(formula: Callable[..., Tensor], disc: Callable[[Shift], nn.Module] = _negated) -> Callable[[Shift], Original]:
    """With the reversal that TLLib has by default."""
    return lambda shift: Original(formula, disc(shift), WarmStart(alpha=1.0, max_iters=1000, auto_step=True))


def _at_once(formula: Callable[..., Tensor]) -> Callable[[Shift], Original]:
    """With a reversal of 1."""
    return lambda shift: Original(formula, _disc(shift), GradientReversalLayer())


def _plain(formula: Callable[..., Any]) -> Callable[[Shift], Original]:
    return lambda _: Original(formula)


def _of_two(shift: Shift) -> nn.Module:
    return nn.Sequential(nn.Linear(shift.width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))


def _of_map(shift: Shift) -> nn.Module:
    return Negated(DomainDiscriminator(shift.width * shift.classes, HIDDEN))


def _tllib_dan(*, linear: bool) -> Callable[..., Tensor]:
    return _distance(lambda source, target: formulas.tllib_dan(source, target, linear=linear))


CASES = {
    "TLLib, DANN": Case(moved, _warm(_games(formulas.tllib_dann)), exact=True),
    "TLLib, DANN of two logits": Case(moved, _warm(_games(formulas.tllib_dann_of_two_logits), _of_two), exact=True),
    "TLLib, DAN": Case(paler, _plain(_tllib_dan(linear=False)), exact=False),
    "TLLib, DAN, linear": Case(paler, _plain(_tllib_dan(linear=True)), exact=False),
    "TLLib, JAN": Case(paler, _plain(_jan), exact=False),
    "TLLib, CDAN": Case(moved, _warm(_cdan(entropy=False), _of_map), exact=True),
    "TLLib, CDAN+E": Case(moved, _warm(_cdan(entropy=True), _of_map), exact=True),
    "TLLib, MCD": Case(moved, _plain(_mcd), exact=True),
    "TLLib, MDD": Case(moved, _plain(_mdd), exact=True),
    "rul-adapt, MMD": Case(paler, _plain(_distance(formulas.rul_adapt_mmd)), exact=False),
    "rul-adapt, DANN": Case(moved, _at_once(_games(formulas.rul_adapt_dann)), exact=True),
    "pytorch-adapt, DANNHook": Case(moved, _at_once(_dann_hook), exact=True),
    "pytorch-adapt, AlignerPlusCHook": Case(moved, _plain(_aligner_hook), exact=False),
    "skada, DAN": Case(paler, _plain(_distance(formulas.skada_dan)), exact=False),
    "skada, DANN": Case(moved, _at_once(_games(formulas.skada_dann)), exact=True),
}


# ---- training ---------------------------------------------------------------------------------------------------


def blocks() -> dict[str, str]:
    """The ports of the page by name."""
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


def built(make: Callable[[Shift], nn.Module], shift: Shift, names: set[str], seed: int) -> tuple[Learner, nn.Module]:
    """A network and a loss that are the same for both sides, where they ask for the same parts."""
    torch.manual_seed(seed)
    learner = Learner(shift, names)
    torch.manual_seed(seed)
    return learner, make(shift)


def batches(shift: Shift, seed: int, number: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Source samples with labels, and target samples without."""
    generator = torch.Generator().manual_seed(seed)
    (source, labels), (target, _) = shift.source, shift.target
    drawn = []
    for _ in range(number):
        i, j = (torch.randperm(len(samples), generator=generator)[:BATCH] for samples in (source, target))
        drawn.append((source[i], labels[i], target[j]))
    return drawn


def accuracy(make: Callable[[Shift], nn.Module], shift: Shift, names: set[str], seed: int) -> float:
    """Target accuracy in percent after training."""
    learner, method = built(make, shift, names, seed)
    extractor, others = (
        torch.optim.Adam(parameters, lr=shift.rate)
        for parameters in (
            learner.extractor.parameters(),
            [p for name, p in [*learner.named_parameters(), *method.named_parameters()] if "extractor" not in name],
        )
    )
    both = [extractor, others]
    players = {"loss": both, "loss_a": both, "loss_b": [others], "loss_c": [extractor]}
    rounds = ["loss_a", "loss_b", *4 * ["loss_c"]] if "p1" in names else ["loss"]
    for batch in batches(shift, seed, STEPS // len(rounds)):
        for name in rounds:
            loss = method(learner(*batch))[name]
            for optimizer in both:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in players[name]:
                optimizer.step()
    learner.eval()
    with torch.no_grad():
        logits = learner.heads[0](learner.extractor(shift.target[0]))
    share: float = (logits.argmax(1) == shift.target[1]).double().mean().item()
    return 100 * share


@dataclass(frozen=True)
class Outcome:
    """Target accuracies of the seeds: without a loss, with the peer's formula, and with our port."""

    source_only: list[float]
    original: list[float]
    port: list[float]

    @property
    def noise(self) -> float:
        """Three standard errors of the difference of two means that spread as the original's seeds do, at least 1."""
        return max(1.0, 3 * statistics.stdev(self.original) * math.sqrt(2 / len(self.original)))

    def reaches(self, accuracies: list[float]) -> bool:
        """Whether these stay within the noise of the original, or are above it.

        By the mean or the median: in a game a single seed may fail by rounding alone, which differs between machines.
        """
        means = statistics.mean, statistics.median
        return any(mean(accuracies) >= mean(self.original) - self.noise for mean in means)


def trained(name: str) -> Outcome:
    """A port beside its original, from the same seeds and batches."""
    case, text = CASES[name], blocks()[name]
    shift = case.shift()
    names = Port(text, shift).names
    sides = case.original, partial(Port, text)
    original, port = ([accuracy(make, shift, names, seed) for seed in SEEDS] for make in sides)
    return Outcome(source_only(case.shift), original, port)


@cache
def source_only(make: Callable[[], Shift]) -> list[float]:
    """Without a loss."""
    return [accuracy(lambda _: Original(lambda _, task, **__: task), make(), set(), seed) for seed in SEEDS]


def gradients(make: Callable[[Shift], nn.Module], shift: Shift, names: set[str]) -> dict[str, Tensor]:
    """Of each loss of a step, with respect to the network, all in one vector; a schedule has moved by then."""
    learner, method = built(make, shift, names, seed=0)
    found = {}
    for batch in batches(shift, 0, 50):
        torch.manual_seed(0)  # the same dropout
        losses = method(learner(*batch))
    for name, loss in losses.items():
        every = torch.autograd.grad(loss, list(learner.parameters()), retain_graph=True, allow_unused=True)
        found[name] = torch.cat([gradient.flatten() for gradient in every if gradient is not None])
    return found
