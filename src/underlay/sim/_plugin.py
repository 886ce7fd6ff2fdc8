"""The pytest plugin: a test of `sim.test` is one item, run once for each seed, and a failure leaves a folder.

This file knows pytest: options, the item, the report, the terminal. It refuses to know how seeds are explored
(``_explore.py``), and what a failure leaves and how it is shrunk (``_failure.py``). pytest loads it; nothing else does.
(PYTEST_DONT_REWRITE: nobody is warned who loaded it before pytest did.)
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Generator
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest
from _pytest.unittest import TestCaseFunction

if TYPE_CHECKING:
    from ._elsewhere import Processes
    from ._failure import Limits
    from ._test import SimTest

# What is looked at for each test of a project must not import the simulator: most tests are none of ours.
_ATTRIBUTE: Final = "underlay_sim_test"
_SECTION: Final = pytest.StashKey[tuple[str, str]]()
_PLUGIN: Final = "underlay-sim-session"
# Of the configuration file.
_DEFAULTS: Final = {"jobs": "1", "keep": "50", "capture_limit": "64mib", "shrink_runs": "200", "shrink_time": "30s"}


class Hooks:
    """What a conftest may say."""

    @pytest.hookspec(firstresult=True)
    def pytest_underlay_executor(self, config: pytest.Config) -> Executor | None:
        """The ``concurrent.futures.Executor`` that explores the seeds of this session, such as a cluster's.

        It is asked for once, when the first test needs it, and is shut down at the end.
        """


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Let conftest files have our hooks."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options, and those of the configuration file."""
    group = parser.getgroup("underlay", "tests of a simulated internet (underlay.sim)")
    add = group.addoption
    add("--underlay-seeds", type=_at_least_one, metavar="N", help="run each test on N seeds, whatever it says itself")
    add("--underlay-seed", type=_not_negative, metavar="S", help="replay this seed alone")
    add("--underlay-faults", type=_numbers, metavar="LIST", help="of the drawn faults apply these alone, as in 3,17")
    add("--underlay-jobs", type=_at_least_one, metavar="J", help="explore the seeds in J processes (default 1)")
    add(
        "--underlay-check-determinism",
        action="store_true",
        help="run a seed (0, unless told otherwise) twice here, and in two processes of different PYTHONHASHSEED, and "
        "name the first event that differs; TLS draws keys of its own",
    )
    add("--underlay-dir", metavar="DIR", help="where a failure leaves its folder (default .underlay)")
    add_ini = parser.addini
    add_ini("underlay_dir", "where a failure leaves its folder, below the root directory", default=".underlay")
    for name, told in (
        ("jobs", "in how many processes seeds are explored"),
        ("keep", "how many folders of failures are kept"),
        ("capture_limit", "the longest capture that a failure leaves"),
        ("shrink_runs", "how many runs shrinking may take; 0 leaves faults as they are"),
        ("shrink_time", "how long shrinking may take"),
    ):
        add_ini(f"underlay_{name}", told, default=_DEFAULTS[name])


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f"{text!r} is not a number of at least 1")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise pytest.UsageError(f"{text!r} is no seed; a seed is a number such as 17")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise pytest.UsageError(f"{text!r} are no numbers of faults; write them as in 3,17, and '' for none")
    return tuple(sorted({int(part) for part in parts}))


def pytest_configure(config: pytest.Config) -> None:
    """Begin a session."""
    session = _Session(config)
    session.check()
    config.pluginmanager.register(session, _PLUGIN)


class _Session:
    """What is the same for all tests: the options, and who explores."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._executor: Executor | None = None
        self._explored_here: dict[str, str] = {}
        # How many runs were found to repeat: in this process and two others, or in this one alone.
        self.repeated_everywhere = self.repeated_here = 0

    def pytest_unconfigure(self) -> None:
        """Let the executor go."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)  # Dask's knows no cancel_futures, and nothing is left to cancel

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Run a test of ours."""
        __tracebackhide__ = True
        sim_test: SimTest | None = getattr(pyfuncitem.obj, _ATTRIBUTE, None)
        if sim_test is None:
            return None
        kwargs = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        instance = getattr(pyfuncitem.obj, "__self__", None)
        _Run(self, pyfuncitem, sim_test, () if instance is None else (instance,), kwargs).run()
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Run a test of ours in a ``unittest.TestCase`` too, which calls it by itself."""
        __tracebackhide__ = True
        if not isinstance(item, TestCaseFunction) or getattr(item.obj, _ATTRIBUTE, None) is None:
            return (yield)
        from . import _test

        def run(sim_test: SimTest, /, *args: object, **kwargs: object) -> None:
            __tracebackhide__ = True
            _Run(self, item, sim_test, args, kwargs).run()

        _test.runner = run
        try:
            return (yield)
        finally:
            _test.runner = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what we have to say of a failure."""
        report = yield
        section = item.stash.get(_SECTION, None)
        if call.when == "call" and section is not None:
            report.sections.append(section)
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was found to be determinate, and which tests had to be explored in one process."""
        for what, count in (
            ("runs that repeat, here and in two processes", self.repeated_everywhere),
            ("runs that repeat here, and could be tried in no other process", self.repeated_here),
        ):
            if count:
                terminalreporter.write_line(f"underlay: {what}: {count}")
        for reason, nodeid in self._explored_here.items():
            terminalreporter.write_line(f"underlay: {nodeid} (and others) in one process: {reason}")

    # --- options --------------------------------------------------------------------------------------------

    def option(self, name: str) -> Any:
        """What the command line says."""
        return self.config.getoption(f"underlay_{name}")

    @property
    def jobs(self) -> int:
        """In how many processes seeds are explored."""
        jobs: int = self.option("jobs") or self._ini("jobs", _at_least_one)
        return jobs

    @property
    def parent(self) -> Path:
        """Where folders are."""
        if (named := self.option("dir")) is not None:
            return Path(self.config.invocation_params.dir, named)
        return Path(self.config.rootpath, str(self.config.getini("underlay_dir")))

    def limits(self) -> Limits:
        """How much a failure may leave, and shrinking may take."""
        from ._failure import Limits
        from ._quantities import seconds, size_bytes

        return Limits(
            kept_folders=self._ini("keep", _at_least_one),
            capture_bytes=self._ini("capture_limit", size_bytes),
            shrink_runs=self._ini("shrink_runs", _not_negative),
            shrink_s=self._ini("shrink_time", seconds),
        )

    def check(self) -> None:
        """Say at once what is wrong in the configuration; where it says nothing of ours, nothing is imported."""
        if any(str(self.config.getini(f"underlay_{name}")) != default for name, default in _DEFAULTS.items()):
            self._ini("jobs", _at_least_one)
            self.limits()

    def _ini(self, name: str, read: Any) -> Any:
        from ..errors import UsageError

        try:
            return read(str(self.config.getini(f"underlay_{name}")))
        except (UsageError, pytest.UsageError) as error:
            raise pytest.UsageError(f"underlay_{name} in the configuration: {error}") from None

    def executor(self) -> Executor | None:
        """Who explores; None for this process. A pool is made when it is first needed, and stays."""
        if self._executor is None:
            self._executor = self.config.hook.pytest_underlay_executor(config=self.config)
        if self._executor is None and self.jobs > 1:
            from ._elsewhere import Processes

            self._executor = Processes(self.jobs)
        return self._executor

    def let_go(self) -> None:
        """Somebody interrupted: end our processes, and what they are at."""
        from ._elsewhere import Processes

        executor: Executor | Processes | None = self._executor
        if isinstance(executor, Processes):
            self._executor = None
            executor.end(at_once=True)

    def must_stay_here(self, nodeid: str, reason: str) -> None:
        """Remember a test that no other process can run."""
        self._explored_here.setdefault(reason, nodeid)


class _Run:
    """One item: its seeds, and what a failure leaves."""

    def __init__(
        self,
        session: _Session,
        item: pytest.Function,
        sim_test: SimTest,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        self._session = session
        self._item = item
        self._sim_test = sim_test
        self._args = args
        self._kwargs = kwargs

    def run(self) -> None:
        """Replay a seed, check one, or explore many."""
        __tracebackhide__ = True
        seed: int | None = self._session.option("seed")
        if self._session.option("check_determinism"):
            for each in range(self._session.option("seeds") or 1) if seed is None else [seed]:
                self._check_determinism(each)
                self._replay(each, None, 0)  # of a run that fails twice alike, the failure is told
        elif seed is not None:
            self._replay(seed, None, 0)
        else:
            self._explore()

    def _explore(self) -> None:
        __tracebackhide__ = True
        from ._elsewhere import NotPortable
        from ._explore import explore
        from ._progress import Progress

        session, item = self._session, self._item
        seeds = session.option("seeds") or self._sim_test.seeds
        executor = session.executor() if seeds > 1 else None
        capture = item.config.pluginmanager.getplugin("capturemanager")

        def explore_with(executor: Executor | None) -> Any:
            def told(explored: int, failed: int) -> None:
                if executor is None:
                    self._forget_output()
                progress.tell(explored)

            with Progress(_terminal_of(item.config), item.name, seeds, capture) as progress:
                return explore(
                    self._sim_test,
                    seeds,
                    executor=executor,
                    args=self._args,
                    kwargs=self._kwargs,
                    progress=told,
                )

        try:
            exploration = explore_with(executor)
        except NotPortable as error:
            session.must_stay_here(item.nodeid, error.what)
            exploration = explore_with(None)
        except BaseException:  # also what a timeout raises
            session.let_go()
            raise
        if exploration.failures:
            failure = exploration.failures[0]
            if failure.exception is not None and _is_no_failure(failure.exception):
                failure.exception.add_note(f"at seed {failure.seed}: {self._command()} --underlay-seed {failure.seed}")
                raise failure.exception
            self._forget_output()
            self._replay(failure.seed, failure, failure.seed)

    def _replay(self, seed: int, failure: Any, passed: int) -> None:
        """Run a seed while all is recorded, and raise what it raises."""
        __tracebackhide__ = True
        from ..errors import UsageError
        from ._failure import NotReproducedError, end_at_the_caller, of_the_test, replay
        from ._world import Stalled

        if self._item.get_closest_marker("xfail") is not None:
            self._run_plainly(seed, failure)
            return
        only = self._session.option("faults")
        replayed = replay(
            self._sim_test,
            seed,
            self._args,
            self._kwargs,
            parent=self._session.parent,
            name=self._item.name,
            test=self._item.nodeid,
            command=self._command(),
            only_faults=only,
            found=failure,
            passed=passed,
            limits=self._session.limits(),
            is_no_failure=_is_no_failure,
        )
        error = replayed.error
        if error is None:
            return
        if replayed.told:
            self._item.stash[_SECTION] = (f"underlay: seed {seed}", replayed.told)
        if isinstance(error, NotReproducedError):
            _fail("\n".join([str(error), *error.__notes__]))
        if isinstance(error, Stalled):  # raised by the world: its text has the lines that wait
            _fail("\n".join([f"sim.Stalled: {error}", *error.__notes__]))
        shown = of_the_test(error)
        if isinstance(error, UsageError):
            end_at_the_caller(shown)
        raise error.with_traceback(shown)

    def _run_plainly(self, seed: int, failure: Any) -> None:
        __tracebackhide__ = True
        self._sim_test.run_seed(seed, *self._args, **self._kwargs)
        if failure is not None:
            raise failure.exception or AssertionError(failure.traceback)

    def _check_determinism(self, seed: int) -> None:
        __tracebackhide__ = True
        from ._elsewhere import NotPortable
        from ._twice import check, check_elsewhere

        difference = check(self._sim_test, seed, self._args, self._kwargs)
        if difference is not None:
            _fail(f"seed {seed} does not give the same run twice: {difference}")
        try:
            difference = check_elsewhere(self._sim_test, seed, self._args, self._kwargs)
        except NotPortable as error:  # what is of this process alone is checked in it alone
            self._session.must_stay_here(self._item.nodeid, error.what)
            self._session.repeated_here += 1
            return
        if difference is not None:
            _fail(
                f"seed {seed} does not give the same run in two processes; if a set is gone through, sort it, as its "
                f"order is PYTHONHASHSEED's: {difference}"
            )
        self._session.repeated_everywhere += 1

    def _command(self) -> str:
        """What replays a seed, but for its number: the path as it is from where pytest was called."""
        path = os.path.relpath(self._item.path, self._item.config.invocation_params.dir)
        rest = self._item.nodeid.partition("::")[2]
        return f"pytest {shlex.quote(f'{path}::{rest}')}"

    def _forget_output(self) -> None:
        """What a seed that passed printed and logged is of no interest, and 200 of them are many."""
        plugins = self._item.config.pluginmanager
        capture = plugins.getplugin("capturemanager")
        if capture is not None and capture.is_globally_capturing():
            capture.read_global_capture()
        logs = plugins.getplugin("logging-plugin")
        for name in ("caplog_handler", "report_handler"):
            handler = getattr(logs, name, None)
            if handler is not None:
                handler.reset()


def _fail(text: str) -> NoReturn:
    # One frame that is not hidden, or pytest remarks that all are.
    pytest.fail(text, pytrace=False)


def _is_no_failure(error: BaseException) -> bool:
    """Whether it ends the test, and running the seed again is pointless."""
    if isinstance(error, pytest.skip.Exception | pytest.xfail.Exception | pytest.exit.Exception):
        return True
    # pytest-timeout fails a test once; run again, it would hang for good.
    return isinstance(error, pytest.fail.Exception) and "pytest-timeout" in str(error)


def _terminal_of(config: pytest.Config) -> Any:
    """Where progress may be told: a terminal whose lines are nobody else's."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    writer = getattr(reporter, "_tw", None)
    is_captured = config.getoption("capture", "fd") != "no"
    is_terminal = bool(getattr(reporter, "isatty", False)) and os.environ.get("TERM", "dumb") != "dumb"
    return writer if is_captured and is_terminal and sys.platform != "win32" else None
