"""The user-space stack as a subject: `python -m tests.conformance.run --subject tests.conformance.stack_subject:stack`.

Its network has no device and no kernel in it, so both ends of each connection are the stack's; how the tests' own
threads come to be on it is told in `far_ends.py`.
"""

from __future__ import annotations

import asyncio

from .far_ends import SubjectLoop
from .far_tls import wrap_far_ends

_wrapped = False


def stack() -> asyncio.AbstractEventLoop:
    """A loop on a stack of its own, as `underlay.loop.stack_loop("lo")`, that far ends can reach."""
    global _wrapped
    if not _wrapped:
        _wrapped = True
        wrap_far_ends()
    return SubjectLoop()
