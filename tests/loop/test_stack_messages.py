"""recv, send and their like with flags, on the stack's sockets as on the kernel's.

It knows MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_DONTWAIT, and the calls that fill buffers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from ._both import HOST, Net, Situation, kernel, names, stack, tell

SITUATIONS: list[Situation] = []
PEEK, TRUNC, NOW, ALL = socket.MSG_PEEK, socket.MSG_TRUNC, socket.MSG_DONTWAIT, socket.MSG_WAITALL


def situation(function: Situation) -> Situation:
    SITUATIONS.append(function)
    return function


def datagrams(net: Net, *messages: bytes) -> tuple[socket.socket, socket.socket]:
    """A socket at which these wait, and who sent them."""
    there, here = net.udp(HOST), net.udp(HOST)
    for message in messages:
        here.sendto(message, there.getsockname())
    net.settle()
    return net.waiting(there), here


def stream(net: Net, data: bytes) -> tuple[socket.socket, socket.socket]:
    """An end at which `data` waits, and the other end."""
    client, server = net.pair()
    client.sendall(data)
    net.settle()
    return net.waiting(server), client


@situation
def a_peeked_stream_stays(net: Net) -> object:
    there, _ = stream(net, b"abcdef")
    buffer = bytearray(4)
    return (
        there.recv(3, PEEK),
        there.recv(100, PEEK),
        there.recv_into(buffer, 2, PEEK),
        bytes(buffer),
        there.recv(2),
        there.recv(100, PEEK),
        there.recvmsg(3, 0, PEEK),
        there.recvfrom(3, PEEK),
        there.recv(100),
    )


@situation
def peeking_at_an_empty_stream_waits_or_does_not(net: Net) -> object:
    there, here = stream(net, b"")
    first = tell(lambda: there.recv(1, PEEK | NOW))
    here.sendall(b"x")
    second = there.recv(1, PEEK)
    there.recv(1)
    here.close()
    return first, second, there.recv(1, PEEK), there.recv(1)


@situation
def peeking_at_all_waits_for_all(net: Net) -> object:
    there, here = stream(net, b"abc")
    there.settimeout(0.05)
    part = tell(lambda: there.recv(6, PEEK | ALL))
    here.sendall(b"def")
    net.waiting(there)
    return part, there.recv(6, PEEK | ALL), there.recv(6, ALL)


@situation
def all_of_a_stream_that_ends(net: Net) -> object:
    there, here = stream(net, b"abc")
    here.close()
    return there.recv(10, ALL), there.recv(10, ALL)


@situation
def all_of_a_stream_that_is_reset(net: Net) -> object:
    there, here = stream(net, b"abc")
    here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    there.recv(1, ALL)
    here.close()
    return tell(lambda: there.recv(10, ALL)), tell(lambda: there.recv(10, ALL)), tell(lambda: there.recv(10, ALL))


@situation
def all_at_once_or_now_is_what_is_there(net: Net) -> object:
    there, _ = stream(net, b"abc")
    first = there.recv(10, ALL | NOW)
    return first, tell(lambda: there.recv(10, ALL | NOW))


@situation
def all_into_a_buffer(net: Net) -> object:
    there, here = stream(net, b"abc")
    buffer = bytearray(8)
    here.sendall(b"defgh")
    return there.recv_into(buffer, 6, ALL), bytes(buffer), there.recv(10)


@situation
def a_truncated_stream_is_thrown_away(net: Net) -> object:
    there, _ = stream(net, b"abcdef")
    buffer = bytearray(b"......")
    taken = there.recv_into(buffer, 2, TRUNC), len(there.recv(2, TRUNC))
    return taken, bytes(buffer), there.recv(10)


@situation
def a_datagram_is_peeked_at(net: Net) -> object:
    there, here = datagrams(net, b"abcdef", b"second")
    sender = here.getsockname()
    data, address = there.recvfrom(3, PEEK)
    return (
        data,
        address == sender,
        there.recv(100, PEEK),
        there.recv(2),
        there.recv(100),
        tell(lambda: there.recv(1, NOW | PEEK)),
    )


@situation
def a_message_is_cut(net: Net) -> object:
    there, here = datagrams(net, b"abcdef", b"abcdef", b"abcdef", b"")
    messages = [there.recvmsg(3), there.recvmsg(3, 0, TRUNC), there.recvmsg(6), there.recvmsg(5)]
    return [(data, rest, flags, address == here.getsockname()) for data, rest, flags, address in messages]


@situation
def a_cut_message_is_peeked_at(net: Net) -> object:
    there, _ = datagrams(net, b"abcdef")
    return there.recvmsg(3, 0, PEEK)[:3], there.recvmsg(3, 0, PEEK | TRUNC)[:3], there.recvmsg(10)[:3]


@situation
def the_length_of_a_datagram_that_does_not_fit(net: Net) -> object:
    there, here = datagrams(net, *[b"abcdef"] * 6)
    buffer = bytearray(3)
    size, address = there.recvfrom_into(buffer, 2, TRUNC)
    return (
        there.recv_into(buffer, 0, TRUNC | PEEK),
        there.recv_into(buffer, 3, TRUNC),
        bytes(buffer),
        (size, address == here.getsockname()),
        there.recv_into(buffer, 2),
        bytes(buffer),
        there.recvmsg_into([buffer], 0, TRUNC)[:3],
    )


@situation
def several_buffers(net: Net) -> object:
    there, _ = datagrams(net, b"abcdef", b"abcdef", b"abcdef")
    first, second = bytearray(2), bytearray(3)
    given = []
    for flags in (PEEK, 0, TRUNC):
        told = tell(lambda flags=flags: there.recvmsg_into([first, second], 0, flags)[:3])  # type: ignore[misc]
        given.append((told, bytes(first), bytes(second)))
    return given, there.recvmsg_into([bytearray(0), bytearray(9)])[:3], tell(lambda: there.recvmsg_into([], 0, NOW))


@situation
def several_buffers_of_a_stream(net: Net) -> object:
    there, here = stream(net, b"abcdef")
    first, second = bytearray(2), bytearray(3)
    size, rest, flags, address = there.recvmsg_into([first, memoryview(second)])
    here.close()
    end = there.recvmsg_into([bytearray(9)])
    return size, rest, flags, address, bytes(first), bytes(second), end, there.recvmsg(9)


@situation
def numbers_of_bytes(net: Net) -> object:
    there, _ = stream(net, b"abcdef")
    buffer = bytearray(4)
    calls: list[Callable[[], object]] = [
        lambda: there.recv_into(buffer, 5),
        lambda: there.recv_into(buffer, -1),
        lambda: there.recvfrom_into(buffer, 5),
        lambda: there.recvfrom_into(buffer, -1),
        lambda: there.recv(-1),
        lambda: there.recvfrom(-1),
        lambda: there.recvmsg(-1),
        lambda: there.recvmsg(1, -1),
        lambda: there.recvmsg_into([buffer], -1),
        lambda: there.recvmsg_into(5),  # type: ignore[arg-type]
        lambda: there.recvmsg_into([b"read only"]),
        lambda: there.recvmsg_into([]),
        lambda: there.recv_into(buffer, 2),
        lambda: there.recvfrom_into(buffer, 1),
        lambda: there.recv_into(bytearray(0)),
        lambda: there.recv(0),
        lambda: there.recv_into(buffer),
    ]
    return [tell(call) for call in calls], bytes(buffer)


@situation
def nothing_of_a_datagram(net: Net) -> object:
    there, _ = datagrams(net, b"abc", b"def")
    return (
        there.recv(0),
        there.recv_into(bytearray(0)),
        there.recvfrom(0)[0],
        there.recv(10),
        there.recv(0, NOW),
        tell(lambda: there.recvfrom(0, NOW)),
        tell(lambda: there.recvmsg(0, 0, NOW)),
    )


@situation
def nothing_of_a_stream(net: Net) -> object:
    there, _ = stream(net, b"abc")
    first = there.recv(0), there.recvfrom(0), there.recvmsg(0), there.recv(10)
    return first, there.recv(0), tell(lambda: there.recvfrom(0, NOW))


@situation
def the_queue_of_errors_is_empty(net: Net) -> object:
    there, _ = datagrams(net, b"abc")
    stream_there, _ = stream(net, b"abc")
    return [tell(lambda sock=sock: sock.recvmsg(9, 0, socket.MSG_ERRQUEUE)) for sock in (there, stream_there)]  # type: ignore[misc]


@situation
def urgent_bytes(net: Net) -> object:
    there, here = stream(net, b"abc")
    first = tell(lambda: there.recv(1, socket.MSG_OOB))
    here.send(b"!", socket.MSG_OOB)
    here.send(b"def")
    net.settle()
    second = there.recvmsg(5, 0, socket.MSG_OOB), tell(lambda: there.recv(1, socket.MSG_OOB))
    datagram_there, datagram_here = datagrams(net, b"x")
    third = tell(lambda: datagram_there.recv(1, socket.MSG_OOB))
    fourth = tell(lambda: datagram_here.sendto(b"x", socket.MSG_OOB, datagram_there.getsockname()))
    return first, second, there.recv(9), there.recv(9), third, fourth


@situation
def more_of_a_datagram_follows(net: Net) -> object:
    there, here = datagrams(net)
    address, stranger = there.getsockname(), net.udp(HOST).getsockname()
    more = socket.MSG_MORE
    sent = here.sendto(b"ab", more, address), here.sendto(b"cd", more, stranger), here.sendto(b"ef", stranger)
    net.settle()
    return sent, there.recv(10), tell(lambda: there.recv(10, NOW))


@situation
def flags_of_sending(net: Net) -> object:
    client, server = net.pair()
    sent = client.send(b"abc", socket.MSG_NOSIGNAL), client.send(b"def", socket.MSG_MORE), client.send(b"", NOW)
    there, here = datagrams(net)
    joined = here.sendmsg([b"ab", bytearray(b"cd"), memoryview(b"ef")], [], NOW, there.getsockname())
    return (
        sent,
        joined,
        there.recv(10),
        client.sendmsg([b"g", b"h"]),
        client.sendmsg([]),
        net.waiting(server).recv(8, ALL),
    )


@situation
def what_send_may_be_given(net: Net) -> object:
    client, _ = net.pair()
    there, here = datagrams(net)
    calls: list[Callable[[], object]] = [
        lambda: client.send("text"),  # type: ignore[arg-type]
        lambda: client.sendall("text"),  # type: ignore[arg-type]
        lambda: client.sendto(b"x", there.getsockname()),
        lambda: here.sendto("text", there.getsockname()),  # type: ignore[call-overload]
        lambda: here.sendto(b"x"),  # type: ignore[call-overload]
        lambda: here.sendto(b"x", 0, 0, 0),  # type: ignore[call-overload]
        lambda: here.sendto(b"x", "nobody"),
        lambda: here.sendto(b"", there.getsockname()),
        lambda: here.sendmsg(b"x", [], 0, there.getsockname()),  # type: ignore[arg-type]
        lambda: here.sendmsg(5),  # type: ignore[arg-type]
        lambda: here.send(b"x"),
        lambda: here.sendto(bytes(65508), there.getsockname()),
        lambda: client.sendall(memoryview(b"abcdef")[::2]),
        lambda: client.sendall(memoryview(b"abcdefgh").cast("I")),
        lambda: client.send(memoryview(b"abcdefgh").cast("I")),
    ]
    return [tell(call) for call in calls]


@situation
def what_a_datagram_socket_is_told_of_errors(net: Net) -> object:
    gone, here = net.udp(HOST), net.udp()
    net.waiting(here).connect(gone.getsockname())
    gone.close()
    here.send(b"anybody?")
    net.settle()
    first = tell(lambda: here.recv(1, PEEK | NOW)), tell(lambda: here.recv(1, NOW))
    here.send(b"anybody?")
    net.settle()
    second = tell(lambda: here.send(b"x")), here.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    here.send(b"anybody?")
    net.settle()
    third = here.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), here.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return first, second, third


@pytest.mark.parametrize("play", SITUATIONS, ids=names(SITUATIONS))
def test_messages_are_given_as_by_the_kernel(play: Situation) -> None:
    assert stack(play) == kernel(play)


def test_a_flag_that_the_stack_does_not_have_is_refused() -> None:
    def play(net: Net) -> object:
        there, here = stream(net, b"x")
        strange = 1 << 28
        return [
            tell(call)
            for call in (
                lambda: there.recv(1, strange),
                lambda: here.send(b"x", socket.MSG_FASTOPEN),
                lambda: here.send(b"x", strange),
            )
        ]

    assert stack(play) == [("OSError", "ENOTSUP", "Operation not supported")] * 3
