"""The command `underlay sim`: a scenario, which is a file with ``async def main(world)``, run on one seed.

It reads the command line, finds the scenario, runs its world and shows hosts and ways meanwhile. It refuses to know
how a world works. Exit status: 0 when the scenario ended, 1 when it failed, 2 for a mistake in the asking, 130 when
interrupted (what was seen by then is still shown).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import json
import math
import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnderlayError, UsageError, nearest
from ._capture import Capture, passing
from ._failure import of_the_test
from ._folder import Recording
from ._scene import Scene, draw, scene_of
from ._test import SimTest, sim_test_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from ._world import World

_NAMES: Final = ("main", "scenario")
# The eye follows ten pictures a second; more would take time from the world.
_EACH_S: Final = 0.1
# A pipe has no height; of a large world this is enough to see what it is like.
_ROWS_IN_A_PIPE: Final = 60
# Wide enough for each name and condition.
_COLUMNS_IN_A_PIPE: Final = 1000
# What stands on a screen besides the rows: three headings of two lines, the first and the last lines, the prompt.
_OTHER_ROWS: Final = 12

_DESCRIPTION = """\
Run a scenario on a simulated internet: many hosts in one process, in virtual
time, from a seed. It is a file with a coroutine function main(world), or
scenario(world):

    async def main(world):
        world.host("server", start=serve)
        world.link("server", "client", delay="20ms", loss=0.01)
        async with world.host("client"):
            ..."""

_EPILOG = """\
examples:
  underlay sim scenario.py --seed 7
  underlay sim scenario.py --pace 10        ten virtual seconds each second
  underlay sim scenario.py --record seen    its packets, a timeline, its faults
  underlay sim scenario.py --capture calls.pcapng --link api,db
                                            one link's packets, for Wireshark"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `underlay sim`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("scenario", metavar="SCENARIO", type=Path, help="a Python file")
    add("--seed", metavar="S", type=_seed, default=0, help="what chance is drawn from, default 0")
    add("--pace", metavar="X", type=_pace, help="X virtual seconds in each real one; default: as fast as it goes")
    add("--record", metavar="DIR", type=Path, help="write the packets, a timeline of each host and the faults there")
    add("--capture", metavar="FILE", type=Path, help="write the packets to a pcapng file, an interface for each link")
    add("--link", metavar="A,B", type=_link, help="with --capture: only what passes between these two, or one's all")
    add("--json", action="store_true", help="print hosts, ways and faults as JSON")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; a seed is a number such as 7")
    return int(text)


def _link(text: str) -> tuple[str, ...]:
    ends = tuple(text.split(","))
    if not 1 <= len(ends) <= 2 or not all(ends):
        raise argparse.ArgumentTypeError(f"{text!r} is no link; write the names of its ends, as in api,db")
    return ends


def _pace(text: str) -> float:
    try:
        pace = float(text)
    except ValueError:
        pace = 0.0
    if not 0 < pace < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no pace; write 1 for real time, 10 for ten times as fast")
    return pace


def main(args: argparse.Namespace) -> int:
    """Run it, and show what came of it."""
    sim_test = find(args.scenario)
    recording = None if args.record is None else _recording(args.record)
    if args.link is not None and args.capture is None:
        raise UsageError("--link says what to capture, and not where", remedy="add --capture FILE")
    world = sim_test.world(args.seed)
    capture = None if args.capture is None else _capture(args.capture, world, args.link)
    show = _Show(world, args.pace, is_quiet=args.json)
    error: BaseException | None = None
    try:
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext(), show:
            world.watch = show.look
            with (
                recording.of(world) if recording is not None else contextlib.nullcontext(),
                capture if capture is not None else contextlib.nullcontext(),
            ):
                sim_test.run_on(world, show)
    except (Exception, KeyboardInterrupt, SystemExit) as raised:
        error = raised
    status = "ended" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    if args.json:
        told = {
            "status": status,
            "error": None if error is None else _in_a_line(error),
            **show.scene().as_json(),
            "faults": world.faults.as_json(),
        }
        print(json.dumps(told, indent=1, default=str))  # in ASCII, which every pipe takes
    else:
        show.end(status)
    if capture is not None and not capture.written_frames:
        where = "" if args.link is None else f" between {' and '.join(args.link)}; hosts are {', '.join(world.hosts)}"
        print(f"underlay sim: {args.capture} is empty: no packet passed{where}", file=sys.stderr)
    if error is None:
        unknown = [name for name in args.link or () if name not in world.hosts]
        if unknown:
            raise UsageError(f"--link: there was no host {unknown[0]!r}", remedy=nearest(unknown[0], world.hosts))
        return 0
    if status == "interrupted":
        raise error
    sys.stdout.flush()
    own = error.with_traceback(of_the_test(error))
    print("".join(traceback.format_exception(own)), end="", file=sys.stderr)
    raise UnderlayError(
        f"seed {args.seed} fails at {show.scene().now_s:.6g} s: {_in_a_line(error)}",
        remedy=f"`underlay sim {shlex.quote(str(args.scenario))} --seed {args.seed}` repeats it",
    )


def _capture(file: Path, world: World, link: tuple[str, ...] | None) -> Capture:
    # The hosts that it names are not made yet.
    wanted = None if link is None else passing([link[0]], [*link[1:]])
    try:
        return Capture(file, world.internet, wanted)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", remedy="name another file") from None


def _in_a_line(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(error)[0].split())


def _recording(folder: Path) -> Recording:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "faults.json").exists())):
        raise UsageError(f"{folder} is there, and is no recording", remedy="name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", remedy="name another folder") from None
    return Recording(folder)


# --- the scenario ---------------------------------------------------------------------------------------------------


def find(file: Path) -> SimTest:
    """The scenario of a file. Raises ``UsageError`` in a sentence where there is none."""
    if not file.is_file():
        what = "is a directory" if file.is_dir() else "does not exist"
        raise UsageError(f"{file} {what}", remedy="name a Python file")
    module = _load(file)
    for name in _NAMES:
        found = getattr(module, name, None)
        if found is not None:
            return _scenario(found, name, file)
    raise UsageError(f"{file} has no scenario", remedy="write async def main(world) in it")


def _scenario(found: object, name: str, file: Path) -> SimTest:
    """As a test whose one argument is who looks on."""
    known = sim_test_of(found)
    function: Any = found if known is None else known.function
    if not inspect.iscoroutinefunction(function):
        raise UsageError(f"{name} in {file} is no coroutine function", remedy=f"write async def {name}(world)")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise UsageError(
            f"{name} in {file} does not take a world alone", remedy=f"write async def {name}(world)"
        ) from None

    async def run(world: World, show: _Show) -> None:
        try:
            await function(world)
        finally:
            show.keep()  # what comes now is the end of all hosts

    return SimTest(run, options={} if known is None else known.options)


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is no Python file", remedy="its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}"
        raise UsageError(f"{file} cannot be read: {error.msg} ({where})", remedy="mend that line") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        here = os.path.abspath(file)
        line = next((frame.lineno for frame in reversed(frames) if os.path.abspath(frame.filename) == here), None)
        where = f", at line {line}" if line else ""
        raise UsageError(f"{file} cannot be loaded: {_in_a_line(error)}{where}", remedy="mend it") from None
    return module


# --- the picture ----------------------------------------------------------------------------------------------------


class _Show:
    """Looks at a world as it runs: a live picture on a terminal, and its last one everywhere."""

    def __init__(self, world: World, pace: float | None, *, is_quiet: bool) -> None:
        self._world = world
        self._pace = pace
        self._is_quiet = is_quiet
        self._console: Console | None = None
        self._live: Live | None = None
        self._kept: Scene | None = None
        self._began_s = self._next_s = time.monotonic()
        self._looks = 0

    def __enter__(self) -> _Show:
        if not self._is_quiet:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(highlight=False)
            if self._console.is_terminal and not self._console.is_dumb_terminal:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self) -> None:
        """Called before each step of the world: draw now and then, and wait until it is time."""
        if self._pace is not None:
            next_at = self._world.schedule.next_at()
            due_s = self._began_s + (next_at or 0.0) / self._pace
            while (left_s := due_s - time.monotonic()) > 0:
                self._draw()
                time.sleep(min(left_s, _EACH_S))
        self._looks += 1
        if self._looks % 64 == 0:  # a clock costs as much as a step of some
            self._draw()

    def _draw(self) -> None:
        if self._live is not None and self._console is not None and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _EACH_S
            rows = max(4, self._console.height - _OTHER_ROWS)
            self._live.update(draw(scene_of(self._world), rows, self._console.width), refresh=True)

    def keep(self) -> None:
        """Remember the world as it is now."""
        self._kept = scene_of(self._world)

    def scene(self) -> Scene:
        """The world at the end of the scenario."""
        return self._kept or scene_of(self._world)

    def end(self, status: str) -> None:
        """Print the last picture."""
        console = self._console
        if console is None:
            return
        if console.is_terminal:
            console.print(draw(self.scene(), _ROWS_IN_A_PIPE, console.width, status=f", {status}"))
            return
        # A pipe takes each line as long as it is, unless COLUMNS says otherwise, and perhaps not each letter.
        console.width = console.width if os.environ.get("COLUMNS", "").isdecimal() else _COLUMNS_IN_A_PIPE
        with console.capture() as captured:
            console.print(draw(self.scene(), _ROWS_IN_A_PIPE, console.width, status=f", {status}"))
        text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
        sys.stdout.write(text.encode(console.encoding, "replace").decode(console.encoding))
