"""Class balance: three mean predictions with their value, and the value over the share of one class."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption.functional import class_balance_loss, marginal_entropy
from pictures.style import BAD, GOOD, GREY, THIRD, panels


def mean_prediction(share: float, classes: int = 5) -> Tensor:
    """Return predictions whose mean gives one class a share, and the others the rest in equal parts."""
    prediction = torch.full((1, classes), (1 - share) / (classes - 1))
    prediction[0, 0] = share
    return prediction


def draw() -> Figure:
    """Left: three mean predictions; right: the curve."""
    figure, (*bars, curve) = panels(4, ratios=[1, 1, 1, 2.2], height=2.5)
    for axes, share, color, name in zip(
        bars, (0.2, 0.6, 0.97), (GOOD, THIRD, BAD), ("balanced", "leaning", "collapsed"), strict=True
    ):
        prediction = mean_prediction(share)
        axes.bar(range(5), prediction[0], color=color, width=0.8)
        axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], xticks=[], xlabel="class", title=name)
        axes.text(2, 0.88, f"loss {class_balance_loss(prediction):.2f}", ha="center")
    bars[0].set_ylabel("mean prediction")
    shares = torch.linspace(0.005, 0.995, 199).tolist()
    curve.plot(shares, [class_balance_loss(mean_prediction(s)) for s in shares], color=GREY, label="class balance")
    curve.plot(
        shares,
        [marginal_entropy(mean_prediction(s)) for s in shares],
        color=GREY,
        ls="--",
        label="marginal entropy, of MCD",
    )
    for share, color in ((0.2, GOOD), (0.6, THIRD), (0.97, BAD)):
        curve.plot(share, class_balance_loss(mean_prediction(share)), "o", color=color)
    curve.set(xlabel="mean prediction of one class of five", title="the value", ylim=(0, 6))
    curve.legend(loc="upper center")
    return figure
