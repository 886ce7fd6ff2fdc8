"""What packets begin with: the numbers by which capture files and libpcap name link headers.

This file knows numbers of www.tcpdump.org/linktypes.html, those that are met here in several places. It refuses to know
what stands in a header.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ETHERNET", "LINUX_SLL", "LINUX_SLL2", "NULL", "RAW_IP", "SLL_BYTES", "TAGS"]

ETHERNET: Final = 1
RAW_IP: Final = 101
NULL: Final = (0, 108)
"""BSD loopback: a family in the order of that host, or of the network."""
LINUX_SLL: Final = 113
LINUX_SLL2: Final = 276
SLL_BYTES: Final = 16
"""The header before a packet whose link header is left out; www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html.

Its second version has the interface's number too, which another machine knows nothing of, as tcpdump warns about each
such file. A pcapng file has the interface's name instead.
"""

TAGS: Final = frozenset((0x8100, 0x88A8, 0x9100))
"""What stands before a VLAN tag of 4 bytes: 802.1Q, 802.1ad and what came before it."""
