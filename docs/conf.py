"""How Sphinx builds these pages; it knows nothing of what they say.

Any warning fails the build (`make docs`, and the tests), a broken link between
two pages included.
"""

from underlay import __version__

project = "underlay"
author = "The underlay authors"
project_copyright = "2026, the underlay authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]  # autodoc: reference.md shows the docstrings
exclude_patterns = ["_build", "figures"]  # figures/costs.md is included by models.md

default_role = "code"  # `name` in a docstring is code, as it is in Markdown

# Links to headings (page.md#heading) are checked down to this depth.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_title = f"underlay {version}"
html_show_sphinx = False
