"""DARE-GRAM: the eigenvalues that count, the angles of the inverses' columns in a small regression, and the errors."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import InverseGramAlignmentLoss
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, epochs, panels

EPOCHS, STEPS = 8, 40


def world(size: int, *, target: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and a value to predict; the sensors of the target have other gains and offsets."""
    state = torch.rand(size, 2) * 2 - 1
    x = torch.cat([state, state.flip(1) * state, state**2], 1)
    gains = torch.tensor([1.3, 0.7, 1.2, 0.8, 1.4, 0.6]) if target else torch.ones(6)
    return x * gains + 0.2 * target + 0.05 * torch.randn(size, 6), (state[:, :1] + 0.5 * state[:, 1:] ** 2)


def run(weight: float) -> tuple[Tensor, list[float], list[float]]:
    """Train a regression; return the features' Gram eigenvalues, the loss and the target error of the epochs."""
    torch.manual_seed(0)
    extractor, head = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8)), nn.Linear(8, 1)
    dare_gram = InverseGramAlignmentLoss(0.99, angle_weight=1.0, scale_weight=0.1)
    optimizer = torch.optim.Adam([*extractor.parameters(), *head.parameters()], lr=3e-3)
    log, errors = [], []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            (source, y), (target, _) = world(64, target=False), world(64, target=True)
            features, target_features = extractor(source), extractor(target)
            loss = (head(features) - y).square().mean() + weight * dare_gram(features, target_features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x, y = world(2000, target=True)
        log.append(dare_gram.compute().item())
        dare_gram.reset()
        errors.append((head(extractor(x)) - y).abs().mean().item())
    spectra = []
    for target in (False, True):
        a = torch.cat([torch.ones(2000, 1), extractor(world(2000, target=target)[0]).detach()], 1)
        spectra.append(torch.linalg.eigvalsh(a.T @ a / 2000).flip(0))
    return torch.stack(spectra), log, errors


def draw() -> Figure:
    """Left: eigenvalues; middle: the logged value; right: the error on the target."""
    figure, (left, middle, right) = panels(3)
    for weight, color, name in ((0.0, BAD, "source only"), (0.3, GOOD, "with DARE-GRAM")):
        spectra, log, errors = run(weight)
        epochs(middle, log, color, name)
        epochs(right, errors, color, name)
        if not weight:
            for shift, spectrum, domain, tint in zip(
                (-0.2, 0.2), spectra, ("source", "target"), (SOURCE, TARGET), strict=True
            ):
                left.bar(torch.arange(1, 10) + shift, spectrum, width=0.38, color=tint, label=domain)
            kept = int((spectra.cumsum(1) / spectra.sum(1, keepdim=True) <= 0.99).sum(1).amax()) - 1
            left.axvline(max(kept, 1) + 0.5, color=GREY, ls=":")
    left.set(title="eigenvalues of the Gram matrices", xlabel="number", yscale="log")
    left.legend()
    middle.legend()
    right.set(title="mean absolute error, target", ylim=(0, None))
    right.legend()
    return figure
