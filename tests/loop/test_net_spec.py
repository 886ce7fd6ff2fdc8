"""What `--net` says is read, and what cannot be is refused in one sentence that names the mistake.

It knows words. Devices and hosts are in `test_io_stack.py`.
"""

from __future__ import annotations

import pytest

from underlay.errors import UsageError
from underlay.loop._net_spec import NetworkSpec, parse_network


def test_a_network_without_a_device_is_only_its_name() -> None:
    assert parse_network("lo") == NetworkSpec("lo")


def test_all_words_of_a_network_are_read() -> None:
    spec = parse_network(
        "tun:10.9.0.2/24,ip=fd00:9::2/64,gw=10.9.0.1,mtu=1400,dns=10.9.0.1,dns=fd00:9::1,dev=ours,offload=no"
        ",busy_poll=3000"
    )
    assert spec.kind == "tun"
    assert [str(address) for address in spec.addresses] == ["10.9.0.2/24", "fd00:9::2/64"]
    assert spec.gateways == ("10.9.0.1",)
    assert spec.name_servers == ("10.9.0.1", "fd00:9::1")
    assert (spec.mtu_bytes, spec.device, spec.offload, spec.busy_poll_us) == (1400, "ours", False, 3000)


@pytest.mark.parametrize(
    ("text", "peers"),
    [
        ("tap:10.9.0.2/24", ["10.9.0.1/24"]),
        ("tap:10.9.0.1/24", ["10.9.0.2/24"]),
        ("tap:10.9.0.2/24,gw=10.9.0.254", ["10.9.0.254/24"]),
        ("tap:10.9.0.2/24,peer=10.9.0.9/24", ["10.9.0.9/24"]),
        ("tap:10.9.0.0/31", ["10.9.0.1/31"]),
        ("tap:10.9.0.2/24,ip=10.8.0.7/32", ["10.9.0.1/24"]),
        ("tap:10.9.0.2/24,ip=fd00:9::2/64", ["10.9.0.1/24", "fd00:9::1/64"]),
        ("tap:10.9.0.2/24,ip=10.9.0.3/24", ["10.9.0.1/24"]),
        ("tap:10.9.0.2/24,ip=10.9.0.1/24", ["10.9.0.3/24"]),
        ("tap:10.9.0.2/25,ip=10.9.0.3/24", ["10.9.0.1/24"]),
        ("tap:10.9.0.2/24,ip=10.9.0.130/25", ["10.9.0.1/24", "10.9.0.129/25"]),
    ],
)
def test_the_kernels_end_is_the_gateway_or_the_first_address_that_is_not_ours(text: str, peers: list[str]) -> None:
    assert [str(peer) for peer in parse_network(text).peers] == peers


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wifi:10.9.0.2/24", "there is no kind of network 'wifi'; choose one of tap, tun, lo"),
        ("tab:10.9.0.2/24", "there is no kind of network 'tab'; did you mean 'tap'?"),
        ("", "there is no kind of network ''"),
        (
            "lo:127.0.0.1/8",
            "the network lo has the addresses 127.0.0.1 and ::1, and takes no other words; say `lo` alone",
        ),
        ("tap", "the network 'tap' has no address"),
        ("tap:", "the network 'tap:' has no address"),
        ("tap:10.9.0.2", "the address '10.9.0.2' has no prefix; say how long it is, as in 10.9.0.2/24"),
        ("tap:10.9.0.2/24,busy_poll=1s", "busy_poll=1s cannot be; it is a number of microseconds from 0 to 1000000"),
        ("tap:10.9.0.2/24,busy_poll=1000001", "busy_poll=1000001 cannot be"),
        ("tap:10.9.0.2/24,busy_poll=1,busy_poll=2", "says busy_poll= twice; say it once"),
        ("tap:10.9.0.256/24", "'10.9.0.256' is no IP address; an example: tap:10.9.0.2/24,gw=10.9.0.1"),
        ("tap:10.9.0.2/33", "the prefix of 10.9.0.2/33 is too long; an IPv4 address has 32 bits"),
        ("tap:fd00::2/129", "the prefix of fd00::2/129 is too long; an IPv6 address has 128 bits"),
        ("tap:fd00::2", "the address 'fd00::2' has no prefix; say how long it is, as in fd00::2/64"),
        ("tap:10.9.0.2/24/24", "the address '10.9.0.2/24/24' has no prefix"),
        ("tap:10.9.0.2/\u0662\u0664", "has no prefix"),
        ("tap:10.9.0.0/24", "10.9.0.0 names the network 10.9.0.0/24, and is no host's; choose another, as 10.9.0.1"),
        (
            "tap:10.9.0.255/24",
            "10.9.0.255 means all hosts of 10.9.0.0/24, and is no host's; choose another, as 10.9.0.",
        ),
        ("tap:fd00::/64", "fd00:: stands for any router of fd00::/64, and is no host's; choose another, as fd00::1"),
        ("tap:10.9.0.2/24,peer=10.9.0.0/24", "10.9.0.0 names the network 10.9.0.0/24"),
        ("tap:10.9.0.2/24,gw=10.9.0.255", "10.9.0.255 means all hosts of 10.9.0.0/24"),
        (
            "tap:10.9.0.2/32",
            "10.9.0.2/32 leaves no address for the kernel, nor for anybody else; say the prefix that both have, as in"
            " 10.9.0.2/24",
        ),
        ("tun:fd00::2/128", "fd00::2/128 leaves no address for the kernel"),
        (" tap:10.9.0.2/24", "the network ' tap:10.9.0.2/24' has a space in it; write it without, as in tap:"),
        ("tap:10.9.0.2/24, gw=10.9.0.1", "has a space in it"),
        ("lo,mtu=1400", "takes no other words; say `lo` alone, or a network with a device, as tap:10.9.0.2/24"),
        ("tap,mtu=1400", "the network 'tap,mtu=1400' has no address"),
        ("tap:10.9.0.2/24,dns=0.0.0.0", "the name server 0.0.0.0 is no host's address"),
        ("tap:10.9.0.2/24,dns=10.9.0.2", "the name server 10.9.0.2 is the stack's own address; name another host"),
        ("tap:10.9.0.2/24,ip=fd00::2/64,dns=fd00:0::2", "the name server fd00:0::2 is the stack's own address"),
        ("tap:0.0.0.1/8", "0.0.0.1 is no host's address: 0.0.0.0/8 is reserved"),
        ("tap:240.0.0.1/24", "240.0.0.1 is no host's address: 240.0.0.0/4 is reserved"),
        ("tap:10.9.0.2/24,peer=10.9.0.1/24,peer=10.9.0.1/25", "has an address of the kernel's twice; say peer= once"),
        ("tap:10.9.0.2/24,dns=", "has a word that is none: 'dns='"),
        ("tap:127.0.0.2/8", "127.0.0.2 cannot be a host's address on a link"),
        ("tap:224.0.0.1/24", "224.0.0.1 cannot be a host's address on a link"),
        ("tap:10.9.0.2/24,gw=10.8.0.1", "the gateway 10.8.0.1 is not in 10.9.0.0/24"),
        ("tap:10.9.0.2/24,gw=10.9.0.2", "the gateway 10.9.0.2 is the stack's own address"),
        ("tap:10.9.0.2/24,gw=there", "the gateway 'there' is no address"),
        ("tap:10.9.0.2/24,peer=10.9.0.2/24", "10.9.0.2 cannot be both the stack's and the kernel's"),
        ("tap:10.9.0.2/0.0.0.255", "has no prefix; say how long it is, as in 10.9.0.2/24"),
        ("tap:fe80::1%eth0/64", "'fe80::1%eth0/64' names a zone"),
        ("tap:10.9.0.2/24,dns=fe80::1%x", "'fe80::1%x' names a zone"),
        ("tap:10.9.0.2/24,ip=10.9.0.2/24", "has an address twice"),
        ("tap:10.9.0.2/24,gw=10.9.0.1,gw=10.9.0.3", "has two default gateways"),
        ("tap:10.9.0.2/24,peer=10.8.0.1/24", "the kernel's 10.8.0.1 is in no network of the stack's"),
        ("tap:10.9.0.200/24,peer=10.9.0.1/30", "the kernel's 10.9.0.1/30 does not reach 10.9.0.200; both need one"),
        ("lo:", "the network lo has the addresses"),
        ("tap:10.9.0.2/24,mtu=67", "the MTU '67' is none; it is a number of bytes from 68 to 65521"),
        ("tap:10.9.0.2/24,mtu=1e3", "the MTU '1e3' is none"),
        ("tap:fd00::2/64,mtu=1279", "it is a number of bytes from 1280 to 65521"),
        ("tap:10.9.0.2/24,mtu=1400,mtu=1500", "says mtu= twice"),
        ("tap:10.9.0.2/24,dns=example.org", "the name server 'example.org' is no address"),
        (
            "tap:10.9.0.2/24,colour=red",
            "has a word that is none: 'colour=red'; words are ip, gw, mtu, dns, dev, peer, offload",
        ),
        ("tap:10.9.0.2/24,offload=maybe", "offload= is yes or no, not 'maybe'"),
        ("tap:10.9.0.2/24,gw", "has a word that is none: 'gw'"),
        ("tap:10.9.0.2/24,,", "has a word that is none: ''"),
    ],
)
def test_a_network_that_cannot_be_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_network(text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
