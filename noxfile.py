"""The only entrance: `nox -s tests`, `nox -s digits`, and `nox --list` for the rest."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
# pip, not uv: the CPU build of torch is a wheel that only pip's configuration knows on some machines. Environments are
# kept between runs; `nox -r` is the default and `nox --reuse-existing-virtualenvs=never` starts afresh.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

TORCH = "torch==2.13.0"  # newer releases default to CUDA builds of several gigabytes
ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the pinned torch, the named dependency groups, and the library in place."""
    requirements = nox.project.dependency_groups(PROJECT, *groups)
    session.install(TORCH, *requirements, "-e", f".[{extras}]" if extras else ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, with branch coverage; arguments go to pytest."""
    install(session, "tests")
    env = {"OMP_NUM_THREADS": "1"}  # the workers share the cores
    default = ["-n", str(os.cpu_count() or 1), "--cov", "--cov-report=term"]
    session.run("pytest", *(session.posargs or default), env=env)


@nox.session(name="property")
def property_(session: nox.Session) -> None:
    """Look for counterexamples to the laws of `tests/property`, with a thousand examples each; minutes."""
    install(session, "tests")
    thorough = ["-n", str(os.cpu_count() or 1), "--hypothesis-profile=thorough", "tests/property", *session.posargs]
    session.run("pytest", *thorough, env={"OMP_NUM_THREADS": "1"})


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant small faults and count those that the tests notice, half an hour; `-- --sample 40 --only mdd` for less."""
    install(session, "tests", "mutants")
    env = {"PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"}
    session.run("python", "-m", "mutants", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly: ours, and those of a user's project against the installed package."""
    install(session, "types")
    session.run("mypy")
    session.install("--no-deps", "--force-reinstall", ".")  # as users have it, not in place
    session.chdir("tests/typing_project")  # away from the sources
    session.run("mypy", ".")
    session.run("pyright")


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest torchmetrics; `-- torch` with the oldest torch too, whose CUDA build is 5 GB."""
    with_torch = session.posargs == ["torch"]
    torch, torchmetrics = (name.replace(">=", "==") for name in PROJECT["project"]["dependencies"])
    tests = nox.project.dependency_groups(PROJECT, "tests")
    # what was compiled against NumPy 1 warns of NumPy 2, and warnings are errors in the tests
    session.install(*([torch, "numpy<2"] if with_torch else [TORCH]), torchmetrics, *tests, "-e", ".")
    # torch.load has a warning of its own there; the compiler of 2.4 cannot take a whole training step
    old = ["-W", "ignore::FutureWarning", "--deselect", "tests/test_functions.py"] if with_torch else []
    session.run("pytest", "-n", str(os.cpu_count() or 1), *old, env={"OMP_NUM_THREADS": "1"})


@nox.session
def newest(session: nox.Session) -> None:
    """Run the tests with the latest torchmetrics and Lightning that are released, also in a kept environment."""
    tests = nox.project.dependency_groups(PROJECT, "tests")
    session.install("--upgrade", TORCH, "torchmetrics", *tests, "-e", ".")
    session.run("python", "-c", "import lightning, torchmetrics as t; print(lightning.__version__, t.__version__)")
    session.run("pytest", "-n", str(os.cpu_count() or 1), env={"OMP_NUM_THREADS": "1"})


def build_site(session: nox.Session) -> None:
    """Build the pages afresh, so that none is left of a page that is gone."""
    shutil.rmtree("docs/_build/html", ignore_errors=True)
    session.run("sphinx-build", "-E", "-W", "-n", "-b", "html", "docs", "docs/_build/html")


def check_site(session: nox.Session, *arguments: str) -> None:
    """Run tests of the built pages; they need nothing of the other tests."""
    session.run("pytest", "--confcutdir=tests/site", *arguments, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, run its examples, and follow its links."""
    install(session, "site", extras="docs")
    session.run("sphinx-build", "-W", "-n", "-b", "doctest", "docs", "docs/_build/doctest")
    build_site(session)
    check_site(session, "tests/site/built.py")


@nox.session
def browser(session: nox.Session) -> None:
    """Open every page of the documentation in Chromium; `-- --screenshots DIR` writes a picture of each."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        session.skip(f"none of {', '.join(names)} is installed")
    install(session, "browser", extras="docs")
    build_site(session)
    check_site(session, "tests/site/browser.py", f"--chromium={chromium}")


@nox.session
def digits(session: nox.Session) -> None:
    """Adapt across a real domain shift, MNIST to optdigits; arguments go to the script, `-- --help` lists them."""
    install(session, extras="examples")
    session.run("python", "docs/examples/digits.py", *session.posargs)


@nox.session
def own(session: nox.Session) -> None:
    """Adapt from your labelled file to your unlabelled one: `-- --source S.npz --target T.npz`, `-- --help`."""
    install(session, extras="examples")
    session.run("python", "-m", "own_data", *session.posargs, env={"PYTHONPATH": "docs/examples"})


@nox.session
def partial(session: nox.Session) -> None:
    """Adapt to a target that has half of the source's classes; arguments go to the script, `-- --help` lists them."""
    install(session, extras="examples")
    session.run("python", "docs/examples/partial.py", *session.posargs)


@nox.session
def edges(session: nox.Session) -> None:
    """Write the table of the edge cases in the docs, which a test compares with what the losses do."""
    install(session, "tests")
    session.run("python", "-m", "edges.page", env={"PYTHONPATH": "tests"})


@nox.session
def sanity(session: nox.Session) -> None:
    """Write what each score says of good and bad predictions into docs/choosing-a-model.md, which a test compares."""
    install(session)
    session.run("python", "docs/examples/sanity.py")


@nox.session
def lightning(session: nox.Session) -> None:
    """Adapt MNIST to optdigits in a LightningModule; arguments go to the script, `-- --help` lists them."""
    install(session, extras="examples")
    session.run("python", "docs/examples/lightning_dann.py", *session.posargs)


@nox.session
def regression(session: nox.Session) -> None:
    """Adapt a regression from one sex to the other, on diabetes; arguments go to the script, `-- --help` lists them."""
    install(session, extras="examples")
    session.run("python", "docs/examples/regression.py", *session.posargs)


@nox.session
def evidence(session: nox.Session) -> None:
    """Train with every loss on a real shift and write its section of docs/evidence.md: `-- TASK --data DIR`."""
    install(session, extras="examples")
    session.run("python", "-m", "evidence", *session.posargs, env={"PYTHONPATH": "docs/examples"})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside the peers and write the page of the docs; `-- --quick` only shows."""
    install(session, "bench")
    session.install("--no-deps", *nox.project.dependency_groups(PROJECT, "peers"))
    session.run("python", "-m", "benchmarks.bench", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def migrating(session: nox.Session) -> None:
    """Run the peers beside our losses and write docs/migrating.md; `-- --tllib DIR` too, `-- --check` only compares."""
    install(session, "bench")
    session.install("--no-deps", *nox.project.dependency_groups(PROJECT, "peers"))
    session.run("python", "-m", "migrating.page", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist, and the wheel from it; look into both, and import each from an empty environment."""
    session.install("build", "twine")
    out = Path(session.create_tmp()).resolve()
    for stale in out.glob("adaption-*"):
        stale.unlink()
    session.run("python", "-m", "build", "--outdir", str(out))
    import_time = Path("tests/benchmarks/import_time.py").resolve()
    python = str(out / "empty" / "bin" / "python")
    session.chdir(out)  # away from the sources, which would be imported in place of what was installed
    for artefact in out.glob("adaption-*"):
        session.run("twine", "check", "--strict", str(artefact))
        look_into(session, artefact)
        session.run("python", "-m", "venv", "--clear", "empty", silent=True)
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
