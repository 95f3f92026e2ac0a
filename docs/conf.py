"""Settings of Sphinx for the documentation; ``docs/build.py`` calls it."""

import os
import re
from importlib.metadata import version as installed

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("MPLBACKEND", None)  # notebooks choose the one that shows pictures

project = "atlf_jax"
author = "the authors of atlf_jax"
copyright = "the authors of atlf_jax; Apache-2.0"
version = release = installed("atlf-jax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["examples/pictures.py", "*.py"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# The examples are Python files in the percent format: notebooks here, run when they changed since the last build.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = os.environ.get("ATLF_NOTEBOOK_CACHE", "")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False  # tables alone: the pages in docs/api hold the entries
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False  # "k-space, zero where not acquired: [*b, h, w]" is one sentence and no type
napoleon_custom_sections = ["Source", "Departure", ("Yields", "returns_style")]
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "atlf_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def escape_stars(app, what, name, obj, options, lines) -> None:
    """Keep ``[*b, h, w]`` of a docstring from beginning an emphasis, where it stands outside of a literal."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`.*?`)", line)
        lines[number] = "".join(part.replace("[*", "[\\*") if i % 2 == 0 else part for i, part in enumerate(parts))


def shorten_types(app, what, name, obj, options, signature, returns) -> tuple[str | None, str | None]:
    """Write ``Float[Array, '*b']`` for what autodoc calls ``Float[jaxlib._jax.Array, '*b']``."""

    def short(text: str | None) -> str | None:
        return text and re.sub(
            r"\b(?:jaxlib\._jax|jax|numpy|jaxtyping|typing|pathlib|collections\.abc)\.(?=[A-Zn])", "", text
        )

    return short(signature), short(returns)


def setup(app) -> None:
    """Connect what is above with Sphinx."""
    app.connect("autodoc-process-docstring", escape_stars)
    app.connect("autodoc-process-signature", shorten_types)
