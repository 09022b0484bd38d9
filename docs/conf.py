"""Sphinx's settings: sphinx-build -W docs docs/_build."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "minbert"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
highlight_language = "text"
html_theme = "furo"
html_title = "minbert"
html_show_sphinx = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
myst_heading_anchors = 3         # headings have the anchors that GitHub gives them
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False


def escape_markup(app, what, name, obj, options, lines):
    """Docstrings are plain text: |x|, *x and x_ mean themselves there."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[number] = re.sub(r"(?<!\\)([*|]|_(?=\W|$))", r"\\\1", line)


def setup(app):
    # before napoleon, which has priority 500
    app.connect("autodoc-process-docstring", escape_markup, priority=400)
