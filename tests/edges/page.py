"""The page of the documentation that says what every loss does at every edge: ``nox -s edges`` writes it."""

from __future__ import annotations

from pathlib import Path

from cases import EVERY_METRIC, Case
from edges.matrix import EDGES, Edge, cell

PAGE = Path(__file__).parents[2] / "docs" / "edge-cases.md"

INTRODUCTION = """\
# Edge cases

What every loss and every score does where data are awkward: a last batch of one sample, collapsed features, half
precision, logits that saturate. Written by `nox -s edges`: each cell is what the tests assert, and they fail where this
page says something else. A row is a metric with the settings [below](#rows). Batches have 4 samples of either domain in
float32, unless the column says otherwise; c is the number of classes. The scores, IWV and those below it, have no
gradients.

Whatever the cell, but for errors and dashes: the value and all gradients are finite, those of a discriminator inside
included; they agree with those in float64 of the same inputs; and `compute()` is the value of the batch. The cell says
what holds besides:

- *finite*: no more than that
- a number or formula: the limit in theory, which the value is compared with
- *= ..* and *as ..*: the value computed in the way that is named
- *ValueError* with a number: the batch is refused with the [error](#errors) of that number, and nothing accumulated
  is changed
- a dash: the edge does not exist for this loss, for the reason under the table
"""


def page() -> str:
    """The whole page."""
    groups = dict.fromkeys(edge.group for edge in EDGES)
    errors: list[str] = []
    sections = [INTRODUCTION]
    sections += [section(group, [edge for edge in EDGES if edge.group == group], errors) for group in groups]
    sections.append(
        "## Errors\n\nEach goes on to say what came, and a repair.\n\n" + "\n".join(numbered(errors)) + "\n"
    )
    rows = table(["row", "metric"], [[case.name, f"`{settings(case)}`"] for case in EVERY_METRIC])
    sections.append(f"## Rows\n\n{rows}")
    return "\n".join(sections)


def section(group: str, edges: list[Edge], errors: list[str]) -> str:
    """The laws of some edges, their table, and the reasons for its dashes. New errors are appended."""
    laws = [f"- **{edge.name}.** {edge.law}" for edge in edges]
    rows = [[case.name, *(shown(*cell(case, edge), errors) for edge in edges)] for case in EVERY_METRIC]
    dashes = {
        edge.name: sorted({why for word, why in (cell(case, edge) for case in EVERY_METRIC) if word == "-"})
        for edge in edges
    }
    reasons = [f"- *{name}*, dash: {'; '.join(why)}." for name, why in dashes.items() if why]
    parts = ["\n".join(laws), table(["", *(edge.name for edge in edges)], rows), "\n".join(reasons)]
    return f"## {group}\n\n" + "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def shown(word: str, sentence: str, errors: list[str]) -> str:
    """A cell, with the number of its error."""
    if word == "-" or not sentence:
        return word
    rule = sentence.split(", but ", maxsplit=1)[0]  # what came differs from cell to cell
    if rule not in errors:
        errors.append(rule)
    return f"{word} [{errors.index(rule) + 1}]"


def numbered(sentences: list[str]) -> list[str]:
    return [f"{number}. {sentence}." for number, sentence in enumerate(sentences, start=1)]


def settings(case: Case) -> str:
    metric = case.build()
    return f"{type(metric).__name__}({metric.extra_repr()})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
