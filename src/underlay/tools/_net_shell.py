"""Running a command in a network of its own: the namespace of a device that is up, or one made for the command.

This file knows user namespaces (user_namespaces(7)): inside one, a user without any permission may make network
namespaces and devices. Nothing needs to be removed, since all of it ends with the last process inside. It refuses to
know the command line.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from ..errors import UsageError
from ..link import (
    CLONE_NEWNET,
    CLONE_NEWUSER,
    Namespace,
    Rtnetlink,
    TunTap,
    check_addresses,
    check_name,
    setns,
    unshare,
)
from ._net_devices import CAP_SYS_ADMIN, capable

__all__ = ["enter", "run_apart"]

# Where a system says that users may not have namespaces: (file, the value that forbids, what allows it).
_SWITCHES: Final = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
)


def enter(namespace: str, command: Sequence[str]) -> NoReturn:
    """Become ``command`` in a namespace that has a name."""
    try:
        with Namespace.open_named(namespace) as found:
            setns(found.fd)
    except PermissionError as error:
        raise UsageError(f"no permission to enter the namespace {namespace}", remedy="become root") from error
    except FileNotFoundError as error:
        raise UsageError(f"there is no namespace {namespace} any more", remedy="`underlay net list` tells") from error
    _become(command)


def run_apart(
    name: str, command: Sequence[str], *, tap: bool, addresses: Sequence[str], mtu_bytes: int | None
) -> NoReturn:
    """Become ``command`` in a new network namespace that has the device ``name``; without root, as its root."""
    check_name(name)
    check_addresses(addresses)
    privileged = capable(CAP_SYS_ADMIN)
    _leave(privileged)
    with Rtnetlink() as kernel:
        kernel.set_up(kernel.link("lo").index)
    try:
        with TunTap.open(name, tap=tap, addresses=addresses, mtu_bytes=mtu_bytes) as device:
            device.set_persistent(True)
    except UsageError as error:
        if not privileged and isinstance(error.__cause__, PermissionError) and (remedy := _forbidden()):
            raise UsageError(f"this system lets users make no networks: {error.what}", remedy=remedy) from error
        raise
    _become(command)


def _leave(privileged: bool) -> None:
    """Go into a network namespace of our own; without permission, by way of a user namespace."""
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNET if privileged else CLONE_NEWNET | CLONE_NEWUSER)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EUSERS, errno.EACCES, errno.ENOSYS, errno.EINVAL):
            raise
        remedy = _forbidden() or "become root; a container must allow unshare(2) of user namespaces"
        raise UsageError("this system lets users make no network namespace", remedy=remedy) from error
    if not privileged:
        # user_namespaces(7): who may not set groups may map its own; root inside is this user outside.
        process = Path("/proc/self")
        (process / "setgroups").write_text("deny")
        (process / "uid_map").write_text(f"0 {user} 1")
        (process / "gid_map").write_text(f"0 {group} 1")


def _forbidden() -> str:
    """What root would do to allow user namespaces here, where a switch says that they are forbidden."""
    for file, forbids, remedy in _SWITCHES:
        try:
            if (Path("/proc/sys") / file).read_text().strip() == forbids:
                return f"become root, or let root allow it: `{remedy}`"
        except OSError:
            continue
    return ""


def _become(command: Sequence[str]) -> NoReturn:
    words = list(command) or [os.environ.get("SHELL") or "/bin/sh"]
    try:
        os.execvp(words[0], words)
    except FileNotFoundError as error:
        raise UsageError(f"no program is called {words[0]!r}", remedy="check its spelling") from error
    except PermissionError as error:
        raise UsageError(f"{words[0]!r} may not be run", remedy="is it a program (`chmod +x`)?") from error
