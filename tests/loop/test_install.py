"""Whatever way a program asks for an event loop, it gets the one that was installed, and nothing else changes.

Each way is tried in a fresh interpreter, with every warning an error, since an
installed model is meant for a whole process. The tests know asyncio's and
uvloop's names; they know no model.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 60  # a child that runs longer hangs

# Installs a factory that gives recognisable loops, then runs the program's lines.
BEFORE = """
import asyncio
from underlay.loop._install import install

class Model(asyncio.SelectorEventLoop):
    pass

STANDARD = asyncio.SelectorEventLoop
undo = install(Model)

async def which():
    return type(asyncio.get_running_loop()).__name__

def ask(loop):
    try:
        return loop.run_until_complete(which())
    finally:
        loop.close()

"""


def outcome(lines: str) -> str:
    """Run the lines after BEFORE, in which a warning is an error, and return what they print."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEFORE + lines],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


WAYS = {
    "asyncio.run": "print(asyncio.run(which()))",
    "asyncio.Runner": "with asyncio.Runner() as runner: print(runner.run(which()))",
    "new_event_loop": "print(ask(asyncio.new_event_loop()))",
    "events.new_event_loop": "import asyncio.events\nprint(ask(asyncio.events.new_event_loop()))",
    "SelectorEventLoop": "print(ask(asyncio.SelectorEventLoop()))",
    "SelectorEventLoop as a factory": (
        "with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner: print(runner.run(which()))"
    ),
    "EventLoop, new in 3.13": "print(ask(getattr(asyncio, 'EventLoop', asyncio.SelectorEventLoop)()))",
    "its private name": "import asyncio.unix_events as unix\nprint(ask(unix._UnixSelectorEventLoop()))",
    "a name imported from asyncio": "from asyncio import SelectorEventLoop as Loop\nprint(ask(Loop()))",
    "a selector of the standard library's": (
        "import selectors\nprint(ask(asyncio.SelectorEventLoop(selectors.PollSelector())))"
    ),
    "the policy": "print(ask(asyncio.get_event_loop_policy().new_event_loop()))",
    "get_event_loop": (
        "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\nprint(ask(asyncio.get_event_loop()))"
    ),
    "a policy set anew": (
        "asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())\nprint(ask(asyncio.new_event_loop()))"
    ),
    "a policy of its own": (
        "class Policy(asyncio.DefaultEventLoopPolicy):\n"
        "    def new_event_loop(self):\n"
        "        return super().new_event_loop()\n"
        "asyncio.set_event_loop_policy(Policy())\n"
        "print(asyncio.run(which()))"
    ),
    "a policy with a factory": (
        "class Policy(asyncio.DefaultEventLoopPolicy):\n"
        "    _loop_factory = asyncio.SelectorEventLoop\n"
        "asyncio.set_event_loop_policy(Policy())\n"
        "print(asyncio.run(which()))"
    ),
    "a thread": (
        "import threading\nthread = threading.Thread(target=lambda: print(asyncio.run(which())))\n"
        "thread.start()\nthread.join()"
    ),
    "IsolatedAsyncioTestCase": (
        "import unittest\n"
        "class Case(unittest.IsolatedAsyncioTestCase):\n"
        "    async def test(self):\n"
        "        print(await which())\n"
        "Case('test').debug()"
    ),
}
OF_UVLOOP = {
    "uvloop.run": "import uvloop\nprint(uvloop.run(which()))",
    "uvloop.new_event_loop": "import uvloop\nprint(ask(uvloop.new_event_loop()))",
    "uvloop.Loop": "import uvloop\nprint(ask(uvloop.Loop()))",
    "uvloop.install": (
        "import uvloop, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        "uvloop.install()\nprint(asyncio.run(which()))"
    ),
    "uvloop.EventLoopPolicy": (
        "import uvloop, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\nprint(asyncio.run(which()))"
    ),
    "looked for first": (
        "import importlib.util\nimportlib.util.find_spec('uvloop')\nimport uvloop\nprint(ask(uvloop.Loop()))"
    ),
    "anyio's use_uvloop": (
        "import anyio\n"
        "print(anyio.run(which, backend_options={'use_uvloop': True}), end=' ')\n"
        "print(anyio.run(which, backend_options={'use_uvloop': False}))"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_asked_for_in_this_way_is_the_models(way: str) -> None:
    if sys.version_info >= (3, 14):
        if "policy" in WAYS[way]:
            pytest.skip("Python 3.14 warns of any use of a policy")
        if way == "get_event_loop":
            pytest.skip("from Python 3.14 on it makes no loop, and raises where none was set")
    assert outcome(WAYS[way]) == "Model"


@pytest.mark.parametrize("way", OF_UVLOOP)
def test_a_loop_asked_of_uvloop_is_the_models(way: str) -> None:
    pytest.importorskip("uvloop")
    if "anyio" in way:
        pytest.importorskip("anyio")
    assert set(outcome(OF_UVLOOP[way]).split()) == {"Model"}


def test_uvloop_imported_before_is_replaced_too(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    code = "import uvloop\n" + BEFORE + "print(uvloop.run(which()))\nundo()\nprint(type(uvloop.Loop()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert done.stdout.splitlines() == ["Model", "<class 'uvloop.Loop'>"]


def test_uvloop_keeps_its_own_loader_and_leaves_no_finder_behind() -> None:
    pytest.importorskip("uvloop")
    lines = (
        "import sys, importlib.machinery\n"
        "count = len(sys.meta_path)\n"
        "import uvloop\n"
        "loader = uvloop.__loader__\n"
        "print(type(loader) is importlib.machinery.SourceFileLoader, 'exec_module' in vars(loader))\n"
        "print(count - len(sys.meta_path))\n"
    )
    assert outcome(lines).splitlines() == ["True False", "1"]


def test_the_class_keeps_its_place_in_isinstance_issubclass_and_its_looks() -> None:
    lines = (
        "loop = asyncio.new_event_loop()\n"
        "print(isinstance(loop, asyncio.SelectorEventLoop), issubclass(Model, asyncio.SelectorEventLoop))\n"
        "print(issubclass(STANDARD, asyncio.SelectorEventLoop), isinstance(3, asyncio.SelectorEventLoop))\n"
        "print(issubclass(asyncio.SelectorEventLoop, asyncio.AbstractEventLoop))\n"
        "print(asyncio.SelectorEventLoop.__qualname__ == STANDARD.__qualname__)\n"
        "loop.close()\n"
    )
    assert outcome(lines).splitlines() == ["True True", "True False", "True", "True"]


def test_a_programs_own_loop_class_stays_the_programs() -> None:
    lines = (
        "class Own(asyncio.SelectorEventLoop):\n"
        "    def __init__(self, word):\n"
        "        super().__init__()\n"
        "        self.word = word\n"
        "own = Own('mine')\n"
        "print(ask(own), own.word, isinstance(own, Own), isinstance(own, asyncio.SelectorEventLoop))\n"
        "model = asyncio.new_event_loop()\n"
        "print(isinstance(model, Own), issubclass(Model, Own))\n"
        "model.close()\n"
    )
    assert outcome(lines) == "Own mine True True\nFalse False"


def test_a_selector_of_the_programs_own_making_is_used() -> None:
    lines = (
        "import selectors\n"
        "class Own(selectors.DefaultSelector):\n"
        "    def select(self, timeout=None):\n"
        "        print('asked')\n"
        "        return super().select(timeout)\n"
        "print(ask(asyncio.SelectorEventLoop(Own())))\n"
    )
    assert set(outcome(lines).split()) == {"asked", "_UnixSelectorEventLoop"}


def test_a_factory_that_makes_standard_loops_gets_standard_loops() -> None:
    lines = "install(lambda: asyncio.SelectorEventLoop())\nprint(asyncio.run(which()))"
    assert outcome(lines) == "_UnixSelectorEventLoop"


def test_installs_nest_and_each_is_undone() -> None:
    lines = (
        "class Second(STANDARD):\n    pass\n"
        "before = install(Second)\n"
        "print(asyncio.run(which()))\n"
        "before()\n"
        "print(asyncio.run(which()))\n"
        "undo()\n"
        "print(asyncio.run(which()), asyncio.SelectorEventLoop is STANDARD)\n"
    )
    assert outcome(lines).splitlines() == ["Second", "Model", "_UnixSelectorEventLoop True"]
