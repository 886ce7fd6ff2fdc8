"""`underlay ports why` names each cause that a bind can fail of, made for real and checked against a real bind."""

from __future__ import annotations

import json
import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.tools.ports._place import Place, needs_root, place, port_of

from underlay.tools.ports import Obstacle, explain_bind


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as found:
        yield found


def why(where: Place, *words: str, nobody: bool = False, status: int = 1) -> str:
    done = where.command("why", *words, nobody=nobody)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def part(text: str, heading: str) -> str:
    """One of the parts of the answer, whose lines begin with a dash."""
    return text.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]


def obstacles(where: Place, *words: str, nobody: bool = False) -> set[str]:
    told = json.loads(where.command("why", "--json", *words, nobody=nobody).stdout)
    assert told["schema"] == "underlay.ports/1"
    return {cause["obstacle"] for attempt in told["attempts"] for cause in attempt["causes"]}


def test_a_free_port_can_be_bound(here: Place) -> None:
    assert here.bind(8080) == 0
    assert why(here, "8080", status=0) == "Yes: TCP port 8080 can be bound on every address now.\n"
    assert why(here, "--udp", "127.0.0.1:8080", status=0) == "Yes: UDP port 8080 can be bound on 127.0.0.1 now.\n"


def test_a_listener_is_named_with_what_ends_it(here: Place) -> None:
    with here.server(reuse=True) as server:
        port = port_of(server)
        assert here.bind(port) == here.bind(port, reuse=True) != 0
        text = why(here, f"127.0.0.1:{port}")
        assert f"No: TCP port {port} cannot be bound on 127.0.0.1 now." in text
        assert f"(pid {os.getpid()}, user " in part(text, "Why")
        assert f"listens on 127.0.0.1:{port}" in part(text, "Why")
        assert f"- end it: kill {os.getpid()}\n" in part(text, "What would mend it") + "\n"
        assert "with SO_REUSEADDR and SO_REUSEPORT too" in part(text, "What the kernel said to a bind")
        assert obstacles(here, f"127.0.0.1:{port}") == {"listener"}
    assert here.bind(port) == 0


def test_a_listener_that_shares_its_port_lets_others_share_it(here: Place) -> None:
    def listen() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return sock

    with here.do(listen) as server:
        text = why(here, f"127.0.0.1:{port_of(server)}")
        assert "share the port: set SO_REUSEPORT before the bind" in part(text, "What would mend it")
        assert "with SO_REUSEPORT it works" in part(text, "What the kernel said to a bind")


def test_time_wait_is_told_with_the_option_that_helps_and_the_time_it_lasts(here: Place) -> None:
    port = here.leave_in_time_wait(reuse=True)
    assert here.bind(port) != 0
    assert here.bind(port, reuse=True) == 0
    text = why(here, f"127.0.0.1:{port}")
    seconds = re.search(r"1 connection of an earlier socket .* is in TIME-WAIT: .* for (\d+) s more", part(text, "Why"))
    assert seconds is not None and 0 < int(seconds[1]) <= 60
    mends = part(text, "What would mend it")
    assert "set SO_REUSEADDR before the bind" in mends
    assert re.search(r"- wait \d+ s\n", mends)
    assert f"underlay ports close local:127.0.0.1:{port} peer:127.0.0.1:" in mends
    assert obstacles(here, str(port)) == {"time-wait"}


def test_time_wait_of_a_server_without_the_option_is_told_to_be_waited_for(here: Place) -> None:
    port = here.leave_in_time_wait(reuse=False)
    assert here.bind(port, reuse=True) != 0
    mends = part(why(here, f"127.0.0.1:{port}"), "What would mend it")
    assert "SO_REUSEADDR does not help here: the earlier socket had not set it" in mends
    assert "wait" in mends


def test_an_orphan_is_told_apart_from_time_wait(here: Place) -> None:
    with here.server(reuse=True) as server:
        port = port_of(server)
        client, accepted = here.connect(server)
    with client:
        accepted.close()  # and the client does not: the kernel waits for it in FIN-WAIT-2
        assert [sock.is_orphan for sock in here.settled(f"local:{port}")] == [True]
        assert here.bind(port) != 0
        text = why(here, f"127.0.0.1:{port}")
        assert "1 connection is an orphan: the program closed it or ended, and the peer (127.0.0.1:" in part(
            text, "Why"
        )
        assert "FIN-WAIT-2" in text
        assert "set SO_REUSEADDR before the bind" in part(text, "What would mend it")
        assert obstacles(here, str(port)) == {"orphan"}


def test_open_connections_of_a_listener_that_is_gone_are_told_with_their_holder(here: Place) -> None:
    with here.server(reuse=True) as server:
        port = port_of(server)
        client, accepted = here.connect(server)
    with client, accepted:
        assert here.bind(port) != 0
        text = why(here, f"127.0.0.1:{port}")
        assert f"A connection is open on this port: 127.0.0.1:{port} to 127.0.0.1:" in part(text, "Why")
        assert f"- end who holds them: kill {os.getpid()}" in part(text, "What would mend it")
        assert obstacles(here, str(port)) == {"connection"}


def test_an_outgoing_connection_that_was_lent_the_port_is_told_with_the_range(here: Place) -> None:
    with here.server() as server:
        client, accepted = here.connect(server)
        with client, accepted:
            port = port_of(client)
            assert here.bind(port) != 0
            text = why(here, f"127.0.0.1:{port}")
            assert "net.ipv4.ip_local_port_range" in part(text, "What would mend it")


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        ("0.0.0.0", "127.0.0.1", "which is every address of that family"),
        ("127.0.0.1", "0.0.0.0", "which is among every address"),
        ("::", "::1", "which is every IPv6 and every IPv4 address (IPV6_V6ONLY is off)"),
        ("::1", "::", "which is among every address"),
    ],
)
def test_a_wildcard_is_told_to_be_in_the_way_of_an_address_and_the_other_way_round(
    here: Place, theirs: str, ours: str, told: str
) -> None:
    with here.server(theirs) as server:
        port = port_of(server)
        assert here.bind(port, ours) != 0
        text = why(here, f"[{ours}]:{port}" if ":" in ours else f"{ours}:{port}")
        assert told in part(text, "Why")


def test_an_ipv6_socket_that_hears_ipv4_too_is_told_to_be_in_its_way(here: Place) -> None:
    with here.server("::") as server:
        port = port_of(server)
        assert here.bind(port, "127.0.0.1") != 0
        text = why(here, f"127.0.0.1:{port}")
        assert f"listens on *:{port}, which is every IPv6 and every IPv4 address (IPV6_V6ONLY is off)" in text
        assert "start the other with IPV6_V6ONLY" in part(text, "What would mend it")


def test_one_version_of_ip_may_be_free_while_the_other_is_not(here: Place) -> None:
    with here.server("::1") as server:
        port = port_of(server)
        text = why(here, str(port))
        assert f"can be bound on 0.0.0.0:{port} now, but not on [::]:{port}" in text
        assert here.bind(port, "0.0.0.0") == 0


@contextmanager
def only_held(here: Place, *, reuse_address: bool = False) -> Iterator[int]:
    """A port that a socket has bound, and does not listen on."""

    def hold() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse_address)
        sock.bind(("127.0.0.1", 0))
        return sock

    with here.do(hold) as sock:
        if not here.sockets(str(port_of(sock))):
            pytest.skip("this kernel does not tell of sockets that are only bound; remedy: Linux 6.8")
        yield port_of(sock)


def test_a_socket_that_only_holds_the_port_is_told(here: Place) -> None:
    with only_held(here) as port:
        text = why(here, f"127.0.0.1:{port}")
        assert f"has bound, without listening, 127.0.0.1:{port}" in text
        assert obstacles(here, str(port)) == {"bound"}


def test_a_socket_that_only_holds_the_port_and_would_share_it_is_told_with_the_option(here: Place) -> None:
    with only_held(here, reuse_address=True) as port:
        text = why(here, f"127.0.0.1:{port}")
        assert "set SO_REUSEADDR before the bind, as the other has" in part(text, "What would mend it")
        assert "with SO_REUSEADDR it works" in part(text, "What the kernel said to a bind")


def test_a_receiver_of_datagrams_is_told_for_udp_and_for_udp_only(here: Place) -> None:
    def receive() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", 0))
        return sock

    with here.do(receive) as sock:
        port = port_of(sock)
        assert here.bind(port, kind=2) != 0
        assert f"receives datagrams at 0.0.0.0:{port}" in why(here, "--udp", f"127.0.0.1:{port}")
        assert f"receives datagrams at 0.0.0.0:{port}" in why(here, f"127.0.0.1:{port}", "--udp")
        why(here, f"127.0.0.1:{port}", status=0)


def test_an_address_of_another_machine_is_told(here: Place) -> None:
    text = why(here, "192.0.2.1:8080")
    assert "192.0.2.1 is not an address of this machine" in part(text, "Why")
    assert obstacles(here, "192.0.2.1:8080") == obstacles(here, "[2001:db8::1]:8080") == {"address"}


@needs_root
def test_a_privileged_port_is_told_to_a_user_with_every_way_out(here: Place) -> None:
    text = why(here, "127.0.0.1:80", nobody=True)
    assert "Ports below 1024 need root or CAP_NET_BIND_SERVICE" in part(text, "Why")
    mends = part(text, "What would mend it")
    assert "choose a port from 1024 on" in mends and "setcap cap_net_bind_service=+ep" in mends
    assert "sysctl net.ipv4.ip_unprivileged_port_start=80" in mends
    assert obstacles(here, "127.0.0.1:80", nobody=True) == {"permission"}
    # Root may, and is told what others may not.
    assert "Only because this program is privileged" in why(here, "127.0.0.1:80", status=0)
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    here.do(lambda: start.write_text("80"))
    why(here, "127.0.0.1:80", nobody=True, status=0)


@needs_root
def test_a_user_is_told_whose_process_it_is_and_who_could_say_more(here: Place) -> None:
    with here.server() as server:
        port = port_of(server)
        text = why(here, f"127.0.0.1:{port}", nobody=True)
        assert f"A process of user root that you do not see listens on 127.0.0.1:{port}." in part(text, "Why")
        assert f"sudo underlay ports {port}" in part(text, "What would mend it")


def test_a_name_stands_for_each_of_its_addresses(here: Place) -> None:
    with here.server() as server:
        assert obstacles(here, f"localhost:{port_of(server)}") == {"listener"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "why takes one address"),
        (("1", "2", "3"), "why takes one address"),
        (("0",), "port 0 lets the kernel choose a free one"),
        (("65536",), "65536 is no port"),
        (("unix:/run/x",), "why knows ports only; `underlay ports unix:/run/x` shows who has that path"),
        (("no.such.host.invalid:80",), "nobody knows the address of 'no.such.host.invalid'"),
        (("--yes", "80"), "--yes means nothing with why"),
        (("--count", "80"), "--count means nothing with why"),
    ],
)
def test_what_why_cannot_answer_is_one_sentence(here: Place, words: tuple[str, ...], told: str) -> None:
    done = here.command("why", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_an_ipv6_connection_may_hold_the_port_for_ipv4_as_well(here: Place) -> None:
    with here.server("::") as server:
        port = port_of(server)
        client = here.do(lambda: socket.create_connection(("::1", port)))
        accepted, _ = server.accept()
    with client, accepted:
        assert here.bind(port, "0.0.0.0") != 0
        assert here.bind(port, "127.0.0.1") == 0
        told = part(why(here, f"0.0.0.0:{port}"), "Why")
        assert f"A connection is open on this port: [::1]:{port} to [::1]:" in told
        assert "accepted by an IPv6 listener that heard IPv4 too" in told
        why(here, f"127.0.0.1:{port}", status=0)


def rubbish(chance: random.Random, port: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """Sockets of all sorts on one port: bound, listening, connected, half closed, over; with and without options."""
    for _ in range(chance.randrange(1, 4)):
        address = chance.choice(["0.0.0.0", "127.0.0.1", "127.0.0.3", "::", "::1", "::ffff:127.0.0.1"])
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        yield sock
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address == "::" and chance.random() < 0.5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, chance.random() < 0.5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, chance.random() < 0.3)
        try:
            sock.bind((address, port))
            if kind == socket.SOCK_DGRAM or chance.random() < 0.2:
                continue
            sock.listen()
            if chance.random() < 0.4:
                continue
            client = socket.socket(sock.family)
            yield client
            client.settimeout(5)
            client.connect(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), port))
            sock.settimeout(0.2)  # another of its group may have been given the client
            accepted, _ = sock.accept()
            yield accepted
            for end in (accepted, client, sock):
                if chance.random() < 0.5:
                    end.close()
        except OSError:
            continue  # the others were in its way


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_on_a_port_each_refusal_is_explained_by_something_seen(here: Place, seed: int) -> None:
    chance = random.Random(seed)

    def check() -> None:
        for port in range(20_000, 20_012):
            kind = chance.choice([socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM])
            with ExitStack() as stack:
                for sock in rubbish(chance, port, kind):
                    stack.enter_context(sock)
                for host in ("", "127.0.0.1", "127.0.0.2", "::1"):
                    verdict = explain_bind(port, host, protocol="tcp" if kind == socket.SOCK_STREAM else "udp")
                    for attempt in verdict.attempts:
                        found = {cause.obstacle for cause in attempt.causes}
                        assert attempt.is_free == (not found)
                        assert Obstacle.UNSEEN not in found, (port, host, attempt)
                    assert verdict.sentences

    here.do(check)


@pytest.mark.parametrize("listens_at", ["::1", "127.0.0.1"])
def test_asking_does_not_open_the_port_to_who_would_share_it(listens_at: str) -> None:
    # A bind with SO_REUSEPORT beside a listener at another address leaves a mark on the port, by which later ones pass.
    if not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here; remedy: sysctl net.ipv6.conf.lo.disable_ipv6=0")
    family = socket.AF_INET6 if ":" in listens_at else socket.AF_INET
    with socket.create_server((listens_at, 0), family=family) as listener:
        port = listener.getsockname()[1]
        for host in ("", "0.0.0.0", "::", "127.0.0.1", ""):
            verdict = explain_bind(port, host)
            assert not any("as the other has" in sentence for sentence in verdict.sentences)
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                sock.bind(("::", port))
