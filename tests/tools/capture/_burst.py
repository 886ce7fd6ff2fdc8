"""A burst of datagrams, as quick as one processor sends them: sendmmsg(2), which Python does not have, by ctypes.

Run as a program it sends: ``python _burst.py HOST PORT PACKETS BYTES`` prints how many went out. Each datagram begins
with its number, so that a capture can be asked which are missing.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys

# How many datagrams go with one system call; UIO_MAXIOV allows 1024.
AT_ONCE = 512


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


def send(host: str, port: int, packets: int, size_bytes: int) -> int:
    """Send them, and give how many the kernel took."""
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # Named in each message and not connected to: an ICMP error would end a call early.
        name = ctypes.create_string_buffer(
            struct.pack("=H2s4s8x", socket.AF_INET, port.to_bytes(2, "big"), socket.inet_aton(host))
        )
        buffers = [ctypes.create_string_buffer(size_bytes) for _ in range(AT_ONCE)]
        vectors = [_Vector(ctypes.addressof(buffer), size_bytes) for buffer in buffers]
        messages = (_Message * AT_ONCE)(
            *(_Message(_Header(ctypes.addressof(name), 16, ctypes.pointer(each), 1)) for each in vectors)
        )
        sent = 0
        while sent < packets:
            count = min(AT_ONCE, packets - sent)
            for place in range(count):
                struct.pack_into("!I", buffers[place], 0, sent + place)
            done = libc.sendmmsg(sock.fileno(), messages, count, 0)
            if done < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            sent += done
    return sent


if __name__ == "__main__":
    print(send(sys.argv[1], *map(int, sys.argv[2:5])))
