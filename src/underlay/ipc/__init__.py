"""Channels between processes: one way to send and receive messages over all that the kernel has for it.

::

    _open.py      pair, inherit: how a channel comes to be
    _channel.py   one end: waits, counts, knows whether the other process lives
    _aio.py       the same end for asyncio
    _objects.py   objects instead of bytes
    _framing.py   where a message ends in a stream of bytes; of use alone
    _framed.py    messages over asyncio's streams
    _life.py      the other process: who it is, whether it closed or died
    _handover.py  an end on its way to another process
    _contract.py  what a kind offers
    _kinds.py     which kinds there are; each is in a file of its own:
    _pipe.py, _unix.py, _seqpacket.py

This room knows the kernel's ways between processes. It refuses to know event loops, beyond that they watch a
descriptor, and what the messages mean.
"""

from ._channel import Channel
from ._contract import ChannelStatistics, Kind, Terms
from ._errors import (
    ChannelClosed,
    EndOfMessages,
    MessageTooLong,
    NameTaken,
    NoSuchName,
    PeerGone,
    SentInPart,
    StaleName,
)
from ._framed import FramedStream
from ._framing import Decoder, Delimiter, Framing, LengthPrefix, Netstring, NotFramed, TornMessage
from ._objects import Json, MessagePack, NotUnderstood, ObjectChannel, Pickle, Serialiser
from ._open import inherit, pair

__all__ = [
    "Channel",
    "ChannelClosed",
    "ChannelStatistics",
    "Decoder",
    "Delimiter",
    "EndOfMessages",
    "FramedStream",
    "Framing",
    "Json",
    "Kind",
    "LengthPrefix",
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
    "inherit",
    "pair",
]
