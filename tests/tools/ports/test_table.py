"""Rows of text: they fit a terminal, lose no end of a socket, and obey no stranger's escape sequences."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from underlay.tools.ports import Change, Owner, Socket, State, TcpInfo
from underlay.tools.ports._table import change_line, count_lines, info_lines, list_lines, owner_cell
from underlay.tools.ports._tcp_info import read_tcp_info

LONG = "2001:db8:1111:2222:3333:4444:5555:6666"
SERVER = Owner(812, 6, "nginx", "nginx: master process /usr/sbin/nginx -g daemon on; master_process on;", 0)
SOCKETS = [
    Socket("tcp", 4, State.ESTABLISHED, "203.0.113.100", 54321, "198.51.100.200", 54322, 0, 123456, owners=(SERVER,)),
    Socket("tcp", 4, State.LISTEN, "0.0.0.0", 80, "0.0.0.0", 0, 0, 128, owners=(SERVER,), inode=5),
    Socket("tcp", 6, State.ESTABLISHED, LONG, 54321, LONG, 54322, 0, 0, owners=(SERVER,)),
    Socket("tcp", 4, State.TIME_WAIT, "10.0.0.1", 80, "10.0.0.2", 4000, 0, 0, "time-wait", 43_000),
    Socket("udp", 4, State.UNCONNECTED, "127.0.0.1", 53, "0.0.0.0", 0, 0, 0, uid=65534, inode=6, kind="datagram"),
    Socket("unix", 0, State.LISTEN, "/run/" + "long/" * 20 + "s", 0, "", 0, 0, 128, inode=7, uid=0, owners=(SERVER,)),
    Socket("unix", 0, State.ESTABLISHED, "", 0, "/run/x\x1b[2J\udcff", 0, 0, 0, inode=8, peer_inode=9),
]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_s_rows_fit_and_show_both_ends_whole(width: int) -> None:
    lines = [line.text for line in list_lines(SOCKETS, width)]
    text = "\n".join(lines)
    for sock in SOCKETS[:5]:
        assert sock.local in text and sock.peer in text
    # A path may be longer than any terminal; it is never cut.
    assert all(len(line) <= width or "long/long/" in line for line in lines)
    assert SOCKETS[5].local in text


@pytest.mark.parametrize("width", [60, 80])
def test_wide_letters_of_a_stranger_take_two_columns_of_a_terminal(width: int) -> None:
    owner = Owner(4711, 3, "服务器", "服务器 " * 20, 0)
    [_, row] = list_lines([SOCKETS[1]._replace(owners=(owner,))], width)
    assert "服务器 (4711)" in row.text
    assert width - 2 < cell_len(row.text) <= width


def test_a_pipe_s_rows_are_a_line_each_and_nothing_is_cut() -> None:
    lines = [line.text for line in list_lines(SOCKETS, None)]
    assert len(lines) == len(SOCKETS) + 3  # two headings and what parts them
    assert sum(SERVER.command in line for line in lines) == 4
    assert "…" not in "".join(lines)


def test_listeners_come_first_and_unix_sockets_last() -> None:
    words = [line.text.split()[:2] for line in list_lines(SOCKETS, None) if line.text]
    assert [word[1] for word in words] == [
        "state",
        "LISTEN",
        "TIME-WAIT",
        "ESTABLISHED",
        "ESTABLISHED",
        "UNCONNECTED",
        "state",
        "LISTEN",
        "ESTABLISHED",
    ]
    assert words[6] == ["unix", "state"]


@pytest.mark.parametrize(
    ("kind", "before", "sign", "state", "style"),
    [
        ("opened", None, "+", "ESTABLISHED", "opened"),
        ("changed", State.SYN_SENT, "~", "SYN-SENT to ESTABLISHED", "changed"),
        ("closed", None, "-", "ESTABLISHED", "closed"),
        ("passed", None, "±", "", "changed"),  # nobody saw a state
    ],
)
def test_a_change_s_row_says_when_what_and_who(
    kind: str, before: State | None, sign: str, state: str, style: str
) -> None:
    sock = SOCKETS[0]
    line = change_line(Change(kind, 1_700_000_000.25, sock, before), None)
    time_of_day, rest = line.text.split(" ", 1)
    assert time_of_day.endswith(".250") and line.style == style
    assert rest == f"{sign} tcp  {sock.local:<21} {sock.peer:<21} {state}  {owner_cell(sock)}"
    assert len(change_line(Change(kind, 1_700_000_000.25, sock, before), 60).text) == 60


def test_what_a_socket_changed_to_is_not_what_is_cut() -> None:
    sock = Socket("tcp", 4, State.FIN_WAIT_2, "127.0.0.1", 7701, "127.0.0.1", 47416, 0, 0)
    line = change_line(Change("changed", 1_700_000_000.25, sock, State.ESTABLISHED), 80).text
    assert len(line) <= 80
    assert "ESTABLISHED to FIN-WAIT-2  127.0.0.1:7701 127.0.0.1:47416" in line


def test_what_a_stranger_wrote_moves_no_cursor() -> None:
    hostile = Owner(1, 2, "a\x1b]0;x\x07", "b\nc\r\x1b[31m\udc80", 0)
    text = "\n".join(line.text for line in list_lines([*SOCKETS, SOCKETS[1]._replace(owners=(hostile,))], 200))
    assert "\x1b" not in text and "\x07" not in text and "\r" not in text
    assert "a\\x1b]0;x\\x07 (1) root: b\\nc\\r" in text.replace("\n", "")
    text.encode()  # no lone surrogate is left


@pytest.mark.parametrize(
    ("sock", "hidden", "told"),
    [
        (SOCKETS[3], True, "gone in 43 s"),
        (SOCKETS[3]._replace(state=State.FIN_WAIT_2), True, "orphan, gone in 43 s"),
        (SOCKETS[3]._replace(state=State.LAST_ACK, timer="retransmit"), True, "orphan"),
        (SOCKETS[2]._replace(owners=()), True, "not accepted yet"),
        (SOCKETS[4], True, "user nobody"),
        (SOCKETS[4], False, "kernel, or unseen, user nobody"),
        (SOCKETS[4]._replace(uid=None), False, "kernel, or unseen"),
        (SOCKETS[1]._replace(owners=(Owner(8, 3, "n", "", 0), Owner(9, 3, "n", "", 0))), True, "n (8, 9) root"),
        (SOCKETS[1]._replace(owners=(Owner(8, 3, "n", "", 0), Owner(8, 4, "n", "", 0))), True, "n (8) root"),
        (SOCKETS[1]._replace(owners=(Owner(8, 3, "n", "x", 0), Owner(9, 3, "m", "", 0))), True,
         "n (8) root: x, m (9) root"),
    ],
)  # fmt: skip
def test_who_holds_a_socket_or_why_nobody_does(sock: Socket, hidden: bool, told: str) -> None:
    assert owner_cell(sock, hidden) == told


def test_counts_add_up() -> None:
    lines = [line.text.split() for line in count_lines(SOCKETS)]
    assert lines[0] == ["state", "tcp4", "tcp6", "udp4", "udp6", "unix", "all"]
    assert ["ESTABLISHED", "1", "1", "0", "0", "1", "3"] in lines
    assert lines[-1] == ["all", "3", "1", "1", "0", "2", "7"]
    assert all(len(line.text) <= 80 for line in count_lines(SOCKETS))


def test_what_tcp_knows_is_told_in_words_with_units() -> None:
    info: TcpInfo = read_tcp_info(b"", "cubic")._replace(
        rtt_us=25_300, rtt_variation_us=1_200, min_rtt_us=20_000, rto_us=230_000, cwnd_segments=10,
        send_mss_bytes=1448, ssthresh_segments=7, retransmitted_segments=3, lost_segments=1, bytes_sent=1_000_000,
        delivery_rate_bytes_per_s=1_250_000, busy_us=1000, receive_window_limited_us=250,
    )  # fmt: skip
    sock = SOCKETS[0]._replace(timer="retransmit", timer_ms=204, timer_retries=2, tcp_info=info)
    [text] = info_lines(sock, None)
    assert text == (
        "    retransmit timer in 204 ms, after 2 in vain; rtt 25.3 ms ± 1.2 ms, least 20 ms; rto 230 ms; cubic open;"
        " cwnd 10 × 1,448 B (ssthresh 7); in flight 0, lost 1, sent again 3; sent 1,000,000 B, received 0 B;"
        " delivers 10.0 Mbit/s; held by the peer's window 25 % of the time"
    )
    assert all(len(line) <= 80 for line in info_lines(sock, 80))
    assert list(info_lines(SOCKETS[4], 80)) == []
