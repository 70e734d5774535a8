"""Sphinx configuration of the readable course. `course site` puts the pages together and calls Sphinx with this file.

Nothing in the built pages asks another host: MathJax stands in static/, the theme's fonts are the reader's own.
"""

project = "Deep Learning Beyond Classification"
author = "the authors of the course"
copyright = "the authors of the course, text and figures CC BY 4.0, code BSD 3-Clause"  # noqa: A001 - the name that Sphinx wants
language = "en"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design", "sphinxcontrib.bibtex"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["static/**", "notebooks/**"]  # notebooks/: what the download links hand out
root_doc = "index"
nitpicky = True

# Notebooks carry the outputs of one clean run: nothing is executed here.
nb_execution_mode = "off"
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
nb_mime_priority_overrides = [("html", "text/html", 5), ("html", "application/vnd.jupyter.widget-view+json", 90)]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["mystnb.unknown_mime_type"]

mathjax_path = "mathjax-3.2.2-tex-svg-full.js"
mathjax3_config = {"tex": {"packages": {"[+]": ["textmacros"]}}}  # an underscore in \\text{kernel\\_size}, as JupyterLab shows it
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_search_summary = False  # summaries are fetched, which a page that was opened as a file may not do
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_exclude = ".linenos, .gp"
