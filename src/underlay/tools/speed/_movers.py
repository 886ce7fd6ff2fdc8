"""The threads that move a test's bytes: one for each stream where there are few, else a few for all.

One stream in a thread is moved by calls that block: a call moves 128 KiB and holds no lock of Python's while it does,
so that a stream costs what the kernel's copying costs, and several use several processors. But where hundreds of
threads want to run, the one that looks at the clock hardly does. So with many streams a thread for each processor and
way asks the kernel which of them can be moved, and moves those.

This file knows threads and readiness. It refuses to know what a step moves.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from ...errors import UnderlayError
from ._streams import END_PATIENCE_S, Stream

__all__ = ["close_all", "no_further_thread", "start"]

# Measured on two processors: with 8 threads at each end the reports come when they are due, with 256 they came seconds
# late. Two streams each way on each of them are as many.
_MOST_THREADS: Final = 8
# A sender that has to wait sleeps at most this long before it looks whether the test is over.
_LONGEST_SLEEP_S: Final = 0.1
# Those that move several wait this long for any of them to be ready; a sender's end is not among what they hear of.
_POLL_MS: Final = 20


def start(streams: Sequence[Stream]) -> None:
    """Begin to move the bytes of all streams."""
    if len(streams) <= _MOST_THREADS:
        crews = [[stream] for stream in streams]
    else:
        processors = len(os.sched_getaffinity(0))
        senders = [stream for stream in streams if stream.is_sender]
        receivers = [stream for stream in streams if not stream.is_sender]
        crews = [kind[at::processors] for kind in (senders, receivers) for at in range(processors)]
    for crew in filter(None, crews):
        move = _move_one if len(crew) == 1 else _send_many if crew[0].is_sender else _receive_many
        thread = threading.Thread(target=move, args=(crew,), name=f"speed stream {crew[0].number}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise no_further_thread() from error
        for stream in crew:
            stream.thread = thread


def no_further_thread() -> UnderlayError:
    """Say that this machine, or this user, may have no further thread (``RuntimeError`` of `threading`)."""
    return UnderlayError("no further thread could be started", remedy="raise the limit: `ulimit -u`, or `ulimit -v`")


def close_all(streams: Sequence[Stream]) -> None:
    """End all threads and sockets, whatever they are at."""
    for stream in streams:
        stream.is_stopped = stream.is_cut = True
        try:
            stream.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread
        except OSError:
            pass  # the peer was first
    deadline = time.monotonic() + END_PATIENCE_S
    for stream in streams:
        if stream.thread is not None:
            stream.thread.join(max(0.0, deadline - time.monotonic()))
        stream.sock.close()


def _move_one(crew: Sequence[Stream]) -> None:
    (stream,) = crew
    due_in_s = stream.due_in_s if stream.is_sender and stream.settings.rate_bits_per_s else None
    failure: OSError | None = None
    try:
        step = stream.stepper()
        while not (stream.is_cut or (stream.is_sender and stream.is_stopped)):
            if due_in_s is not None and (wait_s := due_in_s()) > 0:
                time.sleep(min(wait_s, _LONGEST_SLEEP_S))
                continue
            try:
                if not step():
                    break
            except BlockingIOError:  # SO_SNDTIMEO, SO_RCVTIMEO: nothing was moved so long
                if stream.is_stopped:
                    break
    except (OSError, MemoryError) as error:
        failure = _failure(error)
    finally:
        stream.end(failure)


def _send_many(crew: Sequence[Stream]) -> None:
    steps = _steppers(crew)
    writable = select.poll()
    for stream in steps:
        writable.register(stream.sock, select.POLLOUT)
    while steps:
        has_moved, next_s = False, _LONGEST_SLEEP_S
        for stream, step in list(steps.items()):
            if stream.is_stopped:
                _end(steps, stream, writable)
            elif (wait_s := stream.due_in_s()) > 0:
                next_s = min(next_s, wait_s)
            else:
                has_moved |= _step(steps, stream, step, writable)
        if not has_moved and steps:
            # Of those with a rate most are writable, and wait for their turn.
            if crew[0].settings.rate_bits_per_s:
                time.sleep(next_s)
            else:
                writable.poll(_POLL_MS)


def _receive_many(crew: Sequence[Stream]) -> None:
    steps = _steppers(crew)
    readable = select.poll()
    streams = {stream.sock.fileno(): stream for stream in steps}
    for stream in steps:
        readable.register(stream.sock, select.POLLIN)
    while steps:
        for descriptor, _ in readable.poll(_POLL_MS):
            stream = streams[descriptor]
            if (step := steps.get(stream)) is not None:
                _step(steps, stream, step, readable)
        for stream in [stream for stream in steps if stream.is_stopped]:
            # What was shut down is readable without end; what is not, and was stopped, has nothing more.
            if stream.is_cut or (not _step(steps, stream, steps[stream], readable) and stream in steps):
                _end(steps, stream, readable)


def _steppers(crew: Sequence[Stream]) -> dict[Stream, Callable[[], bool]]:
    steps: dict[Stream, Callable[[], bool]] = {}
    for stream in crew:
        stream.sock.setblocking(False)
        try:
            steps[stream] = stream.stepper()
        except (OSError, MemoryError) as error:
            stream.end(_failure(error))
    return steps


def _step(
    steps: dict[Stream, Callable[[], bool]], stream: Stream, step: Callable[[], bool], waits: select.poll
) -> bool:
    """Move one block of one of them, and tell whether that was possible; one that ends is taken out."""
    try:
        if step():
            return True
        _end(steps, stream, waits)
    except BlockingIOError:
        return False
    except (OSError, MemoryError) as error:
        _end(steps, stream, waits, _failure(error))
    return False


def _failure(error: OSError | MemoryError) -> OSError:
    """Give what ended a stream as the kernel would say it: a block may be a mebibyte, and a test has 256."""
    return error if isinstance(error, OSError) else OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _end(
    steps: dict[Stream, Callable[[], bool]], stream: Stream, waits: select.poll, failure: OSError | None = None
) -> None:
    del steps[stream]
    waits.unregister(stream.sock)
    stream.end(failure)
