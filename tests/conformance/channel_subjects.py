"""Every kind of channel as a subject of one suite, and the processes that use the other end.

It knows how ends are made and handed over. What they have to show is in `test_channels.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

from underlay import ipc


@dataclass(frozen=True)
class Subject:
    """One kind, and what of the common promises its nature limits."""

    kind: str
    options: dict[str, object] = field(default_factory=dict)
    knows_processes: bool = True
    """A death is seen though other processes have the end, too; between machines there is only the connection, and of
    many senders the others go on."""

    @property
    def can_have_a_name(self) -> bool:
        """Whether unrelated processes can meet for it."""
        return ipc.KINDS[self.kind].unrelated_processes

    @property
    def many_senders(self) -> bool:
        """Whether several processes may send on it."""
        return ipc.KINDS[self.kind].many_senders

    def __str__(self) -> str:
        return "-".join([self.kind, *(str(each) for each in self.options.values())])

    def pair(self, **options: object) -> tuple[ipc.Channel, ipc.Channel]:
        """The receiver and the sender of a new channel."""
        return ipc.pair(self.kind, **{**self.options, **options})  # type: ignore[call-overload, no-any-return]


SUBJECTS = [
    Subject("pipe"),
    Subject("unix"),
    Subject("seqpacket"),
    Subject("mqueue"),
    Subject("sysv"),
    Subject("signal"),
    Subject("fifo"),
    Subject("tcp", knows_processes=False),
    Subject("ring"),
    Subject("ring", {"wakeup": "futex"}),
    Subject("ring", {"wakeup": "spin"}),
    Subject("ring-many", knows_processes=False),
    Subject("ring-many", {"wakeup": "futex"}, knows_processes=False),
    Subject("slots"),
    Subject("slots", {"wakeup": "futex"}),
]
# With a name, and an end: a receiver of many does not end while another may come by its name: tests/ipc/test_ring.py.
NAMED = [each for each in SUBJECTS if each.can_have_a_name and not each.many_senders]
START_METHODS = ["fork", "spawn"]
# A process that starts anew imports underlay first.
PATIENCE_S = 20.0


@contextlib.contextmanager
def process(method: str, work: Callable[..., object], *args: object) -> Iterator[BaseProcess]:
    """Another process that does ``work``; it is ended when the test is done with it."""
    started = multiprocessing.get_context(method).Process(target=work, args=args)  # type: ignore[attr-defined]
    started.start()
    try:
        yield started
    finally:
        if started.is_alive():
            started.join(PATIENCE_S)
        if started.is_alive():
            started.kill()
            started.join()
        started.close()


def message(size_bytes: int, number: int = 0) -> bytes:
    """Bytes that no other message has, and that tell whether they are torn."""
    return random.Random(number * 1_000_003 + size_bytes).randbytes(size_bytes)


def sealed(number: int, size_bytes: int) -> bytes:
    """A message that says its number and whether it is whole."""
    if size_bytes < 12:  # a signal has seven
        body, seal_bytes = number.to_bytes(3, "big"), 4
    else:
        body, seal_bytes = number.to_bytes(4, "big") + message(size_bytes - 12, number), 8
    return hashlib.blake2b(body, digest_size=seal_bytes).digest() + body


def opened(sealed_message: bytes) -> int:
    """The number of a sealed message; it must be whole."""
    seal_bytes = 8 if len(sealed_message) >= 12 else 4
    body = sealed_message[seal_bytes:]
    assert hashlib.blake2b(body, digest_size=seal_bytes).digest() == sealed_message[:seal_bytes], "a torn message"
    return int.from_bytes(body[:4], "big")


# --- what the other process does; each is found by name where it starts anew ---


def send_all(sender: ipc.Channel, messages: list[bytes]) -> None:
    with sender:
        for each in messages:
            sender.send(each)


def echo(receiver: ipc.Channel, sender: ipc.Channel, *far_ends: ipc.Channel) -> None:
    """Send back what comes; a forked process closes its copies of the far ends, which would keep many senders open."""
    for end in far_ends:
        end.close()
    with receiver, sender:
        for each in receiver:
            sender.send(each)


def send_for_ever(sender: ipc.Channel, size_bytes: int) -> None:
    number = 0
    with contextlib.suppress(ipc.PeerGone):
        while True:
            sender.send(sealed(number, size_bytes))
            number += 1


def receive_for_ever(receiver: ipc.Channel) -> None:
    with contextlib.suppress(ipc.PeerGone):
        for each in receiver:
            opened(each)


def vanish(end: ipc.Channel, first: bytes | None) -> None:
    if first is not None:
        end.send(first)
    os._exit(1)


def exit_early(sender: ipc.Channel) -> None:
    sender.send(b"goodbye")
    sys.exit(0)


def exit_well_within(sender: ipc.Channel) -> None:
    with sender:
        sender.send(b"goodbye")
        sys.exit(0)


def end_as_a_generator(sender: ipc.Channel) -> None:
    def work() -> Generator[None, None, None]:
        with sender:
            sender.send(b"goodbye")
            yield

    working = work()
    next(working)
    working.close()


def exit_badly_within(sender: ipc.Channel) -> None:
    with sender:
        sender.send(b"goodbye")
        sys.exit(3)


def fail_within(sender: ipc.Channel) -> None:
    with sender:
        sender.send(b"goodbye")
        raise ValueError("the second message cannot be made")


def fail_without_a_with(sender: ipc.Channel) -> None:
    sender.send(b"goodbye")
    raise ValueError("the second message cannot be made")


def exit_badly_without_a_with(sender: ipc.Channel) -> None:
    sender.send(b"goodbye")
    sys.exit(3)


def fail_before_the_first(sender: ipc.Channel) -> None:
    with sender:
        raise ValueError("no message can be made")
