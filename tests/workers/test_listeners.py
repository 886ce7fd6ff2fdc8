"""What the supervisor holds for its workers, by bare sockets: no process runs here."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from underlay.workers._serve._channel import Call
from underlay.workers._serve._listeners import Listeners


def call(address: object, family: int = socket.AF_INET, turn: int = 0) -> Call:
    return Call(say="bind", family=family, proto=0, address=address, turn=turn)


def test_the_first_worker_gets_its_own_socket_bound_and_the_next_the_same_one() -> None:
    listeners = Listeners("inherit")
    with socket.socket() as first, socket.socket() as second:
        reply, lent = listeners.bind(call(["127.0.0.1", 0]), os.dup(first.fileno()))
        assert (reply["outcome"], lent) == ("bound", None)
        port = first.getsockname()[1]
        assert port > 0
        reply, lent = listeners.bind(call(["127.0.0.1", 0]), os.dup(second.fileno()))
        assert reply["outcome"] == "kept"
        assert lent is not None
        with socket.socket(fileno=os.dup(lent)) as shared:
            assert shared.getsockname() == ("127.0.0.1", port)
    assert listeners.places() == [("127.0.0.1", port)]
    listeners.close()


def test_a_second_port_0_of_one_worker_is_another_port() -> None:
    listeners = Listeners("inherit")
    with socket.socket() as first, socket.socket() as second:
        listeners.bind(call(["127.0.0.1", 0], turn=0), os.dup(first.fileno()))
        listeners.bind(call(["127.0.0.1", 0], turn=1), os.dup(second.fileno()))
        assert first.getsockname() != second.getsockname()
    listeners.close()


def test_a_refusal_is_the_kernels_own_and_nothing_is_kept() -> None:
    listeners = Listeners("inherit")
    with socket.create_server(("127.0.0.1", 0)) as holder, socket.socket() as sock:
        reply, _ = listeners.bind(call(list(holder.getsockname())), os.dup(sock.fileno()))
    assert (reply["outcome"], reply["errno"]) == ("error", errno.EADDRINUSE)
    assert listeners.places() == []


def test_with_reuse_port_the_next_worker_is_told_the_port_of_the_first() -> None:
    listeners = Listeners("reuse_port")
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listeners.bind(call(["127.0.0.1", 0]), os.dup(first.fileno()))
        reply, lent = listeners.bind(call(["127.0.0.1", 0]), os.dup(second.fileno()))
        assert (reply["outcome"], reply["address"], lent) == ("again", first.getsockname(), None)


def test_what_a_client_gives_back_is_kept_no_longer() -> None:
    listeners = Listeners("inherit")
    with socket.socket() as sock:
        listeners.bind(call(["127.0.0.1", 0]), os.dup(sock.fileno()))
        listeners.give_back(call(["127.0.0.1", 0]))
    assert listeners.places() == []


def test_the_end_removes_the_path_of_a_unix_socket_but_not_one_that_another_put_there(tmp_path: Path) -> None:
    for is_replaced in (False, True):
        path = tmp_path / "app.sock"
        listeners = Listeners("inherit")
        with socket.socket(socket.AF_UNIX) as sock:
            listeners.bind(call(str(path), socket.AF_UNIX), os.dup(sock.fileno()))
        assert listeners.is_kept(str(path))
        if is_replaced:
            path.rename(tmp_path / "old.sock")  # so that its inode isn't given to the new one
            path.write_text("another's")
        listeners.close()
        assert path.exists() == is_replaced


def test_a_descriptor_that_is_no_socket_is_refused_and_closed() -> None:
    listeners = Listeners("inherit")
    descriptor = os.open(os.devnull, os.O_RDONLY)
    reply, lent = listeners.bind(call(["127.0.0.1", 0]), descriptor)
    assert (reply["outcome"], reply["errno"], lent) == ("error", errno.ENOTSOCK, None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert listeners.places() == []
