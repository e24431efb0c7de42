"""Every example that a user is shown runs: the README's loop, the docstrings, the scripts."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import math
import os
import re
import runpy
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import adaption
from adaption import functional, layers

ROOT = Path(__file__).parent.parent
PUBLIC = [(door.__name__, name) for door in (adaption, functional, layers) for name in door.__all__]


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_docstring_examples(door: str, name: str) -> None:
    value = getattr(importlib.import_module(door), name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    for test in tests:
        runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0


def test_readme_loop(capsys: pytest.CaptureFixture[str]) -> None:
    loops = blocks((ROOT / "README.md").read_text(), "python")
    assert loops
    for block in loops:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - the README is ours
    assert capsys.readouterr().out.startswith("epoch 0: MMD 0.")


def test_first_script(capsys: pytest.CaptureFixture[str]) -> None:
    logs = runpy.run_path(str(ROOT / "docs" / "examples" / "start.py"))["logs"]
    without, with_it = logs["source only"], logs["with MMD"]
    assert with_it["accuracy"][-1] > without["accuracy"][-1] + 0.15
    assert with_it["distance"][-1] < 0.5 * without["distance"][-1]
    shape = re.sub(r"\d+", r"\\d+", capsys.readouterr().out)
    assert re.search(shape, (ROOT / "README.md").read_text()), "README.md shows another output"


def on_two_processes(script: str, folder: Path) -> list[tuple[str, float]]:
    """Run a script by torchrun; the epochs that it prints, with their MMD."""
    (folder / "train.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [*torchrun, "train.py"]
    for _ in range(4):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=folder)
        # gloo's threads can abort an interpreter that shuts down: https://github.com/pytorch/pytorch/pull/179291
        if "terminate called without an active exception" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"epoch (\d): domain loss .+, MMD (.+)", done.stdout)
    return [(epoch, float(distance)) for epoch, distance in lines]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_torchrun_script(tmp_path: Path) -> None:
    (script,) = blocks((ROOT / "docs" / "distributed.md").read_text(), "python")
    lines = on_two_processes(script, tmp_path)
    assert [epoch for epoch, _ in lines] == list("01234")  # from one rank only
    assert 0 < lines[-1][1] < 0.7 * lines[0][1]


@pytest.mark.parametrize("heading", ["Accelerate", "FSDP2 and distributed checkpoints"])
def test_scripts_inside_frameworks(heading: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "inside-your-framework.md").read_text()
    module, *_ = blocks(page, "{testcode}")
    (script,) = blocks(page.split(f"\n## {heading}\n")[1].split("\n## ")[0], "python")
    lines = on_two_processes(f"{module}\n{script}", tmp_path)
    assert [epoch for epoch, _ in lines] == list("012")
    assert 0 < lines[-1][1] < lines[0][1]
    assert any((tmp_path / "checkpoint").iterdir())


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_annotations_can_be_read_at_run_time(door: str, name: str) -> None:
    value = getattr(importlib.import_module(door), name)
    assert typing.get_type_hints(vars(value).get("__init__", value))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "examples" / script), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_digits_script(tmp_path: Path) -> None:
    losses = ["source only", "control", "BSP + DANN"]
    asked = ["source only", "Control", "bsp + dann"]  # upper or lower case
    done = run("digits.py", "--seeds", "1", "--epochs", "1", "--losses", *asked, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "±" not in done.stdout  # there is none, of one seed
    report = json.loads((tmp_path / "digits.json").read_text())
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    assert list(report["runs"]) == losses
    assert report["runs"]["source only"][0]["accuracy"] == report["runs"]["control"][0]["accuracy"]
    assert set(report["runs"]["BSP + DANN"][0]["losses"][0]) == {"DANN", "BSP"}
    assert "target accuracy" in done.stdout
    scores = {loss: runs[0]["score"] for loss, runs in report["runs"].items()}
    best = min(losses, key=lambda loss: scores[loss][0])
    assert report["kept"] == {"loss": best, "epoch": 0}
    assert f"{best} *" in done.stdout


def test_the_score_keeps_a_row_and_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mean over seeds, wherever it is smallest, and never where it is no number."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    digits = importlib.import_module("digits")
    rows = {"one": [[-1.0, -1.2], [-1.0, -1.0]], "two": [[-2.0, -1.0], [-0.5, -1.0]], "bad": [[math.nan, 0.0]] * 2}
    results = {name: [{"score": score} for score in runs] for name, runs in rows.items()}
    assert digits.kept(results) == ("two", 0)
    del results["two"]
    assert digits.kept(results) == ("one", 1)


def test_partial_script(tmp_path: Path) -> None:
    losses = ["source only", "PADA", "IWAN"]
    done = run("partial.py", "--seeds", "1", "--epochs", "1", "--losses", *losses, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "partial.json").read_text())
    assert (tmp_path / "partial.png").stat().st_size > 10_000
    assert list(report["runs"]) == losses
    (source_only,), (pada,), (iwan,) = report["runs"].values()
    assert source_only["weights"] == [pytest.approx([1.0] * 10)]
    assert source_only["share"] == [pytest.approx(0.5)]
    assert pada["share"] != source_only["share"]  # it has looked, at the last step
    assert sum(iwan["weights"][0]) == pytest.approx(10, rel=1e-4)  # as many samples of each class
    assert set(iwan["losses"][0]) == {"DANN"}
    assert "target accuracy" in done.stdout


def test_lightning_script(tmp_path: Path) -> None:
    done = run("lightning_dann.py", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    score: dict[str, float] = {}
    for name in ("source_only", "control", "DANN"):
        with (tmp_path / name / "version_0" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        score[name] = float(next(row["accuracy"] for row in rows if row["accuracy"]))
        assert any(row.get("dann_epoch") for row in rows) == (name != "source_only")
    assert score["source_only"] == score["control"] != score["DANN"]
    assert "target accuracy" in done.stdout
    assert "Warning" not in done.stderr


def test_regression_script(tmp_path: Path) -> None:
    losses = ["source only", "control", "MDD", "trained on target"]
    done = run("regression.py", "--seeds", "2", "--epochs", "1", "--losses", *losses, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "regression.json").read_text())
    assert (tmp_path / "regression.png").stat().st_size > 10_000
    assert list(report["runs"]) == losses
    source_only, control, mdd, upper_bound = report["runs"].values()
    for one, other in zip(source_only, control, strict=True):
        assert one["rmse"] == other["rmse"]
    assert source_only[0]["rmse"] != source_only[1]["rmse"]
    assert len(mdd[0]["losses"]) == 1
    assert len(mdd[0]["predictions"]) == len(upper_bound[0]["predictions"]) == 207  # every patient of the target
    assert "target error" in done.stdout


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--epochs", "-1"], ["--losses", "magic"]])
def test_digits_script_refuses_nonsense(arguments: list[str]) -> None:
    done = run("digits.py", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_the_tables_of_habits_are_those_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    habits = importlib.import_module("habits")
    for table, rows in habits.TABLES.items():
        written = re.search(
            f"<!-- {table}: .*?-->(.*?)<!-- end of {table} -->", habits.PAGES[table].read_text(), re.DOTALL
        )
        assert written
        header, _, *lines = written[1].split("\n\n")[1].splitlines()
        assert header == habits.line("", *next(iter(rows.values())))
        assert [line.split(" | ")[0] for line in lines] == [f"| {row}" for row in rows]
    made = habits.TABLES["heads"]["`finetune=False`"]["600 steps"]
    assert isinstance(made.network(), habits.WithHeads)
