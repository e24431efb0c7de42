"""The tables of the API page: each public name of a module with its first sentence, linked to its entry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.ext.autosummary import Autosummary

if TYPE_CHECKING:
    from collections.abc import Callable

    from docutils.nodes import Node
    from sphinx.application import Sphinx


class Door(Autosummary):
    """``.. door:: module`` lists the ``__all__`` of the module, so that no name can be forgotten."""

    required_arguments = 1
    has_content = False
    option_spec: ClassVar[dict[str, Callable[[str], object]]] = {"class": directives.class_option}

    def run(self) -> list[Node]:
        """Fill an ``autosummary`` with the names."""
        door = self.arguments[0]
        names = [f"~{door}.{name}" for name in import_module(door).__all__]
        self.content = StringList(names, source=door)
        self.options["nosignatures"] = True
        return super().run()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.setup_extension("sphinx.ext.autosummary")
    app.add_directive("door", Door)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
