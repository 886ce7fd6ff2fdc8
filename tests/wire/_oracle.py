"""scapy as the oracle: the same header, built by somebody else.

It is imported here alone, quietly and without a look at the machine's routes. It is licensed GPL-2.0 and only
the tests use it: nothing of it is in what we ship. Its modules are untyped for us, so that mypy does not read them.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest

pytest.importorskip("scapy", reason="scapy is not installed; remedy: pip install -e '.[test]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations within what scapy imports are not ours
    _config: Any = importlib.import_module("scapy.config")
    _config.conf.route_autoload = False
    _config.conf.route6_autoload = False
    inet: Any = importlib.import_module("scapy.layers.inet")
    inet6: Any = importlib.import_module("scapy.layers.inet6")
    l2: Any = importlib.import_module("scapy.layers.l2")
    dns: Any = importlib.import_module("scapy.layers.dns")
    igmp: Any = importlib.import_module("scapy.contrib.igmp")
    raw: Any = importlib.import_module("scapy.packet").Raw
    utils: Any = importlib.import_module("scapy.utils")
