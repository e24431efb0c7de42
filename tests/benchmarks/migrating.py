"""What changes in value for those who come from a peer: ``nox -s migrating`` runs both sides and fills the page.

Each row has the peer's call and ours on the same seeded inputs. The tables of `docs/migrating.md` stand between markers
and are written anew; the text around them is not touched. ``--check`` compares instead of writing.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.contestants import pytorch_adapt, rul_adapt, skada, tllib
from torch import Tensor, nn
from torch.nn import functional as F

import adaption
from adaption import functional
from adaption.layers import RandomizedMultiLinearMap, WarmStartGradientReversalLayer

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
PACKAGES = ("torch", "torchmetrics", "numpy", "dalib", "rul-adapt", "pytorch-adapt", "skada")
WIDTH, CLASSES = 16, 4


@dataclass(frozen=True)
class Row:
    """A case, what the peer answers, what we answer, and a word on why."""

    case: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    why: str


def draw(n: int, m: int | None = None, shift: float = 0.5, width: int = WIDTH, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A source and a target batch, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, width, generator=generator)
    return source, torch.randn(n if m is None else m, width, generator=generator) + shift


def heads(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of the main and the adversarial head on the source, then on the target."""
    return *draw(n, width=CLASSES), *draw(n, width=CLASSES, seed=1)


def conditional(n: int, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits and features of the source, then of the target."""
    (source, target), (source_logits, target_logits) = draw(n, m), draw(n, m, width=CLASSES, seed=1)
    return source_logits, source, target_logits, target


def linear(width: int = WIDTH) -> nn.Linear:
    """A discriminator that is the same at every call."""
    disc = nn.Linear(width, 1)
    weight, _ = draw(1, width=width, seed=2)
    with torch.no_grad():
        disc.weight.copy_(weight / width**0.5)
        disc.bias.fill_(0.1)
    return disc


class Negated(nn.Module):
    """A discriminator for the other convention of labels."""

    def __init__(self, disc: nn.Module) -> None:
        super().__init__()
        self.disc = disc

    def forward(self, features: Tensor) -> Tensor:
        """Return the logit of the other domain."""
        logits: Tensor = -self.disc(features)
        return logits


def with_gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> str:
    """A value and the norm of its gradient."""
    at = at.clone().requires_grad_()
    value = loss(at)
    value.sum().backward()
    return f"{shown(value)}, gradient {shown(at.grad.norm() if at.grad is not None else 0.0)}"


def mean_of_draws(loss: Callable[[Tensor, Tensor], Tensor], n: int = 16, draws: int = 200) -> Tensor:
    """The mean over batches of equal distributions."""
    return torch.stack([loss(*draw(n, shift=0.0, seed=seed)).detach() for seed in range(draws)]).mean()


def epoch(metric: Any, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The value over several batches."""
    for batch in batches:
        metric.update(*batch)
    value: Tensor = metric.compute()
    return value


def copied_after_forward(metric: Any) -> str:
    """Whether a metric can be copied after a step."""
    source, target = draw(8)
    metric(source.requires_grad_(), target).backward()
    copy.deepcopy(metric)
    return "copies"


def saved(module: nn.Module) -> str:
    """How many tensors a checkpoint has of a module."""
    return f"saved: {len(module.state_dict())}"


def steps_in_eval(layer: Any, count: str) -> int:
    """How far a schedule moves during validation."""
    layer.eval()
    layer(torch.zeros(1))
    return int(getattr(layer, count))


def on_plain_numpy(layer: Any, at: Tensor) -> Any:
    """What happens without the shim that gives NumPy its old alias back."""
    alias = vars(np).pop("float")
    try:
        return layer(at)
    finally:
        vars(np)["float"] = alias


def dalib_mmd(source: Tensor, target: Tensor) -> Tensor:
    """Five Gaussians, nearest to ours."""
    kernels = [tllib("modules.kernels").GaussianKernel(alpha=2.0**k) for k in range(-3, 2)]
    value: Tensor = tllib("adaptation.dan").MultipleKernelMaximumMeanDiscrepancy(kernels)(source, target)
    return value


def dalib_bandwidth(source: Tensor, target: Tensor) -> float:
    """The mean over all pairs, also of a sample with itself."""
    stacked = torch.cat([source, target])
    return torch.cdist(stacked, stacked).square().mean().item()


def dalib_jmmd(source: Tensor, target: Tensor) -> Tensor:
    """One Gaussian for each of two layers."""
    gaussians = [[tllib("modules.kernels").GaussianKernel()] for _ in range(2)]
    jan = tllib("adaptation.jan").JointMultipleKernelMaximumMeanDiscrepancy(gaussians, linear=False)
    value: Tensor = jan([source, source], [target, target])
    return value


def dalib_dann(disc: nn.Module) -> Any:
    """It asks for probabilities."""
    return tllib("adaptation.dann").DomainAdversarialLoss(nn.Sequential(disc, nn.Sigmoid()))


def dalib_cdan(**settings: Any) -> Any:
    """The same, conditional."""
    disc = nn.Sequential(linear(settings.get("randomized_dim", WIDTH * CLASSES)), nn.Sigmoid())
    return tllib("adaptation.cdan").ConditionalDomainAdversarialLoss(disc, **settings)


def our_cdan(disc: nn.Module, **settings: Any) -> adaption.ConditionalDomainAdversarialLoss:
    """Ours on the same discriminator."""
    return adaption.ConditionalDomainAdversarialLoss(disc, **settings)


RANDOM = {"randomized": True, "num_classes": CLASSES, "features_dim": WIDTH, "randomized_dim": 32}
mmd = functional.maximum_mean_discrepancy
unbiased = partial(mmd, estimator="unbiased")
certain = torch.tensor([[30.0, 0.0]])  # float32 calls this probability 1


def dalib_rows() -> list[Row]:
    """TLLib, as dalib on PyPI."""
    mdd = functional.classification_margin_disparity_discrepancy
    constant = torch.ones(16, WIDTH)
    absent = F.one_hot(torch.zeros(8, dtype=torch.int64), 4).float()

    def warm_start() -> Any:
        return tllib("modules.grl").WarmStartGradientReverseLayer(auto_step=True)

    def dalib_mdd(*batch: Tensor) -> Tensor:
        value: Tensor = tllib("adaptation.mdd").MarginDisparityDiscrepancy(margin=4)(*batch)
        return value

    def at_certainty(loss: Callable[..., Tensor]) -> str:
        return with_gradient(lambda adversarial: loss(certain, certain, certain, adversarial), certain)

    return [
        Row(
            "any warm start (DANN, CDAN, MDD) on today's NumPy",
            lambda: on_plain_numpy(warm_start(), torch.ones(1)),
            lambda: WarmStartGradientReversalLayer(auto_step=True)(torch.ones(1)).item(),
            "`np.float` is gone from NumPy; the rows below put it back",
        ),
        Row(
            "MMD, n = m = 32",
            lambda: dalib_mmd(*draw(32)),
            lambda: mmd(*draw(32)),
            "theirs sums five kernels, ours is their mean; another estimator and bandwidth",
        ),
        Row(
            "the same, from our pieces",
            lambda: dalib_mmd(*draw(32)),
            lambda: 5 * unbiased(*draw(32), bandwidth=dalib_bandwidth(*draw(32))) + 2 / 31,
            "5 * unbiased + 2 / (n - 1), at the mean squared distance, the zeros of the diagonal included",
        ),
        Row(
            "MMD of a batch with itself, n = 16",
            lambda: dalib_mmd(draw(16)[0], draw(16)[0]),
            lambda: mmd(draw(16)[0], draw(16)[0]),
            "the distance of anything to itself is 0",
        ),
        Row(
            "MMD, mean of 200 pairs of batches of one distribution, n = 16",
            lambda: mean_of_draws(dalib_mmd),
            lambda: mean_of_draws(unbiased),
            'theirs adds 2 / (n - 1) to stay positive; ours here with `estimator="unbiased"`',
        ),
        Row("MMD, n = 32, m = 24", lambda: dalib_mmd(*draw(32, 24)), lambda: mmd(*draw(32, 24)), "the last batch"),
        Row("MMD, n = m = 1", lambda: dalib_mmd(*draw(1)), lambda: mmd(*draw(1)), ""),
        Row("MMD of constant features", lambda: dalib_mmd(constant, constant), lambda: mmd(constant, constant), ""),
        Row(
            "JMMD of a batch with itself, n = 16",
            lambda: dalib_jmmd(draw(16)[0], draw(16)[0]),
            lambda: functional.joint_maximum_mean_discrepancy([draw(16)[0]] * 2, [draw(16)[0]] * 2),
            "as MMD",
        ),
        Row(
            "DANN, the same discriminator",
            lambda: dalib_dann(linear())(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32)),
            "theirs calls the source 1, ours 0",
        ),
        Row(
            "DANN, our discriminator's logit negated",
            lambda: dalib_dann(linear())(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(Negated(linear()))(*draw(32)),
            "so a trained discriminator is taken over",
        ),
        Row(
            "DANN, n = 32, m = 24",
            lambda: dalib_dann(linear())(*draw(32, 24)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32, 24)),
            "`chunk(2)` asks for equal halves",
        ),
        Row(
            "cross entropy of a target sample that looks like source, logit 30",
            lambda: with_gradient(lambda z: F.binary_cross_entropy(z.sigmoid(), torch.zeros(1)), torch.tensor([30.0])),
            lambda: with_gradient(
                lambda z: functional.adversarial_discriminative_loss(-z, "target"), torch.tensor([30.0])
            ),
            "the sigmoid is 1 in float32; where the discriminator errs most nobody learns",
        ),
        Row(
            "CDAN, our discriminator's logit negated",
            lambda: dalib_cdan()(*conditional(32, 32)),
            lambda: our_cdan(Negated(linear(WIDTH * CLASSES)))(*conditional(32, 32)),
            "",
        ),
        Row(
            "CDAN+E, our discriminator's logit negated",
            lambda: dalib_cdan(entropy_conditioning=True)(*conditional(32, 32)),
            lambda: our_cdan(Negated(linear(WIDTH * CLASSES)), entropy_conditioning=True)(*conditional(32, 32)),
            "",
        ),
        Row(
            "CDAN randomized",
            lambda: dalib_cdan(**RANDOM)(*conditional(8, 8)),
            lambda: our_cdan(linear(32), **RANDOM)(*conditional(8, 8)),
            "the matrices of 0.2 are multiplied from the wrong side; ours is random: compare no value",
        ),
        Row(
            "its random matrices in a checkpoint",
            lambda: saved(tllib("adaptation.cdan").RandomizedMultiLinearMap(WIDTH, CLASSES, 32)),
            lambda: saved(RandomizedMultiLinearMap(WIDTH, CLASSES, 32)),
            "a resumed run would meet another map",
        ),
        Row(
            "gradient reversal, steps of the schedule after one batch of validation",
            lambda: steps_in_eval(warm_start(), "iter_num"),
            lambda: steps_in_eval(WarmStartGradientReversalLayer(auto_step=True), "iteration"),
            "",
        ),
        Row(
            "gradient reversal, its place in the schedule in a checkpoint",
            lambda: saved(warm_start()),
            lambda: saved(WarmStartGradientReversalLayer(auto_step=True)),
            "",
        ),
        Row(
            "MCD, discrepancy",
            lambda: tllib("adaptation.mcd").classifier_discrepancy(*(p.softmax(1) for p in heads(32)[:2])),
            lambda: functional.classifier_discrepancy(*(p.softmax(1) for p in heads(32)[:2])),
            "",
        ),
        Row(
            "MCD, balance where three of four classes are absent",
            lambda: tllib("adaptation.mcd").entropy(absent),
            lambda: functional.marginal_entropy(absent),
            "theirs has an epsilon inside the logarithm; an absent class costs more here",
        ),
        Row(
            "MDD",
            lambda: dalib_mdd(*heads(32)),
            lambda: mdd(*heads(32)),
            "**the sign**: theirs is added to the task loss, ours is subtracted, as in the paper",
        ),
        Row(
            "MDD where both heads are certain",
            lambda: at_certainty(dalib_mdd),
            lambda: at_certainty(mdd),
            "log(1 - p) from the logits; theirs is cut off, and the adversarial head stops",
        ),
    ]


def rul_adapt_rows() -> list[Row]:
    """rul-adapt."""
    uneven = [draw(32, 4, seed=1), draw(4, 32, seed=2)]

    def theirs_mmd() -> Any:
        return rul_adapt().MaximumMeanDiscrepancyLoss(5)

    def theirs_dann() -> Any:
        return rul_adapt().DomainAdversarialLoss(linear())

    return [
        Row(
            "MMD, n = m = 32",
            lambda: theirs_mmd()(*draw(32)),
            lambda: mmd(*draw(32)),
            "the exponent has the sum of absolute differences over its mean, ours squared distances over their median",
        ),
        Row(
            "MMD of two unequal batches, one at a time",
            lambda: ", ".join(shown(theirs_mmd()(*batch)) for batch in uneven),
            lambda: ", ".join(shown(mmd(*batch)) for batch in uneven),
            "32 + 4 and 4 + 32 samples",
        ),
        Row(
            "MMD of the epoch of both",
            lambda: epoch(theirs_mmd(), uneven),
            lambda: epoch(adaption.MaximumMeanDiscrepancyLoss(), uneven),
            "theirs adds up kernels of different bandwidths, and is near neither; ours is the mean of the batch values",
        ),
        Row(
            "DANN, n = m = 32",
            lambda: theirs_dann()(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32)),
            "",
        ),
        Row(
            "DANN, n = 32, m = 8",
            lambda: theirs_dann()(*draw(32, 8)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32, 8)),
            "theirs is the mean of 40 samples, ours half of each domain's mean",
        ),
        Row(
            "consistency",
            lambda: rul_adapt().ConsistencyLoss()(*draw(32)),
            lambda: adaption.ConsistencyLoss(F.l1_loss)(*draw(32)),
            "",
        ),
        Row(
            "`copy.deepcopy` of the metric after a step",
            lambda: copied_after_forward(theirs_dann()),
            lambda: copied_after_forward(adaption.DomainAdversarialLoss(linear())),
            "the states keep the graph of the step",
        ),
    ]


def pytorch_adapt_rows() -> list[Row]:
    """pytorch-adapt."""
    scales = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0])
    collapsed = torch.ones(32, WIDTH)
    first, second = heads(32)[:2]

    def theirs_mmd(source: Tensor, target: Tensor, mmd_type: str = "quadratic") -> Tensor:
        value: Tensor = pytorch_adapt("mmd_loss").MMDLoss(kernel_scales=scales, mmd_type=mmd_type)(source, target)
        return value

    def theirs_bsp(source: Tensor, target: Tensor) -> Tensor:
        loss = pytorch_adapt("batch_spectral_loss").BatchSpectralLoss(k=1)
        value: Tensor = loss(source) + loss(target)
        return value

    return [
        Row(
            "MMD, quadratic, n = m = 32",
            lambda: theirs_mmd(*draw(32)),
            lambda: unbiased(*draw(32)),
            "the same estimator; their bandwidth is the median within the source, with the zeros of its diagonal",
        ),
        Row(
            "MMD, linear, n = m = 32",
            lambda: theirs_mmd(*draw(32), "linear"),
            lambda: mmd(*draw(32), estimator="linear"),
            "their default; ours takes the median of the distances in use",
        ),
        Row(
            "MMD, the source collapsed to one point",
            lambda: theirs_mmd(collapsed, draw(32)[1]),
            lambda: mmd(collapsed, draw(32)[1]),
            "their bandwidth is 0 then",
        ),
        Row("MMD, n = m = 1", lambda: theirs_mmd(*draw(1)), lambda: mmd(*draw(1)), "ours with the biased estimate"),
        Row(
            "BSP, both domains",
            lambda: theirs_bsp(*draw(32)),
            lambda: functional.batch_spectral_penalization(*draw(32)),
            "",
        ),
        Row(
            "MCD, from logits",
            lambda: pytorch_adapt("mcd_loss").MCDLoss()(first, second),
            lambda: functional.classifier_discrepancy(first.softmax(1), second.softmax(1)),
            "ours takes probabilities",
        ),
    ]


def skada_rows() -> list[Row]:
    """skada."""
    mdd = functional.classification_margin_disparity_discrepancy
    main, adversarial, target_main, target_adversarial = heads(32)

    def theirs_mmd(source: Tensor, target: Tensor) -> Tensor:
        value: Tensor = skada("losses").dan_loss(source, target)
        return value

    def default_dann(features: Tensor) -> Tensor:
        disc = skada("modules").DomainClassifier(num_features=WIDTH)
        value: Tensor = skada("_adversarial").DANNLoss()(disc(features), disc(draw(32)[1]))
        return value

    def skada_dann() -> Tensor:
        disc = linear()
        answers = [disc(features).sigmoid().squeeze(1) for features in draw(32)]
        value: Tensor = skada("_adversarial").DANNLoss()(*answers)
        return value

    def skada_mdd() -> Tensor:
        loss = skada("_adversarial").MDDLoss(gamma=4.0)
        value: Tensor = loss(main, target_main, adversarial, target_adversarial)
        return value

    def probabilities(of: Tensor) -> str:
        return f"{tuple(of.shape)} probabilities"

    return [
        Row(
            "MMD, n = m = 32",
            lambda: theirs_mmd(*draw(32)),
            lambda: mmd(*draw(32)),
            "theirs sums 33 kernels of the distance, not of its square",
        ),
        Row(
            "DANN with a discriminator of one's own, n = m = 32",
            skada_dann,
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32)),
            "theirs is the sum of both domains, ours half of it",
        ),
        Row(
            "DANN with the default discriminator",
            lambda: with_gradient(default_dann, draw(32)[0]),
            lambda: with_gradient(
                lambda source: adaption.DomainAdversarialLoss(linear())(source, draw(32)[1]), draw(32)[0]
            ),
            "theirs ends in a softmax over one output, which is always 1",
        ),
        Row(
            "MDD, n = m = 32",
            skada_mdd,
            lambda: mdd(*heads(32)),
            "**the sign**, as with TLLib; theirs smooths the probabilities, and pairs every sample with every label",
        ),
        Row(
            "what its target term averages",
            lambda: probabilities(target_adversarial.softmax(1)[..., target_main.argmax(1)]),
            lambda: probabilities(target_adversarial.softmax(1).gather(1, target_main.argmax(1, keepdim=True))),
            "an index where a gather was meant",
        ),
    ]


LIBRARIES: dict[str, Callable[[], list[Row]]] = {
    "TLLib": dalib_rows,
    "rul-adapt": rul_adapt_rows,
    "pytorch-adapt": pytorch_adapt_rows,
    "skada": skada_rows,
}


def shown(value: Any) -> str:
    """A value as a cell of the tables."""
    if isinstance(value, str):
        return value
    number = float(value)
    return "NaN" if number != number else f"{number + 0.0:.4g}"  # noqa: PLR0124 - only NaN differs from itself


def answer(take: Callable[[], Any]) -> str:
    """What a call gives, or the error that it raises."""
    torch.manual_seed(0)
    try:
        return shown(take())
    except Exception as error:  # noqa: BLE001 - the error is the finding
        return f"`{type(error).__name__}`"


def table(rows: list[Row]) -> str:
    """A table of the page."""
    lines = ["| case | theirs | ours | |", "|---|---:|---:|---|"]
    lines += [f"| {row.case} | {answer(row.theirs)} | {answer(row.ours)} | {row.why} |" for row in rows]
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with its tables measured anew."""
    page = replaced(
        page, "versions", "- " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    )
    for name, rows in LIBRARIES.items():
        page = replaced(page, f"measured: {name}", table(rows()))
    return page


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between the marker of this name and the next end."""
    marker, end = f"<!-- {name} -->\n", "<!-- end -->"
    if page.count(marker) != 1:
        msg = f"docs/migrating.md must have one place for what was measured: `{marker.strip()}`."
        raise ValueError(msg)
    before, after = page.split(marker)
    return f"{before}{marker}\n{text}\n\n{end}{after.split(end, 1)[1]}"


def main() -> None:
    """Fill the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page would change")
    check = parser.parse_args().check
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    before = PAGE.read_text()
    after = filled(before)
    if check:
        sys.exit("docs/migrating.md is not what was measured: run `nox -s migrating`." if after != before else 0)
    PAGE.write_text(after)


if __name__ == "__main__":
    main()
