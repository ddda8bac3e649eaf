"""How the documentation is built: `make docs`. Every code cell runs at build time; every warning is an error."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["CANOPY_STATS_ROOT"] = str(HERE.parent)  # where the cells find data/
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # cells call canopy-stats
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import reference_pages  # noqa: E402
from docutils import nodes  # noqa: E402

from canopy_stats import __version__  # noqa: E402

reference_pages.write(HERE / "reference")  # pages that the package itself knows best, before Sphinx looks for names

project, author, release = "canopy_stats", "the canopy_stats authors", __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton",
              "sphinx_design"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
autodoc_typehints = "none"
autosummary_generate = True
napoleon_use_rtype = False
napoleon_use_ivar = True
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header"]

html_theme = "pydata_sphinx_theme"
html_title = "canopy_stats"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt", "demo-report-page.html"]
html_show_sourcelink = False
html_theme_options = {"show_prev_next": True, "navigation_depth": 2, "secondary_sidebar_items": ["page-toc"],
                      "navbar_align": "left", "header_links_before_dropdown": 6}
html_math_renderer = "mathml"  # browsers draw it themselves: no script, no network


def _mathml(self, node, display):
    from latex2mathml.converter import convert

    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _quiet(app, error):
    """The theme tells the console which colours it took; nobody asks."""
    for script in Path(app.outdir, "_static", "scripts").glob("pydata-sphinx-theme.js"):
        script.write_text(script.read_text().replace("console.log(", "void("))


def _name_toggles(app, error):
    """The theme's buttons that open a part of the sidebar have no name for a screen reader."""
    for page in Path(app.outdir).rglob("*.html"):
        text, bare = page.read_text(encoding="utf-8"), '<summary><span class="toctree-toggle"'
        if bare in text:
            page.write_text(text.replace(bare, bare.replace("<summary>", '<summary aria-label="Pages below">')),
                            encoding="utf-8")


def setup(app):
    """Formulas as MathML, and what the theme leaves undone."""
    app.connect("build-finished", _quiet)
    app.connect("build-finished", _name_toggles)
    app.add_html_math_renderer("mathml", (lambda self, node: _mathml(self, node, "inline"), None),
                               (lambda self, node: _mathml(self, node, "block"), None))
