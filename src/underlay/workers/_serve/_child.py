"""A worker as its supervisor sees it: a process, the two sockets to it, and what has been heard.

A new interpreter is executed for each worker (posix_spawn or vfork and exec, by
``subprocess``): a fork of the supervisor would inherit locks and threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from ._channel import Command, pair, send
from ._worker import Order

__all__ = ["Child"]

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
# The directory that holds underlay may be on nobody's path but this process's; the program's path stays its own.
_BEGIN = """\
import sys
sys.path.append({root!r})
from underlay.workers._serve._worker import main
sys.path.remove({root!r})
if sys.path[:1] == [""]:
    del sys.path[0]
main()
"""


class Child:
    """One worker's process."""

    def __init__(self, order: Order, environment: Mapping[str, str]) -> None:
        self.calls, their_calls = pair()
        self._commands, their_commands = pair()
        order = {**order, "calls": their_calls.fileno(), "commands": their_commands.fileno()}
        # The function by which multiprocessing, too, hands an interpreter's flags on.
        from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

        flags = [*_args_from_interpreter_flags()]
        if getattr(sys.stdout, "write_through", False):  # -u, which leaves no flag
            flags.append("-u")
        try:
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-c", _BEGIN.format(root=_ROOT), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=(their_calls.fileno(), their_commands.fileno()),
                process_group=0,  # Ctrl-C comes to the supervisor alone, which decides what becomes of it
            )
        except OSError:
            self.close()
            raise
        finally:
            their_calls.close()
            their_commands.close()
        self.calls.setblocking(False)
        self._commands.setblocking(False)
        self.threads = order["threads"]
        self.sentence = ""  # why it cannot run the program
        self.has_listened = False

    @property
    def pid(self) -> int:
        """Its process id, which stays its own until `poll` has seen its end."""
        return self.process.pid

    def command(self, command: Command) -> None:
        """Tell it what to do; where it is gone, its end will be seen."""
        send(self._commands, command)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Close the sockets to it."""
        self.calls.close()
        self._commands.close()

    def how_it_ended(self) -> str:
        """Say in words how the process ended."""
        status = self.process.returncode
        if status >= 0:
            return f"ended with status {status}"
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
