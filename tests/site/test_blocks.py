"""Nothing that a page shows as code goes unrun: each block is executed somewhere, or is plainly no code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
EXTRACTED = "".join((ROOT / "tests" / f"test_{name}.py").read_text() for name in ("examples", "adding_a_loss"))
PAGES = [README, *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
SESSIONS = re.findall(r"@nox\.session.*\ndef (\w+?)_?\(", (ROOT / "noxfile.py").read_text(encoding="utf-8"))

# executed by the doctest builder, with the docstrings that eval-rst pulls in
EXECUTED = {"{doctest}", "{eval-rst}", "{testcleanup}", "{testcode}", "{testoutput}", "{testsetup}"}
NO_CODE = {
    *("bibtex", "csv", "json", "mermaid", "text", "toml", "yaml"),
    *(
        "{figure}",
        "{grid}",
        "{grid-item-card}",
        "{image}",
        "{include}",
        "{list-table}",
        "{literalinclude}",
        "{math}",
        "{raw}",
        "{table}",
        "{toctree}",
    ),
    *("{admonition}", "{dropdown}", "{hint}", "{important}", "{note}", "{seealso}", "{tip}", "{warning}"),
}
SHELL = {"bash", "console", "sh", "shell"}
PYTHON = re.compile(r"^ *(>>> |import \w|from [\w.]+ import |def \w+\(|class \w+[(:])", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the word behind the fence, and what is between the fences."""

    place: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page; one within another counts as its text."""
    found: list[Block] = []
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if opening := re.match(r" *(`{3,}|~{3,}|:{3,})([^`]*)$", line):
            fence, words = opening[1], opening[2].split()
            inner: list[str] = []
            for _, inside in lines:
                if re.fullmatch(rf" *{fence[0]}{{{len(fence)},}} *", inside):
                    break
                inner.append(inside)
            place = f"{page.relative_to(ROOT)}, line {number}"
            found.append(Block(place, words[0] if words else "", "\n".join(inner)))
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_blocks_are_found() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert {"bash", "python", "text", "{testcode}", "{testoutput}"} <= {block.language for block in found}
    assert len(SESSIONS) > 5


@pytest.mark.parametrize("source", PAGES, ids=name)
def test_every_block_runs_or_is_no_code(source: Path) -> None:
    extracted = source.name in EXTRACTED  # and its Python run
    executed = EXECUTED | ({"python"} if extracted else set())
    for block in blocks(source):
        assert block.language, f"{block.place}: say what this block is, `bash` or `text` if it is no Python"
        assert block.language in executed | NO_CODE | SHELL, (
            f"{block.place}: a `{block.language}` block is not run. Write {{testcode}}, or `text` if it is no code."
        )
        assert block.language not in NO_CODE or not PYTHON.search(block.text), (
            f"{block.place}: this `{block.language}` block holds Python that is not run. Write {{testcode}}."
        )
        assert not re.search(r":skipif:|\+SKIP", block.text), f"{block.place}: an example that is skipped is not run"


COMMANDS = {
    *(("pip", "install"), ("nox", "-s"), ("git", "clone"), ("python3", "-m"), (".", ".venv/bin/activate")),
    ("python", "docs/examples/start.py"),  # tests/test_examples.py
}


@pytest.mark.parametrize("source", PAGES, ids=name)
def test_shell_commands_are_real(source: Path) -> None:
    for block in blocks(source):
        for line in block.text.splitlines() if block.language in SHELL else []:
            command = line.partition("#")[0].removeprefix("$ ").split()
            assert not command or tuple(command[:2]) in COMMANDS, (
                f"{block.place}: no test knows `{line}`. Show a nox session, which the gate runs, or test it."
            )


@pytest.mark.parametrize("source", PAGES, ids=name)
def test_what_a_page_names_is_there(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    for session in re.findall(r"nox -s (\w+)", text):
        assert session in SESSIONS, f"{name(source)} names the session {session}, which noxfile.py does not have"
    for path in re.findall(r"`((?:adaption|docs|tests)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).is_file(), f"{name(source)} names the file {path}, which is not there"


@pytest.mark.parametrize("goal", re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")))
def test_readme_links_lead_somewhere(goal: str) -> None:
    assert (ROOT / goal).exists(), f"README.md links to {goal}, which is not there"


def test_every_method_is_in_the_menu_and_among_the_pictures() -> None:
    methods = sorted(path.stem for path in (ROOT / "docs" / "methods").glob("*.md"))
    menu = re.findall(r"^methods/(\w+)$", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    cards = re.findall(
        r"^:link: methods/(\w+)$", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(menu) == methods
    assert cards == menu, "the cards are to stand in the order of the menu"
