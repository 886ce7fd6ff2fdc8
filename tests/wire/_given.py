"""What hypothesis draws for headers: addresses, numbers of so many bits, payloads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from underlay.wire import WireError

MACS = st.binary(min_size=6, max_size=6)
IPV4 = st.binary(min_size=4, max_size=4)
IPV6 = st.binary(min_size=16, max_size=16)
IP_PAIRS = st.tuples(IPV4, IPV4) | st.tuples(IPV6, IPV6)
BYTE = st.integers(0, 0xFF)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)
PAYLOADS = st.binary(max_size=70)


@contextlib.contextmanager
def refused(key: str) -> Iterator[None]:
    """Expect a `WireError` of this key."""
    with pytest.raises(WireError) as caught:
        yield
    assert caught.value.key == key, caught.value


def changed(data: bytes, place: int, value: int) -> bytes:
    """The same bytes with one replaced."""
    return data[:place] + bytes([value]) + data[place + 1 :]
