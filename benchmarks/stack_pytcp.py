"""The server of benchmarks/stack_programs.py on PyTCP, another TCP/IP stack in Python, for comparison.

    python -O benchmarks/stack_pytcp.py INTERFACE HOST/PREFIX PORT

PyTCP (PyPI, GPL-3.0) is asked for only here, and only where it is installed. It has a thread for each of its parts,
a TAP without offload and a window of 64 KiB. ``-O`` leaves out its log, which it makes at each packet otherwise.
"""

from __future__ import annotations

import sys
import threading
import time

SERVER_BLOCK = bytes(1 << 16)


def serve(sock: object) -> None:
    """Do what the first byte asks for, as `stack_programs.Server` does."""
    from pytcp.protocols.tcp.socket import TcpSocket  # type: ignore[import-not-found,import-untyped,unused-ignore]

    assert isinstance(sock, TcpSocket)
    role = sock.recv(1)
    while role:
        if role == b"L":
            # Its send() takes whatever it is given, without a limit: so wait until the last block is on its way.
            while len(sock.tcp_session._tx_buffer) > len(SERVER_BLOCK):
                time.sleep(0.001)
            sock.send(SERVER_BLOCK)
            continue
        data = sock.recv()
        if not data:
            return
        if role == b"A":
            sock.send(data)


def main() -> None:
    """Listen, say so, and serve each connection in a thread."""
    interface, address, port = sys.argv[1:]
    from pytcp import TcpIpStack, config  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from pytcp.lib import socket  # type: ignore[import-not-found,import-untyped,unused-ignore]

    config.LOG_CHANEL = set()
    stack = TcpIpStack(interface=interface, ip4_address=address)
    config.IP6_SUPPORT = False
    stack.start()
    listener = socket.socket(family=socket.AF_INET4, type=socket.SOCK_STREAM)
    listener.bind((address.partition("/")[0], int(port)))
    listener.listen()
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
