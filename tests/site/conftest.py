"""The built site, page by page."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("the built documentation")
    group.addoption("--site", type=Path, default=Path("docs/_build/html"), help="where the pages are")
    group.addoption("--chromium", help="the browser that opens them")
    group.addoption("--screenshots", type=Path, help="write a picture of every page into this folder")


@pytest.fixture(scope="session")
def site(pytestconfig: pytest.Config) -> Path:
    folder: Path = pytestconfig.getoption("--site").resolve()
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a `page` on each page of the site."""
    if "page" in metafunc.fixturenames:
        folder: Path = metafunc.config.getoption("--site")
        pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
        pages = [page for page in pages if not page.startswith("_modules/")]  # the library's code
        if not pages:
            msg = f"there is no page under {folder}. Build the site with `nox -s docs`."
            raise pytest.UsageError(msg)
        metafunc.parametrize("page", pages)
