"""What the parts of the way in tell each other about one packet.

This file knows the shape of that, and how to make it from a packet's bytes. It
refuses to know who fills it in and who reads it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..wire import WireError, parse_ipv4, parse_ipv6
from ._interface import Interface


class Received(NamedTuple):
    """A packet on its way in, its IP header read and found good."""

    interface: Interface
    source: bytes
    destination: bytes
    protocol: int
    data: bytes | memoryview
    packet_start: int
    """Where the IP header begins in ``data``…"""
    start: int
    """…where what the protocol is about begins…"""
    end: int
    """…and where the packet ends; behind it there may be padding."""
    ttl: int
    to_one: bool
    """Neither its destination nor the station it was sent to is a group or a broadcast."""
    checksum_valid: bool
    """The link found the transport checksum good, or the packet never left this host."""


def read_packet(interface: Interface, data: bytes) -> Received | None:
    """Read the header of a packet that the host itself made or passed on; None where it cannot be read."""
    try:
        if data[0] >> 4 == 4:
            four = parse_ipv4(data, verify=False)
            return Received(
                interface,
                four.source,
                four.destination,
                four.protocol,
                data,
                0,
                four.header_bytes,
                four.total_bytes,
                four.ttl,
                True,
                False,
            )
        six = parse_ipv6(data)
        return Received(
            interface,
            six.source,
            six.destination,
            six.transport,
            data,
            0,
            six.header_bytes,
            six.total_bytes,
            six.hop_limit,
            True,
            False,
        )
    except (WireError, IndexError):
        return None
