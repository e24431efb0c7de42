"""All commands: `nox -s tests`, `nox -s digits`, and `nox --list` for the rest."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
# pip, not uv: the CPU build of torch is a wheel that only pip's configuration knows on some machines. Environments are
# kept between runs; delete `.nox` to start afresh.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

TORCH = "torch==2.13.0"  # newer releases default to CUDA builds of several gigabytes
ROOT = Path(__file__).parent
WORKERS = ("-n", str(os.cpu_count() or 1))  # of pytest
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for the workers share the cores
ALONE = "--confcutdir=tests/site"  # tests of the built pages need nothing of the others
PROJECT = nox.project.load_toml("pyproject.toml")


def requirements(*groups: str, extras: str = "") -> list[str]:
    """What pip is to install: the pinned torch, the named dependency groups, and the library in place."""
    return [TORCH, *nox.project.dependency_groups(PROJECT, *groups), "-e", f".[{extras}]" if extras else "."]


def shared(session: nox.Session, name: str, *groups: str, extras: str = "") -> Callable[..., object]:
    """What runs the Python of an environment that several sessions share, for they need the same packages."""
    folder = ROOT / ".nox" / name
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    if not Path(python).exists():
        session.log(f"{folder} is made, about 1.4 GB: this takes a minute or two, once.")
        session.run(sys.executable, "-m", "venv", str(folder))
    session.run(python, "-m", "pip", "install", *requirements(*groups, extras=extras), silent=True)
    return functools.partial(session.run, python)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    python = shared(session, "tests", "tests")
    python("-m", "pytest", *(session.posargs or WORKERS), env=ONE_THREAD)


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """Run the tests and show the lines and branches that they miss; takes twice as long as `tests`."""
    python = shared(session, "tests", "tests")
    python("-m", "pytest", *WORKERS, "--cov", "--cov-report=term", env=ONE_THREAD)


@nox.session(name="property", venv_backend="none")
def property_(session: nox.Session) -> None:
    """Search for counterexamples in `tests/property`, with a thousand examples for each property; takes minutes."""
    python = shared(session, "tests", "tests")
    thorough = [*WORKERS, "--hypothesis-profile=thorough", "tests/property", *session.posargs]
    python("-m", "pytest", *thorough, env=ONE_THREAD)


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Insert small faults and count those that tests detect: 20 minutes; `-- --sample 40 --only mdd` for less."""
    python = shared(session, "tests", "tests", "mutants")
    python("-m", "mutants", *session.posargs, env={"PYTHONPATH": "tests", **ONE_THREAD})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly: ours, and those of a user's project with the installed package."""
    session.install(*requirements("types"))
    session.run("mypy")
    session.install("--no-deps", "--force-reinstall", ".")  # as users have it, not in place
    session.chdir("tests/typing_project")  # away from the sources
    session.run("mypy", ".")
    session.run("pyright")


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest torchmetrics; `-- torch` also with the oldest torch, whose CUDA build is 5 GB."""
    with_torch = session.posargs == ["torch"]
    torch, torchmetrics = (name.replace(">=", "==") for name in PROJECT["project"]["dependencies"])
    tests = nox.project.dependency_groups(PROJECT, "tests")
    # what was compiled against NumPy 1 warns of NumPy 2, and warnings are errors in the tests
    session.install(*([torch, "numpy<2"] if with_torch else [TORCH]), torchmetrics, *tests, "-e", ".")
    # torch.load has a warning of its own there; the compiler of 2.4 cannot take a whole training step
    old = ["-W", "ignore::FutureWarning", "--deselect", "tests/test_functions.py"] if with_torch else []
    session.run("pytest", *WORKERS, *old, env=ONE_THREAD)


@nox.session
def newest(session: nox.Session) -> None:
    """Run the tests with the latest released torchmetrics and Lightning, even if the environment exists already."""
    tests = nox.project.dependency_groups(PROJECT, "tests")
    session.install("--upgrade", TORCH, "torchmetrics", *tests, "-e", ".")
    session.run("python", "-c", "import lightning, torchmetrics as t; print(lightning.__version__, t.__version__)")
    session.run("pytest", *WORKERS, env=ONE_THREAD)


def build_site(python: Callable[..., object]) -> None:
    """Build the pages afresh, so that none is left of a page that is gone."""
    shutil.rmtree("docs/_build/html", ignore_errors=True)
    python("-m", "sphinx", "-E", "-W", "-n", "-b", "html", "docs", "docs/_build/html")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation, run its examples, and check its links."""
    python = shared(session, "site", "site", extras="docs")
    python("-m", "sphinx", "-W", "-n", "-b", "doctest", "docs", "docs/_build/doctest")
    build_site(python)
    python("-m", "pytest", ALONE, "tests/site/built.py", *session.posargs)
    session.log(f"The first page is {(ROOT / 'docs/_build/html/index.html').as_uri()}")


@nox.session(venv_backend="none")
def browser(session: nox.Session) -> None:
    """Open every page of the documentation in Chromium; `-- --screenshots DIR` writes a picture of each."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        session.skip(f"none of {', '.join(names)} is installed")
    python = shared(session, "site", "site", extras="docs")
    build_site(python)
    python("-m", "pytest", ALONE, *WORKERS, "tests/site/browser.py", f"--chromium={chromium}", *session.posargs)


@nox.session(venv_backend="none")
def digits(session: nox.Session) -> None:
    """Adapt across a real domain shift, MNIST to optdigits; arguments go to the script, `-- --help` lists them."""
    python = shared(session, "examples", extras="examples")
    python("docs/examples/digits.py", *session.posargs)


@nox.session(venv_backend="none")
def own(session: nox.Session) -> None:
    """Adapt from your labelled file to your unlabelled one: `-- --source S.npz --target T.npz`, `-- --help`."""
    python = shared(session, "examples", extras="examples")
    python("-m", "own_data", *session.posargs, env={"PYTHONPATH": "docs/examples"})


@nox.session(venv_backend="none")
def partial(session: nox.Session) -> None:
    """Adapt to a target with half of the source's classes; arguments go to the script, `-- --help` lists them."""
    python = shared(session, "examples", extras="examples")
    python("docs/examples/partial.py", *session.posargs)


@nox.session(venv_backend="none")
def edges(session: nox.Session) -> None:
    """Write the table of edge cases in the docs, which a test compares with the losses."""
    python = shared(session, "tests", "tests")
    python("-m", "edges.page", env={"PYTHONPATH": "tests"})


@nox.session(venv_backend="none")
def sanity(session: nox.Session) -> None:
    """Write each score for good and bad predictions into docs/choosing-a-model.md, which a test compares."""
    python = shared(session, "examples", extras="examples")
    python("docs/examples/sanity.py")


@nox.session(venv_backend="none")
def lightning(session: nox.Session) -> None:
    """Adapt MNIST to optdigits in a LightningModule; arguments go to the script, `-- --help` lists them."""
    python = shared(session, "examples", extras="examples")
    python("docs/examples/lightning_dann.py", *session.posargs)


@nox.session(venv_backend="none")
def regression(session: nox.Session) -> None:
    """Adapt a regression from one sex to the other, on diabetes; arguments go to the script, `-- --help` lists them."""
    python = shared(session, "examples", extras="examples")
    python("docs/examples/regression.py", *session.posargs)


@nox.session(venv_backend="none")
def evidence(session: nox.Session) -> None:
    """Train on a real shift with each loss that suits it, and write docs/evidence.md: `-- TASK --data DIR`."""
    python = shared(session, "examples", extras="examples")
    python("-m", "evidence", *session.posargs, env={"PYTHONPATH": os.pathsep.join(("docs/examples", "docs"))})


def beside_the_peers(session: nox.Session) -> Callable[..., object]:
    """What runs the Python of an environment with the other libraries, which are installed without what they need."""
    python = shared(session, "bench", "bench")
    python("-m", "pip", "install", "--no-deps", *nox.project.dependency_groups(PROJECT, "peers"), silent=True)
    return python


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure time and memory against the peers, for the docs; `-- --promises WORD` a few, `-- --quick` to try it."""
    python = beside_the_peers(session)
    python("-m", "benchmarks.bench", *session.posargs, env={"PYTHONPATH": os.pathsep.join(("tests", "docs"))})


@nox.session(venv_backend="none")
def migrating(session: nox.Session) -> None:
    """Compare peers with our losses for docs/migrating.md; `-- --tllib DIR` adds TLLib, `-- --check` writes nothing."""
    python = beside_the_peers(session)
    python("-m", "migrating.page", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel from it, check their files, and import each from an empty environment."""
    session.install("build", "twine")
    out = Path(session.create_tmp()).resolve()
    for stale in out.glob("adaption-*"):
        stale.unlink()
    session.run("python", "-m", "build", "--outdir", str(out))
    import_time = Path("tests/benchmarks/import_time.py").resolve()
    python = str(out / "empty" / "bin" / "python")
    session.chdir(out)  # away from the sources, which would be imported in place of what was installed
    session.run("python", "-m", "venv", "--clear", "empty", silent=True)
    for artefact in out.glob("adaption-*"):
        session.run("twine", "check", "--strict", str(artefact))
        look_into(session, artefact)
        session.run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "adaption", external=True)
        session.run(python, "-m", "pip", "install", "--quiet", TORCH, str(artefact), external=True)
        check = "import adaption, adaption.functional, adaption.layers; print(adaption.__file__, adaption.__version__)"
        session.run(python, "-c", check, external=True)
    session.run(python, str(import_time), external=True)


def look_into(session: nox.Session, artefact: Path) -> None:
    """Fail if an archive lacks a file that must be there, or brings one along that must not."""
    if artefact.suffix == ".whl":
        with zipfile.ZipFile(artefact) as wheel:
            names = wheel.namelist()
    else:
        with tarfile.open(artefact) as sdist:
            names = [name.split("/", 1)[1] for name in sdist.getnames()]
    packaged = {name for name in names if name.startswith("adaption/")}
    tracked = {str(path.relative_to(ROOT)) for path in (ROOT / "adaption").rglob("*.py")} | {"adaption/py.typed"}
    if packaged != tracked:
        session.error(f"{artefact.name} must hold the package as it is, but differs in {packaged ^ tracked}.")
    if not any(Path(name).name == "LICENSE" for name in names):
        session.error(f"{artefact.name} must hold the LICENSE.")
    if extra := [name for name in names if "tests" in Path(name).parts or Path(name).name.startswith("test_")]:
        session.error(f"{artefact.name} must hold no tests, but has {extra}.")
