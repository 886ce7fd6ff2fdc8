"""`underlay run --net`: programs that never heard of underlay, on a stack of their own, and the Linux kernel at the
other end of the cable, with the clients that people have: ping, curl, iperf3, Python's own.

Each test has a network namespace of its own, so that addresses are nobody else's and nothing is left. It knows what
a user sees. What the stack does inside is in tests/stack.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from underlay.link import Rtnetlink
from underlay.trace import read_pcapng

from .._kernel import DEVICE, needs_program, new_namespace

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60

pytestmark = [
    pytest.mark.skipif(not DEVICE.exists(), reason=f"there is no {DEVICE}; remedy: modprobe tun"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices and namespaces; remedy: run as root"),
]

FILE_SERVER = """
import sys
from aiohttp import web

async def give(request):
    return web.FileResponse(sys.argv[1])

app = web.Application()
app.router.add_get("/", give)

def ready(text):
    print("listening on", text, flush=True)

web.run_app(app, host=sys.argv[2], port=8080, print=ready)
"""


class Machine:
    """A namespace in which programs and their clients run."""

    def __init__(self) -> None:
        self.namespace = new_namespace()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *argv: str | Path) -> subprocess.Popen[str]:
        """Start a program here."""
        child = self.namespace.run(
            lambda: subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
        self.started.append(child)
        return child

    def run(self, *argv: str | Path, expect: int = 0) -> str:
        """Run a client to its end and give its output."""
        child = self.start(needs_program(str(argv[0])), *argv[1:])
        output, errors = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == expect, f"{argv} ended with {child.returncode}\n{output}{errors}"
        return output

    @contextmanager
    def serving(self, net: str, *program: str | Path, capture: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        """Run a server on the stack until the block ends; then SIGINT must end it without a traceback of ours."""
        words = [] if capture is None else ["--capture", str(capture)]
        child = self.start(sys.executable, "-m", "underlay", "run", "--net", net, *words, *program)
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "the program did not say that it listens"
        line = child.stdout.readline()
        if "listening on" not in line and "Running on" not in line:
            child.kill()
            pytest.fail(line + "".join(child.communicate()))
        yield child
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=PATIENCE_S)
        assert "underlay" not in errors.replace(str(ROOT), ""), errors

    def close(self) -> None:
        """Leave nothing running."""
        for child in self.started:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self.namespace.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
    finally:
        machine.close()


on_both_kinds = pytest.mark.parametrize("kind", ["tap", "tun"])
BOTH_FAMILIES = "10.9.0.2/24,ip=fd00:9::2/64"


@on_both_kinds
@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
@pytest.mark.parametrize("size_bytes", [56, 1452, 9000])
def test_ping_is_answered_also_in_fragments(machine: Machine, kind: str, host: str, size_bytes: int) -> None:
    with machine.serving(f"{kind}:{BOTH_FAMILIES}", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        told = machine.run("ping", "-c", "5", "-i", "0.02", "-W", "5", "-s", str(size_bytes), host)
    assert "5 packets transmitted, 5 received, 0% packet loss" in told


@on_both_kinds
@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
def test_curl_gets_a_hundred_megabytes_from_aiohttp_unharmed(
    machine: Machine, kind: str, host: str, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    program = tmp_path / "server.py"
    program.write_text(FILE_SERVER)
    block = os.urandom(1 << 20)
    expected = hashlib.sha256()
    with content.open("wb") as file:
        for number in range(100):
            part = number.to_bytes(4, "big") + block[4:]
            file.write(part)
            expected.update(part)
    got = tmp_path / "got"
    authority = f"[{host}]" if ":" in host else host
    with machine.serving(f"{kind}:{BOTH_FAMILIES}", program, content, host):
        machine.run("curl", "-sS", "--max-time", "50", "-o", got, f"http://{authority}:8080/")
    with got.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected.hexdigest()
    got.unlink()


@on_both_kinds
@pytest.mark.parametrize("words", [[], ["-R"], ["-P", "4"], ["-P", "4", "-R"]], ids=" ".join)
def test_iperf3_measures_in_both_directions(machine: Machine, kind: str, words: Sequence[str]) -> None:
    with machine.serving(f"{kind}:10.9.0.2/24", EXAMPLES / "iperf3_server.py", "--host", "10.9.0.2", "--port", "5201"):
        told = json.loads(machine.run("iperf3", "-J", "-c", "10.9.0.2", "-n", "20M", *words))
    assert told["end"]["sum_received"]["bytes"] >= 20 << 20 if "-R" in words else told["end"]["sum_sent"]["bytes"] > 0
    assert "error" not in told


CROWD = """
import asyncio, sys

async def one(number):
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    message = (b"%d " % number) * 5000
    writer.write(message)
    assert await reader.readexactly(len(message)) == message
    writer.close()
    await writer.wait_closed()

async def main():
    await asyncio.gather(*(one(number) for number in range(200)))
    print("all 200")

asyncio.run(main())
"""


@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
def test_two_hundred_connections_at_once_are_served(machine: Machine, host: str) -> None:
    with machine.serving(f"tap:{BOTH_FAMILIES}", EXAMPLES / "echo_streams.py", "--host", host, "--port", "7000"):
        assert machine.run(sys.executable, "-c", CROWD, host, "7000") == "all 200\n"


TLS_CLIENT = """
import socket, ssl, sys

context = ssl.create_default_context(cafile=sys.argv[3])
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as raw:
    with context.wrap_socket(raw, server_hostname="localhost") as sock:
        message = bytes(range(256)) * 4000
        sock.sendall(message)
        answer = b""
        while len(answer) < len(message):
            answer += sock.recv(65536)
        print(sock.version(), answer == message)
"""


@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
def test_a_tls_client_of_the_kernels_speaks_to_a_tls_server_on_the_stack(
    machine: Machine, host: str, tmp_path: Path
) -> None:
    import trustme

    authority = trustme.CA()
    paper, trust = tmp_path / "paper.pem", tmp_path / "trust.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(paper))
    authority.cert_pem.write_to_path(str(trust))
    words: list[str | Path] = ["--host", host, "--port", "7443", "--cert", paper]
    with machine.serving(f"tun:{BOTH_FAMILIES}", EXAMPLES / "tls_echo.py", *words):
        assert machine.run(sys.executable, "-c", TLS_CLIENT, host, "7443", trust) == "TLSv1.3 True\n"


def test_a_program_on_the_stack_connects_to_the_kernel(machine: Machine) -> None:
    machine.start(sys.executable, "-m", "http.server", "--bind", "0.0.0.0", "8000", "--directory", str(ROOT / "docs"))
    program = """
import asyncio, aiohttp

async def main():
    for attempt in range(100):
        try:
            async with aiohttp.ClientSession() as session:
                async with session.get("http://10.9.0.1:8000/index.md") as answer:
                    print(answer.status, (await answer.text())[:1])
                    return
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.1)

asyncio.run(main())
"""
    told = machine.run(sys.executable, "-m", "underlay", "run", "--net", "tap:10.9.0.2/24", "-c", program)
    assert told == "200 #\n"


def test_a_program_that_runs_two_loops_has_one_network(machine: Machine) -> None:
    program = """
import asyncio

async def local(port):
    async def hello(reader, writer):
        writer.write(b"hello")
        writer.close()
    async with await asyncio.start_server(hello, "10.9.0.2", port):
        reader, writer = await asyncio.open_connection("10.9.0.2", port)
        print(await reader.read())
        writer.close()

asyncio.run(local(7000))
asyncio.run(local(7000))
"""
    told = machine.run(sys.executable, "-m", "underlay", "run", "--net", "tun:10.9.0.2/24", "-c", program)
    assert told == "b'hello'\nb'hello'\n"


def test_nothing_is_left_of_the_network_even_after_kill_9(machine: Machine) -> None:
    with machine.serving("tap:10.9.0.2/24,dev=ours0", EXAMPLES / "echo.py", "--host", "10.9.0.2") as child:
        assert "ours0" in machine.namespace.run(_interfaces)
        child.kill()
        child.wait()
    assert machine.namespace.run(_interfaces) == {"lo"}


SLOW = """
import socket, sys, time

with socket.socket() as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.settimeout(20)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    time.sleep(1)
    received = 0
    try:
        while data := sock.recv(65536):
            received += len(data)
    except ConnectionResetError:
        received = -1
    print(received)
"""


@pytest.mark.parametrize("api", ["run --net", "stack_loop"])
def test_what_was_sent_arrives_after_the_program_has_ended(machine: Machine, api: str) -> None:
    program = """
import asyncio

async def main():
    done = asyncio.Event()
    async def give(reader, writer):
        writer.write(b"x" * 100_000)
        writer.close()
        await writer.wait_closed()
        done.set()
    await asyncio.start_server(give, "10.9.0.2", 7000)
    print("listening on it", flush=True)
    await done.wait()

"""
    if api == "stack_loop":
        program = program + "from underlay.loop import stack_loop\n"
        program += (
            "with asyncio.Runner(loop_factory=lambda: stack_loop('tap:10.9.0.2/24')) as runner: runner.run(main())"
        )
        child = machine.start(sys.executable, "-c", program)
    else:
        words = ["--net", "tap:10.9.0.2/24", "-c", program + "asyncio.run(main())"]
        child = machine.start(sys.executable, "-m", "underlay", "run", *words)
    assert child.stdout is not None and child.stdout.readline() == "listening on it\n"
    assert machine.run(sys.executable, "-c", SLOW, "10.9.0.2", "7000") == "100000\n"
    assert child.wait(PATIENCE_S) == 0


def test_a_program_survives_the_loss_of_its_device(machine: Machine) -> None:
    program = """
import asyncio, socket

async def main():
    server = await asyncio.start_server(lambda reader, writer: None, "10.9.0.2", 7000)
    print("listening on it", flush=True)
    loop = asyncio.get_running_loop()
    while not loop._bridge.lost_devices:
        await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(0.2):
            await asyncio.open_connection("10.9.0.1", 1)
    except (OSError, TimeoutError) as error:
        print("timers go on, connections do not")

asyncio.run(main())
"""
    with machine.serving("tap:10.9.0.2/24,dev=ours0", "-c", program) as child:

        def delete() -> None:
            with Rtnetlink() as kernel:
                kernel.delete_link(kernel.link("ours0").index)

        machine.namespace.run(delete)
        assert child.stdout is not None and child.stdout.readline() == "timers go on, connections do not\n"
        assert child.wait(PATIENCE_S) == 0
        assert child.stderr is not None and "ours0 of the user-space network is gone" in child.stderr.readline()


def _interfaces() -> set[str]:
    import socket

    return {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        ("tap:10.9.0.2", "the address '10.9.0.2' has no prefix; say how long it is, as in 10.9.0.2/24"),
        ("tap:10.9.0.2/24,gw=10.8.0.1", "the gateway 10.8.0.1 is not in 10.9.0.0/24"),
        ("tap:10.9.0.2/24,dev=a-name-that-is-too-long", "a-name-that-is-too-long"),
        ("tap:10.9.0.2/24,dev=lo", "the interface lo is neither a TUN nor a TAP device; choose the name of a TAP"),
        ("tap:10.9.0.2/24,dev=tap%d", "'tap%d' is no name for an interface"),
        ("tap:10.9.0.2/24,dev=a/b", "'a/b' is no name for an interface"),
        ("tap:10.9.0.2/24,dev=..", "'..' is no name for an interface"),
        ("tap:10.9.0.2/32", "10.9.0.2/32 leaves no address for the kernel"),
        ("lo,mtu=1400", "the network lo has no further words"),
        (" tap:10.9.0.2/24", "has a space in it"),
        ("wifi:10.9.0.2/24", "there is no kind of network 'wifi'"),
    ],
)
def test_a_network_that_cannot_be_is_one_sentence_and_status_2(machine: Machine, net: str, sentence: str) -> None:
    child = machine.start(sys.executable, "-m", "underlay", "run", "--net", net, "-c", "print('ran')")
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 2 and output == ""
    assert errors.startswith("underlay: ") and errors.count("\n") == 1 and sentence in errors
    assert machine.namespace.run(_interfaces) == {"lo"}


# --- a device that stands already ---------------------------------------------------------------------------------


def _standing(machine: Machine, name: str = "mine0", *, kind: str = "tap", address: str = "10.9.0.1/24") -> None:
    """Make a device as a person does, up and with an address."""
    ip = needs_program("ip")
    machine.run(ip, "tuntap", "add", "dev", name, "mode", kind)
    machine.run(ip, "address", "add", address, "dev", name)
    machine.run(ip, "link", "set", name, "mtu", "1400", "up")
    _state(machine, lambda state: "NO-CARRIER" in state[0])


def _state(machine: Machine, until: Callable[[tuple[str, str]], bool] = lambda state: True) -> tuple[str, str]:
    """All that `ip` shows, once it is as wanted: the kernel tells of a lost carrier within a second."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        state = machine.run("ip", "-j", "-d", "address"), machine.run("ip", "-j", "route", "show", "table", "all")
        if until(state) or time.monotonic() > end_s:
            return state
        time.sleep(0.05)


def _refused(machine: Machine, net: str) -> str:
    child = machine.start(sys.executable, "-m", "underlay", "run", "--net", net, "-c", "print('ran')")
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output, errors.count("\n")) == (2, "", 1), errors
    return errors.removeprefix("underlay: ").rstrip("\n")


@pytest.mark.parametrize("end", ["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_a_standing_device_is_used_and_left_exactly_as_it_was(machine: Machine, kind: str, end: str) -> None:
    _standing(machine, kind=kind)
    # The kernel makes itself an address of IPv6 some time after; and a first program turns offload on, once.
    machine.run("ip", "link", "set", "mine0", "addrgenmode", "none")
    machine.run("ip", "-6", "address", "flush", "dev", "mine0")
    with machine.serving(f"{kind}:10.9.0.2/24,dev=mine0", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        pass
    before = _state(machine, lambda state: "NO-CARRIER" in state[0])
    net = f"{kind}:10.9.0.2/24,dev=mine0,mtu=1400"
    with machine.serving(net, EXAMPLES / "echo.py", "--host", "10.9.0.2") as child:
        assert " 0% packet loss" in machine.run("ping", "-c", "2", "-i", "0.02", "-s", "3000", "10.9.0.2")
        if end == "SIGKILL":
            child.kill()
            child.wait()
    assert _state(machine, lambda state: state == before) == before


def test_a_standing_device_keeps_its_addresses_and_its_mtu(machine: Machine) -> None:
    _standing(machine, address="10.7.0.1/24")
    program = "import asyncio\nasync def main(): print(asyncio.get_running_loop()._bridge.devices[1].mtu_bytes)\n"
    words = ["--net", "tap:10.9.0.2/24,dev=mine0", "-c", program + "asyncio.run(main())"]
    assert machine.run(sys.executable, "-m", "underlay", "run", *words) == "1400\n"
    (device,) = json.loads(machine.run("ip", "-j", "-4", "address", "show", "dev", "mine0"))
    assert [(each["local"], each["prefixlen"]) for each in device["addr_info"]] == [("10.7.0.1", 24)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "10.9.0.2/24,dev=mine0,mtu=1500",
            "the device mine0 has an MTU of 1400 bytes, and mtu= says 1500; leave mtu= out, or `ip link set mine0 mtu"
            " 1500`",
        ),
        (
            "10.9.0.1/24,dev=mine0",
            "10.9.0.1 is this machine's own, on mine0: it would answer itself; choose another address for the stack, as"
            " 10.9.0.3/24",
        ),
        (
            "10.9.0.2/24,dev=mine0,peer=10.9.0.9/24",
            "the device mine0 stands already, without the address 10.9.0.9/24 of peer=; leave peer= out, or `ip address"
            " add 10.9.0.9/24 dev mine0`",
        ),
        (
            "10.9.0.2/24",
            "this machine reaches 10.9.0.0/24 by mine0, and would look for 10.9.0.2 there; say dev=mine0 to run on that"
            " device, or choose another prefix",
        ),
        ("10.9.0.2/24,dev=new0", "say dev=mine0 to run on that device"),
        ("10.9.0.2/16", "say dev=mine0 to run on that device"),
    ],
)
def test_what_would_change_a_standing_device_or_never_reach_the_stack_is_refused(
    machine: Machine, words: str, sentence: str
) -> None:
    _standing(machine)
    before = machine.run("ip", "-j", "-4", "address")
    assert sentence in _refused(machine, f"tap:{words}")
    assert machine.run("ip", "-j", "-4", "address") == before


def test_a_longer_prefix_than_that_of_a_standing_device_is_its_own(machine: Machine) -> None:
    _standing(machine, address="10.9.0.1/16")
    with machine.serving("tap:10.9.8.2/24", EXAMPLES / "echo.py", "--host", "10.9.8.2"):
        machine.run("ping", "-c", "1", "10.9.8.2")


def test_a_standing_device_that_cannot_be_used_is_told_why(machine: Machine) -> None:
    _standing(machine)
    assert _refused(machine, "tun:10.9.0.2/24,dev=mine0") == "mine0 is a TAP device; say tap: in the place of tun:"
    assert "choose another prefix" in _refused(machine, "tun:10.9.0.2/24")
    with machine.serving("tap:10.9.0.2/24,dev=mine0", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        assert "mine0 is in use by another program" in _refused(machine, "tap:10.9.0.3/24,dev=mine0")
        said = _refused(machine, "tap:10.9.0.3/24")
        assert said.endswith("would look for 10.9.0.3 there; choose another prefix")
    machine.run("ip", "link", "set", "mine0", "down")
    said = _refused(machine, "tap:10.9.0.2/24,dev=mine0")
    assert said == "the device mine0 is down; `ip link set mine0 up` brings it up"
    machine.run("ip", "link", "set", "mine0", "mtu", "1000", "up")
    said = _refused(machine, "tap:10.9.0.2/24,ip=fd00:9::2/64,dev=mine0")
    assert "the device mine0 has an MTU of 1000 bytes, and IPv6 needs 1280" in said
    machine.run("ip", "tuntap", "add", "dev", "many0", "mode", "tap", "multi_queue")
    machine.run("ip", "link", "set", "many0", "up")
    assert "many queues, and a program here takes one" in _refused(machine, "tap:10.8.0.2/24,dev=many0")


# --- captures -------------------------------------------------------------------------------------------------------


@on_both_kinds
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_capture_is_whole_however_the_program_ends(machine: Machine, kind: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "out.pcapng"
    file.write_bytes(b"what was there before")
    with machine.serving(
        f"{kind}:10.9.0.2/24,dev=ours0", EXAMPLES / "echo.py", "--host", "10.9.0.2", capture=file
    ) as child:
        machine.run("ping", "-c", "3", "-i", "0.02", "10.9.0.2")
        child.send_signal(signal.Signals[end])
        child.wait(PATIENCE_S)
    (link,), frames = read_pcapng(file)
    assert (link.name, link.is_ethernet) == ("ours0", kind == "tap")
    assert link.seen == (None if end == "SIGKILL" else len(frames))
    told = machine.run("tshark", "-r", file, "-Y", "icmp", "-T", "fields", "-e", "icmp.type")
    assert told.split()[:5] == ["8", "0", "8", "0", "8"]  # ping had the last answer before the file did


def test_a_capture_is_whole_after_an_exception_and_has_the_end_of_what_was_sent(
    machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "out.pcapng"
    program = """
import asyncio

async def main():
    served = asyncio.Event()
    async def give(reader, writer):
        writer.write(b"x" * 100_000)
        writer.close()
        served.set()
    await asyncio.start_server(give, "10.9.0.2", 7000)
    print("listening on it", flush=True)
    await served.wait()
    await asyncio.sleep(0.1)
    raise LookupError

asyncio.run(main())
"""
    words = ["--net", "tap:10.9.0.2/24", "--capture", str(file), "-c", program]
    child = machine.start(sys.executable, "-m", "underlay", "run", *words)
    assert child.stdout is not None and child.stdout.readline() == "listening on it\n"
    assert machine.run(sys.executable, "-c", SLOW, "10.9.0.2", "7000") == "100000\n"
    assert child.wait(PATIENCE_S) == 1
    (link,), frames = read_pcapng(file)
    assert (link.seen, link.unwritten) == (len(frames), 0)
    assert any(frame.comment.startswith("super-frame: segments of ") for frame in frames)
    told = machine.run("tshark", "-r", file, "-Y", "tcp.flags.fin == 1", "-T", "fields", "-e", "ip.src")
    assert set(told.split()) == {"10.9.0.1", "10.9.0.2"}


def test_a_capture_that_cannot_be_is_one_sentence_and_loses_no_file(machine: Machine, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("precious")

    def refused(net: str, file: Path) -> str:
        words = ["--net", net, "--capture", str(file), "-c", "print('ran')"]
        child = machine.start(sys.executable, "-m", "underlay", "run", *words)
        output, errors = child.communicate(timeout=PATIENCE_S)
        assert (child.returncode, output, errors.count("\n")) == (2, "", 1), errors
        return errors

    assert f"the capture {tmp_path} cannot be written: is a directory; name a file in it" in refused(
        "tap:10.9.0.2/24", tmp_path
    )
    assert "no such file or directory; make its directory" in refused("tap:10.9.0.2/24", tmp_path / "none" / "out")
    for file in (old, new):
        assert "neither a TUN nor a TAP" in refused("tap:10.9.0.2/24,dev=lo", file)
    assert old.read_text() == "precious" and not new.exists()
    assert machine.namespace.run(_interfaces) == {"lo"}


def test_a_capture_on_a_full_disk_does_not_stop_the_program(machine: Machine) -> None:
    program = "import asyncio\nasync def main():\n await asyncio.start_server(print, '10.9.0.2', 1); print('ran')\n"
    words = ["--net", "tap:10.9.0.2/24", "--capture", "/dev/full", "-c", program + "asyncio.run(main())"]
    child = machine.start(sys.executable, "-m", "underlay", "run", *words)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output) == (0, "ran\n")
    assert errors == "underlay: the capture /dev/full ends early: No space left on device\n"


def test_two_hosts_may_have_a_prefix_for_themselves(machine: Machine) -> None:
    with machine.serving("tun:10.9.0.0/31,ip=fd00:9::/127", EXAMPLES / "echo.py", "--host", "10.9.0.0"):
        machine.run("ping", "-c", "1", "-W", "5", "10.9.0.0")
        machine.run("ping", "-c", "1", "-W", "5", "fd00:9::")


def test_a_user_without_the_right_is_told_the_remedy(machine: Machine) -> None:
    setpriv = needs_program("setpriv")
    words = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
    # As `underlay run` does: a user who may not read the folders on the way can start no second Python.
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"
    if subprocess.run([setpriv, *words, sys.executable, "-c", again], capture_output=True, check=False).returncode:
        pytest.skip(f"other users may not run {sys.executable}; remedy: a Python outside of root's home")
    child = machine.start(
        setpriv, *words, sys.executable, "-m", "underlay", "run", "--net", "tap:10.9.0.2/24", "-c", "print('ran')"
    )
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output) == (2, "") and errors.count("\n") == 1
    assert "underlay net up" in errors or "CAP_NET_ADMIN" in errors
