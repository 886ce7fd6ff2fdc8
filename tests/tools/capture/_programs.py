"""Programs of classic BPF, run by the kernel on packets of a test's own.

It knows how to have the kernel run one. It refuses to know what any is for.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from underlay.tools.capture._filter import Instruction


def run_in_kernel(program: list[Instruction], packets: list[bytes]) -> list[bool]:
    """Ask the kernel which packets a program lets pass: it runs it for a socket's datagrams, from their payload on."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        code = b"".join(struct.pack("=HBBI", *each) for each in program)
        buffer = ctypes.create_string_buffer(code, len(code))
        there.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
        found = []
        for packet in packets:
            try:
                here.send(packet)
            except PermissionError:  # a Unix socket tells its sender
                found.append(False)
                continue
            there.setblocking(False)
            try:
                there.recv(65536)
                found.append(True)
            except BlockingIOError:
                found.append(False)
    return found
