"""What a kernel refuses, or lacks, is told in a sentence and never passed over in silence."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.tools.ports import (
    Change,
    Filter,
    Snapshot,
    Socket,
    State,
    Watch,
    _cli,
    close_socket,
    list_sockets,
    take_snapshot,
)
from underlay.tools.ports import _close as close_module
from underlay.tools.ports import _list as list_module
from underlay.tools.ports import _tracepoint as tracepoint_module
from underlay.tools.ports import _watch as watch_module
from underlay.tools.ports._diag import list_inet
from underlay.tools.ports._tracepoint import Tracepoint, TracepointUnavailable

from ._place import Place, needs_root, port_of

REST = Socket("tcp", 4, State.TIME_WAIT, "127.0.0.1", 80, "127.0.0.1", 4000, 0, 0, cookie=7)


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EPERM, "127.0.0.1:80 may not be ended by this user; root may (CAP_NET_ADMIN)"),
        (errno.EOPNOTSUPP, "127.0.0.1:80 cannot be ended by this kernel; it lacks CONFIG_INET_DIAG_DESTROY"),
    ],
)
def test_a_socket_that_may_not_or_cannot_be_ended(monkeypatch: pytest.MonkeyPatch, number: int, told: str) -> None:
    monkeypatch.setattr(close_module, "destroy", refusing(number))
    with pytest.raises(UnderlayError) as caught:
        close_socket(REST)
    assert str(caught.value).startswith(told)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("number", "told", "status"),
    [
        (errno.EPERM, "this program may not open netlink", 2),
        (errno.EPROTONOSUPPORT, "this kernel does not tell of its sockets by sock_diag", 1),
    ],
)
def test_a_netlink_that_cannot_be_opened_is_told(
    monkeypatch: pytest.MonkeyPatch, number: int, told: str, status: int
) -> None:
    monkeypatch.setattr(list_module, "Netlink", refusing(number))
    with pytest.raises(UnderlayError, match=told) as caught:
        list_sockets()
    assert caught.value.exit_status == status


def test_a_socket_that_is_gone_is_not_closed_and_no_error(place: Place) -> None:
    assert place.do(lambda: close_socket(REST)) is False


def test_a_socket_that_is_only_bound_is_refused_before_the_kernel_is_asked() -> None:
    with pytest.raises(UsageError, match="is only bound, and such a socket the kernel cannot end"):
        close_socket(REST._replace(state=State.BOUND))


def test_a_protocol_that_this_kernel_cannot_list_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = list_inet

    def without_udp(kernel: object, protocol: str, *rest: object, **more: object) -> list[Socket]:
        if protocol == "udp":
            raise OSError(errno.ENOENT, "")
        return real(kernel, protocol, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(list_module, "list_inet", without_udp)
    assert take_snapshot(Filter(), owners=False).unlisted == ("udp",)
    with pytest.raises(UnderlayError, match="this kernel cannot list udp sockets; it lacks CONFIG_INET_UDP_DIAG"):
        list_sockets("proto:udp", owners=False)
    monkeypatch.setattr(list_module, "list_inet", refusing(errno.ENOBUFS))
    with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
        list_sockets(owners=False)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "only root may hear of it"),
        (errno.ENOSYS, "this kernel has it not"),
        (errno.EMFILE, os.strerror(errno.EMFILE).lower()),
    ],
)
def test_a_tracepoint_that_cannot_be_heard_says_why(monkeypatch: pytest.MonkeyPatch, number: int, told: str) -> None:
    monkeypatch.setattr(tracepoint_module, "open_folder", refusing(number))
    with pytest.raises(TracepointUnavailable, match=told):
        Tracepoint()
    with Watch(Filter(["proto:tcp"])) as watch:
        assert watch.tracepoint is None and watch.why_no_tracepoint == told


@needs_root
def test_a_tracepoint_leaves_no_descriptor_and_no_mount(place: Place) -> None:
    before = set(os.listdir("/proc/self/fd"))
    mounts = Path("/proc/self/mounts").read_text()
    try:
        with Tracepoint() as tracepoint:
            assert len(tracepoint.descriptors) >= 1
            assert Path("/proc/self/mounts").read_text() == mounts
    except TracepointUnavailable as reason:
        pytest.skip(f"{reason}; remedy: a kernel with CONFIG_PERF_EVENTS and tracefs")
    assert set(os.listdir("/proc/self/fd")) == before


@needs_root
def test_a_tracepoint_that_takes_the_descriptors_of_a_look_is_let_go(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        Tracepoint().close()
    except TracepointUnavailable as reason:
        pytest.skip(f"{reason}; remedy: a kernel with CONFIG_PERF_EVENTS and tracefs")
    looks: list[Filter] = []

    def look(only: Filter) -> Snapshot:
        looks.append(only)
        if len(looks) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return take_snapshot(only)

    monkeypatch.setattr(watch_module, "take_snapshot", look)
    before = set(os.listdir("/proc/self/fd"))
    with place.do(lambda: Watch(Filter(["proto:tcp"]))) as watch:
        assert watch.tracepoint is None and watch.why_no_tracepoint == "too many open files"
        assert len(set(os.listdir("/proc/self/fd")) - before) == 2  # what it asks, and what it hears deaths by
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("interval_s", "took_s", "pause_s"), [(1.0, 0.01, 1.0), (0.01, 0.5, 2.0), (1.0, 30.0, 120.0)])
def test_a_watch_rests_four_times_as_long_as_a_look_took(interval_s: float, took_s: float, pause_s: float) -> None:
    with Watch(Filter(["proto:udp"]), interval_s=interval_s) as watch:
        watch._looked_at, watch._look_took_s = 1000.0, took_s
        assert watch._next_look(interval_s) == 1000.0 + pause_s


def test_a_watch_that_is_closed_gives_nothing_more(place: Place) -> None:
    watch = place.do(lambda: Watch(Filter(["proto:tcp"]), interval_s=3600))
    watch.close()
    assert list(watch) == []


def test_a_watch_may_be_closed_while_it_is_iterated_over(place: Place) -> None:
    def work() -> list[Change]:
        found = []
        with Watch(Filter(["proto:tcp"]), interval_s=3600) as watch, place.server() as server:
            for _ in range(5):
                client, accepted = place.connect(server)
                client.close()
                accepted.close()
            for change in watch:
                found.append(change)
                watch.close()
        return found

    assert len(place.do(work)) == 1


def test_a_watch_that_the_kernel_had_no_room_for_says_so_and_finds_what_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_DEATHS_BYTES", 1)  # the kernel gives its least
    monkeypatch.setattr(watch_module, "Tracepoint", refusing(errno.EACCES))
    monkeypatch.setattr(watch_module, "TracepointUnavailable", OSError)

    def work() -> None:
        with Watch(Filter(["proto:tcp"]), interval_s=0.1) as watch:
            server = place.server()
            port = port_of(server)
            changes = iter(watch)
            while next(changes).socket.local_port != port:
                pass
            for _ in range(100):
                client, accepted = place.connect(server)
                accepted.close()
                client.close()
            server.close()
            while (change := next(changes)).kind != "closed" or change.socket.local_port != port:
                pass
            assert change.socket.state is State.LISTEN
            assert watch.lost_messages > 0
            assert port not in {sock.local_port for sock in watch.sockets if sock.state is State.LISTEN}

    place.do(work)


def test_what_was_lost_after_the_last_change_of_a_watch_is_told_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Losing(Watch):
        def __iter__(self) -> Iterator[Change]:
            self.lost_messages += 3
            raise KeyboardInterrupt

    monkeypatch.setattr(watch_module, "Watch", Losing)
    parser = argparse.ArgumentParser()
    _cli.configure(parser)
    assert _cli.main(parser.parse_args(["--watch"])) == 0
    assert "3 times the kernel had no room for its messages" in capsys.readouterr().out


@pytest.mark.parametrize("interval_s", [0, -1, 1e9, float("nan")])
def test_a_watch_takes_no_interval_that_is_none(interval_s: float) -> None:
    with pytest.raises(ValueError, match="interval_s is"):
        Watch(Filter(), interval_s=interval_s)


def test_a_socket_that_leaves_a_filter_and_comes_back_is_told_again(place: Place) -> None:
    def work() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            Watch(Filter(["proto:udp", "state:unconnected"]), interval_s=0.02) as watch,
        ):
            changes = iter(watch)
            sock.bind(("127.0.0.1", 20_001))  # a port that the kernel chose would be given back below
            assert next(changes).kind == "opened"
            sock.connect(("127.0.0.1", 9))
            assert next(changes).kind == "closed"
            _disconnect(sock)
            assert next(changes).kind == "opened"

    place.do(work)


def _disconnect(sock: socket.socket) -> None:
    """Let a UDP socket have no peer any more: connect(2) with AF_UNSPEC, for which Python has no word."""
    import ctypes

    assert ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16) == 0


def test_nobody_is_asked_about_a_socket_that_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = REST._replace(state=State.BOUND)
    monkeypatch.setattr(list_module, "take_snapshot", lambda only: Snapshot([bound], 0, ()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))  # to ask would be an AttributeError
    args = argparse.Namespace(yes=False, json=False)
    with pytest.raises(UsageError, match="is only bound, and such a socket the kernel cannot end"):
        _cli._close(args, ["80"])
