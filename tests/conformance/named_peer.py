"""A process that knows nothing of a channel but its name, for `test_named_channels.py`.

Run as ``python -m tests.conformance.named_peer WHAT NAME``; it says on its output what it has done.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Literal, cast

from underlay import ipc

# A process that starts anew imports underlay first.
PATIENCE_S = 20.0


def _said(word: object) -> None:
    print(word, flush=True)


def main(what: str, name: str, kind: str = "", role: str = "receiver") -> None:
    """Do one thing with the channel of that name."""
    if what == "create":
        with ipc.create(kind, name, role=cast(Literal["receiver", "sender", "both"], role)) as channel:
            _said(channel.address or name)
            for each in channel:
                _said(len(each))
            time.sleep(PATIENCE_S)
    elif what == "create-and-send":
        with ipc.create(kind, name, role="sender") as channel:
            channel.send(b"early") if kind != "tcp" else None  # which has nowhere to keep it
            _said(channel.address or name)
            channel.send(b"late", timeout_s=PATIENCE_S)
            while True:
                channel.send(b"more", timeout_s=PATIENCE_S)
                time.sleep(0.01)
    elif what == "create-and-exit":
        channel = ipc.create(kind, name)
        _said(channel.address or name)
        sys.exit(0)
    elif what == "listen":
        with ipc.listen(kind, name) as listener:
            _said(listener.address or name)
            for channel in listener:
                with channel:
                    channel.send(channel.receive())
    elif what == "send":
        with ipc.open(name, timeout_s=PATIENCE_S) as channel:
            for number in range(100):
                channel.send(b"%d" % number)
    elif what == "send-and-vanish":
        channel = ipc.open(name, timeout_s=PATIENCE_S)
        channel.send(b"goodbye")
        os._exit(1)
    elif what == "receive":
        with ipc.open(name, timeout_s=PATIENCE_S) as channel:
            _said(sum(1 for _ in channel))
    elif what == "echo":
        with ipc.open(name, timeout_s=PATIENCE_S) as channel:
            for each in channel:
                channel.send(each)


if __name__ == "__main__":
    main(*sys.argv[1:])
