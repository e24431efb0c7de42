"""Sphinx configuration: MyST pages, API pages from docstrings, every example run by the doctest builder."""

import sys
from pathlib import Path

import adaption

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]  # for the pictures, the formulas and the list of public names

project = "adaption"
author = "The adaption developers"
copyright = "2026, the adaption developers"  # noqa: A001 - Sphinx asks for this name
release = adaption.__version__

extensions = [
    "doors",
    "formulas",
    "myst_parser",
    "pictures",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxext.opengraph",
]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "substitution"]
myst_substitutions = {"version": release}
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "exclude-members": "extra_repr,forward,plot_lower_bound,reset,training"}
napoleon_custom_sections = ["Shapes", "Output", "Inputs of `update` and `forward`"]
# Other projects' pages are named in the text and not linked, so that the docs build without a network.
ELSEWHERE = "torch|torchmetrics|nn|Tensor|optional|typing|Any|collections"
ALIASES = r"Bandwidth$|Criterion$|Discriminator$|Disparity$|Distance$|Generator$|adaption\._"
nitpick_ignore_regex = [("py:.*", f"({ELSEWHERE}|{ALIASES}).*")]

doctest_test_doctest_blocks = "default"
doctest_global_setup = "import torch; _ = torch.manual_seed(0)"

html_math_renderer = "formulas"
html_theme = "furo"
html_title = "adaption"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor what they answer
ogp_social_cards = {"enable": False}
