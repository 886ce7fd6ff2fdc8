"""Compile the pure rooms, `wire` and `stack`, from their own source by mypyc: the same TCP/IP, faster.

With them goes what each packet of a simulated host passes besides.

    python hatch_build.py          compile in place, beside the source (`make compiled`)
    python hatch_build.py --clean  remove what that made (`make uncompiled`)

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
# The shared library that holds them all; each module's own file only opens it.
GROUP = "underlay"
VARIABLE = "UNDERLAY_COMPILE"


def sources() -> list[str]:
    """The files that are compiled, as mypyc wants them: from the folder that holds the package."""
    package = ROOT / "src/underlay"
    files = [path for room in ROOMS for path in sorted((package / room).glob("*.py"))]
    return [str(path.relative_to(ROOT / "src")) for path in (*files, *(package / name for name in BESIDES))]


def compile_in(folder: Path) -> list[Path]:
    """Compile the rooms in `folder`, a copy of ``src`` or itself; give what was made."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    before = Path.cwd()
    os.chdir(folder)
    os.environ["MYPY_CACHE_DIR"] = os.devnull  # mypy reads it; nothing of ours is to lie in `folder`
    try:
        with tempfile.TemporaryDirectory() as workshop:
            extensions = mypycify([*sources()], group_name=GROUP, target_dir=workshop)
            command: Any = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
            command.inplace = True
            command.build_temp = command.build_lib = workshop
            command.ensure_finalized()
            command.run()
    finally:
        os.chdir(before)
    return made_in(folder)


def made_in(folder: Path) -> list[Path]:
    """What compiling left in a folder."""
    inside = (path for source in sources() for path in (folder / source).parent.glob(f"{Path(source).stem}.*.so"))
    return sorted([*folder.glob(f"{GROUP}__mypyc*.so"), *inside])


def main() -> int:
    """Compile in place, or clean."""
    if sys.argv[1:] == ["--clean"]:
        for path in made_in(ROOT / "src"):
            path.unlink()
        return 0
    made = compile_in(ROOT / "src")
    print(f"compiled {len(made) - 1} modules; `make uncompiled` undoes it")
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
