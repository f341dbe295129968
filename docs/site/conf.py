"""How Sphinx makes the site; `build.py` calls it on a copy of docs/ with the generated pages."""

project = "gpuqa"
copyright = "the gpuqa authors, Apache-2.0"  # noqa: A001  (Sphinx reads this name)
extensions = ["myst_parser"]
exclude_patterns = ["examples/*.ipynb"]
myst_heading_anchors = 4  # anchors as a code host makes them, so that one link works on both
html_theme = "furo"  # loads nothing from a network
html_title = "gpuqa"
html_show_sourcelink = html_copy_source = False
html_permalinks_icon = "#"
html_static_path, html_css_files = ["static"], ["site.css"]
