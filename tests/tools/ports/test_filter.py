"""Filters mean exactly what they say, and whatever is none is told in one sentence."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UsageError
from underlay.tools.ports import Filter, Owner, Socket, State
from underlay.tools.ports._ends import parse_end

LISTENER = Socket("tcp", 4, State.LISTEN, "0.0.0.0", 80, "0.0.0.0", 0, 0, 128, uid=33, inode=7)
CONNECTION = Socket("tcp", 4, State.ESTABLISHED, "10.1.2.3", 8080, "192.0.2.9", 443, 0, 0, uid=0, inode=8)
MAPPED = Socket("tcp", 6, State.TIME_WAIT, "::ffff:10.1.2.3", 80, "::ffff:10.9.9.9", 5000, 0, 0)
UNIX = Socket("unix", 0, State.LISTEN, "/run/app.sock", 0, "", 0, 0, 0, inode=9)
OWNED = CONNECTION._replace(owners=(Owner(4711, 3, "nginx", "nginx: worker", 33), Owner(4712, 3, "nginx", "", 33)))
ON_LO = Socket("udp", 4, State.UNCONNECTED, "127.0.0.53", 53, "0.0.0.0", 0, 0, 0, interface=socket.if_nametoindex("lo"))
ALL = (LISTENER, CONNECTION, MAPPED, UNIX, OWNED, ON_LO)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), ALL),
        (("80",), (LISTENER, MAPPED)),
        (("8080",), (CONNECTION, OWNED)),
        (("443",), (CONNECTION, OWNED)),
        (("8",), ()),
        (("0",), ()),  # the port that is written where there is no peer
        (("80", "8080"), (LISTENER, CONNECTION, MAPPED, OWNED)),
        (("80,8080",), (LISTENER, CONNECTION, MAPPED, OWNED)),
        (("79-81",), (LISTENER, MAPPED)),
        (("local:443",), ()),
        (("peer:443",), (CONNECTION, OWNED)),
        (("peer:0.0.0.0",), ()),
        (("local:*",), (LISTENER,)),
        (("local:*:80",), (LISTENER,)),
        (("local:0.0.0.0:80",), (LISTENER,)),
        (("local:127.0.0.1",), ()),  # though a listener on every address hears it
        (("10.0.0.0/8",), (CONNECTION, MAPPED, OWNED)),
        (("peer:10.0.0.0/8",), (MAPPED,)),
        (("peer:192.0.2.9:443",), (CONNECTION, OWNED)),
        (("peer:192.0.2.9:44",), ()),
        (("127.0.0.53%lo:53",), (ON_LO,)),  # as it is written in a list
        (("local:127.0.0.0/8%lo",), (ON_LO,)),
        (("127.0.0.53",), (ON_LO,)),
        (("127.0.0.53%eth7",), ()),
        (("10.1.2.3%lo",), ()),
        (("[::ffff:10.1.2.3]:80",), (MAPPED,)),
        (("::/0",), (MAPPED,)),
        (("state:listen",), (LISTENER, UNIX)),
        (("state:listen", "80"), (LISTENER,)),
        (("state:TIME_WAIT",), (MAPPED,)),
        (("state:estab,time-wait",), (CONNECTION, MAPPED, OWNED)),
        (("proto:tcp6",), (MAPPED,)),
        (("proto:TCP4", "proto:unix"), (LISTENER, CONNECTION, UNIX, OWNED)),
        (("pid:4711",), (OWNED,)),
        (("pid:471",), ()),
        (("program:nginx",), (OWNED,)),
        (("program:ngin",), ()),
        (("user:33",), (LISTENER,)),
        (("user:root",), (CONNECTION, OWNED)),
        (("inode:9",), (UNIX,)),
        (("unix:/run/app.sock",), (UNIX,)),
        (("unix:/run/app",), ()),
    ],
)
def test_a_filter_means_just_these(words: tuple[str, ...], wanted: tuple[Socket, ...]) -> None:
    only = Filter(words)
    assert tuple(sock for sock in ALL if only.matches(sock)) == wanted


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("", "an empty word is no filter"),
        ("65536", "65536 is no port; a port is between 0 and 65535"),
        ("9" * 5000, f"{'9' * 20} is no port; a port is between 0 and 65535"),
        ("-1", "'-1' is no port, no address and no service that /etc/services knows"),
        ("٨٠", "'٨٠' is no port, no address and no service"),
        ("80-", "'80-' is no port, no address"),
        ("90-80", "'90-80' ends before it begins; 80-90 is the range"),
        ("80,", "'80,' leaves out what to look for"),
        ("nonesuch", "'nonesuch' is no port, no address and no service that /etc/services knows"),
        ("a\0b", "is no port, no address"),
        ("fe80::1%", "'fe80::1%' has a percent sign and no interface"),
        ("/run/app.sock", "'/run/app.sock' is no IP address and no network; did you mean unix:/run/app.sock?"),
        ("@name", "did you mean unix:@name?"),
        ("TCP6", "did you mean proto:TCP6?"),
        ("time_wait", "did you mean state:time_wait?"),
        ("nginx", "did you mean program:nginx?"),
        ("localhost", "did you mean 127.0.0.1?"),
        ("a\nb", "write it like 8080"),
        ("80x", "write it like 8080"),
        ("10.0.0", "write it like 8080"),
        ("stat:listen", "no filter is called 'stat'; did you mean 'state'?"),
        ("localhost:80", "a host is written as its address here, since no name is looked up"),
        ("state:listne", "no state is called 'listne'; did you mean 'listen'?"),
        ("state:", "'state:' leaves out what to look for"),
        ("proto:sctp", "no protocol is called 'sctp'"),
        ("pid:root", "'root' is no process id; it is a number"),
        ("pid:٣", "'٣' is no process id"),
        ("inode:99999999999999999999", "is no inode"),
        ("user:no such user", "this machine has no user called 'no such user'"),
        ("user:a\0b", "this machine has no user called"),
        ("10.0.0.1/8", "'10.0.0.1/8' has bits set beyond its prefix"),
        ("10.0.0.0/33", "'10.0.0.0/33' is no IP address and no network"),
        ("256.1.1.1", "'256.1.1.1' is no IP address and no network"),
        ("local:127.0.0.1:", "'127.0.0.1:' has a colon and no port"),
        ("[::1", "'[::1' is no address in brackets"),
        ("[::1]80", "'[::1]80' is no address in brackets"),
        ("::1:80:::", "is no IP address and no network"),
        ("unix:", "unix: needs a path"),
    ],
)
def test_what_is_no_filter_is_told_in_one_sentence(word: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Filter([word])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value).replace(word, "")


def test_a_path_and_a_port_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="a Unix socket has a path and no port"):
        Filter(["unix:/run/app.sock", "80"])


def test_a_comma_may_be_part_of_a_path() -> None:
    assert Filter(["unix:/run/a,b"]).matches(UNIX._replace(local_address="/run/a,b"))


def test_a_word_in_place_of_a_list_of_words_is_not_taken_letter_by_letter() -> None:
    with pytest.raises(TypeError, match=r"words are a list of words: \['80'\]"):
        Filter("80")


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_a_sentence(word: str) -> None:
    try:
        only = Filter([word])
    except UsageError:
        return
    for sock in ALL:
        only.matches(sock)


@given(st.integers(0, 65_535), st.integers(0, 65_535))
def test_a_port_matches_itself_and_no_other(asked: int, port: int) -> None:
    assert parse_end(str(asked)).matches("127.0.0.1", port) == (asked == port)


def test_the_kernel_is_asked_for_no_more_than_is_meant() -> None:
    only = Filter(["proto:udp6", "state:established"])
    assert [only.wants("tcp", 4), only.wants("udp", 4), only.wants("udp", 6), only.wants("unix")] == [
        False,
        False,
        True,
        False,
    ]
    assert only.is_asked_for
    assert not Filter(["80"]).is_asked_for
    assert not Filter(["80"]).wants("unix")
    assert not Filter(["unix:/run/app.sock"]).wants("tcp", 4)
