"""A speed test over a cable that loses, between two machines with kernels of their own: both programs count the same.

The cable drops each tenth of the test's datagrams, and counts them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import pytest

from underlay.link import Impairment, Passage
from underlay.tools.speed._protocol import PORT

from .._kernel import kernel_pair, needs_program
from ._iperf3 import until_listening
from ._machine import NEEDS_A_KERNEL

pytestmark = NEEDS_A_KERNEL

LENGTH_BYTES = 1000
# IPv4's header and UDP's. No frame of the control connection is of that size.
FRAME_BYTES = 20 + 8 + LENGTH_BYTES
TEST = ["-u", "-b", "4M", "-l", str(LENGTH_BYTES), "-t", "1"]


class Dies(Impairment):
    """Lets so many datagrams of the test through, and no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        if passage.frame.size_bytes != FRAME_BYTES:
            return (passage,)
        self.seen += 1
        return (passage,) if self.seen <= self.most else ()


class EachTenth(Impairment):
    """Drops each tenth datagram of the test."""

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        if passage.frame.size_bytes != FRAME_BYTES:
            return (passage,)
        self.seen += 1
        if self.seen % 10:
            return (passage,)
        self.affected += 1
        return ()


@pytest.mark.parametrize("client", ["ours", "stock"])
@pytest.mark.parametrize(
    "direction", [pytest.param([], id="normal"), pytest.param(["-R"], id="reverse", marks=pytest.mark.long)]
)
def test_what_the_cable_dropped_is_what_both_programs_call_lost(client: str, direction: list[str]) -> None:
    needs_program("iperf3")
    tenth = EachTenth()
    ours = [sys.executable, "-m", "underlay", "speed", "--json"]
    with kernel_pair(**{"backward" if direction else "forward": (tenth,)}) as (left, right):  # type: ignore[arg-type]
        if client == "ours":
            server = right.popen(["iperf3", "-s", "-1", "-J", "--forceflush"])
            command = [*ours, "10.9.0.2", *TEST, *direction]
        else:
            server = right.popen([*ours, "--server", "--one-off", "10.9.0.2"])
            command = ["iperf3", "-c", "10.9.0.2", "-J", *TEST, *direction]
        until_listening(PORT, server.pid)
        done = left.run(command)
        output, errors = server.communicate(timeout=30)
        assert (done.returncode, server.returncode) == (0, 0), done.stdout + done.stderr + errors
    mine, stock = (done.stdout, output) if client == "ours" else (output, done.stdout)
    (total,) = json.loads(mine)["totals"]
    theirs = json.loads(stock)["end"]
    # That the last of all was dropped nobody can know.
    assert tenth.affected - 1 <= total["lost"] <= tenth.affected
    assert total["received_bytes"] == (total["packets"] - total["lost"]) * LENGTH_BYTES
    assert json.loads(mine)["verdicts"][0]["word"] == "lossy"
    if client == "stock" or not direction:  # a stock server does not look at what its client lost
        assert theirs["sum"]["lost_packets"] == total["lost"]


def test_a_cable_that_dies_in_the_midst_is_not_called_clean() -> None:
    needs_program("iperf3")
    with kernel_pair(forward=(Dies(200),)) as (left, right):
        server = right.popen(["iperf3", "-s", "-1", "-J", "--forceflush"])
        until_listening(PORT, server.pid)
        done = left.run([sys.executable, "-m", "underlay", "speed", "--json", "10.9.0.2", *TEST])
        _, errors = server.communicate(timeout=30)
        assert (done.returncode, server.returncode, errors) == (0, 0, ""), done.stderr
    told = json.loads(done.stdout)
    (total,) = told["totals"]
    assert (total["packets"], total["lost"]) == (200, 0)
    assert total["unseen"] == total["sent_bytes"] // LENGTH_BYTES - 200 > 200
    assert told["verdicts"] == []
