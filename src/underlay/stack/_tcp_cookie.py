"""SYN cookies: a handshake that needs no memory until it is finished (RFC 4987 §3.6).

This file knows how a SYN's options are put into the initial sequence number and
the timestamp that answer it, and read from the ACK which brings them back. It
refuses to know when that is needed.

The sequence number holds 5 bits of time (in steps of 64 s), 3 of the MSS and 24
of a keyed hash. The timestamp's low 5 bits hold the window scale and whether
SACK was offered, as Linux has it; a peer without timestamps gets neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..wire import ACK, SYN, TcpSegment
from ._tcp_listener import SynRequest, TcpListener
from ._tcp_sequence import MASK
from ._tcp_tcb import Key

if TYPE_CHECKING:
    from ._tcp_layer import TcpLayer

__all__ = ["check_cookie", "make_cookie"]

# The sizes that three bits can name: common MTUs less headers, jumbo frames and loopback included.
_SIZES: Final = (536, 1220, 1300, 1440, 1460, 4312, 8960, 65495)
_STEP_S: Final = 64
# A cookie is good in its own step and in the one after, so for 64 to 128 seconds; the SYN, ACK is not repeated.
_STEPS: Final = 2
_NO_SCALE: Final = 15


def _cookie_hash(layer: TcpLayer, key: Key, irs: int, step: int) -> int:
    return layer.isn.hash(key, irs.to_bytes(4, "big") + step.to_bytes(8, "big")) & 0xFF_FFFF


def make_cookie(layer: TcpLayer, request: SynRequest, now: float) -> None:
    """Put what `request` knows into its sequence number and timestamp, so that it may be forgotten."""
    syn = request.syn
    mss = syn.mss or (536 if len(request.key[0]) == 4 else 1220)
    size = max((index for index, size in enumerate(_SIZES) if size <= mss), default=0)
    step = int(now) // _STEP_S
    request.iss = (step & 31) << 27 | size << 24 | _cookie_hash(layer, request.key, syn.seq, step)
    if syn.timestamp is None:
        # Nowhere to keep them, so they are not agreed on.
        request.syn = syn._replace(window_scale=None, sack_permitted=False)
        request.rcv_wscale = 0
        return
    scale = _NO_SCALE if syn.window_scale is None else min(syn.window_scale, 14)
    bits = scale << 1 | (1 if syn.sack_permitted else 0)
    clock = (int(now * 1000.0) + request.ts_offset) & MASK
    # The last time, not after now, whose low bits say this.
    stamp = (clock & ~31 & MASK) | bits
    if stamp > clock:
        stamp = (stamp - 32) & MASK
    request.ts_offset = (request.ts_offset + stamp - clock) & MASK


def check_cookie(
    layer: TcpLayer, listener: TcpListener, key: Key, segment: TcpSegment, now: float
) -> SynRequest | None:
    """Rebuild the request whose cookie `segment` acknowledges; None if it is none of ours."""
    cookie = (segment.ack - 1) & MASK
    irs = (segment.seq - 1) & MASK
    step = int(now) // _STEP_S
    for age in range(_STEPS):
        if step - age >= 0 and (step - age) & 31 == cookie >> 27:
            if _cookie_hash(layer, key, irs, step - age) == cookie & 0xFF_FFFF:
                break
            return None
    else:
        return None
    path = layer.ip.path(key[2], key[0])
    if path is None:
        return None
    scale: int | None = None
    sack = False
    stamp: tuple[int, int] | None = None
    _, ts_offset = layer.isn.numbers(key, now)
    if segment.timestamp is not None and layer.config.timestamps:
        bits = segment.timestamp[1] & 31
        sack = bool(bits & 1)
        scale = None if bits >> 1 == _NO_SCALE else bits >> 1
        stamp = segment.timestamp
    syn = TcpSegment(
        source_port=key[3], destination_port=key[1], seq=irs, ack=0, flags=SYN & ~ACK, window=segment.window,
        urgent_pointer=0, mss=_SIZES[cookie >> 24 & 7], window_scale=scale, sack_permitted=sack, sack=(),
        timestamp=stamp, payload=b"",
    )  # fmt: skip
    request = SynRequest(listener, key, syn, path, cookie, ts_offset)
    request.adv_mss = layer.advertised_mss(key[0], path, listener.options)
    request.rcv_wscale = layer.window_scale(listener.options) if scale is not None else 0
    request.window = min(listener.options.receive_buffer_bytes or layer.config.receive_buffer_bytes, 0xFFFF)
    request.retries = 1  # so that nobody takes `sent_at` for a measurement
    request.sent_at = now
    return request
