"""A WireError keeps what it was told, also through copies between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from underlay.wire import WireError


def test_an_error_says_header_field_and_reason() -> None:
    error = WireError("ipv6", "option", "option 200 is unknown", 44)
    assert (error.header, error.field, error.reason, error.pointer) == ("ipv6", "option", "option 200 is unknown", 44)
    assert error.key == "ipv6.option"
    assert str(error) == "ipv6.option: option 200 is unknown"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("pointer", [None, 0, 6])
def test_an_error_survives_pickle_and_copy(pointer: int | None) -> None:
    error = WireError("tcp", "mss", "it has 3 bytes, not 4", pointer)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(other), other.key, other.pointer) == (str(error), "tcp.mss", pointer)
