"""Meeting under a name on this machine: one process waits there with an end, others come for it.

This file knows ends that are handed over with their descriptors. It refuses to know what the ends carry, and who waits:
the process that made the name has no thread for it, and answers within its own calls.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from ..errors import UsageError
from . import _door, _folder, _life
from ._deadline import deadline
from ._end import End, close_all, end_of
from ._errors import FolderLocked, HandshakeFailed, NoSuchName, StaleName
from ._kinds import check
from ._steps import Steps, Wait

# A name that is not there yet is looked for after so long, and then after twice as long, up to the second.
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05


class Meeting:
    """A name of this process, and the ends that those get who come for it: ``many``, or one, and then the name is free.

    ``hand_out`` makes the end for the next visitor; it may be called again where that visitor had gone.
    """

    def __init__(self, name: str, hand_out: Callable[[], End], *, many: bool, replace: bool = False) -> None:
        listening, self._path = _folder.take(name, replace=replace)
        self.name: Final = name
        self.many: Final = many
        self._inode = os.lstat(self._path).st_ino
        self._made_in = _life.process
        self._door: _door.Door | None = _door.Door(listening, _is_trusted)
        self._hand_out = hand_out
        self._lock = threading.Lock()

    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is somebody to `answer`."""
        return self._door.waits() if self._door is not None and self._made_in is _life.process else ()

    @property
    def before_close(self) -> Callable[[int], None] | None:
        """Is told of each descriptor that is about to be given back."""
        return None if self._door is None else self._door.before_close

    @before_close.setter
    def before_close(self, told: Callable[[int], None] | None) -> None:
        if self._door is not None:
            self._door.before_close = told

    def answer(self) -> End | None:
        """Hand out to the next who came; what was handed out, or None. It does not wait."""
        if self._door is None or self._made_in is not _life.process or not self._lock.acquire(blocking=False):
            return None
        try:
            while (visitor := self._door.let_in()) is not None:
                with visitor:
                    end = self._hand_out()
                    try:
                        if self._give(visitor, end):
                            return end
                    except FolderLocked as error:
                        # It is for who came to wait, as it wants: it will come again. Who answers here does not.
                        _door.answer(visitor, {"later": str(error)})
                        return None
        finally:
            self._lock.release()
        return None

    def _give(self, visitor: socket.socket, end: End) -> bool:
        def give() -> bool:
            return _door.answer(visitor, {"end": asdict(end)}, end.descriptors)

        return give() if self.many else _folder.give_away(self._path, self._inode, give)

    def close(self) -> None:
        """Give the name back."""
        door, self._door = self._door, None
        if door is not None:
            _door.answers_no_more(self)
            with contextlib.closing(door):
                if self._made_in is _life.process:
                    _folder.let_go(self._path, self._inode)


def _is_trusted(visitor: socket.socket) -> bool:
    return _folder.is_trusted(_folder.credentials(visitor)[1])


def coming_for(name: str, timeout_s: float) -> Steps[End | str]:
    """The end that the process which made a name hands over, or what a persistent name stands for.

    Raises `NoSuchName` where nobody has made it within that time, `StaleName`, ``TimeoutError`` where its process did
    not answer, and `HandshakeFailed`.
    """
    where = _folder.folder()
    path = _folder.path_of(name, where)
    deadline_s = deadline(timeout_s)
    pause_s = _FIRST_PAUSE_S
    put_off: TimeoutError | None = None
    while True:
        late: Exception
        try:
            made_by = _folder.maker_of(path)
            if (kept := _folder.kept_under(path)) is not None:
                return kept
            with _folder.reach(path) as connection:
                process, _ = _folder.credentials(connection)
                who = f"process {process}, which has the channel {name!r},"
                try:
                    said, descriptors = yield from _door.asking(connection, who, deadline_s, process)
                except TimeoutError:
                    raise put_off or TimeoutError(
                        f"{who} did not answer within {timeout_s:g} s: it does so while it sends or receives"
                    ) from None
                if "later" not in said:
                    return _end_from(said, descriptors, who)
                late = put_off = TimeoutError(f"{who} cannot let anybody in: {said['later']}")
        except FileNotFoundError:
            late = NoSuchName(
                f"nobody has made a channel {name!r} in {where} within {timeout_s:g} s",
                remedy="make it with ipc.create() or ipc.listen(), as the same user; see ipc.names()",
            )
        except ConnectionRefusedError:
            late = StaleName(
                f"process {made_by}, which is dead, left a channel {name!r} behind",
                remedy=f"have it made anew, with replace=True, or ipc.remove({name!r})",
            )
        except BlockingIOError:
            late = TimeoutError(f"so many wait for the channel {name!r} that process {made_by} must let them in first")
        except HandshakeFailed:
            raise
        except ConnectionError:
            late = NoSuchName(f"whoever had the channel {name!r} is going away", remedy="make it anew")
        _door.answer_those_of_this_thread()
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise late
        yield Wait(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _end_from(said: dict[str, object], descriptors: list[int], who: str) -> End:
    try:
        end = end_of(said["end"]).with_descriptors(descriptors)
        check(end)
        return end
    except (KeyError, TypeError, ValueError, UsageError) as error:
        close_all(descriptors)
        raise HandshakeFailed(
            f"{who} handed over what is no end of a channel ({error})",
            remedy="run both with the same version of underlay",
        ) from None
