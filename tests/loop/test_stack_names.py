"""Names on the user-space stack: what `getaddrinfo` of its loop finds, and how a name server is asked.

It knows answers and questions. The sockets that carry them are in `test_io_stack.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import TypeVar, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from underlay.loop import _stack_names, stack_loop
from underlay.loop._io_stack import StackLoop
from underlay.loop._stack_address import packed_loosely
from underlay.wire import DNS_A, DNS_AAAA, DNS_CNAME, DNS_NAME_ERROR, DnsRecord, build_dns_answer, parse_dns

T = TypeVar("T")
HOST = "127.0.0.1"


def run(main: Coroutine[object, object, T], **names: str) -> T:
    with asyncio.Runner(loop_factory=lambda: stack_loop("lo", names=names)) as runner:
        return runner.run(main)


def test_names_that_the_network_was_given_are_found() -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("db", 5432, type=socket.SOCK_STREAM)
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("nowhere", 1)
        return list(found)

    assert run(main(), db="10.9.0.7") == [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.9.0.7", 5432))
    ]


@pytest.mark.parametrize("arguments", [(None, 80), ("127.0.0.1", "http"), ("::1", 80), ("localhost", None)])
def test_getaddrinfo_answers_as_the_c_library_does(arguments: tuple[str | None, int | str | None]) -> None:
    host, port = arguments

    async def main() -> set[object]:
        return set(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))

    here = run(main())
    theirs = set(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    assert theirs <= here  # a machine's /etc/hosts may leave ::1 out for localhost


HOSTS: list[str | bytes | None] = [
    None, "", "127.0.0.1", b"127.0.0.1", "127.1", "0x7f.1", "0", "2130706433", "010.1", "256.1", "1.2.3.4.5", "::1",
    "::ffff:1.2.3.4", "::", b"::1", "1.2.3.4 ", "a..b",
]  # fmt: skip
PORTS: list[str | bytes | int | None] = [
    None,
    0,
    80,
    "80",
    b"80",
    "http",
    b"domain",
    "",
    "nothing",
    65536,
    -1,
    "65536",
    "ntp",
]
ASKED: list[tuple[int, int, int, int]] = [
    (family, kind, protocol, flags)
    for family in (0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 99)
    for kind, protocol in (
        (0, 0), (socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, 0), (0, socket.IPPROTO_TCP),
        (socket.SOCK_DGRAM, socket.IPPROTO_TCP), (9, 0), (0, 200),
    )
    for flags in (
        0, socket.AI_NUMERICHOST, socket.AI_NUMERICSERV, socket.AI_PASSIVE, socket.AI_CANONNAME, socket.AI_V4MAPPED,
        socket.AI_V4MAPPED | socket.AI_ALL, socket.AI_NUMERICHOST | socket.AI_PASSIVE, 1 << 30,
    )
]  # fmt: skip


@pytest.mark.parametrize("port", PORTS, ids=str)
@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_what_needs_no_name_server_is_as_the_c_library_has_it(
    host: str | bytes | None, port: str | bytes | int | None
) -> None:
    def theirs(family: int, kind: int, protocol: int, flags: int) -> object:
        try:
            # A machine may have a name server that knows better; the stack here has none.
            flags |= socket.AI_NUMERICHOST if host in ("", "256.1", "1.2.3.4.5", "1.2.3.4 ", "a..b") else 0
            return socket.getaddrinfo(host, port, family, kind, protocol, flags)
        except (OSError, UnicodeError, OverflowError) as error:
            return type(error), error.args

    async def here() -> list[object]:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        for family, kind, protocol, flags in ASKED:
            try:
                told.append(await loop.getaddrinfo(host, port, family=family, type=kind, proto=protocol, flags=flags))
            except (OSError, UnicodeError, OverflowError) as error:
                told.append((type(error), error.args))
        return told

    for asked, told in zip(ASKED, run(here()), strict=True):
        assert told == theirs(*asked), asked


PARTS = ["0", "1", "7", "08", "010", "0x", "0xff", "0X1", "255", "256", "65536", "4294967295", "4294967296", "00", "f"]


@example("0x")
@example("1.0X")
@given(st.text("0123456789abfxX.", max_size=18) | st.lists(st.sampled_from(PARTS)).map(".".join))
def test_a_loose_ipv4_address_is_read_as_by_the_c_library(text: str) -> None:
    try:
        theirs = socket.getaddrinfo(text, None, socket.AF_INET, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4][0]
    except (OSError, UnicodeError):
        theirs = None
    here = packed_loosely(text)
    assert (None if here is None else socket.inet_ntoa(here)) == theirs


def test_names_are_found_as_asked_for() -> None:
    names = {"db": "10.9.0.7", "xn--bcher-kva.example": "10.9.0.8"}

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        for host, port, arguments in (
            ("DB.", "http", {"type": socket.SOCK_STREAM}),
            (b"db", None, {"proto": socket.IPPROTO_UDP}),
            ("b\u00fccher.example", 1, {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME}),
            ("db", 1, {"family": socket.AF_INET6, "type": socket.SOCK_STREAM, "flags": socket.AI_V4MAPPED}),
            ("db", 1, {"family": socket.AF_INET6}),
            ("db", "nothing", {}),
            ("db", "http", {"flags": socket.AI_NUMERICSERV}),
            ("db", 1, {"flags": socket.AI_NUMERICHOST}),
        ):
            try:
                told.append(await loop.getaddrinfo(host, port, **arguments))
            except socket.gaierror as error:
                told.append(error.errno)
        return told

    v4, v6, stream, tcp = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP
    assert run(main(), **names) == [
        [(v4, stream, tcp, "", ("10.9.0.7", 80))],
        [(v4, socket.SOCK_DGRAM, socket.IPPROTO_UDP, "", ("10.9.0.7", 0))],
        [(v4, stream, tcp, "xn--bcher-kva.example", ("10.9.0.8", 1))],
        [(v6, stream, tcp, "", ("::ffff:10.9.0.7", 1, 0, 0))],
        socket.EAI_NONAME,
        socket.EAI_SERVICE,
        socket.EAI_NONAME,
        socket.EAI_NONAME,
    ]


class NameServer(asyncio.DatagramProtocol):
    """Answers as `answers` says, by name and type; what it says of others is that they are not."""

    def __init__(self, answers: dict[tuple[str, int], list[DnsRecord]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = parse_dns(data)
        question = query.questions[0]
        self.asked.append(question.name)
        records = self.answers.get((question.name, question.type))
        forged = build_dns_answer(query, [DnsRecord(question.name, DNS_A, 60, bytes([6, 6, 6, 6]))])
        self.transport.sendto(
            bytes([forged[0] ^ 0xFF]) + forged[1:], addr
        )  # as if somebody guessed the identification wrong
        self.transport.sendto(b"rubbish", addr)
        if question.name != "silent.example":
            self.transport.sendto(build_dns_answer(query, records or [], rcode=0 if records else DNS_NAME_ERROR), addr)


def ask_names(*names: str, answers: dict[tuple[str, int], list[DnsRecord]]) -> tuple[list[object], list[str]]:
    async def main() -> tuple[list[object], list[str]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        loop._bridge.name_servers = (HOST,)
        transport, server = await loop.create_datagram_endpoint(lambda: NameServer(answers), local_addr=(HOST, 53))
        found: list[object] = []
        for name in names:
            try:
                infos = await loop.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
                found.append([info[4][0] for info in infos])
            except socket.gaierror as error:
                found.append(error.errno)
        transport.close()
        return found, server.asked

    return run(main())


def test_a_name_server_is_asked_and_aliases_are_followed() -> None:
    answers = {
        ("www.example", DNS_A): [
            DnsRecord("www.example", DNS_CNAME, 60, "host.example"),
            DnsRecord("host.example", DNS_A, 60, bytes([10, 9, 0, 80])),
            DnsRecord("other.example", DNS_A, 60, bytes([6, 6, 6, 6])),
        ],
        ("www.example", DNS_AAAA): [DnsRecord("www.example", DNS_AAAA, 60, bytes(15) + b"\x50")],
    }
    found, asked = ask_names("WWW.example.", answers=answers)
    assert found == [["10.9.0.80", "::50"]]
    assert asked == ["www.example", "www.example"]


def test_a_name_that_the_server_does_not_have_is_unknown_and_one_without_an_answer_may_be_known_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_stack_names, "_TIMEOUT_S", 0.05)
    found, asked = ask_names("nowhere.example", "silent.example", answers={})
    assert found == [socket.EAI_NONAME, socket.EAI_AGAIN]
    assert asked.count("silent.example") == 4  # two attempts for each family


def test_an_alias_that_leads_to_itself_ends() -> None:
    loop_of_names = [
        DnsRecord("a.example", DNS_CNAME, 60, "b.example"),
        DnsRecord("b.example", DNS_CNAME, 60, "a.example"),
    ]
    found, _ = ask_names("a.example", answers={("a.example", DNS_A): loop_of_names})
    assert found == [socket.EAI_NONAME]


# --- calls that cannot await ------------------------------------------------------------------------------------------


def test_a_blocking_getaddrinfo_in_a_coroutine_knows_the_networks_names() -> None:
    async def main() -> tuple[object, bytes]:
        found = socket.getaddrinfo("db", "http", type=socket.SOCK_STREAM)
        with socket.create_server((HOST, 5432)) as listener, socket.create_connection(("db", 5432), 5) as client:
            server = listener.accept()[0]
            with server:
                client.sendall(b"found")
                return found, server.recv(9)

    found, data = run(main(), db=HOST)
    assert found == [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, 80))]
    assert data == b"found"


def test_a_blocking_getaddrinfo_outside_of_the_loop_is_the_c_librarys() -> None:
    async def main() -> object:
        return await asyncio.to_thread(socket.getaddrinfo, "db", 1, 0, 0, 0, socket.AI_NUMERICHOST)

    with pytest.raises(socket.gaierror):
        run(main(), db=HOST)
    assert socket.getaddrinfo(HOST, 1)[0][4] == (HOST, 1)


def test_gethostbyname_in_a_coroutine_knows_the_networks_names() -> None:
    async def main() -> object:
        with pytest.raises(socket.gaierror):
            socket.gethostbyname("nowhere")
        return (
            socket.gethostbyname("db"),
            socket.gethostbyname_ex("db"),
            socket.gethostbyname(""),
            socket.gethostbyname("127.1"),
        )

    assert run(main(), db="10.9.0.7") == ("10.9.0.7", ("db", [], ["10.9.0.7"]), "0.0.0.0", HOST)
    with pytest.raises(TypeError):
        socket.gethostbyname(None)  # type: ignore[arg-type]


def test_a_blocking_getaddrinfo_asks_for_both_families_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dead name server it takes as long as one of them does."""
    monkeypatch.setattr(_stack_names, "_TIMEOUT_S", 0.05)

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        loop._bridge.name_servers = (HOST,)
        with socket.socket(type=socket.SOCK_DGRAM) as server:
            server.bind((HOST, 53))
            server.setblocking(False)
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("silent.example", 80)
            asked: list[int] = []
            while len(asked) < 4:
                asked.append(parse_dns(server.recv(999)).questions[0].type)
            return asked

    assert run(main()) == [DNS_A, DNS_AAAA, DNS_A, DNS_AAAA]


def test_a_blocking_getaddrinfo_asks_the_name_server_and_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stack_names, "_TIMEOUT_S", 0.05)

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        bridge = loop._bridge
        bridge.name_servers = (HOST,)
        with socket.socket(type=socket.SOCK_DGRAM) as server:
            server.bind((HOST, 53))
            server.setblocking(False)
            settle = bridge.settle

            def answer_and_settle() -> None:
                settle()
                try:
                    data, asker = server.recvfrom(999)
                except BlockingIOError:
                    return
                query = parse_dns(data)
                name = query.questions[0].name
                if name == "silent.example":
                    return
                records = [DnsRecord(name, DNS_A, 60, bytes([10, 9, 0, 80]))]
                if query.questions[0].type != DNS_A or name == "nowhere.example":
                    records = []
                rcode = 0 if records else DNS_NAME_ERROR
                server.sendto(build_dns_answer(query, records, rcode=rcode), asker)
                settle()

            bridge.settle = answer_and_settle  # type: ignore[method-assign]
            told: list[object] = []
            for name in ("www.example", "nowhere.example", "silent.example"):
                try:
                    told.append([each[4] for each in socket.getaddrinfo(name, 80, proto=socket.IPPROTO_TCP)])
                except socket.gaierror as error:
                    told.append(error.errno)
            bridge.settle = settle  # type: ignore[method-assign]
            return told

    assert run(main()) == [[("10.9.0.80", 80)], socket.EAI_NONAME, socket.EAI_AGAIN]
