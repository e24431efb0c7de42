"""A network of sensible size for a table, a series or images, or the user's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from own_data.files import Data, UnusableError

WIDTH = 64  # of the features that the losses compare

Make = Callable[[tuple[int, ...], int], tuple[nn.Module, nn.Module]]


class Network(nn.Module):
    """`extract` returns features, `(N, width)`; `head` maps them to logits or values."""

    def __init__(self, extract: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.extract, self.head = extract, head

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape `(N, classes)`, or values of shape `(N, 1)`."""
        answer: Tensor = self.head(self.extract(x))
        return answer


def table(shape: tuple[int, ...], outputs: int) -> tuple[nn.Module, nn.Module]:
    """Two layers."""
    extract = nn.Sequential(nn.Linear(shape[0], 128), nn.ReLU(), *features(128))
    return extract, nn.Linear(WIDTH, outputs)


def series(shape: tuple[int, ...], outputs: int) -> tuple[nn.Module, nn.Module]:
    """Two convolutions over time."""
    extract = nn.Sequential(
        *(nn.Conv1d(shape[0], 32, 5, padding=2), nn.ReLU()),
        *(nn.Conv1d(32, 32, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool1d(8), nn.Flatten()),
        *features(32 * 8),
    )
    return extract, nn.Linear(WIDTH, outputs)


def images(shape: tuple[int, ...], outputs: int) -> tuple[nn.Module, nn.Module]:
    """Two convolutions."""
    extract = nn.Sequential(
        *(nn.Conv2d(shape[0], 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool2d(4), nn.Flatten()),
        *features(32 * 16),
    )
    return extract, nn.Linear(WIDTH, outputs)


def features(width: int) -> tuple[nn.Module, ...]:
    """The last layers of all extractors. The normalisation keeps losses from shrinking the features."""
    return nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()


BY_KIND: dict[str, Make] = {"table": table, "series": series, "images": images}


def maker(data: Data, named: str | None) -> Callable[[], Network]:
    """A function that creates networks for these data; `named` is `FILE.py:NAME`."""
    make, shape = of_user(named) if named else BY_KIND[data.kind], tuple(data.source.shape[1:])

    def fresh() -> Network:
        return Network(*make(shape, data.outputs))

    try:
        with torch.no_grad():
            network = fresh().eval()
            found, answers = network.extract(data.source[:2]), network(data.source[:2])
    except Exception as error:
        raise UnusableError(
            f"{named or data.kind} must make a network for samples of shape {shape}, but: {error}"
        ) from error
    if found.ndim != 2 or answers.shape != (2, data.outputs):
        raise UnusableError(
            f"{named} must return `extract` with features of shape (N, width) and `head` with {data.outputs} outputs, "
            f"but for 2 samples they give {tuple(found.shape)} and {tuple(answers.shape)}."
        )
    return fresh


def of_user(named: str) -> Make:
    """Load a function `(shape of a sample, outputs) -> (extract, head)`."""
    file, _, name = named.partition(":")
    path = Path(file)
    if not (name and path.is_file()):
        raise UnusableError(
            f"--network must be FILE.py:NAME, a file that is there and a function in it, but is {named}."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UnusableError(f"--network must name a file of Python, but got {path}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise UnusableError(f"{path} must define {name}, as --network says, but does not.")
    make: Make = getattr(module, name)
    return make
