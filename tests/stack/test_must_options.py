"""The bytes of our own headers, and options wherever they stand (RFC 9293 §3.1, §3.2, §3.7.1).

The checksum and the options are read here by hand, not by `underlay.wire`, so that
a mistake which it made both ways would show.
"""

from __future__ import annotations

import itertools

import pytest
from tests.stack._net import ip, two_hosts
from tests.stack._tcp_pair import states
from tests.stack._tcp_script import PEER6, US6, Talk, accepted

from underlay.stack import State, TcpConfig
from underlay.wire import ACK, SYN, build_tcp_header

END, NOP, MSS = 0, 1, 2


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, a word at a time."""
    total = 0
    padded = data + b"\0" * (len(data) % 2)
    for high, low in zip(padded[::2], padded[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total


def walk(options: bytes) -> list[tuple[int, int]]:
    """Read a list of options strictly: (kind, length) of each; what breaks the rules fails the test."""
    found, place = [], 0
    while place < len(options):
        kind = options[place]
        if kind == END:
            assert not any(options[place:]), "beyond END there is only padding of zeros (MUST-69)"
            break
        if kind == NOP:
            place += 1
            continue
        length = options[place + 1]
        assert 2 <= length <= len(options) - place, "every other option has a length that fits (MUST-68)"
        found.append((kind, length))
        place += length
    return found


@pytest.mark.parametrize(
    ("a_address", "b_address", "start"), [("10.0.0.1", "10.0.0.2", 34), ("fd00::1", "fd00::2", 54)]
)
def test_every_segment_on_the_wire_has_the_checksum_of_the_rfc(a_address: str, b_address: str, start: int) -> None:
    """MUST-2: over the pseudo header, the header, and text of odd length too."""
    net, a, b, hub = two_hosts()
    listener = b.tcp.listen(ip(b_address), 80, net.now)
    connection = a.tcp.connect(ip(b_address), 80, net.now)
    net.run(1)
    connection.send(b"seven b", net.now)
    net.run(1)
    connection.close(net.now)
    net.run(1)
    assert listener.acceptable
    segments = [each for each in hub.passed if each.data[23 if start == 34 else 20] == 6]
    assert len(segments) >= 5
    for each in segments:
        data = each.data[start:]
        if start == 34:
            data = data[: int.from_bytes(each.data[16:18], "big") - 20]  # less Ethernet's padding
        source, destination = (a_address, b_address) if each.sender is a else (b_address, a_address)
        pseudo = ip(source) + ip(destination) + len(data).to_bytes(4, "big") + bytes([0, 0, 0, 6])
        assert ones_complement_sum(pseudo + data) == 0xFFFF


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("scaling", [False, True])
def test_our_options_have_lengths_and_our_padding_is_zeros(timestamps: bool, sack: bool, scaling: bool) -> None:
    """MUST-68: all options but END and NOP have a length. MUST-69: beyond END there are only zeros."""
    config = TcpConfig(timestamps=timestamps, sack=sack, window_scaling=scaling)
    heads = []
    talk = Talk(config)
    send = talk.send

    def look(source, destination, protocol, head, payload, now, **more):  # type: ignore[no-untyped-def]
        heads.append(head)
        send(source, destination, protocol, head, payload, now, **more)

    talk.send = look  # type: ignore[method-assign]
    talk.listen()
    stamp = (1, 0) if timestamps else None
    talk.stamp = stamp
    talk.say("S", 0, mss=1460, window_scale=7 if scaling else None, sack_permitted=sack)
    talk.heard()
    talk.say(".", 1, 1)
    talk.accept().send(b"x", talk.now)
    for hole in (11, 31, 51, 71, 91):
        talk.say(".", hole, 1, bytes(10))
    talk.heard()
    talk.connect()
    talk.heard()
    kinds = [[kind for kind, _ in walk(head[20:])] for head in heads]
    assert all(len(head) == (head[12] >> 4) * 4 for head in heads)
    expected = {MSS} | ({3} if scaling else set()) | ({4, 5} if sack else set()) | ({8} if timestamps else set())
    assert set(itertools.chain(*kinds)) == expected


def segment(talk: Talk, flags: int, seq: int, ack: int, options: bytes, text: bytes = b"") -> bytes:
    """A segment of the peer with options as they stand here, its checksum left to the link."""
    assert len(options) % 4 == 0
    head = build_tcp_header(
        talk.peer, talk.us, talk.peer_port, talk.our_port, talk.peer_iss + seq,
        (talk.our_iss + ack) & 0xFFFF_FFFF if flags & 0x10 else 0, flags, 65535,
    )  # fmt: skip
    return head[:12] + bytes([(5 + len(options) // 4) << 4]) + head[13:] + options + text


def hear(talk: Talk, data: bytes) -> None:
    talk.layer.receive_segment(talk.peer, talk.us, data, 0, len(data), talk.now, checksum_valid=True)


@pytest.mark.parametrize(
    "options",
    [
        bytes([2, 4, 2, 88]),
        bytes([1, 2, 4, 2, 88, 0, 0, 0]),  # MUST-64: off a word's boundary by one
        bytes([253, 3, 9, 2, 4, 2, 88, 0]),  # by three, behind one that nobody knows (MUST-6)
        bytes([2, 4, 2, 88, 0, 2, 4, 5]),  # what stands behind END is no option
        bytes([1, 1, 254, 2, 2, 4, 2, 88]),
    ],
)
def test_an_mss_option_counts_wherever_it_stands(options: bytes) -> None:
    """MUST-4: END, NOP and MSS are known. MUST-14: MSS is received. MUST-64: alignment does not matter. MUST-6."""
    talk = Talk()
    talk.listen()
    hear(talk, segment(talk, SYN, 0, 0, options))
    talk.expect("S. 0:0 ack 1")
    talk.say(".", 1, 1)
    talk.accept().send(bytes(1000), talk.now)
    talk.expect(". 1:601 ack 1", "P. 601:1001 ack 1")


@pytest.mark.parametrize("flags", [".", "F.", "U.", "R."])
def test_options_may_stand_in_a_segment_of_any_kind(flags: str) -> None:
    """MUST-5."""
    talk, connection = accepted()
    bits = {".": 0x10, "F.": 0x11, "U.": 0x30, "R.": 0x14}[flags]
    hear(talk, segment(talk, bits, 1, 1, bytes([253, 6, 1, 2, 3, 4, 1, 0]), b"" if flags == "R." else b"text"))
    if flags == "R.":
        assert states(connection) == (State.CLOSED,)
    else:
        assert connection.receive(10, talk.now) == b"text"
    assert talk.drops == {}


@pytest.mark.parametrize("options", [[253, 0, 0, 0], [253, 1, 0, 0], [253, 200, 0, 0], [253, 5, 0, 0], [1, 1, 1, 253]])
def test_an_illegal_length_of_an_unknown_option_drops_its_segment(options: list[int]) -> None:
    """MUST-7: also a length of 0, by which one would never get on."""
    talk, connection = accepted()
    hear(talk, segment(talk, 0x10, 1, 1, bytes(options), b"text"))
    talk.expect()
    assert talk.drops == {"tcp.option": 1}
    talk.say("P.", 1, 1, b"good")
    assert connection.receive(10, talk.now) == b"good"


@pytest.mark.parametrize(("mtu_bytes", "version", "mss"), [(1500, 4, 1460), (9000, 4, 8960), (576, 4, 536),
                                                           (1500, 6, 1440), (1280, 6, 1220)])  # fmt: skip
def test_the_mss_that_we_tell_is_the_mtu_less_the_fixed_headers(mtu_bytes: int, version: int, mss: int) -> None:
    """MUST-14: MSS is sent, in a SYN and in a SYN, ACK. MUST-67: never more than IP can take in, less 20."""
    talk = Talk(TcpConfig())  # timestamps and the like do not make it less (RFC 6691 §2)
    talk.mtu_bytes = mtu_bytes
    if version == 6:
        talk.us, talk.peer = US6, PEER6
    talk.listen()
    talk.say("S", 0, timestamp=(1, 0))
    talk.connect()
    talk.heard()
    assert [(each.segment.flags, each.segment.mss) for each in talk.said] == [(SYN | ACK, mss), (SYN, mss)]


def test_only_syns_carry_an_mss() -> None:
    """MUST-65: in data, acknowledgments with and without SACK, probes, FIN and RST there is none."""
    talk, connection = accepted(sack=True, window=100)
    connection.send(bytes(200), talk.now)
    talk.say(".", 11, 1, bytes(10))
    seen = [*talk.answers]
    talk.heard()
    seen += talk.said
    talk.say(".", 1, 101, window=0)
    talk.wait(5)
    seen += talk.answers
    talk.heard()
    talk.say(".", 1, 101, window=65535)
    connection.shutdown(1, talk.now)
    talk.heard()
    seen += talk.said
    connection.abort(talk.now)
    seen += talk.answers
    flags = {each.segment.flags & 7 for each in seen}
    assert flags == {0, 1, 4}
    assert any(each.segment.sack for each in seen)
    assert {each.segment.mss for each in seen} == {None}


@pytest.mark.parametrize(
    ("mss", "mtu_bytes", "timestamp", "sent"),
    [(1000, 1500, None, 1000), (9000, 1500, None, 1460), (1000, 1500, 7, 988), (9000, 1500, 7, 1448)],
)
def test_a_segment_with_its_options_is_no_longer_than_both_sides_allow(
    mss: int, mtu_bytes: int, timestamp: int | None, sent: int
) -> None:
    """MUST-16: the smaller of what the peer says and what IP carries, less the options."""
    talk, connection = accepted(mss=mss, mtu_bytes=mtu_bytes, timestamp=timestamp)
    connection.send(bytes(5000), talk.now)
    assert talk.heard()[0] == f". 1:{1 + sent} ack 1"
