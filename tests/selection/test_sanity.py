"""What each score says of predictions known to be good or bad: its value on paper, and the table of the page."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

import adaption

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def sanity(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("sanity")


def test_every_score_has_a_column(sanity: Any) -> None:
    """All of these two rooms but the losses of a game and of open sets, whose values say nothing of such a model."""
    public = [getattr(adaption, name) for name in adaption.__all__]
    rooms = ("adaption.selection.", "adaption.predictions.")
    scores = {kind for kind in public if kind.__module__.startswith(rooms) and kind.higher_is_better is not None}
    scores -= {adaption.EntropySeparationLoss, adaption.OneVersusAllLoss, adaption.OpenSetEntropyLoss}
    assert set(sanity.SCORES.values()) == scores


PERFECT, COLLAPSED, UNIFORM = "perfect", "collapsed to one class", "uniform"


@pytest.mark.parametrize(
    ("model", "score", "value"),
    [
        (PERFECT, "entropy", 0.0),
        (PERFECT, "information maximisation", -math.log(10)),
        (PERFECT, "nuclear norm", -1.0),
        (PERFECT, "class confusion", 0.0),
        (PERFECT, "pseudo labels", 0.0),
        (PERFECT, "SND", math.log(19)),
        (COLLAPSED, "entropy", 0.0),
        (COLLAPSED, "information maximisation", 0.0),
        (COLLAPSED, "nuclear norm", -1 / math.sqrt(10)),
        (COLLAPSED, "class confusion", 0.9),
        (COLLAPSED, "pseudo labels", 0.0),
        (COLLAPSED, "SND", math.log(199)),
        (UNIFORM, "entropy", math.log(10)),
        (UNIFORM, "information maximisation", 0.0),
        (UNIFORM, "nuclear norm", -0.1),
        (UNIFORM, "class confusion", 0.9),
        (UNIFORM, "pseudo labels", 0.0),  # nobody is confident
        (UNIFORM, "SND", math.log(199)),
    ],
)
def test_the_values_are_those_of_theory(sanity: Any, model: str, score: str, value: float) -> None:
    assert sanity.values()[model][score] == pytest.approx(value, abs=1e-5)


def test_which_scores_see_a_collapse(sanity: Any) -> None:
    found = sanity.values()
    seeing = {name for name in sanity.SCORES if sanity.prefers(name, "good", COLLAPSED, found)}
    assert seeing == {"information maximisation", "nuclear norm", "class confusion", "agreement"}


def test_which_scores_are_blind_to_the_scale_of_logits(sanity: Any) -> None:
    """The ensemble, and what does not look at the target's predictions."""
    found = sanity.values()
    good, same = found["good"], found["the same, logits times 3"]
    blind = {name for name in sanity.SCORES if abs(good[name] - same[name]) < 1e-6}
    assert blind == {"agreement", "IWV", "DEV"}


def test_no_score_of_predictions_alone_sees_classes_that_have_changed_places(sanity: Any) -> None:
    """As the page says: the columns of the logits are exchanged, and the accuracy of a good model is gone."""
    good = sanity.models()["good"].double()
    for name, kind in sanity.SCORES.items():
        if name not in {"agreement", "IWV", "DEV"}:
            metrics = kind(), kind()
            for metric, logits in zip(metrics, (good, good.roll(1, 1)), strict=True):
                metric.update(logits)
            assert metrics[0].compute().item() == pytest.approx(metrics[1].compute().item(), rel=1e-6)


def test_the_page_shows_the_table(sanity: Any) -> None:
    page = sanity.PAGE.read_text(encoding="utf-8")
    shown = page.split(sanity.BEGIN)[1].split(sanity.END)[0].strip()
    assert shown == sanity.table(), "docs/choosing-a-model.md is out of date. Run `nox -s sanity`."
