"""Channels between processes: one way to send and receive messages over all that the kernel has for it.

::

    _open.py      pair, inherit, create, open, listen: how a channel comes to be
    _listen.py    a name that many processes open
    _meeting.py   two processes meet under a name, and one hands an end over
    _door.py      what they say to each other then
    _folder.py    where names are kept, who has them, and which are stale; _folder_lock.py: one at a time changes them
    _steps.py     what both faces of open do; _not_awaited.py: what is said to who takes the wrong one
    _channel.py   one end: waits, counts, knows whether the other process lives; _sentences.py: what it says then
    _aio.py       the same end for asyncio
    _objects.py   objects instead of bytes
    _framing.py   where a message ends in a stream of bytes; of use alone
    _framed.py    messages over asyncio's streams
    _persistent.py  channels that outlive all processes
    _life.py      the other process: who it is, whether it closed or died
    _deadline.py  when a wait is over
    _handover.py  an end on its way to another process; _descriptors.py: whether what came is what was said
    _contract.py  what a kind offers
    _kinds.py     which kinds there are; _kinds_cli.py, _names_cli.py: the commands; each is in a file of its own:
    _pipe.py, _unix.py, _seqpacket.py, _fifo.py, _tcp.py with _tcp_ways.py
    _mqueue.py, _sysv.py, _signal.py
    _ring.py, _ring_many.py, _slots.py: in shared memory, with ends of their own, _memory_channel.py, _slot_channel.py
    _memory.py    memory that cannot become shorter; _wakeup.py: how who waits for it is woken
    _patience.py  whether who waits offers the core to others before it sleeps
    _page.py      words that the ends of a queue of the kernel share; _libc.py: what Python has no words for

and what lets processes wait for each other, each in a file of its own: _mutex.py, _semaphore.py, _event.py,
_condition.py, _barrier.py, _rwlock.py, on::

    _shared.py    a page that processes share; waits are made of short sleeps
    _named.py     that page as a file, for processes that know nothing of each other but a name; _lock_names.py: which
    _robust.py    glibc's robust mutex; _guard.py: the same inside the others; _futex.py
    _parties.py   who waits or has it, and who of them is dead; _processes.py: what the kernel says of a process
    _threads.py   a call that waits, awaited

This room knows the kernel's ways between processes. It refuses to know event loops, beyond that they watch a
descriptor, and what the messages mean.
"""

from ._barrier import Barrier
from ._channel import Channel
from ._condition import Condition
from ._contract import ChannelStatistics, Kind, Terms
from ._errors import (
    BrokenBarrier,
    ChannelClosed,
    Damaged,
    EndOfMessages,
    FolderLocked,
    HandshakeFailed,
    HolderDied,
    MessageTooLong,
    NameTaken,
    NoSuchName,
    PeerGone,
    SentInPart,
    StaleName,
    ViewKept,
    WrongOwner,
)
from ._event import Event
from ._folder import KnownName, names
from ._framed import FramedStream
from ._framing import Decoder, Delimiter, Framing, LengthPrefix, Netstring, NotFramed, TornMessage
from ._kinds import KINDS
from ._listen import AsyncListener, Listener
from ._lock_names import KnownLock, lock_names
from ._mutex import Mutex
from ._objects import Json, MessagePack, NotUnderstood, ObjectChannel, Pickle, Serialiser
from ._open import aio_open, create, inherit, listen, open, pair, remove
from ._rwlock import ReadWriteLock
from ._semaphore import Semaphore
from ._slot_channel import SlotChannel

__all__ = [
    "KINDS",
    "AsyncListener",
    "Barrier",
    "BrokenBarrier",
    "Channel",
    "ChannelClosed",
    "ChannelStatistics",
    "Condition",
    "Damaged",
    "Decoder",
    "Delimiter",
    "EndOfMessages",
    "Event",
    "FolderLocked",
    "FramedStream",
    "Framing",
    "HandshakeFailed",
    "HolderDied",
    "Json",
    "Kind",
    "KnownLock",
    "KnownName",
    "LengthPrefix",
    "Listener",
    "MessagePack",
    "MessageTooLong",
    "Mutex",
    "NameTaken",
    "Netstring",
    "NoSuchName",
    "NotFramed",
    "NotUnderstood",
    "ObjectChannel",
    "PeerGone",
    "Pickle",
    "ReadWriteLock",
    "Semaphore",
    "SentInPart",
    "Serialiser",
    "SlotChannel",
    "StaleName",
    "Terms",
    "TornMessage",
    "ViewKept",
    "WrongOwner",
    "aio_open",
    "create",
    "inherit",
    "listen",
    "lock_names",
    "names",
    "open",
    "pair",
    "remove",
]
