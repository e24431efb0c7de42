"""Read the data of both domains, and refuse unsuitable data with a one-sentence error."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

FEWEST = 20  # rows of a domain
KINDS = {2: "table", 3: "series", 4: "images"}


class UnusableError(Exception):
    """What is wrong with a file, what it should be, and what to do."""


class Data(NamedTuple):
    """Both domains.

    Args:
        source: `(N, columns)`, `(N, channels, time)` or `(N, channels, height, width)`.
        labels: classes, numbered from 0, `(N,)`, or the values of a regression, `(N, 1)`.
        target: as the source; the number of rows may differ.
        target_labels: as the labels, if the target's file has them; used only for the final report.
        classes: their names; none in a regression.
        columns: the names of columns or channels.
    """

    source: Tensor
    labels: Tensor
    target: Tensor
    target_labels: Tensor | None
    classes: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Table, series or images."""
        return KINDS[self.source.ndim]

    @property
    def outputs(self) -> int:
        """The number of outputs of a network."""
        return len(self.classes) or 1


class Table(NamedTuple):
    """The content of one file."""

    path: Path
    x: NDArray
    y: NDArray | None
    columns: tuple[str, ...]


def load(source: Path, target: Path, label: str | None = None) -> Data:
    """Both files, checked against each other."""
    first, second = (read(path, label) for path in (source, target))
    if first.y is None:
        raise UnusableError(
            f"{source} must have labels, {'a column named by --label' if is_csv(source) else 'an array y'}."
        )
    second = in_the_same_columns(first, second)
    for table in (first, second):
        check(table)
    values = np.issubdtype(first.y.dtype, np.floating)
    classes = () if values else names_of_classes(first, first.y)
    return Data(
        torch.from_numpy(first.x).float(),
        coded(first.y, classes),
        torch.from_numpy(second.x).float(),
        None if second.y is None else coded(known(second, second.y, classes), classes),
        classes,
        first.columns,
    )


# ---- one file ---------------------------------------------------------------------------------------------------


def is_csv(path: Path) -> bool:
    """Whether the name ends in .csv."""
    return path.suffix.lower() == ".csv"


def read(path: Path, label: str | None) -> Table:
    """Read a .npz or .csv file."""
    if not path.is_file():
        raise UnusableError(f"There is no file {path}.")
    if is_csv(path):
        return of_csv(path, label)
    if path.suffix.lower() == ".npz":
        return of_npz(path)
    raise UnusableError(f"{path} must be a .npz or a .csv file.")


def of_npz(path: Path) -> Table:
    """Read the arrays `X` and `y`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UnusableError(
            f"{path} must be a .npz file of plain arrays, as np.savez writes it, but: {error}"
        ) from error
    if "X" not in arrays:
        raise UnusableError(f"{path} must have an array X, but has {', '.join(arrays) or 'nothing'}.")
    x = arrays["X"]
    if x.dtype.kind not in "biuf":
        raise UnusableError(f"X of {path} must hold numbers, but holds {x.dtype}.")
    if x.ndim not in KINDS:
        raise UnusableError(
            f"X of {path} must have the shape (rows, columns), (rows, channels, time) or (rows, channels, height, "
            f"width), but has {x.shape}."
        )
    unit = "column" if x.ndim == 2 else "channel"
    return Table(path, x.astype(np.float64), arrays.get("y"), tuple(f"{unit} {i}" for i in range(x.shape[1])))


def of_csv(path: Path, label: str | None) -> Table:
    """Read a header, and a row for each sample."""
    try:
        frame = pd.read_csv(path)
    except ValueError as error:  # of pandas' parser, or of a text that is none
        raise UnusableError(
            f"{path} must be a table with a header, its values parted by commas, but: {error}"
        ) from error
    y = frame.pop(label).to_numpy() if label in frame else None
    for name, column in frame.items():
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            raise UnusableError(
                f"column {name} of {path} must hold numbers, but holds {column.iloc[0]!r}: make numbers of it, "
                "or leave it out; --label names the column of the labels."
            )
    return Table(path, frame.to_numpy(dtype=np.float64), y, tuple(map(str, frame.columns)))


def check(table: Table) -> None:
    """Check what must hold in every file."""
    path, x, y = table.path, table.x, table.y
    if len(x) < FEWEST:
        raise UnusableError(f"{path} must have at least {FEWEST} rows, but has {len(x)}.")
    bad = ~np.isfinite(x).all(tuple(range(2, x.ndim)))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UnusableError(
            f"{path} must hold finite numbers, but {int(bad.any(1).sum())} of {len(x)} rows do not, the first in row "
            f"{row}, {table.columns[column]}: fill in what is missing, or leave these rows out."
        )
    if y is None:
        return
    if y.reshape(len(y), -1).shape != (len(x), 1):
        raise UnusableError(
            f"the labels of {path} must be one for each of its {len(x)} rows, but have the shape {y.shape}."
        )
    missing = pd.isna(y.ravel())
    if missing.any():
        raise UnusableError(
            f"the labels of {path} must be complete, but {int(missing.sum())} are missing: drop these rows."
        )


# ---- the two together -------------------------------------------------------------------------------------------


def in_the_same_columns(first: Table, second: Table) -> Table:
    """The second file with the columns of the first."""
    if is_csv(first.path) and is_csv(second.path):
        lacking = [name for name in first.columns if name not in second.columns]
        if lacking:
            raise UnusableError(f"{second.path} must have the columns of {first.path}, but lacks {', '.join(lacking)}.")
        order = [second.columns.index(name) for name in first.columns]
        return second._replace(x=second.x[:, order], columns=first.columns)
    if first.x.shape[1:] != second.x.shape[1:]:
        raise UnusableError(
            f"the rows of {second.path} must have the shape of those of {first.path}, {first.x.shape[1:]}, but have "
            f"{second.x.shape[1:]}."
        )
    return second


def names_of_classes(table: Table, y: NDArray) -> tuple[str, ...]:
    """The classes in order."""
    found, counts = np.unique(y, return_counts=True)
    if len(found) < 2:
        raise UnusableError(f"the labels of {table.path} must be of two classes at least, but all are {found[0]}.")
    if counts.mean() < 4:
        raise UnusableError(
            f"the labels of {table.path} must be of few classes, but {len(y)} rows have {len(found)}: for a "
            "regression, write them as floats."
        )
    return tuple(map(str, found.tolist()))


def known(table: Table, y: NDArray, classes: Sequence[str]) -> NDArray:
    """The target labels, whose classes must all be in the source."""
    if not classes and not np.issubdtype(y.dtype, np.number):
        raise UnusableError(f"the labels of {table.path} must be numbers, as the source's are, but are {y.dtype}.")
    others = sorted({str(name) for name in y.ravel().tolist()} - set(classes)) if classes else []
    if others:
        raise UnusableError(
            f"the labels of {table.path} must be of the source's classes, but {', '.join(others)} "
            f"{'is' if len(others) == 1 else 'are'} not: leave these rows out."
        )
    return y


def coded(y: NDArray, classes: Sequence[str]) -> Tensor:
    """Class labels as numbers; values stay as they are."""
    if not classes:
        return torch.from_numpy(y.reshape(-1, 1).astype(np.float32))
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[str(name)] for name in y.ravel().tolist()])


def standardized(data: Data, how: str) -> Data:
    """Scale each column or channel to mean 0 and deviation 1, by the source's values or by those of each domain."""

    def by(statistics: Tensor, x: Tensor) -> Tensor:
        others = [i for i in range(x.ndim) if i != 1]
        mean = statistics.double().mean(others, keepdim=True)
        deviation = (statistics.double() - mean).square().mean(others, keepdim=True).sqrt()
        scaled: Any = (x.double() - mean) / deviation.where(deviation > 0, 1.0)
        return scaled.float()

    own = data.target if how == "each" else data.source
    return data._replace(source=by(data.source, data.source), target=by(own, data.target))
