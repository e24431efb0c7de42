"""The bench itself: that it measures what it says. No test looks at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.bench import LAUNCHED, PROMISED, kept, markdown, promise_columns, promise_rows, tables
from benchmarks.contestants import CONTESTANTS, leaves
from benchmarks.launches import launches
from benchmarks.measure import DANN, MMD, PROMISES, linear, with_own_forward

DECOMPOSED = {"BSP", "RSD", "DARE-GRAM", "nuclear norm", "DALN"}  # in the formula, where it counts as one launch
OURS = [entry for entry in CONTESTANTS if entry[1] in ("adaption", "plain autograd", "floor")]


@pytest.mark.parametrize(("loss", "library"), OURS, ids=lambda name: name)
def test_contestant_takes_a_step(loss: str, library: str) -> None:
    CONTESTANTS[loss, library](4, 8)()


@pytest.mark.parametrize(("cls", "settings"), [(MMD, {}), (DANN, {"domain_disc": linear()})], ids=["MMD", "DANN"])
def test_own_forward_is_that_of_torchmetrics_with_equal_gradients(cls: type, settings: dict[str, Any]) -> None:
    ours, theirs, batch = cls(**settings), with_own_forward(cls)(**settings), leaves(4, 256)
    values, gradients = [], []
    for metric in (ours, theirs):
        value = metric(*batch)
        values.append(value.float())
        gradients.append(torch.autograd.grad(value, batch))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_tables_have_a_cell_for_each_measurement_and_say_what_failed() -> None:
    failed = {"failure": "ImportError"}
    taken = {"seconds": 2e-3, "memory": 3e6}
    results = {
        (loss, library, n, d): failed if library == "TLLib" else taken | {"seconds": 2e-3 * n / 32}
        for loss, library in CONTESTANTS
        for n, d in ((32, 256), (64, 256), (128, 256))
    }
    title, rows = tables(results, [32, 64], [256])[0]
    assert title == "MMD: time of a step, d = 256"
    assert dict.fromkeys(row[0] for row in rows[1:]).keys() >= {"adaption", "TLLib", "skada"}
    assert rows[1] == ["adaption", "2 ms", "4 ms", "n^1.0"]
    assert next(row for row in rows if row[0] == "TLLib") == ["TLLib", "ImportError", "ImportError", "-"]
    assert markdown(rows[:2]) == (
        "|  | n = m = 32 | n = m = 64 | growth |\n|---|---:|---:|---:|\n| adaption | 2 ms | 4 ms | n^1.0 |"
    )


def test_a_promise_without_a_figure_is_not_met() -> None:
    name, (limit, _, _) = next(iter(PROMISES.items()))
    assert "**" not in kept({name: limit})[name]
    assert kept({name: float("nan")})[name] == "**nan**"


def test_a_page_keeps_the_columns_of_other_processors() -> None:
    first, second, *_ = PROMISES
    columns = {"this": {first: "1.00", second: "**2.00**"}, "that": {second: "3.00"}}
    page = f"# Page\n\n{PROMISED}\n\nSome words.\n\n{markdown(promise_rows(columns))}\n\n## Next\n\n| a | b |\n"
    assert promise_columns(page) == {"this": columns["this"], "that": {first: "", second: "3.00"}}
    assert markdown(promise_rows(promise_columns(page))) in page


def test_launches_are_those_of_the_kernels_alone() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert launches(lambda: x.view(2, 6).T.exp().sum()) == 2
    assert launches(lambda: torch.empty(3).fill_(1.0)) == 1
    # the gradient begins as a one, and is multiplied by exp(x)
    assert launches(lambda: torch.autograd.grad(x.exp().sum(), x)) == 2 + 2


@pytest.mark.parametrize(
    "loss", [loss for loss, library in CONTESTANTS if library == "plain autograd" and loss not in DECOMPOSED]
)
def test_a_step_launches_at_most_a_quarter_more_than_the_plain_formula(loss: str) -> None:
    torch.manual_seed(0)
    ours, plain = (launches(CONTESTANTS[loss, library](*LAUNCHED)) for library in ("adaption", "plain autograd"))
    assert ours <= 1.25 * plain


@pytest.mark.parametrize(("loss", "n", "d", "most"), [("MMD", 64, 256, 45), ("BSP", 256, 512, 80)])
def test_a_step_launches_no_more_than_promised(loss: str, n: int, d: int, most: int) -> None:
    assert launches(CONTESTANTS[loss, "adaption"](n, d)) <= most
