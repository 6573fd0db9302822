"""Sphinx builds the documentation with these settings: make docs."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
from pathlib import Path

import jupyter_cache.executors.utils as execution
from docutils import nodes
from docutils.utils.math import pick_math_environment
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

import scalex

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "SCALEX"
author = "The SCALEX developers"
project_copyright = author
version = release = scalex.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build", "_templates", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
suppress_warnings: list[str] = []

# Pages.
myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
highlight_language = "none"
copybutton_exclude = ".linenos, .gp, .go"

# Notebooks: they run at the build, and again when the package has changed.
_code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((ROOT / "scalex").rglob("*.py")))).hexdigest()[:12]
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "notebooks" / _code)
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
# The output of a command arrives in pieces of 100 letters, which are joined as they are.
execution.executenb = functools.partial(execution.executenb, coalesce_streams=True)
nb_merge_streams = True
# The commands of a notebook are those of this environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# Reference of the Python names.
autosummary_generate = True
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
default_role = "code"
nitpicky = True

# Everything is in the folder, so that the pages can be read without a network.
html_theme = "sphinx_book_theme"
html_title = f"SCALEX {release}"
html_static_path = ["_static"]
html_css_files = ["scalex.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
}


def _show_math(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _show_display(self: HTML5Translator, node: nodes.Element) -> None:
    """Show a formula of its own lines as MathML, which browsers draw themselves. MathJax would come from a network."""
    text = node.astext()
    block = pick_math_environment(text) == "align*"
    if block:
        text = rf"\begin{{align*}}{text}\end{{align*}}"
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(f"{tex2mathml(text, as_block=True)}</div>\n")
    raise nodes.SkipNode


def _link_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links that are right in the repository lead to pages here: those of README and of the benchmarks."""
    source[0] = source[0].replace("](../benchmarks/README.md", "](benchmarks.md")


def _is_of_library(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out what a class inherits from Lightning and torch."""
    function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member))  # type: ignore[arg-type]
    module = getattr(function, "__module__", None)
    return True if isinstance(module, str) and module.split(".")[0] != "scalex" else None


def setup(app: Sphinx) -> None:
    """Add what these settings need to Sphinx."""
    app.add_html_math_renderer("mathml", (_show_math, None), (_show_display, None))
    app.connect("source-read", _link_to_pages)
    app.connect("autodoc-skip-member", _is_of_library)
