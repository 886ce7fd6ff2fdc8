"""The package's front door: quick to import, true to its layout, and run() runs."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys

import pytest

import underlay
from underlay.errors import UsageError


async def _loop_class() -> str:
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__module__


def test_importing_the_package_opens_no_room(child_environment: dict[str, str]) -> None:
    code = (
        "import sys, underlay; opened = {m for m in sys.modules if m.startswith('underlay.')};"
        "heavy = {'asyncio', 'socket', 'select', 'rich'} & set(sys.modules);"
        "sys.exit(str(opened | heavy) if opened | heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_loop_room_opens_at_its_first_mention() -> None:
    assert underlay.loop.__name__ == "underlay.loop"
    assert {"loop", "run"} <= set(dir(underlay))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'wire_tap'"):
        _ = underlay.wire_tap


@pytest.mark.parametrize("name", ["select", "epoll", "epoll-et", "epoll_et", "auto"])
def test_run_returns_the_result_on_the_model_named(name: str) -> None:
    assert underlay.run(_loop_class, io=name).startswith("underlay.loop.")


def test_run_takes_a_coroutine_as_asyncio_run_does() -> None:
    assert underlay.run(_loop_class(), io="select").startswith("underlay.loop.")


def test_run_passes_debug_on() -> None:
    async def debugging() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert underlay.run(debugging, io="select", debug=True) is True
    assert underlay.run(debugging, io="select", debug=False) is False


def test_an_unknown_model_is_one_sentence_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="'epol'; did you mean 'epoll"):
        underlay.run(_loop_class, io="epol")


def test_a_coroutine_that_cannot_run_does_not_also_warn_that_it_was_never_awaited() -> None:
    main = _loop_class()
    with pytest.raises(UsageError):
        underlay.run(main, io="epol")
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_the_standard_loop_is_one_of_the_names() -> None:
    assert underlay.run(_loop_class, io="asyncio") == "asyncio.unix_events"


def test_run_within_a_running_loop_is_refused_as_asyncio_refuses_it(recwarn: pytest.WarningsRecorder) -> None:
    async def nested() -> None:
        underlay.run(_loop_class(), io="select")

    with pytest.raises(RuntimeError, match=r"underlay\.run\(\) cannot be called from a running event loop"):
        underlay.run(nested, io="select")
    assert [str(warning.message) for warning in recwarn] == []
