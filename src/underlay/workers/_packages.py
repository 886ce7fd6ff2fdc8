"""Packages that only some kinds need, imported when such a kind is made.

This file knows how to say what is missing. It refuses to know what it is for.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import UsageError

__all__ = ["package"]


def package(name: str, purpose: str) -> ModuleType:
    """Import the package ``name``. Raises ``UsageError`` that names the extra where it is not installed.

    >>> package("json", "an example").__name__
    'json'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != name.split(".")[0]:
            raise
        raise UsageError(
            f"{purpose} needs the package {name}, which is not installed",
            remedy="`pip install 'underlay[workers]'` brings it",
        ) from None
