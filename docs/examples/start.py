"""Train the same network twice, on the source alone and with MMD: the first page of the documentation."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from adaption import MaximumMeanDiscrepancyLoss

digits = load_digits()  # 1,797 images of 8 x 8 pixels
images = torch.tensor(digits.images).float().flatten(1) / 16
labels = torch.tensor(digits.target)
source, source_labels = images[:900], labels[:900]
target, target_labels = images[900:], labels[900:]  # target labels: for the score alone
torch.manual_seed(0)
target = 0.4 + 0.5 * target + 0.05 * torch.randn_like(target)  # another scanner


def train(weight: float, epochs: int = 20) -> dict[str, list[float]]:
    """Train with this weight of MMD, 0 for the source alone; accuracy on the target and MMD, epoch by epoch."""
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    classifier = nn.Linear(64, 10)
    mmd = MaximumMeanDiscrepancyLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=2e-3)
    log: dict[str, list[float]] = {"accuracy": [], "distance": []}
    for _ in range(epochs):
        shuffled = torch.randperm(len(source)), torch.randperm(len(target))
        for i, j in zip(shuffled[0].split(90), shuffled[1].split(90), strict=True):
            source_features, target_features = extractor(source[i]), extractor(target[j])
            task = F.cross_entropy(classifier(source_features), source_labels[i])
            loss = task + weight * mmd(source_features, target_features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        guesses = classifier(extractor(target)).argmax(1)
        log["accuracy"].append((guesses == target_labels).double().mean().item())
        log["distance"].append(mmd.compute().item())  # the MMD of this epoch, comparable at one batch size
        mmd.reset()
    return log


logs = {"source only": train(weight=0.0), "with MMD": train(weight=1.0)}
for name, log in logs.items():
    accuracy, distance = log["accuracy"][-1], log["distance"][-1]
    print(f"{name:>11}: target accuracy {accuracy:.0%}, MMD {distance:.3f}")
