"""How the pages in this folder become a site; see ``make docs``."""

from importlib import metadata

project = "handoff-dask"
author = "The handoff-dask developers"
release = metadata.version("handoff-dask")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "handoff for Dask"
html_theme_options = {"show_toc_level": 2, "navbar_align": "left", "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False
