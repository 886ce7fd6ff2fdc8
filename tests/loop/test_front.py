"""The loop room's public face: a factory for each model, and no model imported before it is asked for.

It knows the names in ``underlay.loop`` and the ways in which programs hand a loop factory over.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import underlay.loop
from underlay.errors import ModelUnavailable
from underlay.loop import MODELS, _models

from ._reactors import in_child

AVAILABLE = [row.name for row in underlay.loop.models() if row.available]
CLASS_NAMES = {
    "blocking": "BlockingLoop",
    "nonblocking": "NonblockingLoop",
    "select": "SelectLoop",
    "poll": "PollLoop",
    "epoll": "EpollLoop",
    "epoll_et": "EpollEtLoop",
    "signal": "SignalLoop",
    "uring": "UringLoop",
}


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    found: Callable[[], asyncio.AbstractEventLoop] = getattr(underlay.loop, name)
    return found


async def kind_of_loop() -> str:
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__name__


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_factory_takes_nothing_and_gives_a_new_loop_of_its_model_each_time(name: str) -> None:
    first, second = factory(name)(), factory(name)()
    try:
        assert first is not second
        assert type(first).__name__ == type(second).__name__ == CLASS_NAMES[name]
        assert isinstance(first, asyncio.SelectorEventLoop)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_runner_takes_the_factory(name: str) -> None:
    with asyncio.Runner(loop_factory=factory(name)) as runner:
        assert runner.run(kind_of_loop()) == CLASS_NAMES[name]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run takes a factory since Python 3.12")
@pytest.mark.parametrize("name", AVAILABLE)
def test_asyncio_run_takes_the_factory(name: str) -> None:
    run: Callable[..., str] = asyncio.run  # typeshed for 3.11 knows no loop_factory
    assert run(kind_of_loop(), loop_factory=factory(name)) == CLASS_NAMES[name]


def test_every_model_and_auto_have_a_factory_that_is_exported() -> None:
    assert {"auto", *MODELS} <= set(underlay.loop.__all__)
    for name in underlay.loop.__all__:
        assert hasattr(underlay.loop, name)
    for name in ("auto", *MODELS):
        parameters = inspect.signature(factory(name)).parameters.values()
        assert all(parameter.default is not parameter.empty for parameter in parameters), "a factory needs no argument"
        assert inspect.getdoc(factory(name))


def test_auto_gives_what_the_table_says() -> None:
    with asyncio.Runner(loop_factory=underlay.loop.auto) as runner:
        assert runner.run(kind_of_loop()) == CLASS_NAMES[underlay.loop.chosen_by_auto()[0].name]


@pytest.mark.parametrize("name", MODELS)
def test_the_factory_of_a_model_that_is_missing_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_models, "model", lambda known: _models.Model(known, 0, "", False, "why", "what"))
    with pytest.raises(ModelUnavailable, match="not available here: why; what"):
        factory(name)()


def test_importing_the_room_imports_no_model_and_making_a_loop_only_its_own() -> None:
    lines = """
import sys, underlay.loop
def models():
    return sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("underlay.loop._io_"))
print(models())
underlay.loop.select().close()
print(models())
"""
    assert in_child(lines).splitlines() == ["[]", "['_io_select']"]


def test_a_factory_survives_pickling_for_programs_that_start_processes() -> None:
    import pickle

    for name in ("auto", *MODELS):
        assert pickle.loads(pickle.dumps(factory(name))) is factory(name)


@pytest.mark.parametrize("name", ["select", "poll", "epoll", "epoll_et", "signal", "nonblocking"])
def test_the_models_of_readiness_have_the_same_verbs_in_the_same_order(name: str) -> None:
    """That is what makes the comparison of two models a diff."""
    source = Path(str(importlib.import_module(f"underlay.loop._io_{name}").__file__)).read_text()
    verbs = ["add", "modify", "remove", "wait", "close"]
    poller = next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and node.name.endswith("Poller")
    )
    # A verb is a method, or in the constructor the kernel object's own.
    methods = [node.name for node in poller.body if isinstance(node, ast.FunctionDef) and node.name in verbs]
    borrowed = [
        target.attr
        for node in ast.walk(poller)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and target.attr in verbs
    ]
    assert sorted(methods + borrowed) == sorted(verbs)
    assert methods == [verb for verb in verbs if verb in methods]
    assert borrowed == [verb for verb in verbs if verb in borrowed]
