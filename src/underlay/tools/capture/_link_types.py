"""What packets begin with: the numbers by which capture files and libpcap name link headers.

This file knows numbers of www.tcpdump.org/linktypes.html, those that are met here in several places. It refuses to know
what stands in a header.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ETHERNET", "LINUX_SLL", "LINUX_SLL2", "RAW_IP", "SLL_BYTES"]

ETHERNET: Final = 1
RAW_IP: Final = 101
LINUX_SLL: Final = 113
LINUX_SLL2: Final = 276
SLL_BYTES: Final = 16
"""The header before a packet whose link header is left out; www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html.

Its second version has the interface's number too, which another machine knows nothing of, as tcpdump warns about each
such file. A pcapng file has the interface's name instead.
"""
