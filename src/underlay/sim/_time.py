"""The clocks that a program reads: ``time`` and ``datetime``, within a host's turn of that host's clock.

This file knows the functions that tell the time, and ``time.sleep``. It refuses to know how a host's clock goes
(``_clock.py``), and what it means for a host to be busy (``_host.py``).

All hosts are in UTC: the zone of the machine that runs the tests is no part of a seed. While a world runs, so is the
process, as ``datetime.fromtimestamp`` asks the C library.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import _turn
from ._clock import BOOTED_S, EPOCH_S
from ._stand_ins import at_begin_and_end, replace

if TYPE_CHECKING:
    from ._host import Host

_EPOCH_NS: Final = int(EPOCH_S) * 10**9

_monotonic_clocks: Final = frozenset(
    getattr(time, name)
    for name in ("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME", "CLOCK_UPTIME_RAW")
    if hasattr(time, name)
)
_processor_clocks: Final = frozenset(
    getattr(time, name) for name in ("CLOCK_PROCESS_CPUTIME_ID", "CLOCK_THREAD_CPUTIME_ID") if hasattr(time, name)
)
_gmtime, _strftime, _asctime = time.gmtime, time.strftime, time.asctime
_localtime, _ctime = time.localtime, time.ctime
_clock_gettime, _clock_gettime_ns = time.clock_gettime, time.clock_gettime_ns


def _monotonic(host: Host) -> float:
    return host.clock.time()


def _monotonic_ns(host: Host) -> int:
    return round(host.clock.time() * 1e9)


def _time(host: Host) -> float:
    return host.clock.time_of_day()


def _time_ns(host: Host) -> int:
    # Of a float since 1970 only 240 ns are left.
    clock = host.clock
    return _EPOCH_NS + round((clock.time() - BOOTED_S + clock.offset_s) * 1e9)


def _processor_time(host: Host) -> float:
    # What a program computes takes no time, so that no clock of its own can tell: it is that of a busy one.
    return host.clock.time() - BOOTED_S


def _processor_time_ns(host: Host) -> int:
    return round(_processor_time(host) * 1e9)


def _gettime(host: Host, clock_id: int) -> float:
    if clock_id in _monotonic_clocks:
        return _monotonic(host)
    if clock_id in _processor_clocks:
        return _processor_time(host)
    _clock_gettime(clock_id)  # OSError (EINVAL) for what is no clock
    return _time(host)


def _gettime_ns(host: Host, clock_id: int) -> int:
    if clock_id in _monotonic_clocks:
        return _monotonic_ns(host)
    if clock_id in _processor_clocks:
        return _processor_time_ns(host)
    _clock_gettime_ns(clock_id)
    return _time_ns(host)


def _broken_down(original: Callable[[float], Any]) -> Callable[..., Any]:
    def now_or_then(host: Host, seconds: float | None = None, /) -> Any:
        return original(host.clock.time_of_day() if seconds is None else seconds)

    return now_or_then


def _formatted(host: Host, layout: str, moment: Any = None, /) -> str:
    return _strftime(layout, _localtime(host.clock.time_of_day()) if moment is None else moment)


def _as_text(host: Host, moment: Any = None, /) -> str:
    return _asctime(_localtime(host.clock.time_of_day()) if moment is None else moment)


# 63 bits of nanoseconds, as CPython has them.
_MOST_SLEEP_S: Final = (1 << 63) / 1e9


def _sleep(host: Host, seconds: float, /) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    if seconds != seconds:
        raise ValueError("Invalid value NaN (not a number)")
    if seconds > _MOST_SLEEP_S:
        raise OverflowError("timestamp too large to convert to C _PyTime_t")
    host.take(seconds)


for _original, _inside in (
    (time.time, _time),
    (time.time_ns, _time_ns),
    (time.monotonic, _monotonic),
    (time.monotonic_ns, _monotonic_ns),
    (time.perf_counter, _monotonic),
    (time.perf_counter_ns, _monotonic_ns),
    (time.process_time, _processor_time),
    (time.process_time_ns, _processor_time_ns),
    (time.thread_time, _processor_time),
    (time.thread_time_ns, _processor_time_ns),
):
    replace(_original, _inside, without_arguments=True)
replace(time.clock_gettime, _gettime)
replace(time.clock_gettime_ns, _gettime_ns)
replace(time.gmtime, _broken_down(_gmtime))
replace(time.localtime, _broken_down(_localtime))
replace(time.ctime, _broken_down(_ctime))
replace(time.strftime, _formatted)
replace(time.asctime, _as_text)
replace(time.sleep, _sleep)


# --- datetime --------------------------------------------------------------------------------------------------------
# `datetime.now` and `utcnow` ask the C library. A class in the place of `datetime.datetime` would be another than the
# one that libraries imported, derived from and registered; so the class stays, and its own dictionary gets two methods
# for the while. CPython shows it read-only, but the garbage collector names it. `today` of both classes calls
# `time.time`, and needs nothing.


def _now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
    """As ``datetime.now``."""
    host = _turn.here()
    if host is None:
        return _real_now(cls, tz)  # type: ignore[no-any-return]
    return cls.fromtimestamp(host.clock.time_of_day(), tz)


def _utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
    """As ``datetime.utcnow``."""
    host = _turn.here()
    if host is None:
        return _real_utcnow(cls)  # type: ignore[no-any-return]
    return cls.fromtimestamp(host.clock.time_of_day(), datetime.UTC).replace(tzinfo=None)


_members: Final[dict[str, Any]] = gc.get_referents(datetime.datetime.__dict__)[0]
_originals: Final = {name: _members[name] for name in ("now", "utcnow")}
_stand_ins: Final = {"now": classmethod(_now), "utcnow": classmethod(_utcnow)}


def _real_now(cls: type[datetime.datetime], tz: datetime.tzinfo | None) -> Any:
    return _originals["now"].__get__(None, cls)(tz)


def _real_utcnow(cls: type[datetime.datetime]) -> Any:
    return _originals["utcnow"].__get__(None, cls)()


def _put_datetime(on: bool) -> None:
    _members.update(_stand_ins if on else _originals)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


at_begin_and_end(_put_datetime)


_zone: str | None = None


def _put_zone(on: bool) -> None:
    global _zone
    if on:
        _zone = os.environ.get("TZ")
        os.environ["TZ"] = "UTC"
    elif _zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = _zone
    time.tzset()


at_begin_and_end(_put_zone)
