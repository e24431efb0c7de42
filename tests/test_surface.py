"""The library checks its own completeness: what a new loss must not forget, each with a sentence."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from cases import EVERY_METRIC
from mutants.suites import SUITES
from torchmetrics import Metric

import adaption
from adaption import functional, layers
from adaption._metric import AdditiveMetric

ROOT = Path(__file__).parent.parent
ROOMS = (
    *("features", "conditional", "adversarial", "hypothesis", "predictions", "ensemble", "weighting"),
    *("selection", "distance"),
)
LOSSES = [
    name
    for name in adaption.__all__
    if isinstance(value := getattr(adaption, name), type) and issubclass(value, Metric)
]
DOORS = {"adaption": adaption, "adaption.functional": functional, "adaption.layers": layers}
PUBLIC = [(door, name) for door, module in DOORS.items() for name in module.__all__]


def method_files() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / "adaption" / room).glob("[!_]*.py")]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_row_of_cases(name: str) -> None:
    built = {type(case.build()).__name__ for case in EVERY_METRIC}
    assert name in built, f"`{name}` has no row in tests/cases.py. Add a `Case`, and the laws run over it."


@pytest.mark.parametrize("path", method_files(), ids=lambda path: path.stem)
def test_every_method_is_at_the_doors(path: Path) -> None:
    import importlib

    module = importlib.import_module(f"adaption.{path.parent.name}.{path.stem}")
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        if inspect.isclass(value):
            assert name in adaption.__all__, f"`{name}` is not exported. Add it to adaption/__init__.py."


@pytest.mark.parametrize("path", method_files(), ids=lambda path: path.stem)
def test_every_method_has_a_page(path: Path) -> None:
    page = ROOT / "docs" / "methods" / f"{path.stem}.md"
    assert page.exists(), f"the method {path.stem} has no page. Write docs/methods/{path.stem}.md."


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_every_public_name_is_in_the_docs(door: str, name: str) -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    full = f"{door}.{name}"
    assert f":: {full}\n" in text, (
        f"`{full}` is not documented. Add an autoclass or autofunction directive to its page."
    )


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_sorted_and_complete(door: str) -> None:
    module = DOORS[door]
    assert list(module.__all__) == sorted(module.__all__), f"sort `__all__` of {door}"
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("adaption.")
    }
    assert public == {name for name in module.__all__ if name in public}, f"{door} imports a name it does not export"


def sections(doc: str) -> dict[str, str]:
    """A docstring by its headings; what stands before the first is under the empty one."""
    headings = "Shapes|Inputs of `update` and `forward`|Args|Raises|References|Example"
    parts = re.split(f"^({headings}):$", doc, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_every_docstring_is_whole(door: str, name: str) -> None:
    value = getattr(DOORS[door], name)
    doc = sections(inspect.getdoc(value) or "")
    for section in ("Args", "Raises", "References", "Example"):
        assert section in doc, f"the docstring of `{door}.{name}` lacks the section {section!r}"
    assert len(doc[""].split()) > 15, f"the docstring of `{door}.{name}` does not say what it is for"
    assert {"Shapes", "Inputs of `update` and `forward`"} & set(doc), f"`{door}.{name}` does not say the shapes"
    assert re.search("(Type|Value|Runtime)Error: ", doc["Raises"]), f"`{door}.{name}` does not say which errors"
    assert ">>> " in doc["Example"]
    for source in doc["References"].strip().split("\n\n"):
        whole = source.count("https://") == 1 and re.fullmatch(
            r".+\w:\s.+(19|20)\d\d.*\shttps://\S+", source, re.DOTALL
        )
        assert whole, f"the source of `{door}.{name}` is not whole: authors, title, venue, year, link. Got {source!r}"


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_every_argument_is_described(door: str, name: str) -> None:
    value = getattr(DOORS[door], name)
    doc = sections(inspect.getdoc(value) or "")
    own = inspect.isclass(value) and "__init__" not in vars(value)  # nothing but what the base class takes
    for argument in [] if own else inspect.signature(value).parameters:
        described = re.search(rf"^    {argument}: \S", doc["Args"], re.MULTILINE)
        assert described, f"the docstring of `{door}.{name}` does not describe `{argument}`"
    if name in LOSSES:
        for argument in list(inspect.signature(value.update).parameters)[1:]:
            inputs = doc["Inputs of `update` and `forward`"]
            assert f"`{argument}`" in inputs, f"the docstring of `{door}.{name}` does not say the shape of `{argument}`"


@pytest.mark.parametrize(("door", "name"), PUBLIC, ids=lambda value: value)
def test_every_public_method_has_a_docstring(door: str, name: str) -> None:
    value = getattr(DOORS[door], name)
    for method, body in vars(value).items() if inspect.isclass(value) else []:
        if not method.startswith("_") and callable(body):
            assert (body.__doc__ or "").strip(), f"`{door}.{name}.{method}` has no docstring"


def test_every_module_has_tests_that_answer_for_it() -> None:
    modules = {str(path.relative_to(ROOT / "adaption")) for path in (ROOT / "adaption").rglob("*.py")}
    code = {module for module in modules if not module.endswith(("__init__.py", "functional.py"))}
    assert code == set(SUITES), f"tests/mutants/suites.py differs from the modules in {code ^ set(SUITES)}"
    files = {file for own, _ in SUITES.values() for file in own}
    assert not [file for file in files if not (ROOT / "tests" / file).exists()]


def test_every_loss_is_documented_once() -> None:
    assert all(issubclass(getattr(adaption, name), AdditiveMetric) for name in LOSSES)


def test_only_torch_and_torchmetrics_are_needed() -> None:
    sources = [path.read_text() for path in (ROOT / "adaption").rglob("*.py")]
    imported = {
        line.split()[1].split(".")[0]
        for source in sources
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }
    import sys

    assert imported - set(sys.stdlib_module_names) == {"adaption", "torch", "torchmetrics"}


def test_no_room_without_a_name() -> None:
    names = {path.stem for path in (ROOT / "adaption").rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_the_first_help_names_every_class_once() -> None:
    rows = [line.split() for line in (adaption.__doc__ or "").splitlines() if line.startswith("    ")]
    listed = [word for row in rows for word in row if word in adaption.__all__]
    assert sorted(listed) == sorted(set(adaption.__all__) - {"collect_classification_results"})


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("MMD", "MaximumMeanDiscrepancyLoss"),
        ("mdd", "ClassificationMarginDisparityDiscrepancy"),
        ("DARE_GRAM", "InverseGramAlignmentLoss"),
        ("DomainAdversarialLos", "DomainAdversarialLoss"),
    ],
)
def test_a_name_that_is_not_there_leads_to_one_that_is(asked: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{asked}'. Did you mean `{meant}`"):
        getattr(adaption, asked)
    with pytest.raises(AttributeError, match=r"has no attribute 'foo'\.$"):
        adaption.foo  # type: ignore[attr-defined]  # noqa: B018


def test_dir_shows_what_is_public() -> None:
    assert set(dir(adaption)) == {*adaption.__all__, "functional", "layers", "__version__"}
