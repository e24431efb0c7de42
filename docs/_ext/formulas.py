"""Formulas drawn as SVG while the site is built, so that a page needs no script, no font and no network for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

import ziamath
from docutils.nodes import SkipNode
from sphinx.util import logging
from ziamath.tex import tex2mml

if TYPE_CHECKING:
    from docutils.nodes import math, math_block
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

SIZE = 16  # units of the drawing to an em of the page
SCALE = 1.1  # the letters of the mathematics are smaller than those of the text
# A browser may break the line on either side of a picture, also before a comma. Here it may not.
UNBROKEN = '<span class="formula">\N{WORD JOINER}{}\N{WORD JOINER}</span>'

ziamath.config.svg2 = False  # plain paths: ids of shared letters would clash between the formulas of a page
ziamath.config.precision = 2
ziamath.config.math.color = "currentColor"  # the text's, in the light theme and in the dark


def svg(node: math | math_block, *, inline: bool) -> str:
    """The formula as an SVG element that scales with the text and tells its LaTeX to screen readers."""
    latex = node.astext()
    if unknown := re.findall(r"\\[a-zA-Z]+", tex2mml(latex)):
        logging.getLogger(__name__).warning("the formula has unknown commands: %s", unknown, location=node)
    tight = latex.replace(",)", "{,})")  # as in (n,), where no space is due
    formula = ziamath.Latex(tight, size=SIZE, inline=inline, margin=0)
    element: Element = formula.svgxml()
    for side in ("width", "height"):
        element.set(side, em(float(element.attrib[side])))
    element.set("style", f"vertical-align: {em(formula.getyofst())}")
    element.set("role", "img")
    element.set("aria-label", latex)
    return tostring(element, encoding="unicode")


def em(units: float) -> str:
    """A length of the drawing on the page."""
    return f"{SCALE * units / SIZE:.3f}em"


def visit_math(translator: HTML5Translator, node: math) -> None:
    """Write a formula within the text."""
    translator.body.append(UNBROKEN.format(svg(node, inline=True)))
    raise SkipNode


def visit_math_block(translator: HTML5Translator, node: math_block) -> None:
    """Write a formula on its own line."""
    translator.body.append(f'<div class="math">{svg(node, inline=False)}</div>\n')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of MathJax."""
    app.add_html_math_renderer("formulas", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
