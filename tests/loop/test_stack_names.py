"""Names on the user-space stack: what `getaddrinfo` of its loop finds, and how a name server is asked.

It knows answers and questions. The sockets that carry them are in `test_io_stack.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import TypeVar, cast

import pytest

from underlay.loop import _stack_names, stack_loop
from underlay.loop._io_stack import StackLoop
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
