"""The tests that a subject need not pass, each by name and with the reason.

It knows names and reasons only. The suite runs these tests all the same and fails when one
passes, or when its name is no test of this interpreter: so the table can only be true.
`since` and `until` bound the Python versions that have the test and fail it; `by_chance`
marks what now fails and now passes, where that is the model's nature; `came_late` what not every
release of those versions has.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

# The versions that the suite supports; the bounds of an exclusion that gives none.
OLDEST = (3, 11)
NEWEST = (3, 14)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One test, by its id in the runner, that its subject fails for a good reason."""

    test: str
    reason: str
    since: tuple[int, int] = OLDEST
    until: tuple[int, int] = NEWEST
    by_chance: bool = False
    came_late: bool = False

    @property
    def applies(self) -> bool:
        """Whether this interpreter is among the versions meant."""
        return self.since <= sys.version_info[:2] <= self.until


# On a slow machine asyncio has let go of the transport before the test gets there.
_SLOW_SOCKET = Exclusion(
    "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
    "it looks into asyncio's own transport (`_read_ready_cb`), and puts another socket beneath it",
    by_chance=True,
    came_late=True,
)

_SENDFILE = "test_unix_events.SelectorEventLoopUnixSockSendfileTests."

EXCLUSIONS: dict[str, tuple[Exclusion, ...]] = {
    **dict.fromkeys(("select", "poll", "epoll", "epoll_et", "signal", "uring"), (_SLOW_SOCKET,)),
    "nonblocking": (
        _SLOW_SOCKET,
        Exclusion(
            "contract.io_interleaves_with_calls_and_timers_in_the_stock_order",
            "each descriptor is asked by trying its read, one after the other, so that a later "
            "one of the same round already sees what an earlier one's callback wrote; the "
            "order within each connection is the stock one",
        ),
        Exclusion(
            "test_events.SelectEventLoopTests.test_timeout_rounding",
            "it allows 20 turns of the loop for a sleep, and this model goes round and round instead of sleeping",
        ),
    ),
    "blocking": (
        _SLOW_SOCKET,
        *(
            Exclusion(
                f"test_sslproto.SelectorStartTLSTests.test_{way}_failed_certificate_no_cycles",
                "it looks for the transport at once, and a connection's thread may still be leaving, which knows it; "
                "test_transport holds the model to leaving no cycle",
                by_chance=True,
                came_late=True,
            )
            for way in ("create_connection_ssl", "start_tls")
        ),
        Exclusion(
            "test_events.SelectEventLoopTests.test_internal_fds",
            "it reads the private count of the standard loop's self-pipe, and this loop has "
            "no descriptor of its own until a signal handler asks for one",
        ),
        Exclusion(
            "contract.io_interleaves_with_calls_and_timers_in_the_stock_order",
            "which of two connections' threads comes next, and whether before a timer, is for "
            "the kernel's scheduler to say; the order within each connection is the stock one",
            by_chance=True,
        ),
        Exclusion(
            "test_streams.StreamTests.test_unhandled_exceptions",
            "its client leaves without waiting for an answer and its server closes at once: whether the thread in "
            "accept() had taken the connection by then is for the kernel's scheduler to say",
            until=(3, 12),
            by_chance=True,
        ),
    ),
    "stack": (
        _SLOW_SOCKET,
        Exclusion(
            "contract.a_server_that_ran_out_of_descriptors_recovers",
            "a connection of the stack takes no descriptor of the process, so the server never runs out of them",
        ),
        *(
            Exclusion(
                _SENDFILE + test,
                "it has asyncio's private code call sendfile(2) itself, or looks how that fails; the stack reads and "
                "sends a file, which test_sendfile holds it to, for its sockets are no descriptors of the kernel's",
            )
            for test in ("test_sock_sendfile_cancel1", "test_sock_sendfile_cancel2", "test_sock_sendfile_not_available")
        ),
    ),
}


def exclusion(subject: str, test: str) -> Exclusion | None:
    """Finds the exclusion that holds for this test of this subject on this interpreter."""
    for entry in EXCLUSIONS.get(subject, ()):
        if entry.test == test and entry.applies:
            return entry
    return None
