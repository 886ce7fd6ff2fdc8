"""Making a TAP or TUN that stays, and removing it with all that was made for it.

This file knows the order in which things are made so that a crash at any point leaves nothing that `remove` does not
find: the record first, then the namespace, the device last, which stays only from its last step on. It refuses to know
the command line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from ..errors import UsageError
from ..link import (
    LinkInfo,
    Namespace,
    Process,
    Rtnetlink,
    TunTap,
    cable_holders,
    check_addresses,
    check_name,
    inhabitants,
)
from ._net_places import Place, here, place
from ._net_records import Record, Records

__all__ = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "Device", "capable", "devices", "make", "remove"]

# What `ip link` shows as the alias of what we made; nothing else is ever deleted.
_ALIAS: Final = "underlay net"

# linux/capability.h
CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Device:
    """A record, and what has become of its device."""

    record: Record
    state: str
    """``"up"``, ``"down"`` where somebody brought it down, ``"gone"`` where it is not there (any more), and
    ``"elsewhere"`` where it stands in a network namespace that cannot be looked into from this one."""
    in_use: bool
    """A program holds the cable."""
    place: Place | None = None
    """Where *elsewhere* is."""


def capable(capability: int) -> bool:
    """Whether this process has the capability: CapEff of proc_pid_status(5)."""
    with open("/proc/thread-self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def make(records: Records, record: Record) -> None:
    """Make what the record says; ``UsageError`` when it cannot be, and nothing stays behind."""
    check_name(record.name)
    check_addresses(record.addresses)
    if record.namespace is not None:
        _check_namespace(record.namespace)
    _check_permission(record)
    if record.namespace is None:
        record = replace(record, network=here())
    with records.locked():
        standing = records.get(record.name)
        if standing is not None:
            if _find(standing) is not None:
                remedy = f"`underlay net down {record.name}` removes it"
                raise UsageError(f"{record.name} is up already", remedy=remedy)
            _remove(records, standing)  # what a crash left
        record = replace(record, made_namespace=record.namespace is not None and not _exists(record.namespace))
        records.write(record)
        try:
            _make(record)
        except Exception:
            records.remove(record)
            raise
        except BaseException:
            _remove(records, record)  # interrupted, perhaps after the last step
            raise


def remove(records: Records, name: str, *, force: bool = False) -> bool:
    """Remove a device and what was made for it; False when there is nothing of that name, which is no error.

    ``UsageError`` where a program uses it, unless ``force`` takes it away all the same; and where it stands in another
    network namespace.
    """
    standing = records.get(name) or _left(records, name)
    if standing is not None and not records.may_remove(standing):
        raise _not_allowed(standing)
    with records.locked():
        record = records.get(name) or _left(records, name)
        if record is not None:
            if not force and records.is_near(record):
                _check_unused(records, record)
            _remove(records, record)
            return True
    with Rtnetlink() as kernel:
        if any(link.name == name for link in kernel.links()):
            remedy = "whoever made it removes it"
            raise UsageError(f"the interface {name} was not made by `underlay net up`", remedy=remedy)
    return False


def devices(records: Records) -> list[Device]:
    """Every device that was made and not removed, and what has become of it."""
    found = []
    for record in records.all():
        if not records.is_near(record):
            found.append(_far(record))
            continue
        try:
            link = _find(record)
        except OSError:  # another user's namespace may not be entered
            found.append(Device(record, "unknown", False))
            continue
        state = "gone" if link is None else "up" if link.is_up else "down"
        found.append(Device(record, state, link is not None and link.has_carrier))
    return found


def _far(record: Record) -> Device:
    found = place(record.network or "")
    return Device(record, "gone" if found is None else "elsewhere", False, found)


def _left(records: Records, name: str) -> Record | None:
    """A device of this name whose network namespace ended; ``UsageError`` where one stands in another namespace.

    An interface of the name that stands here is what was meant, and not what others have.
    """
    with Rtnetlink() as kernel:
        if any(link.name == name for link in kernel.links()):
            return None
    devices = [_far(record) for record in records.elsewhere(name)]
    for device in devices:
        if device.place is not None:
            remedy = f"say so there: `{device.place.command}underlay net down {name}`"
            raise UsageError(f"{name} stands in another network namespace, {device.place}", remedy=remedy)
    return devices[0].record if devices else None


def _not_allowed(record: Record) -> UsageError:
    return UsageError(f"no permission to remove {record.name}", remedy="become root, or the user who made it")


def _make(record: Record) -> None:
    namespace: Namespace | None = None
    if record.namespace is not None:
        make_or_open = Namespace.create_named if record.made_namespace else Namespace.open_named
        namespace = make_or_open(record.namespace)

    def work() -> None:
        if record.made_namespace:
            with Rtnetlink() as kernel:
                kernel.set_up(kernel.link("lo").index)
        with TunTap.open(
            record.name,
            tap=record.kind == "tap",
            addresses=record.addresses,
            mtu_bytes=record.mtu_bytes,
            exclusive=True,
            alias=_ALIAS,
        ) as device:
            device.set_owner(record.owner)
            device.set_persistent(True)  # last: until here the device goes with us

    try:
        work() if namespace is None else namespace.run(work)
    except BaseException:
        if record.made_namespace and record.namespace is not None:
            Namespace.delete_named(record.namespace)
        raise
    finally:
        if namespace is not None:
            namespace.close()


def _remove(records: Records, record: Record) -> None:
    def work() -> None:
        with Rtnetlink() as kernel:
            link = _ours(kernel, record.name)
            if link is not None:
                kernel.delete_link(link.index)

    try:
        if records.is_near(record) and _find(record) is not None:
            _inside(record, work)
        if record.made_namespace and record.namespace is not None:
            heir = _heir(records, record)
            if heir is not None:
                records.write(replace(heir, made_namespace=True))  # the last one to leave removes it
            else:
                Namespace.delete_named(record.namespace)
        records.remove(record)
    except PermissionError as error:
        raise _not_allowed(record) from error


def _check_unused(records: Records, record: Record) -> None:
    """Refuse to take away the network of a program that runs on it."""

    def users() -> tuple[bool, list[Process], list[Process]]:
        with Rtnetlink() as kernel:
            link = _ours(kernel, record.name)
            taken = link is not None and link.has_carrier
        return taken, cable_holders(record.name) if link is not None else [], inhabitants() if leaves else []

    leaves = record.made_namespace and _heir(records, record) is None
    if record.namespace is not None and not _exists(record.namespace):
        return
    try:
        taken, holders, others = _inside(record, users)
    except PermissionError:
        return  # whom to ask to remove it is told by what removes it
    remedy = f"end it, or say `underlay net down --force {record.name}`"
    if taken or holders:
        who = ", ".join(map(str, holders)) or "another program"
        raise UsageError(f"{record.name} is in use by {who}", remedy=remedy)
    if others:
        who = ", ".join(map(str, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UsageError(
            f"the namespace {record.namespace} goes with {record.name}, and in it runs {who}", remedy=remedy
        )


def _heir(records: Records, record: Record) -> Record | None:
    """Another device in the namespace that was made for this one."""
    return next(
        (each for each in records.all() if each.namespace == record.namespace and each.name != record.name), None
    )


def _find(record: Record) -> LinkInfo | None:
    """The device of a record, if it is there and ours."""

    def work() -> LinkInfo | None:
        with Rtnetlink() as kernel:
            return _ours(kernel, record.name)

    if record.namespace is not None and not _exists(record.namespace):
        return None
    try:
        return _inside(record, work)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return None  # EINVAL: the file that names the namespace is there, but not mounted


def _ours(kernel: Rtnetlink, name: str) -> LinkInfo | None:
    return next((link for link in kernel.links() if link.name == name and link.alias == _ALIAS), None)


def _inside(record: Record, work: Callable[[], _T]) -> _T:
    if record.namespace is None:
        return work()
    with Namespace.open_named(record.namespace) as namespace:
        return namespace.run(work)


def _exists(namespace: str) -> bool:
    """Whether a namespace has this name; a file that a crash left before the mount is none, and is removed."""
    try:
        with Namespace.open_named(namespace) as found:
            found.run(lambda: None)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    except OSError:  # EINVAL of setns(2)
        with contextlib.suppress(OSError):
            Namespace.delete_named(namespace)
        return False
    return True


def _check_namespace(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or len(os.fsencode(name)) > 255:
        raise UsageError(f"{name!r} is no name for a namespace", remedy="choose letters and digits, like lab")


def _check_permission(record: Record) -> None:
    needed = [(CAP_NET_ADMIN, "CAP_NET_ADMIN")]
    if record.namespace is not None:
        needed.append((CAP_SYS_ADMIN, "CAP_SYS_ADMIN"))
    for capability, name in needed:
        if not capable(capability):
            remedy = f"become root, or use `underlay net shell {record.name}`, which needs no permission"
            raise UsageError(f"no permission to make {record.name}: it takes {name}", remedy=remedy)
