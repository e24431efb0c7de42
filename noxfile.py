"""The only entrance: `nox -s tests`, `nox -s digits`, and `nox --list` for the rest."""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
# pip, not uv: the CPU build of torch is a wheel that only pip's configuration knows on some machines. Environments are
# kept between runs; `nox -r` is the default and `nox --reuse-existing-virtualenvs=never` starts afresh.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

TORCH = "torch==2.13.0"  # newer releases default to CUDA builds of several gigabytes
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
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, "types")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation and run its examples."""
    install(session, extras="docs")
    session.run("sphinx-build", "-W", "-n", "-b", "doctest", "docs", "docs/_build/doctest")
    session.run("sphinx-build", "-W", "-n", "-b", "html", "docs", "docs/_build/html")


@nox.session
def digits(session: nox.Session) -> None:
    """Adapt across a real domain shift, MNIST to optdigits; arguments go to the script, `-- --help` lists them."""
    install(session, extras="examples")
    session.run("python", "docs/examples/digits.py", *session.posargs)


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
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside the peers and write the page of the docs; `-- --quick` only shows."""
    install(session, "bench")
    session.install("--no-deps", *nox.project.dependency_groups(PROJECT, "peers"))
    session.run("python", "-m", "benchmarks.bench", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist, and import each from a clean environment."""
    session.install("build", "twine")
    out = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "build", "--outdir", str(out))
    artefacts = sorted(str(path) for path in out.glob("adaption-*"))
    session.run("twine", "check", "--strict", *artefacts)
    python = str(out / "clean" / "bin" / "python")
    session.run("python", "-m", "venv", "--clear", str(out / "clean"), silent=True)
    session.chdir(out)  # away from the sources, which would be imported in place of what was installed
    pip = (python, "-m", "pip", "install", "--quiet")
    for artefact in artefacts:
        session.run(*pip, TORCH, artefact, external=True)
        session.run(*pip, "--force-reinstall", "--no-deps", artefact, external=True)  # the sdist over the wheel
        check = "import adaption, adaption.functional, adaption.layers; print(adaption.__file__, adaption.__version__)"
        session.run(python, "-c", check, external=True)
