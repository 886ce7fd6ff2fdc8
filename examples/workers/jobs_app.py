"""Work that takes longer than a request: `POST /jobs` gets a receipt at once, and the result comes as an event.

An ASGI application on uvicorn, with the jobs of `underlay.workers`. In one terminal the application, in another one
the workers, which may be killed at any time:

    python examples/workers/jobs_app.py --port 8000
    underlay jobs work examples.workers.jobs_app:jobs --workers 2

    curl -i localhost:8000/jobs -d '{"task": "count_words", "arguments": ["to be or not to be"]}'
    curl -N localhost:8000/jobs/1/events

| request | answer |
|---|---|
| `POST /jobs`, with `Idempotency-Key` if wished | 202, `Location: /jobs/1`, the receipt |
| `GET /jobs/1` | how it stands; its result or its error when there is one |
| `GET /jobs/1/events`, with `Last-Event-ID` if wished | server-sent events, until the job has ended |
| `DELETE /jobs/1` | takes it back if it waits |
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections import Counter
from typing import Any

import uvicorn

from underlay import workers
from underlay.errors import UnderlayError, UsageError

jobs = workers.Jobs(os.environ.get("JOBS", "jobs.db"))

# A request is refused before it is read whole; the jobs' own limit is as large.
MOST_BYTES = 1 << 20
# Proxies close what is silent for a minute; the standard advises a comment every 15 seconds
# (html.spec.whatwg.org/multipage/server-sent-events.html, "Authoring notes").
SILENCE_S = 15


@jobs.task
def count_words(text: str, each_s: float = 0.0) -> dict[str, int]:
    """Count words, slowly if wished."""
    counts: Counter[str] = Counter()
    for word in text.split():
        time.sleep(min(each_s, 1))
        counts[word] += 1
    return dict(counts)


@jobs.task(retries=1, backoff=workers.Backoff(first_s=0.1))
def divide(a: float, b: float) -> float:
    """Divide, and fail where that cannot be."""
    return a / b


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        raise NotImplementedError(f"this application speaks http, not {scope['type']}")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    try:
        match scope["method"], *scope["path"].strip("/").split("/"):
            case "POST", "jobs":
                await submit(await body(receive), headers, send)
            case "GET", "jobs", number:
                await answer(send, 200, await standing(number))
            case "GET", "jobs", number, "events":
                await events(number, headers, receive, send)
            case "DELETE", "jobs", number:
                taken = await (await jobs.aio.receipt(whole(number))).aio.cancel()
                await answer(send, 200 if taken else 409, await standing(number))
            case _:
                await answer(send, 404, {"error": "there is only /jobs here"})
    except UnderlayError as error:
        status, more = status_of(error)
        await answer(send, status, {"error": error.what}, more)


def status_of(error: UnderlayError) -> tuple[int, dict[str, str]]:
    """What the errors of jobs are in HTTP."""
    match error:
        case workers.NoSuchJob():
            return 404, {}
        case workers.KeyConflict():
            return 422, {}  # as draft-ietf-httpapi-idempotency-key-header says
        case UsageError():
            return 400, {}
        case _:  # the disk or the queue is full, or the database is locked
            return 503, {"retry-after": "5"}


async def submit(data: bytes, headers: dict[str, str], send: Any) -> None:
    """Keep a job and give its receipt."""
    try:
        wanted = json.loads(data)
        task, arguments = wanted["task"], wanted.get("arguments", [])
        if not isinstance(task, str) or not isinstance(arguments, list):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError('send {"task": NAME, "arguments": [...]}') from None
    receipt = await jobs.aio.submit(task, *arguments, key=headers.get("idempotency-key"))
    told = {"job": receipt.id, "events": f"/jobs/{receipt.id}/events"}
    await answer(send, 202, told, {"location": f"/jobs/{receipt.id}"})


async def standing(number: str) -> dict[str, object]:
    """How a job stands, with its result or error."""
    receipt = await jobs.aio.receipt(whole(number))
    job = await receipt.aio.job()
    told: dict[str, object] = {"job": job.id, "state": job.state, "begun": job.claims}
    if job.state is workers.JobState.DONE:
        told["result"] = await receipt.aio.result()
    elif job.error is not None:
        told["error"] = str(job.error)
    return told


async def events(number: str, headers: dict[str, str], receive: Any, send: Any) -> None:
    """Tell what happens to a job, from after the last event that the client saw."""
    receipt = await jobs.aio.receipt(whole(number))
    last = headers.get("last-event-id", "")
    stream = receipt.aio.events(after=int(last) if last.isdecimal() else 0)
    coming = asyncio.ensure_future(anext(stream, None))
    gone = asyncio.ensure_future(disconnected(receive))
    begun = False
    try:
        while True:
            await asyncio.wait({coming, gone}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            event = coming.result() if coming.done() else None
            if coming.done() and event is None and not begun:
                # A client that comes again after the end is told to stop: it would come for ever (the same standard).
                await answer(send, 204, None)
                return
            if not begun:
                begun = True
                kind = {"content-type": "text/event-stream", "cache-control": "no-store"}
                await send({"type": "http.response.start", "status": 200, "headers": encoded(kind)})
            if event is not None:
                told: dict[str, object] = {"event": event.event, "state": event.state, "detail": event.detail}
                if event.state.is_final:
                    told |= await standing(number)
                text = f"id: {event.id}\nevent: {event.state}\ndata: {json.dumps(told)}\n\n"
                coming = asyncio.ensure_future(anext(stream, None))
            elif coming.done():
                await send({"type": "http.response.body", "body": b""})
                return
            else:
                text = ": still here\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    finally:
        for task in (coming, gone):
            task.cancel()
        await asyncio.wait({coming, gone})


async def disconnected(receive: Any) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def body(receive: Any) -> bytes:
    """Read a request's body, up to the limit."""
    data = b""
    more = True
    while more:
        message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
        if len(data) > MOST_BYTES:
            raise UsageError(f"a request has at most {MOST_BYTES} bytes")
    return data


def whole(number: str) -> int:
    """A job's number; SQLite's integers have 63 bits, and no job has so high a number."""
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise UsageError("a job has a number")
    return int(number)


async def answer(send: Any, status: int, told: object, more: dict[str, str] | None = None) -> None:
    """Send an answer in JSON, or without content."""
    data = b"" if told is None else json.dumps(told).encode() + b"\n"
    headers = {**(more or {}), **({} if told is None else {"content-type": "application/json"})}
    await send({"type": "http.response.start", "status": status, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": data})


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]


class Server(uvicorn.Server):
    """uvicorn, saying where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        address = self.servers[0].sockets[0].getsockname()
        print("listening on {}:{}".format(*address), flush=True)


async def serve(host: str, port: int) -> None:
    """Run uvicorn until a signal says stop."""
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, setattr, server, "should_exit", True)
    await server.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="jobs over HTTP: a receipt at once, the result as an event")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--work", action="store_true", help="run jobs in this process too, in a thread")
    options = parser.parse_args()
    with jobs, jobs.working(drain_s=1) if options.work else contextlib.nullcontext():
        asyncio.run(serve(options.host, options.port))
