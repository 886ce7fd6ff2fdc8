"""Plays situations on two real kernels: network namespaces joined by veth pairs and a bridge.

    python -m tests.sim._on_kernels [WORD ...]      as root: what each side said, as JSON, of all situations or of those
                                                    whose titles have one of the words

A machine is a namespace and a process in it. Both machines' cables end at a bridge in a third namespace: to pull one
out there drops what passes, and no kernel sees its link go down. Power off is that and SIGKILL; a reboot is another
namespace of the same addresses. It refuses to know what the situations are, and what the simulator does with them.

Each situation is played in a process of its own, several at once: most of their time they wait.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from underlay.link import Namespace, Rtnetlink
from underlay.link._namespace import CLONE_NEWNET, setns, unshare

from ._catalogue import situations
from ._situations import Deed, Side, Situation
from ._situations_others import contexts

# No situation takes longer; the longest waits of its own are 8 s.
LIMIT_S: Final = 25.0
GRACE_S: Final = 0.2
AT_ONCE: Final = 12
SERVER, CLIENT = "10.0.0.1", "10.0.0.2"


class Machine:
    """A namespace at the bridge, and its process."""

    def __init__(self, name: str, address: str, other: str, *, knows_macs: bool) -> None:
        self.name = name
        self.address = address
        self.other = other
        self.knows_macs = knows_macs
        self.said: list[str] = []
        self.pid = 0
        self.boots = 0
        self.link: socket.socket | None = None
        self._text = b""
        self.boot()

    @property
    def cable(self) -> str:
        """Its end at the bridge."""
        return f"{self.name}{self.boots}"

    def boot(self) -> None:
        self.boots += 1
        self.namespace = Namespace.create()
        with Rtnetlink() as kernel:
            kernel.create_veth(self.cable, "eth0", peer_namespace_fd=self.namespace.fd)
            kernel.set_up(kernel.link(self.cable).index)
        self.namespace.run(self._configure)
        self.plug(in_bridge=True)

    def _configure(self) -> None:
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        with Rtnetlink() as kernel:
            kernel.set_up(kernel.link("lo").index)
            index = kernel.link("eth0").index
            kernel.set_mac(index, _mac(self.address))
            kernel.add_address(index, f"{self.address}/8")
            kernel.set_up(index)
        if self.knows_macs:
            mac = _mac(self.other).hex(":")
            _ip("neighbour", "add", self.other, "lladdr", mac, "nud", "permanent", "dev", "eth0")

    def plug(self, *, in_bridge: bool) -> None:
        """Put the cable into the bridge, or pull it."""
        _ip("link", "set", self.cable, *(["master", "bridge0"] if in_bridge else ["nomaster"]))

    def start(self, situation: type[Situation], role: str) -> None:
        """Start its process."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            status = 1
            try:
                setns(self.namespace.fd)
                _run(situation, role, self.address, self.other, theirs)
                status = 0
            except BaseException:
                theirs.sendall(f"say {traceback.format_exc()!r}\n".encode())
            finally:
                os._exit(status)
        theirs.close()
        self.pid, self.link = pid, ours

    def listen(self) -> list[str]:
        """What it said since the last time, line by line; an empty line is its end."""
        assert self.link is not None
        data = self.link.recv(65536)
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        return [line.decode() for line in lines] + ([""] if not data else [])

    def kill(self) -> None:
        """End its process, and hear what it had said."""
        if not self.pid:
            return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0
        assert self.link is not None
        while True:
            lines = self.listen()
            self.said += [line.removeprefix("say ") for line in lines if line.startswith("say ")]
            if lines and lines[-1] == "":
                break
        self.link.close()
        self.link = None

    def power_off(self) -> None:
        self.plug(in_bridge=False)
        self.kill()


def _run(situation: type[Situation], role: str, here: str, there: str, link: socket.socket) -> None:
    """In the machine's process."""

    def do(deed: Deed) -> None:
        link.sendall(f"do {deed}\n".encode())
        link.recv(1)  # it waits, as the program of a simulator does at that instant

    side = Side(here, there, lambda what: link.sendall(f"say {what}\n".encode()), do, lambda: link.sendall(b"ready\n"))
    program = getattr(situation(), role)
    asyncio.run(program(side))


def play(title: str) -> tuple[str, dict[str, list[str]]]:
    """Play one situation: what each side said."""
    situation = next(each for each in situations() if each.title() == title)
    unshare(CLONE_NEWNET)
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    _ip("link", "add", "bridge0", "type", "bridge")
    _ip("link", "set", "bridge0", "up")
    server = Machine("server", SERVER, CLIENT, knows_macs=situation.knows_macs)
    client = Machine("client", CLIENT, SERVER, knows_macs=situation.knows_macs)
    ends_s = time.monotonic() + LIMIT_S
    server.start(situation, "server")
    try:
        _until_ready(server, ends_s)
        client.start(situation, "client")
        over_s: float | None = None
        while over_s is None or time.monotonic() < over_s:
            links = {each.link: each for each in (server, client) if each.link is not None}
            ready, _, _ = select.select(list(links), [], [], max(0.0, (over_s or ends_s) - time.monotonic()))
            if not ready and over_s is None:
                client.said.append("(it hangs)")
                break
            for link in ready:
                machine = links.get(link)
                if machine is None or machine.link is not link:
                    continue  # ended by a deed of the other
                for line in machine.listen():
                    word, _, rest = line.partition(" ")
                    if word == "say":
                        machine.said.append(rest)
                    elif word == "do":
                        _do(rest, server, situation, ends_s)
                        link.sendall(b".")
                    elif not word:  # its program has ended
                        os.waitpid(machine.pid, 0)
                        machine.pid, machine.link = 0, None
                        link.close()
                        if machine is client:
                            over_s = time.monotonic() + GRACE_S
    finally:
        client.kill()
        server.kill()
    return title, {"client": client.said, "server": server.said}


def _until_ready(server: Machine, ends_s: float) -> None:
    assert server.link is not None
    while True:
        ready, _, _ = select.select([server.link], [], [], max(0.0, ends_s - time.monotonic()))
        if not ready:
            raise TimeoutError("the server is not ready")
        for line in server.listen():
            if line.startswith("say "):
                server.said.append(line.removeprefix("say "))
            elif line == "ready":
                return
            elif not line:
                raise RuntimeError(f"the server ended: {server.said}")


def _do(deed: str, server: Machine, situation: type[Situation], ends_s: float) -> None:
    if deed in ("cut", "heal"):
        server.plug(in_bridge=deed == "heal")
    elif deed == "kill":
        server.kill()
    elif deed == "power off":
        server.power_off()
    elif deed == "reboot":
        server.power_off()
        server.said.append("(boots)")
        server.boot()
        server.start(situation, "server")
        _until_ready(server, ends_s)
    elif deed in ("pause", "resume"):
        os.kill(server.pid, signal.SIGSTOP if deed == "pause" else signal.SIGCONT)
    else:
        raise ValueError(deed)


def _mac(address: str) -> bytes:
    return b"\x02\x00" + socket.inet_aton(address)


def _ip(*arguments: str) -> None:
    """ip(8), in the namespace of the calling thread."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr}")


def main(words: list[str]) -> None:
    """Play all, several at once."""
    titles = [each.title() for each in situations() if not words or any(word in each.title() for word in words)]
    titles.sort(key=lambda title: "TLS" not in title)  # those are the slowest to begin
    contexts()  # both machines must have them of one maker
    with multiprocessing.get_context("fork").Pool(AT_ONCE, maxtasksperchild=1) as pool:
        print(json.dumps(dict(pool.imap(play, titles, chunksize=1)), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
