"""Every example runs unmodified on every model, and a real client can't tell which.

It knows each example's client and how the program must end. How a program is started and watched
stands in _programs.py, what the clients check in _clients.py.
"""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trustme
from tests._background import Command, background

from . import _clients
from ._programs import EXAMPLES, MODELS, PATIENCE_S, Program, command, finish, need, shows_its_model

on_every_model = pytest.mark.parametrize("model", MODELS)

# The client of each example that listens at a host and a port, and nothing else to know.
TCP_EXAMPLES = {
    "echo.py": _clients.tcp,
    "echo_streams.py": _clients.tcp,
    "anyio_echo.py": _clients.tcp,
    "subprocess_cat.py": _clients.tcp,
    "chat.py": _clients.chat,
    "udp_echo.py": _clients.udp,
    "http_aiohttp.py": _clients.http_by_aiohttp,
    "asgi_app.py": _clients.http_by_httpx,
    "tornado_app.py": _clients.http_by_tornado,
    "websocket_echo.py": _clients.websocket,
    "socketio_app.py": _clients.socket_io,
    "iperf3_server.py": _clients.iperf3,
}
# Those that need more, each with a test of its own below.
OTHER_EXAMPLES = {"unix_echo.py", "tls_echo.py", "sleepy.py", "echo_client.py", "primes.py"}


def journey(
    model: str,
    program: Program,
    client: AbstractAsyncContextManager[None],
    number: signal.Signals = signal.SIGTERM,
) -> None:
    """Let the client try the program, then stop the program under it."""

    async def travel() -> None:
        async with asyncio.timeout(PATIENCE_S), client:
            shows_its_model(model, program)
            await asyncio.to_thread(program.stop, number)

    asyncio.run(travel())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 with its key in one file, and the authority to trust."""
    directory = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    chain, trust = directory / "chain.pem", directory / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    authority.cert_pem.write_to_path(trust)
    return chain, trust


def test_no_example_imports_underlay() -> None:
    for script in EXAMPLES.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert not [name for name in names if name.split(".")[0] == "underlay"], script


def test_every_example_has_a_journey() -> None:
    assert {script.name for script in EXAMPLES.glob("*.py")} == {*TCP_EXAMPLES, *OTHER_EXAMPLES}


@on_every_model
@pytest.mark.parametrize("example", TCP_EXAMPLES)
def test_a_real_client_is_served_and_the_end_is_clean(example: str, model: str) -> None:
    need(model)
    client: Callable[[tuple[str, int]], AbstractAsyncContextManager[None]] = TCP_EXAMPLES[example]
    with Program(model, EXAMPLES / example) as program:
        journey(model, program, client(program.place))


@on_every_model
def test_a_unix_socket_is_served_and_its_file_goes(model: str, tmp_path: Path) -> None:
    need(model)
    path = tmp_path / "echo.sock"
    with Program(model, EXAMPLES / "unix_echo.py", "--path", path) as program:
        assert program.address == str(path)
        journey(model, program, _clients.unix(program.address))
    assert not path.exists()


@on_every_model
def test_tls_is_served_to_those_who_trust_it(model: str, certificate: tuple[Path, Path]) -> None:
    need(model)
    chain, trust = certificate
    with Program(model, EXAMPLES / "tls_echo.py", "--cert", chain) as program:
        journey(model, program, _clients.tls(program.place, str(trust)))


def test_tls_echo_makes_a_certificate_of_its_own_and_takes_it_away() -> None:
    with Program("standard", EXAMPLES / "tls_echo.py") as program:
        trust = Path(program.line("trust "))
        assert ssl.create_default_context(cafile=trust).get_ca_certs()
        journey("standard", program, _clients.tls(program.place, str(trust)))
    assert not trust.parent.exists()


def test_tls_echo_without_trustme_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ImportError('as if it were not installed')")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "tls_echo.py"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "pip install '.[examples]'" in done.stderr


@on_every_model
def test_a_reset_right_behind_a_request_is_told_after_it(model: str) -> None:
    need(model)
    with Program(model, EXAMPLES / "http_aiohttp.py") as program:
        asyncio.run(_clients.ask(program.place))
        with program.stopped():  # so that it finds both at once
            asyncio.run(_clients.break_off_a_request(program.place))
        asyncio.run(_clients.ask(program.place))
        program.stop(signal.SIGTERM)  # aiohttp reports a body that it was asked for when all was over


@on_every_model
def test_control_c_ends_a_program_as_cleanly_as_a_termination(model: str) -> None:
    need(model)
    with Program(model, EXAMPLES / "echo_streams.py") as program:
        journey(model, program, _clients.tcp(program.place), signal.SIGINT)


def sleepy(model: str) -> Command:
    return Command(command(model, EXAMPLES / "sleepy.py", "--clients", "3"))


@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=pytest.mark.background(f"sleepy-{model}", sleepy(model))) for model in MODELS],
)
def test_a_loop_that_sleeps_serves_all_and_one_that_blocks_serves_one(model: str) -> None:
    need(model)
    done = background().result(f"sleepy-{model}")
    assert (done.returncode, done.stderr) == (0, "")
    together = {line.split()[0]: line.split(", ")[1] for line in done.stdout.splitlines()}
    assert together == {
        "await": "3 asleep at once",
        "block": "1 asleep at once",
        "thread": "3 asleep at once",
    }


@on_every_model
def test_primes_are_counted_in_threads_or_in_processes(model: str) -> None:
    need(model)
    words: list[str | Path] = [EXAMPLES / "primes.py", "--limit", "1000", "--parts", "3"]
    assert finish(model, words) == "168 primes below 1000, counted here\n"
    if model != "standard":
        pytest.importorskip("cloudpickle", reason="not installed; remedy: pip install 'underlay[workers]'")
        said = finish(model, ["--executor", "process", *words])
        assert said == "168 primes below 1000, counted elsewhere\n"


@on_every_model
def test_a_client_program_runs_on_every_model(model: str) -> None:
    need(model)
    script = EXAMPLES / "echo_client.py"
    options = ["--connections", "5", "--messages", "20", "--size", "65536"]
    with Program("standard", EXAMPLES / "echo.py") as server:
        said = finish(model, [script, server.address, *options])
        server.stop(signal.SIGTERM)
    assert said == "5 of 5 connections: 20 messages of 65536 bytes came back\n"
