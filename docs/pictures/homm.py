"""HoMM: domains that only the product of three features tells apart, and what the batch size does to the log."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption.functional import higher_order_moment_matching
from pictures.style import GREY, SOURCE, TARGET, THIRD, bare, panels

EVEN = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
OBLIQUE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.45, 0.35]])


def equal_domains(size: int, order: int) -> float:
    """Return the mean of the values of batches of one distribution."""
    pairs = [(torch.randn(size, 64), torch.randn(size, 64)) for _ in range(20)]
    return torch.stack([higher_order_moment_matching(*pair, order=order) for pair in pairs]).mean().item()


def draw() -> Figure:
    """Left: the corners of a cube; middle: what each order sees of them; right: equal domains over the batch size."""
    figure, (cube, orders, curve) = panels(3)
    corners = torch.cat([EVEN, -EVEN])
    for i, corner in enumerate(corners):
        for other in corners[i + 1 :]:
            if (corner != other).sum() == 1:
                cube.plot(*(torch.stack([corner, other]) @ OBLIQUE).T, color=GREY, lw=0.8, zorder=0)
    for sample, color, name in ((EVEN, SOURCE, "source"), (-EVEN, TARGET, "target")):
        cube.scatter(*(sample @ OBLIQUE).T, s=40, c=color, label=name)
    bare(cube, "three features")
    cube.set(xlim=(-1.8, 1.8), ylim=(-1.7, 2.3))
    cube.legend(loc="upper center", ncols=2)
    seen = [higher_order_moment_matching(EVEN, -EVEN, order=p) for p in range(2, 7)]
    orders.bar(range(2, 7), torch.stack(seen), color=GREY)
    orders.set(title="the value", xlabel="order")
    sizes = [8, 16, 32, 64, 128, 256]
    for order, color in ((3, THIRD), (4, GREY)):
        values = [equal_domains(size, order) for size in sizes]
        curve.plot(sizes, values, "o-", ms=3, color=color, label=f"order {order}")
    curve.plot(sizes, [2 / size for size in sizes], color=GREY, lw=0.8, ls="--", label="1/n + 1/m")
    curve.set(xscale="log", yscale="log", xlabel="batch size", title="equal domains")
    curve.set_xticks(sizes, map(str, sizes))
    curve.minorticks_off()
    curve.legend()
    return figure
