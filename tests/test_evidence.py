"""The evidence can be tried without its data, on noise: whole, with the control equal to source only."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
TASKS = sorted(
    path.stem for path in (EXAMPLES / "evidence").glob("*.py") if "TASK = Task(" in path.read_text(encoding="utf-8")
)


def evidence(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}:{ROOT}", "COLUMNS": "200"}
    command = [sys.executable, "-m", "evidence", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def report(examples: None) -> Any:  # noqa: ARG001 - it finds them
    return importlib.import_module("evidence.report")


def test_the_interval_is_students(report: Any) -> None:
    interval = report.difference(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    half = 4.302652729749464 / math.sqrt(3)  # the 97.5 % point for two degrees of freedom, from a table
    assert interval == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    assert not report.better(interval, lower=False)
    sure = report.difference(np.array([2.0, 3.1, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert report.better(sure, lower=False)
    assert not report.better(sure, lower=True)


@pytest.mark.usefixtures("examples")
def test_a_run_is_trained_once_by_the_same_code(tmp_path: Path) -> None:
    kept, trained = importlib.import_module("evidence.kept"), []

    def train(*arguments: Any, seconds: float) -> dict[str, float]:
        trained.append(arguments)
        return {"seconds": seconds}

    one = ("digits", "BSP + DANN", "MNIST to USPS", 0)
    for code, seed in (("first", 0), ("first", 0), ("first", 1), ("other", 0)):
        figures = kept.once(train, *one[:3], seed, kept=tmp_path / "runs", code=code, seconds=1.5)
        assert figures == {"seconds": 1.5}
    assert trained == [one, (*one[:3], 1), one]
    assert kept.code() == kept.code()


@pytest.mark.usefixtures("examples")
def test_a_process_of_its_own_finds_what_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, jobs = importlib.import_module("evidence.__main__"), []

    def collect(job: Any, arguments: list[Any], *_: Any, **__: Any) -> dict[Any, Any]:
        jobs.append(job)
        return {one: {"seconds": 0.0} for one in arguments}

    monkeypatch.setattr(command, "run_all", collect)
    options = SimpleNamespace(task="digits", seeds=2, quick=False, out=tmp_path, data=tmp_path)
    command.measure(options, ("source only",), None)
    module = jobs[0].func.__module__
    assert not module.endswith("__main__"), "a process that is spawned does not import the module of `python -m`"


@pytest.mark.parametrize(
    ("scores", "lower", "expected"), [([1, 2, 4], False, 1), ([1, 2, 4], True, -1), ([4, 4, 4], False, math.nan)]
)
def test_agreement_is_a_rank_correlation(report: Any, scores: list[float], lower: bool, expected: float) -> None:
    task = SimpleNamespace(score="accuracy", lower_is_better=lower)
    run = {"distance": [0.9, 0.5, 0.1], "figures": [{"accuracy": score} for score in scores]}
    assert report.agreement(task, [run]) == pytest.approx(expected, nan_ok=True)


def test_sections_are_written_between_their_marks(report: Any, tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    for name, text in (("one", "first"), ("two", "second"), ("one", r"again \1")):
        report.write(page, name, text)
    assert re.sub(r"<!--.*?-->", "", page.read_text()).split() == ["again", r"\1", "second"]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_can_be_tried_on_noise(task: str, tmp_path: Path) -> None:
    done = evidence(task, "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / f"{task}.json").read_text())
    for shift, rows in record["results"].items():
        source_only, control = rows["source only"], rows["control"]
        for one, other in zip(source_only, control, strict=True):
            assert one["figures"] == other["figures"]
            assert one["distance"] == other["distance"]
            assert any(other["losses"])  # computed, and then switched off
        distances = {row: [run["distance"] for run in runs] for row, runs in rows.items()}  # to six digits
        moved = [row for row in rows if distances[row] != distances["source only"]]
        assert moved, f"{shift}: no row differs from source only"
    page = (tmp_path / "evidence.md").read_text()
    for row in rows:
        assert f"| {row} |" in page
    assert (tmp_path / "_static" / "evidence" / f"{task}.svg").stat().st_size > 10_000
    again = evidence(task, "--quick", "--rewrite", "--out", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "evidence.md").read_text() == page


@pytest.mark.parametrize("task", TASKS)
def test_the_page_has_a_section_of_each_task(task: str) -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    section = re.search(f"<!-- {task}: written by the command -->(.*?)<!-- end of {task} -->", page, re.DOTALL)
    assert section, f"`nox -s evidence -- {task} --data DIR` writes it"
    assert "| source only |" in section[1]


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize("name", ["evidence", "choosing"])
def test_the_summary_is_that_of_the_figures(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    section = re.search("<!-- summary: written by the command -->(.*?)<!-- end of summary -->", page, re.DOTALL)
    assert section
    summary = importlib.import_module("evidence.summary").summary(EXAMPLES / "evidence" / "results")
    assert section[1].strip() == summary
    links = re.findall(r"\]\((methods/\w+\.md)\)", summary)
    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)


@pytest.fixture
def selection(examples: None) -> Any:  # noqa: ARG001
    return importlib.import_module("evidence.selection")


@pytest.mark.parametrize(
    ("values", "spearman", "kendall", "chosen"),
    [
        ([1.0, 2.0, 4.0, 3.0], 1, 1, "c"),
        ([4.0, 3.0, 1.0, 2.0], -1, -1, "a"),
        ([1.0, 2.0, 3.0, 4.0], 0.8, 2 / 3, "d"),
        ([1.0, 2.0, math.nan, 3.0], -0.2, 0, "d"),  # without a value it comes last: ranks 2, 3, 1, 4
        ([7.0, 7.0, 7.0, 7.0], math.nan, math.nan, "a"),
    ],
)
def test_a_score_is_worth_what_its_choice_is(
    selection: Any, values: list[float], spearman: float, kendall: float, chosen: str
) -> None:
    accuracy = np.array([10.0, 50.0, 90.0, 80.0])
    one = selection.Unit(list("abcd"), accuracy, {"score": np.array(values)}, {})
    worth = selection.worth(one, "score")
    assert worth[:2] == pytest.approx((spearman, kendall), nan_ok=True)
    assert worth.chosen == chosen
    assert worth.lost == 90 - accuracy["abcd".index(chosen)]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_calibration_takes_off_the_scale(selection: Any, scale: float) -> None:
    """Of ten samples with log odds of log 9, nine are right: they are as sure as they are right at temperature 1."""
    logits = torch.tensor([[math.log(9), 0.0]]).expand(10, 2)
    labels = torch.tensor([0] * 9 + [1])
    assert float(selection.temperature(scale * logits, labels)) == pytest.approx(scale, rel=0.06)  # half a step


def test_the_better_half_agrees_among_itself(selection: Any) -> None:
    """Of four candidates two are better by the first score; the others have no value, whatever they name."""
    named = ([0, 1, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0])
    candidates = [size * torch.eye(2)[rows] for rows, size in zip(named, (9, 5, 50, 50), strict=True)]
    found = selection.within_the_better_half(candidates, [3.0, 4.0, 1.0, math.nan])
    assert found[:2] == [1.0, pytest.approx(2 / 3)]  # the first is the surer of both
    assert all(math.isnan(value) for value in found[2:])


def test_the_choice_of_a_model_can_be_tried_on_noise(tmp_path: Path) -> None:
    """Runs are kept: what is there is not trained again, and a run that lacks is trained alone."""
    arguments = ("selection", "--quick", "--seeds", "2", "--out", str(tmp_path))
    assert "28 runs are not in" in evidence(*arguments, "--rewrite").stderr
    done = evidence(*arguments)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "evidence.md"
    text = page.read_text()
    for name in ("the oracle", "agreement", "IWV", "source accuracy, held out", "chance", "source only", "MMD", "ADDA"):
        assert text.count(f"| {name} |") == 2  # of the digits and of the objects
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    assert len(kept) == 2 * 2 * (1 + 3 + 3)  # pools, seeds, rows at their weights
    lost = next(path for path in kept if "objects" in str(path))
    lost.unlink()
    changed = {path: path.stat().st_mtime_ns for path in kept if path != lost}
    assert evidence(*arguments).returncode == 0
    assert lost.is_file()
    assert changed == {path: path.stat().st_mtime_ns for path in kept if path != lost}
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert [line for line in page.read_text().splitlines() if line.startswith("|")] == tables  # trained to the same


def test_the_study_of_class_weights_can_be_tried_on_noise(tmp_path: Path) -> None:
    done = evidence("class_weights", "--quick", "--seeds", "2", "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "new" / "evidence.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (BBSE|EM|EM, calibrated), ([\d,]+) samples \|", text, re.MULTILINE)
    assert sorted(table) == sorted(
        (name, size) for name in ("BBSE", "EM", "EM, calibrated") for size in ("500", "2,000")
    )


def test_the_study_at_the_authors_size_can_be_tried_on_noise(tmp_path: Path) -> None:
    done = evidence("authors", "--quick", "--seeds", "2", "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "new" / "evidence.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line.count("±") for line in text.splitlines() if "±" in line}
    assert rows == {"MCD": 5, "ADDA": 4}


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize("weight", [None, 0.0, 1.0])
def test_in_mcds_three_stages_only_the_discrepancy_moves_weights_by_the_target(weight: float | None) -> None:
    """Times 0, nothing is left of the target but the averages of the batch normalisation."""
    study = importlib.import_module("evidence.authors")
    found = []
    for target in (torch.zeros(128, 1, 28, 28), torch.rand(128, 1, 28, 28)):
        torch.manual_seed(0)
        network, source = study.TwoHeads(), torch.rand(128, 1, 28, 28)
        batch = source, torch.arange(128) % 10, target
        each = study.Data(iter([batch] * 20), lambda _: 0.0)
        assert len(study.train(network, each, 10, weight)) == 10
        found.append([parameter.detach() for parameter in network.parameters()])
    same = all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert same == (weight != 1)


@pytest.mark.usefixtures("examples")
def test_the_last_class_is_drawn_nine_times_as_often() -> None:
    study, labels = importlib.import_module("evidence.class_weights"), torch.arange(10).repeat(400)
    drawn = study.draw(torch.randperm(4000), labels, 2000, 9)
    assert labels[drawn].bincount().tolist() == [40, 76, 111, 147, 182, 218, 253, 289, 324, 360]
    assert len(drawn.unique()) == 2000
    assert float(study.shares(labels[drawn]).sum()) == pytest.approx(1)


def test_without_the_data_a_sentence_says_what_is_needed(tmp_path: Path) -> None:
    for arguments in ([], ["--data", str(tmp_path)]):
        done = evidence("digits", *arguments)
        assert done.returncode == 2
        assert re.search(r"mnist\.npz.*usps\.npz.*docs/evidence\.md", " ".join(done.stderr.split()))
    assert evidence("digits", "--quick", "--seeds", "1").returncode == 2  # no interval from a single seed


def pools() -> dict[str, dict[str, list[str]]]:
    """The tables of choices on the page: pool -> score -> cells."""
    section = (ROOT / "docs" / "evidence.md").read_text().split("<!-- selection: written by the command -->")[1]
    found: dict[str, dict[str, list[str]]] = {}
    for pool, text in re.findall(r"^### (\w+): .*?$(.*?)(?=^###|^Seeds)", section, re.DOTALL | re.MULTILINE):
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        found[pool] = {cells[0]: cells[1:] for cells in lines}
    return found


def test_the_page_recommends_what_the_pools_show(selection: Any) -> None:
    """A rank correlation of 0.75 on the digits, at most five points lost over all pools, and no collapsed model."""
    text, tables = (ROOT / "docs" / "choosing-a-model.md").read_text(), pools()
    numbers = {"Digits": 4, "Objects": 24}
    for score in ("information maximisation, calibrated", selection.WITHIN):
        rows = {pool: tables[pool][score] for pool in numbers}
        assert float(rows["Digits"][0].split()[0]) >= 0.75
        lost = {pool: row[2].split()[0] for pool, row in rows.items()}
        mean = sum(number * float(lost[pool]) for pool, number in numbers.items()) / sum(numbers.values())
        assert mean <= 5
        assert f"{mean:.1f} over all pools" in text
        assert all(row[4].startswith("0 of") for row in rows.values())
        assert all(points in text for points in lost.values())
