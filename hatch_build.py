"""Compile what is pure or hot from its own source by mypyc: the same, faster.

That is in two groups: `underlay`, the rooms `wire` and `stack` and what else each packet of a simulated host passes;
and `underlay_channels`, what each message of a channel between processes passes.

    python hatch_build.py            compile in place, beside the source (`make compiled`)
    python hatch_build.py GROUP …    only these
    python hatch_build.py --clean    remove what that made (`make uncompiled`)

and with UNDERLAY_COMPILE=1 in the environment it is part of building a wheel, so that
``UNDERLAY_COMPILE=1 pip install --no-binary underlay underlay`` gives a compiled one. Python imports a compiled module
before its source; without a compiler nothing is lost but time.

It knows which files are compiled and where the results go. It refuses to know what is in them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
ROOMS = ("wire", "stack")
# What `underlay.sim` calls for each packet, as far as nothing in it is a socket, a loop or what tests exchange.
BESIDES = (
    "loop/_readiness.py",
    "loop/_stack_core.py",
    "sim/_clock.py",
    "sim/_schedule.py",
    "sim/_stream_core.py",
)
# What a message of a channel passes. Not among it: `_life`, whose ends are kept in a WeakSet; `_terms` and `_deadline`,
# which look at what others gave as it came, where machine code has a TypeError of its own or makes an int of True; and
# `_wakeup`, where a loop that spins has to let other threads run, which machine code does not.
CHANNELS = tuple(
    f"ipc/{name}.py"
    for name in (
        "_channel",
        "_contract",
        "_fifo",
        "_memory_channel",
        "_mqueue",
        "_patience",
        "_pipe",
        "_poller",
        "_ring",
        "_ring_many",
        "_seqpacket",
        "_signal",
        "_slot_channel",
        "_slots",
        "_sockets",
        "_stream",
        "_sysv",
        "_sysv_kept",
        "_tcp_ways",
        "_unix",
    )
)
# Each is one shared library, and each of its modules' own files only opens that. Within a group calls need no Python.
PACKETS, MESSAGES = "underlay", "underlay_channels"
GROUPS = (PACKETS, MESSAGES)
VARIABLE = "UNDERLAY_COMPILE"


def sources(group: str) -> list[str]:
    """The files of a group, as mypyc wants them: from the folder that holds the package."""
    package = ROOT / "src/underlay"
    if group == MESSAGES:
        files = [package / name for name in CHANNELS]
    else:
        files = [path for room in ROOMS for path in sorted((package / room).glob("*.py"))]
        files += [package / name for name in BESIDES]
    return [str(path.relative_to(ROOT / "src")) for path in files]


def compile_in(folder: Path, groups: Sequence[str] = GROUPS) -> list[Path]:
    """Compile groups in `folder`, a copy of ``src`` or itself; give what was made."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    before = Path.cwd()
    os.chdir(folder)
    os.environ["MYPY_CACHE_DIR"] = os.devnull  # mypy reads it; nothing of ours is to lie in `folder`
    try:
        for group in groups:
            with tempfile.TemporaryDirectory() as workshop:
                extensions = mypycify([*sources(group)], group_name=group, target_dir=workshop)
                command: Any = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
                command.inplace = True
                command.build_temp = command.build_lib = workshop
                command.ensure_finalized()
                command.run()
    finally:
        os.chdir(before)
    return made_in(folder, groups)


def made_in(folder: Path, groups: Sequence[str] = GROUPS) -> list[Path]:
    """What compiling left in a folder."""
    files = [folder / source for group in groups for source in sources(group)]
    inside = (path for file in files for path in file.parent.glob(f"{file.stem}.*.so"))
    return sorted([*(path for group in groups for path in folder.glob(f"{group}__mypyc*.so")), *inside])


def main() -> int:
    """Compile in place, or clean."""
    if sys.argv[1:] == ["--clean"]:
        for path in made_in(ROOT / "src"):
            path.unlink()
        return 0
    groups = sys.argv[1:] or GROUPS
    for group in groups:
        if group not in GROUPS:
            print(f"hatch_build.py: there is no group {group!r}, but {' and '.join(GROUPS)}", file=sys.stderr)
            return 2
    made = compile_in(ROOT / "src", groups)
    print(f"compiled {len(made) - len(groups)} modules; `make uncompiled` undoes it")
    return 0


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    pass
else:

    class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
        """The part of a wheel's build that compiles, where it was asked for."""

        PLUGIN_NAME = "custom"

        def dependencies(self) -> list[str]:
            """What is needed for it, and only then."""
            return ["mypy>=1.13", "setuptools>=70"] if os.environ.get(VARIABLE) == "1" else []

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile a copy and put the results into the wheel."""
            if os.environ.get(VARIABLE) != "1" or version == "editable":
                return
            self._folder = tempfile.mkdtemp()
            copy = Path(self._folder) / "src"
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            for path in compile_in(copy):
                build_data["force_include"][str(path)] = str(path.relative_to(copy))
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

        def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
            """Remove the copy."""
            shutil.rmtree(getattr(self, "_folder", ""), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
