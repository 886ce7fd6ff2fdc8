"""What each kind says of itself is so."""

from __future__ import annotations

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc._kinds import module_of


@pytest.mark.parametrize("name", ipc.KINDS)
def test_a_kind_says_what_its_file_has(name: str) -> None:
    kind = ipc.KINDS[name]
    assert kind.name == name
    assert kind.survives_process == hasattr(module_of(name), "create_persistent")
    assert kind.crosses_machines == hasattr(module_of(name), "reception")


def test_there_is_no_kind_of_another_name() -> None:
    assert "pip" not in ipc.KINDS
    with pytest.raises(UsageError, match="there is no kind of channel 'pip'; did you mean 'pipe'"):
        ipc.pair("pip")
