"""Channels between processes: one way to send and receive messages over all that the kernel has for it.

::

    _open.py      pair, inherit, create, open, listen: how a channel comes to be
    _listen.py    a name that many processes open
    _meeting.py   two processes meet under a name, and one hands an end over
    _door.py      what they say to each other then
    _folder.py    where names are kept, who has them, and which are stale
    _channel.py   one end: waits, counts, knows whether the other process lives
    _aio.py       the same end for asyncio
    _objects.py   objects instead of bytes
    _framing.py   where a message ends in a stream of bytes; of use alone
    _framed.py    messages over asyncio's streams
    _persistent.py  channels that outlive all processes
    _life.py      the other process: who it is, whether it closed or died
    _handover.py  an end on its way to another process
    _contract.py  what a kind offers
    _kinds.py     which kinds there are; each is in a file of its own:
    _pipe.py, _unix.py, _seqpacket.py, _fifo.py, _tcp.py

This room knows the kernel's ways between processes. It refuses to know event loops, beyond that they watch a
descriptor, and what the messages mean.
"""

from ._channel import Channel
from ._contract import ChannelStatistics, Kind, Terms
from ._errors import (
    ChannelClosed,
    EndOfMessages,
    HandshakeFailed,
    MessageTooLong,
    NameTaken,
    NoSuchName,
    PeerGone,
    SentInPart,
    StaleName,
    WrongOwner,
)
from ._folder import KnownName, names
from ._framed import FramedStream
from ._framing import Decoder, Delimiter, Framing, LengthPrefix, Netstring, NotFramed, TornMessage
from ._kinds import KINDS
from ._listen import AsyncListener, Listener
from ._objects import Json, MessagePack, NotUnderstood, ObjectChannel, Pickle, Serialiser
from ._open import create, inherit, listen, open, pair, remove

__all__ = [
    "KINDS",
    "AsyncListener",
    "Channel",
    "ChannelClosed",
    "ChannelStatistics",
    "Decoder",
    "Delimiter",
    "EndOfMessages",
    "FramedStream",
    "Framing",
    "HandshakeFailed",
    "Json",
    "Kind",
    "KnownName",
    "LengthPrefix",
    "Listener",
    "MessagePack",
    "MessageTooLong",
    "NameTaken",
    "Netstring",
    "NoSuchName",
    "NotFramed",
    "NotUnderstood",
    "ObjectChannel",
    "PeerGone",
    "Pickle",
    "SentInPart",
    "Serialiser",
    "StaleName",
    "Terms",
    "TornMessage",
    "WrongOwner",
    "create",
    "inherit",
    "listen",
    "names",
    "open",
    "pair",
    "remove",
]
