"""Names and sockets that a program asks for without awaiting: the world's names, the host's sockets."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable
from socket import getaddrinfo as early_getaddrinfo

import pytest

from underlay.errors import UnderlayError
from underlay.sim import World


def run(test: Callable[[World], Awaitable[object]], seed: int = 1) -> object:
    return World(seed).run(test)  # type: ignore[arg-type]


def on_a(call: Callable[[], object]) -> object:
    async def test(world: World) -> object:
        world.host("db")
        async with world.host("api"):
            result = call()
            return await result if asyncio.iscoroutine(result) else result

    return run(test)


def test_a_hosts_name_is_found_by_every_call() -> None:
    expected = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.1", 80))]

    def look() -> object:
        assert socket.getaddrinfo("db", 80, type=socket.SOCK_STREAM) == expected
        assert socket.getaddrinfo(host="DB.", port="http", type=socket.SOCK_STREAM) == expected
        assert early_getaddrinfo("db", 80, 0, socket.SOCK_STREAM) == expected
        assert len(socket.getaddrinfo("db", 80)) == len({socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW})
        assert socket.gethostbyname("db") == "10.0.0.1"
        assert socket.gethostbyname_ex("db") == ("db", [], ["10.0.0.1"])
        assert socket.gethostbyaddr("10.0.0.1") == ("db", [], ["10.0.0.1"])
        assert socket.getnameinfo(("10.0.0.1", 80), 0) == ("db", "http")
        assert socket.getnameinfo(("10.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == ("10.0.0.1", "80")
        assert socket.getfqdn() == "api"
        assert socket.gethostbyname("localhost") == "127.0.0.1"
        return True

    assert on_a(look)


def test_numeric_and_missing_hosts_are_as_ever() -> None:
    stream = socket.SOCK_STREAM

    async def look() -> object:
        loop = asyncio.get_running_loop()
        for host, flags, address in (
            ("10.9.8.7", 0, "10.9.8.7"),
            (None, 0, "127.0.0.1"),
            (None, socket.AI_PASSIVE, "0.0.0.0"),
            ("0.0.0.0", 0, "0.0.0.0"),
        ):
            for found in (
                socket.getaddrinfo(host, 80, socket.AF_INET, stream, flags=flags),
                await loop.getaddrinfo(host, 80, family=socket.AF_INET, type=stream, flags=flags),
            ):
                assert [each[4] for each in found] == [(address, 80)]
        return True

    assert on_a(look)


def test_a_name_of_nobody_is_an_error_as_linux_has_it_and_a_note_says_who_is_known() -> None:
    async def awaited() -> object:
        return await asyncio.open_connection("example.com", 80)

    for call in (lambda: socket.getaddrinfo("example.com", 80), awaited):
        with pytest.raises(socket.gaierror) as caught:
            on_a(call)
        assert caught.value.errno == socket.EAI_NONAME
        assert any("no real DNS, and knows: db, api" in note for note in caught.value.__notes__)
    with pytest.raises(socket.gaierror):
        on_a(lambda: socket.gethostbyname("example.com"))
    with pytest.raises(socket.herror):
        on_a(lambda: socket.gethostbyaddr("10.200.0.1"))


def test_the_real_machines_hosts_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    opened: list[object] = []
    real_open = builtins.open

    def noted_open(file: object, *args: object, **kwargs: object) -> object:
        opened.append(file)
        return real_open(file, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", noted_open)
    with pytest.raises(socket.gaierror):
        on_a(lambda: socket.getaddrinfo("ip6-allnodes", 80))
    assert "/etc/hosts" not in opened


REFUSED: dict[str, Callable[[], object]] = {
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "a Unix datagram": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "a real descriptor": lambda: socket.socket(fileno=0),
    "a pair of datagrams": lambda: socket.socketpair(type=socket.SOCK_DGRAM),
    "a class of one's own": lambda: type("Mine", (socket.socket,), {})(),
    "a blocking connect": lambda: socket.create_connection(("db", 80)),
    "a connect with a time-out": lambda: socket.create_connection(("db", 80), timeout=3),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_socket_that_is_none_of_the_hosts_is_refused_with_file_and_line(name: str) -> None:
    with pytest.raises(UnderlayError, match=r"test_names\.py:\d+: .* on the simulated host api"):
        on_a(REFUSED[name])


def test_a_hosts_sockets_can_be_looked_at_by_poll_and_select() -> None:
    async def look() -> object:
        one, other = socket.socketpair()
        poll = select.poll()
        poll.register(other, select.POLLIN)
        assert poll.poll(0) == []
        assert select.select([other], [other], [], 0) == ([], [other], [])
        one.send(b"x")
        assert poll.poll() == [(other.fileno(), select.POLLIN)]
        assert select.select([other.fileno()], [], [], 5) == ([other.fileno()], [], [])
        poll.modify(other, select.POLLOUT)
        assert poll.poll(0) == [(other.fileno(), select.POLLOUT)]
        poll.unregister(other)
        assert poll.poll(0) == []
        with pytest.raises(KeyError):
            poll.unregister(other)
        with pytest.raises(FileNotFoundError):
            poll.modify(other, select.POLLIN)
        one.close()
        other.close()
        return True

    assert on_a(look)


def test_after_a_world_sockets_are_the_kernels_again() -> None:
    on_a(lambda: None)
    one, other = socket.socketpair()
    one.send(b"x")
    assert other.recv(1) == b"x"
    one.close()
    other.close()
    assert type(one) is socket.socket
