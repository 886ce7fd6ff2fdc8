"""Sockets and verdicts as JSON: the schema ``underlay.ports/1``, which docs/ports.md documents.

This file knows keys. It refuses to print.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ._owners import user_name
from ._socket import Socket

if TYPE_CHECKING:
    from ._watch import Change
    from ._why import Verdict

__all__ = ["SCHEMA", "change_record", "count_records", "list_as_json", "socket_record", "verdict_record"]

SCHEMA: Final = "underlay.ports/1"

Record = dict[str, object]


def socket_record(sock: Socket) -> Record:
    """One socket."""
    return {
        "protocol": sock.protocol,
        "family": sock.family,
        "kind": sock.kind,
        "state": sock.state.value,
        "local_address": sock.local_address,
        "local_port": sock.local_port,
        "peer_address": sock.peer_address,
        "peer_port": sock.peer_port,
        "receive_queue": sock.receive_queue,
        "send_queue": sock.send_queue,
        "timer": sock.timer,
        "timer_ms": sock.timer_ms,
        "timer_retries": sock.timer_retries,
        "uid": sock.uid,
        "user": None if sock.uid is None else user_name(sock.uid),
        "inode": sock.inode,
        "cookie": sock.cookie,
        "interface": sock.interface,
        "v6_only": sock.v6_only,
        "peer_inode": sock.peer_inode,
        "owners": [{**owner._asdict(), "user": user_name(owner.uid)} for owner in sock.owners],
        "tcp_info": None if sock.tcp_info is None else sock.tcp_info._asdict(),
    }


def list_as_json(head: Record, name: str, records: Iterable[Record]) -> str:
    """One object, in which the last key is a list with a line for each record.

    So a line can be searched for, and the encoder that is compiled does it: `json` indents without it, in thrice the
    time.

    >>> print(list_as_json({"schema": SCHEMA}, "counts", [{"count": 1}, {"count": 2}]))
    {
      "schema": "underlay.ports/1",
      "counts": [
        {"count": 1},
        {"count": 2}
      ]
    }
    """
    lines = [f"    {json.dumps(record)}" for record in records]
    begun = json.dumps(head, indent=2).removesuffix("\n}")
    text = "[\n{}\n  ]".format(",\n".join(lines)) if lines else "[]"
    return f'{begun},\n  "{name}": {text}\n}}'


def count_records(sockets: Iterable[Socket]) -> list[Record]:
    """How many there are of each protocol, IP version and state."""
    counts = Counter((sock.protocol, sock.family, sock.state.value) for sock in sockets)
    return [
        {"protocol": protocol, "family": family, "state": state, "count": count}
        for (protocol, family, state), count in sorted(counts.items())
    ]


def change_record(change: Change) -> Record:
    """One change of a watch."""
    sock, by = socket_record(change.socket), change.connected_by
    if change.kind == "passed":
        sock["state"] = None  # nobody saw any
    return {
        "schema": SCHEMA,
        "change": change.kind,
        "time_s": round(change.time_s, 6),
        "before": None if change.before is None else change.before.value,
        "connected_by": None if by is None else {**by._asdict(), "user": user_name(by.uid)},
        "socket": sock,
    }


def verdict_record(verdict: Verdict) -> Record:
    """Why an address cannot be bound, or that it can."""
    return {
        "schema": SCHEMA,
        "protocol": verdict.protocol,
        "host": verdict.host,
        "port": verdict.port,
        "free": verdict.is_free,
        "attempts": [
            {
                "address": attempt.want.address,
                "family": attempt.want.family,
                "v6_only": attempt.want.v6_only,
                "free": attempt.is_free,
                "errno": _name(attempt.trial.plain),
                "errno_with_reuse_address": _name(attempt.trial.reuse_address),
                "errno_with_reuse_port": _name(attempt.trial.reuse_port),
                "causes": [
                    {
                        "obstacle": cause.obstacle.name.lower().replace("_", "-"),
                        "sockets": [socket_record(sock) for sock in cause.sockets],
                    }
                    for cause in attempt.causes
                ],
            }
            for attempt in verdict.attempts
        ],
        "sentences": verdict.sentences,
    }


def _name(number: int) -> str | None:
    return None if number == 0 else errno.errorcode.get(number, str(number))
