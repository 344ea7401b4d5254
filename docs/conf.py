"""The site: Markdown pages with what is generated from the code; `make docs` builds it, without network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated  # noqa: E402

import distcalib  # noqa: E402

project = "distcalib"
release = version = distcalib.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
smartquotes = False  # --strict is no dash
default_role = "code"
show_warning_types = True

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Array", "ArrayLike", "Float", "Map", "Matrix", "Progress")}
python_use_unqualified_type_names = True
# The rules engine takes half a minute to load, and no signature needs it.
autodoc_mock_imports = ["policyengine_us", "policyengine_core"]
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = "furo"
html_title = f"distcalib {release}"
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False


def fill_in(app: Any, docname: str, source: list[str]) -> None:
    """Put what is generated in the place of its mark."""
    del app, docname
    source[0] = generated.filled(source[0])


def plain_types(app: Any, what: str, name: str, obj: Any, options: Any, *signature: str | None) -> Any:
    """Spell types in signatures as a reader of the source sees them."""
    del app, what, name, obj, options
    words = {r"TypeAliasForwardRef\('(\w+)'\)": r"\1", r"~(\w+\.)+": "", "<factory>": "..."}
    told = list(signature)
    for pattern, word in words.items():
        told = [None if text is None else re.sub(pattern, word, text) for text in told]
    return tuple(told)


def setup(app: Any) -> dict[str, bool]:
    """Register what fills pages in."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-signature", plain_types)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
