"""Sphinx's settings: the site is built from nbs/, with the outputs stored there. See tools/sitebuild.py."""
import gc, os, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
gc.set_threshold(500_000, 20, 100)                   # millions of nodes that stay: looking through them at every turn took most of the time
sys.path[:0] = [str(ROOT), str(ROOT/"docs/_ext"), str(ROOT/"tools")]
from nbsync import settings

ini = settings()
project, author, release, copyright = ini["title"], ini["author"], ini["version"], ini["copyright"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_proof", "sphinx_exercise",
              "sphinxcontrib.bibtex", "sphinx_design", "sphinx_copybutton", "sphinx_togglebutton",
              "nbdev_sphinx"]
exclude_patterns = ["_src", "**/.ipynb_checkpoints", "_proc"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# -- notebooks and their Markdown
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

# -- math: one file, SVG output, no web fonts, no network; from a CDN only where npm could not bring it
LOCAL = (ROOT/"docs/_static/mathjax/tex-svg.js").exists()
CDN = "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-svg.js"
mathjax_path = "mathjax/tex-svg.js" if LOCAL else CDN
# without its menu, which would make each formula a stop for the Tab key and take the focus away
mathjax3_config = {"tex": {"tags": "none"}, "svg": {"fontCache": "global"}, "options": {"enableMenu": False}}

# -- numbered things
numfig = True
numfig_format = {"figure": "Figure %s"}
math_number_all = False
bibtex_bibfiles = ["refs.bib"]
bibtex_reference_style = "author_year"
prf_realtyp_to_countertyp = {k: "theorem" for k in ("lemma", "corollary", "proposition", "definition")}

# -- API
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
python_use_unqualified_type_names = True

# -- look
html_theme = "sphinx_book_theme"
html_title = project
html_context = {"default_mode": "auto"}
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_search_scorer = str(ROOT/"docs/_static/scorer.js")
html_copy_source = html_show_sourcelink = False
html_theme_options = {"logo": {"text": project, "alt_text": f"{project}: home", "image_light": "_static/icon.svg", "image_dark": "_static/icon.svg"},
                      "show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": [],
                      "use_download_button": False, "use_fullscreen_button": False, "path_to_docs": "nbs"}
if "GITHUB_REPOSITORY" in os.environ:
    html_theme_options |= {"repository_url": f"https://github.com/{os.environ['GITHUB_REPOSITORY']}",
                           "use_repository_button": True}
