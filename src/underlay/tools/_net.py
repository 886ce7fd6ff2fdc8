"""The command `underlay net`: make a TAP or TUN device with an address, list what was made, remove it.

This file knows the options and what is printed. How things are made and removed stands in ``_net_devices.py``, how a
command gets a network of its own in ``_net_shell.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import stat
import sys
from typing import Final

from ..errors import UsageError
from ._net_devices import Device, devices, make, remove
from ._net_records import Record, Records
from ._net_shell import enter, run_apart

__all__ = ["configure", "main"]

_EXAMPLES: Final = """
examples:
  underlay net up tap0 --address 10.9.0.1/24   the kernel's end is 10.9.0.1
  underlay net up tun0 --tun --address fd00::1/64 --namespace lab
  underlay net shell tun0 ping 10.9.0.2        inside that namespace
  underlay net list
  underlay net down tap0
  underlay net shell --address 10.9.0.1/24 tap0 bash    without root

`up` takes root; the device stays until `down` or a restart, and all that was
made is written down, so that `down` removes it after a crash too. `underlay
net ACTION --help` tells more."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.usage = "underlay net {up,down,list,shell} ..."
    parser.epilog = _EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        description = text[0].upper() + text[1:] + "."
        return actions.add_parser(
            name,
            prog=f"underlay net {name}",
            help=text,
            description=description,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )

    up = action("up", "make a device that stays, with an address")
    up.add_argument("name", metavar="NAME", help="what the interface is called, at most 15 bytes")
    _add_device(up)
    up.add_argument("--namespace", metavar="NS", help="put it into the network namespace NS, which is made if need be")
    up.add_argument("--user", metavar="USER", help="who may use it without root (default: who calls, or calls sudo)")

    down = action("down", "remove a device and all that was made for it")
    down.add_argument("name", metavar="NAME", help="as it was given to `up`; one that is not there is no error")

    down.add_argument("--force", action="store_true", help="also from under a program that uses it")

    listing = action("list", "list the devices that were made and not removed")
    listing.add_argument("--json", action="store_true", help="print the same as one JSON object")

    shell = action("shell", "run a command where the device is")
    shell.usage = "underlay net shell [options] NAME [COMMAND ...]"
    shell.description = (
        "Run a command (default: your shell) in the namespace of a device that is up, or, where NAME is not up, in a"
        " network made for the command alone, with the device NAME in it. That needs no root where the system lets"
        " users have namespaces, and all of it is gone when the command ends."
    )
    shell.add_argument("name", metavar="NAME", help="what the interface is called")
    _add_device(shell)
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="the program and its arguments")


def _add_device(parser: argparse.ArgumentParser) -> None:
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--tap", action="store_const", const="tap", dest="kind", help="Ethernet frames (the default)")
    kind.add_argument("--tun", action="store_const", const="tun", dest="kind", help="IP packets")
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="A/N",
        help="of the kernel's end, like 10.9.0.1/24 or fd00::1/64; may be repeated",
    )
    parser.add_argument("--mtu", type=int, metavar="N", help="the largest packet in bytes (default: 1500)")


def main(args: argparse.Namespace) -> int:
    """Do what the action says; 2 for wrong use, and then nothing stays behind."""
    match args.action:
        case "up":
            return _up(args)
        case "down":
            gone = remove(Records(), args.name, force=args.force)
            print(f"{args.name} is removed" if gone else f"{args.name} is not up, nothing to remove")
            return 0
        case "list":
            return _list(devices(Records()), as_json=args.json)
        case _:
            return _shell(args)


def _up(args: argparse.Namespace) -> int:
    record = Record(
        args.name,
        args.kind or "tap",
        tuple(args.address),
        args.mtu,
        _owner(args.user),
        args.namespace,
        made_namespace=False,
    )
    make(Records(), record)
    where = f" in the namespace {record.namespace}" if record.namespace else ""
    what = f" with {', '.join(record.addresses)}" if record.addresses else ""
    print(f"{record.name} is up{where}{what}; `underlay net down {record.name}` removes it")
    if record.owner != 0 and not _open_to(record.owner):
        print(
            "underlay: note: only root may open /dev/net/tun here; `chmod 666 /dev/net/tun` lets users", file=sys.stderr
        )
    return 0


def _open_to(user: int) -> bool:
    """Whether this user may open /dev/net/tun, as far as its mode tells."""
    try:
        status = os.stat("/dev/net/tun")
    except OSError:
        return False
    needed = stat.S_IRUSR | stat.S_IWUSR if status.st_uid == user else stat.S_IROTH | stat.S_IWOTH
    return status.st_mode & needed == needed


def _owner(user: str | None) -> int:
    """Give the id of the user who is to use the device."""
    if user is None:
        # sudo(8) says who called it; root alone would be no use to that person.
        caller = os.environ.get("SUDO_UID", "")
        return int(caller) if os.geteuid() == 0 and caller.isdecimal() else os.getuid()
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"there is no user {user!r}", remedy="give a name of /etc/passwd, or a number") from None


def _list(found: list[Device], *, as_json: bool) -> int:
    if as_json:
        rows = [
            {
                "name": each.record.name,
                "kind": each.record.kind,
                "state": each.state,
                "in_use": each.in_use,
                "addresses": list(each.record.addresses),
                "mtu_bytes": each.record.mtu_bytes,
                "owner": each.record.owner,
                "namespace": each.record.namespace,
                "network": each.record.network,
            }
            for each in found
        ]
        print(json.dumps({"schema": "underlay.net/1", "devices": rows}, indent=2))
        return 0
    if not found:
        print("nothing is up; `underlay net up NAME` makes a device")
        return 0
    lines = [("device", "kind", "state", "cable", "addresses", "namespace", "user")]
    for each in found:
        record = each.record
        cable = "in use" if each.in_use else "free"
        addresses = ", ".join(record.addresses) or "-"
        namespace = record.namespace or ("-" if each.place is None else str(each.place))
        if each.state == "elsewhere":
            cable = "-"  # what cannot be seen from here
        lines.append((record.name, record.kind, each.state, cable, addresses, namespace, _user(record.owner)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _shell(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if command and command[0].startswith("-"):
        raise UsageError(f"net shell: {command[0]} stands where a program should", remedy="options come before NAME")
    record = Records().get(args.name)
    if record is None:
        run_apart(args.name, command, tap=args.kind != "tun", addresses=args.address, mtu_bytes=args.mtu)
    if args.kind or args.address or args.mtu is not None:
        remedy = f"leave the options out, or `underlay net down {args.name}` first"
        raise UsageError(f"{args.name} is up already, as it is", remedy=remedy)
    if record.namespace is None:
        remedy = "run the command as it is; `up --namespace NS` would put the device apart"
        raise UsageError(f"{args.name} is in this network, in no namespace of its own", remedy=remedy)
    enter(record.namespace, command)
