"""The kernel's ranges of ports are those of the namespace that asks, and Linux's own where nobody can read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from underlay.tools import _port_ranges as module
from underlay.tools._port_ranges import first_unprivileged_port, lent_ports

from .._kernel import new_namespace


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces; remedy: run as root")
def test_what_was_set_is_what_is_told() -> None:
    def ask() -> tuple[int, tuple[int, int]]:
        settings = Path("/proc/sys/net/ipv4")
        (settings / "ip_unprivileged_port_start").write_text("80")
        (settings / "ip_local_port_range").write_text("40000 40009")
        return first_unprivileged_port(), lent_ports()

    with new_namespace() as namespace:
        assert namespace.run(ask) == (80, (40000, 40009))


@pytest.mark.parametrize("text", [None, "", "1 2 3", "many"])
def test_what_cannot_be_read_is_what_linux_has(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_: str) -> object:
        return open(tmp_path / "setting")

    if text is not None:
        (tmp_path / "setting").write_text(text)
    monkeypatch.setattr(module, "open", other, raising=False)
    assert (first_unprivileged_port(), lent_ports()) == (1024, (32768, 60999))
