"""Folders of tests that wait more than they work, run by a pytest of their own beside this one.

Theirs are real reports, written by that pytest and told again in this one where the tests have their turn, at the end.
It knows pytest's reports and the background. It refuses to know what any test shows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests._background import Command, background

# They start processes all the time. What is of no folder here runs in this pytest.
FOLDERS = (
    "tests/conformance/test_channels.py",
    "tests/conformance/test_executors.py",
    "tests/conformance/test_named_channels.py",
    "tests/conformance/test_synchronisation.py",
    "tests/ipc/",
    "tests/workers/",
)
# For fewer, a second pytest costs more than it brings.
FEWEST = 100
# As with the batches of tests/conformance: the first of them may wait for all.
LIMIT_S = 900
# Set for the pytest that runs them; where to write the reports.
REPORTS = "UNDERLAY_TESTS_BESIDE"
_NAME = "beside"


class Beside:
    """Tells the reports of tests that ran elsewhere; those that have none, it leaves to pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._chosen: set[str] = set()
        self._reports: dict[str, list[dict[str, object]]] | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Choose them, and have them run."""
        option = self._config.option
        items = [item for item in session.items if item.nodeid.startswith(FOLDERS)]
        # A debugger and output that is not captured are for the eyes of who started this one.
        if len(items) < FEWEST or option.collectonly or option.usepdb or option.capture == "no":
            return
        self._chosen = {item.nodeid for item in items}
        for item in items:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
        names = background().folder / f"{_NAME}.names"
        names.write_text("\n".join(item.nodeid for item in items))
        arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", option.markexpr, f"@{names}"]
        environment = {**os.environ, REPORTS: str(self._file)}
        background().add(_NAME, Command(arguments, environment))

    @property
    def _file(self) -> Path:
        return background().folder / f"{_NAME}.reports"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Tell what came of it, if it ran there."""
        if item.nodeid not in self._chosen:
            return None
        if self._reports is None:
            self._reports = {}
            background().result(_NAME)
            for line in self._file.read_text().splitlines() if self._file.exists() else ():
                told = json.loads(line)
                self._reports.setdefault(told["nodeid"], []).append(told)
        reports = self._reports.get(item.nodeid)
        # One that was cut short there, or that ended its pytest, is run here.
        if not reports or reports[-1]["when"] != "teardown":
            return None
        hook = self._config.hook
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for told in reports:
            if told["outcome"] == "skipped" and isinstance(told["longrepr"], list):
                told["longrepr"] = tuple(told["longrepr"])  # JSON has none
            report = hook.pytest_report_from_serializable(config=self._config, data=told)
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


class Writer:
    """Writes the reports for the pytest that had these tests run, one a line."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config = config
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one."""
        told = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._file.open("a") as file:
            file.write(json.dumps(told) + "\n")


def plugin(config: pytest.Config) -> Beside | Writer:
    """What this pytest has to do with it."""
    file = os.environ.pop(REPORTS, None)  # not for a pytest that a test starts
    return Beside(config) if file is None else Writer(config, Path(file))
