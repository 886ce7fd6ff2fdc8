"""The names of protocols, and what ARP, ICMP, IGMP and DNS messages say, in a few words.

This file knows the messages' meanings; their layouts are `underlay.wire`'s. It refuses to know where a message came
from. All text that a stranger may have chosen is made printable.
"""

from __future__ import annotations

from typing import Final

from ...wire import (
    ARP_REPLY,
    ARP_REQUEST,
    DNS_A,
    DNS_AAAA,
    DNS_CNAME,
    DNS_NAME_ERROR,
    DNS_NS,
    DNS_PTR,
    DNS_SERVER_FAILURE,
    ICMP4_DESTINATION_UNREACHABLE,
    ICMP4_ECHO_REPLY,
    ICMP4_ECHO_REQUEST,
    ICMP4_PARAMETER_PROBLEM,
    ICMP4_REDIRECT,
    ICMP4_SOURCE_QUENCH,
    ICMP4_TIME_EXCEEDED,
    ICMP6_DESTINATION_UNREACHABLE,
    ICMP6_ECHO_REPLY,
    ICMP6_ECHO_REQUEST,
    ICMP6_MLD_DONE,
    ICMP6_MLD_QUERY,
    ICMP6_MLD_REPORT,
    ICMP6_PACKET_TOO_BIG,
    ICMP6_PARAMETER_PROBLEM,
    ICMP6_TIME_EXCEEDED,
    IGMP_LEAVE,
    IGMP_QUERY,
    IGMP_V1_REPORT,
    IGMP_V2_REPORT,
    PROTOCOL_ICMP,
    PROTOCOL_ICMP6,
    PROTOCOL_IGMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    ArpPacket,
    DnsMessage,
    DnsRecord,
    IcmpMessage,
    NeighborAdvertisement,
    NeighborSolicitation,
    Redirect,
    RouterAdvertisement,
    RouterSolicitation,
    WireError,
    format_ip,
    format_mac,
    parse_dns,
    parse_igmp,
    parse_nd,
    parse_quoted_packet,
)
from .._printable import masked

__all__ = ["ETHERTYPES", "PROTOCOLS", "arp", "dns", "icmp4", "icmp6", "igmp"]

_SCTP: Final = 132
# IANA "protocol-numbers", those that are met.
PROTOCOLS: Final = {
    0: "HOPOPT", PROTOCOL_ICMP: "ICMP", PROTOCOL_IGMP: "IGMP", 4: "IP-in-IP", PROTOCOL_TCP: "TCP", PROTOCOL_UDP: "UDP",
    33: "DCCP", 41: "IPv6-in-IP", 46: "RSVP", 47: "GRE", 50: "ESP", 51: "AH", PROTOCOL_ICMP6: "ICMPv6", 59: "no next",
    88: "EIGRP", 89: "OSPF", 103: "PIM", 112: "VRRP", 115: "L2TP", _SCTP: "SCTP", 136: "UDP-Lite",
}  # fmt: skip
# Those whose first four bytes are ports.
_WITH_PORTS: Final = (PROTOCOL_TCP, PROTOCOL_UDP, _SCTP)

# IEEE 802 numbers (IANA "ethertypes"), those that are met.
ETHERTYPES: Final = {
    0x0842: "WoL", 0x8035: "RARP", 0x8137: "IPX", 0x8809: "LACP", 0x8847: "MPLS", 0x8848: "MPLS", 0x8863: "PPPoE",
    0x8864: "PPPoE", 0x888E: "EAPOL", 0x88CC: "LLDP", 0x88E5: "MACsec", 0x88F7: "PTP", 0x9000: "loop",
}  # fmt: skip

# RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1.
_UNREACHABLE4: Final = {
    0: "network", 1: "host", 2: "protocol", 3: "port", 4: "fragmentation needed", 5: "source route failed",
    6: "network unknown", 7: "host unknown", 9: "network prohibited", 10: "host prohibited", 11: "network for this TOS",
    12: "host for this TOS", 13: "filtered", 14: "host precedence", 15: "precedence cut-off",
}  # fmt: skip
# RFC 4443 §3.1
_UNREACHABLE6: Final = {
    0: "no route", 1: "prohibited", 2: "beyond scope", 3: "address", 4: "port", 5: "source policy", 6: "route rejected",
}  # fmt: skip
_MLD2_REPORT: Final = 143  # RFC 3810 §5.2
_IGMP3_REPORT: Final = 0x22  # RFC 3376 §4

_OPT: Final = 41  # RFC 6891: no record of a name
# RFC 1035 §3.2.2 and the IANA registry of DNS parameters.
_DNS_TYPES: Final = {
    DNS_A: "A", DNS_NS: "NS", DNS_CNAME: "CNAME", 6: "SOA", DNS_PTR: "PTR", 13: "HINFO", 15: "MX", 16: "TXT",
    DNS_AAAA: "AAAA", 33: "SRV", 35: "NAPTR", _OPT: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY",
    64: "SVCB", 65: "HTTPS", 252: "AXFR", 255: "ANY", 257: "CAA",
}  # fmt: skip
_DNS_CODES: Final = {
    1: "format error", DNS_SERVER_FAILURE: "server failure", DNS_NAME_ERROR: "no such name", 4: "not implemented",
    5: "refused",
}  # fmt: skip
_MOST_ANSWERS: Final = 4  # as many as a line has room for


def arp(packet: ArpPacket) -> str:
    """Say what an ARP packet asks or tells."""
    sender, target = format_ip(packet.sender_ip), format_ip(packet.target_ip)
    if packet.operation == ARP_REQUEST:
        if packet.sender_ip == packet.target_ip:
            return f"{sender} is at {format_mac(packet.sender_mac)}, says everybody should know"
        if packet.sender_ip == bytes(4):
            return f"has anybody {target}?"  # RFC 5227, a probe
        return f"who has {target}? tell {sender}"
    if packet.operation == ARP_REPLY:
        return f"{sender} is at {format_mac(packet.sender_mac)}"
    return f"operation {packet.operation}"


def _about(message: IcmpMessage) -> str:
    """Name the packet that an error quotes."""
    try:
        quoted = parse_quoted_packet(message.body)
    except (WireError, IndexError):
        return ""
    name = PROTOCOLS.get(quoted.protocol, f"IP {quoted.protocol}")
    ends = [format_ip(quoted.source), format_ip(quoted.destination)]
    if quoted.protocol in _WITH_PORTS:
        head = bytes(quoted.transport[:4])
        ends = [f"{_bracketed(end)}:{head[at] << 8 | head[at + 1]}" for at, end in ((0, ends[0]), (2, ends[1]))]
    return f" of {name} {ends[0]} > {ends[1]}"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def icmp4(message: IcmpMessage) -> str:
    """Say what an ICMP message is about."""
    kind = message.type
    if kind in (ICMP4_ECHO_REQUEST, ICMP4_ECHO_REPLY):
        what = "request" if kind == ICMP4_ECHO_REQUEST else "reply"
        return f"echo {what}, id {message.identifier}, seq {message.sequence}"
    if kind == ICMP4_DESTINATION_UNREACHABLE:
        what = _UNREACHABLE4.get(message.code, f"code {message.code}")
        if message.code == 4:
            what += f", MTU {message.rest & 0xFFFF}"  # RFC 1191 §4
        return f"unreachable: {what}{_about(message)}"
    if kind == ICMP4_TIME_EXCEEDED:
        return ("time exceeded" if message.code == 0 else "reassembly time exceeded") + _about(message)
    if kind == ICMP4_REDIRECT:
        return f"redirect to {format_ip(message.rest.to_bytes(4, 'big'))}{_about(message)}"
    if kind == ICMP4_PARAMETER_PROBLEM:
        return f"parameter problem at byte {message.rest >> 24}{_about(message)}"
    if kind == ICMP4_SOURCE_QUENCH:
        return f"source quench{_about(message)}"
    return f"type {kind}, code {message.code}"


def icmp6(message: IcmpMessage) -> str:
    """Say what an ICMPv6 message is about."""
    kind = message.type
    if kind in (ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY):
        what = "request" if kind == ICMP6_ECHO_REQUEST else "reply"
        return f"echo {what}, id {message.identifier}, seq {message.sequence}"
    if kind == ICMP6_DESTINATION_UNREACHABLE:
        return f"unreachable: {_UNREACHABLE6.get(message.code, f'code {message.code}')}{_about(message)}"
    if kind == ICMP6_PACKET_TOO_BIG:
        return f"packet too big, MTU {message.rest}{_about(message)}"
    if kind == ICMP6_TIME_EXCEEDED:
        return ("hop limit exceeded" if message.code == 0 else "reassembly time exceeded") + _about(message)
    if kind == ICMP6_PARAMETER_PROBLEM:
        return f"parameter problem at byte {message.rest}{_about(message)}"
    if kind in (ICMP6_MLD_QUERY, ICMP6_MLD_REPORT, ICMP6_MLD_DONE, _MLD2_REPORT):
        names = {ICMP6_MLD_QUERY: "query", ICMP6_MLD_DONE: "done"}
        group = bytes(message.body[:16]) if kind != _MLD2_REPORT else b""
        return f"multicast {names.get(kind, 'report')}" + (f" {format_ip(group)}" if len(group) == 16 else "")
    if 133 <= kind <= 137:
        return _neighbours(message)
    return f"type {kind}, code {message.code}"


def _neighbours(message: IcmpMessage) -> str:
    match parse_nd(message):
        case NeighborSolicitation(target=target):
            return f"who has {format_ip(target)}?"
        case NeighborAdvertisement(target=target, options=options):
            where = f" at {format_mac(options.target_mac)}" if options.target_mac else " here"
            return f"{format_ip(target)} is{where}"
        case RouterSolicitation():
            return "is there a router?"
        case RouterAdvertisement(router_lifetime_s=lifetime_s, options=options):
            prefixes = ", ".join(f"{format_ip(each.prefix)}/{each.prefix_bits}" for each in options.prefixes)
            return f"router for {lifetime_s} s" + (f", {prefixes}" if prefixes else "")
        case Redirect(target=target, destination=destination):
            return f"redirect {format_ip(destination)} to {format_ip(target)}"


def igmp(data: bytes) -> str:
    """Say what an IGMP message is about."""
    if data[0] == _IGMP3_REPORT:
        return "report"
    message = parse_igmp(data, verify=False)
    names = {IGMP_QUERY: "query", IGMP_LEAVE: "leave", IGMP_V1_REPORT: "report", IGMP_V2_REPORT: "report"}
    group = f" {format_ip(message.group)}" if message.group != bytes(4) else ""
    return names.get(message.type, f"type {message.type}") + group


def dns(data: bytes, start: int, end: int) -> str | None:
    """Say what a DNS message asks or answers; None where it is none, or not whole."""
    try:
        message = parse_dns(data, start, end)
    except WireError:
        return None
    asked = ", ".join(f"{_kind(each.type)} {masked(each.name)}" for each in message.questions[:_MOST_ANSWERS])
    if not message.is_response:
        return f"query {asked}" if asked else _unasked(message, "query")
    if message.rcode:
        return f"{_DNS_CODES.get(message.rcode, f'code {message.rcode}')}: {asked}"
    answers = [each for each in message.answers if each.type != _OPT]
    if not answers:
        return f"no answer: {asked}" if asked else _unasked(message, "answer")
    shown = ", ".join(_record(each) for each in answers[:_MOST_ANSWERS])
    more = f" and {len(answers) - _MOST_ANSWERS} more" if len(answers) > _MOST_ANSWERS else ""
    # mDNS answers without being asked (RFC 6762 §6).
    return f"answer {asked or f'{_kind(answers[0].type)} {masked(answers[0].name)}'}: {shown}{more}"


def _unasked(message: DnsMessage, what: str) -> str:
    return f"{what} without a question, {len(message.answers)} answers"


def _kind(number: int) -> str:
    return _DNS_TYPES.get(number, f"type {number}")


def _record(record: DnsRecord) -> str:
    value = record.value
    if isinstance(value, str):
        return f"{_kind(record.type)} {masked(value)}"
    if record.type in (DNS_A, DNS_AAAA) and len(value) in (4, 16):
        return format_ip(value)
    return f"{_kind(record.type)} of {len(value)} bytes"
