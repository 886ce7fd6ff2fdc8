"""`underlay run --net`: programs that never heard of underlay, on a stack of their own, and the Linux kernel at the
other end of the cable, with the clients that people have: ping, curl, iperf3, Python's own.

Each test has a network namespace of its own, so that addresses are nobody else's and nothing is left. It knows what
a user sees. What the stack does inside is in tests/stack.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from underlay.link import Rtnetlink

from .._kernel import DEVICE, needs_program
from ._machine import EXAMPLES, NEEDS_A_KERNEL, PATIENCE_S, ROOT, SLOW, Machine, interfaces, on_both_kinds

pytestmark = NEEDS_A_KERNEL

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


BOTH_FAMILIES = "10.9.0.2/24,ip=fd00:9::2/64"


@on_both_kinds
@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
@pytest.mark.parametrize("size_bytes", [56, 1452, 9000])
def test_ping_is_answered_also_in_fragments(machine: Machine, kind: str, host: str, size_bytes: int) -> None:
    with machine.serving(f"{kind}:{BOTH_FAMILIES}", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        # Until five are answered: without -w it waits for the last no longer than twice what another took.
        told = machine.run("ping", "-c", "5", "-i", "0.02", "-w", "10", "-s", str(size_bytes), host)
    assert " 5 received, " in told


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
        assert "ours0" in machine.namespace.run(interfaces)
        child.kill()
        child.wait()
    assert machine.namespace.run(interfaces) == {"lo"}


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
        ("lo,mtu=1400", "takes no other words"),
        (" tap:10.9.0.2/24", "has a space in it"),
        ("wifi:10.9.0.2/24", "there is no kind of network 'wifi'"),
    ],
)
def test_a_network_that_cannot_be_is_one_sentence_and_status_2(machine: Machine, net: str, sentence: str) -> None:
    child = machine.start(sys.executable, "-m", "underlay", "run", "--net", net, "-c", "print('ran')")
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 2 and output == ""
    assert errors.startswith("underlay: ") and errors.count("\n") == 1 and sentence in errors
    assert machine.namespace.run(interfaces) == {"lo"}


def _as_nobody(machine: Machine, scratch: Path, device_mode: str, *argv: str) -> subprocess.Popen[str]:
    """Start a program as a user without rights, to whom /dev/net/tun has this mode, in a mount namespace of its own.

    Where Python or the repository lie in a folder that others may not enter, as root's home, a folder stands in its
    place there that holds nothing else.
    """
    needed = {sys.base_prefix, sys.prefix, str(ROOT)}
    closed = {
        str(next((up for up in reversed(Path(path).parents) if not up.stat().st_mode & 0o001), "")) for path in needed
    }
    hidden = [path for path in needed if any(up and path.startswith(up) for up in closed)]
    kept = {path: scratch / str(number) for number, path in enumerate(hidden)}
    lines = ["set -e", "mount --make-rprivate /", f"mount -t tmpfs none '{scratch}'"]
    lines += [f"mkdir '{place}'; mount --bind '{path}' '{place}'" for path, place in kept.items()]
    lines += [f"mknod -m {device_mode} '{scratch}/tun' c 10 200; mount --bind '{scratch}/tun' {DEVICE}"]
    lines += [f"mount -t tmpfs -o mode=755 none '{up}'" for up in closed if up]
    lines += [f"mkdir -p '{path}'; mount --bind '{place}' '{path}'" for path, place in kept.items()]
    lines += ["cd /", 'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"']
    needs_program("setpriv")
    environment = [needs_program("env"), f"PYTHONPATH={ROOT / 'src'}"]
    alone = [needs_program("unshare"), "-m", needs_program("sh"), "-c"]
    trial = machine.start(*alone, lines[1])
    if trial.wait(PATIENCE_S):
        pytest.skip("no mount namespace may be made here; remedy: run with CAP_SYS_ADMIN")
    return machine.start(*alone, "\n".join(lines), "sh", *environment, *argv)


@pytest.mark.parametrize(
    ("device_mode", "words", "sentence"),
    [
        ("600", "", "this user may not open /dev/net/tun; as root: `chmod 666 /dev/net/tun`"),
        ("666", "", "it takes CAP_NET_ADMIN; become root, or let root make a device for you with `underlay net up"),
        ("666", ",dev=theirs0", "no permission to make or use the TAP device theirs0: it takes CAP_NET_ADMIN"),
    ],
)
def test_a_user_without_the_right_is_told_the_remedy(
    machine: Machine, tmp_path: Path, device_mode: str, words: str, sentence: str
) -> None:
    machine.run("ip", "tuntap", "add", "dev", "theirs0", "mode", "tap", "user", "1")
    machine.run("ip", "link", "set", "theirs0", "up")
    program = [sys.executable, "-m", "underlay", "run", "--net"]
    child = _as_nobody(machine, tmp_path, device_mode, *program, f"tap:10.9.0.2/24{words}", "-c", "print('ran')")
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output) == (2, "") and errors.count("\n") == 1, errors
    assert sentence in errors


def test_a_user_without_the_right_runs_on_a_device_that_is_theirs(machine: Machine, tmp_path: Path) -> None:
    machine.run("ip", "tuntap", "add", "dev", "ours0", "mode", "tap", "user", "65534")
    machine.run("ip", "link", "set", "ours0", "up")
    words = ["run", "--net", "tap:10.9.0.2/24,dev=ours0", "-c", "import asyncio, os; asyncio.run(asyncio.sleep(0));"]
    words[-1] += "print(os.getuid())"
    child = _as_nobody(machine, tmp_path, "666", sys.executable, "-m", "underlay", *words)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output, errors) == (0, "65534\n", "")
