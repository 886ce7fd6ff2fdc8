"""What a world looks like at one moment, as data and as two tables: its hosts, and the ways between them.

This file knows columns. It refuses to know when somebody looks. ``rich`` is imported only to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ._conditions import Conditions
    from ._host import Host
    from ._internet import Way
    from ._world import World


@dataclass(frozen=True)
class HostScene:
    """A host: whether it runs, how often it booted, its TCP connections, what its links carried."""

    name: str
    address: str
    state: str
    boots: int
    connections: int
    sent_bytes: int
    received_frames: int


@dataclass(frozen=True)
class WayScene:
    """One direction between two hosts: what it is like, what it carried, what it dropped, by reason."""

    sender: str
    target: str
    conditions: dict[str, float | int]
    state: str
    sent_frames: int
    sent_bytes: int
    arrived_frames: int
    drops: dict[str, int]


@dataclass(frozen=True)
class Scene:
    """All of a world at one moment."""

    seed: int
    now_s: float
    hosts: tuple[HostScene, ...]
    ways: tuple[WayScene, ...]
    last_fault: str

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def scene_of(world: World) -> Scene:
    """Look at a world."""
    ways = world.internet.ways()
    return Scene(
        world.seed,
        world.now,
        tuple(_host(host, ways) for host in world.hosts.values()),
        tuple(_way(way) for way in ways),
        str(world.faults.applied[-1]) if world.faults.applied else "",
    )


def _host(host: Host, ways: Iterable[Way]) -> HostScene:
    state = "down" if not host.is_up else "paused" if host.is_paused else "up" if host.has_program else "idle"
    return HostScene(
        host.name,
        host.address,
        state,
        host.boots,
        host.stack.tcp.statistics().connections if host.is_up else 0,
        sum(way.sent_bytes for way in ways if way.sender == host.name),
        sum(way.arrived_frames for way in ways if way.target == host.name),
    )


def _way(way: Way) -> WayScene:
    statistics = way.statistics()
    return WayScene(
        way.sender,
        way.target,
        _said(way.conditions),
        "cut" if way.is_cut else "held" if way.is_held else "",
        statistics.sent_frames,
        statistics.sent_bytes,
        statistics.arrived_frames,
        statistics.drops,
    )


def _said(conditions: Conditions) -> dict[str, float | int]:
    """Those that are not as nothing was said."""
    default = type(conditions)()
    fields = conditions.__dataclass_fields__
    return {name: getattr(conditions, name) for name in fields if getattr(conditions, name) != getattr(default, name)}


# --- drawn ----------------------------------------------------------------------------------------------------------

_SHARES = {
    "loss": "loss ",
    "duplicate": "dup ",
    "corrupt": "bad ",
    "reorder": "reorder ",
}
_STYLES = {"down": "red", "cut": "red", "paused": "yellow", "held": "yellow", "up": "green"}


def draw(scene: Scene, most_rows: int, width: int, *, status: str = "") -> RenderableType:
    """The two tables, of at most so many rows in all, and so wide; what does not fit is cut or counted.

    Names are cut before figures.
    """
    from rich.console import Group
    from rich.text import Text

    # The ways need more rows than the hosts; what hosts leave over is theirs.
    most_hosts = min(len(scene.hosts), max(1, most_rows // 2, most_rows - len(scene.ways)))
    most_ways = max(1, most_rows - most_hosts)
    hosts = [
        (
            host.name,
            host.address,
            host.state,
            str(host.boots),
            str(host.connections),
            _bytes(host.sent_bytes),
            f"{host.received_frames:,}",
        )
        for host in scene.hosts[:most_hosts]
    ]
    ways = [
        (
            f"{way.sender} → {way.target}",
            _like(way.conditions),
            way.state,
            f"{way.sent_frames:,}",
            f"{way.arrived_frames:,}",
            f"{lost:,}" if (lost := sum(way.drops.values())) else "",
        )
        for way in scene.ways[:most_ways]
    ]
    head = f"seed {scene.seed}, {scene.now_s:.3f} s of virtual time{status}"
    lines: list[RenderableType] = [
        Text(head),
        _table(("host", "address", "state", "boots", "tcp", "sent", "packets in"), hosts, width, figures=4),
    ]
    if ways:
        lines.append(_table(("way", "like", "state", "packets", "arrived", "lost"), ways, width, figures=3))
    unshown = [
        f"{count} more {what}"
        for count, what in ((len(scene.hosts) - most_hosts, "hosts"), (len(scene.ways) - most_ways, "ways"))
        if count > 0
    ]
    if unshown:
        lines.append(Text(f"and {' and '.join(unshown)}; --json tells all"))
    if scene.last_fault:
        lines.append(Text(f"last fault: {scene.last_fault}", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


# What stands between two columns, and before the first and behind the last.
_BETWEEN = 3
_EDGES = 2
# A name of so many letters is cut no further.
_LEAST_NAME = 5


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int, *, figures: int) -> RenderableType:
    """A table of which the last columns are figures; of the two first, the wider one is cut where there is no room."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    while sum(widths) + _BETWEEN * (len(widths) - 1) + _EDGES > width and max(widths[:2]) > _LEAST_NAME:
        widths[widths.index(max(widths[:2]))] -= 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, (name, column_width) in enumerate(zip(names, widths, strict=True)):
        justify: Literal["left", "right"] = "right" if number >= len(names) - figures else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", width=column_width)
    for row in rows:
        table.add_row(
            *(Text(cell, style=_STYLES.get(cell, "") if number == 2 else "") for number, cell in enumerate(row))
        )
    return table


def _like(conditions: dict[str, float | int]) -> str:
    """As in "20-25 ms, loss 1 %": jitter comes on top of the delay."""
    least_s, jitter_s = conditions.get("delay_s", 0.0), conditions.get("jitter_s", 0.0)
    span = f"{least_s * 1000:g}" + (f"-{(least_s + jitter_s) * 1000:g}" if jitter_s else "")
    parts = [f"{span} ms"] if least_s or jitter_s else []
    for name, value in conditions.items():
        if name == "rate_bits_per_s":
            parts.append(f"{value / 1e6:g} Mbit/s")
        elif name == "queue_frames":
            parts.append(f"queue {value:g}")
        elif name == "mtu_bytes":
            parts.append(f"mtu {value:g}")
        elif name in _SHARES:
            parts.append(f"{_SHARES[name]}{value * 100:g} %")
    return ", ".join(parts)


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
