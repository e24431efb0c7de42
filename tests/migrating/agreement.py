"""Whether `formulas.py` says what the peers compute: both sides on the same batches, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from benchmarks.contestants import pytorch_adapt, rul_adapt, skada
from migrating import formulas, tllib
from migrating.rows import CLASSES, WIDTH, conditional, draw, heads, linear
from torch import Tensor, nn

Call = Callable[..., Tensor]


def _tllib() -> dict[str, tuple[Call, Call, tuple[Tensor, ...]]]:
    disc, of_map, two = linear(), linear(WIDTH * CLASSES), tllib.two_logits()

    def jan(loss: Call, source: Tensor, p: Tensor, target: Tensor, q: Tensor) -> Tensor:
        return loss([source, p.softmax(1)], [target, q.softmax(1)])

    def cdan(g: Tensor, f: Tensor, h: Tensor, e: Tensor, *, entropy: bool) -> Tensor:
        maps = torch.cat([formulas.tllib_map(g, f), formulas.tllib_map(h, e)])
        return formulas.tllib_cdan(of_map(maps), torch.cat([g, h]), entropy=entropy)

    source_logits, source, target_logits, target = conditional(32, 32)
    layers = source, source_logits, target, target_logits
    probabilities = tuple(logits.softmax(1) for logits in heads(32)[:2])
    mcd = tllib.tllib("alignment.mcd")
    still = nn.Identity()  # the reversal turns gradients on both sides or on none
    return {
        "tllib_dan": (tllib.dan, lambda *x: formulas.tllib_dan(*x, linear=False), draw(32)),
        "tllib_dan, linear": (
            lambda *x: tllib.dan(*x, linear=True),
            lambda *x: formulas.tllib_dan(*x, linear=True),
            draw(32),
        ),
        "tllib_jan": (partial(jan, tllib.jan), partial(jan, formulas.tllib_jan), layers),
        "tllib_dann": (
            tllib.dann(tllib.with_sigmoid(disc), grl=still),
            lambda s, t: formulas.tllib_dann(disc(s), disc(t)),
            draw(32),
        ),
        "tllib_dann_of_two_logits": (
            tllib.dann(two, sigmoid=False, grl=still),
            lambda s, t: formulas.tllib_dann_of_two_logits(two(s), two(t)),
            draw(32),
        ),
        "tllib_mdd": (tllib.mdd, formulas.tllib_mdd, heads(32)),
        "tllib_discrepancy": (mcd.classifier_discrepancy, formulas.tllib_discrepancy, probabilities),
        "tllib_balance": (mcd.entropy, formulas.tllib_balance, probabilities[:1]),
        **{
            f"tllib_cdan, entropy={entropy}": (
                _without_reversal(tllib.cdan(entropy_conditioning=entropy)),
                lambda *x, entropy=entropy: cdan(*x, entropy=entropy),
                conditional(32, 32),
            )
            for entropy in (False, True)
        },
    }


def _without_reversal(loss: nn.Module) -> nn.Module:
    loss.grl = nn.Identity()
    return loss


def _rul_adapt() -> dict[str, tuple[Call, Call, tuple[Tensor, ...]]]:
    disc = linear()
    dann = _without_reversal(rul_adapt().DomainAdversarialLoss(disc))
    return {
        "rul_adapt_mmd": (rul_adapt().MaximumMeanDiscrepancyLoss(5), formulas.rul_adapt_mmd, draw(32)),
        "rul_adapt_dann": (dann, lambda s, t: formulas.rul_adapt_dann(disc(s), disc(t)), draw(32)),
    }


def _pytorch_adapt() -> dict[str, tuple[Call, Call, tuple[Tensor, ...]]]:
    return {"pytorch_adapt_mmd": (pytorch_adapt("mmd_loss").MMDLoss(), formulas.pytorch_adapt_mmd, draw(32))}


def _skada() -> dict[str, tuple[Call, Call, tuple[Tensor, ...]]]:
    disc, dann = linear(), skada("_adversarial").DANNLoss()
    return {
        "skada_dan": (skada("losses").dan_loss, formulas.skada_dan, draw(32)),
        "skada_dann": (
            lambda *x: dann(*(disc(of).sigmoid().squeeze(1) for of in x)),
            lambda s, t: formulas.skada_dann(disc(s), disc(t)),
            draw(32),
        ),
    }


FORMULAS = {"TLLib": _tllib, "rul-adapt": _rul_adapt, "pytorch-adapt": _pytorch_adapt, "skada": _skada}


def check(libraries: list[str]) -> None:
    """Stop where a formula and the peer's code part."""
    for library in libraries:
        for name, (theirs, ours, batch) in FORMULAS.get(library, dict)().items():
            outcomes = [_value_and_gradients(call, batch) for call in (theirs, ours)]
            for found, expected in zip(outcomes[1], outcomes[0], strict=True):
                if (found - expected).norm() > 2e-3 * expected.norm():  # some round coarsely
                    msg = f"tests/migrating/formulas.py: `{name}` is not what {library} computes any more."
                    raise SystemExit(msg)


def _value_and_gradients(call: Call, batch: tuple[Tensor, ...]) -> list[Tensor]:
    inputs = [tensor.detach().clone().requires_grad_() for tensor in batch]
    value = call(*inputs)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]
