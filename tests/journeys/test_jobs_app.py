"""The journey of a client of `examples/workers/jobs_app.py`: a receipt, events, a connection that breaks, a result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ._programs import EXAMPLES, ROOT, Program

PATIENCE_S = 30
APP = EXAMPLES / "workers" / "jobs_app.py"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs.db"))
    with Program("standard", APP) as program:
        yield program
        program.stop(signal.SIGTERM)


@pytest.fixture
def client(server: Program) -> Iterator[httpx.Client]:
    with talking_to(server) as client:
        yield client


def talking_to(server: Program) -> httpx.Client:
    return httpx.Client(base_url="http://{}:{}".format(*server.place), trust_env=False, timeout=PATIENCE_S)


@contextlib.contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own."""
    command = [sys.executable, "-m", "underlay", "jobs", "work", "examples.workers.jobs_app:jobs", "--workers", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Part a stream into its messages, as the standard of server-sent events says."""
    message: dict[str, str] = {}
    for line in lines:
        if line:
            field, _, value = line.partition(":")
            if field:
                message[field] = value.removeprefix(" ")
        elif message:
            yield message
            message = {}


def submit(client: httpx.Client, task: str, *arguments: object, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/jobs", json={"task": task, "arguments": arguments}, headers=headers)


def test_a_receipt_comes_at_once_and_the_result_as_an_event(client: httpx.Client) -> None:
    said = submit(client, "count_words", "to be or not to be")
    assert said.status_code == 202
    assert said.headers["location"] == "/jobs/1"
    assert client.get("/jobs/1").json() == {"job": 1, "state": "waiting", "begun": 0}
    with client.stream("GET", "/jobs/1/events") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        coming = messages(stream.iter_lines())
        assert next(coming)["event"] == "waiting"
        with worker():  # which begins only now
            told = list(coming)
    assert [message["event"] for message in told] == ["running", "done"]
    counts = {"to": 2, "be": 2, "or": 1, "not": 1}
    assert json.loads(told[-1]["data"])["result"] == counts
    assert client.get("/jobs/1").json()["result"] == counts


def test_a_client_that_lost_its_connection_goes_on_after_the_last_event_it_saw(client: httpx.Client) -> None:
    submit(client, "count_words", "a b c", 0.1)
    with client.stream("GET", "/jobs/1/events") as stream:
        first = next(messages(stream.iter_lines()))
    with worker(), client.stream("GET", "/jobs/1/events", headers={"Last-Event-ID": first["id"]}) as stream:
        told = list(messages(stream.iter_lines()))
    assert [message["event"] for message in told] == ["running", "done"]
    # No event has so high a number, and the job has ended: nothing is to come.
    far = client.get("/jobs/1/events", headers={"Last-Event-ID": str(10**30)})
    assert (far.status_code, far.content) == (204, b"")
    # A browser comes again after the end as well, until it is told that there is nothing more.
    again = client.get("/jobs/1/events", headers={"Last-Event-ID": told[-1]["id"]})
    assert (again.status_code, again.content) == (204, b"")
    whole = list(messages(iter(client.get("/jobs/1/events").text.splitlines())))
    assert whole == [first, *told]


def test_a_job_that_fails_is_told_with_its_tries(client: httpx.Client) -> None:
    submit(client, "divide", 1, 0)
    with worker(), client.stream("GET", "/jobs/1/events") as stream:
        told = [json.loads(message["data"]) for message in messages(stream.iter_lines())]
    assert [each["event"] for each in told] == ["submitted", "claimed", "failed", "claimed", "gave up"]
    assert told[-1]["error"] == "ZeroDivisionError: division by zero"


def test_a_request_that_is_repeated_is_one_job(client: httpx.Client) -> None:
    first = submit(client, "count_words", "a", key="one")
    assert submit(client, "count_words", "a", key="one").json() == first.json()
    assert submit(client, "count_words", "b", key="one").status_code == 422
    assert client.delete("/jobs/1").json()["state"] == "cancelled"
    assert client.delete("/jobs/1").status_code == 409


def test_mistakes_are_told_by_their_status(client: httpx.Client) -> None:
    assert submit(client, "nothing").status_code == 400
    assert client.post("/jobs", content=b"{").status_code == 400
    assert client.post("/jobs", content=b'{"task": 1}').status_code == 400
    assert client.post("/jobs", content=b"x" * (2 << 20)).status_code == 400
    assert client.get("/jobs/7").status_code == 404
    assert client.get("/jobs/seven").status_code == 400
    assert client.get(f"/jobs/{10**30}").status_code == 400
    assert client.get("/jobs/7/events").status_code == 404
    assert client.get("/").status_code == 404


def test_a_receipt_outlives_the_server_and_its_killed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs.db"))
    with Program("standard", APP) as program, talking_to(program) as client:
        assert submit(client, "count_words", "a b", 0.5).status_code == 202
        with worker() as process, client.stream("GET", "/jobs/1/events") as stream:
            for message in messages(stream.iter_lines()):
                if message["event"] == "running":
                    break
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            program.process.kill()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
    with Program("standard", APP, "--work") as program:
        with talking_to(program) as client, client.stream("GET", "/jobs/1/events") as stream:
            told = list(messages(stream.iter_lines()))
        program.stop(signal.SIGTERM)
    assert json.loads(told[-1]["data"])["result"] == {"a": 1, "b": 1}


def test_a_client_that_leaves_ends_its_stream(server: Program, client: httpx.Client) -> None:
    submit(client, "count_words", "a")
    for _ in range(20):
        with client.stream("GET", "/jobs/1/events") as stream:
            next(messages(stream.iter_lines()))
    assert client.get("/jobs/1").json()["state"] == "waiting"
