"""A filter in the words of tcpdump, compiled to BPF by libpcap, for the kernel or for packets that are here already.

The syntax (pcap-filter(7)) is libpcap's, and so are its complaints: the library that tcpdump itself uses is loaded by
ctypes, where somebody asks for a filter. This file knows its few functions, and classic BPF instructions as far as it
takes to put a few before libpcap's own (which interfaces, which direction) and to shift them for packets without a
link header. It refuses to know sockets; libpcap opens one of its own where its compiler wants to see a capture.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from ...errors import UsageError
from .._printable import quoted
from ._link_types import LINUX_SLL, RAW_IP, SLL_BYTES

__all__ = ["CompiledFilter", "Instruction", "asks_for_a_capture", "compile_filter", "kernel_program", "no_right"]

# Debian keeps the name of 2003; elsewhere it is that of the major version.
_LIBRARIES: Final = ("libpcap.so.0.8", "libpcap.so.1")
_NO_NETMASK: Final = 0xFFFF_FFFF  # PCAP_NETMASK_UNKNOWN: only "ip broadcast" would need it
_MOST_TEXT_BYTES: Final = 65_536
# linux/bpf_common.h: more instructions the kernel does not take.
_MOST_INSTRUCTIONS: Final = 4096
# What the kernel puts beside a packet, at "negative" places of it (linux/filter.h, SKF_AD_OFF and the like).
_BESIDE: Final = 0x1_0000_0000 - 0x1000
_BESIDE_PROTOCOL: Final = _BESIDE
_BESIDE_TYPE: Final = _BESIDE + 4
_BESIDE_INTERFACE: Final = _BESIDE + 8
_BESIDE_HAS_VLAN: Final = _BESIDE + 48
# linux/bpf_common.h
_LD_W: Final = 0x20
_LD_B: Final = 0x30
_JEQ: Final = 0x15
_RET: Final = 0x06
_CLASS: Final = 0x07
_MODE: Final = 0xE0
_LOADS: Final = (0x00, 0x01)  # BPF_LD, BPF_LDX
_ABS, _IND, _MSH = 0x20, 0x40, 0xA0
_OUTGOING: Final = 4  # linux/if_packet.h, PACKET_OUTGOING
_JUMP_REACH: Final = 255

# Where LINUX_SLL has fields that the kernel knows as well; libpcap rewrites the same (fix_offset() of pcap-linux.c).
_SLL_FIELDS: Final = {0: _BESIDE_TYPE, 14: _BESIDE_PROTOCOL}


# libpcap's functions take this system's DLT numbers, which differ from those in files where systems once differed:
# pcap/dlt.h has DLT_RAW as 12 on Linux.
_DLT: Final = {RAW_IP: 12}

# pcap-filter(7): the words that on most links ask for what is not in a packet. Of a handle that captures nothing
# (pcap_open_dead) libpcap took them until 1.10; 1.11 refuses them there, "not a live capture".
_OF_A_CAPTURE: Final = re.compile(r"\b(inbound|outbound|ifindex)\b")
# Of a handle that is only to compile: what it keeps of a packet, and its ring, which libpcap makes as small as it can.
_LEAST_BYTES: Final = 64
# pcap/pcap.h
_ERROR_TEXT_BYTES: Final = 256
_NO_PERMISSION: Final = (-8, -11)  # PCAP_ERROR_PERM_DENIED, PCAP_ERROR_PROMISC_PERM_DENIED


class Instruction(NamedTuple):
    """One instruction of classic BPF (``struct sock_filter``)."""

    code: int
    jump_true: int
    jump_false: int
    value: int


def _is_load(instruction: Instruction, *modes: int) -> bool:
    return instruction.code & _CLASS in _LOADS and instruction.code & _MODE in modes


class _CInstruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _CProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_CInstruction)))


class _CHeader(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("kept", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
    )


class CompiledFilter:
    """A filter for one link type, and the text that it was.

    ``instructions`` are libpcap's; ``matches`` runs them here, about 1 µs a packet.
    """

    def __init__(self, text: str, link_type: int, instructions: Sequence[Instruction]) -> None:
        self.text = text
        self.link_type = link_type
        self.instructions = tuple(instructions)
        self._array = (_CInstruction * len(instructions))(*(_CInstruction(*each) for each in instructions))
        self._program = _CProgram(len(instructions), self._array)
        self._header = _CHeader()
        self._run = _libpcap().pcap_offline_filter

    @property
    def asks_the_kernel(self) -> bool:
        """Whether it wants to know what only the kernel has beside a packet, as ``inbound`` does; then none matches."""
        return any(_is_load(each, _ABS) and each.value >= _BESIDE for each in self.instructions)

    def matches(self, data: bytes, size_bytes: int) -> bool:
        """Whether it lets a packet pass: ``data`` of a packet that had ``size_bytes``."""
        self._header.kept = len(data)
        self._header.size = size_bytes
        return bool(self._run(ctypes.byref(self._program), ctypes.byref(self._header), data))


@functools.cache
def _libpcap() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise UsageError(
            "a filter is compiled by libpcap, which is not installed",
            remedy="`apt-get install libpcap0.8` or `dnf install libpcap` brings it; without a filter nothing needs it",
        )
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    library.pcap_create.restype = ctypes.c_void_p
    library.pcap_create.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    for name in ("pcap_set_snaplen", "pcap_set_buffer_size", "pcap_set_datalink"):
        getattr(library, name).argtypes = (ctypes.c_void_p, ctypes.c_int)
    for name in ("pcap_activate", "pcap_datalink"):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p, ctypes.POINTER(_CProgram), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32,
    )  # fmt: skip
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = (ctypes.c_void_p,)
    library.pcap_freecode.argtypes = (ctypes.POINTER(_CProgram),)
    library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_offline_filter.argtypes = (ctypes.POINTER(_CProgram), ctypes.POINTER(_CHeader), ctypes.c_char_p)
    return library


def asks_for_a_capture(text: str) -> bool:
    """Whether a filter may want to know what only a running capture does: which way a packet goes, and through what."""
    return _OF_A_CAPTURE.search(text) is not None


def compile_filter(text: str, link_type: int, snap_bytes: int, *, interface: str = "") -> CompiledFilter:
    """Compile a filter of pcap-filter(7); ``UsageError`` says in libpcap's words what is wrong with it.

    ``link_type`` is a number of www.tcpdump.org/linktypes.html, ``snap_bytes`` how much of a packet the kernel is to
    keep. ``interface`` is where it is to be used, ``"any"`` for all; without it the filter is for packets that are here
    already, and ``inbound``, ``outbound`` and ``ifindex`` are for few link types. With one of these words libpcap opens
    a capture there for the while, for which it takes CAP_NET_RAW. Names of hosts are looked up, as tcpdump does.
    ``UsageError`` too where libpcap is not installed, and where it may or can not capture there.

    >>> compile_filter("udp port 53", 1, 65535).matches(bytes(60), 60)
    False
    """
    encoded = text.encode(errors="surrogateescape")
    if b"\0" in encoded or len(encoded) > _MOST_TEXT_BYTES:
        raise UsageError(f"a filter has no zero bytes, and at most {_MOST_TEXT_BYTES} bytes")
    library = _libpcap()
    dlt = _DLT.get(link_type, link_type)
    if interface and asks_for_a_capture(text):
        handle = _open(library, text, interface, dlt)
    else:
        handle = library.pcap_open_dead(dlt, snap_bytes)
        if not handle:
            raise MemoryError("pcap_open_dead")
    program = _CProgram()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), encoded, 1, _NO_NETMASK) != 0:
            raise UsageError(
                f"the filter {quoted(text)} is not one, says libpcap: {_words(library, handle)}",
                remedy="pcap-filter(7) has the syntax, such as 'tcp port 80 and host 10.9.0.1'",
            )
        try:
            found = [program.instructions[place] for place in range(program.length)]
            instructions = [Instruction(each.code, each.jt, each.jf, each.k) for each in found]
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
    # What a handle keeps of a packet is what its programs return; one that captures has a measure of its own.
    instructions = [
        each._replace(value=snap_bytes) if each.code == _RET and each.value else each for each in instructions
    ]
    return CompiledFilter(text, link_type, instructions)


def _open(library: ctypes.CDLL, text: str, interface: str, dlt: int) -> int:
    """Let libpcap capture on an interface, so that its compiler knows what this kernel can be asked."""
    words = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
    handle: int | None = library.pcap_create(os.fsencode(interface), words)
    if not handle:
        raise _no_capture(text, interface, words.value.decode(errors="replace"))
    try:
        library.pcap_set_snaplen(handle, _LEAST_BYTES)
        library.pcap_set_buffer_size(handle, _LEAST_BYTES)
        status = library.pcap_activate(handle)
        if status in _NO_PERMISSION:
            raise no_right()
        # Above 0 it warns, of what is nothing to a handle that is not read from.
        if status < 0 or (library.pcap_datalink(handle) != dlt and library.pcap_set_datalink(handle, dlt) != 0):
            raise _no_capture(text, interface, _words(library, handle))
    except UsageError:
        library.pcap_close(handle)
        raise
    return handle


def _words(library: ctypes.CDLL, handle: int) -> str:
    words: bytes = library.pcap_geterr(handle)
    return words.decode(errors="replace")


def _no_capture(text: str, interface: str, words: str) -> UsageError:
    return UsageError(
        f"for the filter {quoted(text)} libpcap has to open {interface}, and cannot: {words}",
        remedy="--direction instead of inbound and outbound needs nothing of it",
    )


def no_right() -> UsageError:
    """Give the error of somebody who may not capture."""
    return UsageError(
        "capturing takes CAP_NET_RAW, which this user has not", remedy="`sudo` before the command gives it"
    )


def kernel_program(
    chosen: CompiledFilter | None,
    snap_bytes: int,
    *,
    loopbacks: Sequence[int] = (),
    interfaces: Sequence[int] = (),
    direction: str = "",
) -> tuple[list[Instruction], bool]:
    """Give what the kernel is to run for each packet, and whether that decides ``chosen`` as well.

    First come questions of ours. A loopback shows each packet twice, as it leaves and as it arrives: the first is
    passed over, as libpcap does. ``interfaces`` are the numbers of those that are wanted, where one socket sees all.
    ``direction`` is ``"in"``, ``"out"`` or empty.

    Where it does not decide ``chosen``, each packet is to be asked about here: the kernel keeps VLAN tags beside the
    packet, so that ``vlan`` would find none, unless libpcap knew that and looks beside; of a cooked packet it has no
    link header to look at; and it takes only so many instructions.
    """
    program: list[Instruction] = []
    if interfaces:
        if len(interfaces) > _JUMP_REACH:
            raise UsageError(f"at most {_JUMP_REACH} interfaces can be named", remedy="leave them out: all are meant")
        program.append(Instruction(_LD_W | _ABS, 0, 0, _BESIDE_INTERFACE))
        left = len(interfaces)
        for index in interfaces:
            program.append(Instruction(_JEQ, left, 0, index))
            left -= 1
        program.append(Instruction(_RET, 0, 0, 0))
    if direction:
        keep = (0, 1) if direction == "in" else (1, 0)
        program += [
            Instruction(_LD_B | _ABS, 0, 0, _BESIDE_TYPE),
            Instruction(_JEQ, *keep, _OUTGOING),
            Instruction(_RET, 0, 0, 0),
        ]
    else:
        for index in loopbacks:
            program += [
                Instruction(_LD_W | _ABS, 0, 0, _BESIDE_INTERFACE),
                Instruction(_JEQ, 0, 3, index),
                Instruction(_LD_B | _ABS, 0, 0, _BESIDE_TYPE),
                Instruction(_JEQ, 0, 1, _OUTGOING),
                Instruction(_RET, 0, 0, 0),
            ]
    everything = [*program, Instruction(_RET, 0, 0, snap_bytes)]
    if chosen is None:
        return everything, True
    decided = list(chosen.instructions)
    if re.search(r"\bvlan\b", chosen.text) and not any(
        _is_load(each, _ABS) and each.value == _BESIDE_HAS_VLAN for each in decided
    ):
        return everything, False
    shifted = _without_link_header(decided) if chosen.link_type == LINUX_SLL else decided
    if shifted is None or len(program) + len(shifted) > _MOST_INSTRUCTIONS:
        return everything, False
    return program + shifted, True


def _without_link_header(instructions: list[Instruction]) -> list[Instruction] | None:
    """Shift loads to where a packet without its header has the byte; None where it has not."""
    shifted = []
    for each in instructions:
        value = each.value
        # What the kernel has beside a packet is where it is with any header, and with none.
        if _is_load(each, _ABS, _IND, _MSH) and not (_is_load(each, _ABS) and value >= _BESIDE):
            if value >= SLL_BYTES:
                value -= SLL_BYTES
            elif _is_load(each, _ABS) and value in _SLL_FIELDS:
                value = _SLL_FIELDS[value]
            else:
                return None
        shifted.append(each._replace(value=value))
    return shifted
