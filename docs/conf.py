"""Sphinx configuration: ``make docs``, or ``sphinx-build -W --keep-going -b html docs build/docs``.

The API pages import the package, so its compiled extension has to be built first.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import sprout_fast

project = "sprout_fast"
author = "the sprout_fast authors"
project_copyright = f"2026, {author}"
version = release = sprout_fast.build_info()["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["examples/README*"]
html_theme = "furo"
html_title = "sprout_fast"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # torch.nn.Module's are not about our classes
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True

# Links into PyTorch's own documentation need its inventory, and with it a network. The default
# build has none, so that it gives the same pages everywhere and -W fails on our mistakes alone.
if os.environ.get("SPROUT_FAST_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "torchvision": ("https://docs.pytorch.org/vision/stable", None),
    }

# Packages whose ``__all__`` is public: each name in it has to be on an API page.
PUBLIC = (
    "sprout_fast",
    "sprout_fast.nn",
    "sprout_fast.ops",
    "sprout_fast.reference",
    "sprout_fast.attacks",
    "sprout_fast.models",
    "sprout_fast.methods",
    "sprout_fast.data",
    "sprout_fast.evaluation",
)
logger = logging.getLogger(__name__)


def undocumented(documented: set[str]) -> Iterator[str]:
    """Yield the public names that no API page documents, under one name or another."""
    shown = set()
    for dotted in documented:
        module, _, name = dotted.rpartition(".")
        if module.startswith("sprout_fast"):
            shown.add(id(getattr(importlib.import_module(module), name, None)))
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            if f"{package}.{name}" not in documented and id(getattr(module, name)) not in shown:
                yield f"{package}.{name}"


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which -W turns into a failure, about a public name without documentation."""
    kinds = ("class", "exception", "function", "data")
    objects = env.get_domain("py").data["objects"]
    for dotted in undocumented({name for name, entry in objects.items() if entry.objtype in kinds}):
        logger.warning("public name %s is on no API page", dotted)


def escape_plain_text(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Escape what docstrings mean literally and reStructuredText does not.

    ``|x|`` is a norm, not a substitution, and a parameter described as ``K.`` is no list.
    """
    for number, line in enumerate(lines):
        if line.lstrip().startswith(">>>"):
            continue
        parts = re.split("(``.*?``)", line)
        parts[::2] = [re.sub(r"(?<!\\)\|", r"\|", part) for part in parts[::2]]
        lines[number] = re.sub(r"^(\s+[A-Za-z])\.$", r"\1\.", "".join(parts))


def setup(app: Sphinx) -> None:
    """Register what this file adds to the build."""
    app.connect("env-check-consistency", check_public_names)
    app.connect("autodoc-process-docstring", escape_plain_text)
