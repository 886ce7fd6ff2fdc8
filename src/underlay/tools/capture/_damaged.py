"""What can still be read of a header that is damaged, or of which only a part was kept.

`underlay.wire` refuses such a header, as a host has to; who watches a wire wants to know all the same who sent it and
what its connection makes of it. This file makes a header whose wrong part is left out, for ``_decode.py`` to read. It
refuses to know links, and what a right header means.

Addresses, ports and sequence numbers of a segment whose options are damaged are what Wireshark and tcpdump show, too,
and what a length says that is more than there is, neither believes.
"""

from __future__ import annotations

from typing import Final

from ...wire import TcpSegment, parse_tcp

__all__ = ["readable_ipv4", "readable_ipv6", "readable_tcp"]

_MOST_LENGTH: Final = 0xFFFF
_MOST_TCP_BYTES: Final = 60  # RFC 9293 §3.1: the data offset has 4 bits
# How long the options are that `parse_tcp` reads: MSS, window scale, SACK permitted, SACK, timestamps.
_SIZES: Final = {2: (4,), 3: (3,), 4: (2,), 5: (10, 18, 26, 34), 8: (10,)}


def readable_ipv4(data: bytes, place: int, end: int) -> tuple[bytes, int, str]:
    """Give a copy whose length is what there is and whose options are empty, where it ends, and what was wrong.

    A length of 0 is not wrong: so has a super-frame that a card is to cut (TSO), or that Linux gathered (BIG TCP).
    """
    length = data[place + 2] << 8 | data[place + 3]
    here, said, stop = end - place, "", place + length
    head = data[:place]
    if length == 0 or length > here:
        said = f"its IP header says {length} bytes" if length else ""
        length, stop = min(here, _MOST_LENGTH), end
    options_bytes = max((data[place] & 15) * 4 - 20, 0)
    first = data[place : place + 2] + length.to_bytes(2, "big") + data[place + 4 : place + 20]
    return head + first + bytes(options_bytes) + data[place + 20 + options_bytes :], stop, said


def readable_ipv6(data: bytes, place: int, end: int) -> tuple[bytes, int, str]:
    """Give a copy whose length is what there is, where it ends, and what was wrong.

    A length of 0 is not wrong: so has a jumbogram (RFC 2675), as Linux makes one of a super-frame (BIG TCP).
    """
    length = data[place + 4] << 8 | data[place + 5]
    here, said, stop = end - place - 40, "", place + 40 + length
    if length == 0 or length > here:
        said = f"its IP header says {length} bytes" if length else ""
        length, stop = max(0, min(here, _MOST_LENGTH)), end
    return data[: place + 4] + length.to_bytes(2, "big") + data[place + 6 :], stop, said


def readable_tcp(data: bytes, place: int, end: int) -> TcpSegment | None:
    """Read a segment with those of its options that stand before the damage; None where the header itself is not there.

    ``data`` may be shorter than ``end``, where the packet ended on the wire.
    """
    head = data[place : min(place + _MOST_TCP_BYTES, end)]
    if len(head) < 20 or not 20 <= (head[12] >> 4) * 4 <= end - place:
        return None
    options = head[20 : (head[12] >> 4) * 4]
    kept = 0
    while kept < len(options) and options[kept]:
        size = 1
        if options[kept] > 1:
            size = options[kept + 1] if kept + 1 < len(options) else 0
            if size < 2 or kept + size > len(options) or size not in _SIZES.get(options[kept], (size,)):
                break
        kept += size
    rest = options[:kept] + bytes(-kept % 4)
    return parse_tcp(b"".join((head[:12], bytes([20 + len(rest) << 2]), head[13:20], rest)))
