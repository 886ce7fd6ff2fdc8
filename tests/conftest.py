"""What every test may ask for: the repository, the commands beside this Python, the background, strace.

It knows how to find things and how to say what is missing. It refuses to know
what any test is about.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings
from tests._background import background
from tests._beside import FOLDERS as BESIDE
from tests._beside import plugin as beside

# No test asserts how long something took; hypothesis would by default.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# A shell starts what runs in its background with SIGINT ignored, and children inherit that (POSIX.1-2017, Shell Command
# Language, 2.11): the tests of Ctrl-C would wait for an interruption that can't come.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

# A compiled module is imported before its source (`make compiled`): an old one would be tested in its place.
_outdated = [
    module.name
    for module in (ROOT / "src" / "underlay").glob("*/*.so")
    if module.stat().st_mtime < module.with_name(module.name.split(".")[0] + ".py").stat().st_mtime
]
if _outdated:
    raise pytest.UsageError(
        f"{', '.join(_outdated[:3])} are older than their source; say `make compiled`, or `make uncompiled`"
    )

# A command under test that runs longer than this hangs; nothing is measured by it.
COMMAND_LIMIT_S = 60


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(beside(config), "beside")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put last what waits for a command in the background, so that it has the time of others, and what leaves threads.

    A thread that does not block a real-time signal lets it kill the process, so that channels over signals refuse one.
    """
    markers = ("threads", "background")
    items.sort(
        key=lambda item: (item.nodeid.startswith(BESIDE), *(item.get_closest_marker(m) is not None for m in markers))
    )


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    """Take pytest's items and reports, which stay to the end, from what a test walks over that collects garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take the commands from the marks that have one; more come from the folders that make theirs of what is chosen."""
    for item in session.items:
        mark = item.get_closest_marker("background")
        if mark is not None and mark.args:
            background().add(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    _freeze()
    try:
        if not session.config.option.collectonly:
            background().begin()
        return (yield)
    finally:
        background().end()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top directory."""
    return ROOT


def environment_of_children() -> dict[str, str]:
    """An environment whose PATH begins with this Python's own commands, 80 columns wide."""
    scripts = sysconfig.get_path("scripts")
    return {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "error",
    }


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """The environment of a command that a person would type."""
    return environment_of_children()


Underlay = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def underlay(child_environment: dict[str, str], tmp_path: Path) -> Underlay:
    """Run the command ``underlay`` in a scratch directory and return what came of it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "underlay", *arguments],
            cwd=tmp_path,
            env=child_environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def strace() -> str:
    """The path of strace, where it may trace; otherwise the test is skipped with the remedy."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed; remedy: apt-get install strace")
    probe = subprocess.run([path, "-qq", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"strace may not trace here ({probe.stderr.strip()}); remedy: allow ptrace")
    return path
