"""The example that adapts from one file to another: end to end on small files of each kind, and what it refuses."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
ROWS = 60
CENTRES = np.random.default_rng(1).normal(size=(3, 6)) * 2


@pytest.fixture
def own_data(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, with its options in a list."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    command = importlib.import_module("own_data.__main__")

    def run(*options: Any) -> None:
        monkeypatch.setattr("sys.argv", ["own", *map(str, options)])
        command.main()

    return run


def tables(shift: float) -> dict[str, Any]:
    """Three classes in six columns."""
    draw = np.random.default_rng(int(10 * shift))
    y = np.arange(ROWS) % 3
    return {"X": CENTRES[y] + draw.normal(size=(ROWS, 6)) + shift, "y": y}


def pictures(shift: float) -> dict[str, Any]:
    """Two classes of images: bright on one side."""
    draw = np.random.default_rng(int(10 * shift))
    y = np.arange(ROWS) % 2
    x = draw.integers(0, 100, size=(ROWS, 1, 9, 12))
    x[y == 1, :, :, :6] += 100
    return {"X": (x + 40 * shift).astype(np.uint8), "y": y}


def machines(shift: float) -> dict[str, Any]:
    """Series whose mean is what is asked for."""
    draw = np.random.default_rng(int(10 * shift))
    y = draw.uniform(0, 100, size=ROWS)
    return {"X": draw.normal(size=(ROWS, 3, 20)) + y[:, None, None] / 30 + shift, "y": y}


KINDS = {"tables": tables, "pictures": pictures, "machines": machines}


def written(folder: Path, kind: str, **changes: Any) -> tuple[Path, Path]:
    """A source and a target file, the target without labels unless they are given."""
    paths = folder / "source.npz", folder / "target.npz"
    target = KINDS[kind](1.0)
    np.savez(paths[0], **{**KINDS[kind](0.0), **{k: v for k, v in changes.items() if k in ("X", "y")}})
    np.savez(
        paths[1], X=changes.get("target_X", target["X"]), **({"y": target["y"]} if changes.get("labelled") else {})
    )
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind(
    own_data: Callable[..., None], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = written(tmp_path, kind, labelled=kind == "tables")
    out = tmp_path / "out"
    own_data("--source", source, "--target", target, "--minutes", 0.01, "--seeds", 1, "--weights", 1, "--out", out)
    said = capsys.readouterr().out
    assert "The domains differ" in said
    results = json.loads((out / "results.json").read_text())
    rows = {candidate["row"] for candidate in results["candidates"]}
    assert {"source only", "control", "MMD", "CORAL", "DANN", "MDD"} < rows
    assert ("self-ensembling" in rows) == (kind == "pictures")
    assert ("DARE-GRAM" in rows) == (kind == "machines")
    assert ("accuracy %" in said) == (kind == "tables")
    with (out / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == ROWS
    state = torch.load(out / "model.pt", weights_only=True)
    assert "head.weight" in state
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "://" not in page.replace("http://www.w3.org", "")  # the name of a format, not a place
    control, source_only = (
        [c["distance"] for c in results["candidates"] if c["row"] == row] for row in ("control", "source only")
    )
    assert control == source_only  # the same network, step by step


def test_a_table_with_names(own_data: Callable[..., None], tmp_path: Path) -> None:
    """Classes are words, and the target has its columns in another order and no labels."""
    names = ["idle", "running", "worn"]
    for name, shift, columns in (("source", 0.0, "abcdef"), ("target", 1.0, "fedcba")):
        data = tables(shift)
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, *(["state"] if name == "source" else [])])
            for x, y in zip(data["X"], data["y"], strict=True):
                cells = x if name == "source" else x[::-1]
                writer.writerow([*cells, *([names[y]] if name == "source" else [])])
    out = tmp_path / "out"
    options = ["--minutes", 0.01, "--seeds", 1, "--weights", 1, "--losses", "MMD", "MCC", "--out", out]
    own_data("--source", tmp_path / "source.csv", "--target", tmp_path / "target.csv", "--label", "state", *options)
    with (out / "predictions.csv").open() as file:
        predicted = [line["prediction"] for line in csv.DictReader(file)]
    right = [names[y] for y in tables(1.0)["y"]]
    assert np.mean([a == b for a, b in zip(predicted, right, strict=True)]) > 0.6  # chance is a third
    rows = {candidate["row"] for candidate in json.loads((out / "results.json").read_text())["candidates"]}
    assert rows == {"source only", "control", "MMD", "MCC"}


def test_it_does_not_adapt_where_there_is_no_shift(own_data: Callable[..., None], tmp_path: Path) -> None:
    source, target = written(tmp_path, "tables", target_X=tables(0.0)["X"] + 1e-3)
    own_data("--source", source, "--target", target, "--minutes", 0.01, "--seeds", 1, "--weights", 1, "--out", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["kept"]["row"] == "source only"
    assert any("no shift to adapt to" in sentence for sentence in results["said"])


def test_a_shift_that_each_domains_own_scale_removes_is_found(
    own_data: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = written(tmp_path, "tables", target_X=3 * tables(0.0)["X"] + 5)
    short = ("--minutes", 0.01, "--seeds", 1, "--weights", 1, "--losses", "MMD")
    own_data("--source", source, "--target", target, "--standardize", "each", *short, "--out", tmp_path)
    assert "The domains differ" in capsys.readouterr().out


def test_the_rule_leaves_out_collapsed_models_and_says_what_it_doubts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    files, training, choosing = (
        importlib.import_module(f"own_data.{name}") for name in ("files", "training", "choosing")
    )
    labels = torch.arange(30) % 3
    data = files.Data(torch.zeros(30, 2), labels, torch.zeros(30, 2), None, ("a", "b", "c"), ("x", "y"))

    def candidate(row: str, classes: torch.Tensor) -> Any:
        outputs = 5.0 * torch.nn.functional.one_hot(classes, 3)
        return training.Candidate(training.Run(row, 1.0, 0), 50, outputs, 0.0, None, {})

    collapsed = candidate("DANN", torch.zeros(30, dtype=torch.long))
    without_c = candidate("MCC", labels.clamp(max=1))
    good, plain = candidate("MMD", labels), candidate("source only", labels.roll(1).where(labels == 0, labels))
    choice = choosing.choose([plain, good, good, collapsed], data, shifted=True)
    assert choice.candidate is good
    assert choice.doubts == []
    assert choice.scores[3] != choice.scores[3]  # out
    assert choosing.choose([plain, good], data, shifted=False).candidate is plain
    said = " ".join(choosing.choose([without_c, without_c, plain], data, shifted=True).doubts)
    assert "no sample of c" in said
    said = " ".join(choosing.choose([collapsed, collapsed, collapsed, plain], data, shifted=True).doubts)
    assert "75 % of the candidates call nearly all samples the same" in said


def test_what_was_trained_is_written_when_the_user_stops(
    own_data: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = importlib.import_module("own_data.training")
    train, begun = training.Trainer.train, []

    def interrupted(trainer: Any, run: Any) -> Iterator[Any]:
        if trainer.steps >= training.FEWEST_STEPS:
            begun.append(run.row)
            if len(begun) == 4:
                raise KeyboardInterrupt
        yield from train(trainer, run)

    monkeypatch.setattr(training.Trainer, "train", interrupted)
    source, target = written(tmp_path, "tables")
    own_data("--source", source, "--target", target, "--minutes", 0.01, "--seeds", 1, "--out", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {candidate["row"] for candidate in results["candidates"]} == set(begun[:3])
    assert "Stopped by the user." in results["notes"]


def test_a_network_of_the_users(own_data: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef make(shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(shape[0], 12), nn.ReLU()), nn.Linear(12, outputs)\n"
    )
    source, target = written(tmp_path, "tables")
    options = ["--minutes", 0.01, "--seeds", 1, "--losses", "DANN", "--network", f"{tmp_path / 'mine.py'}:make"]
    own_data("--source", source, "--target", target, "--out", tmp_path / "out", *options)
    assert torch.load(tmp_path / "out" / "model.pt", weights_only=True)["head.weight"].shape == (3, 12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"X": np.zeros((ROWS, 6), dtype="U3")}, "must hold numbers"),
        ({"X": np.zeros(ROWS)}, "must have the shape"),
        ({"X": np.full((ROWS, 6), np.nan)}, "must hold finite numbers, but 60 of 60 rows do not"),
        ({"X": np.zeros((5, 6)), "y": np.arange(5)}, "must have at least 20 rows, but has 5"),
        ({"y": np.zeros(ROWS, dtype=int)}, "must be of two classes at least, but all are 0"),
        ({"y": np.arange(ROWS)}, "for a regression, write them as floats"),
        ({"y": np.arange(ROWS - 1) % 3}, "must be one for each of its 60 rows"),
        ({"y": np.full(ROWS, np.nan)}, "60 are missing"),
        ({"y": np.arange(ROWS) % 2, "labelled": True}, "must be of the source's classes, but 2 is not"),
        ({"target_X": np.zeros((ROWS, 7))}, "must have the shape of those of"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_a_sentence(
    own_data: Callable[..., None],
    tmp_path: Path,
    changes: dict[str, Any],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = written(tmp_path, "tables", **changes)
    with pytest.raises(SystemExit, match="2"):
        own_data("--source", source, "--target", target, "--out", tmp_path / "out")
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b,y\n1,2,0\n", "at least 20 rows"),
        ("a,b,y\n" + "1,on,0\n" * 30, "column b of"),
        ("a,y\n" + "1,0\n2,1\n" * 30, "but lacks b"),
        ("a,b,c\n" + "1,2,0\n" * 30, "must have labels, a column named by --label"),
        ("", "must be a table with a header"),
    ],
)
def test_tables_that_are_refused(
    own_data: Callable[..., None], tmp_path: Path, text: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = "a,b,y\n" + "1,2,0\n2,3,1\n" * 30
    swapped = "lacks" in sentence
    (tmp_path / "bad.csv").write_text(text)
    (tmp_path / "good.csv").write_text(good)
    source, target = ("good.csv", "bad.csv") if swapped else ("bad.csv", "good.csv")
    with pytest.raises(SystemExit, match="2"):
        own_data("--source", tmp_path / source, "--target", tmp_path / target, "--label", "y")
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_files_that_are_not_there(
    own_data: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = written(tmp_path, "tables")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros((30, 2)))
    for name, sentence in (
        ("nothing.npz", "There is no file"),
        ("text.npz", "must be a .npz file of plain arrays"),
        ("other.npz", "must have an array X, but has x"),
    ):
        with pytest.raises(SystemExit, match="2"):
            own_data("--source", source, "--target", tmp_path / name)
        assert sentence in " ".join(capsys.readouterr().err.split())
