"""Root's rights are given up once the socket is open: what reads strangers' packets is the user who called sudo.

This file knows sudo(8)'s variables and the order in which ids are changed. It refuses to know what needed the rights.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["give_up_root"]

_MOST_ID: Final = 0xFFFF_FFFE  # the last number is -1, "unchanged" (setresuid(2))


def give_up_root() -> int | None:
    """Become the user who called sudo, for good, and give its number; None where nobody did, or we are not root.

    All threads change: glibc sees to it (nptl(7)).
    """
    user, group = (_id(os.environ.get(name, "")) for name in ("SUDO_UID", "SUDO_GID"))
    if os.geteuid() != 0 or not user:
        return None
    group = group or user
    # Groups first, the user last: afterwards nothing of it would be allowed.
    os.setgroups([group])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    return user


def _id(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 10 and int(text) <= _MOST_ID else 0
