"""Self-ensembling: a student, its steady teachers, and the share of samples of which the teacher is confident."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import nn

from adaption import L2ConsistencyLoss
from adaption.layers import EmaTeacher
from pictures.style import BAD, GOOD, GREY, THIRD, epochs, panels
from pictures.toys import accuracy, batch, small_net, step

SHIFT = torch.tensor([1.9, 0.9])
EPOCHS, STEPS = 24, 30


def smoothing() -> tuple[list[float], dict[float, list[float]]]:
    """Train a student in large steps; return its target accuracy, and that of two teachers."""
    torch.manual_seed(0)
    student = small_net(2, 32, 3)
    teachers = {alpha: EmaTeacher(student, alpha=alpha, warm_up=True) for alpha in (0.9, 0.99)}
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-2)
    samples, labels = batch(SHIFT, 500, spread=0.9)
    log: tuple[list[float], dict[float, list[float]]] = ([], {alpha: [] for alpha in teachers})
    for _ in range(150):
        source, source_labels = batch(size=6, spread=0.9)
        step(optimizer, nn.functional.cross_entropy(student(source), source_labels))
        log[0].append(accuracy(student(samples), labels))
        for alpha, teacher in teachers.items():
            teacher.update()
            log[1][alpha].append(accuracy(teacher(samples), labels))
    return log


def run(threshold: float, noise: float) -> tuple[list[float], list[float]]:
    """Train a student with its teacher; return the logged values and the share that the mask keeps."""
    torch.manual_seed(0)
    student = small_net(2, 32, 3)
    teacher, consistency = EmaTeacher(student, alpha=0.99, warm_up=True), L2ConsistencyLoss()
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    values, shares = [], []
    for _ in range(EPOCHS):
        kept = 0.0
        for _ in range(STEPS):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            views = [target + noise * torch.randn_like(target) for _ in range(2)]
            taught = teacher(views[1]).softmax(1)
            mask = taught.amax(1) > threshold
            loss = nn.functional.cross_entropy(student(source), labels)
            step(optimizer, loss + 3 * consistency(student(views[0]).softmax(1), taught, mask=mask))
            teacher.update()
            kept += mask.float().mean().item() / STEPS
        values.append(consistency.compute().item())
        shares.append(kept)
        consistency.reset()
    return values, shares


def draw() -> Figure:
    """Left: the teacher is steady; right: the mask opens."""
    figure, (left, middle, right) = panels(3, ratios=[1.2, 1, 1])
    student, teachers = smoothing()
    left.plot(student, color=GREY, lw=0.8, label="student")
    for (alpha, log), color in zip(teachers.items(), (THIRD, GOOD), strict=True):
        left.plot(log, color=color, label=f"teacher, alpha {alpha}")
    left.set(xlabel="step", title="target accuracy", ylim=(0.3, 1.0))
    left.legend(loc="lower right")
    for threshold, color, label in ((0.968, GOOD, "threshold 0.968"), (0.9999, BAD, "threshold 0.9999")):
        values, shares = run(threshold, noise=0.5)
        epochs(middle, shares, color, label)
        epochs(right, values, color, label)
    middle.set(title="share that the mask keeps", ylim=(-0.03, 1.3))
    right.set(ylim=(-0.0003, None))
    middle.legend(loc="upper left")
    return figure
