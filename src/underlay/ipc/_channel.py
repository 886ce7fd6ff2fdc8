"""One end of a channel: it waits, counts, and knows whether the other process is still there.

This file knows time-outs, the death of the other side, and what another process needs to go on with an end. It refuses
to know how a message is carried: that is an `Outgoing` and an `Incoming`, whatever they are.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ..errors import UsageError
from . import _life, _sentences
from ._contract import ChannelStatistics, Incoming, Message, Outgoing, Priority
from ._deadline import Seconds, deadline
from ._door import answers_here
from ._end import End
from ._errors import EndOfMessages, MessageTooLong, PeerGone
from ._handover import Duplicate, duplicates, word_of
from ._kinds import module_of, parts_of
from ._not_awaited import NotAwaited
from ._poller import Poller

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._aio import AsyncChannel
    from ._meeting import Meeting
    from ._objects import ObjectChannel, Serialiser

# What receive_many takes at once unless it is told: from some dozens on a batch saves little more.
MANY: Final = 100
# Where a kind cannot be polled together with the other side's life, that is looked at so often.
SLICE_S: Final = 0.05
# A receive that found nothing makes so many waits begin with poll(2), so that a question and its answer cost no vain
# try; a stream pays with a vain poll, a tenth of what a message costs, for this many of its messages at most.
_HUNGRY: Final = 64


class Channel(NotAwaited):
    """One end of a channel that carries messages: bytes, whose boundaries are kept.

    Made by `pair`, `create`, `open` and a `Listener`. It is used by one process at a time, and by one thread at a time
    in each direction. ``for message in channel`` ends when the other side closes. An exception that leaves
    ``with channel:`` is told to the other side, as a death would be.

    >>> from underlay import ipc
    >>> receiver, sender = ipc.pair("pipe")
    >>> with receiver, sender:
    ...     sender.send(b"hello")
    ...     sender.send(b"")
    ...     receiver.receive(), receiver.receive(timeout_s=1)
    (b'hello', b'')
    """

    __slots__ = (
        "__weakref__",
        "_aio",
        "_bytes_received",
        "_bytes_sent",
        "_closed",
        "_incoming",
        "_life",
        "_max_message_bytes",
        "_outgoing",
        "_pollers",
        "_receive_waits",
        "_received",
        "_send_waits",
        "_sent",
        "_used_in",
        "name",
        "terms",
    )

    def __init__(self, end: End, name: str | None = None) -> None:
        terms = end.terms
        self.terms: Final = terms
        self.name: Final = name
        """The name that it was made or opened with."""
        self._incoming, self._outgoing, self._life = parts_of(end)
        self._max_message_bytes = terms.max_message_bytes
        self._used_in: object = None
        self._closed = False
        self._aio: AsyncChannel | None = None
        self._pollers: dict[Outgoing | Incoming, Poller] = {}
        self._sent = self._bytes_sent = self._received = self._bytes_received = 0
        self._send_waits = self._receive_waits = 0

    # --- what it is ---

    @property
    def kind(self) -> str:
        """The name of its kind, a key of `KINDS`."""
        return self.terms.kind

    @property
    def address(self) -> str | None:
        """Where it is in a network, as ``host:port``; with the port that was given to it where it was made with 0."""
        return self._life.address

    @property
    def can_send(self) -> bool:
        """Whether it is a way out."""
        return self._outgoing is not None

    @property
    def can_receive(self) -> bool:
        """Whether it is a way in."""
        return self._incoming is not None

    @property
    def closed(self) -> bool:
        """Whether this end was closed, here."""
        return self._closed

    @property
    def aio(self) -> AsyncChannel:
        """The same end for asyncio: ``await channel.aio.receive()``, on any event loop."""
        if self._aio is None:
            from ._aio import AsyncChannel

            self._aio = AsyncChannel(self, self._life)
            self._life.before_close = self._aio.before_close
            for way in (self._incoming, self._outgoing):
                if way is not None:
                    way.patience = None  # an event loop has others who could use the time
        return self._aio

    def objects(self, serialiser: Serialiser) -> ObjectChannel:
        """The same end for objects, which ``serialiser`` turns into bytes and back."""
        from ._objects import ObjectChannel

        return ObjectChannel(self, serialiser)

    def statistics(self) -> ChannelStatistics:
        """What went through this end in this process, and how often it waited for more than a moment."""
        incoming = self._incoming
        return ChannelStatistics(
            messages_sent=self._sent,
            bytes_sent=self._bytes_sent,
            messages_received=self._received,
            bytes_received=self._bytes_received,
            send_waits=self._send_waits,
            receive_waits=self._receive_waits,
            messages_dropped=0 if incoming is None else incoming.count_dropped(),
        )

    # --- the way out ---

    def send(self, message: Buffer, *, priority: Priority = 0, timeout_s: Seconds | None = None) -> None:
        """Send one message, whole; wait while there is no room.

        ``priority`` is for kinds that have priorities: the highest is received first. Raises ``TimeoutError`` when
        there was no room for so long and nothing was sent, or `SentInPart`; `PeerGone` when nobody will receive;
        `MessageTooLong`; `ChannelClosed`.
        """
        # What `begin_send`, `try_send` and `count_sent` do is written out: these calls are a third of its time here.
        outgoing = self._outgoing
        what: Message
        number = 0 if priority == 0 else self.check_priority(priority)
        if (
            type(message) is bytes
            and outgoing is not None
            and self._used_in is _life.process
            and self._life.over is None
            and len(message) <= self._max_message_bytes
        ):
            what = message
        else:
            outgoing, what = self.begin_send(message)
        try:
            taken = outgoing.try_send(what, number)
            done = taken and (outgoing.rest is None or outgoing.flush())
        except ConnectionError as error:
            raise self.gone() from error
        if not done:
            deadline_s = None if timeout_s is None else deadline(timeout_s)
            while True:
                if not self._wait(outgoing, deadline_s):
                    raise self.send_is_late(timeout_s, taken)
                self.look_before_send()
                taken = taken or self.try_send(outgoing, what, number)
                if taken and self.try_flush(outgoing):
                    break
        self._sent += 1
        self._bytes_sent += len(what)

    def send_many(self, messages: Iterable[Buffer], *, timeout_s: Seconds | None = None) -> int:
        """Send messages in their order, as many at once as the kind can; wait while there is no room.

        Says how many were sent: fewer only where ``timeout_s`` was over before. Each is looked at before the first is
        sent. Raises as `send` does.

        >>> from underlay import ipc
        >>> receiver, sender = ipc.pair("ring")
        >>> with receiver, sender:
        ...     sender.send_many([b"one", b"two", b"three"])
        ...     receiver.receive_many(2), receiver.receive_many(2)
        3
        ([b'one', b'two'], [b'three'])
        """
        deadline_s = None if timeout_s is None else deadline(timeout_s)
        outgoing, _ = self.begin_send(b"")
        most = self._max_message_bytes
        whole: list[Message] = [
            each if type(each) is bytes and len(each) <= most else self.begin_send(each)[1] for each in messages
        ]
        sent = 0
        while True:
            try:
                done = outgoing.flush()
                taken = outgoing.try_send_many(whole, sent) if done and sent < len(whole) else 0
            except ConnectionError as error:
                raise self.gone() from error
            self._sent += taken
            self._bytes_sent += sum(map(len, whole[sent : sent + taken]))
            sent += taken
            if taken:
                continue
            if done and sent == len(whole):
                return sent
            if not self._wait(outgoing, deadline_s):
                return sent  # the rest of one that is in part on its way goes out first with the next call
            self.look_before_send()

    def begin_send(self, message: Buffer) -> tuple[Outgoing, Message]:
        """The way out, and the message as that takes it. Raises where either cannot be."""
        if self._used_in is not _life.process:
            self._begin()
        outgoing = self._outgoing
        if outgoing is None:
            raise _sentences.no_way(self, "send", "receive")
        what: Message
        if type(message) is bytes:
            what = message
        else:
            try:
                what = memoryview(message).cast("B")
            except TypeError as error:
                raise UsageError(
                    f"a message is bytes in one piece, and this is {type(message).__name__}: {error}",
                    remedy="for objects see Channel.objects()",
                ) from None
        if len(what) > self._max_message_bytes:
            raise MessageTooLong(len(what), self._max_message_bytes, str(self))
        if self._life.over is not None:
            raise self.gone()
        return outgoing, what

    def check_priority(self, priority: Priority) -> int:
        """The same as a number. Raises ``UsageError`` where the kind knows no priorities, or this is none."""
        if not module_of(self.kind).KIND.priorities:
            raise UsageError(f"{self} has no priorities", remedy='send without, or make an "mqueue"')
        if not isinstance(priority, int):
            raise UsageError(f"a priority is a number, and not {priority!r}", remedy="0 is the usual one")
        return priority

    def try_send(self, outgoing: Outgoing, message: Message, priority: int) -> bool:
        """As the way out does it; a kernel that says that nobody is there says it in our words."""
        try:
            return outgoing.try_send(message, priority)
        except ConnectionError as error:
            raise self.gone() from error

    def try_flush(self, outgoing: Outgoing) -> bool:
        """As the way out does it; a kernel that says that nobody is there says it in our words."""
        try:
            return outgoing.flush()
        except ConnectionError as error:
            raise self.gone() from error

    def look_before_send(self) -> None:
        """Raise `PeerGone` where nobody will receive."""
        if self.look():
            raise self.gone()

    def look(self) -> bool:
        """Whether the other side is over, as far as can be known now."""
        self._life.look()
        return self._life.over is not None

    def count_sent(self, size_bytes: int) -> None:
        """One more message has gone out."""
        self._sent += 1
        self._bytes_sent += size_bytes

    # --- the way in ---

    def receive(self, *, timeout_s: Seconds | None = None) -> bytes:
        """The next message; wait while there is none.

        Raises ``TimeoutError``; `EndOfMessages` when the other side closed and all is received; `PeerGone` when it
        died, or an exception left its ``with``, after what it had sent; `ChannelClosed`.
        """
        incoming = self._incoming
        if incoming is None or self._used_in is not _life.process:
            incoming = self.begin_receive()
        deadline_s = None if timeout_s is None else deadline(timeout_s)
        message = None
        try:
            if self._life.over is not None:  # who is over has no news any more
                message = incoming.try_receive()
            elif incoming.moment_s and (deadline_s is None or deadline_s - time.monotonic() > incoming.moment_s):
                message = incoming.receive_soon()
            elif not incoming.hungry:
                message = incoming.try_receive()
            else:
                incoming.hungry -= 1
                poller = self._pollers.get(incoming)
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if self._poll(incoming, left_s) if poller is None else poller.wait(left_s):
                    message = incoming.try_receive()
        except (EOFError, ConnectionError) as error:
            raise self._nothing_more() from error
        if message is None:
            while True:
                # Who went after this look may have sent something before: that is seen the next time round.
                over = self.look()
                message = self.try_receive(incoming)
                if message is not None:
                    break
                if over:
                    raise self.end()
                if incoming.ready is not None:
                    patience = incoming.patience
                    incoming.hungry = _HUNGRY if patience is None else patience.forgo(_HUNGRY)
                if not self._wait(incoming, deadline_s):
                    raise TimeoutError(f"{self} brought no message within {timeout_s:g} s")
        self._received += 1
        self._bytes_received += len(message)
        return message

    def receive_many(self, most: int = MANY, *, timeout_s: Seconds | None = None) -> list[bytes]:
        """The next messages, at least one and up to ``most``; wait while there is none. Raises as `receive` does.

        It does not wait until there are so many: it takes those that are there.
        """
        if most < 1:
            raise UsageError(f"nobody can receive {most} messages", remedy="ask for one or more")
        messages = [self.receive(timeout_s=timeout_s)]
        incoming = self._incoming
        if incoming is not None and most > 1:
            try:
                more = incoming.try_receive_many(most - 1)
            except (EOFError, ConnectionError):
                return messages  # the next call meets it again
            self._received += len(more)
            self._bytes_received += sum(map(len, more))
            messages += more
        return messages

    def begin_receive(self) -> Incoming:
        """The way in. Raises where there is none."""
        if self._used_in is not _life.process:
            self._begin()
        incoming = self._incoming
        if incoming is None:
            raise _sentences.no_way(self, "receive", "send")
        return incoming

    def try_receive(self, incoming: Incoming) -> bytes | None:
        """As the way in does it; a kernel that says that nobody is there says it in our words."""
        try:
            return incoming.try_receive()
        except (EOFError, ConnectionError) as error:
            raise self._nothing_more() from error

    def _nothing_more(self) -> EndOfMessages | PeerGone:
        # The kernel may know it before the record has come that says why.
        self._life.await_over()
        return self.end()

    def count_received(self, size_bytes: int) -> None:
        """One more message has come in."""
        self._received += 1
        self._bytes_received += size_bytes

    def __iter__(self) -> Iterator[bytes]:
        try:
            while True:
                yield self.receive()
        except EndOfMessages:
            return

    # --- waiting ---

    def _wait(self, way: Outgoing | Incoming, deadline_s: float | None) -> bool:
        """Wait until the way or the other side's life has news; False when the time is over."""
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            return False
        self.count_wait(way)
        if way.ready is None:
            way.block(SLICE_S if left_s is None else min(left_s, SLICE_S))
            self.check_open()
            return True
        self._poll(way, left_s)
        return True  # the time, if it is over, is seen after one more try

    def _poll(self, way: Outgoing | Incoming, left_s: float | None) -> bool:
        """Wait so long until the way or the other side's life has news; whether it is the way alone."""
        poller = self._pollers.get(way)
        if poller is None:
            poller = self._pollers[way] = Poller(way, self._life)
        way_alone = poller.wait(left_s)
        self.check_open()  # its descriptors may be somebody else's by now
        return way_alone

    def count_wait(self, way: Outgoing | Incoming) -> None:
        """A call begins to wait once more."""
        if way is self._outgoing:
            self._send_waits += 1
        else:
            self._receive_waits += 1

    # --- its end ---

    def close(self) -> None:
        """Close this end: the other side receives what was sent, and then `EndOfMessages`."""
        if self._closed:
            return
        self._closed = True
        used = self._life.announced
        self._used_in = None  # so that the next call sees it
        alone = False

        def look() -> None:
            nonlocal alone
            alone = self.look() or self._life.alone

        def finish(way: Outgoing | Incoming) -> None:
            way.finish(alone)

        # From the last to the first, and all of them: one raises where somebody else has closed a descriptor of ours.
        with contextlib.ExitStack() as closing:
            for way in (self._incoming, self._outgoing):
                if way is not None:
                    closing.callback(way.close)
                    if used:
                        closing.callback(finish, way)
            closing.callback(self._life.close)
            if used:
                closing.callback(look)
            closing.callback(self._close_pollers)
            if self._aio is not None:
                closing.callback(self._aio.forget)
            if self._outgoing is not None:
                with contextlib.suppress(OSError):  # nobody is there for the rest
                    self._outgoing.flush()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._closed and _life.is_failure(error):
            with contextlib.suppress(OSError):  # no descriptor is left to say it with
                self.announce()
            self._life.failed = True
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"{self} was never closed", ResourceWarning, source=self, stacklevel=1)
            self.close()

    # --- how it goes to another process ---

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process inherits that is to use this end: for ``pass_fds`` of `subprocess`."""
        return self._end_open().descriptors

    def argument(self) -> str:
        """A word for the process that inherits `descriptors`, of which `inherit` makes the end there."""
        word = word_of(self._end_open())
        self._lend()
        return word

    def __reduce__(self) -> tuple[object, ...]:
        end = self._end_open()
        parts = (end, duplicates(end, self), self.name)
        self._lend()
        return _rebuild, parts

    def _end_open(self) -> End:
        if self._closed:
            raise _sentences.is_closed(self)
        if self._life.alone:
            self._life.look()
        if self._life.alone:
            raise UsageError(
                f"nobody has come for the other end of {self}: it cannot go to another process",
                remedy="make it there, or pass it on when it was used",
            )
        incoming, outgoing = self._incoming, self._outgoing
        return End(
            self.terms,
            None if incoming is None else incoming.descriptors,
            None if outgoing is None else outgoing.descriptors,
            self._life.descriptor,
        )

    def _lend(self) -> None:
        self._life.lend()
        self._used_in = None  # should it be used here again, that is said again

    # --- its words ---

    def _begin(self) -> None:
        if self._closed:
            raise _sentences.is_closed(self)
        self.announce()
        if self._life.alone:
            self._life.look()
        if not self._life.alone:
            self._used_in = _life.process

    def announce(self) -> None:
        """Say to the other side that this process uses this end."""
        if not self._life.announced:
            self._close_pollers()  # those of another process, where this one was forked
            self._life.announce()

    def _close_pollers(self) -> None:
        with contextlib.ExitStack() as closing:
            for each in self._pollers.values():
                closing.callback(each.close)

    def expect(self, meeting: Meeting, other_end: End, visitors: int | None) -> None:
        """The other end is for so many that come for it to a meeting, or for any number."""
        assert isinstance(self._life, _life.LocalLife)  # others have no name of this kind
        self._life.expect(meeting, other_end, visitors)
        answers_here(meeting, self._life.look)

    def check_open(self) -> None:
        """Raise `ChannelClosed` where this end was closed, be it by another thread or task meanwhile."""
        if self._closed:
            raise _sentences.is_closed(self)

    def send_is_late(self, timeout_s: Seconds | None, taken: bool) -> TimeoutError:
        """What a send raises whose time is over."""
        return _sentences.send_is_late(self, timeout_s, taken)

    def gone(self) -> PeerGone:
        """What a send raises when nobody will receive."""
        self._life.await_over()
        return _sentences.gone(self, self._life)

    def end(self) -> EndOfMessages | PeerGone:
        """What a receive raises when nothing more can come."""
        return _sentences.end(self, self._life)

    def __str__(self) -> str:
        return f"the {self.kind} channel" if self.name is None else f"the {self.kind} channel {self.name!r}"

    def __repr__(self) -> str:
        ways = "".join(word for word, can in (("<", self.can_receive), (">", self.can_send)) if can)
        return f"<Channel {self.kind} {ways}{' closed' if self._closed else ''}>"


def announced(channel: Channel) -> Channel:
    """A new end, once the other side was told that this process uses it; where it cannot be, it is closed."""
    try:
        channel.announce()
    except BaseException:
        channel.close()
        raise
    return channel


def channel_of(end: End, name: str | None = None) -> Channel:
    """The channel of an end: a kind may have one of its own, with a quicker way or more words."""
    kind: type[Channel] = getattr(module_of(end.terms.kind), "channel", Channel)
    return kind(end, name)


def _rebuild(end: End, descriptors: tuple[Duplicate, ...], name: str | None) -> Channel:
    return channel_of(end.with_descriptors([each.detach() for each in descriptors]), name)
